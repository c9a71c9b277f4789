"""Fragments in an Envoy whose configuration is somebody else's: its listener, its filters, its cluster, its routes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.bootstrap import FRAGMENTS, fragment
from extproc.config import Config, load_config
from tests.envoy.conftest import quick_models
from tests.envoy.test_examples import HARD, HELLO, ask
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
LOGIN = """
function envoy_on_request(request)
  if request:headers():get("authorization") ~= "Bearer let me in" then
    request:respond({[":status"] = "401"}, "no")
  end
end
"""
Fragments = dict[str, dict[str, Any]]
Own = dict[str, Any]


def theirs(config: Config, folder: Path) -> Own:
    """A bootstrap with a listener, a login and a page, and nothing of ours."""
    _, _, port = config.envoy.ingress.rpartition(":")
    login = {"@type": LUA, "default_source_code": {"inline_string": LOGIN}}
    page = {
        "match": {"path": "/about"},
        "direct_response": {"status": 200, "body": {"inline_string": "mine"}},
    }
    manager = {
        "@type": f"{HCM}.HttpConnectionManager",
        "stat_prefix": "front",
        "http_filters": [{"name": "login", "typed_config": login}],
        "route_config": {
            "name": "front",
            "virtual_hosts": [
                {
                    **{"name": "mine", "domains": ["mine.example"], "routes": [page]},
                    "typed_per_filter_config": {
                        "looper.ext_proc": {"@type": PER_ROUTE, "disabled": True}
                    },
                }
            ],
        },
    }
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": int(port)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "admin": {"address": {"pipe": {"path": f"{folder}/envoy-admin.sock"}}},
        "static_resources": {"listeners": [listener], "clusters": []},
    }


def manager_of(own: Own) -> dict[str, Any]:
    found: dict[str, Any] = own["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][
        0
    ]["typed_config"]
    return found


def everything(own: Own, printed: Fragments) -> None:
    """What the page for operators says to put where."""
    manager = manager_of(own)
    chain = printed["http-filters"]["http_connection_manager"]
    manager["http_filters"] += chain.pop("http_filters")
    manager |= {**chain, **printed["stats"]["http_connection_manager"], "@type": manager["@type"]}
    own["layered_runtime"] = printed["http-filters"]["layered_runtime"]
    own |= {key: printed["stats"][key] for key in ("stats_config", "stats_eviction_interval")}
    the_rest(own, printed)


def essentials(own: Own, printed: Fragments) -> None:
    """The filter alone in a chain of their own, without what is not essential."""
    manager = manager_of(own)
    chain = printed["http-filters"]["http_connection_manager"]
    for key in ("early_header_mutation_extensions", "use_remote_address", "normalize_path"):
        manager[key] = chain[key]
    manager["http_filters"] += printed["filter"]["http_filters"]
    manager["http_filters"].append({"name": "router", "typed_config": {"@type": ROUTER}})
    own["layered_runtime"] = printed["filter"]["layered_runtime"]
    the_rest(own, printed)


def the_rest(own: Own, printed: Fragments) -> None:
    table = printed["routes"]["route_config"]
    mine = manager_of(own)["route_config"]
    mine["virtual_hosts"] += table.pop("virtual_hosts")
    mine |= {**table, "name": mine["name"]}
    for part in ("clusters", "egress"):
        for key, found in printed[part]["static_resources"].items():
            own["static_resources"].setdefault(key, []).extend(found)


def own_bootstrap(put: Callable[[Own, Fragments], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder.parent / "looper.yaml"
        config = load_config(path)
        printed = {name: yaml.safe_load(fragment(name, config)) for name in FRAGMENTS}
        own = theirs(config, folder.parent)
        own["static_resources"]["clusters"] = yaml.safe_load(
            (folder.parent / "theirs.yaml").read_text()
        )
        put(own, printed)
        for file in folder.iterdir():
            file.unlink()
        (folder / "bootstrap.yaml").write_text(yaml.safe_dump(own))

    return edit


VLLM = """
- name: vllm
  connect_timeout: 1s
  load_assignment:
    cluster_name: vllm
    endpoints:
      - lb_endpoints:
          - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}
"""


def one_in_a_cluster() -> dict[str, Any]:
    """The demo, one of whose models is in the operator's cluster."""
    models = yaml.safe_load(DEMO.read_text())["models"]
    for model in models:
        if model["name"] == "small":
            model["cluster"] = "vllm"
            del model["url"]
    return {"models": models}


@pytest.mark.parametrize("put", [everything, essentials])
async def test_an_envoy_of_somebody_elses(put: Callable[[Own, Fragments], None]) -> None:
    """Their login comes first, their page stays, one model is in their cluster, and ours is all there."""
    async with run_stack(
        quick_models(),
        one_in_a_cluster(),
        edit=own_bootstrap(put),
        files={"theirs.yaml": VLLM},
        headers={"authorization": "Bearer let me in"},
    ) as stack:
        status, _, headers = await ask(stack)
        assert (status, headers["x-looper-decision"]) == (200, "default")
        assert stack.simulator.calls[-1].path == "/v1/chat/completions"
        status, _, headers = await ask(stack, HARD)
        assert (status, headers["x-looper-algorithm"]) == (200, "fusion")
        assert "[DONE]" in await streamed(stack)

        asked = stack.simulator.count()
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=HELLO, headers={"authorization": "no"}
        ) as response:
            assert response.status == 401
        unknown = {**HELLO, "model": "nobody"}
        status, refused, _ = await ask(stack, unknown, headers={"x-looper-model": "large"})
        assert (status, refused["error"]["code"]) == (404, "model_not_found")
        assert stack.simulator.count() == asked
        assert not any("authorization" in call.headers for call in stack.simulator.calls)

        await stack.processor.stop()
        async with stack.session.get(
            f"{stack.ingress}/about", headers={"host": "mine.example"}
        ) as response:
            assert (response.status, await response.text()) == (200, "mine")
        text = await stack.envoy.get("/stats?filter=looper")
        assert ("looper.requests_total.decision.default" in text) == (put is everything)


async def streamed(stack: Stack) -> str:
    url = f"{stack.base_url}/chat/completions"
    async with stack.session.post(url, json={**HARD, "stream": True}) as response:
        assert response.status == 200
        return await response.text()


async def test_the_command_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As YAML that can be read, with its remarks, and writes nothing."""
    from click.testing import CliRunner

    from extproc.cli.envoy_config import command

    for name in FRAGMENTS:
        result = CliRunner().invoke(command, [str(DEMO), "--fragment", name])
        assert result.exit_code == 0
        assert "# Essential" in result.output or name == "stats"
        assert json.dumps(yaml.safe_load(result.output))
    assert CliRunner().invoke(command, [str(DEMO)]).exit_code == 2
