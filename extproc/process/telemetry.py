"""One JSON line for each event worth telling, on standard error. Never a prompt, an answer or a secret."""

import asyncio
import gc
import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

import msgspec
import structlog


def set_up(level: str = "info", *, for_good: bool = True) -> None:
    """Configure structlog for the process. `for_good`: loggers stay as they are then, which is quicker."""
    structlog.configure(
        processors=[_line],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=for_good,
    )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _line(logger: object, method: str, event: MutableMapping[str, Any]) -> bytes:
    """The line, in one step: one is written for each exchange, and steps cost more than what they do."""
    event = structlog.contextvars.merge_contextvars(logger, method, event)
    event["level"] = method
    event["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    if "exc_info" in event:
        _tell_frames(event)
    return _encode(event)


def _tell_frames(event: MutableMapping[str, Any]) -> None:
    """An exception as its type and the lines it came through. Its text and its variables may hold a prompt."""
    if event.pop("exc_info") and (error := sys.exc_info()[1]) is not None:
        frames = traceback.extract_tb(error.__traceback__)
        event["exception"] = type(error).__qualname__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def standing(task: asyncio.Task[Any]) -> list[str]:
    """The lines in which a task waits, the outermost first."""
    lines: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = _member(awaited, "frame")
        if isinstance(frame, FrameType):
            code = frame.f_code
            lines.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        awaited = _member(awaited, "await", "yieldfrom") or _held(awaited)
    return lines


def _held(awaited: object) -> object:
    """What something awaits that does not tell: a step of an asynchronous generator, or a coroutine of Cython's."""
    if isinstance(awaited, _TELLING):
        return None
    return next((each for each in gc.get_referents(awaited) if isinstance(each, _TELLING)), None)


_TELLING = (CoroutineType, AsyncGeneratorType, GeneratorType)


def _member(awaited: object, *names: str) -> object:
    """Of a coroutine, a generator or an asynchronous one, which call the same differently."""
    found = (
        getattr(awaited, f"{kind}_{name}", None) for kind in ("cr", "ag", "gi") for name in names
    )
    return next((each for each in found if each is not None), None)
