"""Several edges are one: their address moves when one fails, and a drained one loses nobody's request."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
import requests
from belvedere_platform import Edge, Platform, assert_problem, at_work, wait_until

pytestmark = pytest.mark.disruptive

MOVES_WITHIN = 3.0  # seconds: the promise
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

# Everything but this machine's SSH is lost, in both directions.
ISOLATED = """table inet isolated {{
  chain input {{ type filter hook input priority -20; ip saddr {control} tcp dport 22 accept; iif != lo drop; }}
  chain output {{ type filter hook output priority -20; ip daddr {control} tcp sport 22 accept; oif != lo drop; }}
}}"""
CONNECT = "sudo nft delete table inet isolated"


def holders(platform: Platform) -> list[str]:
    """The edges that have the address which clients use."""
    address = urlsplit(platform.url("edge")).hostname
    return [edge for edge in platform.groups["edge"] if platform.ssh(edge, f"ip -brief address show to {address}")]


def all_serve(platform: Platform) -> bool:
    """Whether one edge has the address, and all others wait to take it."""
    active = [platform.ssh(edge, "systemctl is-active nginx keepalived").split() for edge in platform.groups["edge"]]
    return len(holders(platform)) == 1 and all(states == ["active"] * 2 for states in active)


@pytest.fixture(autouse=True)
def whole(platform: Platform) -> Iterator[None]:
    if len(platform.groups["edge"]) < 2:
        pytest.skip("there is one edge only")
    wait_until("all edges serve", lambda: all_serve(platform))
    time.sleep(3)  # an edge that has just come back has to be found well twice before it may take the address
    yield
    wait_until("all edges serve again", lambda: all_serve(platform), seconds=60)


def stop_nginx(platform: Platform, edge: str) -> Callable[[], object]:
    platform.ssh(edge, "sudo systemctl stop nginx")
    return lambda: platform.ssh(edge, "sudo systemctl start nginx")


def hang_nginx(platform: Platform, edge: str) -> Callable[[], object]:
    platform.ssh(edge, "sudo systemctl kill --signal=STOP nginx")
    return lambda: platform.ssh(edge, "sudo systemctl kill --signal=CONT nginx")


def lose_host(platform: Platform, edge: str) -> Callable[[], object]:
    # Should this test die; by then it is mostly mended.
    platform.ssh(edge, f"sudo systemd-run --quiet --on-active=40 sh -c '{CONNECT} || true'")
    platform.ssh(edge, "sudo nft --file -", ISOLATED.format(control=platform.facts["control_addresses"][0]))
    return lambda: platform.ssh(edge, CONNECT)


@pytest.mark.parametrize("fail", [stop_nginx, hang_nginx, lose_host], ids=lambda fail: fail.__name__)
def test_the_address_moves_from_an_edge_that_fails(
    platform: Platform, fail: Callable[[Platform, str], Callable[[], object]], capsys: pytest.CaptureFixture[str]
) -> None:
    (edge,) = holders(platform)
    served: list[float] = []

    def ask(stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                answer = requests.get(f"{platform.edge.url}/edge-health", verify=platform.ca, timeout=0.3)
                if answer.status_code == 200:
                    served.append(time.monotonic())
            except requests.RequestException:
                pass
            stop.wait(0.02)

    def others_have_it() -> bool:
        return any(platform.ssh(other, f"ip -brief address show to {address}") for other in others)

    address = urlsplit(platform.url("edge")).hostname
    others = [each for each in platform.groups["edge"] if each != edge]
    with at_work(*[ask] * 3):
        wait_until("clients are served", lambda: len(served) > 20)
        begun = time.monotonic()
        repair = fail(platform, edge)
        try:
            wait_until("another edge has the address", others_have_it, seconds=15)
            failed = time.monotonic()
            wait_until("clients are served by it", lambda: sum(moment > failed for moment in served) > 20)
        finally:
            repair()
    gap = max(later - earlier for earlier, later in pairwise(sorted(served)) if later > begun)
    with capsys.disabled():
        print(f" [{fail.__name__}: {gap:.1f} s without an answer]", end="")
    assert gap <= MOVES_WITHIN


def test_draining_an_edge_under_load_fails_no_request(
    platform: Platform, user: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients with connections that they keep, and clients that connect anew for each request.

    Where a kept connection ends just as a request is sent, the client sends it again, as every client of HTTP/1.1 must.
    """
    (edge,) = holders(platform)
    kept = [Edge(user.url, user.ca, user.token) for _ in range(4)]
    waiting = list(kept)
    answered: list[tuple[float, int]] = []
    failed: list[tuple[float, int | str]] = []

    def ask(client: Edge | None, number: int) -> None:
        fresh = client is None
        client = client or Edge(user.url, user.ca, user.token)
        begun = time.monotonic()
        try:
            item = {"title": f"{number}", "body": ""}
            method, options = (("POST", {"json": item}), ("GET", {}))[number % 2]
            answer = client.insist(
                method, "/api/v1/items", timeout=15, headers={"Connection": "close"} if fresh else {}, **options
            )
            (answered if answer.status_code in (200, 201) else failed).append(
                (time.monotonic() - begun, answer.status_code)
            )
        except requests.RequestException as error:
            failed.append((time.monotonic() - begun, f"{'new' if fresh else 'kept'} connection: {error}"))

    def work(stop: threading.Event) -> None:
        client = waiting.pop() if waiting else None
        number = 0
        while not stop.wait(0.02):
            number += 1
            ask(client, number)

    try:
        with at_work(*[work] * 8):
            wait_until("clients are served", lambda: len(answered) > 50)
            output = platform.ansible(
                "ansible-playbook", "playbooks/drain_edge.yml", "-e", f"edge={edge}", timeout=120
            ).stdout
            drained, count = holders(platform), len(answered)
            wait_until("clients are served by another edge", lambda: len(answered) > count + 50)
        health = "curl --silent --insecure --output /dev/null --write-out '%{http_code}' https://127.0.0.1/edge-health"
        assert platform.ssh(edge, health) == "503"
    finally:
        platform.ansible("ansible-playbook", "playbooks/undrain_edge.yml", "-e", f"edge={edge}", timeout=120)
    with capsys.disabled():
        slowest, repeated = max(seconds for seconds, _ in answered), sum(client.repeated for client in kept)
        print(f" [{len(answered)} answered, slowest {slowest:.1f} s, {repeated} sent again]", end="")
    assert drained != [edge] and len(drained) == 1, output[-2000:]
    assert failed == []
    assert holders(platform) == drained, "the address moved back, and broke connections"
    assert platform.ssh(edge, health) == "200"


def test_the_last_edge_is_not_drained(platform: Platform) -> None:
    first, *others = platform.groups["edge"]
    for other in others:
        platform.ssh(other, "sudo systemctl stop nginx")
    try:
        with pytest.raises(AssertionError, match="No other edge"):
            platform.ansible("ansible-playbook", "playbooks/drain_edge.yml", "-e", f"edge={first}", timeout=120)
    finally:
        for other in others:
            platform.ssh(other, "sudo systemctl start nginx")


def test_maintenance_is_told_to_browsers_and_programs(platform: Platform, user: Edge) -> None:
    def switch(state: str) -> None:
        platform.ansible("ansible-playbook", "playbooks/maintenance.yml", "-e", f"maintenance={state}", timeout=120)

    try:
        switch("on")
        answer = user.get("/api/v1/items")
        assert assert_problem(answer, 503)["title"] == "Under Maintenance"
        assert int(answer.headers["Retry-After"]) > 0
        page = user.get("/api/v1/items", headers=BROWSER)
        assert (page.status_code, page.headers["Content-Type"]) == (503, "text/html")
        assert "Under maintenance" in page.text
        assert user.get("/edge-health").status_code == 200
    finally:
        switch("off")
    assert user.get("/api/v1/items").status_code == 200
