#!/usr/bin/python3
"""Takes journals from systemd-journal-upload, and gives VictoriaLogs their lines with the fields that are in them.

The journal knows a service's JSON line as one text. Here its keys become fields beside the journal's own, so that
`trace_id:=…` and `event:=…` are looked up and not searched for. The line itself stays as it was, in `_msg`.

Nothing is kept: a request is answered once VictoriaLogs has taken all of its lines. If it does not, the uploader
sends them again, from where it last had an answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import select
import socket
import sys
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

BATCH = 2000  # lines sent at once, at most
READ = 64 * 1024  # bytes read at once
# By syslog's priority.
LEVELS = dict(
    zip("01234567", ("emerg", "alert", "critical", "error", "warning", "notice", "info", "debug"), strict=True)
)

Entry = dict[str, str]


class Malformed(Exception):
    """What came is not in the journal's export format."""


class Parser:
    """Turns the journal's export format, as it comes in pieces, into entries.

    A field is `NAME=text`, or NAME alone with eight bytes of length and a text that may hold line feeds.
    An empty line ends an entry.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Entry]:
        """Give the entries that are whole with this piece."""
        data, begin = self._rest + piece, 0
        while found := self._entry(data, begin):
            entry, begin = found
            if entry:
                yield entry
        self._rest = data[begin:]

    def end(self) -> Iterator[Entry]:
        """Give the last entry, whose empty line may be missing."""
        yield from self.feed(b"\n\n")

    @staticmethod
    def _entry(data: bytes, at: int) -> tuple[Entry, int] | None:
        entry: Entry = {}
        while (end := data.find(b"\n", at)) >= 0:
            line = data[at:end]
            at = end + 1
            if not line:
                return entry, at
            name, equals, value = line.partition(b"=")
            if not equals:
                length = int.from_bytes(data[at : at + 8], "little")
                value = data[at + 8 : at + 8 + length]
                at += 8 + length + 1
                if at > len(data):
                    return None
                if data[at - 1 : at] != b"\n":
                    raise Malformed(f"no line feed after the field {name!r}")
            entry[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        return None


def row(entry: Entry, ignored: frozenset[str]) -> dict[str, object]:
    """What VictoriaLogs is given for an entry: the journal's fields, and those of a line that is a JSON object."""
    message = entry.get("MESSAGE", "")
    fields: dict[str, object] = {
        name: value for name, value in entry.items() if not name.startswith("__") and name not in ignored
    }
    fields.pop("MESSAGE", None)
    if level := LEVELS.get(entry.get("PRIORITY", "")):
        fields["level"] = level
    fields |= {name: value for name, value in _json_fields(message).items() if name not in entry}
    fields["_msg"] = message
    fields["_time"] = int(entry["__REALTIME_TIMESTAMP"]) * 1000  # nanoseconds
    return fields


def _json_fields(message: str) -> dict[str, object]:
    if not message.startswith("{"):
        return {}
    try:
        found = json.loads(message)
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if not name.startswith("_")}  # _msg, _time, _HOSTNAME, …


class Store:
    """VictoriaLogs."""

    def __init__(self, port: int, path: str, stream_fields: str, ignored: frozenset[str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._path = f"{path}/insert/jsonline?{urlencode({'_stream_fields': stream_fields})}"
        self._ignored = ignored

    def add(self, entries: Iterable[Entry]) -> None:
        """Store the entries. Raises OSError or HTTPException where they were not taken."""
        lines = "\n".join(json.dumps(row(entry, self._ignored)) for entry in entries)
        try:
            self._connection.request("POST", self._path, lines.encode(), {"Content-Type": "application/stream+json"})
            answer = self._connection.getresponse()
            text = answer.read()
        except BaseException:
            self._connection.close()
            raise
        if answer.status != 200:
            raise ConnectionError(f"VictoriaLogs answered {answer.status}: {text[:200]!r}")

    def close(self) -> None:
        self._connection.close()


class Handler(BaseHTTPRequestHandler):
    """One connection of Nginx's."""

    protocol_version = "HTTP/1.1"
    rbufsize = 0  # so that select knows whether there is more
    server: Server

    def do_POST(self) -> None:
        """Take a journal, of known length or in chunks."""
        parser, batch = Parser(), []
        store = self.server.store()
        try:
            for piece in self._pieces():
                batch += parser.feed(piece)
                # While a busy host sends, many lines go at once; a quiet one's go at once, too.
                if batch and (len(batch) >= BATCH or not select.select([self.connection], [], [], 0)[0]):
                    store.add(batch)
                    batch = []
            if batch := [*batch, *parser.end()]:
                store.add(batch)
        except (Malformed, ValueError, KeyError) as error:
            self._answer(400, f"{type(error).__name__}: {error}")
        except (OSError, http.client.HTTPException) as error:
            self._answer(503, f"{type(error).__name__}: {error}")
        else:
            self._answer(200, "")
        finally:
            store.close()

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield from self._read(int(self.headers.get("Content-Length", 0)))
            return
        while length := int(self.rfile.readline(20).partition(b";")[0], 16):
            yield from self._read(length)
            self.rfile.readline(2)
        self.rfile.readline(2)

    def _read(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self.connection.recv(min(length, READ))
            if not piece:
                raise ConnectionError("the sender went away")
            length -= len(piece)
            yield piece

    def _answer(self, status: int, text: str) -> None:
        if status != 200:
            print(f"<4>A journal was not taken: {text}", file=sys.stderr, flush=True)
            self.close_connection = True  # the rest of the request is not read
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of a request: Nginx has logged it."""


class Server(ThreadingHTTPServer):
    """Listens on loopback."""

    daemon_threads = True

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", arguments.port), Handler)
        self._arguments = arguments

    def store(self) -> Store:
        """Return a connection of a thread's own."""
        wanted = self._arguments
        ignored = frozenset(wanted.ignore.split(","))
        return Store(wanted.victorialogs_port, wanted.victorialogs_path, wanted.stream_fields, ignored)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection that may be quiet for as long as its host has nothing to say."""
        connection, address = super().get_request()
        connection.settimeout(3600)
        return connection, address


def main() -> None:
    parser = argparse.ArgumentParser(description="Give VictoriaLogs journals with the fields of their JSON lines.")
    parser.add_argument("--port", type=int, required=True, help="where it listens, on loopback")
    parser.add_argument("--victorialogs-port", type=int, required=True, help="where VictoriaLogs is, on loopback")
    parser.add_argument("--victorialogs-path", default="", help="what its paths begin with")
    parser.add_argument("--stream-fields", required=True, help="the journal's fields that make a stream, with commas")
    parser.add_argument("--ignore", default="", help="the journal's fields that are not stored, with commas")
    Server(parser.parse_args()).serve_forever()


if __name__ == "__main__":
    main()
