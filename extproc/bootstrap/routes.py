"""The two route tables: how a request that names a model in `x-looper-model` gets to that model."""

import re
from collections.abc import Sequence
from hashlib import blake2b

from betterproto2 import Message
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.extensions.filters.http.custom_response.v3 import CustomResponse
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutationPerRoute,
    Mutations,
)
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy.v3 import (
    LocalResponsePolicy,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.matcher.v3 import (
    HttpResponseLocalReplyMatchInput,
    HttpResponseStatusCodeClassMatchInput,
    HttpResponseStatusCodeMatchInput,
)
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher import v3 as xds

from extproc import headers, paths
from extproc.bootstrap.dropped import Dropped, query_of
from extproc.bootstrap.local_replies import ODD, REFUSED, UnknownPath
from extproc.bootstrap.messages import header, literal, names, pack, seconds
from extproc.bootstrap.processors import FILTER
from extproc.bootstrap.upstreams import Upstream, cluster_name
from extproc.config import Config
from extproc.config.overlay import Cors
from looper.calling.models import Model
from looper.errors import InvalidRequest, LoopDetected, LooperError, ModelNotFound

DECOMPRESSORS = ("looper.gzip", "looper.zstd", "looper.br")
CORS = "envoy.filters.http.cors"
REFUSALS = "looper.refusals"
HEADERS = "looper.headers"
BUFFER = "envoy.filters.http.buffer"
USAGE = "envoy.filters.http.json_to_metadata"
"""Names of filters that routes refer to."""

FIRST_READ = "(chat/completions)"
"""The first of the routes that requests have before the processor has spoken; models' routes are before it."""

_API = "/v1/"
"""Where clients see the API; the path of a model's URL stands in its place upstream."""

_NOWHERE = "x-looper-nowhere"
_LENGTH = "%DYNAMIC_METADATA(looper.rewritten:length)%"
_FROM_CLIENT = (*headers.NOT_FOR_BACKENDS, *headers.OWN)
_FROM_BACKEND = ("set-cookie", "alt-svc", "openai-organization", "openai-project", *headers.OWN)

_DECIDED = (
    (headers.DECISION, "decision"),
    (headers.ALGORITHM, "algorithm"),
    (headers.RUN, "run"),
)


def ingress(config: Config, announced: str) -> route.RouteConfiguration:
    """Clients' requests: with the processor's `x-looper-model` to a model, without it nowhere.

    The processor hears of each request which generation of routes it will follow, and where those lead.
    """
    # A retry of what ends with trailers would send its body twice (seen with 1.40, in full duplex), so such
    # requests, which the processor marks, have a route of their own without any.
    dropped = Dropped.of(config)
    marked = [_from_client(model, dropped, with_trailers=True) for model in config.models]
    table = _table(
        "ingress",
        config,
        [
            _come_back(config),
            *_before_models(),
            *marked,
            *(_from_client(model, dropped) for model in config.models),
            *_of_paths(config, dropped),
        ],
        removed=(*dropped.everywhere, *headers.OWN),
        # A key that is missing in the metadata leaves its header out.
        response_headers_to_add=[
            header(name, f"%DYNAMIC_METADATA(looper:{key})%") for name, key in _DECIDED
        ],
        filters={FILTER: pack(_telling(announced)), **_pages(config.envoy.cors)},
    )
    if config.envoy.cors is not None:
        for host in table.virtual_hosts:
            host.routes = [_leading_somewhere(each) for each in host.routes]
    return table


def _leading_somewhere(each: route.Route) -> route.Route:
    """Envoy's CORS looks at no request whose route answers by itself: those before a decision seem to lead away.

    No request has the header that would name it, and its absence is a 404 as well.
    """
    conditions = [] if each.match is None else each.match.headers
    decided = any(asked.name == headers.MODEL for asked in conditions)
    refused = each.direct_response
    if decided or refused is None or refused.status != UnknownPath.status:
        return each
    return route.Route(
        name=each.name,
        match=each.match,
        route=route.RouteAction(
            cluster_header=_NOWHERE,
            cluster_not_found_response_code=route.RouteActionClusterNotFoundResponseCode.NOT_FOUND,
        ),
        typed_per_filter_config=each.typed_per_filter_config,
    )


def _pages(settings: Cors | None) -> dict[str, Any]:
    """Which pages of other origins may ask."""
    if settings is None:
        return {}
    policy = CorsPolicy(
        allow_origin_string_match=[_origin(each) for each in settings.origins],
        allow_methods=", ".join(settings.methods),
        # By itself, `*` has Envoy repeat what the browser asks for, which goes for `authorization`, too.
        allow_headers="*" if "*" in settings.headers else ", ".join(settings.headers),
        expose_headers=", ".join(settings.expose),
        max_age=str(int(settings.max_age.total_seconds())),
        allow_credentials=settings.credentials,
    )
    return {CORS: pack(policy)}


def _origin(text: str) -> matcher.StringMatcher:
    """`*` is any origin, and at the beginning of a host whatever may stand before its first dot."""
    if text == "*":
        return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=".*"))
    if "*" not in text:
        return matcher.StringMatcher(exact=text)
    scheme, _, host = text.partition("*")
    regex = f"{re.escape(scheme)}[A-Za-z0-9-]+{re.escape(host)}"
    return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=regex))


