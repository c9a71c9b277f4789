"""Signals that ask Envoy for more than the request, through a real Envoy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.envoy.conftest import quick_models
from tests.envoy.series import count
from tests.envoy.test_reload import facts
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRITES_METADATA = {
    "name": "tenants",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [
            {
                "header": "x-tenant",
                "on_header_present": {"metadata_namespace": "tenants", "key": "tenant"},
            }
        ],
    },
}
"""A filter that says in dynamic metadata who asks, as one that checks a token would."""


def put_in_front(envoy: Path) -> None:
    """Have that filter come before the processor's."""
    path = envoy / "bootstrap.yaml"
    bootstrap = yaml.safe_load(path.read_text())
    (ingress,) = (
        each for each in bootstrap["static_resources"]["listeners"] if each["name"] == "ingress"
    )
    manager = ingress["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [WRITES_METADATA, *manager["http_filters"]]
    path.write_text(yaml.safe_dump(bootstrap))


HEADER = {"type": "header", "name": "x-plan", "in": ["gold", "silver"]}
ATTRIBUTE = {"type": "attribute", "name": "request.query", "regex": "(^|&)slow=1(&|$)"}
METADATA = {"type": "attribute", "metadata": "tenants", "path": "tenant", "equals": "acme"}
COOKIE = {"type": "header", "name": "cookie", "exists": True}
AUTHORIZATION = {"type": "header", "name": "authorization", "exists": True}


def recipes(**signals: dict[str, Any]) -> dict[str, Any]:
    """A decision for each signal, of the signal's name."""
    single = {"type": "single", "model": "small"}
    decisions = [{"name": name, "when": name, "algorithm": single} for name in signals]
    recipe = {"signals": signals, "decisions": [*decisions, {"name": "none", "algorithm": single}]}
    return {"recipes": {"general": recipe}, "entrypoints": {"looper/auto": "general"}}


async def decided(stack: Stack, query: str = "", text: str = "hi", **headers: str) -> str | None:
    body = {"model": "looper/auto", "messages": [{"role": "user", "content": text}]}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions{query}", json=body, headers=sent
    ) as response:
        assert response.status == 200, await response.text()
        return response.headers.get("x-looper-decision")


@pytest.mark.parametrize("body_mode", ["full_duplex", "buffered"])
async def test_headers_attributes_and_metadata_decide(body_mode: str) -> None:
    """Each reaches the processor because a signal asks for it, and a decision follows from it."""
    change = recipes(header=HEADER, attribute=ATTRIBUTE, metadata=METADATA)
    change["envoy"] = {"body_mode": body_mode}
    async with run_stack(quick_models(), change, edit=put_in_front) as stack:
        assert await decided(stack) == "none"
        assert await decided(stack, x_plan="gold") == "header"
        assert await decided(stack, x_plan="lead") == "none"
        assert await decided(stack, "?a=b&slow=1") == "attribute"
        assert await decided(stack, "?slow=10") == "none"
        assert await decided(stack, x_tenant="acme") == "metadata"
        assert await decided(stack, x_tenant="globex") == "none"


async def test_what_no_signal_names_stays_in_envoy() -> None:
    """A processor that would look at credentials sees none of an Envoy whose configuration does not name them."""
    asked = recipes(authorization=AUTHORIZATION, cookie=COOKIE, plan=HEADER, attribute=ATTRIBUTE)
    secrets = {"authorization": "Bearer secret", "cookie": "a=b", "x_plan": "gold"}
    async with run_stack(quick_models(), recipes(), processor_change=asked) as stack:
        assert await decided(stack, "?slow=1", **secrets) == "none"


async def test_a_signal_may_name_a_credential() -> None:
    """Then, and only then, it leaves Envoy: that one, and no other. No backend sees it."""
    asked = recipes(cookie=COOKIE, authorization=AUTHORIZATION)
    async with run_stack(
        quick_models(), recipes(authorization=AUTHORIZATION), processor_change=asked
    ) as stack:
        decision = await decided(stack, authorization="Bearer secret", cookie="a=b")
        assert decision == "authorization"
        assert all("authorization" not in call.headers for call in stack.simulator.calls)
        assert "secret" not in stack.processor.log.read_text()


async def test_a_model_decides_by_way_of_the_egress() -> None:
    """It is called as any member of a team is, once for one text, and is counted; if it fails, nothing hangs."""
    wants = {"type": "model", "model": "large", "labels": {"math": "numbers"}, "timeout": "30s"}
    async with run_stack(quick_models(), recipes(wants=wants)) as stack:
        stack.simulator.script("large", '{"label": "math", "confidence": 0.9}', "not to be read")
        assert await decided(stack) == "wants"
        assert await decided(stack) == "wants"
        assert await decided(stack, text="another secret") == "none"
        asked = [call for call in stack.simulator.calls if b"You sort requests" in call.body]
        series = await stack.until_series(
            lambda series: count(series, _CALLS, model="large", role="label", code="200") == 2
        )
        said = await facts(stack)
        log = stack.processor.log.read_text()

    assert len(asked) == 2
    assert count(series, _CALLS, role="label") == 2
    assert said['looper_signal_calls_total{model="large"}'] == 2
    assert said['looper_signal_failures_total{recipe="general",signal="wants"}'] == 1
    assert "NoLabel" in log
    assert "another secret" not in log


_CALLS = "envoy_looper_egress_calls_total"
