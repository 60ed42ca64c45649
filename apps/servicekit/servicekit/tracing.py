"""Traces: one server span a request, made thin, and child spans where time goes.

A WSGI middleware and spans of its own instead of FlaskInstrumentor and the SDK's, which cost a request 78 us even
when it samples nothing. The trace id is the request id: it comes from the edge's `traceparent`, or is made here.

Sampling goes by the trace id alone (not by the caller's flag), so TRACE_SAMPLE_RATIO decides, and all
services with the same ratio keep the same traces.
"""

from __future__ import annotations  # else the annotations of what the middleware defines are made for each request

import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from servicekit.batches import Batches
from servicekit.settings import ServiceSettings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EXPORT_TIMEOUT = 3  # seconds

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BEGUN = "servicekit.begun"  # in a request's environ: when it arrived, by time.perf_counter
SPAN = "servicekit.span"  # and its server span
OPERATIONS = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds: never traced

SCOPE = InstrumentationScope("servicekit")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parse_traceparent(header: str) -> SpanContext | None:
    """The caller's span, or None if the header is absent or malformed (W3C Trace Context)."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    trace_id, span_id, flags, _ = match.groups()
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def traceparent() -> str | None:
    """The current span as W3C Trace Context writes it, or None outside a request."""
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else None


def request_id() -> str:
    """The current request's id: its trace id, 32 hex digits (zeros outside a request)."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)


def sampled_trace_id() -> str | None:
    """The trace id if this request's trace is kept: what an exemplar may point to."""
    span = trace.get_current_span()
    return trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else None


