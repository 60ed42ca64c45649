"""The platform is observed: every host and component, by metrics, logs and dashboards."""

import re
from functools import partial

import pytest
from belvedere_platform import Edge, Platform, wait_until

# The groups whose hosts must have a target of each job; services' jobs have their own names.
EVERYWHERE = ["edge", "auth", "api", "pooler", "postgres", "etcd", "backup", "cache", "observability"]
JOBS = {
    "node": EVERYWHERE,
    "certificate": EVERYWHERE,
    "nginx": ["edge"],
    "mtail": ["edge"],
    "pgbouncer": ["pooler"],
    "haproxy": ["pooler"],
    "postgres": ["postgres"],
    "patroni": ["postgres"],
    "pgbackrest": ["backup"],
    "valkey": ["cache"],
    "etcd": ["etcd"],
    "prometheus": ["observability"],
    "alertmanager": ["observability"],
    "jaeger": ["observability"],
    "spans": ["observability"],
    "victorialogs": ["observability"],
    "vmalert": ["observability"],
    "grafana": ["observability"],
    "blackbox": ["observability"],
}

# The contract's metrics, with the labels that make them useful.
METRICS = {
    "nginx_requests_total": {"host", "route", "method", "status"},
    "nginx_upstream_requests_total": {"host", "upstream", "address", "status"},
    "auth_service_duration_seconds_bucket": {"host", "instance", "route", "method", "status", "le"},
    "api_service_duration_seconds_bucket": {"host", "instance", "route", "method", "status", "le"},
    "postgresql_connections_used": {"host"},
    "postgresql_query_duration_seconds_bucket": {"host", "service", "operation", "target", "le"},
}


@pytest.fixture(scope="module", autouse=True)
def traffic(user: Edge) -> None:
    """Some of everything, so that there is something to see."""
    item = user.post("/api/v1/items", json={"title": "seen", "body": ""}).headers["Location"]
    for _ in range(5):
        user.get(item)
        user.get("/api/v1/items")
        user.get("/api/v1/users/me")
        user.get("/validate")
        user.get("/none")


@pytest.mark.parametrize("metric", METRICS)
def test_the_contract_s_metric_has_sensible_labels(platform: Platform, metric: str) -> None:
    series = wait_until(f"Prometheus has {metric}", partial(platform.prometheus, metric), seconds=45)
    labels = [each["metric"] for each in series]
    lacking = [each for each in labels if not METRICS[metric] <= {name for name, value in each.items() if value}]
    assert lacking == []
    identifiers = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{32}|@")  # one series for each user would be no good
    routes = {each.get("route", "") for each in labels}
    assert [route for route in routes if identifiers.search(route)] == []


def test_every_scrape_target_is_up(platform: Platform) -> None:
    def ask() -> bool:
        targets = platform.ask("prometheus", "/api/v1/targets", state="active").json()["data"]["activeTargets"]
        assert targets, "there is no target"
        down = [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] != "up"]
        assert down == []
        return True

    wait_until("every target is up", ask)


def targets_by_job(platform: Platform) -> dict[str, set[str]]:
    """The hosts that have a target, by job."""
    hosts: dict[str, set[str]] = {}
    for series in platform.prometheus("up"):
        hosts.setdefault(series["metric"]["job"], set()).add(series["metric"].get("host", ""))
    return hosts


@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=pytest.mark.needs(job) if JOBS[job] == ["observability"] else []) for job in JOBS]
)
def test_every_host_of_a_component_is_a_target(platform: Platform, job: str) -> None:
    hosts = {host for group in JOBS[job] for host in platform.groups.get(group, [])}  # `cache` may be empty
    assert targets_by_job(platform).get(job, set()) >= hosts


def test_every_instance_of_every_service_is_a_target(platform: Platform) -> None:
    for service in platform.services():
        name = service["name"]
        running = {f"{host}:{service['base_port'] + number}" for host, number in platform.instances(name)}
        scraped = {each["metric"]["instance"] for each in platform.prometheus(f'up{{job="{name}"}}')}
        assert running, f"no instance of {name} runs"
        assert scraped == running


