"""The tests' own client: what it asks once more, and what it takes for a failure."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import trustme
from belvedere_platform import Edge


class Server:
    """Answers the first request of each connection, and ends it; `closed` tells that the client may send its next."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.answered = 0
        self.refuses = False  # and ends each connection while it is made
        self.closed = threading.Event()
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):  # the listener's end
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    if self.refuses:
                        connection.recv(65536)  # the handshake's begin
                        continue
                    with self._context.wrap_socket(connection, server_side=True) as secured:
                        read = b""
                        while not read.endswith(b"}" if read.startswith(b"POST") else b"\r\n\r\n"):
                            read += secured.recv(65536)
                        self.answered += 1
                        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                self.closed.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Edge, Server]]:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    # The moment between the client's look at an idle connection and its request is short: here it does not look.
    monkeypatch.setattr("urllib3.connectionpool.is_connection_dropped", lambda _: False)
    server = Server(context)
    yield Edge(server.url, str(tmp_path / "ca.crt")), server
    server.close()


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", {"title": "tea"})])
def test_a_request_is_sent_once_more_where_its_idle_connection_has_ended(
    edge: tuple[Edge, Server], method: str, body: dict[str, str] | None
) -> None:
    client, server = edge
    client.insist("GET", "/")
    assert server.closed.wait(5)
    assert client.insist(method, "/", json=body).text == "ok"
    assert (client.repeated, server.answered) == (1, 2)


def test_a_connection_that_cannot_be_made_is_a_failure(edge: tuple[Edge, Server]) -> None:
    client, server = edge
    server.refuses = True
    with pytest.raises(requests.ConnectionError):
        client.insist("GET", "/")
    assert client.repeated == 0
