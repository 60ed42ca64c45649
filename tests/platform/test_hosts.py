"""The hosts: what they take at rest, and what runs on them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from belvedere_platform import ROOT, Platform

AT_REST = {"auth": 150, "api": 120}  # MiB for an instance
ALL_HOSTS = 6 * 1024  # MiB


@pytest.fixture(scope="module")
def memory(platform: Platform) -> dict[str, dict[str, int]]:
    """MiB by unit, by host, as `make info` shows them."""
    script = (ROOT / "tools" / "memory.py").read_text()
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda host: platform.python(host, script), platform.hosts)
        return dict(zip(platform.hosts, answers, strict=True))


@pytest.mark.parametrize("service", AT_REST)
def test_an_instance_takes_little_memory_at_rest(
    platform: Platform, memory: dict[str, dict[str, int]], service: str
) -> None:
    taken = {
        f"{host} {unit}": mib
        for host, units in memory.items()
        for unit, mib in units.items()
        if unit.startswith(f"{service}@")
    }
    print(taken)
    assert len(taken) == len(platform.instances(service)) > 0
    assert {unit: mib for unit, mib in taken.items() if not 10 < mib <= AT_REST[service]} == {}


def test_all_hosts_together_take_at_most_6_gib(memory: dict[str, dict[str, int]]) -> None:
    taken = {host: sum(units.values()) for host, units in memory.items()}
    print(taken)
    assert sum(taken.values()) <= ALL_HOSTS, taken


def test_no_unit_has_failed(platform: Platform) -> None:
    failed = {host: platform.ssh(host, "systemctl --failed --plain --no-legend") for host in platform.hosts}
    assert {host: units for host, units in failed.items() if units.strip()} == {}


@pytest.mark.parametrize("service", AT_REST)
def test_every_host_of_a_service_runs_an_instance_for_each_core(platform: Platform, service: str) -> None:
    instances = platform.instances(service)
    for host in {host for host, _ in instances}:
        assert sorted(number for at, number in instances if at == host) == list(
            range(1, int(platform.ssh(host, "nproc")) + 1)
        )
