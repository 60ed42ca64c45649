"""Dashboards of traces and logs."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import Rows, board, choice
from dashboards.panels import RATE, graph, log_graph, logs, traces

SPANS = "spans"  # what Jaeger's span metrics begin with
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
                        f" (rate({SPANS}_duration_seconds_bucket{entry}{RATE})))",
                        OPERATION,
                    )
                ],
                "s",
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
                        f'{SPANS}_duration_seconds_sum{{span_kind="SPAN_KIND_CLIENT", {spans}}}{RATE}))',
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
                        f'{SPANS}_duration_seconds_sum{{span_kind="SPAN_KIND_INTERNAL", {spans}}}{RATE}))',
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
                "Requests to the API that took half a second or more.",
                service="api",
                minDuration="500ms",
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


RARE = "nothing of the kind in the time shown"
FAILED = "event:=login_failed"
SLOW = "event:=slow_query"
ERRORS = "level:in(error,critical,alert,emerg)"
REFUSED = "event:=request service:=nginx site:=edge status:in(401,404)"


def log_search() -> Dashboard:
    """Return the logs of all hosts: what is watched in them (alerts/logs/rules.yml), by number and by line."""
    rows: Rows = {
        "Failed logins": [
            log_graph("By reason", "Failed logins.", f"{FAILED} | stats by (reason) count() failures", empty_when=RARE),
            log_graph(
                "Accounts, by address",
                "At how many accounts logins failed from each address; above ten in 15 minutes it is guessing.",
                f"{FAILED} | stats by (client) count_uniq(account) accounts",
                empty_when=RARE,
            ),
            log_graph(
                "Addresses, by account",
                "From how many addresses logins failed at each account, shown by what stands for it in logs.",
                f"{FAILED} | stats by (account) count_uniq(client) addresses",
                empty_when=RARE,
            ),
            logs("Failed logins", "Each leads to its trace.", f"{FAILED} | sort by (_time) desc", RARE),
        ],
        "Slow statements": [
            log_graph(
                "By service",
                "Statements of more than 100 ms.",
                f"{SLOW} | stats by (service, target) count() statements",
                span=12,
                empty_when=RARE,
            ),
            log_graph(
                "Longest",
                "The longest statement of each service.",
                f"{SLOW} | stats by (service) max(duration_ms) longest",
                unit="ms",
                span=12,
                empty_when=RARE,
            ),
            logs(
                "Slow statements", "With their text, without their parameters.", f"{SLOW} | sort by (_time) desc", RARE
            ),
        ],
        "Errors": [
            log_graph(
                "By unit",
                "Lines of level error or worse.",
                f"{ERRORS} | stats by (_HOSTNAME, _SYSTEMD_UNIT) count() lines",
                span=12,
                empty_when=RARE,
            ),
            log_graph(
                "Failed requests",
                "What the edge answered with 5xx, by route.",
                "event:=request service:=nginx status:>=500 | stats by (route, status) count() requests",
                span=12,
                empty_when=RARE,
            ),
            logs("Error lines", "Of all hosts.", f"{ERRORS} | sort by (_time) desc", RARE),
        ],
        "Unusual access": [
            log_graph(
                "401 and 404, by address",
                "Answers to each address: 404 for who looks for what may be there, 401 for who tries tokens.",
                f"{REFUSED} | stats by (client, status) count() answers",
                empty_when=RARE,
            ),
            log_graph(
                "Logins from new networks",
                "By accounts that have logged in before, but never from this network.",
                "event:=login_from_new_network | stats count() logins",
                empty_when=RARE,
            ),
            log_graph(
                "Sessions and tokens",
                "Refresh tokens that were used twice, or are not valid; locks begun.",
                "event:in(token_reuse,refresh_refused,account_locked,address_locked) | stats by (event) count() events",
                empty_when=RARE,
            ),
            logs(
                "Unusual access",
                "Locks, reused tokens, logins from new networks.",
                "event:in(token_reuse,account_locked,address_locked,login_from_new_network) | sort by (_time) desc",
                RARE,
            ),
        ],
        "All": [
            log_graph(
                "Lines, by host",
                "What each host sends. Good and fast requests are a sample.",
                "* | stats by (_HOSTNAME) count() lines",
                span=24,
            ),
            logs("All lines", "Every line.", "* | sort by (_time) desc"),
        ],
    }
    return board("Logs", "logs", "What the logs of all hosts say, and what is watched in them.", rows)


def build() -> list[Dashboard]:
    """Return all of them."""
    return [tracing(), log_search()]
