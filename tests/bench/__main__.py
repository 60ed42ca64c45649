"""The services' speed as ratios, each of two figures taken in one run on one machine: `make bench`.

    python -m bench [--repeats 5] [--retries 8] [--only api,nginx] [--no-record]

Everything runs on this machine, over loopback, and shares its cores with the clients that load it.
The two figures of a ratio are taken in slices by turns; the row's ratio is the median of the repeats.
A figure is a rate by what others left of the processors: on a quiet machine that is the rate by the clock.
A repeat in which others left little is measured anew, some times.
Ends with 1 where a ratio misses what it must reach, or is 15 % below its history; with 2 where it cannot measure.
"""

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import mean, median

from bench import judge, picture
from bench.load import CONNECTIONS, FEW, Flood, Served, hashes, queries, requests
from bench.noise import Listener, Noise
from bench.servers import CORES, FLOODERS, PASSWORD, ROOT, BenchError, Stack, ask, running

SECONDS = 1  # for each slice of a figure
SLICES = 4  # of each figure in a repeat: the machine's speed changes within seconds, by a third
PAUSE = 5  # milliseconds between two requests of a connection that leaves most of the processors free
LOGIN_SECONDS = 10  # a login takes long, so few come in a second
RETRIES = 8  # repeats measured anew because the machine was loud, in the whole run; each of them at most twice
TRIES_EACH = 3

Ratios = dict[str, float]


