"""Load, and how much of it was served: wrk, pgbench, raw bcrypt, and clients that log in."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.servers import BCRYPT_COST, CORES, FIRST_USER, PASSWORD, PATIENCE, USER_ID, USERS, BenchError, Stack
from local_postgresql import program

CONNECTIONS = 32
FEW = 8  # connections that leave some of the processors free
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Served:
    """rate: good answers a second. p95: seconds."""

    rate: float
    p95: float


def requests(
    ports: list[int],
    path: str,
    seconds: int,
    token: str = "",
    paths: Path | None = None,
    connections: int = CONNECTIONS,
    pause: int = 0,
) -> Served:
    """GET the path, or those of the file in turn, on connections spread evenly over the ports, from one client.

    pause: milliseconds, on average, between an answer and the connection's next request.
    """
    environ = {"PATH": os.environ["PATH"], "BENCH_ADDRESSES": ",".join(f"127.0.0.1:{port}" for port in ports)}
    if pause:
        environ["BENCH_PAUSE"] = str(pause)
    if paths:
        environ["BENCH_PATHS"] = str(paths)
    command = ["wrk", f"-t{len(ports)}", f"-c{connections}", f"-d{seconds}s", "--script", str(HERE / "wrk.lua")]
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    text = _output([*command, f"http://127.0.0.1:{ports[0]}{path}"], seconds, environ)
    answer = json.loads(text.splitlines()[-1])
    if answer["refused"] or answer["broken"] or not answer["requests"]:
        raise BenchError(
            f"{path}: of {answer['requests']} requests, {answer['refused']} refused, {answer['broken']} broken"
        )
    return Served(answer["requests"] / answer["seconds"], answer["p95"])


def queries(stack: Stack, seconds: int) -> float:
    """pgbench's rate of the statement that GET /api/v1/users/{id} runs, on 32 connections through PgBouncer."""
    script = stack.folder / "pgbench.sql"
    script.write_text(
        f"\\set n random({FIRST_USER}, {FIRST_USER + USERS - 1})\n"
        f"SELECT id, email, display_name, created_at, updated_at FROM api.users WHERE id = '{USER_ID}:n';\n"
    )
    command = [program("pgbench"), "--no-vacuum", f"--file={script}", f"--client={CONNECTIONS}", f"--jobs={CORES}"]
    command += [f"--time={seconds}", "--host=127.0.0.1", f"--port={stack.pooler}", "--username=api", "app"]
    text = _output(command, seconds, dict(os.environ))
    rate = re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
    if rate is None or "number of failed transactions: 0 " not in text:
        raise BenchError(f"pgbench did not succeed:\n{text}")
    return float(rate[1])


def hashes(seconds: int) -> float:
    """Raw bcrypt's rate: one process for each core, and nothing else."""
    command = [sys.executable, str(HERE / "hashing.py"), str(BCRYPT_COST), str(seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CORES)]
    return sum(float(process.communicate(timeout=seconds + PATIENCE)[0]) for process in processes)


def _output(command: list[str], seconds: int, environ: dict[str, str]) -> str:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=seconds + PATIENCE)
    if done.returncode:
        raise BenchError(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


class Flood:
    """Clients that log in without a pause, each with an account of its own, and come back later when told to.

    They are more than the instances take at once, so some are refused all the time (503 with Retry-After).
    """

    def __init__(self, ports: list[int], emails: list[str]) -> None:
        self._ended = threading.Event()
        self._logins: list[float] = []  # when each one was answered
        self._error: str | None = None
        self.refused = 0
        self._threads = [
            threading.Thread(target=self._client, args=(ports[number % len(ports)], email), daemon=True)
            for number, email in enumerate(emails)
        ]

    def __enter__(self) -> "Flood":
        for thread in self._threads:
            thread.start()
        time.sleep(3)  # until the queues are full, and answers come evenly
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def rate(self, begun: float, ended: float) -> float:
        """Logins a second between two moments (`time.monotonic`)."""
        if self._error:
            raise BenchError(self._error)
        return sum(begun <= when < ended for when in list(self._logins)) / (ended - begun)

    def _client(self, port: int, email: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        body = json.dumps({"email": email, "password": PASSWORD})
        try:
            while not self._ended.is_set():
                connection.request("POST", "/login", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    self._logins.append(time.monotonic())
                elif answer.status == 503:
                    self.refused += 1
                    self._ended.wait(float(answer.headers["Retry-After"]))
                else:
                    raise BenchError(f"/login answered {answer.status}: {text.decode()[:500]}")
        except (OSError, http.client.HTTPException, BenchError) as error:
            self._error = f"a client that logs in failed: {error}"
        finally:
            connection.close()
