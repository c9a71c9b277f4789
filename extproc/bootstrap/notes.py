"""What is said beside fragments: of each part whether it is essential, and what it is for."""

from collections.abc import Mapping

ABOUT: Mapping[str, str] = {
    "filter": (
        "The external processor alone. It belongs behind whoever finds out who asks, and before the router; "
        "a whole chain of "
        "filters is the fragment `http-filters`. It needs the fragments `routes`, `clusters` and `egress`."
    ),
    "http-filters": (
        "The chain of filters, and settings of the HTTP connection manager that it does not work without. "
        "Your own filters, "
        "such as JWT, belong before ours: see docs/envoy.md."
    ),
    "routes": (
        "The routes of clients' requests: a model is found by the header that only the processor sets. It "
        "may be your "
        "`route_config`, or its virtual host one of yours: then name your domains in place of `*`."
    ),
    "clusters": (
        "The processors, and a cluster for each model that has a `url`. A model with `cluster: NAME` is in "
        "one of yours."
    ),
    "egress": (
        "The listener through which the processor calls models. It is no way for anybody else: whoever "
        "reaches it spends "
        "your money."
    ),
    "stats": (
        "What Envoy counts of requests: access loggers of the listener for clients. Nothing here is "
        "essential: without it, "
        "the processor's own metrics are all there is. What is counted of calls is part of the fragment `egress`."
    ),
}

Notes = Mapping[tuple[str, ...], str]
"""By the end of a path."""

# The processor's filter...

_FILTER: Notes = {
    ("layered_runtime",): (
        "Top level of your bootstrap. Essential: Envoy's limit of 100 is less than what "
        "`allow_expression` takes, and it would refuse the filter. A layer may join those that you "
        "have."
    ),
    ("http_filters",): (
        "Into the HTTP connection manager of the listener that clients connect to."
    ),
    ("http_filters", "looper.ext_proc"): ("Essential. The name is what routes refer to."),
    ("grpc_service", "retry_policy"): (
        "Essential: without it, each request at the moment of a processor's restart fails. What has "
        "begun is never replayed."
    ),
    ("processing_mode",): (
        "Essential, as it is: STREAMED and BUFFERED_PARTIAL are refused. Full duplex insists on "
        "trailers; response headers are skipped unless `profile: metered`."
    ),
    ("typed_config", "message_timeout"): (
        "Full duplex has no such clock, but for what is metered. BUFFERED: longer than any deadline."
    ),
    ("mutation_rules",): (
        "Essential: without `x-envoy-…` here, deadlines do not bound routed answers. Nothing else "
        "may be written."
    ),
    ("forward_rules",): (
        "Not essential, but without it the processor is sent credentials. `:method` and `:path` have "
        "to be among them."
    ),
    ("metadata_options",): (
        "Essential: without `receiving_namespaces` there are no statistics, and routed requests lose "
        "their `content-length`."
    ),
    ("route_cache_action",): (
        "Essential: else the route from before the decision stays, which is a 404."
    ),
    ("typed_config", "status_on_error"): (
        "Not essential: 503 in place of 500 when no processor answers."
    ),
    ("request_attributes",): ("What signals and `state.identity` ask for."),
}

# Its chain, and the connection manager...

_CHAIN: Notes = {
    ("http_connection_manager",): (
        "Into the HTTP connection manager of the listener that clients connect to, beside its "
        "`stat_prefix` and routes."
    ),
    ("http_connection_manager", "tracing"): (
        "Not essential: Envoy's spans, which go to the cluster `looper_traces`."
    ),
    ("envoy.filters.http.cors",): ("Not essential. Its policy is part of the virtual host."),
    ("looper.gzip",): (
        "Not essential: this and the next two read compressed bodies. They sleep until a route of "
        "ours wakes them."
    ),
    ("envoy.filters.http.buffer",): (
        "Essential: nothing else bounds a body, which would be held in the processor. As much as "
        "`limits.max_body`."
    ),
    ("looper.refusals",): (
        "Not essential: a provider's 401 for a key of yours becomes 502. Without it, take it out of "
        "the routes, too."
    ),
    ("looper.headers",): (
        "Not essential: removes more headers of clients' on the way to models. Without it, take it "
        "out of the routes, too."
    ),
    ("envoy.filters.http.json_to_metadata",): (
        "Not essential: counts tokens of unstreamed routed answers, which it holds to their end."
    ),
    ("http_filters", "envoy.filters.http.router"): ("Essential, and the last."),
    ("http_connection_manager", "stream_idle_timeout"): (
        "Essential: longer than any deadline, since an unstreamed team is silent until it ends. 0s "
        "is none."
    ),
    ("http_connection_manager", "common_http_protocol_options"): (
        "Not essential, but many a server takes `x_looper_model` for `x-looper-model`."
    ),
    ("http_connection_manager", "http_protocol_options"): ("Not essential: serves HTTP/1.0, too."),
    ("http_connection_manager", "use_remote_address"): (
        "Essential at the edge: takes `x-envoy-*` from clients, which would set timeouts and "
        "retries. Behind a proxy that you trust, say so by `xff_num_trusted_hops`."
    ),
    ("early_header_mutation_extensions",): (
        "Essential: else a client names a model itself. A filter would be too late, as the route is "
        "chosen before any."
    ),
    ("http_connection_manager", "normalize_path"): (
        "This and the next two: essential, unless your paths are safe already. One that climbs out "
        "of /v1/ must reach nothing."
    ),
    ("local_reply_config",): (
        "Not essential: Envoy's own errors in OpenAI's shape. If you have mappers of your own, put "
        "these first: the first one that matches answers. The one without a status keeps the "
        "processor's answers from being rewritten."
    ),
}

