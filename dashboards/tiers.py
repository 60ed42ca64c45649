"""A dashboard for each tier beside the services."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import board
from dashboards.panels import RATE, graph, logs

ON = '{instance=~"$instance"}'
BY_HOST = "{{host}}"


def edge() -> Dashboard:
    """Return what clients meet."""
    rows = {
        "Requests": [
            graph(
                "By status",
                "Answers to clients per second, operators' pages excepted.",
                [
                    (
                        f'sum by (status) (rate(nginx_requests_total{{server="edge", instance=~"$instance"}}{RATE}))',
                        "{{status}}",
                    )
                ],
                "reqps",
                stacked=True,
            ),
            graph(
                "By route",
                "Answers per second.",
                [(f"sum by (route) (rate(nginx_requests_total{ON}{RATE}))", "{{route}}")],
                "reqps",
            ),
            graph(
                "p95, by route",
                "95 % of answers took less, upstream and retries included.",
                [
                    (
                        "histogram_quantile(0.95, sum by (le, route)"
                        f" (rate(nginx_request_duration_seconds_bucket{ON}{RATE})))",
                        "{{route}}",
                    )
                ],
                "s",
            ),
        ],
        "Upstreams": [
            graph(
                "Attempts, by status",
                "What instances answered Nginx per second. More attempts than requests: it tried again elsewhere.",
                [
                    (
                        f"sum by (upstream, status) (rate(nginx_upstream_requests_total{ON}{RATE}))",
                        "{{upstream}} {{status}}",
                    )
                ],
                "reqps",
            ),
            graph(
                "Attempts, by address",
                "Uneven lines: an instance is drained or held to be broken.",
                [(f"sum by (address) (rate(nginx_upstream_requests_total{ON}{RATE}))", "{{address}}")],
                "reqps",
            ),
            graph(
                "Connections",
                "Open client connections, idle ones included.",
                [("sum by (host) (nginx_connections_active)", BY_HOST)],
                "none",
            ),
        ],
        "From outside": [
            graph(
                "Probes",
                "1: the page is had at this edge's address.",
                [("min by (edge, page) (probe_success{job='probe'})", "{{edge}} {{page}}")],
                "none",
            ),
            graph(
                "Probe time",
                "How long the page took.",
                [("max by (edge, page) (probe_duration_seconds{job='probe'})", "{{edge}} {{page}}")],
                "s",
            ),
            graph(
                "Log lines not understood",
                "Lines per second that mtail cannot count.",
                [(f"sum by (host) (rate(nginx_access_log_unparsed_total{ON}{RATE}))", BY_HOST)],
                "cps",
            ),
        ],
    }
    return board("Edge", "edge", "What clients are answered, and by whom.", rows, "nginx_requests_total")


def postgresql() -> Dashboard:
    """Return the database."""
    rows = {
        "Replication": [
            graph("Primary", "1 on the primary.", [("max by (host) (patroni_primary)", BY_HOST)], "none"),
            graph(
                "Replay lag",
                "How old a replica's data is.",
                [("max by (host) (pg_replication_lag_seconds)", BY_HOST)],
                "s",
            ),
            graph(
                "WAL held by slots",
                "Bytes that a slot keeps for a replica.",
                [("max by (host, slot_name) (pg_replication_slots_pg_wal_lsn_diff)", "{{host}} {{slot_name}}")],
                "bytes",
            ),
        ],
        "Work": [
            graph(
                "Transactions",
                "Commits per second.",
                [(f"sum by (host) (rate(pg_stat_database_xact_commit{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
            graph(
                "Rollbacks",
                "Per second.",
                [(f"sum by (host) (rate(pg_stat_database_xact_rollback{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
            graph(
                "Time in statements",
                "Seconds of statements per second, by role.",
                [(f"sum by (host, user) (rate(pg_stat_statements_seconds_total{ON}{RATE}))", "{{host}} {{user}}")],
                "none",
            ),
        ],
        "Contention": [
            graph(
                "Connections, by state",
                "idle in transaction holds locks.",
                [(f"sum by (host, state) (postgresql_connections_used{ON})", "{{host}} {{state}}")],
                "none",
            ),
            graph("Locks", "By mode.", [(f"sum by (mode) (pg_locks_count{ON})", "{{mode}}")], "none"),
            graph(
                "Deadlocks",
                "Per second.",
                [(f"sum by (host) (rate(pg_stat_database_deadlocks{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
        ],
        "Storage": [
            graph(
                "Cache hits",
                "Share of blocks found in memory.",
                [
                    (
                        f"sum by (host) (rate(pg_stat_database_blks_hit{ON}{RATE})) / (sum by (host)"
                        f" (rate(pg_stat_database_blks_hit{ON}{RATE}) +"
                        f" rate(pg_stat_database_blks_read{ON}{RATE})) > 0)",
                        BY_HOST,
                    )
                ],
                "percentunit",
                most=1,
            ),
            graph(
                "Size",
                "Of each database.",
                [(f"max by (datname) (pg_database_size_bytes{ON})", "{{datname}}")],
                "bytes",
            ),
            graph("WAL on disk", "In pg_wal.", [(f"max by (host) (pg_wal_size_bytes{ON})", BY_HOST)], "bytes"),
            graph(
                "Archiving failures",
                "Segments per second that could not be archived.",
                [(f"sum by (host) (rate(pg_stat_archiver_failed_count{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
        ],
    }
    return board("PostgreSQL", "postgresql", "Replication, work, contention and storage.", rows, "pg_up")


def pooler() -> Dashboard:
    """Return PgBouncer and HAProxy."""
    rows = {
        "PgBouncer": [
            graph(
                "Clients waiting",
                "For a server connection.",
                [
                    (
                        f"sum by (host, database) (pgbouncer_pools_client_waiting_connections{ON})",
                        "{{host}} {{database}}",
                    )
                ],
                "none",
            ),
            graph(
                "Longest wait",
                "Of the client that waits longest.",
                [(f"max by (host, database) (pgbouncer_pools_client_maxwait_seconds{ON})", "{{host}} {{database}}")],
                "s",
            ),
            graph(
                "Clients",
                "Share of max_client_conn.",
                [("pgbouncer_used_clients / pgbouncer_config_max_client_connections", BY_HOST)],
                "percentunit",
                most=1,
            ),
            graph(
                "Server connections",
                "In use.",
                [(f"sum by (host, database) (pgbouncer_pools_server_active_connections{ON})", "{{host}} {{database}}")],
                "none",
            ),
            graph(
                "Statements",
                "Per second.",
                [
                    (
                        f"sum by (host, database) (rate(pgbouncer_stats_queries_pooled_total{ON}{RATE}))",
                        "{{host}} {{database}}",
                    )
                ],
                "ops",
            ),
        ],
        "HAProxy": [
            graph(
                "Servers",
                "That take connections: one primary, and replicas.",
                [("sum by (host, proxy) (haproxy_backend_active_servers)", "{{host}} {{proxy}}")],
                "none",
            ),
            graph(
                "Sessions",
                "To PostgreSQL.",
                [("sum by (proxy, server) (haproxy_server_current_sessions)", "{{proxy}} {{server}}")],
                "none",
            ),
        ],
    }
    return board("Pooler", "pooler", "Between services and PostgreSQL.", rows, "pgbouncer_up")


def hosts() -> Dashboard:
    """Return each host's use, saturation and errors."""
    rows = {
        "Use": [
            graph(
                "CPU",
                "Share that was not idle.",
                [
                    (
                        f'1 - avg by (host) (rate(node_cpu_seconds_total{{mode="idle", instance=~"$instance"}}{RATE}))',
                        BY_HOST,
                    )
                ],
                "percentunit",
                most=1,
            ),
            graph(
                "Memory",
                "Share that no program could get.",
                [(f"max by (host) (1 - node_memory_MemAvailable_bytes{ON} / node_memory_MemTotal_bytes{ON})", BY_HOST)],
                "percentunit",
                most=1,
            ),
            graph(
                "Disk",
                "Share used, by mount.",
                [
                    (
                        f"max by (host, mountpoint) (1 - node_filesystem_avail_bytes{ON} /"
                        f" (node_filesystem_size_bytes{ON} > 0))",
                        "{{host}} {{mountpoint}}",
                    )
                ],
                "percentunit",
                most=1,
            ),
        ],
        "Saturation": [
            graph(
                f"{what} pressure",
                "Share of time in which something waited for it.",
                [(f"max by (host) (rate(node_pressure_{metric}_waiting_seconds_total{ON}{RATE}))", BY_HOST)],
                "percentunit",
            )
            for what, metric in (("CPU", "cpu"), ("Memory", "memory"), ("Disk", "io"))
        ],
        "Errors": [
            graph(
                "Out of memory",
                "Processes killed in the last hour.",
                [(f"max by (host) (increase(node_vmstat_oom_kill{ON}[1h]))", BY_HOST)],
                "none",
            ),
            graph(
                "Failed units",
                "systemd units in state failed.",
                [('sum by (host) (node_systemd_unit_state{state="failed", instance=~"$instance"})', BY_HOST)],
                "none",
            ),
            graph(
                "Clock",
                "Distance from the clock of Prometheus's host.",
                [(f"max by (host) (abs(node_time_seconds{ON} - timestamp(node_time_seconds{ON})))", BY_HOST)],
                "s",
            ),
        ],
    }
    return board("Hosts", "hosts", "Use, saturation and errors of every host.", rows, "node_uname_info")


