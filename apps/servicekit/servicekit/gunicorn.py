"""gunicorn's configuration: `gunicorn --config python:servicekit.gunicorn 'auth:create_app()'`.

One instance is one process with THREADS threads on its own port, BASE_PORT + INSTANCE. With TLS_CERT, TLS_KEY
and TLS_CA it speaks TLS and demands a client certificate of that CA. Its logs are JSON like the app's.
"""

import gc
import logging
import ssl
import threading
from collections.abc import Callable
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker

from servicekit import service
from servicekit.logging import JsonFormatter
from servicekit.settings import ServerSettings, load_or_exit

_settings = load_or_exit(ServerSettings, "gunicorn")


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines go through the app's handler; there is no access log, the app logs what matters."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        if not logging.getLogger().handlers:  # until the app is loaded and says which service this is
            handler = logging.StreamHandler()
            handler.setFormatter(JsonFormatter("gunicorn", _settings.instance_id))
            logging.getLogger().addHandler(handler)
        self.error_log.propagate = True

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        return


class DrainingWorker(ThreadWorker):  # type: ignore[misc]
    """Says 503 on /readyz for DRAIN_SECONDS before it stops to accept, so that probes can take it out first."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        service.of(self.wsgi).readiness.ready = False
        if _settings.drain_seconds:
            timer = threading.Timer(_settings.drain_seconds, super().handle_exit, (sig, frame))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)


bind = [f"0.0.0.0:{_settings.port}"]
workers = 1
worker_class = DrainingWorker
threads = _settings.threads
reuse_port = True  # without it gthread is bimodal
keepalive = 75  # seconds; longer than the edge keeps idle connections
timeout = 30
graceful_timeout = 25
worker_tmp_dir = "/dev/shm"  # noqa: S108  the heartbeat must not wait for a disk
control_socket_disable = True  # it would need a writable path
logger_class = JsonLogger
# Loaded before the fork: a wrong setting ends the start itself, before systemd is told 'ready', and pages are shared.
preload_app = True
limit_request_line = 4094
limit_request_field_size = 8190

if _settings.tls:
    certfile = str(_settings.tls_cert)
    keyfile = str(_settings.tls_key)
    ca_certs = str(_settings.tls_ca)
    cert_reqs = ssl.CERT_REQUIRED


def ssl_context(config: Any, default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Called for each connection, so that a renewed certificate is used without a restart."""
    context = default_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def when_ready(server: Any) -> None:
    """Keep what was loaded so far out of the collector's reach, and its pages shared with the worker."""
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:
    service.of(worker.wsgi).start()


def worker_exit(server: Any, worker: Any) -> None:
    if worker.wsgi is not None:
        service.of(worker.wsgi).stop()
