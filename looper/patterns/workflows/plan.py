"""A plan: steps that need each other, who works on them, and what each of them sees. Checked whole before any work."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from looper.settings import Duration, Setting

MAX_STEPS = 32
MAX_PROMPT = 8192
"""Bytes of what a step's agents are told."""

MAX_AGENTS = 8
"""Models that one step may name."""

FINAL = "final"
"""The id of the stage that writes the answer, which no step may have."""

_LONGEST_LIST = MAX_STEPS * MAX_AGENTS
_MOST_PROBLEMS = 32
"""Problems between the steps of a planner's plan that are looked for."""

_RESERVED = (FINAL, "planner")
MISSING = "missing"
"""The text of a problem that is the lack of something."""

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
"""Where in a plan something is wrong, and what, in words that whoever wrote the plan can act on."""


def _check_size(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError("a prompt must say something")
    if (size := len(prompt.encode("utf-8", "surrogatepass"))) > MAX_PROMPT:
        raise ValueError(f"a prompt has at most {MAX_PROMPT} bytes, and this one has {size}")
    return prompt


def _tuple(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list")
    if len(value) > _LONGEST_LIST:
        # No list may be so long, and all that is wrong in it takes long to say.
        raise ValueError(f"is a list of {len(value)}, and no list has more than {_LONGEST_LIST}")
    return tuple(value)


# Models' answers are read strictly, where a list is no tuple. What stands in it is still held to its type.
_Listed = BeforeValidator(_tuple)
Id = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]
Prompt = Annotated[str, AfterValidator(_check_size)]
Models = Annotated[
    tuple[Annotated[str, Field(max_length=128)], ...],
    Field(min_length=1, max_length=MAX_AGENTS),
    _Listed,
]
Needs = Annotated[tuple[Id, ...], Field(max_length=MAX_STEPS), _Listed]
Seen = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}(\.[1-8])?$")]
Sees = Annotated[tuple[Seen, ...], Field(max_length=MAX_STEPS * MAX_AGENTS), _Listed]
StepRole = Literal["worker", "verifier"]


class Step(Setting):
    """Work for one model or for several side by side, each of which is an agent of its own."""

    id: Id
    role: StepRole = Field(
        default="worker", description="a verifier says whether what it needs is right"
    )
    models: Models
    prompt: Prompt
    needs: Needs = Field(default=(), description="steps that must be over before")
    sees: Sees | None = Field(
        default=None,
        description="answers that its agents are shown, by step or, as in `draft.2`, by agent; default: all it needs",
    )

    @property
    def agents(self) -> tuple[str, ...]:
        """The ids of its agents: `draft.1`, `draft.2`."""
        return tuple(f"{self.id}.{number}" for number in range(1, len(self.models) + 1))


S = TypeVar("S", bound=Step)


class TimedStep(Step):
    """A step as an operator writes it."""

    timeout: Duration | None = Field(
        default=None, description="how long one call of its agents may take"
    )


