"""A decision's plan beside its budget: what is known to be too little before any request comes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from extproc.decisions.recipe import Decision
from looper.calling.budget import Floor, Limit, Limits
from looper.calling.cost import PROMPT_TOKENS, WorstCase, floors, least, total, usd, worst_case
from looper.calling.models import Model
from looper.wire.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class TooSmall:
    """A limit with no room for even a run in which nothing goes wrong, and what that takes without any prompt."""

    limit: Limit
    needed: str


def too_small(decision: Decision, models: Mapping[str, Model]) -> TooSmall | None:
    """The first limit that is; None too if a model does not exist."""
    plan = decision.planned()
    if decision.loop is None or not models.keys() >= _asked(decision):
        return None
    needed = least(plan, models)
    limit = Limits.of(decision.budget).exceeded(needed)
    sums = {
        "calls": f"{needed.calls}",
        "tokens": f"{needed.tokens}, and the prompts",
        "cost_usd": f"{usd(needed.microusd):f}, and what the prompts cost",
    }
    return None if limit is None else TooSmall(limit, sums[limit])


def kept(decision: Decision, models: Mapping[str, Model], request: ChatRequest) -> list[Floor]:
    """What a run keeps for each call of its plan, where it counts tokens or money."""
    budget = decision.budget
    if budget.tokens is None and budget.cost_usd is None:
        return []
    return floors(decision.planned(), models, request.prompt_tokens)


def over_budget(decision: Decision, models: Mapping[str, Model]) -> Iterator[str]:
    """What a run may need and its budget does not have, so that it may have to end with less."""
    if decision.loop is None:
        return
    worst = worst_case(decision.planned(), models)
    yield from _too_little(decision, worst)
    yield from _few(decision, models)
    if decision.budget.cost_usd is not None and worst.unpriced:
        yield f"its budget is in money, and has no price for {', '.join(worst.unpriced)}"


def _too_little(decision: Decision, worst: WorstCase) -> Iterator[str]:
    budget, prompt = decision.budget, f"for a prompt of {PROMPT_TOKENS} tokens"
    for limit in worst.over(budget):
        match limit:
            case "calls":
                yield f"may need {worst.calls} calls, and its budget has {budget.calls}"
            case "tokens" if worst.tokens is not None:
                yield f"may need {worst.tokens} tokens {prompt}, and its budget has {budget.tokens}"
            case "cost_usd" if worst.microusd is not None:
                most = f"{usd(worst.microusd):f}"
                yield f"may cost {most} USD {prompt}, and its budget has {budget.cost_usd:f}"
            case _:
                models = ", ".join(worst.unbounded)
                yield f"only its budget of {limit} bounds what these models answer: {models}"


_ANSWER_TOKENS = 1000


def _few(decision: Decision, models: Mapping[str, Model]) -> Iterator[str]:
    """How many of those who answer first a budget can pay, if that is not all of them."""
    plan = [call for call in decision.planned() if call.need == "always" and not call.stands_in]
    first = [call for call in plan if call.role == plan[0].role]
    behind = total(floors(plan[len(first) :], models, PROMPT_TOKENS))
    left = replace(Limits.of(decision.budget), calls=None).less(behind)
    sums = (
        total(floors(first[:number], models, PROMPT_TOKENS, _ANSWER_TOKENS))
        for number in range(1, len(first) + 1)
    )
    paid = sum(left.exceeded(each) is None for each in sums)
    if paid < len(first):
        yield (
            f"its budget pays for {paid} of {len(first)} calls of role {plan[0].role} with "
            f"{PROMPT_TOKENS} tokens of prompt and {_ANSWER_TOKENS} of answer each"
        )


def _asked(decision: Decision) -> set[str]:
    return {name for call in decision.planned() for name in call.models}
