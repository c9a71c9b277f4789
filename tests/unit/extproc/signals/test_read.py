import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from extproc.signals.base import Egress, OnError, Reading, Subject
from extproc.signals.read import INLINE, Question, Signals, read_signals
from extproc.signals.text import LONGEST_TEXT
from looper.wire.chat import ChatRequest
from tests.fakes.clock import timeless
from tests.fakes.models import ScriptedClient

YES = Reading(match=True, score=1.0)
NO = Reading(match=False, score=0.0)
SECRET = "a-secret-of-the-prompt"
EGRESS = Egress(ScriptedClient({}), {})


def subject(text: str = "x", *, role: str = "user") -> Subject:
    body = {"model": "m", "messages": [{"role": role, "content": text}]}
    return Subject(ChatRequest.parse(json.dumps(body).encode()))


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@dataclass
class Local:
    """A local signal that remembers in which thread it was read."""

    error: Exception | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def read(self, subject: Subject) -> Reading:
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return YES


@dataclass
class Remote:
    """A remote signal that takes its time."""

    seconds: float = 0.0
    error: Exception | None = None
    end: str = "not asked"

    async def read(self, subject: Subject, egress: Egress, deadline: float) -> Reading:
        self.end = "cancelled"
        await asyncio.sleep(self.seconds)
        self.end = "done"
        if self.error is not None:
            raise self.error
        return YES


def local(*signals: Local, on_error: OnError = "unknown") -> Signals:
    return Signals(
        local=tuple(Question(f"l{at}", each, on_error) for at, each in enumerate(signals))
    )


def remote(*signals: Remote, on_error: OnError = "unknown") -> Signals:
    return Signals(
        remote=tuple(Question(f"r{at}", each, on_error) for at, each in enumerate(signals))
    )


class TestSubject:
    def test_a_long_text_is_read_at_both_ends(self) -> None:
        """What stands in the middle of a very long text is not looked at."""
        asked = subject("First " + "x" * LONGEST_TEXT + " Last")
        assert asked.user.written.startswith("First x")
        assert asked.user.written.endswith("x Last")
        assert len(asked.user.written) == LONGEST_TEXT + 1

    def test_no_character_is_parted(self) -> None:
        """The cut goes beside what belongs together, such as a letter and its accent."""
        asked = subject("a" * (LONGEST_TEXT // 2 - 1) + "e\u0301" + "b" * LONGEST_TEXT)
        assert asked.user.written.split("\n")[0].endswith("ae\u0301")

    def test_a_text_within_the_bound_stays_as_it_is(self) -> None:
        """As written, and once more without regard to case."""
        asked = subject("Straße")
        assert (asked.user.written, asked.user.folded) == ("Straße", "strasse")


class TestLocal:
    async def test_what_fails_has_no_reading(self) -> None:
        """A signal that raises is unknown; those behind it are read all the same."""
        signals = local(Local(), Local(ValueError(SECRET)), Local())
        assert await read_signals(signals, subject(), after(1)) == {"l0": YES, "l2": YES}
        assert [question.failures for question in signals.local] == [0, 1, 0]

    @pytest.mark.parametrize(
        ("on_error", "reading"), [("unknown", None), ("match", YES), ("no_match", NO)]
    )
    async def test_a_signal_may_say_what_stands_for_its_answer(
        self, on_error: OnError, reading: Reading | None
    ) -> None:
        """Of a guard, no answer may count as one."""
        signals = local(Local(ValueError()), on_error=on_error)
        assert (await read_signals(signals, subject(), after(1))).get("l0") == reading

    async def test_the_log_names_the_error_and_never_quotes_it(self) -> None:
        """An error's text may hold a prompt."""
        with capture_logs() as logs:
            await read_signals(local(Local(ValueError(SECRET))), subject(), after(1))
        assert logs == [
            {
                "event": "signal.failed",
                "signal": "l0",
                "error": "ValueError",
                "log_level": "warning",
            }
        ]

    async def test_no_task_is_made(self) -> None:
        """Local signals cost no trip through the event loop."""
        made: list[object] = []

        def factory(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
            made.append(work)
            return asyncio.Task(work, loop=loop)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            signal = Local()
            await read_signals(local(signal), subject(), after(1))
        finally:
            loop.set_task_factory(None)
        assert made == []
        assert signal.threads == [threading.main_thread()]

    async def test_a_large_body_is_read_beside_the_event_loop(self) -> None:
        """Others go on while a megabyte is looked at."""
        signal = Local()
        await read_signals(local(signal), subject("x" * INLINE), after(1))
        assert signal.threads != [threading.main_thread()]


class TestRemote:
    @timeless
    async def test_all_are_asked_at_once(self) -> None:
        """It takes as long as the slowest, not as all together."""
        signals = remote(*(Remote(0.2) for _ in range(5)))
        began = asyncio.get_running_loop().time()
        assert len(await read_signals(signals, subject(), after(5), EGRESS)) == 5
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.2)

    @timeless
    async def test_what_is_late_has_no_reading_and_is_cancelled(self) -> None:
        """The deadline takes nothing from those that kept it."""
        late, early = Remote(60), Remote()
        readings = await read_signals(remote(late, early), subject(), after(0.05), EGRESS)
        assert readings == {"r1": YES}
        assert (late.end, early.end) == ("cancelled", "done")

    @timeless
    async def test_what_fails_takes_nobody_with_it(self) -> None:
        """An error of one signal is no error of the others."""
        signals = remote(Remote(0.05), Remote(0, ValueError()))
        assert await read_signals(signals, subject(), after(1), EGRESS) == {"r0": YES}
        assert [question.failures for question in signals.remote] == [0, 1]

    async def test_without_an_egress_nobody_is_asked(self) -> None:
        """Offline, what a model would say is unknown, or what `on_error` says."""
        signal = Remote()
        readings = await read_signals(remote(signal, on_error="match"), subject(), after(1))
        assert readings == {"r0": YES}
        assert signal.end == "not asked"

    @timeless
    async def test_ends_with_the_exchange(self) -> None:
        """When the client leaves, nobody waits for an answer any more, and that is no failure."""
        signal = Remote(60)
        signals = remote(signal)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await read_signals(signals, subject(), after(60), EGRESS)
        assert signal.end == "cancelled"
        assert signals.remote[0].failures == 0
