"""A board as it is kept while its run waits for the client's tools."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import ValidationError

from looper.errors import OTHER_VERSION, StateOutdated
from looper.patterns.workflows.board import Agent, Board
from looper.patterns.workflows.plan import Final, TimedStep
from looper.wire.chat import ChatRequest


class Saved(msgspec.Struct, frozen=True):
    """What a run needs to go on, and nothing of the request but its conversation: the rest comes again."""

    messages: msgspec.Raw
    fence: str
    steps: list[dict[str, Any]]
    final: dict[str, Any]
    planned: bool
    degraded: bool
    agents: list[Agent]
    skipped: list[str]
    turns: int
    waiting: dict[str, tuple[str, str]]
    """By the id that the client has: whose call it was, and its own id."""

    @classmethod
    def of(
        cls,
        board: Board,
        request: ChatRequest,
        fence: str,
        waiting: Mapping[str, tuple[str, str]],
    ) -> "Saved":
        return cls(
            messages=request.members["messages"],
            fence=fence,
            steps=[step.model_dump(mode="json") for step in board.steps],
            final=board.final.model_dump(mode="json"),
            planned=board.planned,
            degraded=board.degraded,
            agents=list(board.agents.values()),
            skipped=sorted(board.skipped),
            turns=board.turns,
            waiting=dict(waiting),
        )

    @property
    def models(self) -> set[str]:
        """The models of its plan, whose answers it has or may still ask for."""
        return {name for step in self.steps for name in step["models"]} | {self.final["model"]}

    def board(self) -> Board:
        return Board(
            steps=[TimedStep.model_validate(step) for step in self.steps],
            final=Final.model_validate(self.final),
            planned=self.planned,
            degraded=self.degraded,
            agents={agent.id: agent for agent in self.agents},
            skipped=set(self.skipped),
            turns=self.turns,
        )


_saved = msgspec.json.Decoder(Saved)


def load(work: msgspec.Raw) -> Saved:
    """Raises StateOutdated for what another version of this program has kept, and this one cannot read."""
    try:
        saved = _saved.decode(work)
        saved.board()
    except (msgspec.DecodeError, ValidationError):
        raise StateOutdated(OTHER_VERSION) from None
    return saved


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A message that answers a call of a tool: its id, and its members as the client sent them."""

    id: str
    message: Mapping[str, msgspec.Raw]

    def to(self, id: str) -> msgspec.Raw:
        """The same for whoever knows the call by another id."""
        changed = {**self.message, "tool_call_id": msgspec.Raw(msgspec.json.encode(id))}
        return msgspec.Raw(msgspec.json.encode(changed))


_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def tool_results(request: ChatRequest) -> list[ToolResult]:
    """The answers of tools that a conversation ends with, in their order."""
    count = 0
    for message in reversed(request.messages):
        if message.role != "tool":
            break
        count += 1
    if not count:
        return []
    return [
        ToolResult(_id(message), message)
        for message in _messages.decode(request.members["messages"])[-count:]
    ]


def _id(message: Mapping[str, msgspec.Raw]) -> str:
    try:
        return msgspec.json.decode(message.get("tool_call_id", b'""'), type=str)
    except msgspec.DecodeError:
        return ""
