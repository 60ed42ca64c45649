"""What is measured, as processes on this machine: the real services, one instance a core, and what they stand on."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from local_postgresql import Server, free_port, serve, server_user
from psycopg import connect, sql

ROOT = Path(__file__).resolve().parents[2]
CORES = os.cpu_count() or 1
PATIENCE = 30  # seconds until a server must answer
STOP = 20  # seconds that a server may take to stop before it is killed

BCRYPT_COST = 12
USERS = 100_000
PATHS = 1000  # of so many of them
FLOODERS = 16  # accounts that log in
PASSWORD = "a password for the bench"
USER_ID = "00000000-0000-4000-8000-"  # followed by twelve digits
FIRST_USER = 100_000_000_000


class BenchError(Exception):
    """The bench cannot measure; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where everything listens: lists of ports, one for each instance."""

    folder: Path
    postgres: int  # process id
    auth: list[int]
    tenth: list[int]  # auth that keeps every tenth trace
    untraced: list[int]  # auth that keeps none
    silent: list[int]  # auth without telemetry
    forgetful: list[int]  # auth that verifies each token anew
    hello: list[int]
    api: list[int]
    uncommented: list[int]  # api without trace context in its statements
    pooler: int
    edge: int
    static: int
    sink: int
    sampling: float

    def spans(self) -> int:
        return int(ask(self.sink, "/").decode())


def ask(port: int, path: str, body: Any = None, token: str = "") -> bytes:
    """A good answer's body. Raises `BenchError`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status >= 300:
        raise BenchError(f"{path} on port {port} answered {answer.status}: {text.decode()[:500]}")
    return text


