"""Fixtures for the services' tests: a real PostgreSQL, the real migrations, and apps over both.

pytest-postgresql makes a template that the migrations were applied to; each test finds a clone of it empty.
"""

import atexit
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import local_postgresql
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask, jsonify
from flask.testing import FlaskClient
from local_postgresql import Server
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg import Connection, connect, sql
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor
from valkey import Valkey
from valkey.exceptions import ValkeyError
from werkzeug.serving import BaseWSGIServer, make_server

from api.app import create_app as create_api
from api.settings import ApiSettings
from auth.app import create_app as create_auth
from auth.settings import AuthSettings
from auth.tokens import TokenSigner
from servicekit import logging as json_logging
from servicekit import service
from servicekit.settings import ServiceSettings, load
from servicekit.tracing import Tracing

SERVICES = ("auth", "api")
ISSUER = "https://edge.test"
AUDIENCE = "belvedere"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    try:
        with local_postgresql.serve() as server:
            yield server
    except FileNotFoundError as error:
        pytest.exit(str(error), returncode=2)


class ValkeyServer:
    """A Valkey of its own (or Redis, which Debian 12 has instead), on one port for all its life; it may be stopped."""

    def __init__(self) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            pytest.exit("install Debian's package 'redis-server' or 'valkey-server'", returncode=2)
        self.port = local_postgresql.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--daemonize", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with suppress(ValkeyError):
                self.client().ping()
                return
            assert time.monotonic() < deadline, "the server never answered"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """From now on its socket accepts, and nobody answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Valkey:
        return Valkey(port=self.port, decode_responses=True)


@pytest.fixture(scope="session")
def _valkey_server() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.stop()


@pytest.fixture
def valkey_server(_valkey_server: ValkeyServer) -> ValkeyServer:
    """A running, empty one."""
    _valkey_server.stop()
    _valkey_server.start()
    return _valkey_server


def _prepare(host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    """What the platform's roles do, and then the real migrations."""
    with connect(host=host, port=port, user=user, dbname=dbname) as connection:
        for name in SERVICES:
            role = sql.Identifier(name)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
            connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(role, role))
    for name in SERVICES:
        run_migrate(name, database_environment(name, f"{host}:{port}", dbname))


