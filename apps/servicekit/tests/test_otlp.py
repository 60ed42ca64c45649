"""The exporter's messages: those of its own encoder, byte for byte of meaning."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_slowly
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, SpanKind

from servicekit.otlp import encode_spans
from servicekit.tracing import Span

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def read(message):
    """The spans by their ids, and what sent them; the exporter makes a scope of its own for each tracer, if equal."""
    request = ExportTraceServiceRequest.FromString(message.SerializePartialToString())
    (resource,) = request.resource_spans
    assert {scope.scope.name for scope in resource.scope_spans} == {"servicekit"}
    return resource.resource, {span.span_id: span for scope in resource.scope_spans for span in scope.spans}


@pytest.fixture
def nobody_can_register(postgresql):
    """A statement that fails with a message that repeats its values."""
    postgresql.execute("ALTER TABLE auth.accounts ADD CONSTRAINT nobody CHECK (false) NOT VALID")
    yield
    postgresql.execute("ALTER TABLE auth.accounts DROP CONSTRAINT nobody")


@pytest.fixture
def spans(auth):
    """Server and child spans, with and without a parent, good and failed."""
    credentials = {"email": "ada@example.org", "password": "correct horse battery"}
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "User-Agent": "x" * 20_000}
    auth.client.post("/register", json=credentials, headers=headers)
    auth.client.post("/login", json=credentials)
    auth.client.post("/register", json=credentials)  # the e-mail is taken
    return auth.spans()


def assert_same(spans):
    (resource, found), (expected_resource, expected) = read(encode_spans(spans)), read(encode_slowly(spans))
    assert resource == expected_resource
    assert found.keys() == expected.keys() == {span.context.span_id.to_bytes(8, "big") for span in spans}
    for span_id, span in found.items():
        assert span == expected[span_id]


def test_spans_are_encoded_as_by_the_exporter_itself(spans):
    assert len(spans) > 8
    for _ in range(2):  # the second time from what was kept
        assert_same(spans)


def test_values_that_are_equal_but_of_another_type_are_kept_apart(spans):
    span = next(span for span in spans if span.kind.name == "SERVER")
    for value in (1, True, 1.0, "1"):
        span._attributes["x"] = value
        assert_same([span])


def test_events_are_encoded_too():
    span = Span("GET", SpanKind.SERVER, SpanContext(1, 2, is_remote=False), None, Resource({"service.name": "x"}))
    span.add_event("stale", {"seconds": 1.5})
    span.end()
    assert_same([span])


def test_a_failed_statement_is_told_without_its_values(auth, nobody_can_register):
    answer = auth.client.post("/register", json={"email": "ada@example.org", "password": "correct horse battery"})
    assert answer.status_code == 500
    spans = auth.spans()
    assert_same(spans)
    (failed,) = [span for span in spans if span.attributes.get("error.type") == "CheckViolation"]
    assert failed.status.status_code.name == "ERROR"
    assert not any("ada@" in span.to_json() for span in spans)