def _telling(announced: str) -> ext_proc.ExtProcPerRoute:
    said = core.HeaderValue(key=headers.GENERATION, value=announced)
    return ext_proc.ExtProcPerRoute(
        overrides=ext_proc.ExtProcOverrides(grpc_initial_metadata=[said])
    )


def egress(config: Config) -> route.RouteConfiguration:
    """The processor's own calls; the number of attempts goes back, as each of them may have cost money."""
    return _table(
        "egress",
        config,
        [_to_model(model) for model in config.models],
        include_attempt_count_in_response=True,
    )


def _table(
    name: str,
    config: Config,
    routes: Sequence[route.Route],
    *,
    removed: Sequence[str] = _FROM_CLIENT,
    response_headers_to_add: Sequence[core.HeaderValueOption] = (),
    filters: dict[str, Any] | None = None,
    include_attempt_count_in_response: bool = False,
) -> route.RouteConfiguration:
    host = route.VirtualHost(
        name=name,
        domains=["*"],
        routes=[*routes, *_nowhere()],
        # Retries are made from what was buffered, so as much is kept as a body may have.
        request_body_buffer_limit=config.limits.max_body,
        # For every route at once, so that no route can be without it.
        request_headers_to_remove=names(removed),
        request_headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=headers.HOP, value=hop_mark(config)),
                append_action=core.HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD,
            )
        ],
        typed_per_filter_config=filters or {},
        response_headers_to_remove=names(_FROM_BACKEND),
        response_headers_to_add=list(response_headers_to_add),
        include_attempt_count_in_response=include_attempt_count_in_response,
    )
    # A header that a model's own `headers` sets survives the removals above only in this order.
    return route.RouteConfiguration(
        name=name, virtual_hosts=[host], most_specific_header_mutations_wins=True
    )


def hop_mark(config: Config) -> str:
    """What tells this deployment's routes from any other's: the same in each of its replicas, and after a restart."""
    told = (
        *sorted(config.entrypoints),
        *sorted(f"{each.name} {each.place}" for each in config.models),
    )
    return blake2b("\n".join(told).encode(), digest_size=8).hexdigest()


def _come_back(config: Config) -> route.Route:
    """A request that has been here before, by way of a model's URL that leads back, asks nobody again."""
    marked = matcher.StringMatcher(contains=hop_mark(config))
    been_here = route.HeaderMatcher(name=headers.HOP, string_match=marked)
    refused = _refuse(
        "(loop)",
        route.RouteMatch(prefix="/", headers=[been_here]),
        LoopDetected("The request came back to where it was: a model's address leads here."),
    )
    refused.typed_per_filter_config = {FILTER: pack(ext_proc.ExtProcPerRoute(disabled=True))}
    return refused


def _before_models() -> list[route.Route]:
    """A model's own page, whose name may hold an escaped slash; all other paths with one lead nowhere."""
    get = route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))
    escaped = _refuse(
        "(escaped slash)",
        route.RouteMatch(safe_regex=matcher.RegexMatcher(regex=r"(?i).*%(2f|5c).*")),
        InvalidRequest("The path must not hold an escaped slash."),
    )
    escaped.typed_per_filter_config = {FILTER: pack(ext_proc.ExtProcPerRoute(disabled=True))}
    page = route.RouteMatch(prefix=f"{paths.MODELS}/", headers=[get])
    return [_refuse("(model)", page, ModelNotFound("The model does not exist.")), escaped]


