"""Logs: one JSON object a line on standard output, for the journal.

Every line carries the request's trace id, which is its request id too. Callers pass no passwords, tokens or
whole e-mail addresses; nothing here could tell them from other text.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from flask import g, has_request_context
from opentelemetry import trace

_handler: "logging.StreamHandler[TextIO]" = logging.StreamHandler(sys.stdout)
_events = logging.getLogger("servicekit.events")

_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # syslog's


def _to_journal() -> bool:
    """Whether standard output is the journal's, as systemd.exec(5) says how to tell."""
    output = os.fstat(1)
    return os.environ.get("JOURNAL_STREAM") == f"{output.st_dev}:{output.st_ino}"


class JsonFormatter(logging.Formatter):
    """Renders a record as JSON; `service` and `instance` say who speaks.

    The journal gets the line's priority before it, and takes it off (sd-daemon(3)).
    """

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._service = service
        self._instance = instance
        self._to_journal = _to_journal()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "instance": self._instance,
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            trace_id = trace.format_trace_id(span.trace_id)
            line |= {"request_id": trace_id, "trace_id": trace_id, "span_id": trace.format_span_id(span.span_id)}
        if has_request_context() and "user_id" in g:
            line["user_id"] = g.user_id
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["stack"] = self.formatException(record.exc_info)
        if "event" not in record.__dict__:
            line["logger"] = record.name
        priority = f"<{_PRIORITIES[record.levelname]}>" if self._to_journal else ""
        return priority + json.dumps(line, default=str)  # ASCII only, so a lone surrogate cannot break the stream


def configure(service: str, instance: str) -> None:
    """Send all of this process's logs, libraries' too, to standard output as JSON."""
    _handler.setStream(sys.stdout)
    _handler.setFormatter(JsonFormatter(service, instance))
    logging.basicConfig(level=logging.INFO, handlers=[_handler], force=True)
    logging.captureWarnings(True)
    # While the backend is away: one line a failed batch, not one a try.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)


def handler() -> "logging.StreamHandler[TextIO]":
    """Where all lines go out."""
    return _handler


def event(name: str, message: str, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """Log that something happened; `fields` become keys of the line."""
    _events.log(level, message, exc_info=exc_info, extra={"event": name, "fields": fields})
