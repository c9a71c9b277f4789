"""The chain of filters that clients' requests pass, and how ours is set in it."""

from collections.abc import Iterator
from typing import Any

from extproc.cli.doctor.dump import Filter
from extproc.cli.doctor.findings import Finding, State
from extproc.cli.doctor.ways import Way
from extproc.config import Config

_KNOWS = frozenset(
    {"jwt_authn", "api_key_auth", "basic_auth", "ext_authz", "oauth2", "rbac", "csrf"}
)
_LIMITS = frozenset({"local_ratelimit", "ratelimit", "rate_limit_quota"})
_READS = frozenset({"decompressor"})
_BEFORE = {
    **dict.fromkeys(_KNOWS, "whom it refuses gets teams' answers, and spends"),
    **dict.fromkeys(_LIMITS, "teams' answers are not limited"),
    **dict.fromkeys(_READS, "the processor is sent what is still compressed"),
    "cors": "what the processor answers lacks its headers",
}
"""By a filter's package: what comes of it behind ours, which answers for teams and lets nothing pass on."""

_AFTER = {
    "credential_injector": "the processor is sent your key",
    "custom_response": "it looks at the route from before the decision",
}
"""What comes of it before ours."""

_MODES = ("FULL_DUPLEX_STREAMED", "BUFFERED")


def examine_chain(way: Way, config: Config) -> Iterator[Finding]:
    """Everything about the processor's filter that is no clock and no limit."""
    processor = way.processor
    assert processor is not None
    yield from _order(way, processor)
    yield _route_cache(way.about, processor.settings)
    yield _replays(way.about, processor.settings)
    yield from _exchange(way, processor)
    yield from _told(way.about, processor.settings, config)


def _order(way: Way, processor: Filter) -> Iterator[Finding]:
    filters = way.manager.filters
    at = filters.index(processor)
    wrong = [(each, "before", _BEFORE) for each in filters[at + 1 :] if each.package in _BEFORE]
    wrong += [(each, "behind", _AFTER) for each in filters[:at] if each.package in _AFTER]
    for each, where, why in wrong:
        state: State = "warn" if each.package in ("cors", "custom_response") else "fail"
        advice = f"put it {where} {processor.name}"
        check = f"order of {each.name}"
        yield Finding(way.about, check, state, why[each.package], advice)
    if not wrong:
        yield Finding(way.about, "order", "ok", " → ".join(each.name for each in filters))


def _route_cache(about: str, settings: dict[str, Any]) -> Finding:
    advice = "`route_cache_action: CLEAR`, or the route from before the decision stays"
    action = settings.get("route_cache_action", "DEFAULT")
    if action == "RETAIN" or settings.get("disable_clear_route_cache"):
        return Finding(about, "route cache", "fail", "is not cleared", advice)
    if action == "CLEAR":
        return Finding(about, "route cache", "ok", "is cleared")
    return Finding(
        about, "route cache", "warn", "is cleared only where a reply asks for it", advice
    )


def _replays(about: str, settings: dict[str, Any]) -> Finding:
    policy = settings.get("grpc_service", {}).get("retry_policy", {})
    tries, on = int(policy.get("num_retries", 1)), str(policy.get("retry_on", ""))
    if "unavailable" in on and tries > 1:
        return Finding(about, "retry policy", "ok", f"{tries} tries on {on}")
    found = f"{tries} tries on {on}" if on else "none"
    advice = (
        "requests fail while a processor restarts: give the filter's `grpc_service` a `retry_policy` with"
        " `retry_on: unavailable,cancelled,reset,connect-failure,refused-stream` and some tries"
    )
    return Finding(about, "retry policy", "warn", found, advice)


def _exchange(way: Way, processor: Filter) -> Iterator[Finding]:
    """What Envoy sends, and whether it takes what it is answered."""
    settings, about = processor.settings, way.about
    mode = settings.get("processing_mode", {})
    if mode.get("request_header_mode") == "SKIP":
        advice = "SEND: the processor is asked nothing otherwise"
        yield Finding(about, "request_header_mode", "fail", "SKIP", advice)
    answers = mode.get("response_body_mode", "NONE")
    if answers not in ("NONE", "STREAMED"):
        advice = "NONE, or STREAMED for answers that are metered: the processor refuses others"
        yield Finding(about, "response_body_mode", "fail", answers, advice)
    if settings.get("observability_mode"):
        advice = "leave it out: Envoy does not wait for what the processor says"
        yield Finding(about, "observability_mode", "fail", "true", advice)
    if settings.get("disable_immediate_response"):
        advice = "leave it out: the processor answers for teams, and refuses"
        yield Finding(about, "disable_immediate_response", "fail", "true", advice)
    if processor.disabled and not _woken(way, processor.name):
        advice = "leave out `disabled`, or wake it on the routes of clients"
        yield Finding(about, "disabled", "fail", "no route wakes the filter", advice)
    yield from _elsewhere(way, processor.name)


def _woken(way: Way, name: str) -> bool:
    scopes = [way.routes, *way.routes.virtual_hosts]
    scopes += [route for host in way.routes.virtual_hosts for route in host.routes]
    return any(name in each.typed_per_filter_config for each in scopes)


def _elsewhere(way: Way, name: str) -> Iterator[Finding]:
    """Routes on which the filter has another mode."""
    for host in way.routes.virtual_hosts:
        for scope in (host, *host.routes):
            told = scope.typed_per_filter_config.get(name, {}).get("overrides", {})
            mode = told.get("processing_mode", {}).get("request_body_mode")
            if "processing_mode" in told and mode not in _MODES:
                check = f"body mode of {scope.name or 'a route'}"
                yield Finding(
                    way.about, check, "fail", mode or "NONE", f"use {' or '.join(_MODES)}"
                )


def _told(about: str, settings: dict[str, Any], config: Config) -> Iterator[Finding]:
    """What goes to the processor, and what comes back."""
    options = settings.get("metadata_options", {})
    taken = options.get("receiving_namespaces", {}).get("untyped", [])
    if missing := [name for name in ("looper", "looper.rewritten") if name not in taken]:
        advice = (
            "name them in `metadata_options.receiving_namespaces.untyped`: statistics hang on them"
        )
        found = f"dropped: {', '.join(missing)}"
        yield Finding(about, "metadata", "warn", found, advice)
    rules = settings.get("forward_rules", {})
    if not rules.get("allowed_headers") and not _hides(rules):
        advice = "`forward_rules`: allow what is needed, or disallow `authorization` and `cookie`"
        yield Finding(about, "forward_rules", "warn", "credentials go to the processor", advice)
    yield from _identity(about, settings, config)


def _hides(rules: dict[str, Any]) -> bool:
    patterns = rules.get("disallowed_headers", {}).get("patterns", [])
    return {"authorization", "cookie"} <= {each.get("exact") for each in patterns}


def _identity(about: str, settings: dict[str, Any], config: Config) -> Iterator[Finding]:
    """Whether what tells clients apart arrives."""
    who = config.state.identity
    if who is None or who.metadata is None:
        return
    options = settings.get("metadata_options", {})
    if who.metadata in options.get("forwarding_namespaces", {}).get("untyped", []):
        return
    advice = f"`metadata_options: {{forwarding_namespaces: {{untyped: [{who.metadata}]}}}}`"
    yield Finding(about, "identity", "fail", f"{who.metadata} is not sent", advice)