def _of_paths(config: Config, dropped: Dropped) -> list[route.Route]:
    """What a path says of a request whose model nobody has named: the longest says it first, our own before all."""
    models = {model.name: model for model in config.models}
    passed = {path: models[rule.model] for rule in config.passthrough for path in rule.paths}
    _, *others = sorted({*paths.READ, *passed}, key=lambda path: (path != paths.CHAT, -len(path)))
    return [
        _read_here(paths.CHAT),
        *(
            _passed(path, passed[path], config, dropped) if path in passed else _read_here(path)
            for path in others
        ),
    ]


def _read_here(path: str) -> route.Route:
    """Where bodies are read, and decompressed for that. Only before the processor has spoken is this the route."""
    name, match = f"({path.removeprefix(_API)})", route.RouteMatch(path_separated_prefix=path)
    made = _refuse(name, match, UnknownPath())
    made.typed_per_filter_config = _reading()
    return made


def _reading() -> dict[str, Any]:
    return {name: pack(route.FilterConfig(config=Any())) for name in DECOMPRESSORS}


def _passed(path: str, model: Model, config: Config, dropped: Dropped) -> route.Route:
    """What goes to a model as it comes. The processor sees it only where it may be a model's of ours."""
    made = _from_client(model, dropped)
    action = made.route
    assert action is not None
    made.name = f"(pass {path})"
    made.match, action.prefix_rewrite = _led(path, Upstream.of(model))
    made.request_headers_to_add = [*_headers_of(model)]
    if path in paths.READ:
        made.typed_per_filter_config |= _reading()
    else:
        made.typed_per_filter_config |= _asleep(config)
    return made


def _led(path: str, upstream: Upstream) -> tuple[route.RouteMatch, str]:
    """A path below /v1 has that of the URL in place of it; any other is the same there."""
    if path == _API.rstrip("/"):
        match, rewritten = route.RouteMatch(prefix=_API), f"{upstream.path}/"
        return match, "" if rewritten == _API else rewritten
    match = route.RouteMatch(path_separated_prefix=path)
    if not path.startswith(_API):
        return match, ""
    rewritten = f"{upstream.path}/{path.removeprefix(_API)}"
    return match, "" if rewritten == path else rewritten


def _asleep(config: Config) -> dict[str, Any]:
    """Filters of ours that have nothing to do with what nobody reads, however large it is."""
    off = pack(route.FilterConfig(disabled=True))
    usage = () if config.envoy.profile == "metered" else (USAGE,)
    return dict.fromkeys((FILTER, BUFFER, *usage), off)


def _from_client(model: Model, dropped: Dropped, *, with_trailers: bool = False) -> route.Route:
    """A client's own request, of which the processor has written the body, and nobody has looked at the answer yet."""
    made = _to_model(model, with_trailers=with_trailers)
    # In full duplex Envoy has forgotten the length, and there are servers that take no chunks.
    made.request_headers_to_add.append(header("content-length", _LENGTH))
    made.request_headers_to_remove = dropped.at(model)
    made.typed_per_filter_config = {
        REFUSALS: pack(_mended()),
        HEADERS: pack(dropped.mutations(model)),
    }
    if model.timeout is not None:
        action = made.route
        assert action is not None
        # Ends with the first byte of the answer, so that no stream is cut.
        policy = action.retry_policy or route.RetryPolicy(num_retries=0)
        policy.per_try_timeout = model.timeout
        action.retry_policy = policy
    return made


def _mended() -> CustomResponse:
    """A backend that refuses a credential refuses ours; and no client can read a status that HTTP does not have.

    A 304 is nothing that anybody asked for, and what is below 200 no answer yet.
    """
    # Not what a filter behind the processor refuses: that is the client's to mend.
    refuses = _all_of(
        _says(HttpResponseLocalReplyMatchInput(), "false"),
        _any_of(*(_says(HttpResponseStatusCodeMatchInput(), code) for code in (401, 403))),
    )
    known = (f"{each}xx" for each in range(2, 6))
    unknown = xds.MatcherMatcherListPredicate(
        not_matcher=_any_of(
            *(_says(HttpResponseStatusCodeClassMatchInput(), each) for each in known)
        )
    )
    odd = _any_of(_says(HttpResponseStatusCodeMatchInput(), 304), unknown)
    matchers = [_instead(refuses, REFUSED), _instead(odd, ODD)]
    return CustomResponse(
        custom_response_matcher=xds.Matcher(matcher_list=xds.MatcherMatcherList(matchers=matchers))
    )


