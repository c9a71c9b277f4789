"""Every series that there is: its name, its labels, and what it counts. Whoever counts, and every table, goes by this.

The loggers of Envoy's files and the processor's own page are made from it, and the table of the folder's README is.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Origin = Literal["ingress", "egress", "process", "envoy"]
"""Who counts: the loggers on one of Envoy's listeners, the processor, or Envoy by itself."""


@dataclass(frozen=True, slots=True)
class Series:
    """A family of series, by the name that Prometheus has for it. `when` says which requests it knows of."""

    name: str
    kind: Kind
    origin: Origin
    labels: tuple[str, ...]
    about: str
    most: int | None = None
    """How many series the logger that counts it makes at the most; None: as many as the labels have values."""


_DECIDED = ("decision", "algorithm")
_ROUTED = (*_DECIDED, "model")

# By Envoy's loggers on the listener of clients: a request counts when it is over.

REQUESTS = Series(
    "envoy_looper_requests_total",
    "counter",
    "ingress",
    (*_ROUTED, "outcome", "code"),
    "requests",
    5000,
)
REQUEST_MS = Series(
    "envoy_looper_request_ms",
    "histogram",
    "ingress",
    _DECIDED,
    "how long they took, to the last byte of the answer",
    500,
)
FIRST_TOKEN_MS = Series(
    "envoy_looper_first_token_ms",
    "histogram",
    "ingress",
    _DECIDED,
    "of streamed answers: from the request to the first word of the answer; of a routed one, to its first byte",
    500,
)
ATTEMPTS = Series(
    "envoy_looper_attempts_total",
    "counter",
    "ingress",
    _ROUTED,
    "Envoy's tries of routed requests: what is beyond their number are retries",
    2000,
)
PROMPT_TOKENS = Series(
    "envoy_looper_prompt_tokens_total",
    "counter",
    "ingress",
    _ROUTED,
    "tokens of prompts, where they are known",
    2000,
)
COMPLETION_TOKENS = Series(
    "envoy_looper_completion_tokens_total",
    "counter",
    "ingress",
    _ROUTED,
    "tokens of answers, where they are known",
    2000,
)
ESTIMATED_TOKENS = Series(
    "envoy_looper_estimated_tokens_total",
    "counter",
    "ingress",
    _ROUTED,
    "how many of both are estimates",
    2000,
)
CALLS = Series(
    "envoy_looper_calls_total", "counter", "ingress", _ROUTED, "calls that teams made", 2000
)
COST_MICROUSD = Series(
    "envoy_looper_cost_microusd_total",
    "counter",
    "ingress",
    _ROUTED,
    "what answers cost, by the models' prices; of routed ones in profile `metered` only",
    2000,
)
UNMETERED = Series(
    "envoy_looper_unmetered_total",
    "counter",
    "ingress",
    _ROUTED,
    "answers too large to be metered; in profile `metered` only",
    2000,
)
ROLE_TOKENS = Series(
    "envoy_looper_role_tokens_total",
    "counter",
    "ingress",
    (*_DECIDED, "role", "kind"),
    "tokens of teams' calls, by what the calls were for",
    2000,
)
DEGRADATIONS = Series(
    "envoy_looper_degradations_total",
    "counter",
    "ingress",
    (*_DECIDED, "reason"),
    "answers with the outcome `degraded`, each by the first of the reasons that it had",
    2000,
)
CONTRACT_VIOLATIONS = Series(
    "envoy_looper_contract_violations_total",
    "counter",
    "ingress",
    (*_DECIDED, "end"),
    "requests whose answer broke its contract at first, by what became of that",
    2000,
)
ERRORS = Series(
    "envoy_looper_errors_total",
    "counter",
    "ingress",
    (*_DECIDED, "error"),
    "requests that the processor answered with an error, also in a stream that had begun",
    2000,
)
CONFIDENCE_PERMILLE = Series(
    "envoy_looper_confidence_permille",
    "histogram",
    "ingress",
    ("decision",),
    "how sure teams were of their answers, where they can say",
    500,
)
PROJECTIONS = Series(
    "envoy_looper_projections_total",
    "counter",
    "ingress",
    ("recipe", "projection", "found"),
    "what projections found",
    2000,
)
SHADOW = Series(
    "envoy_looper_shadow_total",
    "counter",
    "ingress",
    ("recipe", "decision"),
    "how often a decision would have answered, were it no `shadow`",
    2000,
)

TENANT_REQUESTS = Series(
    "envoy_looper_tenant_requests_total",
    "counter",
    "ingress",
    ("tenant", "decision", "outcome", "code"),
    "requests where an entrypoint has `tenant`",
    5000,
)
TENANT_TOKENS = Series(
    "envoy_looper_tenant_tokens_total",
    "counter",
    "ingress",
    ("tenant", "decision", "kind"),
    "what these took, where it is known",
    5000,
)
TENANT_COST_MICROUSD = Series(
    "envoy_looper_tenant_cost_microusd_total",
    "counter",
    "ingress",
    ("tenant", "decision"),
    "what these cost, where it is known",
    5000,
)

# By Envoy's logger on the listener through which the processor calls models.

EGRESS_CALLS = Series(
    "envoy_looper_egress_calls_total",
    "counter",
    "egress",
    ("model", "role", "code", "flags"),
    "the processor's calls",
    5000,
)
EGRESS_CALL_MS = Series(
    "envoy_looper_egress_call_ms",
    "histogram",
    "egress",
    ("model",),
    "how long they took",
    500,
)
EGRESS_ATTEMPTS = Series(
    "envoy_looper_egress_attempts_total",
    "counter",
    "egress",
    ("model", "role"),
    "Envoy's tries of calls, each of which may have cost money",
    5000,
)

