"""A real PostgreSQL server for tests: Debian's (`apt install postgresql`), on a free port, in a temporary folder.

PostgreSQL refuses to run as root, so root starts it as the package's user `postgres`; anyone else as themselves.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """A running server, as pytest-postgresql wants it described."""

    port: int
    data: Path
    host: str = "127.0.0.1"
    user: str = "postgres"
    password: str = ""
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str = "template1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_user() -> str | None:
    """Whom to run servers as that refuse to be root; None where that is not needed."""
    return pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None


def program(name: str) -> str:
    """Where the newest version of one of PostgreSQL's programs is. Raises `FileNotFoundError`."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is missing: install Debian's package 'postgresql'")
    return path


@contextmanager
def serve() -> Iterator[Server]:
    """A server with no durability: its data is thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="belvedere-postgresql-"))
    user = server_user()
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()

    def run(name: str, *arguments: str) -> None:
        command = [program(name), "-D", str(data), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    try:
        run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c full_page_writes=off -c max_connections=200"
        run("pg_ctl", "start", "--wait", "--silent", f"--log={folder}/log", f"--options={options}")
        yield Server(port, data)
    finally:
        run("pg_ctl", "stop", "--mode=immediate", "--silent")
        shutil.rmtree(folder)
