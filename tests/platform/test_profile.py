"""`make profile` draws a running instance, and leaves it running."""

import subprocess
import sys
import threading

import pytest
from belvedere_platform import ROOT, Edge, Platform, at_work

PATHS = {"auth": "/.well-known/jwks.json", "api": "/api/v1/users/me"}


@pytest.mark.parametrize("service", ["auth", "api"])
def test_a_flame_graph_of_an_instance_that_goes_on_running(platform: Platform, service: str) -> None:
    host, number = platform.instances(service)[0]
    started = f"systemctl show --value -p ExecMainStartTimestampMonotonic -p NRestarts '{service}@{number}'"
    before = platform.ssh(host, started)
    command = [sys.executable, "tools/profile_instance.py", service, "--seconds", "2", "--platform", platform.name]
    command += ["--host", host, "--instance", str(number)]

    def ask(over: threading.Event) -> None:  # an instance with nothing to do has nothing to draw
        client = Edge(platform.edge.url, platform.ca)
        while not over.wait(0.005):
            client.get(PATHS[service])

    with at_work(*[ask] * 4):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    graph = (ROOT / done.stdout.splitlines()[-1]).read_text()
    assert graph.startswith("<?xml")
    assert "gunicorn" in graph
    assert platform.ssh(host, started) == before
    assert platform.ssh(host, "ls -d /tmp/py-spy* 2>/dev/null || true") == ""