class Span(ReadableSpan, trace.Span):
    """A span of a trace that is kept, of a service. The SDK's own takes locks and copies for each attribute."""

    _context: SpanContext
    _attributes: dict[str, AttributeValue]

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        ids: SpanContext,
        parent: SpanContext | None,
        resource: Resource,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        attributes = dict(attributes) if attributes else {}
        begun = time.time_ns()
        super().__init__(
            name, ids, parent, resource, attributes, kind=kind, start_time=begun, instrumentation_scope=SCOPE
        )

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return True

    def update_name(self, name: str) -> None:
        self._name = name

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._events = [*self._events, Event(name, attributes, timestamp)]

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        self.add_event("exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        self._end_time = end_time or time.time_ns()


class Tracing:
    """The service's traces. Nothing is exported before `start`, which must come after gunicorn's fork."""

    def __init__(self, service: str, version: str, settings: ServiceSettings, lost: Callable[[str, int], None]) -> None:
        """`lost` is told of spans that nobody will see: why, and how many."""
        self._resource = Resource.create(
            {
                "service.name": service,
                "service.version": version,
                "service.instance.id": settings.instance_id,
                "deployment.environment.name": settings.environment,
                "host.name": socket.gethostname(),
            }
        )
        self._sampled_below = TraceIdRatioBased.get_bound_for_rate(settings.trace_sample_ratio)
        self._batches: Batches | None = None
        self._settings = settings
        self._lost = lost

    def start(self, exporter: SpanExporter | None = None) -> None:
        """Begin to export in a thread of its own; an absent backend costs requests nothing."""
        exporter = exporter or self._otlp_exporter()
        if exporter:
            self._batches = Batches(exporter, self._lost)

    def flush(self) -> None:
        """Export what has ended so far; blocks for as long as the exporter does."""
        if self._batches:
            self._batches.flush()

    def stop(self) -> None:
        """Flush within two seconds, then give up."""
        if self._batches:
            self._batches.stop()

    def _otlp_exporter(self) -> SpanExporter | None:
        settings = self._settings
        if settings.trace_endpoint is None:
            return None
        # Imported here, so that an instance without a backend does not pay for requests and protobuf.
        from opentelemetry.exporter.otlp.proto.http import trace_exporter

        from servicekit import otlp

        # It has no argument for that.
        trace_exporter.encode_spans = otlp.encode_spans  # type: ignore[attr-defined,assignment]
        return trace_exporter.OTLPSpanExporter(
            endpoint=f"{settings.trace_endpoint.rstrip('/')}/v1/traces",
            certificate_file=str(settings.tls_ca) if settings.tls_ca else None,
            client_certificate_file=str(settings.tls_cert) if settings.tls_cert else None,
            client_key_file=str(settings.tls_key) if settings.tls_key else None,
            timeout=EXPORT_TIMEOUT,
            session=otlp.Session(),
        )

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None, kind: SpanKind = SpanKind.INTERNAL
    ) -> Iterator[None]:
        """A child span; free where the request's trace is not kept."""
        parent = trace.get_current_span()
        if not parent.is_recording():
            yield
            return
        with self._child(parent.get_span_context(), name, attributes, kind):
            yield

    @contextmanager
    def span_after(
        self, parent: SpanContext, name: str, attributes: Mapping[str, AttributeValue], kind: SpanKind
    ) -> Iterator[None]:
        """A span of what goes on behind an answered request: in its trace, under its id, if its trace is kept."""
        if parent.trace_flags.sampled:
            with self._child(parent, name, attributes, kind):
                yield
            return
        token = context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
        try:
            yield
        finally:
            context.detach(token)

    @contextmanager
    def _child(
        self, above: SpanContext, name: str, attributes: Mapping[str, AttributeValue] | None, kind: SpanKind
    ) -> Iterator[None]:
        ids = SpanContext(above.trace_id, _span_id(), is_remote=False, trace_flags=_SAMPLED)
        span = Span(name, kind, ids, above, self._resource, attributes)
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield
        except Exception as error:
            # Not its message: a database's repeats values, an e-mail address, say.
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            context.detach(token)
            self._export(span)

    def middleware(self, application: WSGIApplication) -> WSGIApplication:
        """Wrap a WSGI application so that each request runs inside its server span, and its answer names its id."""

        def traced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ[BEGUN] = time.perf_counter()
            method = environ["REQUEST_METHOD"]
            if method not in METHODS:  # whatever a client invents must not become a label or a span's name
                method = environ["REQUEST_METHOD"] = "_OTHER"
            span = environ[SPAN] = self._server_span(method, environ)
            token = context.attach(trace.set_span_in_context(span))

            def start_identified(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
                headers.append(("X-Request-Id", trace.format_trace_id(span.get_span_context().trace_id)))
                return start_response(status, headers, *error)

            try:
                return application(environ, start_identified)
            finally:
                context.detach(token)
                if isinstance(span, Span):
                    self._export(span)

        return traced

    def _server_span(self, method: str, environ: WSGIEnvironment) -> trace.Span:
        header = environ.get("HTTP_TRACEPARENT")
        parent = parse_traceparent(header) if header else None
        trace_id = parent.trace_id if parent else random.getrandbits(128) | 1
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._sampled_below or environ["PATH_INFO"] in OPERATIONS:
            return NonRecordingSpan(SpanContext(trace_id, _span_id(), is_remote=False))
        ids = SpanContext(trace_id, _span_id(), is_remote=False, trace_flags=_SAMPLED)
        return Span(method, SpanKind.SERVER, ids, parent, self._resource)

    def _export(self, span: Span) -> None:
        span.end()
        if self._batches:
            self._batches.add(span)


def _span_id() -> int:
    return random.getrandbits(64) | 1


def describe_request(environ: dict[str, Any], route: str, status: int) -> None:
    """Name the server span `METHOD /route` and say how the request went."""
    span: trace.Span = environ[SPAN]
    if not span.is_recording():
        return
    method = environ["REQUEST_METHOD"]
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.scheme": environ["wsgi.url_scheme"],
            "url.path": environ["PATH_INFO"],
            "client.address": environ.get("REMOTE_ADDR", ""),
            "user_agent.original": environ.get("HTTP_USER_AGENT", ""),
        }
    )
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
