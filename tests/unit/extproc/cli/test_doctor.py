"""What `looper doctor` says of Envoys that others have set up, and how it says it."""

import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from extproc.cli.doctor.dump import Dump
from extproc.cli.doctor.envoy import examine_envoy
from extproc.cli.doctor.findings import Finding, as_json, as_table, has_failed
from extproc.config import Config, parse_config
from extproc.process.generation import generation

TEXT = """
version: 1
egress: unix:/tmp/none.sock
limits: {max_runs: 100, max_body: 1MiB}
models: [{name: a, url: "http://a/v1"}, {name: b, url: "http://b/v1"}]
recipes:
  general:
    decisions:
      - {name: team, algorithm: {type: ratings, models: [a, b], samples: 3}, budget: {deadline: 30s}}
entrypoints: {looper/auto: general}
"""
CONFIG: Config = parse_config(TEXT, "looper.yaml")
KIND = "type.googleapis.com/envoy."


def route(name: str, **target: Any) -> dict[str, Any]:
    header = {"name": "x-looper-model", "string_match": {"exact": name}}
    return {
        "match": {"headers": [header]},
        "route": {"cluster": name, "timeout": "0s", **target},
    }


def manager(name: str, *filters: dict[str, Any], **settings: Any) -> dict[str, Any]:
    typed = {
        "@type": f"{KIND}HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": name},
        "http_filters": [{"name": "x", "typed_config": each} for each in filters],
        **settings,
    }
    chain = {"filters": [{"name": "hcm", "typed_config": typed}]}
    limit = {"per_connection_buffer_limit_bytes": 1 << 20}
    return {"listener": {"name": name, "filter_chains": [chain], **limit}}


def processor(mode: str = "FULL_DUPLEX_STREAMED", **settings: Any) -> dict[str, Any]:
    return {
        "@type": f"{KIND}ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "ours"}},
        "processing_mode": {"request_body_mode": mode},
        **settings,
    }


BUFFER = {"@type": f"{KIND}Buffer", "max_request_bytes": 1 << 20}
ROUTES = [route("a"), route("b")]


def dump(
    ingress: dict[str, Any] | None = None,
    routes: list[dict[str, Any]] | None = None,
    clusters: tuple[dict[str, Any], ...] = ({"name": "a"}, {"name": "b"}),
    version: str | None = None,
) -> Dump:
    version = version or generation(CONFIG)
    retries = {"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}}
    tables = [
        {
            "version_info": version,
            "route_config": {"name": name, "virtual_hosts": [{"routes": each}]},
        }
        for name, each in (("ingress", ROUTES), ("egress", ROUTES if routes is None else routes))
    ]
    configs = [
        {
            "static_listeners": [
                ingress or manager("ingress", BUFFER, processor()),
                manager("egress"),
            ]
        },
        {
            "static_clusters": [{"cluster": {"name": "ours", **retries}}],
            "dynamic_active_clusters": [
                {"version_info": version, "cluster": each} for each in clusters
            ],
        },
        {"dynamic_route_configs": tables},
    ]
    return msgspec.convert({"configs": configs}, Dump)


def doubts(seen: Dump) -> dict[tuple[str, str], str]:
    """What is not in order, by what it is about."""
    findings = examine_envoy(seen, CONFIG)
    return {(each.about, each.check): each.state for each in findings if each.state != "ok"}


def test_one_that_fits_is_in_order() -> None:
    """Nothing is said of an Envoy that somebody else has set up rightly."""
    assert doubts(dump()) == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(processor("STREAMED"), ("body mode", "fail"), id="mode"),
        pytest.param(processor("BUFFERED"), ("message_timeout", "fail"), id="no-message-timeout"),
        pytest.param(
            processor("BUFFERED", message_timeout="29s"), ("message_timeout", "fail"), id="short"
        ),
        pytest.param(
            processor(failure_mode_allow=True), ("failure_mode_allow", "warn"), id="fails-open"
        ),
    ],
)
def test_a_filter_that_cannot_work_is_named(
    settings: dict[str, Any], expected: tuple[str, str]
) -> None:
    """With the setting that is to blame."""
    about = "envoy listener ingress"
    assert doubts(dump(manager("ingress", BUFFER, settings))) == {(about, expected[0]): expected[1]}


