"""What each decision of a configuration may cost at the most, as data and as a table for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from extproc.config import Config
from extproc.decisions.recipe import Decision
from looper.calling.budget import Limit
from looper.calling.cost import WorstCase, least, usd, worst_case
from looper.calling.models import Model


@dataclass(frozen=True, slots=True)
class DecisionCost:
    """One decision. `least` are the calls of a run in which all goes well; `over` are the limits that may not do."""

    recipe: str
    decision: str
    algorithm: str
    least: int
    worst: WorstCase
    budget: Mapping[Limit, int | str]
    over: tuple[Limit, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, money as text: no digit of it is lost."""
        facts = asdict(self)
        worst = facts.pop("worst")
        micro = worst.pop("microusd")
        cost = None if micro is None else f"{usd(micro):f}"
        return {**facts, **worst, "cost_usd": cost}


def costs(config: Config, prompt_tokens: int) -> list[DecisionCost]:
    """Every decision in which a model answers, for requests of this size."""
    models = {model.name: model for model in config.models}
    return [
        _cost(name, decision, models, prompt_tokens)
        for name, recipe in config.recipes.items()
        for decision in recipe.decisions
        if decision.algorithm is not None
    ]


def _cost(
    recipe: str, decision: Decision, models: Mapping[str, Model], prompt_tokens: int
) -> DecisionCost:
    plan = decision.planned()
    worst = worst_case(plan, models, prompt_tokens=prompt_tokens)
    # What Envoy routes by itself is one call, whatever the budget says.
    budget = dict(_limits(decision)) if decision.loop is not None else {}
    return DecisionCost(
        recipe=recipe,
        decision=decision.name,
        algorithm=decision.label,
        least=least(plan, models).calls,
        worst=worst,
        budget=budget,
        over=worst.over(decision.budget) if budget else (),
    )


def _limits(decision: Decision) -> Iterator[tuple[Limit, int | str]]:
    budget = decision.budget
    if budget.calls is not None:
        yield "calls", budget.calls
    if budget.tokens is not None:
        yield "tokens", budget.tokens
    if budget.cost_usd is not None:
        yield "cost_usd", f"{budget.cost_usd:f}"


def as_table(found: Sequence[DecisionCost], prompt_tokens: int) -> Table:
    """A row for each decision. What is over its budget is marked."""
    table = Table(
        title=f"at the most, for a prompt of {prompt_tokens} tokens", title_justify="left"
    )
    for name in ("recipe", "decision", "algorithm"):
        table.add_column(name)
    for name in ("calls", "tokens", "USD"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(each.recipe, each.decision, each.algorithm, *_amounts(each))
    return table


def _amounts(each: DecisionCost) -> Iterator[Text]:
    worst = each.worst
    calls = str(worst.calls) if each.least == worst.calls else f"{each.least}-{worst.calls}"
    yield _cell(f"{calls} +{worst.spare}" if worst.spare else calls, each, "calls")
    yield _cell("no bound" if worst.tokens is None else f"{worst.tokens:,}", each, "tokens")
    money = "no bound" if worst.microusd is None else f"{usd(worst.microusd):.6f}"
    yield _cell(money, each, "cost_usd")


def _cell(amount: str, each: DecisionCost, limit: Limit) -> Text:
    """An amount, and the limit beside it if there is one."""
    allowed = each.budget.get(limit)
    text = Text(amount) if allowed is None else Text(f"{amount} of {allowed}")
    text.stylize("yellow" if limit in each.over else "")
    return text


def notes(found: Sequence[DecisionCost]) -> Iterator[str]:
    """What the numbers leave out."""
    unbounded = dict.fromkeys(name for each in found for name in each.worst.unbounded)
    unpriced = dict.fromkeys(name for each in found for name in each.worst.unpriced)
    if unbounded:
        yield f"no bound: neither `max_output` nor `context_window` is known of {', '.join(unbounded)}"
    if unpriced:
        yield f"counted as free: no `price` is known of {', '.join(unpriced)}"
    if any(each.worst.spare for each in found):
        yield "+n: Envoy's retries, re-asks and repairs, made only if the budget has calls to spare"
