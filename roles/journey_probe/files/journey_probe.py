#!/usr/bin/python3
"""Goes a user's way through the platform once, and writes how it went as metrics for node exporter.

The way: connect, log in, write an item, read it, delete it, log out, through the address that clients use. The first
phase that fails ends it. The account registers itself; items that an earlier, broken journey left behind are
deleted by the next whole one, so nothing piles up.

Settings come from the environment: PROBE_URL, PROBE_CA, PROBE_EMAIL, PROBE_TIMEOUT (seconds for each answer); the
password is in $CREDENTIALS_DIRECTORY/password. Writes $STATE_DIRECTORY/journey.prom. A journey that fails is
told by the metrics and a line in the journal, not by the exit code.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ITEMS = "/api/v1/items"


class Unexpected(Exception):
    """An answer was not what a user should get."""


@dataclass
class Journey:
    """What became of a journey: each phase's seconds, and the phase that failed, with why; empty where none did."""

    durations: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    error: str = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase; if it raises, it is the one that failed."""
        begun = time.monotonic()
        self.failed = name
        yield
        self.durations[name] = time.monotonic() - begun
        self.failed = ""


class Client:
    """A user's connection to the platform; `token` is sent once there is one."""

    def __init__(self, url: str, ca: str, timeout: float) -> None:
        parts = urlsplit(url)
        trust = ssl.create_default_context(cafile=ca)
        self._connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=trust)
        self.token = ""

    def connect(self) -> None:
        self._connection.connect()

    def ask(self, method: str, path: str, expected: tuple[int, ...], body: Any = None) -> tuple[int, Any]:
        """Return the answer's status and JSON (None without a body). Raises `Unexpected` for any other status."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status not in expected:
            request_id = answer.headers.get("X-Request-Id")
            raise Unexpected(f"{method} {path} was answered {answer.status}, request {request_id}")
        return answer.status, json.loads(text) if text else None


def go(client: Client, email: str, password: str) -> Journey:
    """Go the whole way, or as far as it leads."""
    journey = Journey()
    try:
        _go(journey, client, {"email": email, "password": password})
    except (Unexpected, OSError, http.client.HTTPException, ValueError, KeyError) as error:
        journey.error = f"{type(error).__name__}: {error}"
    return journey


def _go(journey: Journey, client: Client, credentials: dict[str, str]) -> None:
    with journey.phase("connect"):
        client.connect()

    with journey.phase("login"):
        status, tokens = client.ask("POST", "/login", (200, 401), credentials)
        if status == 401:  # the first time: there is no such account yet
            client.ask("POST", "/register", (201,), credentials)
            _, tokens = client.ask("POST", "/login", (200,), credentials)
        client.token = tokens["access_token"]

    with journey.phase("write"):
        written = {"title": "Journey", "body": str(time.time())}
        _, item = client.ask("POST", ITEMS, (201,), written)

    with journey.phase("read"):
        _, read = client.ask("GET", f"{ITEMS}/{item['id']}", (200,))
        if {name: read[name] for name in written} != written:
            raise Unexpected(f"item {item['id']} is not what was written")

    with journey.phase("delete"):
        _, listed = client.ask("GET", ITEMS, (200,))
        for item_id in {item["id"], *(each["id"] for each in listed["items"])}:
            client.ask("DELETE", f"{ITEMS}/{item_id}", (204, 404))  # 404: the list came from a replica that lags

    with journey.phase("logout"):
        client.ask("POST", "/logout", (204,), {"refresh_token": tokens["refresh_token"]})


def metrics(journey: Journey, now: float, last_success: float) -> str:
    """The journey in Prometheus' text format. last_success: when an earlier one succeeded; 0 if none has."""
    success = not journey.failed
    families = {
        "success": ("Whether the newest journey came to its end.", {"": float(success)}),
        "duration_seconds": ("How long it took as far as it came.", {"": sum(journey.durations.values())}),
        "phase_success": (
            "Whether a phase succeeded; only those that it came to.",
            {
                f'{{phase="{name}"}}': float(name != journey.failed)
                for name in [*journey.durations, journey.failed]
                if name
            },
        ),
        "phase_duration_seconds": (
            "How long each phase took that succeeded.",
            {f'{{phase="{name}"}}': seconds for name, seconds in journey.durations.items()},
        ),
        "last_run_timestamp_seconds": ("When the newest journey ended.", {"": now}),
        "last_success_timestamp_seconds": (
            "When one last came to its end; 0: never.",
            {"": now if success else last_success},
        ),
    }
    lines = []
    for name, (meaning, samples) in families.items():
        lines += [f"# HELP probe_journey_{name} {meaning}", f"# TYPE probe_journey_{name} gauge"]
        lines += [f"probe_journey_{name}{labels} {value}" for labels, value in samples.items()]
    return "\n".join(lines) + "\n"


def last_success(text: str) -> float:
    """When a journey last succeeded, as an earlier run wrote it; 0 if none has."""
    name = "probe_journey_last_success_timestamp_seconds "
    return next((float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0.0)


def main() -> None:
    """Go once, and write what became of it, whole or not at all."""
    environment = os.environ
    password = (Path(environment["CREDENTIALS_DIRECTORY"]) / "password").read_text()
    client = Client(environment["PROBE_URL"], environment["PROBE_CA"], float(environment["PROBE_TIMEOUT"]))
    journey = go(client, environment["PROBE_EMAIL"], password)
    if journey.failed:
        print(f"<4>The journey failed at {journey.failed}: {journey.error}", flush=True)  # <4>: a warning

    written = Path(environment["STATE_DIRECTORY"]) / "journey.prom"
    before = written.read_text() if written.exists() else ""
    new = written.with_suffix(".new")
    new.write_text(metrics(journey, time.time(), last_success(before)))
    new.replace(written)


if __name__ == "__main__":
    main()