class Final(Setting):
    """The stage that writes the answer."""

    model: str
    prompt: Prompt | None = None
    sees: Sees | None = Field(default=None, description="default: the answers of all steps")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a plan may be: in steps, and in calls that are made even if nothing goes wrong."""

    max_steps: int = MAX_STEPS
    max_calls: int | None = None


def problems(
    steps: Sequence[Step],
    final_sees: Sequence[str] | None,
    bounds: Bounds,
    pool: Collection[str] | None = None,
) -> Iterator[Problem]:
    """All that is wrong with a plan whose parts are right by themselves. Without a `pool`, any model may be named."""
    if len(steps) > bounds.max_steps:
        # At the first one too many: what is wrong with a whole would hide what is wrong in it.
        text = f"{len(steps)} steps, and at most {bounds.max_steps} are allowed"
        yield ("steps", bounds.max_steps, "id"), text
    calls = sum(len(step.models) for step in steps) + 1
    if bounds.max_calls is not None and calls > bounds.max_calls:
        text = f"the plan takes {calls} calls, and at most {bounds.max_calls} are allowed"
        yield ("steps", len(steps) - 1, "models"), text
    known = {step.id: step for step in reversed(steps)}  # of two, the first counts
    before = _before(steps)
    for at, step in enumerate(steps):
        for path, text in _step_problems(at, step, known, before, pool):
            yield ("steps", at, *path), text
    for path, text in _cycle(steps):
        yield path, text
    for index, name in enumerate(final_sees or ()):
        if (unseeable := _unseeable(name, known, known)) is not None:
            yield ("final", "sees", index), unseeable


def _step_problems(
    at: int,
    step: Step,
    known: Mapping[str, Step],
    before: Mapping[str, Collection[str]],
    pool: Collection[str] | None,
) -> Iterator[Problem]:
    if step.id in _RESERVED:
        yield ("id",), f"{step.id!r} is no id for a step: it is taken"
    if known[step.id] is not step:
        yield ("id",), f"two steps have the id {step.id!r}"
    for index, model in enumerate(step.models):
        if pool is not None and model not in pool:
            yield ("models", index), _unknown("model", model, pool)
    yield from _need_problems(step, known)
    for index, name in enumerate(step.sees or ()):
        if text := _unseeable(name, known, before.get(step.id, ())):
            yield ("sees", index), text
    if step.role == "verifier":
        yield from _verifier_problems(step, known)


def _verifier_problems(step: Step, known: Mapping[str, Step]) -> Iterator[Problem]:
    if not any(_is_worker(need, known) for need in step.needs):
        yield ("needs",), "a verifier needs at least one step of role 'worker', which it verifies"
    elif not verified(step, list(known.values())):
        yield ("sees",), "a verifier sees at least one answer of a worker that it needs"


def _need_problems(step: Step, known: Mapping[str, Step]) -> Iterator[Problem]:
    for index, need in enumerate(step.needs):
        if need not in known:
            yield ("needs", index), _unknown("step", need, known)
        elif need == step.id:
            yield ("needs", index), f"{need!r} needs itself"
        elif need in step.needs[:index]:
            yield ("needs", index), f"{need!r} stands twice"


def _unseeable(name: str, known: Mapping[str, Step], before: Collection[str]) -> str | None:
    """Why the answer of a step or an agent cannot be seen; None if it can."""
    id, _, number = name.partition(".")
    if id not in known:
        return _unknown("step", id, known)
    if number and int(number) > len(known[id].models):
        return f"{name!r}: the step {id!r} has {len(known[id].models)} agents"
    if id not in before:
        return f"{name!r} is not over by then: what a step sees must be among its needs, or theirs"
    return None


def _before(steps: Sequence[Step]) -> dict[str, set[str]]:
    """For each step the steps that are over when it begins. Steps in a cycle have no such set."""
    needs = {step.id: {need for need in step.needs if need != step.id} for step in steps}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        return {step.id: _reachable(step.id, needs) for step in steps}
    before: dict[str, set[str]] = {}
    for id in order:
        direct = needs.get(id, set())
        before[id] = direct.union(*(before[need] for need in direct))
    return before


def _reachable(id: str, needs: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [*needs[id]]
    while waiting:
        if (next := waiting.pop()) not in found:
            found.add(next)
            waiting += needs.get(next, ())
    return found - {id}


def _cycle(steps: Sequence[Step]) -> Iterator[Problem]:
    needs = {step.id: [need for need in step.needs if need != step.id] for step in steps}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        ids = list(reversed(error.args[1]))
        circle = " needs ".join(map(repr, ids))
        at = next(at for at, step in enumerate(steps) if step.id == ids[0])
        yield ("steps", at, "needs"), f"these steps wait for each other: {circle}"


def _is_worker(id: str, known: Mapping[str, Step]) -> bool:
    return id in known and known[id].role == "worker"


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"there is no {kind} {name!r}: {hint}"


def in_order(steps: Sequence[S]) -> list[S]:
    """The steps so that each stands behind what it needs; of those that may stand anywhere, as written."""
    placed: dict[str, S] = {}
    while len(placed) < len(steps):
        for step in steps:
            if step.id not in placed and all(need in placed for need in step.needs):
                placed[step.id] = step
    return list(placed.values())


def seen(
    sees: Sequence[str] | None, needs: Sequence[str], steps: Sequence[Step]
) -> tuple[str, ...]:
    """The agents whose answers are shown to whoever `sees` this, or, where it does not say, all that it needs."""
    wanted = needs if sees is None else sees
    return tuple(
        agent for step in steps for agent in step.agents if step.id in wanted or agent in wanted
    )


def verified(verifier: Step, steps: Sequence[Step]) -> tuple[str, ...]:
    """The agents whose answers a verifier stands for: of the workers that it needs, those that it is shown."""
    needed = [step for step in steps if step.id in verifier.needs and step.role == "worker"]
    return seen(verifier.sees, verifier.needs, needed)


def raise_problems(found: Sequence[Problem]) -> None:
    """Raise them, if there are any, as pydantic's errors, each with its place."""
    if found:
        raise _error(found)


