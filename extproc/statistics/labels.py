"""What values labels can have: names of the configuration, or closed sets. No client can make up another one."""

from collections.abc import Mapping
from typing import get_args

from looper.calling.calls import Answering, Private
from looper.calling.trace import Breach
from looper.wire.events import ANSWERED, Lack


def _any_of(*values: str) -> str:
    return ", ".join(f"`{value}`" for value in values)


LABELS: Mapping[str, str] = {
    "recipe": "recipes' names",
    "decision": "decisions' names; empty where nothing was decided",
    "algorithm": "the types of algorithms, and `respond`; empty where nothing was decided",
    "model": "models' names in the catalogue; empty where no single model answers",
    "outcome": f"of a team {_any_of(*ANSWERED)}, `failed`, and `started` if it was cut short; `looper_runs_total` has "
    "`abandoned` for that, as nobody was left to answer; `bypass`, `overload` where one model stood in for a team; "
    "else empty",
    "code": "the status of the answer; 0 if there was none",
    "flags": "Envoy's response flags; `-` is none",
    "role": _any_of(*get_args(Answering), *get_args(Private)),
    "kind": _any_of("prompt", "completion"),
    "reason": _any_of(*get_args(Lack)),
    "end": _any_of(*get_args(Breach), "failed"),
    "error": "`error.code` of errors that clients see",
    "projection": "projections' names",
    "found": "a score's bands, or a partition's members, and `unknown`",
    "signal": "signals' names",
    "generation": "one, of the configuration at work",
    "why": "`queue`: too many waited; `export`: a collector did not take them; `end`: the process was over",
    "result": _any_of("ok", "refused"),
    "envoy_http_conn_manager_prefix": _any_of("ingress", "egress"),
    "envoy_cluster_name": "one for each model, `looper_ext_proc` and `admin`",
}
