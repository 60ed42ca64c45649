"""`make profile` draws a running instance, and leaves it running."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from belvedere_platform import ROOT, Edge, Platform

PATHS = {"auth": "/.well-known/jwks.json", "api": "/api/v1/users/me"}


@contextmanager
def asked(edge: Edge, path: str) -> Iterator[None]:
    """Requests all the while: an instance with nothing to do has nothing to draw."""
    over = threading.Event()

    def ask() -> None:
        client = Edge(edge.url, edge.ca)
        while not over.wait(0.005):
            client.get(path)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("service", ["auth", "api"])
def test_a_flame_graph_of_an_instance_that_goes_on_running(platform: Platform, service: str) -> None:
    host, number = platform.instances(service)[0]
    started = f"systemctl show --value -p ExecMainStartTimestampMonotonic -p NRestarts '{service}@{number}'"
    before = platform.ssh(host, started)
    command = [sys.executable, "tools/profile_instance.py", service, "--seconds", "2", "--platform", platform.name]
    command += ["--host", host, "--instance", str(number)]
    with asked(platform.edge, PATHS[service]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    graph = (ROOT / done.stdout.splitlines()[-1]).read_text()
    assert graph.startswith("<?xml")
    assert "gunicorn" in graph
    assert platform.ssh(host, started) == before
    assert platform.ssh(host, "ls -d /tmp/py-spy* 2>/dev/null || true") == ""
