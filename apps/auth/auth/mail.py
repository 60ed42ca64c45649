"""Mails: handed to an SMTP server, in a thread of their own.

A request leaves what is to be done in the outbox, and is answered. What fails for now is tried again, later each
time; what the outbox cannot take, or what fails for good, is counted and logged by its kind, never by its address or
text: there are tokens in it. The outbox is in memory, so a mail that waits when the process ends is lost, and its
addressee has to ask again.
"""

import heapq
import logging
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Literal, Protocol

from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind
from prometheus_client import CollectorRegistry, Counter, Gauge

from servicekit.database import DatabaseUnavailable
from servicekit.logging import event
from servicekit.tracing import Tracing

Security = Literal["starttls", "tls", "none"]

# What mail servers take unquoted (RFC 5322's dot-atom at a host name): nothing in it can end a header or name another.
_ADDRESS = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[a-z0-9-]+(\.[a-z0-9-]+)+")

RESULTS = ("sent", "refused", "failed", "dropped", "limited")  # what can become of a mail


class MailRefused(Exception):
    """This mail will never be taken; the text holds neither address nor text of it."""


class MailDelayed(Exception):
    """The mail server is away, or wants the mail later; the text holds neither address nor text of it."""


@dataclass(frozen=True)
class Mail:
    """A mail of plain text."""

    to: str
    subject: str
    text: str = field(repr=False)


class Sender(Protocol):
    """Takes mails to where they are read from."""

    def send(self, mail: Mail) -> None:
        """Raises `MailRefused`, `MailDelayed`."""


@dataclass(frozen=True)
class SmtpSender:
    """Sends each mail over a connection of its own.

    ca: the file of CAs that the server's certificate may come from; those of the system if None.
    timeout: seconds for each of the server's answers.
    """

    host: str
    port: int
    security: Security
    sender: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    timeout: float = 10

    def send(self, mail: Mail) -> None:
        if not _ADDRESS.fullmatch(mail.to):
            raise MailRefused("the address is not one that a mail server takes")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self.sender, mail.to, mail.subject
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=self.sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices, please
        message.set_content(mail.text, cte="7bit")  # links stay whole lines
        try:
            server = self._connected()
            try:
                server.send_message(message, self.sender, [mail.to])
                with suppress(OSError, smtplib.SMTPException):  # it has taken the mail, whatever it says to this
                    server.quit()
            finally:
                server.close()
        except smtplib.SMTPRecipientsRefused as error:
            raise _verdict(*[code for code, _ in error.recipients.values()]) from None
        except smtplib.SMTPDataError as error:
            raise _verdict(error.smtp_code) from None
        except (OSError, smtplib.SMTPException) as error:  # not this mail's fault, so it waits until it is mended
            raise MailDelayed(type(error).__name__) from None

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            context = ssl.create_default_context(cafile=self.ca)
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        try:
            if self.security == "starttls":
                server.starttls(context=ssl.create_default_context(cafile=self.ca))
            if self.user and self.password:
                server.login(self.user, self.password)
        except BaseException:
            server.close()
            raise
        return server


def _verdict(*codes: int) -> Exception:
    if all(500 <= code < 600 for code in codes):
        return MailRefused(f"the mail server answered {codes[0]}")
    return MailDelayed(f"the mail server answered {codes[0]}")


@dataclass(order=True)
class _Task:
    due: float
    number: int
    kind: str = field(compare=False)
    parent: SpanContext = field(compare=False)
    prepare: Callable[[], Mail | None] = field(compare=False)
    mail: Mail | None = field(compare=False, default=None)
    attempt: int = field(compare=False, default=1)


class Outbox:
    """Prepares and sends mails behind the requests that asked for them, in those requests' traces.

    size: mails that may wait; one more is dropped.
    attempts, pause: how often a mail is tried, and the seconds after the first try; each further time twice as long.
    """

    def __init__(
        self,
        sender: Sender,
        tracing: Tracing,
        registry: CollectorRegistry,
        size: int = 500,
        attempts: int = 8,
        pause: float = 5,
    ) -> None:
        self._sender = sender
        self._tracing = tracing
        self._size = size
        self._attempts = attempts
        self._pause = pause
        self._tasks: list[_Task] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._number = 0
        self._mails = Counter(
            "auth_mails", "Mails by kind and what became of them", ("kind", "result"), registry=registry
        )
        for kind in ("verification", "reset"):
            for result in RESULTS:
                self._mails.labels(kind, result)
        length = Gauge("auth_mail_queue_length", "Mails that wait to be sent, or sent again", registry=registry)
        length.set_function(lambda: len(self._tasks))

    def put(self, kind: str, prepare: Callable[[], Mail | None]) -> None:
        """Have a mail prepared and sent soon; `prepare` may find that there is none to send."""
        with self._changed:
            if self._stopping or len(self._tasks) >= self._size:
                self._count(kind, "dropped", logging.ERROR, "the outbox takes no more")
                return
            if self._thread is None:  # not before gunicorn's fork, which no thread survives
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._number += 1
            parent = trace.get_current_span().get_span_context()
            heapq.heappush(self._tasks, _Task(time.monotonic(), self._number, kind, parent, prepare))
            self._changed.notify()

    def limited(self, kind: str) -> None:
        """Count a mail that was asked for too often."""
        self._count(kind, "limited", logging.WARNING, "asked for too often")

    def stop(self, patience: float = 2) -> None:
        """Send what is due for up to `patience` seconds, drop the rest."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread:
            self._thread.join(patience)
        with self._changed:
            for task in self._tasks:
                self._count(task.kind, "dropped", logging.ERROR, "the process ends")
            self._tasks.clear()

    def _run(self) -> None:
        while task := self._next():
            with self._tracing.span_after(
                task.parent, "mail.send", {"belvedere.mail.kind": task.kind}, SpanKind.CLIENT
            ):
                self._attempt(task)

    def _next(self) -> _Task | None:
        """Wait for the next task that is due; None once the outbox stops and nothing is due."""
        with self._changed:
            while True:
                wait = self._tasks[0].due - time.monotonic() if self._tasks else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._tasks)
                if self._stopping:
                    return None
                self._changed.wait(wait)

    def _attempt(self, task: _Task) -> None:
        try:
            task.mail = task.mail or task.prepare()
            if task.mail:
                self._sender.send(task.mail)
                self._count(task.kind, "sent", logging.INFO, "")
        except MailRefused as error:
            self._count(task.kind, "refused", logging.WARNING, str(error))
        except (MailDelayed, DatabaseUnavailable) as error:
            self._again(task, str(error))
        except Exception as error:  # whatever it is, the next mail must go; its text may hold an address
            self._count(task.kind, "failed", logging.ERROR, type(error).__name__)

    def _again(self, task: _Task, detail: str) -> None:
        if task.attempt >= self._attempts:
            self._count(task.kind, "failed", logging.ERROR, f"{detail}, {task.attempt} times")
            return
        task.due = time.monotonic() + self._pause * 2 ** (task.attempt - 1)
        task.attempt += 1
        with self._changed:
            heapq.heappush(self._tasks, task)

    def _count(self, kind: str, result: str, level: int, detail: str) -> None:
        self._mails.labels(kind, result).inc()
        event(f"mail_{result}", f"A mail was {result}", level, kind=kind, detail=detail)