@dataclass
class Bench:
    """Measures groups of ratios."""

    stack: Stack
    listener: Listener
    token: str
    emails: list[str]
    p95: list[float] = field(default_factory=list)  # of validation while logins flood, one a repeat

    def hashing(self, turn: int) -> Ratios:
        """login, flood_validate, flood_login, flood_login_third"""
        figures = self._figures(
            turn,
            slices=1,
            raw=lambda: hashes(LOGIN_SECONDS // 2),
            logins=self._logins,
            validations=lambda: self._validations(LOGIN_SECONDS // 2, FEW).rate,
        )
        with Flood(self.stack.auth, self.emails) as flood:
            busy, served = self._flooded(flood)
            some, _ = self._flooded(flood, PAUSE)
        self.p95.append(served.p95)
        return {
            "login": figures["logins"] / figures["raw"],
            "flood_validate": served.rate / figures["validations"],
            "flood_login": busy / figures["logins"],
            "flood_login_third": some / figures["logins"],
        }

    def _flooded(self, flood: Flood, pause: int = 0) -> tuple[float, Served]:
        """Logins a second, and the validations beside them."""
        begun = self.listener.now()
        served = self._validations(LOGIN_SECONDS, FEW, pause)
        logins = flood.rate(begun.clock, time.monotonic())
        left = 1 - self.listener.foreign(begun)
        return logins / left, Served(served.rate / left, served.p95)

    def validating(self, turn: int) -> Ratios:
        """validate, validate_new, nginx, telemetry, telemetry_10, telemetry_0"""
        stack = self.stack
        figures = self._figures(
            turn,
            hello=lambda: requests(stack.hello, "/hello", SECONDS).rate,
            validate=lambda: self._validations().rate,
            forgetful=lambda: requests(stack.forgetful, "/validate", SECONDS, self.token).rate,
            silent=lambda: requests(stack.silent, "/validate", SECONDS, self.token).rate,
            tenth=lambda: requests(stack.tenth, "/validate", SECONDS, self.token).rate,
            untraced=lambda: requests(stack.untraced, "/validate", SECONDS, self.token).rate,
            nginx=lambda: requests([stack.edge] * CORES, "/validate", SECONDS, self.token).rate,
        )
        return {
            "validate": figures["validate"] / figures["hello"],
            "validate_new": figures["forgetful"] / figures["hello"],
            "nginx": figures["nginx"] / figures["validate"],
            "telemetry": figures["validate"] / figures["silent"],
            "telemetry_10": figures["tenth"] / figures["silent"],
            "telemetry_0": figures["untraced"] / figures["silent"],
        }

    def guarding(self, turn: int) -> Ratios:
        """auth_request"""
        ports = [self.stack.static] * CORES
        figures = self._figures(
            turn,
            open=lambda: requests(ports, "/open/file.txt", SECONDS, self.token).rate,
            guarded=lambda: requests(ports, "/guarded/file.txt", SECONDS, self.token).rate,
        )
        return {"auth_request": figures["guarded"] / figures["open"]}

    def reading(self, turn: int) -> Ratios:
        """api, comments"""
        stack = self.stack
        figures = self._figures(
            turn,
            queries=lambda: queries(stack, SECONDS),
            reads=lambda: self.reads(stack.api, SECONDS),
            uncommented=lambda: self.reads(stack.uncommented, SECONDS),
        )
        return {
            "api": figures["reads"] / figures["queries"],
            "comments": figures["reads"] / figures["uncommented"],
        }

    def _figures(self, turn: int, slices: int = SLICES, **measure: Callable[[], float]) -> dict[str, float]:
        """Take each figure in slices, in turn with the others', every other time in the opposite order.

        So a machine that gets slower or faster favours none.
        """
        rates: dict[str, list[float]] = {name: [] for name in measure}
        for number in range(turn, turn + slices):
            for name in list(measure) if number % 2 == 0 else list(reversed(measure)):
                begun = self.listener.now()
                rate = measure[name]()
                rates[name].append(rate / (1 - self.listener.foreign(begun)))
        return {name: mean(found) for name, found in rates.items()}

    def _validations(self, seconds: int = SECONDS, connections: int = CONNECTIONS, pause: int = 0) -> Served:
        return requests(self.stack.auth, "/validate", seconds, self.token, connections=connections, pause=pause)

    def reads(self, ports: list[int], seconds: int) -> float:
        return requests(ports, "/", seconds, self.token, self.stack.folder / "paths").rate

    def _logins(self) -> float:
        with Flood(self.stack.auth, self.emails) as flood:
            begun = time.monotonic()
            time.sleep(LOGIN_SECONDS)
            return flood.rate(begun, time.monotonic())


def prepare(stack: Stack) -> Bench:
    """Accounts to log in with, a token, and every server warm."""
    emails = [f"user{number}@bench.example" for number in range(FLOODERS)]

    def register(number: int) -> None:
        ask(stack.auth[number % CORES], "/register", {"email": emails[number], "password": PASSWORD})

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(register, range(FLOODERS)))
    answer = ask(stack.auth[0], "/login", {"email": emails[0], "password": PASSWORD})
    bench = Bench(stack, Listener([stack.postgres]), str(json.loads(answer)["access_token"]), emails)
    first_path = (stack.folder / "paths").read_text().splitlines()[0]
    for port in [*stack.api, *stack.uncommented]:
        ask(port, first_path, token=bench.token)
    ask(stack.static, "/guarded/file.txt", token=bench.token)
    try:
        ask(stack.static, "/guarded/file.txt", token="wrong")
    except BenchError:
        pass
    else:
        raise BenchError("auth_request lets a wrong token pass")
    for _ in range(2):
        for ports in (stack.api, stack.uncommented):
            bench.reads(ports, 1)
        requests(stack.hello, "/hello", 1)
        for ports in (stack.auth, stack.forgetful, stack.tenth, stack.untraced, stack.silent):
            requests(ports, "/validate", 1, bench.token)
    return bench


def measure(bench: Bench, repeats: int, retries: int, only: set[str]) -> tuple[dict[str, list[float]], list[Noise]]:
    """Each row's ratio in each repeat, and how noisy the machine was in those that were kept."""
    groups = [bench.reading, bench.validating, bench.guarding, bench.hashing]
    groups = [group for group in groups if not only or only & set((group.__doc__ or "").split(", "))]
    ratios: dict[str, list[float]] = {}
    heard: list[Noise] = []
    for turn in range(repeats):
        for group in groups:
            for attempt in range(TRIES_EACH):
                begun, speed = bench.listener.now(), bench.listener.speed()
                found = group(turn)
                noise = Noise(bench.listener.foreign(begun), min(speed, bench.listener.speed()))
                shown = "  ".join(f"{name} {ratio:.3f}" for name, ratio in found.items())
                again = noise.loud and retries > 0 and attempt < TRIES_EACH - 1
                retries -= again
                say(
                    f"{turn + 1}/{repeats}  {shown}  (others {noise.foreign:.0%}, speed {noise.speed:.0%}"
                    f"{', again' if again else ''})"
                )
                if not again:
                    break
            heard.append(noise)
            for name, ratio in found.items():
                ratios.setdefault(name, []).append(ratio)
    return ratios, heard


def say(text: str) -> None:
    print(text, flush=True)


def commit() -> str:
    """The checkout's commit; with a + where something is not committed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def interpreter() -> str:
    """The services' Python. Hosts run their distribution's; one that a user built may be a third slower."""
    owner = "the distribution's" if sys.base_prefix == "/usr" else "NOT the distribution's"
    return f"{owner} Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each figure, at least 3 (default 5)")
    parser.add_argument("--retries", type=int, default=RETRIES, help=f"of loud repeats (default {RETRIES})")
    parser.add_argument("--only", default="", help="rows to measure, by their names in the history")
    parser.add_argument("--no-record", action="store_true", help="leave the history and docs/bench.md as they are")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    if unknown := only - {row.name for row in judge.ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if arguments.repeats < 3 and not arguments.no_record:
        parser.error("a record needs at least 3 repeats")

    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever was started is stopped
    try:
        say("Starting PostgreSQL, PgBouncer, the services, Nginx and a sink for traces")
        with running() as stack:
            bench = prepare(stack)
            say(f"Measuring, {arguments.repeats} times; {stack.sampling:.0%} of the traces are kept")
            ratios, heard = measure(bench, arguments.repeats, arguments.retries, only)
            spans = stack.spans()
    except (BenchError, FileNotFoundError, subprocess.TimeoutExpired) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if not spans and stack.sampling:
        print("bench: no span arrived, so telemetry was not on", file=sys.stderr)
        return 2

    history = judge.read()
    results = judge.judge(ratios, history)
    noise = {
        "foreign": round(max(one.foreign for one in heard), 3),
        "speed": round(min(one.speed for one in heard), 3),
        "loud": sum(one.loud for one in heard),
    }
    notes = [
        f"Median of {arguments.repeats}, {CORES} cores, {stack.sampling:.0%} of traces kept, {spans} spans received, "
        f"{time.monotonic() - begun:.0f} s in all, under {interpreter()}.",
        f"Others had up to {noise['foreign']:.0%} of the machine; at its slowest it had {noise['speed']:.0%} of its "
        f"speed; {noise['loud']} of {len(heard)} measurements are noisy.",
    ]
    if bench.p95:
        notes.append(f"p95 of /validate while logins flood: {median(bench.p95) * 1000:.0f} ms.")
    say("\n" + picture.table(results) + "\n\n" + "\n".join(notes))
    if not arguments.no_record:
        run = judge.Run(
            datetime.now(UTC).isoformat(timespec="minutes"),
            commit(),
            {result.row.name: round(result.ratio, 4) for result in results},
            {result.row.name: [round(min(result.repeats), 4), round(max(result.repeats), 4)] for result in results},
            noise,
        )
        judge.remember(run)
        picture.publish(results, notes, [*history, run])
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
