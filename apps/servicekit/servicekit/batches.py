"""Batches: a bounded queue of spans that have ended, which a thread exports. No request waits for it.

The SDK's processor costs each request more, drops what has waited longest, and tells nobody what it dropped.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

QUEUE = 2048  # spans kept while the backend is slow or away; more are dropped
BATCH = 512
EXPORT_EVERY = 2.0  # seconds
FLUSH_TIMEOUT = 2.0  # seconds, at the stop

_logger = logging.getLogger(__name__)


class Batches:
    """Spans on their way to an exporter. `lost` is told of those that nobody will see: why, and how many."""

    def __init__(self, exporter: SpanExporter, lost: Callable[[str, int], None]) -> None:
        self._exporter = exporter
        self._lost = lost
        self._spans: deque[ReadableSpan] = deque()
        self._due = threading.Event()
        self._stopping = False
        self._exporting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def add(self, span: ReadableSpan) -> None:
        """Queue a span, or drop it where the queue is full."""
        waiting = len(self._spans)
        if waiting >= QUEUE:
            self._lost("queue_full", 1)
            return
        self._spans.append(span)
        if waiting + 1 >= BATCH and not self._due.is_set():
            self._due.set()

    def flush(self) -> None:
        """Export what is there; blocks for as long as the exporter does."""
        self._export()

    def stop(self) -> None:
        """Flush within two seconds, then give up."""
        self._stopping = True
        self._due.set()
        self._thread.join(FLUSH_TIMEOUT)

    def _run(self) -> None:
        while not self._stopping:
            full = self._due.wait(EXPORT_EVERY)
            self._due.clear()
            self._export(whole_batches=full)
        self._export()
        self._exporter.shutdown()

    def _export(self, whole_batches: bool = False) -> None:
        with self._exporting:
            waiting = len(self._spans)
            if whole_batches:
                waiting -= waiting % BATCH
            for sent in range(0, waiting, BATCH):
                batch = [self._spans.popleft() for _ in range(min(BATCH, waiting - sent))]
                if not self._is_taken(batch):
                    self._lost("not_taken", len(batch))

    def _is_taken(self, batch: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # whatever it is, the next batch may go well
            _logger.exception("The exporter failed")
            return False
