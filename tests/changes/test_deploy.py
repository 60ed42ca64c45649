"""Releases come and go while clients write and read: none of them sees it, not even where a release is broken."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from belvedere_platform import ROOT, Platform, wait_until
from ledger import Ledger, Watch

RELEASE = re.compile(r'^api_build_info\{version="([^"]+)"\} 1', re.MULTILINE)


@dataclass
class Release:
    """A release of api that a folder's copy of the services makes."""

    version: str
    variables: list[str]


def make_release(platform: Platform, folder: Path, number: str, change: tuple[str, str, str] | None = None) -> Release:
    """Copy the services, give api another version, change a text in a file, and build. Dependencies are at hand."""
    apps, wheels, built = folder / "apps", folder / "wheels", ROOT / ".state" / platform.name / "wheels"
    shutil.copytree(ROOT / "apps", apps, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    (apps / "api/api/version.py").write_text(f'__version__ = "{number}"\n')
    if change:
        path, old, new = change
        text = (apps / path).read_text()
        assert text.count(old) == 1, f"{path} has changed; the test must follow"
        (apps / path).write_text(text.replace(old, new))
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(built)}
    subprocess.run(
        [sys.executable, ROOT / "tools/build_wheels.py", apps, wheels], env=environment, check=True, timeout=300
    )
    variables = ["-e", f"belvedere_apps={apps}", "-e", f"flask_service_wheels={wheels}"]
    return Release((wheels / "version-api").read_text(), variables)


def running(platform: Platform) -> Counter[str]:
    """How many instances of api run each release, as they tell themselves."""
    found: Counter[str] = Counter()
    for host, number in platform.instances("api"):
        found[RELEASE.findall(platform.instance(host, 8200 + number, "/metrics"))[0]] += 1
    return found


def roll(platform: Platform, verb: str, *arguments: str) -> str:
    playbook = f"playbooks/{verb}.yml"
    return platform.ansible("ansible-playbook", playbook, "-e", "service=api", *arguments, timeout=1200).stdout


@pytest.fixture
def former(platform: Platform) -> Iterator[str]:
    """The release that all instances run before the test, and after it."""
    (release,) = before = running(platform)
    yield release
    if running(platform) != before:
        roll(platform, "deploy", "-e", f"version={release}")


def assert_nobody_noticed(ledger: Ledger) -> None:
    requests = len(ledger.acknowledged) + len(ledger.reads)
    failed = [*ledger.unknown.values(), *ledger.failed_reads]
    seconds = ledger.ended - ledger.begun
    print(
        f"{ledger.fault}: {requests} requests in {seconds:.0f} s, {len(failed)} failed, {ledger.repeated} asked again"
    )
    assert failed == []


def test_a_release_comes_and_goes_and_no_request_fails(
    platform: Platform, watch: Watch, former: str, tmp_path: Path
) -> None:
    instances = len(platform.instances("api"))
    release = make_release(platform, tmp_path, "1.0.1")
    with watch("deploy") as deploying:
        roll(platform, "deploy", *release.variables)
    assert running(platform) == {release.version: instances}
    wait_until(
        "Prometheus knows the new release only",
        lambda: (
            [each["metric"]["version"] for each in platform.prometheus("count by (version) (api_build_info)")]
            == [release.version]
        ),
        seconds=60,
    )
    with watch("rollback") as going_back:
        said = roll(platform, "rollback")
    assert f"api {former} (before: {release.version})" in said
    assert running(platform) == {former: instances}
    assert_nobody_noticed(deploying)
    assert_nobody_noticed(going_back)


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("is never ready", ("servicekit/servicekit/health.py", "self.ready = True", "self.ready = False")),
        (
            "lacks a setting",
            ("api/api/settings.py", "token_audience: str", "token_audience: str\n    gone: str"),
        ),
    ],
)
def test_a_broken_release_goes_back_by_itself(
    platform: Platform, watch: Watch, former: str, tmp_path: Path, fault: str, change: tuple[str, str, str]
) -> None:
    instances = len(platform.instances("api"))
    release = make_release(platform, tmp_path, "1.0.2", change)
    first = platform.groups["api"][0]
    with watch(f"deploy of a release that {fault}") as ledger, pytest.raises(AssertionError) as failed:
        roll(platform, "deploy", *release.variables, "-e", "flask_service_start_seconds=10")
    said = " ".join(str(failed.value).split())
    assert f"api {release.version} did not come up on {first}" in said
    assert f"{first} is back on {former}, and no host after it was touched" in said
    assert running(platform) == {former: instances}
    assert_nobody_noticed(ledger)
