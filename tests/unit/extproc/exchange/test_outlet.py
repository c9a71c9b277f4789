"""When an outlet gives up on a stream, and when it never does: in virtual time."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from extproc.errors import Abandoned
from extproc.exchange.channel import Channel
from extproc.exchange.outlet import Outlet
from extproc.protocol.actions import Action, CloseStream, OpenStream, Rewrite, StreamData
from extproc.protocol.events import Event
from tests.fakes.clock import timeless

DUE = 10.0
HOUR = 3600.0
OPEN, WORD, END = OpenStream(()), StreamData(b"x"), CloseStream(b"")


@dataclass
class SlowChannel(Channel):
    """Takes its time for actions of one kind, or fails with them; perhaps also for an abort."""

    slow: type[Action] | None = None
    failing: type[Action] | None = None
    aborting: float = 0.0
    sent: list[Action] = field(default_factory=list)
    aborted: list[float] = field(default_factory=list)

    async def receive(self) -> Event | None:
        return None

    async def send(self, action: Action) -> None:
        if self.slow is not None and isinstance(action, self.slow):
            await asyncio.sleep(HOUR)
        if self.failing is not None and isinstance(action, self.failing):
            raise Abandoned
        self.sent.append(action)

    async def begin(self) -> None:
        return None

    async def abort(self, why: str) -> None:
        self.aborted.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.aborting)


async def _speak(outlet: Outlet, *said: Action) -> None:
    """Say this, insist on an end whatever comes of it, and then do nothing for an hour."""
    async with outlet:
        await outlet.begin(DUE)
        try:
            await outlet.send(*said)
        finally:
            if outlet.closed:
                await outlet.send(END)
        await asyncio.sleep(HOUR)


@timeless
async def test_an_end_that_waits_for_a_slow_reader_is_left_alone() -> None:
    """However long that takes: the transport has it."""
    channel = SlowChannel(slow=CloseStream)
    async with Outlet(channel, lambda why: None) as outlet:
        await outlet.begin(DUE)
        await outlet.send(OPEN, WORD, END)
    assert (channel.sent[-1], channel.aborted) == (END, [])
    assert asyncio.get_running_loop().time() >= HOUR


@timeless
async def test_what_is_routed_is_never_aborted() -> None:
    """It has no deadline of ours, and no task of its own."""
    channel = SlowChannel(slow=Rewrite)
    tasks = len(asyncio.all_tasks())
    async with Outlet(channel, lambda why: None) as outlet, asyncio.TaskGroup() as group:
        group.create_task(outlet.send(Rewrite((), b"", {})))
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == tasks + 1  # the test's
    assert channel.aborted == []


@pytest.mark.parametrize("aborting", [0.0, HOUR], ids=["at-once", "held-by-flow-control"])
@pytest.mark.parametrize(
    ("slow", "said"),
    [
        pytest.param(None, (OPEN, WORD), id="no-end"),
        pytest.param(StreamData, (OPEN, WORD, END), id="a-write-that-hangs"),
    ],
)
def test_without_an_end_it_is_aborted_when_that_is_due(
    slow: type[Action] | None,
    said: tuple[Action, ...],
    aborting: float,
) -> None:
    """Whoever works for it is cancelled after that, and an abort is waited for two seconds at the most."""

    @timeless
    async def run() -> None:
        channel = SlowChannel(slow=slow, aborting=aborting)
        told: list[str] = []
        outlet = Outlet(channel, told.append)
        with pytest.raises(Abandoned):
            await _speak(outlet, *said)
        assert (channel.aborted, len(told), outlet.aborted) == ([DUE], 1, True)
        assert asyncio.get_running_loop().time() <= DUE + 2

    run()


@timeless
async def test_an_end_that_cannot_be_written_is_not_tried_twice() -> None:
    """The stream is aborted in the same moment, and whatever comes then is not taken."""
    channel = SlowChannel(failing=CloseStream)
    outlet = Outlet(channel, lambda why: None)
    with pytest.raises(Abandoned):
        await _speak(outlet, OPEN, END)
    assert (channel.sent, channel.aborted, outlet.handed) == ([OPEN], [0.0], False)


@timeless
async def test_what_was_handed_over_is_said_though_its_speaker_is_cancelled() -> None:
    """In its order, and whole; the next one waits for it."""
    channel = SlowChannel(slow=OpenStream)
    async with Outlet(channel, lambda why: None) as outlet:
        await outlet.begin(2 * HOUR)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await outlet.send(OPEN, WORD)
        await outlet.send(END)
    assert (channel.sent, channel.aborted) == ([OPEN, WORD, END], [])


async def _go_on(outlet: Outlet) -> None:
    """Speak, lose a cancellation, as asyncio itself may where a wait ends in the same moment, and speak again."""
    async with outlet:
        await outlet.begin(DUE)
        with suppress(asyncio.CancelledError):
            await outlet.send(OPEN, WORD)
            await asyncio.sleep(HOUR)
        await outlet.send(WORD)


@pytest.mark.parametrize("failing", [StreamData, None], ids=["not-written", "overdue"])
def test_nobody_waits_for_a_stream_that_was_broken_off(failing: type[Action] | None) -> None:
    @timeless
    async def run() -> None:
        with pytest.raises(Abandoned):
            await _go_on(Outlet(SlowChannel(failing=failing), lambda why: None))
        assert asyncio.get_running_loop().time() <= DUE

    run()


async def _speak_side_by_side(outlet: Outlet) -> None:
    """What is said in tasks whose group has lost a cancellation is cancelled all the same."""
    async with outlet, asyncio.TaskGroup() as group:
        await outlet.begin(DUE)
        speaking = [group.create_task(outlet.send(said)) for said in (OPEN, WORD)]
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(HOUR)
        await asyncio.wait(speaking)
        assert all(task.cancelled() for task in speaking)


@timeless
async def test_what_waits_for_a_write_that_fails_is_cancelled() -> None:
    """Be it under way or yet to come."""
    with pytest.raises(Abandoned):
        await _speak_side_by_side(Outlet(SlowChannel(slow=OpenStream), lambda why: None))
    assert asyncio.get_running_loop().time() == DUE
