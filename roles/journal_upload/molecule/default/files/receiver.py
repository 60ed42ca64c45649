"""Stands for Nginx and VictoriaLogs: takes uploads from whoever has a certificate, and appends them to a file.

receiver.py PORT CA CERTIFICATE KEY FILE
"""

import http.server
import ssl
import sys
from pathlib import Path

PORT, CA, CERTIFICATE, KEY, FILE = sys.argv[1:]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Knows POST /upload with a chunked body, as systemd-journal-upload sends it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        with Path(FILE).open("ab") as kept:
            while size := int(self.rfile.readline(), 16):
                kept.write(self.rfile.read(size))
                kept.flush()
                self.rfile.readline()
        self.rfile.readline()
        self.send_response(200 if self.path == "/upload" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(CERTIFICATE, KEY)
server = http.server.ThreadingHTTPServer(("", int(PORT)), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
