"""A second run of site.yml changes nothing."""

import re
from itertools import pairwise

from belvedere_platform import Platform

RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


def test_running_site_yml_again_changes_nothing(platform: Platform) -> None:
    output = platform.ansible("ansible-playbook", "site.yml", timeout=1800).stdout
    recap = {host: tuple(map(int, numbers)) for host, *numbers in RECAP.findall(output)}
    assert set(recap) >= set(platform.hosts), output[-2000:]
    changed = [line for line in output.splitlines() if line.startswith(("TASK", "RUNNING", "changed"))]
    tasks = [f"{task} {line}" for task, line in pairwise(changed) if line.startswith("changed")]
    assert {host: counts[1] for host, counts in recap.items() if counts[1]} == {}, tasks
