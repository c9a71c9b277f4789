"""The runs of this process: the last ones in memory, and if wanted all or some of them in a file."""

import json
import logging
import queue
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from random import random
from typing import Any, get_args

from extproc.config.trace import TraceSettings
from extproc.protocol.actions import Metadata
from looper.calling.calls import Answering
from looper.run import Run
from looper.wire.chat import ChatRequest
from looper.wire.messages import plain

_ANSWERING = get_args(Answering)


def _budget(run: Run) -> dict[str, Any]:
    """What the run could spend: the limits that it had."""
    limits = run.ledger.limits
    micro = None if limits.microusd is None else float(limits.microusd)
    said = {"calls": limits.calls, "tokens": limits.tokens, "cost_microusd": micro}
    return {name: limit for name, limit in said.items() if limit is not None}


def _conversation(request: ChatRequest) -> dict[str, Any]:
    """What the client sent; nothing if there is in it what is no value to us, such as 1e400."""
    messages = plain(request.members["messages"])
    return {} if messages is None else {"messages": messages}


def _answers(run: Run, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What each call's text says by the contract, as `answer`: equal answers are equal texts. And of how many."""
    contract = run.terms.contract
    if contract is None or not contract.comparable:
        return {}
    seen: list[tuple[Any, str]] = []
    for call in calls:
        value = contract.extract(call.get("text", ""))
        if value is not None and call["role"] in _ANSWERING:
            same = (text for other, text in seen if contract.same(other, value))
            call["answer"] = next(same, None) or contract.render(value)
            seen.append((value, call["answer"]))
    return {} if contract.options is None else {"options": contract.options}


class Runs:
    """Remembers runs: a ring, and a file that is written by a thread of its own."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._ring: deque[dict[str, Any]] = deque(maxlen=settings.keep)
        self._sink: logging.Logger | None = None
        self._is_writing = False
        self._files = ExitStack()

    @property
    def full(self) -> bool:
        """Whether what was said is kept as well."""
        return self._settings.record == "full"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The newest first."""
        yield from reversed(self._ring)

    def find(self, run: str) -> dict[str, Any] | None:
        return next((record for record in self if record["run"] == run), None)

    def add(self, request: ChatRequest, run: Run, facts: Metadata) -> None:
        """Remember a run that has ended. `facts` are those of its exchange."""
        if self._settings.record == "none":
            return
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **facts,
            "budget": _budget(run),
            "usage": run.ledger.usage.to_dict(),
            **run.trace.to_dict(),
        }
        if self.full:
            record |= _conversation(request) | _answers(run, record["calls"])
        self._ring.append(record)
        if self._sink is not None and random() < self._settings.sample:
            self._sink.info("%s", json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write to the file while the block lasts."""
        self._is_writing = True
        try:
            self._open()
            yield
        finally:
            self._is_writing = False
            self._sink = None
            self._files.close()

    def follow(self, settings: TraceSettings) -> None:
        """Other settings from now on. The last runs are kept, as many as there is room for.

        Raises OSError for a file that cannot be written; then nothing has changed.
        """
        before, self._settings = self._settings, settings
        if self._is_writing and _file(settings) != _file(before):
            try:
                self._open()
            except OSError:
                self._settings = before
                raise
        self._ring = deque(self._ring, maxlen=settings.keep)

    def _open(self) -> None:
        with ExitStack() as stack:
            sink = stack.enter_context(_sink(self._settings))
            self._files.close()
            self._files = stack.pop_all()
        self._sink = sink


def _file(settings: TraceSettings) -> tuple[object, ...]:
    return settings.file, settings.max_bytes, settings.files


@contextmanager
def _sink(settings: TraceSettings) -> Iterator[logging.Logger | None]:
    """Where lines for the file go, while the block lasts: to a thread, which writes them."""
    if settings.file is None:
        yield None
        return
    path = Path(settings.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        path, maxBytes=settings.max_bytes, backupCount=settings.files, encoding="utf-8"
    )
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    sink = logging.Logger("looper.runs", logging.INFO)  # of our own: not in logging's tree
    sink.addHandler(QueueHandler(lines))
    listener = QueueListener(lines, handler)
    listener.start()
    try:
        yield sink
    finally:
        listener.stop()
        handler.close()
