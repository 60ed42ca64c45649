"""The overview: one page that says whether the platform serves its users, and where to look if it does not.

Rows go from what users feel to what causes it: status, a journey, traffic and errors, latency, edge, database, hosts.
A query that finds nothing on a healthy platform ends in `or vector(0)`: 'no data' always means a broken pipeline.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import start
from dashboards.declarations import Service
from dashboards.panels import RATE, Query, graph, status

QUANTILES = (0.5, 0.95, 0.99)
LATENCY_TARGETS = {"auth": 0.5, "api": 0.1}  # seconds at p95: a login pays for bcrypt, the API does not
LATENCY_TARGET = 0.5  # of a service that has none of its own


def build(services: list[Service]) -> Dashboard:
    """Return the dashboard for these services."""
    builder = start("Overview", "overview", "Does the platform serve its users, and where to look if it does not.")
    for add in (_status, _journey, _objectives, _saturation, _traffic, _latency, _edge, _database, _hosts):
        add(builder, services)
    return builder.build()


def _status(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Are users served?"))
    board.with_panel(
        status(
            "Availability, 1 h",
            "Share of requests at the edge in the last hour that did not end in a server error (5xx). "
            "The objective is 99.9 %. No request counts as 100 %.",
            '1 - (sum(rate(nginx_requests_total{status=~"5.."}[1h])) or vector(0))'
            " / ((sum(rate(nginx_requests_total[1h])) > 0) or vector(1))",
            "percentunit",
            bad=0.999,
            low_is_bad=True,
        )
    )
    for service in services:
        target = LATENCY_TARGETS.get(service.name, LATENCY_TARGET)
        board.with_panel(
            status(
                f"{service.name}: p95, 15 min",
                f"95 % of the requests to {service.name} in the last 15 minutes were answered within this. "
                f"The objective is {target:g} s. 0 means that there was no request.",
                f"(histogram_quantile(0.95, sum by (le) (rate({service.metric}_bucket[15m]))) >= 0) or vector(0)",
                "s",
                bad=target,
            )
        )
    board.with_panel(
        status(
            "Alerts firing",
            "How many alerts fire now. Alertmanager shows which, and each has a runbook.",
            'count(ALERTS{alertstate="firing"}) or vector(0)',
            "none",
            bad=1,
        )
    )
    board.with_panel(
        status(
            "Targets down",
            "How many programs do not answer Prometheus. What is not scraped is not watched.",
            "count(up == 0) or vector(0)",
            "none",
            bad=1,
        )
    )
    board.with_panel(
        status(
            "Primary databases",
            "How many PostgreSQL hosts say that they are the primary. With 0, writes fail.",
            "sum(patroni_primary) or vector(0)",
            "none",
            bad=1,
            low_is_bad=True,
        )
    )


def _journey(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("A user's journey, gone each minute"))
    board.with_panel(
        status(
            "Journey",
            "1: the newest journey (log in, write, read, log out), from the observability host through the public "
            "address, came to its end. 0: a phase of it failed.",
            "min(probe_journey_success)",
            "none",
            bad=1,
            low_is_bad=True,
        )
    )
    board.with_panel(
        status(
            "Since the last whole journey",
            "How long ago a journey last came to its end.",
            "time() - max(probe_journey_last_success_timestamp_seconds)",
            "s",
            bad=180,
        )
    )
    board.with_panel(
        graph(
            "A journey, by phase",
            "How long each phase took. One that is missing failed, or was not come to.",
            [("max by (phase) (probe_journey_phase_duration_seconds)", "{{phase}}")],
            "s",
            span=16,
            stacked=True,
        )
    )


def _objectives(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Objectives"))
    for title, description, query, unit in (
        (
            "Error budget remaining",
            "What is left of each error budget of the last 14 days. Below 0 the objective is missed.",
            "slo:error_budget_remaining:ratio",
            "percentunit",
        ),
        (
            "Burn rate, 1 h",
            "How many times as fast as it lasts a budget is used up. 14.4 over an hour wakes somebody.",
            "slo:burn_rate:1h",
            "none",
        ),
    ):
        board.with_panel(graph(title, description, [(query, "{{service}} {{slo}}")], unit, span=12, least=None))


def _saturation(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Saturation, by tier"))
    for what, metric, consequence in (
        ("CPU", "cpu", "a core: add hosts or cores to the tier"),
        ("Memory", "memory", "memory: the host swaps, or drops what it had cached"),
        ("Disk", "io", "the disk"),
    ):
        board.with_panel(
            graph(
                f"{what} pressure, by tier",
                f"Share of time in which something waited for {consequence}. The worst host of each tier.",
                [(f"max by (tier) (rate(node_pressure_{metric}_waiting_seconds_total{RATE}))", "{{tier}}")],
                "percentunit",
            )
        )


def _traffic(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Traffic and errors"))
    board.with_panel(
        graph(
            "Requests at the edge, by status",
            "What clients were answered, per second, all edges together.",
            [(f"sum by (status) (rate(nginx_requests_total{RATE}))", "{{status}}")],
            "reqps",
            stacked=True,
        )
    )
    board.with_panel(
        graph(
            "Requests, by service",
            "What each service answered, per second, all instances together.",
            [(f"sum(rate({service.metric}_count{RATE}))", service.name) for service in services],
            "reqps",
        )
    )
    board.with_panel(
        graph(
            "Server errors, by service",
            "Share of each service's answers that were 5xx.",
            [(_error_share(service), service.name) for service in services],
            "percentunit",
        )
    )


def _error_share(service: Service) -> str:
    errors = f'sum(rate({service.metric}_count{{status=~"5.."}}{RATE})) or vector(0)'
    return f"({errors}) / ((sum(rate({service.metric}_count{RATE})) > 0) or vector(1))"


def _latency(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Latency"))
    for service in services:
        board.with_panel(
            graph(
                f"{service.name}: p50, p95, p99",
                f"How long {service.name} took, by its own clock, all routes. A point leads to the trace of a request.",
                [(_quantile(quantile, service), f"p{quantile * 100:g}") for quantile in QUANTILES],
                "s",
                span=12,
                exemplars=True,
            )
        )
        board.with_panel(
            graph(
                f"{service.name}: p95, by route",
                "Which route is slow.",
                [(_quantile(0.95, service, "route"), "{{route}}")],
                "s",
                span=12,
            )
        )


def _quantile(quantile: float, service: Service, *labels: str) -> str:
    by = ", ".join(("le", *labels))
    return f"histogram_quantile({quantile}, sum by ({by}) (rate({service.metric}_bucket{RATE})))"


def _edge(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Edge"))
    board.with_panel(
        graph(
            "Attempts at upstreams",
            "What instances answered Nginx, per second. More attempts than requests: Nginx tried again elsewhere.",
            [(f"sum by (upstream, status) (rate(nginx_upstream_requests_total{RATE}))", "{{upstream}} {{status}}")],
            "reqps",
            span=12,
        )
    )
    board.with_panel(
        graph(
            "Open client connections",
            "How many connections each edge holds, idle ones included.",
            [("sum by (host) (nginx_connections_active)", "{{host}}")],
            "none",
            span=12,
        )
    )


def _database(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Database"))
    board.with_panel(
        graph(
            "Connections used",
            "Server connections of each PostgreSQL host. PgBouncer caps them below max_connections.",
            [
                ("sum by (host) (postgresql_connections_used)", "{{host}}"),
                ("min(pg_settings_max_connections)", "max_connections"),
            ],
            "none",
        )
    )
    board.with_panel(
        graph(
            "Waiting for a connection",
            "Clients that wait in PgBouncer for a server connection. If they do so for long, the pool is too small "
            "or statements are slow.",
            [("sum by (host, database) (pgbouncer_pools_client_waiting_connections)", "{{host}} {{database}}")],
            "none",
        )
    )
    board.with_panel(
        graph(
            "Replication lag",
            "Bytes of the primary's log that a replica has not replayed. Reads from it are this much behind.",
            [
                (
                    "clamp_min(scalar(max(patroni_xlog_location))"
                    " - (patroni_xlog_replayed_location and (patroni_replica == 1)), 0)",
                    "{{host}}",
                )
            ],
            "bytes",
        )
    )
    board.with_panel(
        graph(
            "Statements, by service and target",
            "How many statements per second services send to the primary and to replicas.",
            [(f"sum by (service, target) (rate(postgresql_query_duration_seconds_count{RATE}))", _TARGET)],
            "ops",
            span=12,
        )
    )
    board.with_panel(
        graph(
            "Statement p95, by service and target",
            "How long statements take, by the service's clock: PgBouncer and the network included.",
            [
                (
                    "histogram_quantile(0.95, sum by (le, service, target)"
                    f" (rate(postgresql_query_duration_seconds_bucket{RATE})))",
                    _TARGET,
                )
            ],
            "s",
            span=12,
        )
    )


_TARGET = "{{service}} {{target}}"


def _hosts(board: DashboardBuilder, services: list[Service]) -> None:
    board.with_row(Row("Hosts: use, saturation, errors"))
    for title, description, query, unit in (
        (
            "CPU used",
            "Share of each host's CPU time that was not idle.",
            f'1 - avg by (host) (rate(node_cpu_seconds_total{{job="node",mode="idle"}}{RATE}))',
            "percentunit",
        ),
        (
            "Load for each core",
            "Processes that run or wait for a core or a disk, by core. Above 1 they queue.",
            'max by (host) (node_load1{job="node"}) / count by (host) (node_cpu_seconds_total{job="node",mode="idle"})',
            "none",
        ),
        (
            "Memory used",
            "Share of each host's memory that no program could get.",
            'max by (host) (1 - node_memory_MemAvailable_bytes{job="node"} / node_memory_MemTotal_bytes{job="node"})',
            "percentunit",
        ),
        (
            "Disk used",
            "The fullest file system of each host.",
            'max by (host) (1 - node_filesystem_avail_bytes{job="node",fstype!~"tmpfs|ramfs"}'
            ' / (node_filesystem_size_bytes{job="node",fstype!~"tmpfs|ramfs"} > 0))',
            "percentunit",
        ),
        (
            "Network",
            "Bytes received and sent per second, loopback excepted.",
            f'sum by (host) (rate(node_network_receive_bytes_total{{job="node",device!="lo"}}{RATE})'
            f' + rate(node_network_transmit_bytes_total{{job="node",device!="lo"}}{RATE}))',
            "Bps",
        ),
        (
            "Network errors",
            "Packets per second that were dropped or broken.",
            f'sum by (host) (rate(node_network_receive_errs_total{{job="node",device!="lo"}}{RATE})'
            f' + rate(node_network_receive_drop_total{{job="node",device!="lo"}}{RATE})'
            f' + rate(node_network_transmit_drop_total{{job="node",device!="lo"}}{RATE}))',
            "pps",
        ),
    ):
        lines: list[Query] = [(query, "{{host}}")]
        board.with_panel(graph(title, description, lines, unit, most=1 if unit == "percentunit" else None))