class PlannedFinal(Setting):
    """The last stage as a planner writes it."""

    prompt: Prompt | None = None
    sees: Sees | None = None


class Planned(Setting):
    """A plan as a planner writes it. `planned_type` makes it one with a pool and bounds."""

    bounds: ClassVar[Bounds] = Bounds()
    pool: ClassVar[Collection[str]] = ()

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS), _Listed]
    final: PlannedFinal = PlannedFinal()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, value: Any, check: Callable[[Any], Self]) -> Self:
        # A planner is asked once more only, so it is told everything at once: also what is wrong between the steps
        # where some of them are wrong by themselves.
        try:
            plan = check(value)
        except ValidationError as error:
            steps, wrong = _readable(value)
            found = problems(steps, None, cls.bounds, cls.pool)
            apart = ((path, text) for path, text in found if path[1:2] not in wrong)
            raise _with(error, list(islice(apart, _MOST_PROBLEMS))) from None
        found = islice(problems(plan.steps, plan.final.sees, cls.bounds, cls.pool), _MOST_PROBLEMS)
        raise_problems(list(found))
        return plan


@lru_cache(maxsize=64)
def planned_type(pool: tuple[str, ...], bounds: Bounds) -> type[Planned]:
    """The type of plans that choose from these models, within these bounds."""
    return type("Planned", (Planned,), {"__module__": __name__, "pool": pool, "bounds": bounds})


def _readable(value: Any) -> tuple[list[Step], set[Path]]:
    """The steps of a plan of which not all are right, and which are not: of these no more than the id is there."""
    raw = value.get("steps") if isinstance(value, dict) else None
    steps: list[Step] = []
    wrong: set[Path] = set()
    for index, item in enumerate(raw if isinstance(raw, list) and len(raw) <= MAX_STEPS else ()):
        try:
            steps.append(Step.model_validate(item, strict=True))
        except ValidationError:
            wrong.add((index,))
            id = item.get("id") if isinstance(item, dict) else None
            # An id that cannot be read must not be missed by those who need it.
            if not isinstance(id, str):
                return [], wrong
            steps.append(Step.model_construct(id=id, models=("?",), prompt="?"))
    return steps, wrong


def _with(error: ValidationError, found: Sequence[Problem]) -> ValidationError:
    """One error more, with other problems behind its own."""
    items = error.errors(include_url=False, include_input=False, include_context=False)
    own: list[Problem] = [
        (item["loc"], item["msg"].removeprefix("Value error, ")) for item in items
    ]
    # A list whose items are wrong is said to be too short as well.
    places = {path[:length] for path, _ in own for length in range(len(path))}
    return _error([*(each for each in own if each[0] not in places), *found])


def _error(found: Sequence[Problem]) -> ValidationError:
    details = [InitErrorDetails(type=_kind(text), loc=path, input=None) for path, text in found]
    return ValidationError.from_exception_data("plan", details)


def _kind(text: str) -> str | PydanticCustomError:
    return text if text == MISSING else PydanticCustomError("plan", "{text}", {"text": text})
