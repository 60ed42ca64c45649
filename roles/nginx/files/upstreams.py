#!/usr/bin/python3
"""Keeps Nginx's upstreams equal to what hosts announced and what probes found.

Open-source Nginx checks its upstreams only by the requests it sends them. This program reads the members that
hosts announced (<fragments>/<service>/<host>.json), asks each instance's /readyz with the host's certificate,
writes the upstreams, and reloads Nginx, only when something changed. It exposes nothing: events go to the
journal as JSON, and the state file says what Nginx routes to.

An instance is taken out after FALL failures in a row and comes back after one success; so with a probe each 5 s that
lasts at most 2 s, a failing one is out within 12 s. If all of a service's instances fail, all stay in: then the
probe is as likely to be wrong as the instances are, and Nginx's own passive checks still choose among them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FALL = 2  # failures in a row that take an instance out
PROBE_TIMEOUT = 2.0  # seconds, for connection, handshake and answer together
TICK = 0.5  # seconds between looks at the fragments
SETTLE = 0.3  # seconds; Nginx tells old workers to stop 0.1 s after the new ones have started
NGINX = "/usr/sbin/nginx"


@dataclass(frozen=True, order=True)
class Instance:
    """One process of a service. `drain`: its host asked for no more requests."""

    service: str
    host: str
    address: str
    port: int
    drain: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.service, self.address, self.port)

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass
class Health:
    """Failures in a row of each instance. One that was never seen well counts as failed, until its first success."""

    failures: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def up(self, instance: Instance) -> bool:
        return self.failures.get(instance.key, FALL) < FALL

    def observe(self, instance: Instance, well: bool) -> str | None:
        """Take in a probe's result; return the event if it is news."""
        before = self.up(instance) if instance.key in self.failures else None
        self.failures[instance.key] = 0 if well else min(FALL, self.failures.get(instance.key, FALL) + 1)
        if self.up(instance) == before:
            return None
        return "upstream_up" if self.up(instance) else "upstream_down"

    def forget_all_but(self, instances: Iterable[Instance]) -> None:
        kept = {instance.key for instance in instances}
        self.failures = {key: count for key, count in self.failures.items() if key in kept}


def read_fragments(folder: Path, services: Iterable[str]) -> list[Instance]:
    """Every announced instance, in the order of names. A fragment that cannot be read is reported, and left out."""
    instances = []
    for service in services:
        for path in sorted((folder / service).glob("[!.]*.json")):
            try:
                fragment = json.loads(path.read_text())
                instances += [
                    Instance(service, fragment["host"], fragment["address"], int(port), fragment["drain"])
                    for port in fragment["ports"]
                ]
            except FileNotFoundError:
                pass  # removed meanwhile
            except (OSError, ValueError, KeyError, TypeError) as error:
                log("fragment_refused", "error", path=str(path), reason=f"{type(error).__name__}: {error}")
    return instances


