"""A decision's plan beside its budget: what is known to be too little before any request comes."""

from collections.abc import Iterator, Mapping

from extproc.decisions.recipe import Decision
from looper.calling.budget import Limit, Limits
from looper.calling.cost import PROMPT_TOKENS, WorstCase, least, usd, worst_case
from looper.calling.models import Model


def too_small(decision: Decision, models: Mapping[str, Model]) -> Limit | None:
    """The limit with no room for even a run in which nothing goes wrong; None too if a model does not exist."""
    plan = decision.planned()
    if decision.loop is None or not models.keys() >= _asked(decision):
        return None
    return Limits.of(decision.budget).exceeded(least(plan, models))


def over_budget(decision: Decision, models: Mapping[str, Model]) -> Iterator[str]:
    """What a run may need and its budget does not have, so that it may have to end with less."""
    if decision.loop is None:
        return
    worst = worst_case(decision.planned(), models)
    yield from _too_little(decision, worst)
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


def _asked(decision: Decision) -> set[str]:
    return {name for call in decision.planned() for name in call.models}
