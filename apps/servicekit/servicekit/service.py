"""A service: a Flask app with everything that services share, and its life from start to stop."""

import logging
import time
from collections.abc import Callable

from flask import Flask, Response, request
from opentelemetry.sdk.trace.export import SpanExporter

from servicekit import health, position, problems
from servicekit.database import Database
from servicekit.health import Readiness
from servicekit.logging import configure, event
from servicekit.metrics import Metrics, release_of, route_of
from servicekit.requests import READ_LIMIT
from servicekit.settings import ServiceSettings
from servicekit.shared import Store
from servicekit.tracing import BEGUN, OPERATIONS, SPAN, Tracing, describe_request

_EXTENSION = "servicekit"


class Service:
    """What one app's parts share. `start` comes after gunicorn's fork: threads do not survive one."""

    def __init__(self, name: str, version: str, settings: ServiceSettings) -> None:
        self.name = name
        self.release = release_of(version)
        self.metrics = Metrics(name, self.release)
        self.tracing = Tracing(name, version, settings, self.metrics.count_lost_spans)
        self.database = Database(name, settings, self.metrics, self.tracing)
        self.store = Store(name, settings, self.metrics, self.tracing) if settings.valkey_address else None
        self.readiness = Readiness()
        self._slow = settings.slow_request_ms / 1000
        self._endings: list[Callable[[], None]] = []

    def start(self, exporter: SpanExporter | None = None) -> None:
        """Begin to export traces, to `exporter` if one is given."""
        self.tracing.start(exporter)
        event("service_started", f"{self.name} {self.release} is ready", version=self.release)

    def on_stop(self, end: Callable[[], None]) -> None:
        """Have `end` called at the stop, while the database can still be asked."""
        self._endings.append(end)

    def stop(self) -> None:
        """End what was begun, send the last spans (two seconds at most) and close connections."""
        self.readiness.ready = False
        for end in self._endings:
            end()
        self.tracing.stop()
        self.database.close()
        if self.store:
            self.store.close()
        event("service_stopped", f"{self.name} has stopped")

    def end_request(self, response: Response) -> Response:
        """Observe the request once: the histogram, the span, a log line if it was slow or failed."""
        asked = request._get_current_object()  # type: ignore[attr-defined]  # `request` finds it anew at each use
        environ = asked.environ
        if environ["PATH_INFO"] in OPERATIONS:
            return response
        seconds = time.perf_counter() - environ[BEGUN]
        method, route, status = environ["REQUEST_METHOD"], route_of(asked), response.status_code
        self.metrics.observe_request(route, method, status, seconds, environ[SPAN])
        describe_request(environ, route, status)
        if status >= 500 or seconds >= self._slow:
            event(
                "request",
                f"{method} {route} answered {status}",
                logging.ERROR if status >= 500 else logging.WARNING,
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 1),
            )
        return response


def create(name: str, version: str, settings: ServiceSettings) -> Flask:
    """The app that a service adds its routes to."""
    configure(name, settings.instance_id)
    service = Service(name, version, settings)
    app = Flask(name, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = READ_LIMIT
    app.extensions[_EXTENSION] = service
    service.metrics.serve(app)
    app.after_request(service.end_request)
    app.after_request(position.send)
    health.serve(app, service.readiness)
    problems.install(app)
    app.wsgi_app = service.tracing.middleware(app.wsgi_app)  # type: ignore[method-assign,assignment]
    return app


def of(app: Flask) -> Service:
    """The service of an app."""
    service: Service = app.extensions[_EXTENSION]
    return service
