"""docs/add-a-service.md, followed to the letter on the running platform, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from add_a_service import Page
from belvedere_platform import ROOT, Edge, Platform, assert_problem, wait_until

Run = Callable[[list[str]], str]

MINUTES = 15  # what a new service may take, from its folder to its first answer


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of this checkout with the same state, which makes it the same platform."""
    copy = tmp_path / "belvedere"
    leave = shutil.ignore_patterns(".git", ".state", ".venv", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=leave, symlinks=True)
    for name in (".state", ".venv"):
        (copy / name).symlink_to((ROOT / name).resolve())
    yield copy
    shutil.rmtree(copy)


@pytest.fixture
def run(checkout: Path) -> Run:
    """Runs blocks of commands, in a shell that ends at the first failure; what they printed."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    environment.pop("PYTHONUNBUFFERED", None)

    def run(blocks: list[str]) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input="\n".join(blocks),
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2400,
        )
        assert done.returncode == 0, f"{blocks}:\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    return run


def test_a_service_comes_and_goes_by_its_declaration_alone(platform: Platform, checkout: Path, run: Run) -> None:
    page, begun = Page.read(), time.monotonic()
    assert sorted(page.commands) == ["Bring it up", "Take it away", "Use it"]
    page.write(checkout)
    try:
        run(page.commands["Bring it up"])
        answer = run([block.replace("https://172.30.0.10", platform.edge.url) for block in page.commands["Use it"]])
        minutes = (time.monotonic() - begun) / 60
        print(f"from a folder to the first order: {minutes:.1f} minutes")
        assert minutes < 2 * MINUTES
        has_all_that_a_service_has(platform, checkout, answer)
    finally:
        run(page.commands["Take it away"])
    is_gone(platform, checkout)


def has_all_that_a_service_has(platform: Platform, checkout: Path, answer: str) -> None:
    assert re.search(r"^HTTP/\S+ 201", answer, re.MULTILINE), answer
    request_id = re.findall(r"^x-request-id: (\w{32})", answer, re.MULTILINE | re.IGNORECASE)[-1]
    order_id = re.findall(r'"id": ?"([0-9a-f-]{36})"', answer)[-1]

    # Its route, for who is signed in; what it stored, through the pooler.
    assert_problem(Edge(platform.edge.url, platform.ca).get(f"/api/v1/orders/{order_id}"), 401)
    stranger = platform.edge.as_new_user()
    assert_problem(stranger.get(f"/api/v1/orders/{order_id}"), 404)
    assert_problem(stranger.post("/api/v1/orders", json={"product": "tea", "quantity": 0}), 422)
    stored = platform.sql(platform.primary(), "select id, product, quantity from orders.orders").splitlines()
    assert f"{order_id}|tea|2" in stored
    hosts = platform.groups["api"]
    for host in hosts:
        assert platform.instance(host, 8301, "/readyz") == "ready\n"

    # What watches knows it.
    asked = 'orders_service_duration_seconds_count{job="orders", route="/api/v1/orders", method="POST", status="201"}'
    wait_until("Prometheus has its metric", lambda: platform.prometheus(f"{asked} > 0"), seconds=60)
    assert {target["metric"]["host"] for target in platform.prometheus('up{job="orders"} == 1')} == set(hosts)
    assert platform.prometheus('pgbouncer_pools_client_active_connections{user="orders"}')
    wait_until("its objectives count", lambda: platform.prometheus('slo:objective{service="orders"}'), seconds=90)
    assert (checkout / "dashboards/json/service-orders.json").exists()
    spans = wait_until("Jaeger has its trace", lambda: platform.trace(request_id), seconds=60)
    assert {"POST /api/v1/orders", "INSERT primary"} <= {span["operationName"] for span in spans}
    (line,) = wait_until(
        "VictoriaLogs has its line",
        lambda: platform.logs(f'"{request_id}" | unpack_json | filter event:="order_placed"'),
        seconds=60,
    )
    assert (line["service"], line["order_id"]) == ("orders", order_id)


def is_gone(platform: Platform, checkout: Path) -> None:
    for host in platform.groups["api"]:
        # Both fail where nothing is left; what they print is the answer.
        left = platform.ssh(
            host,
            "ls -d /opt/orders /etc/orders /etc/systemd/system/orders* 2>/dev/null; id -un orders 2>/dev/null || true",
        )
        assert left == ""
    assert_problem(Edge(platform.edge.url, platform.ca).get("/api/v1/orders/x"), 404)
    wait_until("Prometheus has forgotten it", lambda: not platform.prometheus('up{job="orders"}'), seconds=90)
    asked = 'ALERTS{alertname="TargetMissing", job="orders"}'  # pending or firing
    wait_until("nobody is about to be told that it is missing", lambda: not platform.prometheus(asked), seconds=60)
    assert not (checkout / "dashboards/json/service-orders.json").exists()
    primary = platform.primary()
    assert platform.sql(primary, "select rolcanlogin from pg_roles where rolname = 'orders'") == "f"
    assert platform.sql(primary, "select count(*) > 0 from orders.orders") == "t"
    platform.sql(primary, "drop schema orders cascade; drop owned by orders; drop role orders")