# By Envoy itself: what is in flight, and how the processor and the models do.

REQUESTS_IN_FLIGHT = Series(
    "envoy_http_downstream_rq_active",
    "gauge",
    "envoy",
    ("envoy_http_conn_manager_prefix",),
    "in flight: clients' requests (`ingress`), the processor's calls (`egress`)",
)
MODEL_IN_FLIGHT = Series(
    "envoy_cluster_upstream_rq_active",
    "gauge",
    "envoy",
    ("envoy_cluster_name",),
    "in flight at a model (`model_NAME`; dots of its name are underscores), and at the processors (`looper_ext_proc`)",
)
STREAMS_FAILED = Series(
    "envoy_http_ext_proc_looper_streams_failed",
    "counter",
    "envoy",
    ("envoy_http_conn_manager_prefix",),
    "requests of which the processor was lost",
)
SPURIOUS_MESSAGES = Series(
    "envoy_http_ext_proc_looper_spurious_msgs_received",
    "counter",
    "envoy",
    ("envoy_http_conn_manager_prefix",),
    "what the processor said out of turn: should not grow",
)
REJECTED_MUTATIONS = Series(
    "envoy_http_ext_proc_looper_rejected_header_mutations",
    "counter",
    "envoy",
    ("envoy_http_conn_manager_prefix",),
    "headers that it may not set: should not grow",
)

# By the processor.

CONFIG_VALID = Series(
    "looper_config_valid", "gauge", "process", (), "whether the file on disk can be used"
)
CONFIG_GENERATION = Series(
    "looper_config_generation",
    "gauge",
    "process",
    ("generation",),
    "1: the configuration at work",
)
CONFIG_ENVOY_STALE = Series(
    "looper_config_envoy_stale",
    "gauge",
    "process",
    (),
    "whether Envoy was last seen with another generation",
)
CONFIG_RELOADS = Series(
    "looper_config_reloads_total", "counter", "process", ("result",), "new versions of the file"
)
OPEN_RUNS = Series("looper_open_runs", "gauge", "process", (), "in flight: teams at work")
MAX_RUNS = Series(
    "looper_max_runs", "gauge", "process", (), "how many there may be: `limits.max_runs`"
)
WAITING_RUNS = Series(
    "looper_waiting_runs", "gauge", "process", (), "requests that wait for a team"
)
INFLIGHT_BYTES = Series(
    "looper_inflight_bytes",
    "gauge",
    "process",
    (),
    "of answers that clients have yet to read",
)
MAX_INFLIGHT_BYTES = Series(
    "looper_max_inflight_bytes",
    "gauge",
    "process",
    (),
    "how many there may be: `limits.max_inflight_bytes`",
)
LAG_SECONDS = Series(
    "looper_event_loop_lag_seconds",
    "gauge",
    "process",
    (),
    "the longest wait for a turn, of the last 10 s",
)
RUNS = Series(
    "looper_runs_total",
    "counter",
    "process",
    ("recipe", "decision", "algorithm", "outcome"),
    "teams' runs that ended, those among them that Envoy never heard of: their clients had left",
)
SPEND_MICROUSD = Series(
    "looper_spend_microusd_total",
    "counter",
    "process",
    ("recipe", "decision", "algorithm"),
    "what these runs cost, by their ledgers",
)
EXCHANGES_ABORTED = Series(
    "looper_exchanges_aborted_total",
    "counter",
    "process",
    (),
    "answers of teams that were broken off: two seconds after their deadline they had no end, or it could not be "
    "written",
)
IDENTITY_MISSING = Series(
    "looper_identity_missing_total",
    "counter",
    "process",
    (),
    "requests refused since nobody said who asks, where `state.identity` wants it known",
)
SIGNAL_FAILURES = Series(
    "looper_signal_failures_total",
    "counter",
    "process",
    ("recipe", "signal"),
    "signals without an answer; begins anew with each configuration",
)
SIGNAL_CALLS = Series(
    "looper_signal_calls_total",
    "counter",
    "process",
    ("model",),
    "calls that signals made, which are no run's",
)
SIGNAL_SPEND_MICROUSD = Series(
    "looper_signal_spend_microusd_total", "counter", "process", ("model",), "what they cost"
)
SPANS_SENT = Series(
    "looper_spans_sent_total",
    "counter",
    "process",
    (),
    "with `tracing`: spans that a collector took",
)
SPANS_DROPPED = Series(
    "looper_spans_dropped_total", "counter", "process", ("why",), "spans that are lost"
)

# Of the processor as a process, by prometheus-client; on Linux only.

PROCESS_CPU = Series("process_cpu_seconds_total", "counter", "process", (), "processor time")
PROCESS_MEMORY = Series("process_resident_memory_bytes", "gauge", "process", (), "memory in use")
PROCESS_VIRTUAL_MEMORY = Series(
    "process_virtual_memory_bytes", "gauge", "process", (), "memory that is reserved"
)
PROCESS_START = Series(
    "process_start_time_seconds", "gauge", "process", (), "when it started, in Unix time"
)
PROCESS_FILES = Series("process_open_fds", "gauge", "process", (), "open files and connections")
PROCESS_MOST_FILES = Series(
    "process_max_fds", "gauge", "process", (), "how many of them there may be"
)