def test_nothing_is_scraped_that_this_test_does_not_know(platform: Platform) -> None:
    known = {*JOBS, "probe", *(service["name"] for service in platform.services())}
    assert set(targets_by_job(platform)) - known == set()


def test_the_edge_is_probed_as_a_client_sees_it(platform: Platform) -> None:
    """Each edge, and the address that moves between them."""
    probed = {each["metric"]["edge"] for each in platform.prometheus('probe_success{job="probe"} == 1')}
    assert set(platform.groups["edge"]) <= probed
    wait_until("no probe fails", lambda: not platform.prometheus('probe_success{job="probe"} == 0'))


def test_no_alert_fires_on_a_healthy_platform(platform: Platform) -> None:
    def ask() -> bool:
        alerts = platform.ask("prometheus", "/api/v1/alerts").json()["data"]["alerts"]
        firing = [each["labels"] for each in alerts if each["state"] == "firing"]
        # A dead man's switch always fires, and an SLO's speaks of hours in which a test may have broken things.
        assert [each for each in firing if each["alertname"] != "Watchdog" and "slo" not in each] == []
        return True

    wait_until("no alert fires", ask, seconds=60, every=2)


def test_prometheus_has_rules_and_knows_its_alertmanager(platform: Platform) -> None:
    groups = platform.ask("prometheus", "/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["type"] == "alerting"]
    assert [rule["lastError"] for rule in rules if rule["health"] == "err"] == []
    managers = platform.ask("prometheus", "/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
    assert len(managers) >= 1


def test_alertmanager_is_ready(platform: Platform) -> None:
    assert platform.ask("alertmanager", "/api/v2/status").json()["cluster"]["status"] in ("ready", "disabled")


@pytest.mark.needs("victorialogs")
def test_every_host_s_journal_arrives(platform: Platform) -> None:
    def ask() -> bool:
        rows = platform.logs("_time:1h | stats by (_HOSTNAME) count() lines")
        assert sorted(set(platform.hosts) - {row.get("_HOSTNAME") for row in rows}) == []
        return True

    wait_until("VictoriaLogs has lines of every host", ask)


@pytest.mark.needs("victorialogs")
def test_a_line_written_on_a_host_arrives(platform: Platform, request: pytest.FixtureRequest) -> None:
    line = f"a line of the test {id(request)}"
    host = platform.groups["edge"][0]
    platform.ssh(host, f"logger '{line}'")
    found = wait_until("VictoriaLogs has the line", lambda: platform.logs(f'_time:5m "{line}"'))
    assert found[0]["_HOSTNAME"] == host


@pytest.mark.needs("victorialogs")
def test_one_query_finds_a_request_s_lines_by_their_fields_at_the_edge_and_in_a_service(platform: Platform) -> None:
    failed = platform.edge.post("/login", json={"email": "nobody@example.com", "password": "wrong"})
    request_id = failed.headers["X-Request-Id"]

    def ask() -> bool:
        lines = platform.logs(f"trace_id:={request_id}")
        assert {(line["service"], line["event"]) for line in lines} >= {("nginx", "request"), ("auth", "login_failed")}
        return True

    wait_until("VictoriaLogs has both lines", ask)
    assert platform.logs(f"_time:5m event:=login_failed client:* account:* trace_id:={request_id}")


@pytest.mark.needs("jaeger")
def test_jaeger_knows_every_service(platform: Platform, user: Edge) -> None:
    def ask() -> bool:
        known = platform.ask("jaeger", "/api/services").json()["data"]
        assert {service["name"] for service in platform.services()} - set(known) == set()
        return True

    wait_until("Jaeger knows every service", ask)


@pytest.mark.needs("grafana")
def test_grafana_is_provisioned(platform: Platform) -> None:
    assert platform.ask("grafana", "/api/health").json()["database"] == "ok"
    sources = platform.ask("grafana", "/api/datasources").json()
    assert {"prometheus", "jaeger", "alertmanager"} <= {source["type"] for source in sources}
    assert platform.ask("grafana", "/api/search", type="dash-db").json()
