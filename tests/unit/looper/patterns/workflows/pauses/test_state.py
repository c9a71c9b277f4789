import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from looper.errors import StateUnavailable
from looper.patterns.workflows.pauses.redis_state import RedisStore, connect
from looper.patterns.workflows.pauses.sealing import Seal, Unreadable
from looper.patterns.workflows.pauses.state import (
    AnyState,
    MemoryState,
    MemoryStore,
    RedisState,
    Store,
)
from tests.fakes.clock import timeless
from tests.fakes.redis import RedisServer, run_redis, run_redis_tls

KEY, OTHER = b"k" * 32, b"o" * 32
PASSWORD = "not in any log"


def redis_settings(url: str, **settings: Any) -> RedisState:
    return RedisState.model_validate(
        {"type": "redis", "url": url, "keys": [{"env": "KEY"}], **settings}
    )


@pytest.fixture
def folder() -> Any:
    with TemporaryDirectory(prefix="re-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def redis(folder: Path) -> AsyncIterator[RedisServer]:
    async with run_redis(folder) as server:
        yield server


@dataclass
class Aging:
    """A store, and a way to have time pass for what it keeps."""

    store: Store
    passing: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["memory", "redis"])
async def aging(request: pytest.FixtureRequest) -> AsyncIterator[Aging]:
    """A store of either kind, whose states live for 100 s, and leases for 20 s."""
    times = {"ttl": "100s", "lease": "20s"}
    if request.param == "memory":
        now = 0.0

        async def later(seconds: float) -> None:
            nonlocal now
            now += seconds

        yield Aging(MemoryStore(MemoryState.model_validate(times), lambda: now), later)
        return
    with TemporaryDirectory(prefix="re-", dir="/tmp") as path:
        async with run_redis(Path(path)) as server:
            settings = redis_settings(server.url, **times)
            client = connect(settings, None)

            async def sooner(seconds: float) -> None:
                """Redis has no clock that could be set: what it keeps has that much less time to live."""
                async for key in client.scan_iter():
                    left = await client.pttl(key) - int(1000 * seconds)
                    await client.pexpire(key, max(0, left))

            kept = RedisStore(settings, client, [KEY])
            yield Aging(kept, sooner)
            await kept.aclose()


@pytest.fixture
def store(aging: Aging) -> Store:
    return aging.store


class TestEveryStore:
    async def test_a_state_is_what_was_kept(self, store: Store) -> None:
        """Bytes come back as they were, as often as they are read."""
        await store.put("one", b"\0state\xff")

        assert await store.get("one") == b"\0state\xff"
        assert await store.get("one") == b"\0state\xff"
        assert await store.get("two") is None

    async def test_a_state_expires(self, store: Store, aging: Aging) -> None:
        """After its time it is gone, claimed or not."""
        await store.put("one", b"state")
        assert await store.claim("one", "me") == "held"
        await aging.passing(105)

        assert await store.get("one") is None
        assert await store.claim("one", "me") == "gone"

    async def test_one_has_it_at_a_time(self, store: Store) -> None:
        """Whoever has it may claim it again; others cannot, until it is let go."""
        await store.put("one", b"state")

        assert await store.claim("one", "me") == "held"
        assert await store.claim("one", "you") == "busy"
        assert await store.claim("one", "me") == "held"
        await store.release("one", "you", b"yours")
        assert await store.claim("one", "you") == "busy"
        assert await store.get("one") == b"state"
        await store.release("one", "me", b"mine")
        assert await store.claim("one", "you") == "held"
        assert await store.get("one") == b"mine"

    async def test_it_can_be_let_go_as_it_was(self, store: Store) -> None:
        """Whoever has it and did nothing with it need not know what it is."""
        await store.put("one", b"state")
        await store.claim("one", "me")
        await store.release("one", "you")
        assert await store.claim("one", "you") == "busy"
        await store.release("one", "me")

        assert await store.claim("one", "you") == "held"
        assert await store.get("one") == b"state"

    async def test_letting_go_of_it_does_not_prolong_it(self, store: Store, aging: Aging) -> None:
        """It is kept as long as it was to be when it was put, and not brought back after that."""
        await store.put("one", b"state")
        await aging.passing(60)
        await store.claim("one", "me")
        await store.release("one", "me", b"later")
        assert await store.get("one") == b"later"
        await aging.passing(30)
        await store.claim("one", "me")
        await aging.passing(15)
        await store.release("one", "me", b"too late")

        assert await store.get("one") is None

    async def test_of_many_at_once_one_gets_it(self, store: Store) -> None:
        """However many claim it in the same moment."""
        await store.put("one", b"state")
        claims = await asyncio.gather(*(store.claim("one", f"holder {at}") for at in range(50)))

        assert sorted(set(claims)) == ["busy", "held"]
        assert claims.count("held") == 1

    async def test_a_lease_ends_by_itself(self, store: Store, aging: Aging) -> None:
        """A holder that has died is one only until its lease ends; one that lives claims again in time."""
        await store.put("one", b"state")
        await store.claim("one", "dead")
        await aging.passing(15)
        assert await store.claim("one", "next") == "busy"
        await store.claim("one", "dead")
        await aging.passing(15)
        assert await store.claim("one", "next") == "busy"
        await aging.passing(10)

        assert await store.claim("one", "next") == "held"

    async def test_what_is_finished_is_gone(self, store: Store) -> None:
        """Only its holder can finish it, and then nobody has it again."""
        await store.put("one", b"state")
        await store.claim("one", "me")
        await store.finish("one", "you")
        assert await store.get("one") == b"state"
        await store.finish("one", "me")

        assert await store.get("one") is None
        assert await store.claim("one", "me") == "gone"

    async def test_who_lost_it_cannot_finish_it(self, store: Store, aging: Aging) -> None:
        """After its lease another one has it, and the late one's finish changes nothing."""
        await store.put("one", b"state")
        await store.claim("one", "late")
        await aging.passing(25)
        await store.claim("one", "next")
        await store.finish("one", "late")

        assert await store.get("one") == b"state"


