"""What values labels can have: names of the configuration, or closed sets. No client can make up another one."""

from collections.abc import Mapping
from typing import get_args

from looper.calling.calls import Answering, Private
from looper.wire.events import ANSWERED


def _any_of(*values: str) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _each(meanings: Mapping[str, str]) -> str:
    return "; ".join(f"`{value}`: {meaning}" for value, meaning in meanings.items())


REASONS: Mapping[str, str] = {
    "failed": "a member, or an agent, failed or gave nothing that could be used, and nobody replaced it",
    "late": "it was not ready in time",
    "refused": "it refused",
    "unsuitable": "it cannot take the request",
    "unpaid": "the budget had no room for it",
    "quorum": "fewer have spoken than must",
    "judge": "a judge, or a choice, was of no use",
    "planner": "a planner gave no plan",
    "step": "nothing came of a step that another one needs",
    "verifier": "a verifier rejects the answer, or cannot tell",
    "unsure": "a vote, or a chain, is not sure enough",
    "contract": "no answer keeps the contract",
    "thoughts": "models thought until they had no tokens left",
}

ENDS: Mapping[str, str] = {
    "mended": "its form was, by machinery",
    "repaired": "by its model in one more call",
    "replaced": "another answer stands in",
    "published": "it was, all the same",
    "failed": "the client got an error",
}

LABELS: Mapping[str, str] = {
    "recipe": "recipes' names",
    "decision": "decisions' names; empty where nothing was decided",
    "algorithm": "the types of algorithms, and `respond`; empty where nothing was decided",
    "model": "models' names in the catalogue; empty where no single model answers",
    "outcome": f"of a team {_any_of(*ANSWERED)}, `failed`, and `started` if it was cut short; `looper_runs_total` has "
    "`abandoned` for that, as nobody was left to answer; `bypass`, `overload` where one model stood in for a team; "
    "else empty",
    "tenant": "the names in `limits.tenants`, and `other`",
    "code": "the status of the answer; 0 if there was none",
    "flags": "Envoy's response flags; `-` is none. A stream that has said its last word may be closed with `DC`",
    "role": _any_of(*get_args(Answering), *get_args(Private)),
    "kind": _any_of("prompt", "completion"),
    "reason": _each(REASONS),
    "end": _each(ENDS),
    "error": "`error.code` of errors that the processor tells",
    "projection": "projections' names",
    "found": "a score's bands, or a partition's members, and `unknown`",
    "signal": "signals' names",
    "generation": "one, of the configuration at work",
    "result": _any_of("ok", "refused"),
    "why": "`queue`: too many waited; `export`: a collector did not take them; `end`: the process was over",
    "envoy_http_conn_manager_prefix": _any_of("ingress", "egress"),
    "envoy_cluster_name": "one for each model, `looper_ext_proc`, `looper_metrics`, `looper_traces` and `admin`",
}
