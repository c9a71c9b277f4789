"""Envoy's clocks, limits and routes, compared with what the configuration needs of them."""

from collections.abc import Iterator

from extproc.cli.doctor.chain import examine_chain
from extproc.cli.doctor.dump import Dump, Filter, Manager, seconds
from extproc.cli.doctor.findings import Finding
from extproc.cli.doctor.leaks import examine_headers
from extproc.cli.doctor.reach import examine_admin, examine_reach
from extproc.cli.doctor.ways import Sides, Way, examine_ways, longest_run
from extproc.config import Config
from extproc.process.generation import generation

_REWRITE = "write Envoy's files again with `looper envoy-config`"
_RESTART = f"{_REWRITE}, and restart Envoy"
_CLUSTER = "name the cluster of the processors in the filter's `grpc_service`"
_IDLE = 300.0
"""Envoy's own `stream_idle_timeout`, in seconds."""


def examine_envoy(dump: Dump, config: Config) -> Iterator[Finding]:
    """Everything that is to be seen in Envoy's configuration."""
    yield from _generations(dump, config)
    yield from examine_admin(dump)
    sides = Sides.of(dump, config)
    if not sides.clients:
        yield Finding("envoy", "processor", "fail", "no listener has an ext_proc filter", _RESTART)
    for way in sides.clients:
        yield from _ingress(way, dump, config)
        yield from examine_chain(way, config)
        yield from examine_headers(way, sides, dump, config)
    for way in sides.calls:
        yield from _clocks(way.about, way.manager, longest_run(config))
        yield examine_reach(way)
    yield from examine_ways(dump, config, sides)


def _generations(dump: Dump, config: Config) -> Iterator[Finding]:
    ours = generation(config)
    parts: dict[str, set[str]] = {"clusters": dump.cluster_versions}
    parts |= {f"routes {name}": {version} for name, version in dump.route_versions.items()}
    if dump.generation is not None:
        parts["bootstrap"] = {dump.generation}
    for part, versions in parts.items():
        about = f"envoy {part}"
        advice = _RESTART if part == "bootstrap" else _REWRITE
        if not versions - {""}:
            continue  # somebody else's
        if versions <= {ours}:
            yield Finding(about, "generation", "ok", ours)
        else:
            others = ", ".join(sorted(versions - {ours}))
            yield Finding(about, "generation", "warn", f"{others}; the file's is {ours}", advice)


# The listener that clients connect to...


def _ingress(way: Way, dump: Dump, config: Config) -> Iterator[Finding]:
    about, manager, processor = way.about, way.manager, way.processor
    assert processor is not None
    longest = longest_run(config)
    yield from _mode(about, processor, longest)
    yield from _clocks(about, manager, longest)
    yield _body_limit(about, manager, processor, config)
    yield _buffer(way, config)
    yield from _breakers(processor, dump, config)


def _mode(about: str, processor: Filter, longest: float) -> Iterator[Finding]:
    settings = processor.typed_config
    mode = settings.get("processing_mode", {}).get("request_body_mode", "NONE")
    if mode not in ("FULL_DUPLEX_STREAMED", "BUFFERED"):
        yield Finding(about, "body mode", "fail", mode, "use FULL_DUPLEX_STREAMED or BUFFERED")
    else:
        yield Finding(about, "body mode", "ok", mode)
    if mode == "BUFFERED":
        patience = seconds(settings.get("message_timeout"), 0.2)
        yield _at_least(about, "message_timeout", patience, longest, disabled=False)
    if settings.get("failure_mode_allow"):
        yield Finding(
            about,
            "failure_mode_allow",
            "warn",
            "true",
            "without the processor no model is chosen: better an error than an answer of nobody",
        )


def _clocks(about: str, manager: Manager, longest: float) -> Iterator[Finding]:
    idle = seconds(manager.settings.get("stream_idle_timeout"), _IDLE)
    yield _at_least(about, "stream_idle_timeout", idle, longest)
    common = manager.settings.get("common_http_protocol_options", {})
    most = seconds(common.get("max_stream_duration"), 0)
    yield _at_least(about, "max_stream_duration", most, longest)


def _at_least(
    about: str, clock: str, limit: float, longest: float, *, disabled: bool = True
) -> Finding:
    """A clock must not run out before the longest deadline."""
    if disabled and limit == 0:
        return Finding(about, clock, "ok", "none")
    found = f"{limit:g} s; the longest deadline is {longest:g} s"
    if limit > longest:
        return Finding(about, clock, "ok", found)
    advice = f"raise {clock}, or have `budget.deadline` end before it"
    return Finding(about, clock, "fail", found, advice)


def _body_limit(about: str, manager: Manager, processor: Filter, config: Config) -> Finding:
    ours = config.limits.max_body
    before = manager.filters[: manager.filters.index(processor)]
    limits = [
        int(each.settings.get("max_request_bytes", 0))
        for each in before
        if each.kind in ("Buffer", "BodySizeLimit") and not each.disabled
    ]
    if not limits:
        advice = "nothing but the processor bounds a body: put Envoy's buffer filter before it"
        return Finding(about, "body limit", "warn", "none", advice)
    found = f"{min(limits)} bytes; `limits.max_body` is {ours}"
    if min(limits) == ours:
        return Finding(about, "body limit", "ok", found)
    advice = "give `max_request_bytes` of the buffer filter and `limits.max_body` one value"
    return Finding(about, "body limit", "warn", found, advice)


def _buffer(way: Way, config: Config) -> Finding:
    """What Envoy holds of a body, to try a request again: what listener or host have room for."""
    hosts = (int(each.request_body_buffer_limit) for each in way.routes.virtual_hosts)
    held = max(way.manager.buffer, min(hosts, default=0))
    found = f"{held} bytes; `limits.max_body` is {config.limits.max_body}"
    if held >= config.limits.max_body:
        return Finding(way.about, "buffer limit", "ok", found)
    advice = (
        "requests above it are refused or not tried again: raise the virtual host's"
        " `request_body_buffer_limit`, or the listener's `per_connection_buffer_limit_bytes`"
    )
    return Finding(way.about, "buffer limit", "warn", found, advice)


def _breakers(processor: Filter, dump: Dump, config: Config) -> Iterator[Finding]:
    service = processor.typed_config.get("grpc_service", {})
    name = str(service.get("envoy_grpc", {}).get("cluster_name", ""))
    cluster = dump.clusters().get(name)
    about = f"envoy cluster {name}"
    if cluster is None:
        yield Finding(about, "processor", "fail", "there is no such cluster", _CLUSTER)
        return
    # Each request is a stream: those of teams, and all that are routed beside them.
    yield _room(about, "max_requests", cluster.limits.max_requests, config.limits.max_runs)
    yield _room(about, "max_pending", cluster.limits.max_pending_requests, config.limits.max_runs)
    retries = cluster.limits.max_retries
    if retries >= config.limits.max_runs:
        yield Finding(about, "max_retries", "ok", str(retries))
    else:
        advice = "when a processor restarts, so many requests are tried again, and the rest fail"
        yield Finding(about, "max_retries", "warn", str(retries), advice)


def _room(about: str, limit: str, has: int, runs: int) -> Finding:
    found = f"{has}; `limits.max_runs` is {runs}"
    if has >= runs:
        return Finding(about, limit, "ok", found)
    return Finding(about, limit, "warn", found, f"raise {limit}, or have fewer runs at once")
