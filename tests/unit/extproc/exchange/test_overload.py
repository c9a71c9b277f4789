import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from extproc.config import parse_config
from extproc.errors import ConfigError
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import Action, Respond, Rewrite
from extproc.protocol.events import BodyMode
from tests.fakes.channel import ScriptedChannel, body, exchange_of, opening
from tests.fakes.clock import timeless
from tests.fakes.models import After, Hang, ScriptedClient, Step

both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)

CONFIG = """
version: 1
egress: unix:/run/egress.sock
limits: {max_runs: %(max_runs)s, max_waiting: %(max_waiting)s, patience: %(patience)s}
models:
  - {name: small, upstream_model: qwen, url: "http://small/v1"}
  - {name: large, url: "http://large/v1"}
recipes:
  team:
    decisions:
      - name: panel
        algorithm: {type: fusion, analysis_models: [small], judge_model: large}
        %(overload)s
  crowd:
    decisions:
      - {name: panel, algorithm: {type: fusion, analysis_models: [small], judge_model: large}}
  plain:
    decisions:
      - {name: only, algorithm: {type: single, model: small}}
entrypoints: {looper/team: team, looper/crowd: crowd, looper/plain: plain}
"""

SCRIPT: Mapping[str, Step] = {"small": After(10, "draft"), "large": "answer"}


def config(
    *, max_runs: int = 1, max_waiting: int = 0, patience: str = "1s", overload: str | None = None
) -> str:
    return CONFIG % {
        "max_runs": max_runs,
        "max_waiting": max_waiting,
        "patience": patience,
        "overload": "" if overload is None else f"overload: {overload}",
    }


@dataclass
class Traffic:
    """Exchanges beside each other, with one runtime."""

    text: str
    script: Mapping[str, Step] = field(default_factory=lambda: SCRIPT)
    client: ScriptedClient = field(init=False)
    runtime: Runtime = field(init=False)

    def __post_init__(self) -> None:
        self.client = ScriptedClient(self.script)
        self.runtime = build(parse_config(self.text, "test.yaml"), self.client)

    async def ask(
        self,
        model: str = "looper/team",
        *,
        mode: BodyMode = BodyMode.FULL_DUPLEX,
        **members: Any,
    ) -> ScriptedChannel:
        messages = [{"role": "user", "content": "hi"}]
        data = json.dumps({"model": model, "messages": messages, **members}).encode()
        exchange, channel = exchange_of(self.runtime, opening(mode=mode), body(data))
        await exchange.run()
        return channel

    def nothing_is_held(self) -> bool:
        admission = self.runtime.admission
        return (admission.open, admission.waiting, self.runtime.outflow.total) == (0, 0, 0)


def last(channel: ScriptedChannel) -> Action:
    return channel.sent[-1]


class TestStandIn:
    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    def test_answers_in_place_of_a_team_beyond_the_limit(
        self, mode: BodyMode, stream: bool
    ) -> None:
        """The request is routed to the overload model at once, in this very exchange, and no run begins."""

        @timeless
        async def test() -> None:
            traffic = Traffic(config(overload="large"))
            async with asyncio.TaskGroup() as group:
                group.create_task(traffic.ask())
                await asyncio.sleep(1)
                channel = await traffic.ask(mode=mode, stream=stream)
                assert json.loads(channel.rewrite.body)["model"] == "large"
                assert dict(channel.rewrite.headers)["x-looper-model"] == "large"
                assert not channel.began
                assert traffic.client.names == ["small"]
            assert traffic.nothing_is_held()

        test()

    @timeless
    async def test_is_said_in_metadata(self) -> None:
        """Statistics can tell what was degraded from what was decided."""
        traffic = Traffic(config(overload="small"))
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            metadata = (await traffic.ask()).rewrite.metadata
        assert (metadata["decision"], metadata["recipe"]) == ("panel", "team")
        assert (metadata["model"], metadata["outcome"]) == ("small", "overload")

    @timeless
    async def test_is_not_asked_for_what_it_cannot_do(self) -> None:
        """A stand-in that is known to refuse the request is none."""
        tools = [{"type": "function", "function": {"name": "f"}}]
        blind = "  - {name: blind, url: http://b/v1, capabilities: []}\nrecipes:"
        traffic = Traffic(config(overload="blind").replace("recipes:", blind, 1))
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            assert isinstance(last(await traffic.ask()), Rewrite)
            assert (await traffic.ask(tools=tools)).respond.status == 503

    @timeless
    async def test_is_not_asked_below_the_limit(self) -> None:
        """A team answers as long as there is room for it."""
        traffic = Traffic(config(max_runs=2, overload="large"))
        async with asyncio.TaskGroup() as group:
            channels = [group.create_task(traffic.ask()) for _ in range(2)]
        assert all(channel.result().respond.status == 200 for channel in channels)

    @timeless
    async def test_comes_after_the_patience(self) -> None:
        """Who may wait for a team does so first."""
        traffic = Traffic(config(max_waiting=5, patience="3s", overload="large"))
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            begun = asyncio.get_running_loop().time()
            assert isinstance(last(await traffic.ask()), Rewrite)
            assert asyncio.get_running_loop().time() - begun == 3

    def test_must_be_a_model_of_the_catalogue(self) -> None:
        """A name that refers to nothing is found when the file is read, not when the load is high."""
        with pytest.raises(ConfigError, match=r"overload.*lagre.*large"):
            parse_config(config(overload="lagre"), "test.yaml")


