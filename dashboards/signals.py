"""Dashboards of traces and logs."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import Rows, board, choice
from dashboards.panels import RATE, graph, log_graph, logs, traces

SPANS = "traces_span_metrics"  # what Jaeger's span metrics begin with
OPERATION = "{{service_name}} {{span_name}}"


def tracing() -> Dashboard:
    """Return traces, and what Jaeger counts of all spans before it drops most of them."""
    spans = 'service_name=~"$service"'
    entry = f'{{span_kind="SPAN_KIND_SERVER", {spans}}}'
    rows: Rows = {
        "Span metrics: all requests": [
            graph(
                "Rate, by operation",
                "Requests per second, of every span that was sent: sampling comes after.",
                [(f"sum by (service_name, span_name) (rate({SPANS}_calls_total{entry}{RATE}))", OPERATION)],
                "reqps",
            ),
            graph(
                "Errors, by operation",
                "Requests per second whose span ended in an error.",
                [
                    (
                        f'sum by (service_name, span_name) (rate({SPANS}_calls_total{{status_code="STATUS_CODE_ERROR",'
                        f" {spans}}}{RATE}))",
                        OPERATION,
                    )
                ],
                "reqps",
                empty_when="no span ended in an error",
            ),
            graph(
                "p95, by operation",
                "95 % of requests took less. A point leads to a trace.",
                [
                    (
                        "histogram_quantile(0.95, sum by (le, service_name, span_name)"
                        f" (rate({SPANS}_duration_milliseconds_bucket{entry}{RATE})))",
                        OPERATION,
                    )
                ],
                "ms",
                exemplars=True,
            ),
        ],
        "Span metrics: what a request waits for": [
            graph(
                "Time in database statements",
                "Seconds per second that services wait for statements, by statement's kind and target.",
                [
                    (
                        "sum by (service_name, span_name) (rate("
                        f'{SPANS}_duration_milliseconds_sum{{span_kind="SPAN_KIND_CLIENT", {spans}}}{RATE})) / 1000',
                        OPERATION,
                    )
                ],
                "none",
                span=12,
            ),
            graph(
                "Time in a service's own steps",
                "Seconds per second, by step: password hashing, token signing.",
                [
                    (
                        "sum by (service_name, span_name) (rate("
                        f'{SPANS}_duration_milliseconds_sum{{span_kind="SPAN_KIND_INTERNAL", {spans}}}{RATE})) / 1000',
                        OPERATION,
                    )
                ],
                "none",
                span=12,
            ),
        ],
        "Traces": [
            traces("Newest", "Click one to see where its time went.", service="auth", limit=20),
            traces(
                "Slow",
                "Requests to the API that took 250 ms or more.",
                service="api",
                minDuration="250ms",
                limit=20,
                empty_when="no request to the API took that long",
            ),
            traces(
                "Failed",
                "Requests to the API that ended in a server error.",
                service="api",
                tags="error=true",
                limit=20,
                empty_when="no request to the API failed",
            ),
        ],
        "What becomes of spans": [
            graph(
                "Received and stored",
                "Spans per second: what Jaeger accepted, what it refused, and what it could not store.",
                [
                    (f"sum(rate(otelcol_receiver_accepted_spans{RATE}))", "accepted"),
                    (f"sum(rate(otelcol_receiver_refused_spans{RATE}))", "refused"),
                    (f"sum(rate(otelcol_exporter_send_failed_spans{RATE}))", "not stored"),
                ],
                "ops",
                span=12,
            ),
            log_graph(
                "Lines with a trace, by service",
                "Log lines that name their trace. Each leads to it.",
                "trace_id:* | stats by (service) count() lines",
                span=12,
                empty_when="nothing noteworthy happened",
            ),
        ],
    }
    return board(
        "Traces and span metrics",
        "traces",
        "Where requests spend their time: counted over all of them, and one by one.",
        rows,
        choice("service", "Service", f"{SPANS}_calls_total, service_name"),
    )


def log_search() -> Dashboard:
    """Return the logs of all hosts."""
    rows = {
        "Logs": [
            logs("Errors", "Lines of priority error or worse, all hosts.", "PRIORITY:in(0,1,2,3)"),
            logs("Failed logins", "The audit lines of logins that did not succeed.", "login_failed"),
            logs("All", "Every line.", "*"),
        ]
    }
    return board("Logs", "logs", "What the journals of all hosts say.", rows)


def build() -> list[Dashboard]:
    """Return all of them."""
    return [tracing(), log_search()]
