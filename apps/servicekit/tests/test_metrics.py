"""Exemplars: the traces that a histogram's buckets point to."""

import time

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from servicekit.metrics import EXEMPLAR_EVERY, Metrics
from servicekit.tracing import Span


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def metrics():
    return Metrics("auth", "1")


def observe(metrics, trace_id, seconds, kept=True):
    ids = SpanContext(trace_id, 1, is_remote=False, trace_flags=TraceFlags(kept))
    span = Span("GET", SpanKind.SERVER, ids, None, Resource({})) if kept else NonRecordingSpan(ids)
    token = context.attach(trace.set_span_in_context(span))
    try:
        metrics.observe_request("/validate", "GET", 200, seconds)
    finally:
        context.detach(token)


def exemplars(metrics):
    """The traces by their buckets' upper bounds."""
    return {
        sample.labels["le"]: int(sample.exemplar.labels["trace_id"], 16)
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.exemplar
    }


def test_a_bucket_points_to_the_first_trace_of_a_second(metrics, clock):
    observe(metrics, 1, 0.001)
    observe(metrics, 2, 0.001)
    assert exemplars(metrics) == {"0.002": 1}
    clock[0] += EXEMPLAR_EVERY
    observe(metrics, 3, 0.002)
    assert exemplars(metrics) == {"0.002": 3}


def test_each_bucket_has_its_own(metrics, clock):
    for trace_id, seconds in ((1, 0.001), (2, 0.3), (3, 60)):
        observe(metrics, trace_id, seconds)
    assert exemplars(metrics) == {"0.002": 1, "0.5": 2, "+Inf": 3}


def test_a_trace_that_is_not_kept_is_not_pointed_to_and_takes_nobody_s_turn(metrics, clock):
    observe(metrics, 1, 0.001, kept=False)
    assert exemplars(metrics) == {}
    observe(metrics, 2, 0.001)
    assert exemplars(metrics) == {"0.002": 2}