def run_migrate(name: str, environment: dict[str, str], *arguments: str) -> str:
    """Run the migration command as Ansible does; what it printed."""
    command = [sys.executable, "-m", "servicekit.migrate", name, *arguments]
    environment = {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def database_environment(name: str, hosts: str, dbname: str) -> dict[str, str]:
    return {
        "DATABASE_HOSTS": hosts,
        "DATABASE_NAME": dbname,
        "DATABASE_RO_NAME": dbname,
        "DATABASE_USER": name,
        "DATABASE_SSLMODE": "disable",
        "DATABASE_PASSWORD_FILE": str(_password_file()),
    }


@cache
def _password_file() -> Path:
    path = Path(tempfile.mkdtemp(prefix="belvedere-credentials-")) / "database_password"
    path.write_text("the server trusts everyone\n", encoding="utf-8")
    atexit.register(shutil.rmtree, path.parent)
    return path


migrated = factories.postgresql_noproc(depends_on="postgresql_server", dbname="belvedere", load=[_prepare])


@contextmanager
def cloned_database(migrated: NoopExecutor, dbname: str) -> Iterator[Connection[Any]]:
    """A database like the migrated one, and an administrator's connection to it."""
    server = {"host": migrated.host, "port": migrated.port, "user": migrated.user}
    with (
        DatabaseJanitor(**server, dbname=dbname, template_dbname=migrated.template_dbname),
        connect(**server, dbname=dbname, autocommit=True) as connection,
    ):
        yield connection


@pytest.fixture(scope="session")
def shared_database(migrated: NoopExecutor) -> Iterator[Connection[Any]]:
    with cloned_database(migrated, "shared") as connection:
        yield connection


@pytest.fixture
def postgresql(shared_database: Connection[Any]) -> Connection[Any]:
    """The services' database, migrated and empty; a clone a test would take ten times as long."""
    shared_database.execute("DELETE FROM auth.accounts; DELETE FROM api.users")
    return shared_database


@pytest.fixture(scope="session")
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def signing_key_file(signing_key: rsa.RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing_key"
    path.write_bytes(
        signing_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def environment(postgresql: Connection[Any], signing_key_file: Path) -> Callable[[str], dict[str, str]]:
    """The environment of a service's instance, as systemd would hand it over."""

    def build(name: str) -> dict[str, str]:
        info = postgresql.info
        return {
            **database_environment(name, f"{info.host}:{info.port}", info.dbname),
            "BASE_PORT": "8100",
            "POOL_WAIT": "0.3",
            "TRACE_SAMPLE_RATIO": "1",
            "TOKEN_ISSUER": ISSUER,
            "TOKEN_AUDIENCE": AUDIENCE,
            "BCRYPT_COST": "4",
            "SIGNING_KEY_FILE": str(signing_key_file),
        }

    return build


class Running:
    """An app under test: a client, and what it has told its telemetry."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self._exporter = InMemorySpanExporter()
        self._output = io.StringIO()
        self.service = service.of(app)
        json_logging.handler().setStream(self._output)
        self.service.start(self._exporter)

    def spans(self) -> list[ReadableSpan]:
        self.service.tracing.flush()
        return list(self._exporter.get_finished_spans())

    def span_names(self) -> list[str]:
        return [span.name for span in self.spans()]

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._output.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def output(self) -> str:
        return self._output.getvalue()

    def metrics(self) -> str:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        return self.client.get("/metrics", headers=accept).get_data(as_text=True)


Start = Callable[..., Running]


@pytest.fixture
def start_auth(environment: Callable[[str], dict[str, str]]) -> Iterator[Start]:
    """Start auth, with settings of one's own as keywords (POOL_WAIT='1')."""
    with ExitStack() as stack:

        def start(**overrides: str) -> Running:
            running = Running(create_auth(load(AuthSettings, environment("auth") | overrides)))
            stack.callback(running.service.stop)
            return running

        yield start


@pytest.fixture
def auth(start_auth: Start) -> Running:
    return start_auth()


class KeyServer:
    """Serves a JWKS over HTTP, as auth does; may be stopped."""

    def __init__(self, signer: TokenSigner) -> None:
        self.asked = 0
        self.signer = signer
        app = Flask("keys")

        @app.get("/.well-known/jwks.json")
        def jwks() -> Any:
            self.asked += 1
            return jsonify(self.signer.jwks())

        self._server: BaseWSGIServer = make_server("127.0.0.1", 0, app)
        self.url = f"http://127.0.0.1:{self._server.server_port}/.well-known/jwks.json"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def make_signer(environment: Callable[[str], dict[str, str]]) -> Callable[[rsa.RSAPrivateKey], TokenSigner]:
    def make(key: rsa.RSAPrivateKey) -> TokenSigner:
        tracing = Tracing("auth", "test", load(ServiceSettings, environment("auth")), lambda reason, spans: None)
        return TokenSigner(key, ISSUER, AUDIENCE, 900, tracing)

    return make


@pytest.fixture
def signer(signing_key: rsa.RSAPrivateKey, make_signer: Callable[[rsa.RSAPrivateKey], TokenSigner]) -> TokenSigner:
    return make_signer(signing_key)


@pytest.fixture
def key_server(signer: TokenSigner) -> Iterator[KeyServer]:
    server = KeyServer(signer)
    yield server
    server.stop()


@pytest.fixture
def start_api(environment: Callable[[str], dict[str, str]], key_server: KeyServer) -> Iterator[Start]:
    """Start api, with settings of one's own as keywords."""
    with ExitStack() as stack:

        def start(**overrides: str) -> Running:
            values = environment("api") | {"JWKS_URL": key_server.url} | overrides
            running = Running(create_api(load(ApiSettings, values)))
            stack.callback(running.service.stop)
            return running

        yield start


@pytest.fixture
def api(start_api: Start) -> Running:
    return start_api()
