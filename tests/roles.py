"""Runs the roles' molecule scenarios, some at a time, and judges each by its log as well as by its exit code.

    tests/roles.py [-j 2] [--plain] [ROLE...]

mitogen runs the tasks, which takes a third less time: two cores are busy with starting a Python for each task.
`--plain` leaves them to Ansible's own strategy. `make up` does so too, and runs the same roles.
Two at once would both make a missing image: `make roles` sees to it first.
molecule does not mind a check run that reports changes, nor a verify.yml that is missing; here both fail the role.
Each log is in .state/molecule/<role>.log. A scenario prints `NOT TESTED: <what and why>` for what it leaves out.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ansible_mitogen

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".state" / "molecule"
ACTIONS = ("converge", "idempotence", "check", "verify")  # each must have run, and succeeded
PATIENCE = 20 * 60  # seconds for one scenario
TAIL = 25  # lines shown of a failure
MITOGEN = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(Path(ansible_mitogen.__file__).parent / "plugins" / "strategy"),
    "ANSIBLE_DEPRECATION_WARNINGS": "false",  # of strategies that are not core's own
}

ANSI = re.compile(r"\x1b\[[0-9;]*m")
ACTION = re.compile(r"^\w+ +\[\S+ > (\w+)\] (Execut.*)")
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.+)\] \**$")
RECAP = re.compile(r"^\S+ +: ok=\d+ +changed=(\d+)")
NOT_TESTED = re.compile(r'NOT TESTED: [^"]+')


@dataclass
class Log:
    """What a scenario's log tells."""

    succeeded: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> "Log":
        log = cls()
        action = task = ""
        changed: list[str] = []
        over = False  # after a failure molecule cleans up, at length
        for line in ANSI.sub("", text).splitlines():
            over = over or "An error occurred during the test sequence" in line
            if line.strip() and not over:
                log.tail = [*log.tail[-TAIL + 1 :], line]
            if match := ACTION.match(line):
                action, result = match.groups()
                changed = []
                if result == "Executed: Successful":
                    log.succeeded.add(action)
            elif match := TASK.match(line):
                task = match[1]
            elif line.startswith("changed: "):
                changed.append(task)
            elif (match := RECAP.match(line)) and int(match[1]) and action in ("idempotence", "check"):
                log.problems.append(f"{action} reports changes: {'; '.join(dict.fromkeys(changed)) or line}")
            elif (match := NOT_TESTED.search(line)) and match[0] not in log.left_out:
                log.left_out.append(match[0])
        return log


@dataclass
class Result:
    role: str
    seconds: float
    problems: list[str]
    log: Log


class Runner:
    """Starts molecule, and ends what it started when it is told to stop."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings  # Ansible's, as environment variables
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def molecule(self, role: str, log: Path) -> int:
        """Run a role's scenario; molecule's exit code."""
        environment = os.environ | self._settings | {"ROLE": role, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
        environment.pop("PYTHONUNBUFFERED", None)  # slows Ansible's pipelining
        with log.open("wb") as output, self._lock:
            if self._stopped:
                return 130
            process = subprocess.Popen(
                ["molecule", "test"],
                cwd=ROOT / "roles" / role,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ansible's children end with it
            )
            self._running.add(process)
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            _end(process)
            with log.open("a") as output:
                output.write(f"\nThe scenario took longer than {PATIENCE} s and was ended.\n")
            return 124
        finally:
            with self._lock:
                self._running.discard(process)

    def test(self, role: str) -> Result:
        path = LOGS / f"{role}.log"
        started = time.monotonic()
        code = self.molecule(role, path)
        log = Log.read(path.read_text(errors="replace"))
        problems = list(log.problems)
        if code:
            problems.append(f"molecule ended with exit code {code}")
        else:
            problems += [f"{action} did not run" for action in ACTIONS if action not in log.succeeded]
        return Result(role, time.monotonic() - started, problems, log)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def remove_hosts(roles: list[str]) -> None:
    """Remove the hosts that an aborted run of these scenarios left behind."""
    if not shutil.which("docker"):
        return  # the first scenario installs it
    docker = ["docker"] if os.geteuid() == 0 else ["sudo", "docker"]
    listing = [*docker, "ps", "--all", "--filter", "label=belvedere.owner=molecule", "--format", "{{.Names}}"]
    present = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
    leftover = [name for name in present if name in {f"molecule-{role}" for role in roles}]
    if leftover:
        print(f"removing leftover hosts: {' '.join(leftover)}", flush=True)
        subprocess.run([*docker, "rm", "--force", "--volumes", *leftover], stdout=subprocess.DEVNULL, check=True)


def report(result: Result) -> None:
    print(f"{'FAILED' if result.problems else 'ok    '}  {result.role:16} {result.seconds:5.0f} s", flush=True)
    for line in result.log.left_out:
        print(f"        {line}", flush=True)
    if result.problems:
        shown = [
            *result.problems,
            f"from .state/molecule/{result.role}.log:",
            *(f"  {line}" for line in result.log.tail),
        ]
        print("\n".join(f"        {line}" for line in shown), flush=True)


def run(roles: list[str], jobs: int, settings: dict[str, str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_hosts(roles)
    runner = Runner(settings)
    failed = 0
    try:
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in as_completed([pool.submit(runner.test, role) for role in roles]):
                    result = future.result()
                    failed += bool(result.problems)
                    report(result)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                runner.stop()
                raise
    except KeyboardInterrupt:
        runner.stop()
        remove_hosts(roles)
        print("interrupted", flush=True)
        return 130
    print(f"{len(roles) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", "--jobs", type=int, default=2, help="scenarios at a time (default: 2)")
    parser.add_argument("--plain", action="store_true", help="without mitogen")
    parser.add_argument("roles", nargs="*", metavar="ROLE", help="the roles to test (default: all)")
    arguments = parser.parse_args()
    known = sorted(path.parent.parent.parent.name for path in ROOT.glob("roles/*/molecule/default/molecule.yml"))
    unknown = set(arguments.roles) - set(known)
    if unknown:
        sys.exit(
            f"roles.py: no scenario for {', '.join(sorted(unknown))}; there is one for {', '.join(known) or 'no role'}"
        )
    if not known:
        sys.exit("roles.py: no scenario was found: roles/*/molecule/default/molecule.yml matches nothing")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    return run(arguments.roles or known, arguments.jobs, {} if arguments.plain else MITOGEN)


if __name__ == "__main__":
    sys.exit(main())
