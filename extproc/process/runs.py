"""The runs of this process: what goes on, the last ones in memory, and if wanted all or some of them in a file."""

import logging
import os
import queue
import stat
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from heapq import merge
from io import TextIOWrapper
from itertools import islice, takewhile
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from random import random
from typing import Any

import msgspec
import structlog

from extproc.config.trace import TraceSettings
from extproc.process.pace import Pace
from extproc.process.records import RUNNING, Opened, Routed, summary
from extproc.protocol.actions import Metadata

_log = structlog.get_logger()

_SILENCE = 60.0
"""Seconds between two lines that say that records are lost."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A run in memory: its place among all that this process kept, its line in a list, and the whole as JSON."""

    number: int
    summary: Mapping[str, Any]
    calls: tuple[Mapping[str, Any], ...]
    record: bytes
    stands_for: int = 1
    """How many requests, itself and those before it that left no record for want of time."""


_OF_A_CALL = (
    "model",
    "role",
    "state",
    "reason",
    "seconds",
    "first_token",
    "usage",
    "cost_microusd",
)


def _calls(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What is looked at of calls when they are summed up; a routed request is one."""
    for call in record.get("calls", ()):
        yield {name: call[name] for name in _OF_A_CALL if name in call}
    if record["kind"] == "routed" and "model" in record:
        failed = record.get("outcome") == "failed" or record.get("status", 200) >= 400
        call = {name: record[name] for name in _OF_A_CALL if name in record}
        yield call | {"role": "routed", "state": "failed" if failed else "ok"} | _used(record)


def _used(record: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of a routed request, if anybody knows them."""
    names = ("prompt_tokens", "completion_tokens")
    return {"usage": {name: record[name] for name in names}} if names[1] in record else {}


class _Unread(msgspec.Struct, gc=False):
    """A routed request of which nobody has wanted to know yet."""

    number: int
    record: Mapping[str, Any] | Routed | Kept
    stands_for: int

    @property
    def kept(self) -> Kept:
        if isinstance(self.record, Kept):
            return self.record
        record = self.record.record() if isinstance(self.record, Routed) else self.record
        self.record = kept = _kept(self.number, record, self.stands_for)
        return kept


def _kept(number: int, record: Mapping[str, Any], stands_for: int = 1) -> Kept:
    calls, data = tuple(_calls(record)), msgspec.json.encode(record)
    return Kept(number, summary(record), calls, data, stands_for)


class Runs:
    """Remembers runs: those that are open, a ring, and a file that is written by a thread of its own."""

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._open: dict[str, Opened] = {}
        # Of two kinds: the many requests that one model answers leave teams' runs in memory.
        self._teams = deque[Kept](maxlen=settings.keep)
        self._routed = deque[_Unread](maxlen=settings.routed.keep)
        self._pace = Pace(settings.routed.per_second)
        self._passed_over = 0
        self.count = 0
        """How many there have been so far, those of which there is nothing in memory among them."""
        self.forgotten = 0
        """The number of the last team's run that memory has no room for any more."""
        self._sink: logging.Logger | None = None
        self._is_writing = False
        self._files = ExitStack()

    @property
    def full(self) -> bool:
        """Whether what was said is kept as well."""
        return self._settings.record == "full"

    @property
    def records(self) -> bool:
        """Whether anything is kept at all."""
        return self._settings.record != "none"

    @property
    def keep(self) -> int:
        """How many of teams' runs there is room for."""
        return self._settings.keep

    @property
    def keep_routed(self) -> int:
        """How many of routed requests, beside them."""
        return self._settings.routed.keep

    # What there is...

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records in memory, the newest first."""
        return (msgspec.json.decode(kept.record) for kept in self._newest())

    def kept(self, at_most: int | None = None, *, after: int = 0) -> list[Kept]:
        """The runs in memory whose number is above `after`, the newest first; so many of each kind."""
        return list(takewhile(lambda kept: kept.number > after, self._newest(at_most)))

    def _newest(self, at_most: int | None = None) -> Iterator[Kept]:
        teams = islice(reversed(self._teams), at_most)
        routed = (each.kept for each in islice(reversed(self._routed), at_most))
        return merge(teams, routed, key=lambda kept: kept.number, reverse=True)

    def open(self) -> list[Opened]:
        """The runs that go on, the newest first."""
        return list(reversed(self._open.values()))

    def find(self, run: str) -> bytes | None:
        """A run's record as JSON, as far as it has come."""
        if (opened := self._open.get(run)) is not None:
            return msgspec.json.encode(self.so_far(opened))
        return next((kept.record for kept in self._newest() if kept.summary["run"] == run), None)

    def so_far(self, opened: Opened) -> dict[str, Any]:
        """The record of a run that goes on."""
        return opened.record({**opened.facts, "outcome": RUNNING}, full=self.full)

    # ... and what is added.

    def begin(self, opened: Opened) -> None:
        """A run has begun."""
        if self.records:
            self._open[opened.run.id] = opened

    def end(self, opened: Opened, facts: Metadata) -> None:
        """Remember a run that has ended. `facts` are those of its exchange."""
        self._open.pop(opened.run.id, None)
        if self.records:
            self.add(opened.record(facts, full=self.full))

    def wants_routed(self) -> bool:
        """Whether a routed request that has ended is to leave a record: not if there are too many of them."""
        if not self.records or self._pace.take():
            return self.records
        self.count += 1
        self._passed_over += 1
        return False

    def add(self, record: Mapping[str, Any] | Routed) -> None:
        """Keep a record, of whichever kind; of a routed request little is made before somebody looks."""
        if not self.records:
            return
        self.count += 1
        if isinstance(record, Routed) or record["kind"] == "routed":
            self._add_routed(_Unread(self.count, record, 1 + self._passed_over))
            self._passed_over = 0
        else:
            self._add_team(_kept(self.count, record))

    def _add_team(self, kept: Kept) -> None:
        if self._teams.maxlen == len(self._teams):
            self.forgotten = self._teams[0].number if self._teams else self.count
        self._teams.append(kept)
        self._write(kept, self._settings.sample)

    def _add_routed(self, unread: _Unread) -> None:
        self._routed.append(unread)
        if self._sink is not None:
            self._write(unread.kept, self._settings.routed.sample)

    def _write(self, kept: Kept, sample: float) -> None:
        if self._sink is not None and random() < sample:
            self._sink.info("%s", kept.record.decode())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write to the file while the block lasts."""
        self._is_writing = True
        try:
            self._open_file()
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
                self._open_file()
            except OSError:
                self._settings = before
                raise
        self._teams = deque(self._teams, maxlen=settings.keep)
        self._routed = deque(self._routed, maxlen=settings.routed.keep)
        self._pace = Pace(settings.routed.per_second)

    def _open_file(self) -> None:
        with ExitStack() as stack:
            sink = stack.enter_context(_sink(self._settings))
            self._files.close()
            self._files = stack.pop_all()
        self._sink = sink


class _Records(RotatingFileHandler):
    """A file that its owner alone reads, also when it has been put aside. What cannot be written is lost, and counted
    in the log once in a while: the record itself, with all that was said, must not turn up anywhere else.
    """

    _lost = 0
    _told = -_SILENCE

    def _open(self) -> TextIOWrapper:
        file: TextIOWrapper = open(  # type: ignore[assignment]  # noqa: SIM115
            self.baseFilename, self.mode, encoding=self.encoding, opener=_for_its_owner
        )
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.fchmod(file.fileno(), 0o600)  # it may be there from before
        return file

    def handleError(self, record: logging.LogRecord) -> None:
        self._lost += 1
        if (now := time.monotonic()) < self._told + _SILENCE:
            return
        error = sys.exception()
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        _log.error("trace.not_written", lost=self._lost, reason=why)
        self._told, self._lost = now, 0

    def close(self) -> None:
        with suppress(OSError):  # what could not be written cannot be now either
            super().close()


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
    handler = _Records(
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
