"""Histograms of durations: what is counted, and the traces that their buckets point to."""

import sys
import threading

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from servicekit.metrics import TOGETHER, Metrics
from servicekit.tracing import Span

COUNT = "auth_service_duration_seconds_count"
LABELS = {"route": "/validate", "method": "GET", "status": "200"}


@pytest.fixture
def metrics():
    return Metrics("auth", "1")


def observe(metrics, trace_id, seconds, kept=True):
    ids = SpanContext(trace_id, 1, is_remote=False, trace_flags=TraceFlags(kept))
    span = Span("GET", SpanKind.SERVER, ids, None, Resource({})) if kept else NonRecordingSpan(ids)
    metrics.observe_request("/validate", "GET", 200, seconds, span)


def exemplars(metrics):
    """The traces by their buckets' upper bounds."""
    return {
        sample.labels["le"]: int(sample.exemplar.labels["trace_id"], 16)
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.exemplar
    }


def test_a_bucket_points_to_the_first_trace_since_it_was_last_counted(metrics):
    observe(metrics, 1, 0.001)
    observe(metrics, 2, 0.001)
    assert exemplars(metrics) == {"0.002": 1}
    observe(metrics, 3, 0.002)
    assert exemplars(metrics) == {"0.002": 3}


def test_each_bucket_has_its_own(metrics):
    for trace_id, seconds in ((1, 0.001), (2, 0.3), (3, 60)):
        observe(metrics, trace_id, seconds)
    assert exemplars(metrics) == {"0.002": 1, "0.5": 2, "+Inf": 3}


def test_a_trace_that_is_not_kept_is_not_pointed_to_and_takes_nobody_s_turn(metrics):
    observe(metrics, 1, 0.001, kept=False)
    observe(metrics, 2, 0.001)
    assert exemplars(metrics) == {"0.002": 2}


def test_nothing_waits_for_a_scrape_that_does_not_come(metrics):
    for _ in range(10 * TOGETHER):
        observe(metrics, 1, 0.001)
    assert len(metrics._requests._waiting) < TOGETHER


@pytest.fixture
def hectic():
    """Threads take turns much more often than they would."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_every_observation_of_every_thread_is_counted(metrics, hectic):
    def work():
        for _ in range(2000):
            observe(metrics, 1, 0.001, kept=False)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.registry.get_sample_value(COUNT, LABELS)
    assert metrics.registry.get_sample_value(COUNT, LABELS) == 8000