def logins() -> Dashboard:
    """Return logins, and attempts to abuse them."""
    rows = {
        "Logins": [
            graph(
                "By outcome",
                "Per second.",
                [(f"sum by (outcome) (rate(auth_logins_total{ON}{RATE}))", "{{outcome}}")],
                "ops",
                stacked=True,
            ),
            graph(
                "Lockouts, by scope",
                "In the last hour: of accounts, addresses, or one at the other.",
                [(f"sum by (scope) (increase(auth_lockouts_total{ON}[1h]))", "{{scope}}")],
                "none",
            ),
            graph(
                "Refused at the edge",
                "401, 403, 404 and 429 per second.",
                [
                    (
                        f'sum by (status) (rate(nginx_requests_total{{server="edge",'
                        f' status=~"401|403|404|429"}}{RATE})) or vector(0)',
                        "{{status}}",
                    )
                ],
                "reqps",
            ),
        ],
        "Passwords": [
            graph(
                "Waiting for a hash",
                "Logins in the queue, by host.",
                [(f"sum by (host) (auth_password_hash_queue_length{ON})", BY_HOST)],
                "none",
            ),
            graph(
                "Hashes refused",
                "Per second: the queue was full, or the wait too long.",
                [(f"sum by (reason) (rate(auth_password_hash_rejected_total{ON}{RATE}))", "{{reason}}")],
                "ops",
            ),
            graph(
                "Hash p95",
                "95 % of hashes took less.",
                [
                    (
                        "histogram_quantile(0.95, sum by (le)"
                        f" (rate(auth_password_hash_duration_seconds_bucket{ON}{RATE})))",
                        "p95",
                    )
                ],
                "s",
            ),
        ],
    }
    return board(
        "Logins and abuse", "logins", "Who gets in, who does not, and what it costs.", rows, "auth_logins_total"
    )


