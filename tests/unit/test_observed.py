"""plugins/callback/observed.py: what a run tells, how little that takes, and that nobody waits for it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """
- name: Change something
  hosts: all
  connection: local
  gather_facts: false
  tasks:
    - name: Do what changes
      ansible.builtin.command: echo {{ password }}
      changed_when: true
    - name: Look
      ansible.builtin.debug: {msg: "{{ password }}"}
    - name: Skip
      ansible.builtin.debug: {msg: never}
      when: false
"""
VARIABLES = {
    "platform_name": "here",
    "platform_textfile_directory": "/metrics",
    "jaeger_otlp_port": 4318,
    "pki_directory": "/tls",
    "pki_ca": "{{ pki_directory }}/ca.crt",
    "pki_certificate": "{{ pki_directory }}/host.crt",
    "pki_key": "{{ pki_directory }}/host.key",
    "password": "a secret that is told nobody",
    "ansible_python_interpreter": sys.executable,
}


@pytest.fixture
def run(tmp_path):
    """Run the playbook where a platform stands, with an SSH that writes down what it is given."""
    inventory = {"observability": {"hosts": {"obs1": {}}}, "all": {"vars": VARIABLES}}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    (tmp_path / "change.yml").write_text(PLAYBOOK)
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\ninventory = hosts.yml\ncallback_plugins = {ROOT}/plugins/callback\ncallbacks_enabled = observed\n"
    )
    (tmp_path / ".state" / "here").mkdir(parents=True)
    (tmp_path / ".state" / "here" / "platform.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"

    def run(does="cat > told.new; mv told.new told"):
        ssh.write_text(f'#!/bin/sh\ncd {tmp_path}; echo "$@" > arguments; {does}\n')
        ssh.chmod(0o755)
        path = f"{ssh.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
        begun = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "change.yml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr, done.stderr
        return time.monotonic() - begun

    return run


def told(folder):
    for _ in range(100):
        if (folder / "told").exists():
            return (folder / "told").read_text()
        time.sleep(0.1)
    raise AssertionError("nothing was sent")


def test_a_run_is_a_trace_of_plays_and_tasks(run, tmp_path):
    run()
    text = told(tmp_path)
    trace = json.loads(next(line for line in text.splitlines() if line.startswith('{"resourceSpans"')))
    (resource,) = trace["resourceSpans"]
    spans = resource["scopeSpans"][0]["spans"]
    names = {span["spanId"]: span["name"] for span in spans}
    above = {span["name"]: names.get(span["parentSpanId"]) for span in spans}
    assert above == {
        "change": None,
        "Change something": "change",
        "Do what changes": "Change something",
        "Look": "Change something",
        "Skip": "Change something",
    }
    assert all(int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) for span in spans)
    assert len({span["traceId"] for span in spans}) == 1


def test_a_run_is_measured(run, tmp_path):
    run()
    text = told(tmp_path)
    assert 'ansible_run_tasks{playbook="change", outcome="changed"} 1' in text
    assert 'ansible_run_tasks{playbook="change", outcome="ok"} 1' in text
    assert 'ansible_run_tasks{playbook="change", outcome="failed"} 0' in text
    assert re.search(r'ansible_run_duration_seconds\{playbook="change"\} \d+\.\d', text)


def test_it_goes_to_the_observability_host_with_that_host_s_certificate(run, tmp_path):
    run()
    assert "--cacert /tls/ca.crt --cert /tls/host.crt --key /tls/host.key" in told(tmp_path)
    assert (tmp_path / "arguments").read_text().split("ConnectTimeout=3 ")[1] == "obs1 sudo sh -s\n"


def test_neither_arguments_nor_results_are_told(run, tmp_path):
    run()
    assert "secret" not in told(tmp_path)


def test_nobody_waits_for_an_observability_host_that_is_away(run, tmp_path):
    usual = run()
    assert run("sleep 15") < usual + 8


def test_a_run_before_the_platform_stands_tells_nobody(run, tmp_path):
    (tmp_path / ".state" / "here" / "platform.json").unlink()
    run()
    time.sleep(1)
    assert not (tmp_path / "arguments").exists()
