"""Which of the workers' answers comes first where no final model writes one."""

from collections.abc import Mapping, Sequence
from typing import Any

from looper.calling.calls import Result
from looper.calling.models import Model
from looper.contract import Contract
from looper.patterns.workflows.board import Agent, Board
from looper.patterns.workflows.plan import seen
from looper.voting import rated
from looper.voting.votes import Vote, value_of

Standing = Sequence[tuple[Agent, Result]]
"""Workers with their answers, best first."""


def standing(board: Board, models: Mapping[str, Model], contract: Contract[Any] | None) -> Standing:
    """The answers that could be published: not rejected, in a later step, of a better model.

    Where a contract compares what they say, they vote: those who were not rejected, and of these none whose answer a
    later one has taken up.
    """
    answered = [
        (agent, Result(models[agent.model], "worker", "ok", agent.answer))
        for agent in board.best(models)
    ]
    if contract is None or not contract.comparable:
        return answered
    speaking = [
        (agent, result)
        for agent, result in answered
        if not board.rejected(agent) and value_of(result, contract) is not None
    ]
    by_worker = {id(result): agent for agent, result in _last_words(board, speaking)}
    voters = [result for _, result in speaking if id(result) in by_worker]
    names = dict.fromkeys(result.model.name for result in voters)
    ratings = {name: models[name].rating_for(None) for name in names}
    vote = Vote.on(voters, rated(ratings), contract)
    rest = [(agent, result) for agent, result in answered if id(result) not in by_worker]
    return [*((by_worker[id(result)], result) for result in vote.ranked()), *rest]


def _last_words(board: Board, speaking: Standing) -> Standing:
    """Without those whose answer somebody has seen who says something too."""
    ids = {agent.id for agent, _ in speaking}
    taken_up = {
        other
        for step in board.steps
        if ids.intersection(step.agents)
        for other in seen(step.sees, step.needs, board.steps)
    }
    return [(agent, result) for agent, result in speaking if agent.id not in taken_up]
