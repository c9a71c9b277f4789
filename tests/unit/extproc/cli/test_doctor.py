"""What `looper doctor` says of Envoys that others have set up, and how it says it."""

import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from extproc.cli.doctor.dump import Dump
from extproc.cli.doctor.envoy import examine_envoy
from extproc.cli.doctor.findings import Finding, as_json, as_table, has_failed
from extproc.cli.doctor.version import Server, examine_version
from extproc.config import Config, parse_config
from extproc.config.envoy_versions import FEATURES, Feature
from extproc.headers import NOT_FOR_BACKENDS
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
        "route": {"cluster": name, "timeout": "0s", "retry_policy": RETRIES, **target},
    }


RETRIES = {"retry_on": "connect-failure"}
REMOVED = {"request_headers_to_remove": list(NOT_FOR_BACKENDS)}
EARLY = {"mutations": [{"remove_on_match": {"key_matcher": {"prefix": "x-looper-"}}}]}


def manager(name: str, *filters: dict[str, Any], **settings: Any) -> dict[str, Any]:
    typed = {
        "@type": f"{KIND}HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": name},
        "http_filters": [{"name": "x", "typed_config": each} for each in filters],
        "early_header_mutation_extensions": [{"typed_config": EARLY}],
        **settings,
    }
    chain = {"filters": [{"name": "hcm", "typed_config": typed}]}
    limit = {"per_connection_buffer_limit_bytes": 1 << 20}
    place = {"address": {"pipe": {"path": "/run/x.sock", "mode": 0o600}}}
    return {"listener": {"name": name, "filter_chains": [chain], **limit, **place}}


REPLAYS = {"retry_on": "unavailable", "num_retries": 12}


def processor(mode: str = "FULL_DUPLEX_STREAMED", **settings: Any) -> dict[str, Any]:
    return {
        "@type": f"{KIND}ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "ours"}, "retry_policy": REPLAYS},
        "route_cache_action": "CLEAR",
        "metadata_options": {"receiving_namespaces": {"untyped": ["looper", "looper.rewritten"]}},
        "forward_rules": {"allowed_headers": {"patterns": [{"exact": ":path"}]}},
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
    host: dict[str, Any] = REMOVED,
) -> Dump:
    version = version or generation(CONFIG)
    retries = {"circuit_breakers": {"thresholds": [{"max_retries": 1000}]}}
    tables = [
        {
            "version_info": version,
            "route_config": {"name": name, "virtual_hosts": [{"routes": each, **host}]},
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


@pytest.mark.parametrize(("running", "state"), [("1.41.2", "ok"), ("1.40.0", "ok"), ("1.37.0", "ok"),
                                               ("1.36.4", "fail"), ("1.9.0", "fail")])  # fmt: skip
def test_an_envoy_that_is_too_old_is_named(running: str, state: str) -> None:
    (told, *_) = examine_version(Server(f"0123abc/{running}/Clean/RELEASE/BoringSSL"), CONFIG)
    assert (told.check, told.state, bool(told.advice)) == ("version", state, state == "fail")


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
@pytest.mark.parametrize("running", ["1.37", "1.38", "1.39", "1.40"])
@pytest.mark.parametrize("wanted", ["1.37", "1.38", "1.39", "1.40"])
def test_what_files_use_and_an_envoy_lacks_is_named(
    feature: Feature, running: str, wanted: str
) -> None:
    """What files for an older one leave out is told, too, but needs no change."""
    config = parse_config(f"{TEXT}envoy: {{version: '{wanted}'}}\n", "looper.yaml")
    told = examine_version(Server(f"0123abc/{running}.0/Clean/RELEASE/BoringSSL"), config)
    states = [(each.state, bool(each.advice)) for each in told if each.check == feature.name]
    if feature.is_in(running):
        assert states == []
    else:
        used = feature.is_in(wanted)
        assert states == [("warn" if used else "ok", used)]


@pytest.mark.parametrize(
    ("taken", "reaches"),
    [
        ({"remove": "Cookie"}, False),
        ({"remove_on_match": {"key_matcher": {"prefix": "COOK", "ignore_case": True}}}, False),
        ({"append": {"header": {"key": "cookie"}, "append_action": "OVERWRITE_IF_EXISTS"}}, False),
        ({"append": {"header": {"key": "cookie"}, "append_action": "ADD_IF_ABSENT"}}, True),
        ({"remove": "cookies"}, True),
    ],
)
def test_a_header_is_gone_whoever_takes_it(taken: dict[str, Any], reaches: bool) -> None:
    """A filter of the cluster that a model is in is the last that can."""
    mutations = {"@type": f"{KIND}HeaderMutation", "mutations": {"request_mutations": [taken]}}
    behind = {"x": {"http_filters": [{"name": "x", "typed_config": mutations}]}}
    kept = {"request_headers_to_remove": [each for each in NOT_FOR_BACKENDS if each != "cookie"]}
    seen = dump(
        clusters=tuple(
            {"name": name, "typed_extension_protocol_options": behind} for name in ("a", "b")
        ),
        host=kept,
    )
    expected = {("envoy listener ingress", "header cookie"): "fail"} if reaches else {}
    assert doubts(seen) == expected


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
