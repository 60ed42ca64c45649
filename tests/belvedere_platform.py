"""The running platform as the tests see it: the edge, the tools behind the operations login, the hosts by SSH."""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import requests
from urllib3.exceptions import ProtocolError

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "a long enough password"
DATA = "/var/lib/postgresql/17"  # PostgreSQL's, on its hosts
REQUEST_ID = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


def wait_until(what: str, ask: Callable[[], T], seconds: float = 30, every: float = 0.5) -> T:
    """Ask until the answer is truthy, and return it; after the deadline, fail with the last answer or error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            if answer:
                return answer
            last = f"the last answer was {answer!r}"
        except (AssertionError, LookupError, requests.RequestException, subprocess.SubprocessError) as error:
            last = f"the last error was {type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s until {what}; {last}")
        time.sleep(every)


def docker(*arguments: str) -> str:
    """What it prints, about a local host."""
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@contextmanager
def at_work(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Let each go on in a thread of its own until the end of the block, which the event tells."""
    over = threading.Event()
    threads = [threading.Thread(target=work, args=(over,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ended(error: requests.ConnectionError) -> bool:
    """Whether a connection ended that stood before.

    A client that writes to such a one may hear it from TLS, in the words of a handshake that was cut off, which is
    another matter: the connection never stood.
    """
    if isinstance(error.args[0], ProtocolError):
        return True
    cause = error.args[0].reason.args[0] if isinstance(error, requests.exceptions.SSLError) else None
    return isinstance(cause, ssl.SSLEOFError) and traceback.extract_tb(cause.__traceback__)[-1].name == "send"


@dataclass
class Edge:
    """Requests through the edge; `token` is sent as the bearer's where there is one."""

    url: str
    ca: str
    token: str | None = None
    credentials: dict[str, str] = field(default_factory=dict)
    session: requests.Session = field(default_factory=requests.Session)
    repeated: int = 0  # requests that `insist` sent once more

    def request(self, method: str, path: str, timeout: float = 10, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= options.pop("headers", {})
        return self.session.request(
            method, self.url + path, verify=self.ca, timeout=timeout, headers=headers, **options
        )

    def insist(self, method: str, path: str, **options: Any) -> requests.Response:
        """As `request`, and once more where the connection ended before an answer came.

        A server may close an idle HTTP/1.1 connection at any time, so every client must expect that (RFC 9112, 9.3.1).
        A POST brings an Idempotency-Key, which makes its repetition safe.
        """
        headers = options.pop("headers", {}) | ({"Idempotency-Key": uuid.uuid4().hex} if method == "POST" else {})
        try:
            return self.request(method, path, headers=headers, **options)
        except requests.ConnectionError as error:
            if not _ended(error):  # not connected, or no answer in time
                raise
            self.repeated += 1
            return self.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def as_new_user(self) -> "Edge":
        """Register somebody and log in as them."""
        user = Edge(self.url, self.ca, credentials={"email": f"{uuid.uuid4().hex}@example.com", "password": PASSWORD})
        registered = user.post("/register", json=user.credentials)
        assert registered.status_code == 201, registered.text
        user.log_in()
        return user

    def log_in(self) -> None:
        """Get a new token: one is good for 15 minutes."""
        answer = self.post("/login", json=self.credentials)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]


@dataclass
class Platform:
    """What platform.json says, and ways to ask."""

    name: str
    description: dict[str, Any]
    ssh_sockets: Path  # a folder for SSH's control sockets

    @property
    def ca(self) -> str:
        return str(self.description["ca"])

    @property
    def left_out(self) -> dict[str, str]:
        return self.description.get("left_out") or {}

    @cached_property
    def edge(self) -> Edge:
        return Edge(self.description["edge"].rstrip("/"), self.ca)

    @cached_property
    def ops_password(self) -> str:
        return Path(self.description["ops_password_file"]).read_text().strip()

    @cached_property
    def _ops(self) -> requests.Session:
        return requests.Session()

    def url(self, tool: str) -> str:
        """Where a tool (ops, prometheus, …) is, as platform.json tells."""
        url = self.description[tool]
        assert url, f"platform.json has no URL for {tool}, and left_out gives no reason"
        return str(url).rstrip("/")

    def ask(self, tool: str, path: str = "", **parameters: Any) -> requests.Response:
        """GET a path of a tool with the operations login."""
        login = (self.description["ops_user"], self.ops_password)
        answer = self._ops.get(self.url(tool) + path, params=parameters, auth=login, verify=self.ca, timeout=30)
        assert answer.status_code == 200, f"{answer.request.url}: {answer.status_code} {answer.text[:500]}"
        return answer

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        result: list[dict[str, Any]] = self.ask("prometheus", "/api/v1/query", query=query).json()["data"]["result"]
        return result

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace; none where Jaeger does not know it (yet)."""
        login = (self.description["ops_user"], self.ops_password)
        url = f"{self.url('jaeger')}/api/traces/{trace_id}"
        answer = self._ops.get(url, auth=login, verify=self.ca, timeout=30)
        if answer.status_code == 404:
            return []
        assert answer.status_code == 200, answer.text[:500]
        return [span for trace in answer.json()["data"] for span in trace["spans"]]

    def logs(self, query: str, limit: int = 100) -> list[dict[str, Any]]:
        """The lines that a LogsQL query finds."""
        answer = self.ask("logs", "/select/logsql/query", query=query, limit=limit)
        return [json.loads(line) for line in answer.text.splitlines() if line]

    def ssh(self, host: str, command: str, script: str = "", timeout: float = 30) -> str:
        """What a command prints on a host; `script` is its standard input."""
        ssh = ["ssh", "-F", self.description["ssh_config"], "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        ssh += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self.ssh_sockets}/%C", "-o", "ControlPersist=60"]
        ssh += [
            "-o",
            "ServerAliveInterval=2",
            "-o",
            "ServerAliveCountMax=2",
        ]  # a host that dies takes its connection along
        done = subprocess.run([*ssh, host, command], input=script, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{command!r} on {host} ended with {done.returncode}: {done.stderr[-2000:]}"
        return done.stdout

    def python(self, host: str, script: str, timeout: float = 60) -> Any:
        """The JSON that a Python script prints on a host, as root."""
        return json.loads(self.ssh(host, "sudo python3 -", script, timeout))

    def instance(self, host: str, port: int, path: str) -> str:
        """What an instance of a service answers on its own port, asked from its host with the host's certificate."""
        tls = self.facts["tls"]
        certificate = f"--cacert {tls['ca']} --cert {tls['certificate']} --key {tls['key']}"
        return self.ssh(host, f"sudo curl --silent --fail --max-time 5 {certificate} https://localhost:{port}{path}")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The inventory's facts: groups (name to hosts), addresses, flows, services, tls."""
        wanted = """{
          'groups': dict(groups | dict2items | rejectattr('key', 'in', ['all', 'ungrouped', 'control'])
                         | items2dict),
          'addresses': platform_addresses, 'flows': flows, 'services': services,
          'control_addresses': platform_control_addresses, 'exporter_ports': exporter_ports,
          'tls': {'ca': pki_ca, 'certificate': pki_certificate, 'key': pki_key},
        }"""
        done = self.ansible(
            "ansible", "localhost", "-m", "ansible.builtin.debug", "-a", f"msg={{{{ {' '.join(wanted.split())} }}}}"
        )
        plays = json.loads(done.stdout[done.stdout.index("{") :])["plays"]
        facts: dict[str, Any] = plays[0]["tasks"][0]["hosts"]["localhost"]["msg"]
        return facts

    @property
    def groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = self.facts["groups"]
        return groups

    @property
    def hosts(self) -> list[str]:
        return sorted(self.facts["addresses"])

    def services(self) -> list[dict[str, Any]]:
        services: list[dict[str, Any]] = self.facts["services"]
        return services

    def instances(self, service: str) -> list[tuple[str, int]]:
        """The service's instances as (host, number), as systemd knows them."""
        group = next(each["group"] for each in self.services() if each["name"] == service)
        listing = f"systemctl list-units --plain --no-legend --state=running '{service}@*.service'"
        return [
            (host, int(number))
            for host in self.groups[group]
            for number in re.findall(rf"^{service}@(\d+)\.service", self.ssh(host, listing), re.MULTILINE)
        ]

    def members(self) -> list[dict[str, Any]]:
        """Patroni's view of its members (name, role, state, …), from the first database host that answers."""
        tls = self.facts["tls"]
        port = next(flow["port"] for flow in self.facts["flows"] if flow["name"] == "patroni")
        certificate = f"--cacert {tls['ca']} --cert {tls['certificate']} --key {tls['key']}"
        errors = []
        for host in self.groups["postgres"]:
            command = f"sudo curl --silent --fail --max-time 5 {certificate} https://{host}:{port}/cluster"
            try:
                members: list[dict[str, Any]] = json.loads(self.ssh(host, command))["members"]
                return members
            except (AssertionError, subprocess.SubprocessError) as error:
                errors.append(str(error))
        raise AssertionError(f"no database host tells who is in the cluster: {errors}")

    def primary(self) -> str:
        """The database host that Patroni calls the leader."""
        return str(next(member["name"] for member in self.members() if member["role"] == "leader"))

    def sql(self, host: str, statement: str, timeout: float = 30) -> str:
        """What PostgreSQL on a host answers its superuser: rows as lines, fields between bars."""
        command = "cd / && sudo -u postgres psql -XAt -v ON_ERROR_STOP=1 -d app"
        return self.ssh(host, command, statement, timeout).strip()

    @contextmanager
    def replay_stopped(self, host: str) -> Iterator[None]:
        """A replica that receives WAL and answers, but replays nothing. Patroni would undo pg_wal_replay_pause()."""
        signal = "sudo pkill --full --signal {} '^postgres: .*startup recovering'"
        self.ssh(host, signal.format("STOP"))
        try:
            yield
        finally:
            self.ssh(host, signal.format("CONT"))

    @contextmanager
    def etcd_stopped(self, hosts: list[str]) -> Iterator[None]:
        """Some members of etcd do not run. None waits for another when they start again."""
        for host in hosts:
            self.ssh(host, "sudo systemctl stop etcd")
        try:
            yield
        finally:
            for host in hosts:
                self.ssh(host, "sudo systemctl start --no-block etcd")

    def ansible(self, program: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one of Ansible's programs on this platform's inventory."""
        inventory = str(ROOT / "inventories" / self.name)
        environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_INVENTORY": inventory}
        environment.pop("PYTHONUNBUFFERED", None)
        if program == "ansible":
            environment |= {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        command = [str(Path(sys.executable).parent / program), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, (
            f"{program} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        )
        return done

    def grant(self, email: str, operator: bool) -> None:
        """Make an account an operator, or none any more."""
        values = json.dumps({"email": email, "operator": operator})
        self.ansible("ansible-playbook", "playbooks/grant_operator.yml", "--extra-vars", values, timeout=120)


def whole(platform: Platform) -> bool:
    """Whether one primary runs and all other members stream from it, ready to take its place."""
    members = platform.members()
    assert {str(member["name"]) for member in members} == set(platform.groups["postgres"]), members
    roles = sorted((str(member["role"]), str(member["state"])) for member in members)
    expected = [("leader", "running")] + [("quorum_standby", "streaming")] * (len(members) - 1)
    assert roles == expected, members
    return True


def configure(platform: Platform, **variables: object) -> None:
    """Apply the data tier's playbook, with other variables than the inventory's."""
    platform.ansible("ansible-playbook", "playbooks/data.yml", "--extra-vars", json.dumps(variables), timeout=600)


def assert_problem(response: requests.Response, status: int) -> dict[str, Any]:
    """The response is an RFC 9457 problem of this status, under its request's id."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["Content-Type"].split(";")[0] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "request_id"} <= set(problem), problem
    assert problem["status"] == status
    assert REQUEST_ID.fullmatch(response.headers["X-Request-Id"])
    assert problem["request_id"] == response.headers["X-Request-Id"]
    return problem