def signature(folder: Path) -> list[tuple[str, int, int]]:
    """Changes whenever a fragment does."""
    found = []
    for path in folder.glob("*/[!.]*.json"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((str(path), status.st_mtime_ns, status.st_ino))
    return sorted(found)


def choose(services: Iterable[str], instances: Iterable[Instance], health: Health) -> dict[str, list[Instance]]:
    """Where requests go: to a service's instances that are well, or to all if none is; never to a draining one."""
    routes = {}
    for service in services:
        wanted = sorted(i for i in instances if i.service == service and not i.drain)
        routes[service] = [i for i in wanted if health.up(i)] or wanted
    return routes


def render(routes: Mapping[str, list[Instance]], max_fails: int, fail_timeout: int) -> str:
    """Nginx's upstream blocks, and for each service the number of its members, for `if ($auth_members = 0)`.

    Where a service has more than one host, the first instance of each host stands there once more as `backup`, and
    passive checks cannot rule that entry out. So a stall that rules out every member at once does not make Nginx
    fail every request for fail_timeout without asking anybody, and no instance idles as a reserve.
    """
    lines = ["# Written by belvedere-upstreams."]
    for service, members in routes.items():
        lines += [
            f'map "" ${service}_members {{ default {len(members)}; }}',
            f"upstream {service} {{",
            f"    zone {service} 256k;",
            "    least_conn;",
        ]
        passive = f"max_fails={max_fails} fail_timeout={fail_timeout}s"
        lines += [f"    server {m.address}:{m.port} {passive};" for m in members]
        first = {member.host: member for member in reversed(members)}
        if len(first) > 1:
            lines += [f"    server {m.address}:{m.port} max_fails=0 backup;" for m in sorted(first.values())]
        if not members:
            lines.append("    server 127.0.0.1:1 down;  # never asked: without members the edge answers 503 by itself")
        lines += ["    keepalive 32;", "}"]
    return "\n".join(lines) + "\n"


def state(routes: Mapping[str, list[Instance]], instances: Iterable[Instance], health: Health) -> str:
    """What Nginx routes to, for the role `announce`, which waits for it, and for people."""
    applied: dict[str, dict[str, list[int]]] = {service: {} for service in routes}
    for service, members in routes.items():
        for member in members:
            applied[service].setdefault(member.host, []).append(member.port)
    down = [f"{i.service} {i.name}" for i in instances if not health.up(i)]
    return json.dumps({"routes": applied, "down": down}, indent=1, sort_keys=True) + "\n"


async def probe(instance: Instance, context: ssl.SSLContext, server_name: str) -> str:
    """Ask the instance whether it wants requests; return why not, or an empty string."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                instance.address, instance.port, ssl=context, server_hostname=server_name
            )
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                parts = (await reader.readline()).split()
                await reader.read()  # to the end, so that the instance sees an orderly close
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT:g} s"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    status = parts[1].decode("ascii", "replace") if len(parts) > 1 else "nothing"
    return "" if status == "200" else f"answered {status}"


async def probe_all(instances: list[Instance], tls: Path, server_name: str) -> list[str]:
    # Made anew each time, so that a renewed certificate is used.
    context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    context.load_cert_chain(tls / "host.crt", tls / "host.key")
    return await asyncio.gather(*(probe(instance, context, server_name) for instance in instances))


def replace(path: Path, text: str) -> None:
    """Write the file so that a reader sees either the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


class Nginx:
    """The running Nginx, and the upstreams that it was seen to use."""

    def __init__(self, output: Path, port: int) -> None:
        self._output = output
        self._port = port
        self._applied = ""
        self._refused = ""

    def apply(self, text: str) -> bool:
        """Make Nginx use these upstreams; False if it refuses them, or goes on without."""
        if text == self._applied:
            return True
        version = hashlib.sha256(text.encode()).hexdigest()[:16]
        before = self._output.read_text() if self._output.exists() else None
        replace(self._output, f'{text}map "" $upstreams_version {{ default {version}; }}\n')
        check = subprocess.run([NGINX, "-t", "-q"], capture_output=True, text=True, check=False)  # noqa: S603  constant
        if check.returncode != 0:
            if text != self._refused:  # said once, tried again and again
                log("upstreams_refused", "error", reason=check.stderr.strip())
            self._refused = text
            if before is not None:
                replace(self._output, before)
            return False
        # A stopped Nginx refuses this, and reads the file when it starts.
        subprocess.run([NGINX, "-s", "reload"], capture_output=True, check=False)  # noqa: S603  constant
        if not self._uses(version):
            log("upstreams_not_taken_up", "error", version=version)
            return False
        self._applied = text
        log("upstreams_applied", "info", version=version)
        return True

    def _uses(self, version: str) -> bool:
        """Wait until Nginx answers with this version, and old workers have had time to stop accepting."""
        for _ in range(50):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
                connection.request("GET", "/", headers={"Host": "upstreams"})
                if connection.getresponse().read().decode() == version:
                    time.sleep(SETTLE)
                    return True
            except ConnectionRefusedError:
                return True  # it does not run
            except (OSError, http.client.HTTPException):
                pass  # asked in the middle of a reload
            time.sleep(0.1)
        return False


def log(event: str, level: str, **fields: object) -> None:
    print(json.dumps({"event": event, "level": level, "service": "upstreams", **fields}), flush=True)


def notify(message: str) -> None:
    """Tell systemd (sd_notify)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def look(options: argparse.Namespace, health: Health, nginx: Nginx) -> None:
    """One round: read what is announced, probe it, and make Nginx follow."""
    instances = read_fragments(options.fragments, options.services)
    health.forget_all_but(instances)
    reasons = asyncio.run(probe_all(instances, options.tls, options.server_name))
    for instance, reason in zip(instances, reasons, strict=True):
        if event := health.observe(instance, well=not reason):
            level = "info" if event == "upstream_up" else "warning"
            log(event, level, upstream=instance.service, instance=instance.name, reason=reason or "answered 200")
    routes = choose(options.services, instances, health)
    if nginx.apply(render(routes, options.max_fails, options.fail_timeout)):
        replace(options.state, state(routes, instances, health))


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep Nginx's upstreams equal to announced and healthy instances")
    parser.add_argument("--fragments", type=Path, required=True, help="folder of <service>/<host>.json")
    parser.add_argument("--output", type=Path, required=True, help="the Nginx configuration to write")
    parser.add_argument("--state", type=Path, required=True, help="the state file to write")
    parser.add_argument("--tls", type=Path, required=True, help="folder of ca.crt, host.crt and host.key")
    parser.add_argument("--server-name", required=True, help="the name in every instance's certificate")
    parser.add_argument("--status-port", type=int, required=True, help="where Nginx says which upstreams it uses")
    parser.add_argument("--interval", type=float, default=5, help="seconds between probes")
    parser.add_argument("--max-fails", type=int, default=3, help="Nginx's passive check")
    parser.add_argument("--fail-timeout", type=int, default=10, help="seconds; Nginx's passive check")
    parser.add_argument("services", nargs="+")
    options = parser.parse_args()

    health, nginx = Health(), Nginx(options.output, options.status_port)
    while True:
        seen, begun = signature(options.fragments), time.monotonic()
        look(options, health, nginx)
        notify("READY=1\nWATCHDOG=1")
        while (left := begun + options.interval - time.monotonic()) > 0 and signature(options.fragments) == seen:
            time.sleep(min(TICK, left))


if __name__ == "__main__":
    main()