# Routes...

_ROUTES: Notes = {
    ("route_config",): ("Into the HTTP connection manager, or into what your RDS serves."),
    ("virtual_hosts", "ingress"): ("Essential; `domains` are yours to say."),
    ("route", "timeout"): (
        "Essential: Envoy's default cuts answers after 15 s, which are paid for."
    ),
    ("route", "retry_policy"): (
        "Not essential. Never retry on 5xx or by a timeout for each try: it would be paid for again."
    ),
    ("route", "auto_host_rewrite"): ("The name that your cluster's endpoint has."),
    ("(unknown model)",): (
        "Essential: a model without a route must not fall through to one of your own routes."
    ),
    ("ingress", "request_headers_to_remove"): (
        "Essential: a client's credentials must not go to whoever serves a model, and what is ours "
        "to no backend."
    ),
    ("ingress", "request_headers_to_add"): (
        "Essential: refuses what comes back here by a model's address (508), before it turns in a "
        "circle."
    ),
    ("ingress", "response_headers_to_add"): ("Not essential: answers say what was decided."),
    ("ingress", "response_headers_to_remove"): (
        "Not essential: what a backend sets is not its clients' business."
    ),
    ("ingress", "typed_per_filter_config"): (
        "Essential if you change models while everything runs: tells the processor where these "
        "routes lead. Print it again then."
    ),
    ("request_body_buffer_limit",): ("Essential for retries: as much as `limits.max_body`."),
    ("most_specific_header_mutations_wins",): (
        "Essential for `headers` of a model that the virtual host removes from clients."
    ),
}

# Clusters...

_CLUSTERS: Notes = {
    ("static_resources",): (
        "Top level of your bootstrap. A control plane may serve all of it as well."
    ),
    ("clusters", "looper_ext_proc"): ("Essential: where `looper serve` listens."),
    ("looper_ext_proc", "circuit_breakers"): (
        "Essential: each open request is a stream, of which Envoy allows 1024 by default, and 3 "
        "retries."
    ),
    ("looper_ext_proc", "health_checks"): ("Essential for restarts: sees a processor that drains."),
    ("looper_ext_proc", "typed_extension_protocol_options"): ("Essential: gRPC is HTTP/2."),
    ("clusters", "looper_traces"): ("The collector of Envoy's spans."),
    ("outlier_detection",): ("Not essential: takes out a replica that cannot be reached."),
    ("alt_stat_name",): ("Not essential: dots would end a name in statistics."),
    ("secrets",): (
        "Keys and certificates. Those in files are read at Envoy's start here; serve them by SDS to "
        "have them renewed."
    ),
}

# Calls...

_EGRESS: Notes = {
    ("static_resources",): (
        "Top level of your bootstrap. A control plane may serve all of it as well."
    ),
    ("listeners", "egress"): (
        "Essential. No external processor is in it, so that no call is decided again."
    ),
    ("egress", "address"): (
        "Essential: a socket of its owner's, or an address that nobody else reaches."
    ),
    ("internal_address_config",): (
        "Essential, with `use_remote_address`: else Envoy ignores the deadline and the retries that "
        "the processor gives a call."
    ),
    ("typed_config", "tracing"): (
        "Not essential: spans of calls, in the trace that each of them brings along."
    ),
    ("delayed_close_timeout",): (
        "Essential: what a model has said that breaks off would arrive a second later."
    ),
    ("envoy.filters.http.header_to_metadata",): (
        "Not essential: has statistics say what calls were for."
    ),
    ("egress", "include_attempt_count_in_response"): (
        "Essential: each attempt may have cost money, which budgets are to know."
    ),
    ("route", "timeout"): (
        "Essential: Envoy's default cuts answers after 15 s, which are paid for."
    ),
    ("route", "retry_policy"): (
        "Not essential. Never retry on 5xx or by a timeout for each try: it would be paid for again."
    ),
    ("route", "auto_host_rewrite"): ("The name that your cluster's endpoint has."),
    ("egress", "request_headers_to_remove"): (
        "Essential: a client's credentials must not go to whoever serves a model, and what is ours "
        "to no backend."
    ),
    ("egress", "request_headers_to_add"): (
        "Essential: refuses what comes back here by a model's address (508), before it turns in a "
        "circle."
    ),
    ("request_body_buffer_limit",): ("Essential for retries: as much as `limits.max_body`."),
    ("most_specific_header_mutations_wins",): (
        "Essential for `headers` of a model that the virtual host removes from clients."
    ),
}

# Statistics...

_STATS: Notes = {
    ("stats_config",): ("Top level of your bootstrap. Buckets that fit the time a model takes."),
    ("stats_eviction_interval",): (
        "Top level of your bootstrap. Series that nothing used for as long are dropped."
    ),
    ("http_connection_manager",): (
        "Into the HTTP connection manager of the listener that clients connect to, beside its "
        "`stat_prefix` and routes."
    ),
}

NOTES: Mapping[str, Notes] = {
    "filter": _FILTER,
    "http-filters": {
        **{path: said for path, said in _FILTER.items() if path != ("http_filters",)},
        **_CHAIN,
    },
    "routes": _ROUTES,
    "clusters": _CLUSTERS,
    "egress": _EGRESS,
    "stats": _STATS,
}
