"""What the services' instances share in Valkey, and that they go on without it."""

import json
import re
import time
import uuid

import pytest
from belvedere_platform import PASSWORD, Edge, Platform, wait_until

ALLOWED = 10  # failures of one account, THROTTLE_ACCOUNT_FAILURES


@pytest.fixture(scope="module")
def cache_host(platform: Platform) -> str:
    hosts = platform.groups.get("cache", [])
    if not hosts:
        pytest.skip("the inventory has no host in the group cache")
    return hosts[0]


def register(anonymous: Edge) -> str:
    email = f"{uuid.uuid4().hex}@example.com"
    assert anonymous.post("/register", json={"email": email, "password": PASSWORD}).status_code == 201
    return email


def log_in_at(platform: Platform, host: str, number: int, email: str, password: str) -> int:
    """The status of a login at one instance, past the edge, from an address of its own."""
    port = next(each["base_port"] for each in platform.services() if each["name"] == "auth") + number
    tls = platform.facts["tls"]
    command = (
        "sudo curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10"
        f" --cacert {tls['ca']} --cert {tls['certificate']} --key {tls['key']}"
        " --header 'Content-Type: application/json' --header 'X-Forwarded-For: 192.0.2.77'"
        f" --data @- https://localhost:{port}/login"
    )
    return int(platform.ssh(host, command, json.dumps({"email": email, "password": password})))


def metric(platform: Platform, service: str, name: str) -> float:
    """The sum of a counter over a service's instances, asked of themselves; `name` is a pattern with its labels."""
    base = next(each["base_port"] for each in platform.services() if each["name"] == service)
    pages = (platform.instance(host, base + number, "/metrics") for host, number in platform.instances(service))
    return sum(float(value) for page in pages for value in re.findall(rf"^{name} (\S+)", page, re.MULTILINE))


def test_failures_spread_over_instances_lock_the_account_after_the_limit_in_total(
    platform: Platform, anonymous: Edge, cache_host: str
) -> None:
    email, instances = register(anonymous), platform.instances("auth")
    assert len(instances) > 1
    for turn in range(ALLOWED - 1):
        assert log_in_at(platform, *instances[turn % len(instances)], email, "wrong") == 401
    unlocked = register(anonymous)
    assert log_in_at(platform, *instances[0], unlocked, PASSWORD) == 200
    assert log_in_at(platform, *instances[-1], email, "wrong") == 401
    assert [log_in_at(platform, *instance, email, PASSWORD) for instance in instances] == [401] * len(instances)


def test_a_row_that_was_read_is_kept_and_saves_the_next_reader_s_query(
    platform: Platform, user: Edge, cache_host: str
) -> None:
    item = user.post("/api/v1/items", json={"title": "kept", "body": ""})
    path, hit = item.headers["Location"], r'api_cache_requests_total{kind="item",result="hit"}'
    before = metric(platform, "api", hit)
    answers = [user.get(path) for _ in range(8)]
    assert [answer.json() for answer in answers] == [item.json()] * 8
    assert metric(platform, "api", hit) - before >= 7, "at most the first one asks the database"
    assert user.request("PATCH", path, json={"title": "changed"}).status_code == 200
    assert {user.get(path).json()["title"] for _ in range(8)} == {"changed"}
    assert user.request("DELETE", path).status_code == 204
    assert {user.get(path).status_code for _ in range(8)} == {404}


@pytest.mark.disruptive
def test_without_valkey_logins_and_reads_go_on_and_an_alert_says_so(
    platform: Platform, anonymous: Edge, user: Edge, cache_host: str
) -> None:
    item = user.post("/api/v1/items", json={"title": "kept", "body": ""}).headers["Location"]
    email = register(anonymous)
    credentials = {"email": email, "password": PASSWORD}
    slowest = 0.0

    def all_goes_on() -> None:
        nonlocal slowest
        for _ in range(4):
            begun = time.monotonic()
            assert anonymous.post("/login", json=credentials).status_code == 200
            assert user.get(item).json()["title"] == "kept"
            assert user.get("/api/v1/users/me").status_code == 200
            slowest = max(slowest, time.monotonic() - begun)

    all_goes_on()
    with_valkey, slowest = slowest, 0.0
    before = metric(platform, "auth", r'auth_throttle_store_requests_total{counts="own"}')
    platform.ssh(cache_host, "sudo systemctl stop valkey-server")
    try:
        all_goes_on()
        print(f"a login and two reads took at most {with_valkey:.2f} s with Valkey, and {slowest:.2f} s without")
        assert metric(platform, "auth", r'auth_throttle_store_requests_total{counts="own"}') > before

        def firing() -> bool:
            all_goes_on()
            return bool(platform.prometheus('ALERTS{alertname="ValkeyDown", alertstate=~"pending|firing"}'))

        wait_until("ValkeyDown is pending or fires", firing, seconds=90, every=2)
    finally:
        platform.ssh(cache_host, "sudo systemctl start valkey-server")

    def shared_again() -> bool:
        count = r'auth_throttle_store_requests_total{counts="own"}'
        before = metric(platform, "auth", count)
        all_goes_on()
        return metric(platform, "auth", count) == before

    wait_until("all instances count together again", shared_again, seconds=60, every=2)
    wait_until("Prometheus sees it", lambda: platform.prometheus("redis_up == 1"), seconds=60)
