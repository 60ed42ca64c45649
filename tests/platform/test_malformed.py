"""What is no proper HTTP: the edge refuses it, fails at nothing, lets nothing through, and serves others meanwhile."""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from belvedere_platform import Edge, Platform, wait_until

HOST = b"Host: edge\r\n"
JSON = b"Content-Type: application/json\r\n"
SMUGGLED = b"GET /edge-health HTTP/1.1\r\nHost: edge\r\n\r\n"
PATIENCE = 5  # seconds to wait for an answer; the edge itself waits longer for what is missing
MORE = 0.3  # seconds to wait for more of it
LARGE = b"a" * 100_000


def post(headers: bytes, body: bytes, path: bytes = b"/login") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + JSON + headers + b"\r\n" + body


def get(headers: bytes = b"", target: bytes = b"/validate", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + headers + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED = {  # each has to be answered with this status, and the connection ends: what follows is no request
    "a chunk's size is no number": (post(CHUNKED, b"zz\r\n{}\r\n0\r\n\r\n" + SMUGGLED), 400),
    "a chunk's size is negative": (post(CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED), 400),
    "a chunk's size overflows": (post(CHUNKED, b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n" + SMUGGLED), 400),
    "a chunk is longer than its size": (post(CHUNKED, b"1\r\n{}\r\n0\r\n\r\n" + SMUGGLED), 400),
    "a chunk is larger than a body may be": (post(CHUNKED, b"fffffff\r\n{}\r\n0\r\n\r\n" + SMUGGLED), 413),
    "a length and chunks": (post(b"Content-Length: 4\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks and a length": (post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks, twice": (post(CHUNKED + CHUNKED, b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks with a tab": (post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks and identity": (post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED), 400),
    "an unknown encoding": (post(b"Transfer-Encoding: cow\r\n", b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks in HTTP/1.0": (b"POST /login HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n" + SMUGGLED, 400),
    "two lengths": (post(b"Content-Length: 2\r\nContent-Length: 60\r\n", b"{}" + SMUGGLED), 400),
    "a list of lengths": (post(b"Content-Length: 2, 2\r\n", b"{}" + SMUGGLED), 400),
    "a signed length": (post(b"Content-Length: +2\r\n", b"{}" + SMUGGLED), 400),
    "a negative length": (post(b"Content-Length: -2\r\n", b"{}" + SMUGGLED), 400),
    "a length that overflows": (post(b"Content-Length: 99999999999999999999\r\n", b"{}" + SMUGGLED), 400),
    "a length beyond the limit": (post(b"Content-Length: 99999999\r\n", b"{}" + SMUGGLED), 413),
    "a folded header": (get(b"X-Folded: one\r\n two\r\n"), 400),
    "a header without a name": (get(b": value\r\n"), 400),
    "a space before the colon": (post(b"Content-Length : 2\r\n", b"{}" + SMUGGLED), 400),
    "a null byte in a header": (get(b"X-Null: a\0b\r\n"), 400),
    "a null byte in the path": (get(target=b"/validate\0"), 400),
    "an encoded null byte": (get(target=b"/validate%00"), 400),
    "a path out of the root": (get(target=b"/../../etc/passwd"), 400),
    "a header of 100 kB": (get(b"X-Large: " + LARGE + b"\r\n"), 431),
    "100 kB of headers": (get(b"X-Small: 12345678\r\n" * 5000), 431),
    "a path of 100 kB": (get(target=b"/" + LARGE), 414),
    "no host": (get(host=b""), 400),
    "two hosts": (get(b"Host: other\r\n"), 400),
    "a host that is none": (get(host=b"Host: a b\r\n"), 400),
    "a version that is none": (get(version=b"HTTP/1.1x"), 400),
    "a version to come": (get(version=b"HTTP/3.0"), 400),
    "a method that is none": (b"G\0T /validate HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tunnel": (b"CONNECT example.net:443 HTTP/1.1\r\nHost: example.net:443\r\n\r\n", 400),
    "a trace": (b"TRACE /validate HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "binary": (bytes(range(128, 256)) * 4 + b"\r\n\r\n", 400),
}

ENDURED = {  # proper enough, or left to a service: whatever the answer is, it is no server error
    "a header without a colon": get(b"nonsense\r\n"),
    "bare line feeds": b"GET /validate HTTP/1.1\nHost: edge\n\n",
    "HTTP/0.9": b"GET /validate\r\n",
    "HTTP/1.0 without a host": b"GET /validate HTTP/1.0\r\n\r\n",
    "another host": get(host=b"Host: other.example\r\n"),
    "an absolute target": get(target=b"https://other.example/validate"),
    "an absolute target and another host": get(target=b"https://one.example/validate", host=b"Host: two.example\r\n"),
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes that are no UTF-8 in the path": get(target=b"/sessions/%ff%fe"),
    "bytes that are no UTF-8 in a query": get(target=b"/api/v1/items?after=%ff&limit=%00"),
    "bytes that are no UTF-8 in the token": get(b"Authorization: Bearer \xff\xfe\r\n"),
    "a body that is no UTF-8": post(b"Content-Length: 2\r\n", b"\xff\xfe"),
    "a body that says it is compressed": post(b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}"),
    "a body of nesting": post(b"Content-Length: 60000\r\n", b"[" * 60_000),
    "a null character in JSON": post(b"Content-Length: 41\r\n", b'{"email": "a\\u0000@b.c", "password": "p"} '[:41]),
    "a body that a GET does not have": get(b"Content-Length: 2\r\n") + b"{}",
    "an expectation that is none": post(b"Expect: miracles\r\nContent-Length: 2\r\n", b"{}"),
    "a hundred ranges": get(b"Range: bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(100)) + b"\r\n"),
    "an upgrade that nobody offers": get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "hop-by-hop tricks": get(b"Connection: close, X-Request-Id, Authorization\r\nX-User-Id: 1\r\n"),
}


class Raw:
    """A TLS connection to the edge, for bytes."""

    def __init__(self, platform: Platform, alpn: str = "http/1.1") -> None:
        url = urlsplit(platform.url("edge"))
        context = ssl.create_default_context(cafile=platform.ca)
        context.set_alpn_protocols([alpn])
        plain = socket.create_connection((str(url.hostname), url.port or 443), timeout=5)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=url.hostname)
        self.ended = False

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # the edge may end the connection before it has read all
            self.socket.sendall(data)

    def received(self, patience: float = PATIENCE) -> bytes:
        """What comes until the connection ends, or nothing more comes for a while."""
        self.socket.settimeout(patience)
        data = b""
        try:
            while part := self.socket.recv(65536):
                data += part
                self.socket.settimeout(MORE)
            self.ended = True
        except TimeoutError:
            pass
        except OSError:
            self.ended = True
        self.socket.close()
        return data


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", answer, re.MULTILINE)]


def connections(platform: Platform) -> int:
    """Those that all edges' Nginx have, by their own count. The one that asks is in it."""
    page = "curl --silent --max-time 5 http://127.0.0.1:8080/stub_status"
    counts = [re.search(r"Active connections: (\d+)", platform.ssh(edge, page)) for edge in platform.groups["edge"]]
    return sum(int(count[1]) for count in counts if count)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_stuck(platform: Platform, anonymous: Edge) -> Iterator[None]:
    """All of it takes no longer than this, others are served, and no connection remains."""
    before, begun = connections(platform), time.monotonic()
    yield
    assert time.monotonic() - begun < 40
    assert anonymous.get("/.well-known/jwks.json").status_code == 200
    wait_until("the edges' connections are as few as before", lambda: connections(platform) <= before + 5, seconds=30)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_malformed_is_refused_and_nothing_after_it_is_read(platform: Platform, what: str) -> None:
    request, status = REFUSED[what]
    connection = Raw(platform)
    connection.send(request)
    answer = connection.received()
    assert statuses(answer) == [status], answer[:2000]
    assert b"application/problem+json" in answer, answer[:2000]
    # After a length that is too large Nginx reads on for a while, so that the client sees the answer.
    assert connection.ended or SMUGGLED not in request or status == 413, "the connection goes on"


@pytest.mark.parametrize("what", ENDURED)
def test_what_is_odd_is_no_server_error(platform: Platform, what: str) -> None:
    connection = Raw(platform)
    connection.send(ENDURED[what])
    answer = connection.received()
    assert answer, "no answer at all"
    assert [status for status in statuses(answer) if status >= 500] == [], answer[:2000]
    assert len(statuses(answer)) <= 1, answer[:2000]
    assert b'"status":5' not in answer.replace(b" ", b""), answer[:2000]


def test_plain_http_on_the_port_for_tls_is_400(platform: Platform) -> None:
    url = urlsplit(platform.url("edge"))
    with socket.create_connection((str(url.hostname), url.port or 443), timeout=5) as plain:
        plain.sendall(get())
        assert statuses(plain.recv(65536)) == [400]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4)  # and empty SETTINGS


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


FRAMES = {
    "a broken preface": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    "headers that cannot be unpacked": PREFACE + frame(1, 5, 1, b"\xff" * 64),
    "settings of an odd length": PREFACE + frame(4, 0, 0, b"odd"),
    "a ping of a request": PREFACE + frame(6, 0, 1, b"12345678"),
    "headers of 16 MB": PREFACE + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01" + b"\x00\x7f\xff\xff\xff\x7f" * 100,
    "a window that overflows": PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    "headers that never end": PREFACE + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x00" * 8000) * 40,
}


@pytest.mark.parametrize("what", FRAMES)
def test_broken_http_2_ends_its_connection(platform: Platform, what: str) -> None:
    connection = Raw(platform, "h2")
    connection.send(FRAMES[what])
    answer = connection.received()
    assert connection.ended, answer


def test_slow_clients_hold_nobody_up_and_are_sent_away(platform: Platform, anonymous: Edge) -> None:
    """Twenty headers and twenty bodies that stop half-way; the edge waits 10 s for more."""
    heads = [b"GET /validate HTTP/1.1\r\nHost: ed", post(b"Content-Length: 1000\r\n", b"{")] * 20
    with ThreadPoolExecutor(8) as pool:
        slow = list(pool.map(lambda _: Raw(platform), heads))
    begun = time.monotonic()
    for connection, head in zip(slow, heads, strict=True):
        connection.send(head)
    for _ in range(5):
        answer = anonymous.get("/.well-known/jwks.json", timeout=3)
        assert answer.status_code == 200
    answers = [connection.received(max(0.1, begun + 14 - time.monotonic())) for connection in slow]
    assert [answer for answer in answers if any(status >= 500 for status in statuses(answer))] == []
    stuck = [answer for connection, answer in zip(slow, answers, strict=True) if not connection.ended and not answer]
    assert stuck == [], "the edge still waits"
