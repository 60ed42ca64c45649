"""Stands for VictoriaLogs and for Prometheus: answers each query with 7, and keeps what is written."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

WRITTEN = Path("/run/written")


class Handler(BaseHTTPRequestHandler):
    """Both of them."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        ours = self.headers.get("Content-Encoding") == "zstd"  # VictoriaMetrics' own way
        if path == "/prometheus/api/v1/write" and not ours:
            with WRITTEN.open("ab") as opened:
                opened.write(body)
        status = 200 if path in ("/prometheus/api/v1/write", "/logs/select/logsql/stats_query") else 404
        status = 415 if ours else status
        found = {"metric": {"__name__": "lines"}, "value": [0, "7"]}
        answer = json.dumps({"status": "success", "data": {"resultType": "vector", "result": [found]}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
