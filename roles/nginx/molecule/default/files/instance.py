"""An instance as edges see one: TLS on 127.0.0.1:<port> for known clients, /readyz, and an echo of each request,
which takes a while under /api/slow. /validate-orders finds tokens good that begin with 'good', and notes each question
in /run/validated.

/run/instance-<port> holds the status that /readyz answers.
"""

import hashlib
import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = int(sys.argv[1])
READY = Path(f"/run/instance-{PORT}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        if self.path.startswith("/api/slow"):
            time.sleep(4)
        if self.path == "/validate-orders":
            return self.validate()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        status = int(READY.read_text()) if self.path == "/readyz" else 418 if self.path == "/api/problem" else 200
        if body == "die":  # after the request was sent
            with Path("/run/instance-died").open("a") as died:
                died.write(f"{self.command} {PORT}\n")
            self.close_connection = True
            return
        if self.path == "/operators/session" and "__Host-operations=good" not in self.headers.get("Cookie", ""):
            status = 503 if "__Host-operations=away" in self.headers.get("Cookie", "") else 401
        text = json.dumps({"port": PORT, "path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Request-Id", "the instance's own")
        if self.path == "/operators/session":
            self.send_header("X-Operator", "ada@example.net")
        if self.path == "/openapi/api":
            self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'sha256-x'")
        self.end_headers()
        self.wfile.write(text)

    def validate(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with Path("/run/validated").open("a") as validated:
            validated.write(f"{token}\n")
        if token.startswith("good"):
            self.send_response(200)
            self.send_header("X-User-Id", "user-" + hashlib.sha256(token.encode()).hexdigest()[:8])
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
        self.send_header("Cache-Control", "max-age=3600")  # the edge knows better
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/belvedere/tls/host.crt", "/etc/belvedere/tls/host.key")
context.load_verify_locations("/etc/belvedere/tls/ca.crt")
context.verify_mode = ssl.CERT_REQUIRED


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):  # the handshake is the thread's business
        connection, address = super().get_request()
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address


Server(("127.0.0.1", PORT), Handler).serve_forever()
