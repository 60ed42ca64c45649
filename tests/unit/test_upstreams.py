"""What belvedere-upstreams decides: who is in, who is out, and what Nginx is told."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles/nginx/files/upstreams.py"
spec = importlib.util.spec_from_file_location("upstreams", SOURCE)
assert spec and spec.loader
upstreams = importlib.util.module_from_spec(spec)
sys.modules["upstreams"] = upstreams
spec.loader.exec_module(upstreams)


def instance(host: str = "app1", port: int = 8101, drain: bool = False):
    return upstreams.Instance("auth", host, f"10.0.0.{host[-1]}", port, drain)


def healthy(*instances):
    health = upstreams.Health()
    for each in instances:
        health.observe(each, True)
    return health


def test_a_new_instance_is_out_until_its_first_success():
    health, new = upstreams.Health(), instance()
    assert not health.up(new)
    assert health.observe(new, False) == "upstream_down"
    assert health.observe(new, False) is None
    assert health.observe(new, True) == "upstream_up"
    assert health.up(new)


def test_one_failure_is_forgiven_and_two_in_a_row_are_not():
    one = instance()
    health = healthy(one)
    assert health.observe(one, False) is None
    assert health.observe(one, True) is None
    assert health.observe(one, False) is None
    assert health.up(one)
    assert health.observe(one, False) == "upstream_down"
    assert not health.up(one)


def test_one_success_brings_an_instance_back():
    one = instance()
    health = healthy(one)
    for _ in range(10):
        health.observe(one, False)
    assert health.observe(one, True) == "upstream_up"


def test_a_failed_instance_gets_no_requests():
    one, two = instance("app1"), instance("app2")
    assert upstreams.choose(["auth"], [one, two], healthy(two)) == {"auth": [two]}


def test_if_all_fail_all_stay():
    one, two = instance("app1"), instance("app2")
    assert upstreams.choose(["auth"], [two, one], upstreams.Health()) == {"auth": [one, two]}


def test_a_draining_host_gets_no_requests_even_if_all_others_fail():
    draining, failed = instance("app1", drain=True), instance("app2")
    assert upstreams.choose(["auth"], [draining, failed], healthy(draining)) == {"auth": [failed]}


def test_a_host_that_drains_keeps_its_health():
    assert healthy(instance()).up(instance(drain=True))


def test_an_instance_that_left_is_forgotten():
    one = instance()
    health = healthy(one)
    health.forget_all_but([])
    assert not health.up(one)


def test_a_service_without_instances_is_a_valid_upstream_of_no_members():
    text = upstreams.render({"auth": []}, 3, 10)
    assert 'map "" $auth_members { default 0; }' in text
    assert "down;" in text
    assert "backup" not in text


def test_one_host_has_no_backup():
    text = upstreams.render({"auth": [instance(port=8101), instance(port=8102)]}, 3, 10)
    assert text.count("    server ") == 2
    assert "backup" not in text


def test_each_of_several_hosts_has_one_backup_that_passive_checks_cannot_rule_out():
    members = [instance("app1", 8101), instance("app1", 8102), instance("app2", 8101)]
    lines = upstreams.render({"auth": members}, 3, 10).splitlines()
    assert [line.split()[1] for line in lines if "backup" in line] == ["10.0.0.1:8101", "10.0.0.2:8101"]
    assert all("max_fails=0" in line for line in lines if "backup" in line)
    assert sum("max_fails=3 fail_timeout=10s" in line for line in lines) == 3


def test_the_state_says_what_is_routed_to_and_what_is_down():
    one, two = instance("app1"), instance("app2")
    health = healthy(one)
    routes = upstreams.choose(["auth", "api"], [one, two], health)
    assert json.loads(upstreams.state(routes, [one, two], health)) == {
        "routes": {"auth": {"app1": [8101]}, "api": {}},
        "down": ["auth app2:8101"],
    }


def test_fragments_are_read_and_broken_ones_reported(tmp_path, capsys):
    folder = tmp_path / "auth"
    folder.mkdir()
    fragment = {"service": "auth", "host": "app1", "address": "10.0.0.1", "ports": [8101, 8102], "drain": False}
    (folder / "app1.json").write_text(json.dumps(fragment))
    (folder / "app2.json").write_text("{")
    (folder / ".app3.json").write_text("half written")
    found = upstreams.read_fragments(tmp_path, ["auth", "api"])
    assert [i.port for i in found] == [8101, 8102]
    assert json.loads(capsys.readouterr().out)["event"] == "fragment_refused"


@pytest.mark.parametrize("change", ["write", "remove", "add"])
def test_a_changed_fragment_is_noticed(tmp_path, change):
    folder = tmp_path / "auth"
    folder.mkdir()
    (folder / "app1.json").write_text("{}")
    before = upstreams.signature(tmp_path)
    assert upstreams.signature(tmp_path) == before
    if change == "write":
        upstreams.replace(folder / "app1.json", "[]")
    elif change == "remove":
        (folder / "app1.json").unlink()
    else:
        (folder / "app2.json").write_text("{}")
    assert upstreams.signature(tmp_path) != before


@pytest.fixture
def nginx(tmp_path, monkeypatch):
    """An Nginx that is not running, and whose check accepts what does not say 'bad'."""
    program = tmp_path / "nginx"
    output = tmp_path / "upstreams.conf"
    program.write_text(f"#!/bin/sh\n! grep -q bad {output}\n")
    program.chmod(0o755)
    monkeypatch.setattr(upstreams, "NGINX", str(program))
    return upstreams.Nginx(output, 1), output


def test_what_nginx_refuses_is_taken_back(nginx):
    program, output = nginx
    assert program.apply("good\n")
    good = output.read_text()
    assert not program.apply("bad\n")
    assert output.read_text() == good


def test_what_is_applied_already_is_not_written_again(nginx):
    program, output = nginx
    assert program.apply("good\n")
    output.unlink()
    assert program.apply("good\n")
    assert not output.exists()