def backups() -> Dashboard:
    """Return backups and the archive of WAL."""
    rows = {
        "Backups": [
            graph(
                "Age",
                "Since the newest backup ended. One is taken every day.",
                [("min by (stanza) (pgbackrest_backup_since_last_completion_seconds)", "{{stanza}}")],
                "s",
            ),
            graph("Stanza", "0 is good.", [("max by (stanza) (pgbackrest_stanza_status)", "{{stanza}}")], "none"),
            graph(
                "Duration",
                "Of the last backup of each type.",
                [("max by (backup_type) (pgbackrest_backup_last_duration_seconds)", "{{backup_type}}")],
                "s",
            ),
            graph(
                "Size in the repository",
                "Of each backup.",
                [("max by (backup_name) (pgbackrest_backup_repo_size_bytes)", "{{backup_name}}")],
                "bytes",
            ),
            graph(
                "Archived",
                "WAL segments per second.",
                [(f"sum by (host) (rate(pg_stat_archiver_archived_count{RATE}))", BY_HOST)],
                "ops",
            ),
        ]
    }
    return board("Backups", "backups", "Could the database be restored?", rows)


def watchers() -> Dashboard:
    """Return what watches the rest."""
    rows = {
        "Prometheus": [
            graph("Series", "In memory.", [("prometheus_tsdb_head_series", "series")], "none"),
            graph(
                "Rule failures",
                "Per second.",
                [(f"sum(rate(prometheus_rule_evaluation_failures_total{RATE}))", "failures")],
                "ops",
            ),
            graph("Disk", "Blocks.", [("prometheus_tsdb_storage_blocks_bytes", "blocks")], "bytes"),
        ],
        "Alertmanager": [
            graph("Alerts", "By state.", [("sum by (state) (alertmanager_alerts)", "{{state}}")], "none"),
            graph(
                "Notifications dropped",
                "By Prometheus, per second.",
                [(f"sum(rate(prometheus_notifications_dropped_total{RATE}))", "dropped")],
                "ops",
            ),
        ],
        "Jaeger": [
            graph(
                "Spans",
                "Accepted, refused and not stored, per second.",
                [
                    (f"sum(rate(otelcol_receiver_accepted_spans{RATE}))", "accepted"),
                    (f"sum(rate(otelcol_receiver_refused_spans{RATE}))", "refused"),
                    (f"sum(rate(otelcol_exporter_send_failed_spans{RATE}))", "not stored"),
                ],
                "ops",
            ),
            graph(
                "Disk used by traces",
                "Badger's files.",
                [("sum(jaeger_badger_size_bytes_lsm) + sum(jaeger_badger_size_bytes_vlog)", "badger")],
                "bytes",
            ),
        ],
        "VictoriaLogs": [
            graph(
                "Lines",
                "Ingested and dropped, per second.",
                [
                    (f"sum(rate(vl_rows_ingested_total{RATE}))", "ingested"),
                    (f"sum(rate(vl_rows_dropped_total{RATE}))", "dropped"),
                ],
                "ops",
            ),
            graph("Disk used by logs", "Compressed.", [("sum(vl_data_size_bytes)", "logs")], "bytes"),
        ],
    }
    return board("Watchers", "watchers", "Is what watches well itself?", rows)


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
    return [edge(), postgresql(), pooler(), hosts(), logins(), backups(), watchers(), log_search()]
