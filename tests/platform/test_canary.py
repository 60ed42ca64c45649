"""No secret and no e-mail address reaches a log, a span or a metric, wherever a client puts it.

Each store is searched whole, for what has happened since the test began. That the search finds something is shown by a
control: what the store must hold, since the same requests brought it there.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from belvedere_platform import Edge, Platform, assert_problem, wait_until

# Runs on a host as root, with its arguments in itself: sudo logs command lines.
SEARCH = """
import json, os, subprocess, sys
needles, since = {needles!r}, {since!r}
found = {{"journal": set(), "files": set()}}
journal = subprocess.Popen(["journalctl", "--output=export", f"--since=@{{since}}"], stdout=subprocess.PIPE)
def search(stream, place):
    rest = b""
    while piece := stream.read(1 << 20):
        text = rest + piece
        found[place] |= {{needle for needle in needles if needle.encode() in text}}
        rest = text[-4096:]
search(journal.stdout, "journal")
assert journal.wait() == 0
for folder, _, names in os.walk("/var/log"):
    for name in names:
        path = os.path.join(folder, name)
        if not folder.startswith("/var/log/journal") and os.path.isfile(path) and os.path.getmtime(path) >= since:
            with open(path, "rb") as opened:
                search(opened, "files")
print(json.dumps({{place: sorted(needles) for place, needles in found.items()}}))
"""


@dataclass
class Traces:
    """What the requests of this test brought with them, and where they must have left something."""

    since: int
    secrets: dict[str, str] = field(default_factory=dict)  # the secret → what it is
    failed_login: str = ""  # a request's id: of the one that all stores hear of

    def secret(self, what: str) -> str:
        made = f"canary{uuid.uuid4().hex}"
        self.secrets[made] = what
        return made


@contextmanager
def tables_locked(platform: Platform, seconds: float, times: int = 1) -> Iterator[None]:
    """Whoever writes waits for so long, again and again: statements are slow, or fail."""
    tables = "auth.accounts, auth.sessions, auth.refresh_tokens, auth.mail_tokens, api.users, api.items"
    lock = f"begin; lock table {tables} in share mode; select pg_sleep({seconds}); rollback; select pg_sleep(0.1);\n"
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(platform.sql, platform.primary(), lock * times, timeout=seconds * times + 30)
        time.sleep(1)
        yield
        held.result()


@pytest.fixture(scope="module")
def canary(platform: Platform) -> Traces:
    """Requests of every kind that brings secrets, good and bad, and some whose statements are slow or fail."""
    seen = Traces(since=int(time.time()) - 1)
    ask_with_secrets(platform, seen)
    with tables_locked(platform, 0.4, times=20):
        ask_with_secrets(platform, seen)
    with tables_locked(platform, 8):  # longer than a service's role waits for a lock
        email, password = f"{seen.secret('an e-mail address that cannot be written')}@example.com", uuid.uuid4().hex
        assert_problem(platform.edge.post("/register", json={"email": email, "password": password}), 503)
    return seen


def ask_with_secrets(platform: Platform, seen: Traces) -> None:
    client = Edge(platform.edge.url, platform.ca)
    email, password = f"{seen.secret('an e-mail address')}@example.com", seen.secret("a password")
    account = {"email": email, "password": password}
    assert client.post("/register", json=account).status_code == 201
    assert client.post("/register", json=account).status_code == 409
    granted = client.post("/login", json=account).json()
    for name in ("access_token", "refresh_token"):
        seen.secrets[granted[name]] = f"an {name}"
    client.token = granted["access_token"]
    item = {"title": seen.secret("an item's title"), "body": seen.secret("an item's body")}
    place = client.post("/api/v1/items", json=item).headers["Location"]
    client.request("PATCH", place, json={"title": seen.secret("an item's new title")})
    client.request("PATCH", "/api/v1/users/me", json={"display_name": seen.secret("a name")})
    changed = {"current": password, "new": seen.secret("a new password")}
    assert client.post("/password", json=changed).status_code == 204
    refreshed = client.post("/refresh", json={"refresh_token": granted["refresh_token"]}).json()
    seen.secrets[refreshed["refresh_token"]] = "a refresh token that a refresh gave"
    client.post("/refresh", json={"refresh_token": granted["refresh_token"]})  # used twice: that is logged

    stranger = Edge(platform.edge.url, platform.ca)
    wrong = {
        "email": f"{seen.secret('an unknown e-mail address')}@example.com",
        "password": seen.secret("a wrong password"),
    }
    failed = stranger.post("/login", json=wrong)
    assert failed.status_code == 401
    seen.failed_login = failed.headers["X-Request-Id"]
    stranger.post("/login", json={"email": seen.secret("what is no e-mail address"), "password": 1})
    stranger.post("/login", data=f'{{"password": "{seen.secret("a password in broken JSON")}"')
    stranger.post("/login", json=wrong | {seen.secret("a field's name"): ""})
    stranger.post("/login?password=" + seen.secret("a password in the query"), json=wrong)
    stranger.get("/none?reset_token=" + seen.secret("a token in the query"))
    stranger.get("/validate", headers={"Authorization": "Bearer " + seen.secret("a bearer's token")})
    stranger.get("/validate", headers={"Authorization": "Basic " + seen.secret("a basic login")})
    stranger.get("/api/v1/items", headers={"Cookie": "session=" + seen.secret("a cookie")})
    stranger.get("/api/v1/items?after=" + seen.secret("a cursor"), headers={"Authorization": f"Bearer {client.token}"})
    stranger.post("/api/v1/items", json=item, headers={"Idempotency-Key": seen.secret("an idempotency key")})
    for path in ("/refresh", "/logout"):
        stranger.post(path, json={"refresh_token": seen.secret(f"a token to {path}")})
    for path in ("/password/reset", "/password/reset/confirm", "/verify"):
        stranger.post(path, json={"token": seen.secret("a reset token"), "password": seen.secret("a password to set")})


def leaks(canary: Traces, found: Callable[[str], bool]) -> list[str]:
    return [what for secret, what in canary.secrets.items() if found(secret)]


@pytest.mark.needs("victorialogs")
def test_no_secret_is_in_victorialogs(platform: Platform, canary: Traces) -> None:
    def lines() -> str:
        times = {"start": canary.since, "end": int(time.time()) + 1}
        text = platform.ask("logs", "/select/logsql/query", query="*", **times).text
        assert text.count(canary.failed_login) >= 2, "the failed login's lines, the edge's and auth's, are not there"
        assert '"event":"slow_query"' in text, "no statement was slow"
        return text

    text = wait_until("VictoriaLogs has the failed login", lines)
    assert leaks(canary, text.__contains__) == []


@pytest.mark.needs("jaeger")
def test_no_secret_is_in_jaeger(platform: Platform, canary: Traces) -> None:
    def traces() -> str:
        times = {"start": int(canary.since * 1e6), "end": int(time.time() * 1e6)}
        services = [service["name"] for service in platform.services()]
        text = "".join(
            platform.ask("jaeger", "/api/traces", service=name, limit=1500, **times).text for name in services
        )
        assert canary.failed_login in text
        return text

    text = wait_until("Jaeger has the failed login", traces, seconds=45)
    assert leaks(canary, text.__contains__) == []


def test_no_secret_is_in_prometheus(platform: Platform, canary: Traces) -> None:
    def series() -> str:
        times = {"start": canary.since, "end": int(time.time()) + 1}
        text = platform.ask("prometheus", "/api/v1/series", **{"match[]": '{__name__=~".+"}'}, **times).text
        text += platform.ask("prometheus", "/api/v1/query_exemplars", query='{__name__=~".+_bucket"}', **times).text
        assert '"route":"/password"' in text, "the change of the password has not been scraped yet"
        assert '"trace_id"' in text, "there are no exemplars"
        return text

    text = wait_until("Prometheus has scraped since", series, seconds=45)
    assert leaks(canary, text.__contains__) == []


def test_no_secret_is_in_a_journal_or_a_log_file(platform: Platform, canary: Traces) -> None:
    needles = [*canary.secrets, canary.failed_login]

    def search(host: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = platform.python(host, SEARCH.format(needles=needles, since=canary.since))
        return found

    def found_by_host() -> dict[str, dict[str, list[str]]]:
        found = {host: search(host) for host in platform.hosts}
        for group in ("edge", "auth"):
            assert [host for host in platform.groups[group] if canary.failed_login in found[host]["journal"]]
        assert [host for host in platform.groups["edge"] if canary.failed_login in found[host]["files"]]
        return found

    hosts = wait_until("the journals have the failed login", found_by_host)
    leaked = {
        f"{host}, {place}": [canary.secrets[needle] for needle in needles if needle in canary.secrets]
        for host, places in hosts.items()
        for place, needles in places.items()
    }
    assert {place: what for place, what in leaked.items() if what} == {}


def test_the_search_on_a_host_would_find_a_secret(platform: Platform, canary: Traces) -> None:
    leaked = f"canary{uuid.uuid4().hex}"
    host = platform.groups["auth"][0]
    platform.ssh(host, "xargs logger --", script=leaked)
    found = platform.python(host, SEARCH.format(needles=[leaked], since=canary.since))
    assert found["journal"] == [leaked]
