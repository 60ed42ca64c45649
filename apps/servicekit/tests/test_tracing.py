"""Traces: what becomes of spans that nobody takes, and how a statement in PostgreSQL's log leads to its trace."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from servicekit import batches
from servicekit.batches import BATCH, QUEUE
from servicekit.settings import ServiceSettings, load
from servicekit.tracing import Tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Backend(SpanExporter):
    """A backend that answers as it is told, once it may."""

    def __init__(self, result):
        self.result = result
        self.may_answer = threading.Event()
        self.taken = 0

    def export(self, spans):
        self.may_answer.wait(10)
        self.taken += len(spans)
        return self.result


@pytest.fixture
def make_tracing(environment):
    """Tracing that exports to a backend, and the losses that it tells of."""

    def make(backend):
        lost = {}
        tracing = Tracing(
            "auth",
            "test",
            load(ServiceSettings, environment("auth")),
            lambda reason, spans: lost.__setitem__(reason, lost.get(reason, 0) + spans),
        )
        tracing.start(backend)
        return tracing, lost

    return make


def request(tracing, work=lambda: None):
    """A request that does some work, within its server span."""

    def application(environ, start_response):
        work()
        return []

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_TRACEPARENT": f"00-{TRACE}-00f067aa0ba902b7-01"}
    tracing.middleware(application)(environ, None)


def test_spans_beyond_the_queue_are_dropped_at_once_and_counted(make_tracing):
    backend = Backend(SpanExportResult.SUCCESS)
    tracing, lost = make_tracing(backend)
    begun = time.perf_counter()
    for _ in range(2 * QUEUE):
        request(tracing)
    assert time.perf_counter() - begun < 5, "requests waited for the backend"
    backend.may_answer.set()
    tracing.stop()
    assert lost["queue_full"] > 0
    assert backend.taken + lost["queue_full"] == 2 * QUEUE


def test_spans_that_the_backend_does_not_take_are_counted(make_tracing):
    backend = Backend(SpanExportResult.FAILURE)
    backend.may_answer.set()
    tracing, lost = make_tracing(backend)
    request(tracing)
    tracing.stop()
    assert lost == {"not_taken": 1}


def test_an_exporter_that_fails_loses_what_it_had_and_no_more(make_tracing):
    class Failing(Backend):
        def export(self, spans):
            if not self.taken:
                self.taken = len(spans)
                raise RuntimeError("no such span")
            return super().export(spans)

    backend = Failing(SpanExportResult.SUCCESS)
    backend.may_answer.set()
    tracing, lost = make_tracing(backend)
    for _ in range(2):
        request(tracing)
        tracing.flush()
    assert (backend.taken, lost) == (2, {"not_taken": 1})


def test_a_full_batch_does_not_wait_for_its_time(make_tracing, monkeypatch):
    monkeypatch.setattr(batches, "EXPORT_EVERY", 600)
    backend = Backend(SpanExportResult.SUCCESS)
    backend.may_answer.set()
    tracing, _ = make_tracing(backend)
    for _ in range(BATCH + 1):
        request(tracing)
    deadline = time.monotonic() + 10
    while backend.taken < BATCH and time.monotonic() < deadline:
        time.sleep(0.01)
    assert backend.taken == BATCH, "the last one is not a batch yet"
    tracing.stop()
    assert backend.taken == BATCH + 1


def test_a_stop_gives_up_on_a_backend_that_hangs(make_tracing, monkeypatch):
    monkeypatch.setattr(batches, "FLUSH_TIMEOUT", 0.1)
    tracing, _ = make_tracing(Backend(SpanExportResult.SUCCESS))
    request(tracing)
    begun = time.perf_counter()
    tracing.stop()
    assert time.perf_counter() - begun < 5, "the backend answers after 10 s"


def test_nothing_is_lost_while_all_is_well(make_tracing):
    exporter = InMemorySpanExporter()
    tracing, lost = make_tracing(exporter)
    for _ in range(300):
        request(tracing)
    tracing.stop()
    assert (len(exporter.get_finished_spans()), lost) == (300, {})


@pytest.fixture
def collector():
    """An HTTP server that keeps what is sent to it: paths, headers and bodies."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.sent.append((self.path, self.headers, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.sent = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_spans_are_sent_as_compressed_otlp(environment, collector):
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    settings = load(ServiceSettings, environment("auth") | {"TRACE_ENDPOINT": endpoint})
    lost = []
    tracing = Tracing("auth", "test", settings, lambda *loss: lost.append(loss))
    tracing.start()
    request(tracing)
    tracing.stop()
    ((path, headers, body),) = collector.sent
    assert (path, headers["Content-Type"], headers["Content-Encoding"]) == (
        "/v1/traces",
        "application/x-protobuf",
        "gzip",
    )
    sent = ExportTraceServiceRequest.FromString(gzip.decompress(body))
    (span,) = sent.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == TRACE
    assert not lost


def test_a_statement_carries_its_span_to_the_server(start_api):
    api = start_api()
    seen = []

    def ask():
        with api.service.database.primary() as session:
            seen.append(session.one("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()", {}))

    request(api.service.tracing, ask)
    (span,) = [span for span in api.spans() if span.name == "SELECT primary"]
    assert seen[0][0].endswith(f"/*traceparent='00-{TRACE}-{span.context.span_id:016x}-01'*/")
    assert "traceparent" not in span.attributes["db.query.text"]


def test_a_statement_outside_of_a_request_carries_nothing(start_api):
    with start_api().service.database.primary() as session:
        (query,) = session.one("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()", {})
    assert "traceparent" not in query
