"""Connections run out: whoever is inside goes on, whoever is outside is told to come back, and nobody sees a 500."""

import asyncio
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from belvedere_platform import Edge, Platform, wait_until

CLIENTS = 1200
FEW = 50  # fewer than an edge lets in at once
LEFT = 4  # connections that the hog leaves to services on each pooler

# Takes all of PgBouncer's client connections but a few, tells how many it has, and keeps them until its input ends.
HOG = """
import os, sys, psycopg2
lines = [line.strip() for line in open("/etc/api/environment")]
environment = dict(line.split("=", 1) for line in lines if line[:1] != "#")
password = open("/etc/api/credentials/database_password").read()
held = []
for entry in environment["DATABASE_HOSTS"].split(","):
    host, port = entry.rsplit(":", 1)
    ours = []
    try:
        while True:
            ours.append(psycopg2.connect(host=host, port=port, dbname=environment["DATABASE_NAME"], user="api",
                                         password=password, sslmode="require", connect_timeout=10))
    except psycopg2.OperationalError as error:
        if "max_client_conn" not in str(error):
            raise
    for connection in ours[-%(left)d:]:
        connection.close()
    held += ours[:-%(left)d]
print(len(held), flush=True)
sys.stdin.read()
"""


@contextmanager
def connections_held(platform: Platform) -> Iterator[int]:
    """Hold PgBouncer near max_client_conn on every pooler, from a host that may connect; gives how many are held."""
    host = platform.groups["api"][0]
    script = platform.ssh(host, "mktemp").strip()
    platform.ssh(host, f"cat > {script}", HOG % {"left": LEFT})
    command = ["ssh", "-F", platform.description["ssh_config"], "-o", "BatchMode=yes", host]
    command.append(f"sudo sh -c 'ulimit -n 8192 && exec /opt/api/current/bin/python {script}'")
    hog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert hog.stdout
        held = hog.stdout.readline().strip()
        assert held, "the hog ended before it held the connections"
        yield int(held)
    finally:
        hog.communicate("", timeout=60)
        platform.ssh(host, f"rm {script}")


async def ask(url: str, ca: str, token: str, times: int) -> list[tuple[int, bool]]:
    """Send GET requests one after the other, each on a connection of its own: (status, whether it has Retry-After)."""
    host = urlsplit(url).hostname or ""
    context = ssl.create_default_context(cafile=ca)
    seen = []
    for _ in range(times):
        reader, writer = await asyncio.open_connection(host, urlsplit(url).port or 443, ssl=context)
        headers = f"Host: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        writer.write(f"GET /api/v1/items?limit=1 HTTP/1.1\r\n{headers}\r\n".encode())
        await writer.drain()
        answer = (await asyncio.wait_for(reader.read(), 60)).split(b"\r\n\r\n")[0].decode()
        writer.close()
        seen.append((int(answer.split()[1]), "\r\nretry-after:" in answer.lower()))
    return seen


def crowd(user: Edge, clients: int) -> list[tuple[int, bool]]:
    """What so many clients at once are answered."""

    async def together() -> list[tuple[int, bool]]:
        assert user.token
        answers = await asyncio.gather(*(ask(user.url, user.ca, user.token, 2) for _ in range(clients)))
        return [answer for answers_of_one in answers for answer in answers_of_one]

    return asyncio.run(together())


def test_a_crowd_meets_poolers_that_are_nearly_full(platform: Platform, user: Edge) -> None:
    with connections_held(platform) as held:
        answers = Counter(crowd(user, CLIENTS))
        print(f"{held} connections held; answers: {dict(answers)}")
        assert held >= 1000
        assert answers[200, False] > 0, "those inside work"
        assert answers[503, True] > 0, "those outside are told to come back"
        assert set(answers) <= {(200, False), (503, True)}
    wait_until("nobody is refused any more", lambda: {*crowd(user, FEW)} == {(200, False)}, seconds=60)
