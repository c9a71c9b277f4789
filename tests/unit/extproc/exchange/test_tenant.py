"""Whose request it is, and what that takes from what its tenant may spend."""

import json
from decimal import Decimal
from typing import Any

import pytest

from extproc.config import parse_config
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import Rewrite
from looper.calling.budget import Amount
from tests.fakes.channel import body, exchanged, opening
from tests.fakes.models import ScriptedClient
from tests.unit.extproc.exchange.test_exchange import CONFIG, SCRIPT, chat
from tests.unit.extproc.exchange.test_exchange_response import JSON, USAGE, metered, pieces

TENANT = "{recipe: auto, tenant: {header: x-team}}"
WHOLE = f'{{"model":"qwen3-8b","choices":[],"usage":{USAGE}}}'


def work(tenants: dict[str, Any]) -> Runtime:
    text = CONFIG.replace("{looper/auto: auto,", f"{{looper/auto: {TENANT},")
    limits = f"limits: {{max_body: 1000B, tenants: {json.dumps(tenants)}}}"
    text = text.replace("limits: {max_body: 1000B}", limits)
    return build(parse_config(text, "test.yaml"), ScriptedClient(SCRIPT))


def of(team: str | None) -> dict[str, str]:
    return {} if team is None else {"x-team": team}


@pytest.mark.parametrize(
    ("said", "tenant"), [("acme", "acme"), ("nobody", "other"), (None, "other")]
)
@pytest.mark.parametrize("text", ["hi", "team"])
async def test_its_tenant_is_told_with_what_was_decided(
    said: str | None, tenant: str, text: str
) -> None:
    """To Envoy, whose statistics have it, and in the record; of a routed request and of a team's."""
    runtime = work({"acme": {}})
    channel = await exchanged(runtime, opening(headers=of(said)), body(chat(text=text)))
    (record,) = runtime.runs
    assert record["tenant"] == tenant
    told = [getattr(action, "metadata", {}) for action in channel.sent]
    assert {"tenant": tenant}.items() <= {k: v for each in told for k, v in each.items()}.items()


async def test_who_has_nothing_left_is_refused_and_the_others_are_not() -> None:
    runtime = work({"acme": {"calls": 1}, "other": {"calls": 5}})
    first = await exchanged(runtime, opening(headers=of("acme")), body(chat()))
    assert isinstance(first.sent[0], Rewrite)
    for text in ("hi", "team"):
        refused = await exchanged(runtime, opening(headers=of("acme")), body(chat(text=text)))
        headers = dict(refused.respond.headers)
        assert refused.respond.status == 429
        assert json.loads(refused.respond.body)["error"]["code"] == "tenant_limit_reached"
        assert 0 < int(headers["retry-after"]) <= 3600
        assert refused.respond.metadata["tenant"] == "acme"
    for said in ("another", None):
        channel = await exchanged(runtime, opening(headers=of(said)), body(chat()))
        assert isinstance(channel.sent[0], Rewrite)


async def test_a_team_is_charged_what_its_calls_came_to() -> None:
    runtime = work({"acme": {}})
    await exchanged(runtime, opening(headers=of("acme")), body(chat(text="team")))
    (record,) = runtime.runs
    spent = runtime.process.tenants.account("acme").spent
    assert record["spent"] == {
        "calls": spent.calls, "tokens": spent.tokens, "cost_microusd": spent.microusd
    }  # fmt: skip
    assert spent.calls > 1


async def test_a_metered_answer_is_charged_when_it_is_known() -> None:
    runtime = work({"acme": {"tokens": 7}})
    asking = metered(headers=of("acme"))
    await exchanged(runtime, asking, [*body(chat()), JSON, *pieces(WHOLE)])
    spent = runtime.process.tenants.account("acme").spent
    assert spent == Amount(1, 7, Decimal(11))
    refused = await exchanged(runtime, asking, body(chat()))
    assert refused.respond.status == 429


async def test_a_public_models_own_name_is_no_way_around_it() -> None:
    runtime = work({"acme": {"calls": 1}})
    for expected in (Rewrite, None):
        channel = await exchanged(runtime, opening(headers=of("acme")), body(chat(model="open")))
        assert expected is None or isinstance(channel.sent[0], expected)
    assert channel.respond.status == 429


async def test_an_entrypoint_without_tenants_charges_nobody() -> None:
    runtime = work({"acme": {"calls": 1}})
    for _ in range(3):
        await exchanged(
            runtime, opening(headers=of("acme")), body(chat(model="looper/strict", text="team"))
        )
    assert all("tenant" not in record for record in runtime.runs)