class TestRefusal:
    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    def test_without_a_stand_in_it_is_503(self, mode: BodyMode, stream: bool) -> None:
        """A real status, in a stream too, that says when to come back, and that this is worth while."""

        @timeless
        async def test() -> None:
            traffic = Traffic(config())
            async with asyncio.TaskGroup() as group:
                group.create_task(traffic.ask())
                await asyncio.sleep(1)
                response = (await traffic.ask(mode=mode, stream=stream)).respond
            assert response.status == 503
            error = json.loads(response.body)["error"]
            assert (error["type"], error["code"]) == ("server_error", "overloaded")
            headers = dict(response.headers)
            assert int(headers["retry-after"]) >= 1
            assert headers["x-should-retry"] == "true"
            assert traffic.nothing_is_held()

        test()

    @timeless
    async def test_makes_no_call_and_begins_no_run(self) -> None:
        """What is refused costs nothing."""
        traffic = Traffic(config())
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            channel = await traffic.ask()
            assert traffic.client.names == ["small"]
        assert not channel.began

    @timeless
    async def test_ends_with_the_load(self) -> None:
        """As soon as a team is done the next may begin."""
        traffic = Traffic(config())
        await traffic.ask()
        assert (await traffic.ask()).respond.status == 200

    @timeless
    async def test_who_waits_gets_the_turn(self) -> None:
        """A place that becomes free within the patience is taken."""
        traffic = Traffic(config(max_waiting=1, patience="30s"))
        async with asyncio.TaskGroup() as group:
            channels = [group.create_task(traffic.ask()) for _ in range(3)]
        statuses = [channel.result().respond.status for channel in channels]
        assert sorted(statuses) == [200, 200, 503]
        assert traffic.nothing_is_held()

    @timeless
    async def test_recipes_take_turns(self) -> None:
        """A crowd before one public name does not keep another name's request waiting until it is gone."""
        traffic = Traffic(config(max_waiting=10, patience="500s"))
        ended: list[str] = []

        async def visit(model: str) -> None:
            await traffic.ask(model)
            ended.append(model)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(visit("looper/crowd"))
            await asyncio.sleep(1)
            group.create_task(visit("looper/team"))
        assert ended.index("looper/team") <= 2

    @timeless
    async def test_a_client_that_leaves_the_queue_takes_nothing_with_it(self) -> None:
        """Neither its place in the queue nor that of a run is lost."""
        traffic = Traffic(config(max_waiting=1, patience="30s"))
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            waiting = group.create_task(traffic.ask())
            await asyncio.sleep(1)
            waiting.cancel()
        assert traffic.nothing_is_held()
        assert (await traffic.ask()).respond.status == 200

    @timeless
    async def test_a_client_that_leaves_its_team_makes_room(self) -> None:
        """A run that was cancelled is none any more."""
        traffic = Traffic(config(), {"small": Hang(), "large": "answer"})
        async with asyncio.TaskGroup() as group:
            running = group.create_task(traffic.ask())
            await asyncio.sleep(1)
            running.cancel()
        assert traffic.nothing_is_held()


class TestRouted:
    @both_modes
    def test_is_unaffected(self, mode: BodyMode) -> None:
        """However many teams are at work or wait, a request for one model passes in no time."""

        @timeless
        async def test() -> None:
            traffic = Traffic(config(max_waiting=5, patience="5s"))
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(traffic.ask())
                await asyncio.sleep(1)
                begun = asyncio.get_running_loop().time()
                for _ in range(20):
                    channel = await traffic.ask("looper/plain", mode=mode)
                    assert json.loads(channel.rewrite.body)["model"] == "qwen"
                assert asyncio.get_running_loop().time() == begun

        test()

    @timeless
    async def test_counts_for_nothing(self) -> None:
        """Envoy answers it: no place of a team is taken."""
        traffic = Traffic(config())
        for _ in range(5):
            await traffic.ask("looper/plain")
        assert (await traffic.ask()).respond.status == 200

    @timeless
    async def test_what_is_refused_is_no_response_of_a_model(self) -> None:
        """A request that cannot be understood is told so, overload or not."""
        traffic = Traffic(config())
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.ask())
            await asyncio.sleep(1)
            response = last(await traffic.ask("looper/nobody"))
        assert isinstance(response, Respond)
        assert response.status == 404
