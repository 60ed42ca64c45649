"""Metrics: the exporter's defaults and /metrics, and beside them the histograms of the platform's contract.

The exporter's own hooks cost a request 30 us, so its defaults are read off the service's histogram at each scrape.
Each app has a registry of its own. Every label's values are bounded (routes, known methods, statuses).
"""

import re
import sys
import threading
from bisect import bisect_left
from collections import Counter as Totals
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from flask import Flask, Request
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics

REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

TOGETHER = 100  # observations that are counted in one go

UNMATCHED = "unmatched"


def route_of(request: Request) -> str:
    """The route's template, such as /api/v1/items/{item_id}; unknown paths share one name."""
    return template_of(request.url_rule.rule) if request.url_rule else UNMATCHED


@cache
def template_of(rule: str) -> str:
    """A rule of Flask's as a template: /items/<uuid:item_id> is /items/{item_id}."""
    return re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule)


def release_of(version: str, environment: Path = Path(sys.prefix)) -> str:
    """The release's name, which is its folder's on a host; in a checkout the package's version."""
    return environment.name if environment.parent.name == "releases" else version


class Durations(Collector):
    """A histogram that counts what it observes when it is asked, or a hundred at a time, which takes a third as long.

    Each time, each bucket that a kept trace came into points to the first of them.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...],
        registry: CollectorRegistry,
    ) -> None:
        self._histogram = Histogram(name, documentation, labels, buckets=buckets, registry=None)
        self._buckets = buckets
        self._series: dict[tuple[object, ...], Histogram] = {}
        self._waiting: deque[tuple[tuple[object, ...], float, trace.Span]] = deque()
        self._counting = threading.Lock()
        registry.register(self)

    def observe(self, values: tuple[object, ...], seconds: float, span: trace.Span) -> None:
        """Observe what took `seconds` within a span; `values` are the labels'."""
        self._waiting.append((values, seconds, span))
        if len(self._waiting) >= TOGETHER:
            self._count()

    def collect(self) -> Iterator[Metric]:
        self._count()
        yield from self._histogram.collect()

    def describe(self) -> Iterable[Metric]:
        return self._histogram.describe()

    def _count(self) -> None:
        pointed: set[tuple[tuple[object, ...], int]] = set()
        with self._counting:
            for _ in range(len(self._waiting)):
                values, seconds, span = self._waiting.popleft()
                series = self._series.get(values)
                if series is None:
                    series = self._series[values] = self._histogram.labels(*values)
                bucket = values, bisect_left(self._buckets, seconds)
                if bucket not in pointed and span.is_recording():
                    pointed.add(bucket)
                    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
                    series.observe(seconds, {"trace_id": trace_id})
                else:
                    series.observe(seconds)


class Metrics:
    """What a service counts."""

    def __init__(self, service: str, release: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._service = service
        build = Info(f"{service}_build", "The release that this instance runs", registry=self.registry)
        build.info({"version": release})
        self._requests = Durations(
            f"{service}_service_duration_seconds",
            "Time from the request's arrival in the app to its answer",
            ("route", "method", "status"),
            REQUEST_BUCKETS,
            self.registry,
        )
        self._queries = Durations(
            "postgresql_query_duration_seconds",
            "Time of one SQL statement, seen by the client, without the wait for a connection",
            ("service", "operation", "target"),
            QUERY_BUCKETS,
            self.registry,
        )
        self._pool = Gauge(
            "database_pool_connections",
            "Connections of the pool by state; 'waiting' counts threads that wait for one",
            ("target", "state"),
            registry=self.registry,
        )
        self._replica_behind = Counter(
            "database_replica_behind",
            "Reads that went to the primary because the replica had not replayed the client's last write yet",
            registry=self.registry,
        )
        self._lost_spans = Counter(
            "service_spans_lost",
            "Spans that nobody will see: the queue was full, or the backend did not take them",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("queue_full", "not_taken"):  # a rate needs a value from before the first loss
            self._lost_spans.labels(reason)

    def serve(self, app: Flask) -> None:
        """Add /metrics and the exporter's default metrics to the app."""
        exporter = PrometheusMetrics(app, registry=self.registry, export_defaults=False)
        exporter.info(
            "flask_exporter_info", "Information about the Prometheus Flask exporter", version=exporter.version
        )
        self.registry.register(_ExporterDefaults(self._requests))

    def observe_request(self, route: str, method: str, status: int, seconds: float, span: trace.Span) -> None:
        self._requests.observe((route, method, status), seconds, span)

    def observe_query(self, operation: str, target: str, seconds: float) -> None:
        self._queries.observe((self._service, operation, target), seconds, trace.get_current_span())

    def count_replica_behind(self) -> None:
        self._replica_behind.inc()

    def count_lost_spans(self, reason: str, spans: int) -> None:
        self._lost_spans.labels(reason).inc(spans)

    def watch_pool(self, target: str, state: str, read: Callable[[], float]) -> None:
        """Ask `read` for the gauge's value at each scrape."""
        self._pool.labels(target, state).set_function(read)


class _ExporterDefaults(Collector):
    """prometheus-flask-exporter's default metrics, from the histogram of a service's requests.

    The duration is a summary: the distribution is in the histogram. Exceptions are not there, for none gets as far
    as to be counted: `problems` makes answers of all of them.
    """

    def __init__(self, requests: Durations) -> None:
        self._requests = requests

    def collect(self) -> Iterator[SummaryMetricFamily | CounterMetricFamily]:
        duration = SummaryMetricFamily(
            "flask_http_request_duration_seconds",
            "Flask HTTP request duration in seconds",
            labels=("method", "status", "url_rule"),
        )
        total = CounterMetricFamily("flask_http_request", "Total number of HTTP requests", labels=("method", "status"))
        totals: Totals[tuple[str, str]] = Totals()
        for metric in self._requests.collect():
            for name, labels, value, *_ in metric.samples:
                method, status, suffix = labels["method"], labels["status"], name.removeprefix(metric.name)
                if suffix in ("_count", "_sum"):
                    url_rule = {"method": method, "status": status, "url_rule": labels["route"]}
                    duration.add_sample(f"{duration.name}{suffix}", url_rule, value)
                if suffix == "_count":
                    totals[method, status] += int(value)
        for (method, status), count in totals.items():
            total.add_metric((method, status), count)
        yield duration
        yield total
