"""What breaks costs little: an instance that hangs, a host that dies. Each test puts right what it broke."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from belvedere_platform import Edge, Platform, docker, wait_until

pytestmark = pytest.mark.disruptive

TAKEN_OUT_WITHIN = 15  # seconds: the promise
SLOW = 1.0  # seconds: what a request that needs no password takes at most while all is well


@dataclass
class Load:
    """Threads that send requests until they are told to stop, and remember each: (when, kind, seconds, failure).

    Where a kept connection ends just as a request is sent, they send it again, as every client of HTTP/1.1 must: the
    edge reloads when an instance is taken out.
    """

    user: Edge
    threads: int = 4
    requests: list[tuple[float, str, float, str]] = field(default_factory=list)
    clients: list[Edge] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        stop = threading.Event()
        workers = [threading.Thread(target=self._work, args=(stop, number)) for number in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def failures(self, since: float = 0) -> list[tuple[float, str, float, str]]:
        return [each for each in self.requests if each[3] and each[0] >= since]

    def _work(self, stop: threading.Event, number: int) -> None:
        client = Edge(self.user.url, self.user.ca, self.user.token)  # a connection of its own
        self.clients.append(client)
        item = {"title": f"of thread {number}", "body": ""}
        turn = number
        while not stop.is_set():
            turn += 1
            method, path = (("GET", "/validate"), ("GET", "/api/v1/items"), ("POST", "/api/v1/items"))[turn % 3]
            begun, failure = time.monotonic(), ""
            try:
                answer = client.insist(method, path, timeout=20, json=item if method == "POST" else None)
                failure = "" if answer.status_code < 400 else f"{answer.status_code} {answer.text[:200]}"
            except requests.RequestException as error:
                failure = f"{type(error).__name__}: {error}"
            self.requests.append((begun, f"{method} {path}", time.monotonic() - begun, failure))
            stop.wait(0.05)


def answered_by(platform: Platform, service: dict[str, Any], host: str, number: int) -> float:
    """How many requests (not probes) an instance has answered, as it tells itself."""
    metrics = platform.instance(host, service["base_port"] + number, "/metrics")
    name = f"{service['metric']}_count"
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)", metrics, re.MULTILINE))


def asked(user: Edge, path: str, times: int) -> bool:
    """Whether so many requests in a row were answered well, and quickly."""
    for _ in range(times):
        begun = time.monotonic()
        answer = user.get(path, timeout=SLOW)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - begun <= SLOW
    return True


def gets_requests_again(platform: Platform, user: Edge, service: dict[str, Any], host: str, path: str) -> bool:
    before = answered_by(platform, service, host, 1)
    asked(user, path, 20)
    return answered_by(platform, service, host, 1) > before


PATHS = {"auth": "/validate", "api": "/api/v1/users/me"}


@pytest.mark.parametrize("name", PATHS)
def test_an_instance_that_hangs_is_taken_out_within_15_seconds_and_comes_back(
    platform: Platform, user: Edge, name: str
) -> None:
    service = next(each for each in platform.services() if each["name"] == name)
    host = platform.instances(name)[0][0]
    unit = f"{name}@1.service"
    asked(user, PATHS[name], 5)
    platform.ssh(host, f"sudo systemctl kill --signal=STOP {unit}")
    begun = time.monotonic()
    try:
        # The instance's socket still accepts: whoever is sent there waits. Quick answers only mean that nobody is.
        wait_until(
            f"{unit} on {host} gets no requests",
            lambda: asked(user, PATHS[name], 30),
            seconds=TAKEN_OUT_WITHIN,
            every=0.1,
        )
        print(f"taken out after at most {time.monotonic() - begun:.1f} s")
    finally:
        platform.ssh(host, f"sudo systemctl kill --signal=CONT {unit}")
    wait_until(
        f"{unit} on {host} gets requests again",
        lambda: gets_requests_again(platform, user, service, host, PATHS[name]),
        seconds=45,
    )


def test_an_app_host_that_dies_costs_no_more_than_the_requests_in_flight(platform: Platform, user: Edge) -> None:
    if platform.name != "local":
        pytest.skip("only the local platform's hosts are containers that a test may kill")
    host = platform.groups["api"][0]
    load = Load(user)
    try:
        with load.running():
            wait_until("the load runs", lambda: len(load.requests) >= 50)
            assert load.failures() == [], "before anything broke"
            killed = time.monotonic()
            docker("kill", host)
            wait_until(
                "the load went on for a while without the host", lambda: time.monotonic() > killed + 20, seconds=25
            )
    finally:
        docker("start", host)
    failures = load.failures()
    slowest, repeated = max(each[2] for each in load.requests), sum(client.repeated for client in load.clients)
    print(f"{len(load.requests)} requests, slowest {slowest:.1f} s, {repeated} sent again, failed: {failures}")
    assert [each for each in failures if each[1].startswith("GET")] == [], "a read is tried again elsewhere"
    assert len(failures) <= load.threads, "more than was in flight failed"
    assert load.failures(since=killed + 1) == [], "requests failed that began after the host was gone"

    def booted() -> bool:
        with suppress(AssertionError):  # `degraded` has exit code 1, which the next test would tell of
            return platform.ssh(host, "systemctl is-system-running").strip() == "running"
        return False

    wait_until(f"{host} has booted", booted, seconds=90)
    for name, path in PATHS.items():
        service = next(each for each in platform.services() if each["name"] == name)
        wait_until(
            f"{name} on {host} gets requests again",
            lambda service=service, path=path: gets_requests_again(platform, user, service, host, path),  # type: ignore[misc]
            seconds=60,
        )
    wait_until("no target is down", lambda: not platform.prometheus("up == 0"), seconds=60)