def _instead(
    when: xds.MatcherMatcherListPredicate, status: int
) -> xds.MatcherMatcherListFieldMatcher:
    """A local reply with that status, which stands for a reason."""
    policy = pack(LocalResponsePolicy(status_code=status))
    action = TypedExtensionConfig(name=f"instead-{status}", typed_config=policy)
    return xds.MatcherMatcherListFieldMatcher(
        predicate=when, on_match=xds.MatcherOnMatch(action=action)
    )


def _any_of(*predicates: xds.MatcherMatcherListPredicate) -> xds.MatcherMatcherListPredicate:
    return xds.MatcherMatcherListPredicate(
        or_matcher=xds.MatcherMatcherListPredicatePredicateList(predicate=list(predicates))
    )


def _all_of(*predicates: xds.MatcherMatcherListPredicate) -> xds.MatcherMatcherListPredicate:
    return xds.MatcherMatcherListPredicate(
        and_matcher=xds.MatcherMatcherListPredicatePredicateList(predicate=list(predicates))
    )


def _says(input: Message, value: int | str) -> xds.MatcherMatcherListPredicate:
    return xds.MatcherMatcherListPredicate(
        single_predicate=xds.MatcherMatcherListPredicateSinglePredicate(
            input=TypedExtensionConfig(name="status", typed_config=pack(input)),
            value_match=xds.StringMatcher(exact=str(value)),
        )
    )


def _to_model(model: Model, *, with_trailers: bool = False) -> route.Route:
    upstream = Upstream.of(model)
    # Both end in a slash: a prefix and a replacement that do not agree on that double or lose one.
    rewritten = f"{upstream.path}/"
    named = matcher.StringMatcher(exact=model.name)
    asked = [route.HeaderMatcher(name=headers.MODEL, string_match=named)]
    if with_trailers:
        asked.append(route.HeaderMatcher(name=headers.TRAILERS, present_match=True))
    return route.Route(
        name=model.name,
        match=route.RouteMatch(prefix=_API, headers=asked),
        route=route.RouteAction(
            cluster=cluster_name(model),
            # Generating takes as long as it takes; deadlines are the processor's, and per call.
            timeout=seconds(0),
            prefix_rewrite="" if rewritten == _API else rewritten,
            host_rewrite_literal=upstream.authority,
            auto_host_rewrite=True if upstream.authority is None else None,
            retry_policy=None if with_trailers else _retries(model),
        ),
        request_headers_to_add=_headers_of(model),
        typed_per_filter_config=_asked(model),
    )


def _headers_of(model: Model) -> list[core.HeaderValueOption]:
    return [header(name.lower(), literal(value)) for name, value in model.headers.items()]


def _asked(model: Model) -> dict[str, Any]:
    """The query of its URL, which a rewritten path cannot have."""
    query = query_of(model)
    if not query:
        return {}
    mutations = Mutations(query_parameter_mutations=query)
    return {HEADERS: pack(HeaderMutationPerRoute(mutations=mutations))}


def _retries(model: Model) -> route.RetryPolicy | None:
    """Only where no answer was begun: what a provider worked on is paid for, whether or not it arrives."""
    if not model.retry.attempts:
        return None
    return route.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        retriable_status_codes=[429, 503],
        num_retries=model.retry.attempts,
        retry_back_off=route.RetryPolicyRetryBackOff(
            base_interval=seconds(0.1), max_interval=seconds(2)
        ),
        rate_limited_retry_back_off=route.RetryPolicyRateLimitedRetryBackOff(
            reset_headers=[
                route.RetryPolicyResetHeader(
                    name="retry-after", format=route.RetryPolicyResetHeaderFormat.SECONDS
                )
            ],
            max_interval=seconds(2),
        ),
        retry_host_predicate=[
            route.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack(PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=3,
    )


def _nowhere() -> list[route.Route]:
    """What is left after all models. No model's name begins with a parenthesis, so labels cannot clash."""
    named = route.HeaderMatcher(name=headers.MODEL, present_match=True)
    return [
        _refuse(
            "(unknown model)",
            route.RouteMatch(prefix=_API, headers=[named]),
            ModelNotFound("This model has no route."),
        ),
        _refuse("(unknown path)", route.RouteMatch(prefix="/"), UnknownPath()),
    ]


def _refuse(name: str, match: route.RouteMatch, error: LooperError) -> route.Route:
    return route.Route(
        name=name,
        match=match,
        direct_response=route.DirectResponseAction(
            status=error.status, body=core.DataSource(inline_string=error.to_json().decode())
        ),
        response_headers_to_add=[header("content-type", "application/json")],
    )
