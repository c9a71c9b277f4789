"""Sends spans beside everything else: no request ever waits for a collector, and what cannot be sent is counted."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress

import requests
import structlog
from grpc import ChannelCredentials, ssl_channel_credentials
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from extproc.config.tracing import Collector
from extproc.tracing import END, EXPORT, NONE_DROPPED, QUEUE

_log = structlog.get_logger()

_BATCH = 512
"""Spans that are sent at once."""

_DELAY = 1.0
"""Seconds that spans wait for others, unless there are enough of them."""

_PATIENCE = 10.0
"""Seconds that a collector has to take a batch, with all that is tried again meanwhile."""

_SILENCE = 60.0
"""Seconds between two lines that say that spans are lost."""


def exporter_to(collector: Collector, headers: Mapping[str, str]) -> SpanExporter:
    """What speaks OTLP with a collector. Raises OSError for a file of roots that cannot be read."""
    # What it has to say of a collector that is away is said by us, once and as JSON.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    logging.getLogger("opentelemetry").propagate = False
    if collector.protocol == "http":
        return HttpExporter(
            collector.url,
            certificate_file=collector.ca if collector.tls else None,
            headers=dict(headers),
            timeout=_PATIENCE,
            session=_session(),
        )
    return GrpcExporter(
        collector.url,
        insecure=not collector.tls,
        credentials=_credentials(collector.ca) if collector.tls else None,
        headers=dict(headers),
        timeout=_PATIENCE,
    )


class Sending(SpanProcessor):
    """A bounded queue, and a thread that empties it. Whoever ends a span only puts it there."""

    def __init__(self, exporter: SpanExporter, most: int, delay: float = _DELAY) -> None:
        self._exporter = exporter
        self._most = most
        self._delay = delay
        self._waiting: deque[ReadableSpan] = deque()
        self._due = threading.Event()
        self._ended = threading.Event()
        self._told: float | None = None
        self.sent = 0
        self.dropped = Counter[str](NONE_DROPPED)
        # A daemon: a collector that hangs must not keep the process.
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is done before its end."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._ended.is_set() or len(self._waiting) >= self._most:
            self._lose(1, END if self._ended.is_set() else QUEUE)
            return
        self._waiting.append(span)
        if len(self._waiting) >= _BATCH:
            self._due.set()

    def close(self, seconds: float) -> None:
        """Send what waits, for so many seconds at the most."""
        self._ended.set()
        self._due.set()
        self._thread.join(seconds)
        if self._waiting:
            left = len(self._waiting)
            self._waiting.clear()
            self._lose(left, END)
        self._exporter.shutdown()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._due.wait(self._delay)
            self._due.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while batch := self._batch():
            self._send(batch)

    def _batch(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        with suppress(IndexError):  # the end may have emptied it meanwhile
            while len(batch) < _BATCH:
                batch.append(self._waiting.popleft())
        return batch

    def _send(self, batch: list[ReadableSpan]) -> None:
        try:
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # whatever an exporter does not see to itself
            taken = False
        if taken:
            self.sent += len(batch)
        else:
            self._lose(len(batch), EXPORT)

    def _lose(self, spans: int, why: str) -> None:
        self.dropped[why] += spans
        now = time.monotonic()
        if self._told is None or now - self._told > _SILENCE:
            self._told = now
            _log.warning("spans.dropped", why=why, dropped=dict(self.dropped))


def _session() -> requests.Session:
    """Heeds no variables of the environment: by itself it takes roots that these name for ours, and netrc's secrets."""
    session = requests.Session()
    session.trust_env = False
    return session


def _credentials(ca: str) -> ChannelCredentials:
    with open(ca, "rb") as file:
        return ssl_channel_credentials(file.read())
