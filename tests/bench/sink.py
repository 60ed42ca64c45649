"""Receives OTLP traces over HTTP, and says at GET / how many spans have come: sink.py PORT.

Only then does it read them: what a backend's work costs is not what telemetry costs a service.
"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(sum(map(_spans, self.bodies))).encode())

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _spans(body: bytes) -> int:
    sent = ExportTraceServiceRequest.FromString(gzip.decompress(body))
    return sum(len(scope.spans) for resource in sent.resource_spans for scope in resource.scope_spans)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
