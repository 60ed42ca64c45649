"""A dashboard for each tier beside the services."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.boards import board, instances
from dashboards.panels import RATE, graph, logs_link

ON = '{instance=~"$instance"}'
WATCHERS = '"prometheus|alertmanager|blackbox|jaeger|victorialogs|vmalert|grafana"'
NETWORK = '{device!="lo", instance=~"$instance"}'
BY_HOST = "{{host}}"
FAILED_LOGINS = logs_link("Failed logins", "event:=login_failed")
STATEMENTS = logs_link("Slow statements in the logs", "event:=slow_query")


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
                "What instances answered Nginx per second, - for nothing. More attempts than requests: it tried again.",
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
                "Certificates",
                "How long the certificate that each address shows is still valid. They are renewed with 30 days left.",
                [("min by (edge) (probe_ssl_earliest_cert_expiry{job='probe'}) - time()", "{{edge}}")],
                "s",
            ),
            graph(
                "Refused by limits",
                "Per second: 429 by an address's limit; 503 by a service that is full, or has no instance.",
                [
                    (
                        'sum by (status) (rate(nginx_requests_total{server="edge", status=~"429|503",'
                        f' instance=~"$instance"}}{RATE}))',
                        "{{status}}",
                    )
                ],
                "reqps",
                empty_when="no request was ever refused",
            ),
            graph(
                "Log lines not understood",
                "Lines per second that mtail cannot count.",
                [(f"sum by (host) (rate(nginx_access_log_unparsed_total{ON}{RATE}))", BY_HOST)],
                "cps",
            ),
        ],
    }
    return board("Edge", "edge", "What clients are answered, and by whom.", rows, instances("nginx_requests_total"))


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
            graph(
                "Locks", "Held or waited for, by mode.", [(f"sum by (mode) (pg_locks_count{ON})", "{{mode}}")], "none"
            ),
            graph(
                "Deadlocks",
                "Per second.",
                [(f"sum by (host) (rate(pg_stat_database_deadlocks{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
        ],
        "Statements": [
            graph(
                "Most time",
                "Seconds per second of the ten statements that take the most, by their id in pg_stat_statements.",
                [
                    (
                        f"topk(10, sum by (queryid, user) (rate(pg_stat_statements_seconds_total{ON}{RATE})))",
                        "{{user}} {{queryid}}",
                    )
                ],
                "none",
                links=[STATEMENTS],
            ),
            graph(
                "Most calls",
                "Calls per second of the ten statements that are called most.",
                [
                    (
                        f"topk(10, sum by (queryid, user) (rate(pg_stat_statements_calls_total{ON}{RATE})))",
                        "{{user}} {{queryid}}",
                    )
                ],
                "ops",
                links=[STATEMENTS],
            ),
            graph(
                "Longest on average",
                "Mean time of the ten slowest statements that are called at all.",
                [
                    (
                        f"topk(10, sum by (queryid, user) (rate(pg_stat_statements_seconds_total{ON}{RATE}))"
                        f" / (sum by (queryid, user) (rate(pg_stat_statements_calls_total{ON}{RATE})) > 0))",
                        "{{user}} {{queryid}}",
                    )
                ],
                "s",
                links=[STATEMENTS],
            ),
        ],
        "Cache and WAL": [
            graph(
                "Cache hits",
                "Share of blocks found in PostgreSQL's own memory.",
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
                "WAL written",
                "Bytes of log per second: what replicas must receive and the archive must keep.",
                [(f"sum(rate(patroni_xlog_location{RATE}))", "primary")],
                "Bps",
            ),
            graph("WAL on disk", "In pg_wal.", [(f"max by (host) (pg_wal_size_bytes{ON})", BY_HOST)], "bytes"),
            graph(
                "Checkpoints",
                "Per second: those asked for come before their time, since max_wal_size is too small.",
                [
                    (f"sum(rate(pg_stat_checkpointer_num_timed_total{ON}{RATE}))", "timed"),
                    (f"sum(rate(pg_stat_checkpointer_num_requested_total{ON}{RATE}))", "asked for"),
                ],
                "ops",
            ),
            graph(
                "Archiving failures",
                "Segments per second that could not be archived.",
                [(f"sum by (host) (rate(pg_stat_archiver_failed_count{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
            graph(
                "Size",
                "Of each database.",
                [(f"max by (datname) (pg_database_size_bytes{ON})", "{{datname}}")],
                "bytes",
            ),
        ],
        "Vacuum": [
            graph(
                "Transaction ids used",
                "Share of the two thousand million transaction ids used since the oldest row was frozen. "
                "Autovacuum sets in at 10 %.",
                [(f"max by (datname) (pg_database_wraparound_age_datfrozenxid_seconds{ON}) / 2e9", "{{datname}}")],
                "percentunit",
            ),
            graph(
                "Dead rows",
                "Share of each table's rows that only vacuum can remove.",
                [
                    (
                        f"max by (relname) (pg_stat_user_tables_n_dead_tup{ON}"
                        f" / (pg_stat_user_tables_n_dead_tup{ON} + pg_stat_user_tables_n_live_tup{ON} > 1000))",
                        "{{relname}}",
                    )
                ],
                "percentunit",
                empty_when="no table has more than a thousand rows",
            ),
            graph(
                "Longest transaction",
                "How long the oldest one is open: what it may still see, vacuum cannot remove.",
                [(f"max by (host) (pg_long_running_transactions_oldest_timestamp_seconds{ON})", BY_HOST)],
                "s",
            ),
        ],
    }
    about = "Replication, work, locks, statements, cache, log and vacuum."
    return board("PostgreSQL", "postgresql", about, rows, instances("pg_up"))


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
    return board("Pooler", "pooler", "Between services and PostgreSQL.", rows, instances("pgbouncer_up"))


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
        "Network and disks": [
            graph(
                "Network",
                "Bytes received and sent per second, loopback excepted.",
                [
                    (
                        f"sum by (host) (rate(node_network_receive_bytes_total{NETWORK}{RATE})"
                        f" + rate(node_network_transmit_bytes_total{NETWORK}{RATE}))",
                        BY_HOST,
                    )
                ],
                "Bps",
            ),
            graph(
                "Disks",
                "Share of time in which each disk had something to do.",
                [(f"max by (host, device) (rate(node_disk_io_time_seconds_total{ON}{RATE}))", "{{host}} {{device}}")],
                "percentunit",
                empty_when="the hosts are containers, which have no disks of their own",
            ),
            graph(
                "Load for each core",
                "Processes that run or wait for a core or a disk, by core. Above 1 they queue.",
                [
                    (
                        f"max by (host) (node_load1{ON}) / count by (host)"
                        ' (node_cpu_seconds_total{mode="idle", instance=~"$instance"})',
                        BY_HOST,
                    )
                ],
                "none",
            ),
        ],
        "Errors": [
            graph(
                "Out of memory",
                "Processes killed in the last hour.",
                [(f"max by (host) (increase(node_vmstat_oom_kill{ON}[1h]))", BY_HOST)],
                "none",
            ),
            graph(
                "Network errors",
                "Packets per second that were dropped or broken.",
                [
                    (
                        f"sum by (host) (rate(node_network_receive_errs_total{NETWORK}{RATE})"
                        f" + rate(node_network_receive_drop_total{NETWORK}{RATE})"
                        f" + rate(node_network_transmit_drop_total{NETWORK}{RATE}))",
                        BY_HOST,
                    )
                ],
                "pps",
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
    return board("Hosts", "hosts", "Use, saturation and errors of every host.", rows, instances("node_uname_info"))


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
                "In the last hour: of accounts, addresses, one at the other, or everybody but at known places.",
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
        "Unusual patterns, counted in the logs": [
            graph(
                "Accounts that one address tried",
                "The most accounts at which logins failed from one address, in 15 minutes. Above ten it is guessing.",
                [("max(logs:accounts_tried_from_one_address:max15m)", "accounts")],
                "none",
                links=[FAILED_LOGINS],
            ),
            graph(
                "Addresses that tried one account",
                "The most addresses from which logins failed at one account, in 15 minutes. A person has two or three.",
                [("max(logs:addresses_that_tried_one_account:max15m)", "addresses")],
                "none",
                links=[FAILED_LOGINS],
            ),
            graph(
                "Logins from new networks",
                "In the last hour: by accounts that have logged in before, but never from there; and all logins.",
                [("logs:logins_from_new_networks:count1h", "new network"), ("logs:logins:count1h", "all")],
                "none",
                links=[logs_link("Logins from new networks", "event:=login_from_new_network")],
            ),
            graph(
                "Refusals to one address",
                "The most 401 and 404 that one address was answered in 5 minutes. 300 is one a second.",
                [("max by (status) (logs:refused_to_one_address:max5m)", "{{status}}")],
                "none",
                empty_when="nobody was answered 401 or 404 in the last 5 minutes",
                links=[logs_link("Refusals by address", "event:=request service:=nginx status:in(401,404)")],
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
        "Mail and keys": [
            graph(
                "Mails, by result",
                "In the last hour; failed and dropped ones reach nobody.",
                [(f"sum by (result) (increase(auth_mails_total{ON}[1h]))", "{{result}}")],
                "none",
            ),
            graph(
                "Mails that wait",
                "To be sent, or to be sent again, by host.",
                [(f"sum by (host) (auth_mail_queue_length{ON})", BY_HOST)],
                "none",
            ),
            graph(
                "Age of the signing key",
                "It is replaced after 30 days; the oldest that an instance signs with.",
                [(f"max(auth_signing_key_age_seconds{ON})", "age")],
                "s",
            ),
        ],
    }
    return board(
        "Logins and abuse",
        "logins",
        "Who gets in, who does not, and what it costs.",
        rows,
        instances("auth_logins_total"),
    )


def cache() -> Dashboard:
    """Return Valkey, and how services get on with it."""
    rows = {
        "Services": [
            graph(
                "Calls, by outcome",
                "Per second. Failed: no answer in time; skipped: one failed just now, so nobody asks.",
                [(f"sum by (job, outcome) (rate(valkey_requests_total{RATE}))", "{{job}} {{outcome}}")],
                "ops",
            ),
            graph(
                "Call p95",
                "95 % of calls took less, by the service's clock.",
                [
                    (
                        "histogram_quantile(0.95, sum by (le, job)"
                        f" (rate(valkey_request_duration_seconds_bucket{RATE})))",
                        "{{job}}",
                    )
                ],
                "s",
            ),
            graph(
                "Limits of logins, by whose counts",
                "Own: an instance counts for itself, because it does not reach Valkey.",
                [(f"sum by (counts) (rate(auth_throttle_store_requests_total{RATE}))", "{{counts}}")],
                "ops",
            ),
        ],
        "Read cache": [
            graph(
                "Hit ratio",
                "Share of reads of one row that the cache answered.",
                [("kind:api_cache_hits:ratio_rate5m", "{{kind}}")],
                "percentunit",
                most=1,
            ),
            graph(
                "Queries saved",
                "Per second: reads that asked the database nothing.",
                [("kind:api_cache_saved_queries:rate5m", "{{kind}}")],
                "ops",
            ),
            graph(
                "Reads, by result",
                "Per second. Behind: kept, but not proven as new as the client's write; error: no answer in time.",
                [(f"sum by (kind, result) (rate(api_cache_requests_total{RATE}))", "{{kind}} {{result}}")],
                "ops",
                stacked=True,
            ),
        ],
        "Valkey": [
            graph("Up", "1: it answers the exporter.", [(f"max by (host) (redis_up{ON})", BY_HOST)], "none"),
            graph(
                "Memory",
                "Share of its bound.",
                [
                    (
                        f"max by (host) (redis_memory_used_bytes{ON} / (redis_memory_max_bytes{ON} > 0))",
                        BY_HOST,
                    )
                ],
                "percentunit",
                most=1,
            ),
            graph(
                "Keys gone",
                "Per second: expired in their time, or evicted before it because memory was full.",
                [
                    (f"sum by (host) (rate(redis_expired_keys_total{ON}{RATE}))", "{{host}} expired"),
                    (f"sum by (host) (rate(redis_evicted_keys_total{ON}{RATE}))", "{{host}} evicted"),
                ],
                "ops",
            ),
            graph("Keys", "Held now.", [(f"sum by (host) (redis_db_keys{ON})", BY_HOST)], "none"),
            graph(
                "Clients",
                "Connections.",
                [(f"sum by (host) (redis_connected_clients{ON})", BY_HOST)],
                "none",
            ),
            graph(
                "Commands",
                "Per second.",
                [(f"sum by (host) (rate(redis_commands_processed_total{ON}{RATE}))", BY_HOST)],
                "ops",
            ),
        ],
    }
    return board("Cache", "cache", "What the services' instances share.", rows, instances("redis_up"))


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
                "Since the restore drill",
                "How long ago a backup was last restored and read, as a test.",
                [("time() - max(restore_drill_last_success_timestamp_seconds)", "drill")],
                "s",
                empty_when="no drill has been run yet",
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
            graph(
                "Slowest scrapes",
                "How long the slowest targets of each job take to answer. Scrapes end after 10 s.",
                [("topk(10, max by (job) (scrape_duration_seconds))", "{{job}}")],
                "s",
            ),
            graph(
                "Samples, by job",
                "What each job adds at every scrape: where series come from.",
                [("topk(10, sum by (job) (scrape_samples_post_metric_relabeling))", "{{job}}")],
                "none",
            ),
            graph(
                "Exemplars",
                "Kept in memory: points that lead to traces.",
                [("prometheus_tsdb_exemplar_exemplars_in_storage", "exemplars")],
                "none",
            ),
        ],
        "Alertmanager": [
            graph("Alerts", "By state.", [("sum by (state) (alertmanager_alerts)", "{{state}}")], "none"),
            graph(
                "Notifications dropped",
                "By Prometheus, per second.",
                [(f"sum(rate(prometheus_notifications_dropped_total{RATE}))", "dropped")],
                "ops",
            ),
            graph(
                "Notifications failed",
                "By Alertmanager, per second, by receiver's kind.",
                [(f"sum by (integration) (rate(alertmanager_notifications_failed_total{RATE}))", "{{integration}}")],
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
            graph(
                "Counted in logs",
                "Evaluations of vmalert's rules per second, and those that failed.",
                [
                    (f"sum(rate(vmalert_iteration_total{RATE}))", "evaluations"),
                    (f"sum(rate(vmalert_recording_rules_errors_total{RATE}))", "failed"),
                ],
                "ops",
            ),
            graph("Disk used by logs", "Compressed.", [("sum(vl_data_size_bytes)", "logs")], "bytes"),
        ],
        "Every watcher": [
            graph(
                "Answers",
                "1: it answers Prometheus. Grafana may have been left out.",
                [(f"min by (job) (up{{job=~{WATCHERS}}})", "{{job}}")],
                "none",
                most=1,
            ),
            graph(
                "CPU",
                "Cores used.",
                [(f"sum by (job) (rate(process_cpu_seconds_total{{job=~{WATCHERS}}}{RATE}))", "{{job}}")],
                "none",
            ),
            graph(
                "Memory",
                "Resident memory.",
                [(f"sum by (job) (process_resident_memory_bytes{{job=~{WATCHERS}}})", "{{job}}")],
                "bytes",
            ),
        ],
    }
    return board("Watchers", "watchers", "Is what watches well itself?", rows)


def build() -> list[Dashboard]:
    """Return all of them."""
    return [edge(), postgresql(), pooler(), hosts(), logins(), cache(), backups(), watchers()]
