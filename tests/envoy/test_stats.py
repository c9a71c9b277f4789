"""What Envoy's own statistics tell of requests and calls."""

import re

import pytest

from looper.simulate.server import UsageHabit
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, chat
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

LABEL = re.compile(r'(\w+)="([^"]*)"')


def count(series: dict[str, float], name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels."""
    total = 0.0
    for key, value in series.items():
        if key.partition("{")[0] == name and labels.items() <= dict(LABEL.findall(key)).items():
            total += value
    return total


async def test_a_routed_request_is_counted(stack: Stack) -> None:
    """A routed request counts once, by decision, algorithm, model and code."""
    labels = {"decision": "default", "algorithm": "single", "model": "small", "code": "200"}
    before = count(await stack.series(), "envoy_looper_requests_total", **labels)

    async with stack.session.post(f"{stack.base_url}/chat/completions", json=chat()) as response:
        await response.read()

    await stack.until_series(
        lambda now: count(now, "envoy_looper_requests_total", **labels) == before + 1
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["unstreamed", "streamed"])
async def test_a_teams_request_is_counted(stack: Stack, streamed: bool) -> None:
    """A team's request counts once, with its outcome; its calls, tokens and cost are added up."""
    labels = {"decision": "panel", "algorithm": "fusion", "code": "200"}
    before = await stack.series()

    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM, stream=streamed)
    ) as response:
        await response.read()

    after = await stack.until_series(
        lambda now: (
            count(now, "envoy_looper_requests_total", outcome="ok", **labels)
            == count(before, "envoy_looper_requests_total", outcome="ok", **labels) + 1
        )
    )
    for name in ("prompt_tokens", "completion_tokens", "cost_microusd"):
        series = f"envoy_looper_{name}_total"
        assert count(after, series) > count(before, series), name


async def test_each_call_is_counted_by_model_and_role(stack: Stack) -> None:
    """Every call of a run counts at the egress, by model, role and code."""
    before = await stack.series()

    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(TEAM)
    ) as response:
        await response.read()

    def calls(series: dict[str, float], model: str, role: str) -> float:
        return count(series, "envoy_looper_egress_calls_total", model=model, role=role, code="200")

    expected = [
        ("small", "panel"),
        ("other", "panel"),
        ("third", "panel"),
        ("large", "judge"),
        ("large", "final"),
    ]
    await stack.until_series(
        lambda now: all(calls(now, *each) == calls(before, *each) + 1 for each in expected)
    )


CERTAIN = {
    "decisions": [
        {
            "name": "vote",
            "algorithm": {"type": "ratings", "models": ["small", "other", "third"]},
            "contract": {"type": "choice", "values": ["yes", "no"]},
        }
    ]
}


async def test_how_sure_a_team_was_and_what_was_estimated_are_counted() -> None:
    """The confidence of a vote is observed once; tokens that no backend reported are counted as estimates."""
    async with run_stack(quick_models(), {"recipes": {"general": CERTAIN}}) as stack:
        for name in ("small", "other", "third"):
            stack.simulator.script(name, "Answer: yes")
            stack.simulator.fault(name, UsageHabit(kind="missing"))
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat("Is it?", stop=None)
        ) as response:
            answer = await response.json()
            assert response.status == 200, answer

        name = "envoy_looper_confidence_permille"
        # Envoy shows what a histogram has observed from its next flush on, and flushes every five seconds.
        series = await stack.until_series(
            lambda now: count(now, f"{name}_count", decision="vote") == 1, timeout=15
        )

        assert 0 < count(series, f"{name}_sum", decision="vote") <= 1000
        told = answer["usage"]["looper"]["estimated_tokens"]
        estimated = count(series, "envoy_looper_estimated_tokens_total", decision="vote")
        assert estimated == told > 0
        assert count(series, "envoy_looper_calls_total", decision="vote") == stack.simulator.count()


POLICY = {
    "signals": {
        "code": {"type": "keyword", "any": ["code"]},
        "proof": {"type": "keyword", "any": ["prove"]},
    },
    "projections": {
        "task": {"type": "partition", "members": ["code"], "default": "chat"},
        "difficulty": {
            "type": "score",
            "weights": {"proof": 0.7, "task.code": 0.3},
            "bands": [{"easy": 0.2}, {"hard": 1}],
        },
    },
    "decisions": [
        {"name": "trial", "when": "difficulty.hard", "shadow": True, "algorithm": {"type": "single", "model": "large"}},
        {"name": "code", "when": "task.code", "algorithm": {"type": "single", "model": "other"}},
        {"name": "default", "algorithm": {"type": "single", "model": "small"}},
    ],
}  # fmt: skip


async def test_what_projections_find_is_counted_and_so_is_what_is_on_trial() -> None:
    """For each request, once: the band of each score, the shape of each partition, and decisions that only watch."""
    texts = {"Hello": "default", "code": "code", "prove it": "default", "prove this code": "code"}
    async with run_stack(quick_models(), {"recipes": {"general": POLICY}}) as stack:
        for text in texts:
            async with stack.session.post(
                f"{stack.base_url}/chat/completions", json=chat(text)
            ) as response:
                assert response.status == 200
                assert response.headers["x-looper-decision"] == texts[text]

        def found(series: dict[str, float], projection: str, value: str) -> float:
            labels = {"recipe": "general", "projection": projection, "found": value}
            return count(series, "envoy_looper_projections_total", **labels)

        expected = {
            ("task", "code"): 2,
            ("task", "chat"): 2,
            ("difficulty", "easy"): 1,
            ("difficulty", "hard"): 3,
        }
        series = await stack.until_series(
            lambda now: all(found(now, *each) == times for each, times in expected.items())
        )
        assert count(series, "envoy_looper_projections_total") == 8
        shadow = {"recipe": "general", "decision": "trial"}
        assert count(series, "envoy_looper_shadow_total", **shadow) == 3
        # What watches has answered nothing.
        assert count(series, "envoy_looper_requests_total", decision="trial") == 0
