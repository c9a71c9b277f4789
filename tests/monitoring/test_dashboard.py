"""Every query of the dashboard and of the rules, against what a real Prometheus has scraped."""

import asyncio
from typing import Any

import pytest

from tests.fakes.prometheus import Prometheus
from tests.monitoring.conftest import Query, Watched, queries
from tests.monitoring.test_rules import ALERTS, rules

# Whichever is first waits for figures to come.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

QUERIES = queries()


def of(panel: str) -> list[Query]:
    found = [each for each in QUERIES if each.panel == panel]
    assert found, panel
    return found


async def found(prometheus: Prometheus, panel: str) -> list[dict[str, float]]:
    """What a panel's queries find, by the values of their labels."""
    shown = [await prometheus.query(each.now()) for each in of(panel)]
    return [
        {" ".join(text for _, text in key): value for key, value in each.items()} for each in shown
    ]


@pytest.mark.parametrize("query", QUERIES, ids=lambda each: f"{each.panel}: {each.expression[:40]}")
async def test_every_query_finds_something(watched: Watched, query: Query) -> None:
    """Numbers that can be, in each."""
    values = (await watched.prometheus.query(query.now())).values()
    assert values, query.now()
    assert all(0 <= value < float("inf") for value in values)
    if query.unit == "percentunit":
        assert all(value <= 1.0001 for value in values)


async def test_what_is_shown_is_what_was(watched: Watched) -> None:
    """Figures that the requests of this test must have made."""
    prometheus = watched.prometheus
    for decision, requests in watched.sent.items():
        counted = await prometheus.total(
            f'sum (envoy_looper_requests_total{{decision="{decision}", code!="200"}} or '
            f'envoy_looper_requests_total{{decision="{decision}", algorithm!=""}})'
        )
        assert counted == requests, decision
    # Spend is that of teams, by the processor, and that of routed requests: nothing twice, and nothing left out.
    spent = await prometheus.total(
        "sum (max_over_time(looper_spend_microusd_total[10m]) or "
        'envoy_looper_cost_microusd_total{model!=""})'
    )
    assert spent == await prometheus.total("sum (envoy_looper_cost_microusd_total)") > 0
    [failed] = await found(prometheus, "Failed")
    [degraded] = await found(prometheus, "Degraded")
    # Of the 16 requests of each round two fail; one panel and the votes on no choice are degraded.
    assert 0.05 < failed[""] < 0.25
    assert 0.1 < degraded[""] < 0.4
    [by_decision] = await found(prometheus, "Failed by decision")
    assert by_decision["ballot"] == 0 < by_decision["panel"] < 0.5
    [outcomes] = await found(prometheus, "Outcomes of teams")
    assert outcomes.keys() == {"ok", "degraded", "failed"}
    [shares] = await found(prometheus, "Share of decisions")
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.keys() == {"", "default", "panel", "code", "ballot"}


async def test_times_money_and_models_are_shown(watched: Watched) -> None:
    prometheus = watched.prometheus
    [half], [most] = (
        await found(prometheus, "p50 by decision"),
        await found(prometheus, "p95 by decision"),
    )
    assert half.keys() >= {"default", "panel", "ballot"}
    assert all(half[name] <= most[name] for name in half)
    first, _ = await found(prometheus, "First token: p50 and p95")
    assert first.keys() >= {"default", "panel"}
    [spend] = await found(prometheus, "Spend per hour, by decision")
    assert spend["panel"] > spend["default"] > 0
    median, lowest = await found(prometheus, "How sure teams are: median and lowest tenth")
    assert 0 < lowest["ballot"] <= median["ballot"] <= 1
    [errors] = await found(prometheus, "Errors by model and code")
    assert errors.keys() >= {"503 third", "503 small"}
    [codes] = await found(prometheus, "Errors by code")
    assert codes.keys() >= {"upstream_failed", "model_not_found"}
    [tries] = (await found(prometheus, "Tries of a call"))[:1]
    assert all(value >= 1 for value in tries.values())


async def test_every_rule_works(watched: Watched) -> None:
    """Each has been evaluated without an error, and what is recorded is there."""

    async def evaluated() -> bool:
        groups = (await watched.prometheus.get("rules"))["groups"]
        return all(rule["health"] == "ok" for group in groups for rule in group["rules"])

    await watched.prometheus.until(evaluated)
    for rule in rules():
        if "record" in rule:
            assert await watched.prometheus.query(rule["record"]), rule["record"]


async def test_envoys_other_series_are_left_out(watched: Watched) -> None:
    """Of thousands a few hundred are kept."""
    names = set(await watched.prometheus.get("label/__name__/values"))
    asked = " ".join([each.expression for each in QUERIES] + [rule["expr"] for rule in rules()])
    foreign = {
        name
        for name in names
        if name.startswith("envoy_")
        and not name.startswith(("envoy_looper_", "envoy_http_ext_proc_looper_"))
    }
    assert all(name in asked for name in foreign)
    assert await watched.prometheus.total('count ({job="looper-envoy"})') < 1000


async def test_a_file_that_is_wrong_and_a_process_that_is_gone_raise_alarm(
    watched: Watched,
) -> None:
    """Not before they have been for a while: until then the alerts are pending, with all that they say filled in."""
    path = watched.stack.processor.config
    good = path.read_text()
    path.write_text("nonsense")
    try:
        [invalid] = await alarm(watched.prometheus, "LooperConfigurationInvalid")
    finally:
        path.write_text(good)
    assert invalid["labels"]["job"] == "looper-processor"
    assert invalid["labels"]["instance"] in invalid["annotations"]["summary"]

    await watched.stack.processor.stop()
    try:
        [down] = await alarm(watched.prometheus, "LooperDown")
    finally:
        await watched.stack.processor.start()
        await watched.prometheus.until(watched.is_up)
    assert "looper-processor" in down["annotations"]["summary"]
    assert "{{" not in str(down["annotations"]) + str(invalid["annotations"])


async def alarm(prometheus: Prometheus, name: str) -> list[dict[str, Any]]:
    """The alerts of this name, as soon as there are any."""
    assert "for" in ALERTS[name]
    async with asyncio.timeout(30):
        while True:
            alerts = (await prometheus.get("alerts"))["alerts"]
            if raised := [each for each in alerts if each["labels"]["alertname"] == name]:
                assert {each["state"] for each in raised} == {"pending"}
                return raised
            await asyncio.sleep(0.2)
