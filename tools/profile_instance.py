"""A flame graph of a running instance of a service, which goes on serving meanwhile.

    tools/profile_instance.py auth [--seconds 10] [--host app1] [--instance 1] [--platform local]

py-spy reads the process' memory from outside, 100 times a second, as the service's own user. Its program comes from the
control node's virtual environment and is gone from the host afterwards.
"""

import argparse
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

STATE = Path(__file__).resolve().parents[1] / ".state"
PROGRAM = Path(sys.executable).parent / "py-spy"
RATE = 100  # samples a second


class Failed(Exception):
    """What went wrong, for people."""


def ssh(config: str, host: str, command: str, sent: bytes = b"", timeout: float = 60) -> bytes:
    done = subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", host, command], input=sent, capture_output=True, timeout=timeout
    )
    if done.returncode:
        raise Failed(f"{host}: {done.stderr.decode(errors='replace').strip() or 'no answer'}")
    return done.stdout


def hosts(platform: str) -> list[str]:
    """The hosts that `ssh -F` reaches by their names."""
    return re.findall(r"^Host (\S+)$", (STATE / platform / "ssh_config").read_text(), re.MULTILINE)


def find(config: str, names: list[str], service: str, instance: int | None) -> tuple[str, str, int]:
    """The first host that runs such an instance, its unit and its worker's process."""
    pattern = f"{service}@{instance or '*'}.service"
    # The unit's main process is gunicorn's arbiter; its one child serves.
    script = (
        f"unit=$(systemctl list-units --plain --no-legend --state=running '{pattern}' | cut -d' ' -f1 | head -1); "
        '[ -z "$unit" ] || echo "$unit" $(pgrep --parent $(systemctl show --value -p MainPID "$unit") | head -1)'
    )
    for host in names:
        found = ssh(config, host, script).decode().split()
        if len(found) == 2:
            return host, found[0], int(found[1])
    raise Failed(f"no host of {', '.join(names)} runs {pattern}")


def record(config: str, host: str, service: str, process: int, seconds: int) -> bytes:
    """The flame graph as SVG."""
    program = f"/tmp/py-spy-{process}"  # noqa: S108 the name is no secret, and the host has no other users
    ssh(config, host, f"cat > {program} && chmod 0755 {program}", PROGRAM.read_bytes())
    spy = f"{program} record --pid {process} --duration {seconds} --rate {RATE} --nonblocking --threads"
    spy += f" --format flamegraph --output {program}.svg/graph"
    folder = f"sudo install -d -o {service} {program}.svg"
    try:
        ssh(config, host, f"{folder} && sudo -u {service} {spy} >/dev/null", timeout=seconds + 60)
        return ssh(config, host, f"sudo cat {program}.svg/graph")
    finally:
        ssh(config, host, f"sudo rm -rf {program} {program}.svg")


def main() -> None:
    parser = argparse.ArgumentParser(prog="profile", description="Draw a flame graph of a running instance.")
    parser.add_argument("service", help="auth, api, or a service of your own")
    parser.add_argument("--seconds", type=int, default=10, help="how long to look (default: 10)")
    parser.add_argument("--host", help="the host (default: the first that runs one)")
    parser.add_argument("--instance", type=int, help="the instance's number (default: the first that runs)")
    parser.add_argument("--platform", default="local", help="the inventory's name (default: local)")
    arguments = parser.parse_args()
    platform = STATE / arguments.platform / "platform.json"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arguments.service):
        sys.exit(f"profile: {arguments.service!r} is no service's name")
    if not platform.exists():
        sys.exit(f"profile: {platform} does not exist: is the platform up? 'make up' makes it")
    config = json.loads(platform.read_text())["ssh_config"]
    try:
        names = [arguments.host] if arguments.host else hosts(arguments.platform)
        host, unit, process = find(config, names, arguments.service, arguments.instance)
        print(f"Looking at {unit} on {host} for {arguments.seconds} s …", flush=True)
        graph = record(config, host, arguments.service, process, arguments.seconds)
    except (Failed, subprocess.TimeoutExpired) as error:
        sys.exit(f"profile: {error}")
    folder = STATE / arguments.platform / "profiles"
    folder.mkdir(exist_ok=True)
    path = folder / f"{host}-{unit.removesuffix('.service')}-{datetime.now():%Y%m%d-%H%M%S}.svg"
    path.write_bytes(graph)
    print(path)


if __name__ == "__main__":
    main()
