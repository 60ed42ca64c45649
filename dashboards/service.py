"""One service: its objectives, what it is asked, how long it takes, and what it waits for."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import board
from dashboards.declarations import Service
from dashboards.panels import RATE, graph


def build(service: Service) -> Dashboard:
    """Return the dashboard of this service."""
    name, metric = service.name, service.metric
    ours = '{instance=~"$instance"}'
    jobs = f'{{job="{name}", instance=~"$instance"}}'
    queries = f'{{service="{name}", instance=~"$instance"}}'
    rate = f"rate({metric}_count{ours}{RATE})"
    rows = {
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
            graph("Rate, by route", "Answers per second.", [(f"sum by (route) ({rate})", "{{route}}")], "reqps"),
            graph(
                "Rate, by status",
                "Answers per second: 4xx are clients' errors, 5xx the service's.",
                [(f"sum by (status) ({rate})", "{{status}}")],
                "reqps",
                stacked=True,
            ),
            graph(
                "p95, by route",
                "95 % of answers took less, by the service's clock. A point leads to the trace of a request.",
                [
                    (
                        f"histogram_quantile(0.95, sum by (le, route) (rate({metric}_bucket{ours}{RATE})))",
                        "{{route}}",
                    )
                ],
                "s",
                exemplars=True,
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
    return board(
        f"Service {name}", f"service-{name}", f"What {name} does, and what it waits for.", rows, f"{metric}_count"
    )


_BY = "{{instance}}"
