"""What a pattern says while it works. One module (`answer`) makes JSON or a stream of it."""

from dataclasses import dataclass
from typing import Any, Literal

from looper.wire.chat import Usage

Outcome = Literal["ok", "degraded", "fallback"]
ANSWERED: tuple[Outcome, ...] = ("ok", "degraded", "fallback")
"""How a run ends that has answered."""

Lack = Literal[
    "failed", "late", "refused", "unsuitable", "unpaid",
    "quorum", "judge", "planner", "step", "verifier", "unsure", "contract", "thoughts",
]  # fmt: skip
"""Why an answer is degraded. The first five say how a member was lost whom nobody replaced."""

DeltaKind = Literal[
    "content", "reasoning_content", "refusal", "tool_calls", "function_call", "logprobs", "members"
]
"""No pattern says `function_call`: it is what the clients of OpenAI's older API get in place of `tool_calls`.

`members` are what stands beside the answer under names that nobody knows here, such as `annotations`.
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage began. Names the stage, never a model."""

    stage: str


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose a choice is. Said before its first delta, and only where choices are of different models."""

    model: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """A bit of the answer. `value` is text, or for calls and logprobs what the backend sent."""

    kind: DeltaKind
    value: Any
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """A choice is complete. `native` is the backend's own word for how, where it is none of OpenAI's."""

    reason: str
    choice: int = 0
    native: str | None = None


@dataclass(frozen=True, slots=True)
class Grounds:
    """By which measure one may be sure of an answer, and how sure was enough; None where nothing is, or hangs on it."""

    method: str
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The run is complete. `usage` is of all calls; `final` of the one that wrote the answer, if there were more.

    `confidence` is how probably the answer is right (0..1), where the pattern has a way to know; `grounds` say which.
    `lack` says what an answer lacks that is `degraded`, and of several things the first that came about.
    """

    usage: Usage
    outcome: Outcome
    final: Usage | None = None
    confidence: float | None = None
    grounds: Grounds | None = None
    lack: Lack | None = None


Event = Progress | Speaker | Delta | Finish | Done
