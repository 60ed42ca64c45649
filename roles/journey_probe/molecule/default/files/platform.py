#!/usr/bin/python3
"""A stand-in for the platform: as much of auth and api as the journey asks for, in memory.

    platform.py PORT CERTIFICATE KEY BROKEN

While the file BROKEN exists, writes are answered 503. GET /state tells what it holds.
"""

import http.server
import itertools
import json
import ssl
import sys
from pathlib import Path
from typing import Any

accounts: dict[str, str] = {}
items: dict[str, dict[str, Any]] = {}
sessions: set[str] = set()
numbers = map(str, itertools.count(1))
broken = Path(sys.argv[4])


def answer(method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The status and JSON for a request."""
    match method, path.rstrip("0123456789"):
        case "GET", "/state":
            return 200, {"accounts": len(accounts), "items": len(items), "sessions": len(sessions)}
        case "POST", "/register" if body["email"] not in accounts:
            accounts[body["email"]] = body["password"]
            return 201, {}
        case "POST", "/login" if accounts.get(body["email"]) == body["password"]:
            sessions.add(token := next(numbers))
            return 200, {"access_token": "token", "refresh_token": token}
        case "POST", "/logout":
            sessions.discard(body["refresh_token"])
            return 204, None
        case "POST", "/api/v1/items" if not broken.exists():
            number = next(numbers)
            items[number] = item = {"id": number, **body}
            return 201, item
        case "GET", "/api/v1/items":
            return 200, {"items": list(items.values()), "next": None}
        case "GET", "/api/v1/items/":
            return 200, items[path.rsplit("/", 1)[-1]]
        case "DELETE", "/api/v1/items/":
            del items[path.rsplit("/", 1)[-1]]
            return 204, None
    return (401 if path == "/login" else 503), {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content = answer(self.command, self.path, json.loads(body) if body else {})
        text = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Request-Id", "0123456789abcdef0123456789abcdef")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = handle_any


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