class TestMemory:
    @timeless
    async def test_the_oldest_give_way(self) -> None:
        """All states together stay within their limit."""
        store = MemoryStore(MemoryState(max_bytes=100))
        for at in range(5):
            await store.put(f"{at}", b"x" * 40)

        assert [await store.get(f"{at}") is not None for at in range(5)] == [
            False, False, False, True, True,
        ]  # fmt: skip

    @timeless
    async def test_what_is_larger_than_the_limit_is_refused(self) -> None:
        """Nobody is told to come back for what was not kept, and nothing gives way to it."""
        store = MemoryStore(MemoryState(max_bytes=100))
        await store.put("small", b"x")
        with pytest.raises(StateUnavailable):
            await store.put("large", b"x" * 101)

        assert await store.get("small") == b"x"

    @timeless
    async def test_what_has_expired_is_let_go(self) -> None:
        """States that nobody comes back for are not kept for ever."""
        store = MemoryStore(MemoryState(ttl=timedelta(seconds=10)))
        for at in range(100):
            await store.put(f"{at}", b"x")
            await asyncio.sleep(1)

        assert len(store._kept) <= 10


class TestRedis:
    async def test_nothing_readable_is_in_it(self, redis: RedisServer) -> None:
        """Redis holds ids and ciphertext: no state, no holder, no key."""
        settings = redis_settings(redis.url)
        client = connect(settings, None)
        store = RedisStore(settings, client, [KEY])
        await store.put("one", b"what was said")
        await store.claim("one", "request-id-of-a-client")
        names = await client.keys("*")
        values: list[Any] = [await client.get(name) for name in names]
        await store.aclose()

        assert sorted(names) == [b"looper:{one}:lease", b"looper:{one}:state"]
        assert not any(b"said" in value or b"client" in value or KEY in value for value in values)

    async def test_a_state_is_bound_to_its_id(self, redis: RedisServer) -> None:
        """A state that somebody put under another id is none."""
        settings = redis_settings(redis.url)
        client = connect(settings, None)
        store = RedisStore(settings, client, [KEY])
        await store.put("one", b"state")
        stored: Any = await client.get("looper:{one}:state")
        await client.set("looper:{two}:state", stored)
        await client.set("looper:{three}:state", b"nonsense")

        assert await store.get("two") is None
        assert await store.get("three") is None
        await store.aclose()

    async def test_keys_rotate(self, redis: RedisServer) -> None:
        """The first key writes, all of them read; what was written with one that is gone is gone too."""
        settings = redis_settings(redis.url)
        client = connect(settings, None)
        await RedisStore(settings, client, [KEY]).put("one", b"state")

        assert await RedisStore(settings, client, [OTHER, KEY]).get("one") == b"state"
        assert await RedisStore(settings, client, [OTHER]).get("one") is None
        await client.aclose()

    async def test_after_redis_was_away_no_connection_is_lost(self, folder: Path) -> None:
        """Those in the pool are dead, each of them once; what is asked then goes over fresh ones."""
        async with run_redis(folder) as server:
            store = RedisStore(
                settings := redis_settings(server.url), connect(settings, None), [KEY]
            )
            await asyncio.gather(*(store.put(f"{at}", b"state") for at in range(20)))
            await server.stop()
            await server.start()
            await asyncio.gather(*(store.put(f"{at}", b"again") for at in range(20)))

            assert await store.get("7") == b"again"
            await store.aclose()

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"$x\r\n",
            b":1:2\r\n",
            b"*1\r\n:7\r\n",
            b"\xff\n\r\n",
        ],
    )
    async def test_what_is_no_redis_is_no_mistake_of_ours(self, folder: Path, said: bytes) -> None:
        """Whatever it says: the run cannot be kept or found."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                writer.write(said)
            writer.close()

        async with await asyncio.start_unix_server(answer, folder / "no.sock"):
            settings = redis_settings(f"unix://{folder}/no.sock", timeout="5s")
            store = RedisStore(settings, connect(settings, None), [KEY])
            for asking in (store.get("one"), store.claim("one", "me"), store.put("one", b"state")):
                with pytest.raises(StateUnavailable):
                    await asking
            await store.aclose()

    async def test_two_instances_share_states(self, redis: RedisServer) -> None:
        """What one keeps, the other finds, and of both one has it."""
        settings = redis_settings(redis.url)
        one, other = (RedisStore(settings, connect(settings, None), [KEY]) for _ in range(2))
        await one.put("id", b"state")

        assert await other.get("id") == b"state"
        assert await other.claim("id", "second") == "held"
        assert await one.claim("id", "first") == "busy"
        await one.aclose()
        await other.aclose()

    async def test_a_redis_that_is_down_is_a_typed_error(self, redis: RedisServer) -> None:
        """Neither addresses nor Redis' own words are in it; when it is back, everything goes on."""
        settings = redis_settings(redis.url)
        store = RedisStore(settings, connect(settings, None), [KEY])
        await store.put("one", b"state")
        await redis.stop()
        with pytest.raises(StateUnavailable) as caught:
            await store.get("one")
        assert str(caught.value) == "The run cannot be kept or found at the moment."
        await redis.start()

        await store.put("one", b"state")
        await store.aclose()

    async def test_a_redis_that_hangs_is_given_up(self, folder: Path) -> None:
        """A command has its time, and no more."""

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(hang, folder / "hang.sock")
        settings = redis_settings(f"unix://{folder}/hang.sock", timeout="200ms")
        store = RedisStore(settings, connect(settings, None), [KEY])
        began = time.monotonic()
        with pytest.raises(StateUnavailable):
            await store.get("one")
        await store.aclose()
        server.close()

        assert time.monotonic() - began < 10

    async def test_a_password_is_needed_and_given(self, folder: Path) -> None:
        """With the right one it works; with a wrong one or none the error says nothing of it."""
        async with run_redis(folder, password=PASSWORD) as server:
            settings = redis_settings(server.url)
            store = RedisStore(settings, connect(settings, PASSWORD), [KEY])
            await store.put("one", b"state")
            assert await store.get("one") == b"state"
            await store.aclose()
            for wrong in (None, "wrong"):
                store = RedisStore(settings, connect(settings, wrong), [KEY])
                with pytest.raises(StateUnavailable) as caught:
                    await store.get("one")
                assert "password" not in str(caught.value).lower()
                await store.aclose()

    async def test_over_tls_the_server_is_verified(self, folder: Path) -> None:
        """With its CA it works; without it, or under another name than the certificate's, it does not."""
        async with run_redis_tls(folder, password=PASSWORD) as server:
            good = redis_settings(server.url, ca=str(folder / "ca.pem"))
            store = RedisStore(good, connect(good, PASSWORD), [KEY])
            await store.put("one", b"state")
            assert await store.get("one") == b"state"
            await store.aclose()
            for bad in (
                redis_settings(server.url),
                redis_settings(
                    server.url.replace("localhost", "127.0.0.1"), ca=str(folder / "ca.pem")
                ),
            ):
                store = RedisStore(bad, connect(bad, PASSWORD), [KEY])
                with pytest.raises(StateUnavailable):
                    await store.get("one")
                await store.aclose()


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_is_sealed_is_opened(state: bytes, id: str) -> None:
    """Whatever was sealed comes back, under its own id."""
    seal = Seal([KEY])
    assert seal.open(id, seal.close(id, state)) == state


@given(st.integers(0, 60), st.integers(1, 255))
def test_no_changed_byte_is_opened(at: int, change: int) -> None:
    """One other bit anywhere is noticed."""
    seal = Seal([KEY])
    sealed = bytearray(seal.close("id", b"state" * 10))
    sealed[at] ^= change
    with pytest.raises(Unreadable):
        seal.open("id", bytes(sealed))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"type": "redis", "url": "redis://h"}, "keys"),
        ({"type": "redis", "url": "http://h", "keys": [{"env": "K"}]}, "neither redis://"),
        (
            {"type": "redis", "url": "redis://u:s@h", "keys": [{"env": "K"}]},
            "credential",
        ),  # pragma: allowlist secret
        ({"type": "memory", "identity": {}}, "exactly one"),
        ({"type": "memory", "identity": {"header": "x", "attribute": "y"}}, "exactly one"),
        ({"type": "memory", "ttl": "0s"}, "greater than datetime.timedelta(0)"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said(settings: dict[str, Any], text: str) -> None:
    """And no credential is repeated."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(AnyState).validate_python(settings)
    message = "; ".join(f"{each['loc']}: {each['msg']}" for each in caught.value.errors())
    assert text in message
    assert "secret" not in message
