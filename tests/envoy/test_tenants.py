"""What each tenant may spend, and what statistics say of it, through a real Envoy."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.envoy.conftest import quick_models
from tests.envoy.requests import ROUTED, TEAM, chat
from tests.envoy.series import count
from tests.envoy.test_identity import checking_tokens, edited
from tests.fakes.redis import run_redis
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO = {"metadata": "test.auth", "path": ["user"]}
ANN, BOB = ({"authorization": f"Bearer of-{name}"} for name in ("ann", "bob"))


def change(tenants: dict[str, Any], **members: Any) -> dict[str, Any]:
    demo = yaml.safe_load(DEMO.read_text())
    entrypoint = {"recipe": "general", "tenant": WHO}
    return {
        "limits": {**demo.get("limits", {}), "tenants": tenants},
        "entrypoints": {"looper/auto": entrypoint},
        **members,
    }


async def ask(
    stack: Stack, headers: dict[str, str], text: str = ROUTED
) -> tuple[int, dict[str, Any], dict[str, str]]:
    url = f"{stack.base_url}/chat/completions"
    async with stack.session.post(url, json=chat(text), headers=headers) as response:
        return response.status, await response.json(), dict(response.headers)


async def test_each_tenant_spends_its_own_and_is_told_apart_in_statistics() -> None:
    """By what a filter before ours has found out, in metadata. Whoever it knows nothing of is one of the others."""
    tenants = {
        name: {"calls": calls, "per": "10000h"} for name, calls in (("ann", 3), ("other", 1))
    }
    metered = {"envoy": {"profile": "metered"}}
    async with run_stack(
        quick_models(), change(tenants, **metered), edit=edited(checking_tokens)
    ) as stack:
        said = [(await ask(stack, ANN, text))[0] for text in (ROUTED, TEAM, ROUTED)]
        status, error, headers = await ask(stack, ANN)
        others = [(await ask(stack, who))[0] for who in (BOB, {}, {"x-user": "ann"})]
        series = await stack.until_series(
            lambda series: count(series, "envoy_looper_tenant_requests_total") == 7
        )

    assert said == [200, 200, 429]
    assert (status, error["error"]["code"]) == (429, "tenant_limit_reached")
    assert 0 < int(headers["Retry-After"]) <= 10_000 * 3600
    assert others == [200, 429, 429]
    name = "envoy_looper_tenant_requests_total"
    for tenant, code, number in (
        ("ann", 200, 2),
        ("ann", 429, 2),
        ("other", 200, 1),
        ("other", 429, 2),
    ):
        assert count(series, name, tenant=tenant, code=str(code)) == number
    for kind in ("prompt", "completion"):
        tokens = count(series, "envoy_looper_tenant_tokens_total", tenant="ann", kind=kind)
        assert tokens > count(series, "envoy_looper_tenant_tokens_total", tenant="other", kind=kind)
    assert count(series, "envoy_looper_tenant_cost_microusd_total", tenant="ann") > 0


@pytest_asyncio.fixture(loop_scope="session")
async def redis_state() -> AsyncIterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as folder:
        async with run_redis(Path(folder)) as server:
            key = Path(folder) / "key"
            key.write_text("k" * 32)
            yield {"type": "redis", "url": server.url, "keys": [{"file": str(key)}]}


async def test_processors_with_the_same_redis_share_what_a_tenant_may_spend(
    redis_state: dict[str, Any],
) -> None:
    """Within a moment: both refuse what one of them alone would have let through."""
    tenants = {"ann": {"calls": 40, "per": "10000h"}, "other": {}}
    async with run_stack(
        quick_models(),
        change(tenants, state=redis_state),
        processors=2,
        edit=edited(checking_tokens),
    ) as stack:
        answered = 0
        async with asyncio.timeout(60):
            while (await ask(stack, ANN))[0] == 200:
                answered += 1
                await asyncio.sleep(0.05)
        # The other one has heard as much, too: nobody gets through any more, whichever is asked.
        await asyncio.sleep(1.5)
        later = {(await ask(stack, ANN))[0] for _ in range(10)}
        bobs = (await ask(stack, BOB))[0]

    assert 40 <= answered < 70
    assert later == {429}
    assert bobs == 200


async def test_a_process_that_starts_anew_knows_what_was_spent(redis_state: dict[str, Any]) -> None:
    tenants = {"ann": {"calls": 2, "per": "10000h"}}
    async with run_stack(
        quick_models(), change(tenants, state=redis_state), edit=edited(checking_tokens)
    ) as stack:
        assert [(await ask(stack, ANN))[0] for _ in range(3)] == [200, 200, 429]
        await stack.processor.stop()
        await stack.processor.start()
        async with asyncio.timeout(20):
            while (await ask(stack, ANN))[0] != 429:
                await asyncio.sleep(0.3)
