"""One service: its objectives, what it is asked, how long it takes, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import Panel, board, instances
from dashboards.declarations import Service
from dashboards.panels import RATE, graph, logs, logs_link, traces_link


def build(service: Service) -> Dashboard:
    """Return the dashboard of this service."""
    name, metric = service.name, service.metric
    ours = '{instance=~"$instance"}'
    jobs = f'{{job="{name}", instance=~"$instance"}}'
    queries = f'{{service="{name}", instance=~"$instance"}}'
    rate = f"rate({metric}_count{ours}{RATE})"
    errors = f'rate({metric}_count{{instance=~"$instance", status=~"5.."}}{RATE})'
    unit = f'{{_SYSTEMD_UNIT=~"{name}@.+"}}'
    leads = [logs_link(f"Log lines of {name}", unit), traces_link(f"Traces of {name}", name)]
    rows: dict[str, Sequence[Panel]] = {
        "Objectives": [
            graph(
                "Error budget remaining",
                "What is left of each objective's error budget of the last 14 days. Below 0 the objective is missed.",
                [(f'slo:error_budget_remaining:ratio{{service="{name}"}}', "{{slo}}")],
                "percentunit",
                span=12,
                least=None,
            ),
            graph(
                "Burn rate, 1 h",
                "How many times as fast as it lasts the budget is used up. 14.4 over an hour wakes somebody.",
                [(f'slo:burn_rate:1h{{service="{name}"}}', "{{slo}}")],
                "none",
                span=12,
            ),
        ],
        "Requests": [
            graph(
                "Rate, by route",
                "Answers per second.",
                [(f"sum by (route) ({rate})", "{{route}}")],
                "reqps",
                links=leads,
            ),
            graph(
                "Rate, by status",
                "Answers per second: 4xx are clients' errors, 5xx the service's.",
                [(f"sum by (status) ({rate})", "{{status}}")],
                "reqps",
                stacked=True,
                links=leads,
            ),
            graph(
                "Errors, by route",
                "Share of each route's answers that were server errors (5xx).",
                [
                    (
                        f"(sum by (route) ({errors}) or 0 * sum by (route) ({rate})) / (sum by (route) ({rate}) > 0)",
                        _ROUTE,
                    )
                ],
                "percentunit",
                links=leads,
            ),
            graph(
                "p95, by route",
                "95 % of answers took less, by the service's clock. A point leads to the trace of a request.",
                [
                    (
                        f"histogram_quantile(0.95, sum by (le, route) (rate({metric}_bucket{ours}{RATE})))",
                        _ROUTE,
                    )
                ],
                "s",
                span=12,
                exemplars=True,
                links=leads,
            ),
            graph(
                "p50 and p99",
                "Half of all answers took less than p50, 99 % less than p99. A point leads to the trace of a request.",
                [
                    (
                        f"histogram_quantile({quantile}, sum by (le) (rate({metric}_bucket{ours}{RATE})))",
                        f"p{quantile * 100:g}",
                    )
                    for quantile in (0.5, 0.99)
                ],
                "s",
                span=12,
                exemplars=True,
                links=leads,
            ),
        ],
        "Instances": [
            graph(
                "Rate, by instance",
                "Uneven lines: one is slow or drained.",
                [(f"sum by (instance) ({rate})", _BY)],
                "reqps",
            ),
            graph(
                "CPU",
                "Cores used.",
                [(f"sum by (instance) (rate(process_cpu_seconds_total{jobs}{RATE}))", _BY)],
                "none",
            ),
            graph(
                "Memory",
                "Resident memory.",
                [(f"max by (instance) (process_resident_memory_bytes{jobs})", _BY)],
                "bytes",
            ),
        ],
        "Database": [
            graph(
                "Statements, by target",
                "Statements per second to the primary and to replicas.",
                [(f"sum by (target) (rate(postgresql_query_duration_seconds_count{queries}{RATE}))", "{{target}}")],
                "ops",
            ),
            graph(
                "Statement p95, by target",
                "By the service's clock: PgBouncer and the network included.",
                [
                    (
                        "histogram_quantile(0.95, sum by (le, target)"
                        f" (rate(postgresql_query_duration_seconds_bucket{queries}{RATE})))",
                        "{{target}}",
                    )
                ],
                "s",
            ),
            graph(
                "Pool",
                "Connections of the service's own pools. When all are in use, requests wait.",
                [(f"sum by (instance) (database_pool_connections{jobs})", _BY)],
                "none",
            ),
        ],
    }
    for row, panels in service.panels.items():
        rows[row] = [
            graph(one.title, one.description, [(one.query, one.legend)], one.unit, empty_when=one.empty_when)
            for one in panels
        ]
    rows["Logs"] = [
        logs(
            "Newest lines",
            "What the service logs: failures, slow requests and statements, its events. Each leads to its trace.",
            unit,
            empty_when="it has said nothing in the time shown",
        )
    ]
    return board(
        f"Service {name}",
        f"service-{name}",
        f"What {name} does, and what it waits for.",
        rows,
        instances(f"{metric}_count"),
    )


_BY = "{{instance}}"
_ROUTE = "{{route}}"
