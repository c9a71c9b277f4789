"""What a line of a file of runs holds: the schema of records, which `looper schema --records` prints.

A member that is not known of a run is left out. New members may come within a version; none changes its meaning.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from looper.calling.calls import State
from looper.calling.trace import Breach
from looper.wire.events import Lack

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Permille = Annotated[int, Field(ge=0, le=1000)]
CallNumber = Annotated[int, Field(ge=0, description="a call's place in `calls`")]


class Part(BaseModel):
    """A part of a record: it has no members but these."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(Part):
    """What the request was like, without its contents."""

    model: str = Field(description="the name that the client asked for")
    stream: bool
    messages: Count | None = Field(default=None, description="how many; of a chat")
    prompt_tokens: Count | None = Field(default=None, description="estimated; of a chat")
    tools: bool = Field(description="whether tools were offered")
    max_tokens: int | None = None


class Amounts(Part):
    """What a run could take, or took."""

    calls: Count | None = None
    tokens: Count | None = None
    cost_microusd: float | None = None
    seconds: Seconds | None = None


class Used(BaseModel):
    """Tokens, as backends report them; `prompt_tokens_details` and the like as they come."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0


class Stage(Part):
    """A stage began, so many seconds after the run did."""

    stage: str
    at: Seconds


class Called(Part):
    """One call. Times are seconds: `at` since the run began, the others since the call did."""

    model: str
    role: str
    state: State | Literal["running"]
    at: Seconds
    agent: str | None = Field(default=None, description="whose call it is, in a workflow")
    stands_in: Literal["hedge", "substitute"] | None = Field(
        default=None, description="why it was made although nobody planned it"
    )
    queued: Seconds | None = Field(default=None, description="before it began, for want of room")
    seconds: Seconds | None = None
    first_token: Seconds | None = None
    reason: str | None = Field(default=None, description="why it failed or was given up")
    status: int | None = None
    finish_reason: str | None = Field(
        default=None, description="how its answer ended: one of OpenAI's words"
    )
    contract: Literal["broken"] | None = Field(
        default=None, description="whether its answer was found to break the contract"
    )
    span: str | None = Field(default=None, description="its span in the client's W3C trace")
    score: float | None = Field(default=None, ge=0, le=1)
    measured: dict[str, float] | None = Field(
        default=None, description="by method: the score before anybody said what it is worth"
    )
    verdict: str | None = None
    usage: Used | None = None
    cost_microusd: float | None = None
    estimated: bool | None = Field(default=None, description="whether usage is an estimate")
    dropped: tuple[str, ...] | None = Field(
        default=None, description="the client's members that the model does not take"
    )
    text: str | None = Field(default=None, description="what the model said; only with `full`")
    answer: str | None = Field(
        default=None, description="what that counts as by the contract; only with `full`"
    )


class Ballot(Part):
    """What one answer counts for."""

    call: CallNumber | None
    model: str
    weight: float
    votes: bool = Field(description="false: it only counts where all who vote are silent")


class Group(Part):
    """Those who say the same, and how probably they are right."""

    posterior: float
    ballots: tuple[Ballot, ...]


class Voted(Part):
    """A vote: the leader first."""

    at: Seconds
    confidence: float
    none: float = Field(description="how probably none of them is right")
    groups: tuple[Group, ...]
    silent: tuple[CallNumber, ...]


class Scored(Part):
    """An answer before a judge, and its score from 0 to 10."""

    call: CallNumber | None
    score: float | None = None


class Judged(Part):
    """A judgement, of the answers in the order in which they stood before the judge."""

    at: Seconds
    answers: tuple[Scored, ...]
    winner: CallNumber | None = None
    findings: dict[str, Any] | None = Field(
        default=None, description="what else the judge found, in its words; only with `full`"
    )


class Checked(Part):
    """Whether what had been said was sure enough: what an escalation hung on."""

    at: Seconds
    stage: str | None
    method: str
    score: float
    threshold: float
    enough: bool


class Planned(Part):
    """A step of a workflow."""

    step: str
    role: str
    models: tuple[str, ...]
    needs: tuple[str, ...]
    sees: tuple[str, ...] | None = None
    skipped: bool | None = None
    prompt: str | None = Field(default=None, description="only with `full`")


class AgentSeen(Part):
    """A model at work on a step."""

    agent: str
    model: str
    state: str
    turns: Count
    revised: bool | None = None
    verdict: str | None = None


_PROJECTIONS: JsonDict = {
    "patternProperties": {
        r"^(band|shape)\.": {
            "type": "string",
            "description": "what a projection found, by its name",
        },
        r"^shadow\.": {"const": 1, "description": "a decision on trial that would have answered"},
    },
    "additionalProperties": False,
}


class RunRecord(BaseModel):
    """One run, as `trace.file` has a line for each, and as `/runs` tells of it."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_PROJECTIONS)

    version: Literal[1]
    kind: Literal["team", "routed"] = Field(
        description="whether a team answered, or Envoy routed the request to one model"
    )
    time: str = Field(description="when it began, in ISO 8601")
    run: str = Field(description="its id, which the client has in x-looper-run")
    recipe: str
    decision: str
    algorithm: str
    outcome: str | None = Field(
        default=None,
        description="ok, degraded, fallback, waiting…; failed; abandoned: nobody was left to answer; "
        "of routed requests bypass or overload, if that is why, and where it is known that they ended badly",
    )
    degraded_by: Lack | None = Field(
        default=None,
        description="what an answer lacks that is degraded, the first thing of several",
    )
    contract_breach: Breach | Literal["failed"] | None = Field(
        default=None,
        description="what became of an answer that broke its contract at first: mended by machinery, repaired by its "
        "model, replaced by another one, published all the same; failed: the client got an error",
    )
    status: int | None = Field(default=None, description="of an error")
    code: str | None = Field(default=None, description="of an error")
    model: str | None = Field(default=None, description="to which it was routed")
    tenant: str | None = Field(
        default=None, description="whose request it was, as `limits.tenants` lists them"
    )
    resumes: str | None = Field(default=None, description="the run that this one goes on with")
    request_id: str | None = Field(default=None, description="its x-request-id")
    trace_id: str | None = Field(default=None, description="of its traceparent")
    queued: Seconds | None = Field(default=None, description="before the run could begin")
    routing: Seconds | None = Field(
        default=None, description="before a routed request was on its way to its model"
    )
    seconds: Seconds | None = Field(
        default=None, description="to the end; of routed requests only where answers are metered"
    )
    first_token: Seconds | None = Field(default=None, description="of a streamed answer")
    unmetered: Literal[1] | None = Field(
        default=None, description="the answer was too large to be read for its usage"
    )
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    estimated_tokens: Count | None = None
    cost_microusd: float | None = None
    confidence_permille: Permille | None = None
    confidence_method: str | None = None
    threshold_permille: Permille | None = None
    request: Asked | None = None
    budget: Amounts | None = None
    spent: Amounts | None = None
    usage: Used | None = None
    stages: tuple[Stage, ...] = ()
    calls: tuple[Called, ...] = ()
    notes: tuple[str, ...] = ()
    votes: tuple[Voted, ...] = ()
    judgements: tuple[Judged, ...] = ()
    checks: tuple[Checked, ...] = ()
    plan: tuple[Planned, ...] = ()
    agents: tuple[AgentSeen, ...] = ()
    turns: Count | None = None
    why: dict[str, Any] | None = Field(
        default=None, description="how it was decided, as `looper explain --json` tells it"
    )
    messages: tuple[dict[str, Any], ...] | None = Field(
        default=None, description="what the client sent; only with `full`"
    )
    members: dict[str, Any] | None = Field(
        default=None, description="the other members of its body; only with `full`"
    )
    options: int | None = Field(
        default=None, description="how many answers the contract allows; only with `full`"
    )