@contextmanager
def running() -> Iterator[Stack]:
    """Everything up and answering; all of it is gone at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="belvedere-bench-")))
        folder.chmod(0o755)  # Nginx's workers and PgBouncer are other users
        database = stack.enter_context(serve())
        postgres = int((database.data / "postmaster.pid").read_text().split()[0])
        start = Starter(stack, folder)
        pooler = start.pooler(database)
        _prepare(database, folder)
        sink = free_port()
        start("sink", [sys.executable, str(Path(__file__).with_name("sink.py")), str(sink)], sink, "/")

        sampling = _default_sampling()
        common = {
            "DATABASE_HOSTS": f"127.0.0.1:{pooler}",
            "DATABASE_SSLMODE": "disable",
            "DATABASE_PASSWORD_FILE": str(folder / "password"),
            "TOKEN_ISSUER": "https://edge.bench",
            "TOKEN_AUDIENCE": "belvedere",
            "TOKEN_LIFETIME": "7200",  # longer than any run
            "TRACE_ENDPOINT": f"http://127.0.0.1:{sink}",
            "TRACE_SAMPLE_RATIO": str(sampling),
        }
        auth_settings = common | {
            "DATABASE_USER": "auth",
            "BCRYPT_COST": str(BCRYPT_COST),
            "SIGNING_KEY_FILE": str(folder / "signing_key"),
        }
        service = "servicekit.gunicorn"
        auth = start.instances("auth", service, "auth:create_app()", auth_settings, "/readyz")
        tenth, untraced = (
            start.instances(
                f"auth-{ratio}", service, "auth:create_app()", auth_settings | {"TRACE_SAMPLE_RATIO": ratio}, "/readyz"
            )
            for ratio in ("0.1", "0")
        )
        silent = start.instances("silent", service, "bench.silent:create()", auth_settings, "/readyz")
        forgetful = start.instances("forgetful", service, "bench.forgetful:create()", auth_settings, "/readyz")
        hello = start.instances("hello", "bench.hello", "bench.hello:app", common, "/hello")
        api_settings = common | {
            "DATABASE_USER": "api",
            "JWKS_URL": f"http://127.0.0.1:{auth[0]}/.well-known/jwks.json",
        }
        api = start.instances("api", service, "api:create_app()", api_settings, "/readyz")
        uncommented = start.instances("uncommented", service, "bench.uncommented:create()", api_settings, "/readyz")
        edge, static = start.nginx(auth)
        yield Stack(
            folder=folder,
            postgres=postgres,
            auth=auth,
            tenth=tenth,
            untraced=untraced,
            silent=silent,
            forgetful=forgetful,
            hello=hello,
            api=api,
            uncommented=uncommented,
            pooler=pooler,
            edge=edge,
            static=static,
            sink=sink,
            sampling=sampling,
        )


class Starter:
    """Starts servers that the stack stops."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def __call__(
        self, name: str, command: list[str], port: int, path: str = "", environ: dict[str, str] | None = None
    ) -> None:
        """Start a server and wait until it answers: to a GET of the path, or else any connection."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            user = server_user() if name == "pgbouncer" else None
            process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, user=user, cwd=self._folder)
        self._stack.callback(_stop, process)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if path:
                    ask(port, path)
                else:
                    http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
                return
            except (OSError, http.client.HTTPException, BenchError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise BenchError(f"{name} does not come up ({error}); its log ends with\n{tail}") from None
                time.sleep(0.1)

    def instances(self, name: str, config: str, app: str, environ: dict[str, str], path: str) -> list[int]:
        """One single-worker gunicorn for each core, as the platform runs them; their ports."""
        folders = [ROOT / "apps" / folder for folder in ("servicekit", "auth", "api")] + [ROOT / "tests"]
        shared = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, folders)), "INSTANCE": "1"}
        ports = [free_port() for _ in range(CORES)]
        for number, port in enumerate(ports, 1):
            command = [sys.executable, "-m", "gunicorn", "--config", f"python:{config}", app]
            self(f"{name}@{number}", command, port, path, environ | shared | {"BASE_PORT": str(port - 1)})
        return ports

    def pooler(self, database: Server) -> int:
        """PgBouncer in transaction mode, as the role pgbouncer sets it up but without TLS."""
        port = free_port()
        folder = self._folder / "pgbouncer"
        folder.mkdir()
        (folder / "userlist.txt").write_text('"auth" ""\n"api" ""\n')
        target = f"host=127.0.0.1 port={database.port} dbname=app"
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\napp = {target}\napp_ro = {target}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {folder}/userlist.txt\npool_mode = transaction\n"
            "max_client_conn = 500\ndefault_pool_size = 25\n"
            "ignore_startup_parameters = extra_float_digits\n"
            "log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n"
        )
        self("pgbouncer", [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", f"{folder}/pgbouncer.ini"], port)
        return port

    def nginx(self, auth: list[int]) -> tuple[int, int]:
        """Nginx with the edge's directives for a service, and for static files behind a token; their ports."""
        edge, static = free_port(), free_port()
        folder = self._folder / "nginx"
        (folder / "static").mkdir(parents=True)
        (folder / "static" / "file.txt").write_text("x" * 1024)
        template = Path(__file__).with_name("nginx.conf").read_text()
        values = {
            "FOLDER": str(folder),
            "EDGE_PORT": str(edge),
            "STATIC_PORT": str(static),
            "MEMBERS": "\n".join(f"        server 127.0.0.1:{port} max_fails=3 fail_timeout=5s;" for port in auth),
        }
        for name, value in values.items():
            template = template.replace(f"@{name}@", value)
        (folder / "nginx.conf").write_text(template)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self("nginx", [program, "-c", f"{folder}/nginx.conf"], static, "/open/file.txt")
        return edge, static


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _prepare(database: Server, folder: Path) -> None:
    """What the platform's roles make, the real migrations, and some users."""
    key = rsa.generate_private_key(65537, 2048)
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "signing_key").write_bytes(key.private_bytes(*formats))
    (folder / "password").write_text("PgBouncer trusts everyone here\n")
    (folder / "paths").write_text(
        "".join(f"/api/v1/users/{USER_ID}{FIRST_USER + n * (USERS // PATHS)}\n" for n in range(PATHS))
    )
    with connect(host="127.0.0.1", port=database.port, user="postgres", dbname="postgres", autocommit=True) as session:
        session.execute("CREATE DATABASE app")
    with connect(host="127.0.0.1", port=database.port, user="postgres", dbname="app", autocommit=True) as session:
        for name in ("auth", "api"):
            role = sql.Identifier(name)
            session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            session.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role))
            _migrate(name, database, folder)
        session.execute(
            """
            INSERT INTO api.users (id, email, display_name)
            SELECT (%(prefix)s || n)::uuid, n || '@bench.example', 'User ' || n
            FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
            """,
            {"prefix": USER_ID, "first": FIRST_USER, "last": FIRST_USER + USERS - 1},
        )
        session.execute("VACUUM ANALYZE api.users")


def _migrate(name: str, database: Server, folder: Path) -> None:
    folders = [ROOT / "apps" / service for service in ("servicekit", "auth", "api")]
    environ = {
        "DATABASE_HOSTS": f"127.0.0.1:{database.port}",
        "DATABASE_NAME": "app",
        "DATABASE_USER": name,
        "DATABASE_SSLMODE": "disable",
        "DATABASE_PASSWORD_FILE": str(folder / "password"),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    command = [sys.executable, "-m", "servicekit.migrate", name]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the migrations of {name} fail:\n{done.stderr[-2000:]}")


def _default_sampling() -> float:
    """The share of traces that the platform keeps unless told otherwise."""
    common = yaml.safe_load((ROOT / "inventories" / "common" / "services.yml").read_text())
    return float(common["trace_sample_ratio"])
