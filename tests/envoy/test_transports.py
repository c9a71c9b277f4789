"""Either transport behind a real Envoy: the same answers, and no stream that ends in another way."""

import asyncio
import json
import re

import pytest

from looper.simulate.server import Hang
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG = (
    "upstream_rq_rx_reset",
    "upstream_cx_protocol_error",
    "upstream_cx_destroy_with_active_rq",
    "upstream_cx_connect_fail",
    "upstream_rq_retry",
    "upstream_rq_timeout",
    "http2.rx_messaging_error",
    "http2.rx_reset",
    "http2.inbound_empty_frames_flood",
    "http2.inbound_window_update_frames_flood",
    "http2.outbound_control_flood",
    "http2.stream_refused_errors",
    "http2.goaway_sent",
)


async def counts(stack: Stack) -> dict[str, int]:
    text = await stack.envoy.get("/stats?filter=cluster.looper_ext_proc")
    found = dict(re.findall(r"cluster\.looper_ext_proc\.([\w.]+): (\d+)", text))
    return {name: int(found.get(name, 0)) for name in WRONG}


async def post(stack: Stack, body: bytes) -> tuple[int, bytes]:
    url = f"{stack.base_url}/chat/completions"
    headers = {"content-type": "application/json"}
    async with stack.session.post(url, data=body, headers=headers) as response:
        return response.status, await response.read()


async def leave(stack: Stack, body: bytes) -> None:
    """A client that does not wait for its answer."""
    try:
        async with asyncio.timeout(0.2):
            await post(stack, body)
    except TimeoutError:
        pass


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_nothing_is_reset_but_by_envoy(transport: str) -> None:
    """Routed requests, small and large, refusals, teams whole and streamed, clients that leave, health."""
    async with run_stack(quick_models(), transport=transport) as stack:
        sent = [(200, json.dumps(chat("x" * size)).encode()) for size in (10, 1_000, 300_000)]
        sent += [(400, b"{"), (404, json.dumps(chat(model="nobody")).encode())]
        sent += [(200, json.dumps(chat(TEAM)).encode())]
        sent += [(200, json.dumps(chat(TEAM, stream=True)).encode())]
        for _ in range(3):
            answers = await asyncio.gather(*(post(stack, body) for _, body in sent))
            assert [status for status, _ in answers] == [status for status, _ in sent]
        stack.simulator.fault("small", Hang())
        bodies = [json.dumps(each).encode() for each in (chat(), chat(TEAM, stream=True))]
        await asyncio.gather(*(leave(stack, body) for body in bodies * 10))
        stack.simulator.reset()
        assert (await post(stack, bodies[0]))[0] == 200
        await asyncio.sleep(1)  # some health checks

        assert await counts(stack) == dict.fromkeys(WRONG, 0)
        assert '"level":"error"' not in stack.processor.log.read_text()