def test_a_buffered_filter_with_patience_is_in_order() -> None:
    """Its message timeout outlasts every deadline."""
    settings = processor("BUFFERED", message_timeout="31s")
    assert doubts(dump(manager("ingress", BUFFER, settings))) == {}


@pytest.mark.parametrize(
    ("changes", "clock"),
    [
        pytest.param({"stream_idle_timeout": "30s"}, "stream_idle_timeout", id="idle"),
        pytest.param(
            {"common_http_protocol_options": {"max_stream_duration": "10s"}},
            "max_stream_duration",
            id="duration",
        ),
    ],
)
def test_a_clock_that_ends_before_a_deadline_is_wrong(changes: dict[str, Any], clock: str) -> None:
    """It would cut answers off."""
    seen = dump(manager("ingress", BUFFER, processor(), **changes))
    assert doubts(seen) == {("envoy listener ingress", clock): "fail"}


def test_a_clock_that_is_off_never_ends_anything() -> None:
    """Zero is no time at all."""
    changes = {"stream_idle_timeout": "0s"}
    assert doubts(dump(manager("ingress", BUFFER, processor(), **changes))) == {}


@pytest.mark.parametrize(
    ("routes", "clusters", "expected"),
    [
        pytest.param([route("a")], None, ("b", "egress route"), id="none"),
        pytest.param(
            [route("a"), route("b", cluster="c")], None, ("b", "egress route"), id="no-cluster"
        ),
        pytest.param(
            [route("a"), route("b", timeout="15s")], None, ("b", "egress route"), id="timeout"
        ),
        pytest.param(
            [route("a"), route("b", idle_timeout="9s")], None, ("b", "egress route"), id="idle"
        ),
        pytest.param(
            None,
            {"name": "b", "circuit_breakers": {"thresholds": [{"max_requests": 2}]}},
            ("b", "breaker"),
            id="breaker",
        ),
    ],
)
def test_a_way_to_a_model_that_is_no_good_is_named(
    routes: list[dict[str, Any]] | None, clusters: dict[str, Any] | None, expected: tuple[str, str]
) -> None:
    """One run of the team makes three calls of each model at once, which take as long as its deadline."""
    seen = dump(routes=routes, clusters=({"name": "a"}, clusters or {"name": "b"}))
    assert doubts(seen) == {expected: "fail"}


def test_a_verifier_needs_a_way_out_and_no_way_in() -> None:
    """It is called by the processor alone, by the route that its own name has."""
    chain = (
        "{type: confidence, stages: [a, b], confidence_method: automix_entailment, threshold: 0.5, "
        'automix_verifier: {url: "http://v", timeout: 1s}}'
    )
    config = parse_config(
        TEXT.replace("{type: ratings, models: [a, b], samples: 3}", chain), "looper.yaml"
    )
    name = config.upstreams()[-1].name
    version = generation(config)
    with_a_way = dump(routes=[*ROUTES, route(name, cluster="b")], version=version)
    found = {(each.about, each.check): each.state for each in examine_envoy(with_a_way, config)}
    assert found[name, "egress route"] == "ok"
    assert (name, "ingress route") not in found
    without = examine_envoy(dump(version=version), config)
    assert [each.about for each in without if each.state == "fail"] == [name]


def test_another_generation_is_a_warning() -> None:
    """It may be on its way."""
    assert set(doubts(dump(version="0" * 12)).values()) == {"warn"}


def test_an_envoy_without_us_is_said_to_be() -> None:
    """Nobody asks the processor."""
    assert doubts(dump(manager("ingress", BUFFER)))["envoy", "processor"] == "fail"


def test_findings_are_shown_to_people_and_machines() -> None:
    """Advice stands with what it is for, and square brackets are no markup."""
    findings = [
        Finding("small", "answers", "ok", "after 0.10 s"),
        Finding("large", "tools", "fail", "the tool was not called", "look [here]"),
    ]
    console = Console(width=100, record=True, file=None)
    with console.capture() as captured:
        console.print(as_table(findings))
    assert "look [here]" in captured.get()
    data = json.loads(as_json(findings))
    assert (data["failed"], len(data["findings"])) == (True, 2)
    assert has_failed(findings)
    assert not has_failed(findings[:1])
