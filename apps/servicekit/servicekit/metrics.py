"""Metrics: the exporter's defaults and /metrics, and beside them the histograms of the platform's contract.

The exporter's own hooks cost a request 30 us, so its defaults are read off the service's histogram at each scrape.
Each app has a registry of its own. Label children are looked up once and kept: the hot path pays for a
dictionary access, and every label's values are bounded (routes, known methods, statuses).
"""

import re
import sys
import time
from bisect import bisect_left
from collections import Counter as Totals
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from flask import Flask, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics

from servicekit.tracing import sampled_trace_id

REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
QUERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

EXEMPLAR_EVERY = 1  # seconds; an exemplar costs more than the rest of an observation, and a scrape sees the last only

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


class _Series:
    """A histogram's child. Each bucket gets a new exemplar once a second at most: its trace, if that is kept."""

    def __init__(self, child: Histogram, buckets: tuple[float, ...]) -> None:
        self._child = child
        self._buckets = buckets
        self._next = [0.0] * (len(buckets) + 1)  # when each bucket's exemplar is due

    def observe(self, seconds: float) -> None:
        bucket, now = bisect_left(self._buckets, seconds), time.monotonic()
        if now >= self._next[bucket] and (trace_id := sampled_trace_id()):
            self._next[bucket] = now + EXEMPLAR_EVERY
            self._child.observe(seconds, {"trace_id": trace_id})
        else:
            self._child.observe(seconds)


class _Durations(dict[tuple[object, ...], _Series]):
    """A histogram's series, each by its labels' values and made when it is first asked for."""

    def __init__(self, histogram: Histogram, buckets: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._buckets = buckets

    def __missing__(self, values: tuple[object, ...]) -> _Series:
        series = self[values] = _Series(self._histogram.labels(*values), self._buckets)
        return series


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
        self._requests = Histogram(
            f"{service}_service_duration_seconds",
            "Time from the request's arrival in the app to its answer",
            ("route", "method", "status"),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        queries = Histogram(
            "postgresql_query_duration_seconds",
            "Time of one SQL statement, seen by the client, without the wait for a connection",
            ("service", "operation", "target"),
            buckets=QUERY_BUCKETS,
            registry=self.registry,
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
        self._request_series = _Durations(self._requests, REQUEST_BUCKETS)
        self._query_series = _Durations(queries, QUERY_BUCKETS)

    def serve(self, app: Flask) -> None:
        """Add /metrics and the exporter's default metrics to the app."""
        exporter = PrometheusMetrics(app, registry=self.registry, export_defaults=False)
        exporter.info(
            "flask_exporter_info", "Information about the Prometheus Flask exporter", version=exporter.version
        )
        self.registry.register(_ExporterDefaults(self._requests))

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._request_series[route, method, status].observe(seconds)

    def observe_query(self, operation: str, target: str, seconds: float) -> None:
        self._query_series[self._service, operation, target].observe(seconds)

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

    def __init__(self, requests: Histogram) -> None:
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
