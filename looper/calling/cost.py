"""What a run may cost at the most, known before it begins: every algorithm says its plan, and this adds it up."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from looper.calling.budget import MIN_OUTPUT, Amount, Budget, Floor, Limit, Limits, cost
from looper.calling.calls import Role
from looper.calling.models import Model

PROMPT_TOKENS = 1000
"""The size of a request for which costs are stated, unless another one is asked for."""

_INSTRUCTIONS = 1000
"""Tokens, generously, of what we say around the answers of others."""


Need = Literal["always", "perhaps", "spare"]
"""When a planned call is made: in every run that goes well; only if something fails, is slow or calls for more; or
only if the budget has more than the plan, as for re-asks and repairs (a draft that is `extra`)."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call that a run may come to make.

    `models` is whom it may go to: one of them, and nobody can say before which; none, if it goes to no model. `reads`
    is how many answers of calls before it in the plan stand in its prompt. `output` is the stage's own limit, if it
    has one.
    """

    models: tuple[str, ...]
    role: Role
    reads: int = 0
    output: int | None = None
    need: Need = "always"
    stands_in: bool = False
    """Whether it is made beside another planned call, or in its place."""


Plan = Sequence[PlannedCall]
"""The calls of an algorithm, in the order of its stages, with everything that may happen in it."""


def planned_calls(plan: Plan) -> int:
    """How many calls a budget keeps room for: all but Envoy's retries and the spare ones."""
    return sum(call.need != "spare" for call in plan)


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most that one run may take. `tokens` and `microusd` are None where nothing bounds them.

    `spare` are the calls on top of `calls` that are made only if the budget has room for them, Envoy's retries among
    them. What has no price is counted as free, and named.
    """

    calls: int
    spare: int
    tokens: int | None
    microusd: Decimal | None
    unbounded: tuple[str, ...]
    unpriced: tuple[str, ...]

    def over(self, budget: Budget) -> tuple[Limit, ...]:
        """The limits of `budget` that have no room for it."""
        limits = Limits.of(budget)
        pairs: tuple[tuple[Limit, Decimal | int | None, Decimal | int | None], ...] = (
            ("calls", self.calls, limits.calls),
            ("tokens", self.tokens, limits.tokens),
            ("cost_usd", self.microusd, limits.microusd),
        )
        return tuple(
            name
            for name, most, limit in pairs
            if limit is not None and (most is None or most > limit)
        )


def worst_case(
    plan: Plan, models: Mapping[str, Model], *, prompt_tokens: int = PROMPT_TOKENS
) -> WorstCase:
    """What `plan` takes if all of it happens, each call goes to its dearest model and says as much as it may.

    An answer that another call reads is taken to be as long as the longest before it; a prompt is never longer than
    its reader's context window, to which evidence is cut. Each choice of a client that asks for several is not counted.
    """
    tokens, microusd, longest = 0, Decimal(0), 0
    unbounded: dict[str, None] = {}
    for call in plan:
        sizes = [_Size.of(call, models[name], prompt_tokens, longest) for name in call.models]
        unbounded |= {size.model.name: None for size in sizes if size.output is None}
        tokens += max((size.tokens for size in sizes), default=0)
        microusd += max((size.microusd for size in sizes), default=Decimal(0))
        longest = max([longest, *(size.output or 0 for size in sizes)])
    named = {name: models[name] for call in plan for name in call.models}
    charged = [name for name in unbounded if named[name].price is not None]
    return WorstCase(
        calls=planned_calls(plan),
        spare=sum(_spare(call, named) for call in plan),
        tokens=None if unbounded else tokens,
        microusd=None if charged else microusd,
        unbounded=tuple(unbounded),
        unpriced=tuple(name for name, model in named.items() if model.price is None),
    )


def floors(
    plan: Plan, models: Mapping[str, Model], prompt_tokens: int, answer: int = MIN_OUTPUT
) -> list[Floor]:
    """What a budget keeps for each planned call: a prompt of so many tokens and the shortest answer worth its call.

    Nothing for what is made only if something fails, or if there is enough: that has what is left.
    """
    return [
        Floor(
            call.role,
            max(_floors(call, models, prompt_tokens, answer), key=lambda each: each.microusd),
        )
        for call in plan
        if call.models and call.need != "spare" and not call.stands_in
    ]


def _floors(
    call: PlannedCall, models: Mapping[str, Model], prompt_tokens: int, answer: int
) -> Iterator[Amount]:
    for name in call.models:
        model = models[name]
        bounds = (answer, call.output, model.max_output)
        output = min(bound for bound in bounds if bound is not None)
        yield Amount(1, prompt_tokens + output, cost(model, prompt_tokens, output))


def total(kept: Iterable[Floor]) -> Amount:
    """All of it together."""
    return sum((floor.amount for floor in kept), Amount())


def least(plan: Plan, models: Mapping[str, Model]) -> Amount:
    """What a run takes that goes well, with no prompt to speak of and the shortest answers that are worth a call."""
    total = Amount()
    for call in plan:
        if call.need == "always":
            amounts = [_least(call, models[name]) for name in call.models]
            tokens = min(amount.tokens for amount in amounts)
            total += Amount(1, tokens, min(amount.microusd for amount in amounts))
    return total


def _least(call: PlannedCall, model: Model) -> Amount:
    bounds = (MIN_OUTPUT, call.output, model.max_output)
    output = min(bound for bound in bounds if bound is not None)
    return Amount(1, output, cost(model, 0, output))


def _spare(call: PlannedCall, models: Mapping[str, Model]) -> int:
    retries = max((models[name].retry.attempts for name in call.models), default=0)
    return retries + (call.need == "spare")


def usd(microusd: Decimal) -> Decimal:
    """Micro-USD as USD, rounded up to a millionth."""
    return Decimal(math.ceil(microusd)) / 1_000_000


@dataclass(frozen=True, slots=True)
class _Size:
    """One planned call, to one model, at its largest."""

    model: Model
    input: int
    output: int | None

    @classmethod
    def of(cls, call: PlannedCall, model: Model, prompt: int, answer: int) -> "_Size":
        read = call.reads * answer + _INSTRUCTIONS if call.reads else 0
        window = model.context_window
        bounds = [call.output, model.max_output or window]
        return cls(
            model,
            prompt + read if window is None else min(prompt + read, window),
            min((bound for bound in bounds if bound is not None), default=None),
        )

    @property
    def tokens(self) -> int:
        return self.input + (self.output or 0)

    @property
    def microusd(self) -> Decimal:
        return cost(self.model, self.input, self.output or 0)
