"""How far a workflow has come: its plan, its agents, and what each of them has said and waits for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from looper.calling.models import Model
from looper.contract.base import visible
from looper.patterns.workflows.plan import FINAL, Final, Step, seen, verified
from looper.patterns.workflows.prompts import Shown
from looper.wire.chat import Choice, Completion, Reply, WireUsage
from looper.wire.events import Lack
from looper.wire.model_json import Sentences

Said = Literal["pass", "fail", "unsure"]


class Verdict(BaseModel):
    """What a verifier is asked for."""

    verdict: Said
    reasons: Sentences = []


class Agent(msgspec.Struct):
    """One model at work on one step, with a history that nobody else sees."""

    id: str
    model: str
    told: str = ""
    """What it was told when it began, evidence included."""
    history: list[msgspec.Raw] = []
    """The messages behind that: its own, and what came back from tools or verifiers."""
    turns: int = 0
    """How often the client's tools have answered it."""
    pending: list[dict[str, Any]] = []
    """The calls of tools that it waits for, as its backend wrote them."""
    reply: Reply | None = None
    finish: str | None = None
    used: WireUsage | None = None
    over: bool = False
    revising: bool = False
    sent_back: bool = False
    """Whether it was told to answer once more, which happens once."""
    revised: bool = False
    """Whether it then has."""
    verdict: Said | None = None
    reasons: list[str] = []
    heard: list[str] | None = None
    """Of those that it verifies, who had revised their answers when it last did."""

    @property
    def text(self) -> str:
        """Its answer's content, without thoughts."""
        return visible(self.reply.content or "") if self.reply is not None else ""

    @property
    def is_cut(self) -> bool:
        """Whether its answer ends where its limit does."""
        return self.finish == "length"

    @property
    def answer(self) -> Completion | None:
        """Its answer as it could be published."""
        if self.reply is None:
            return None
        choice = Choice(message=self.reply, finish_reason=self.finish)
        return Completion(choices=[choice], usage=self.used)

    @property
    def state(self) -> str:
        if self.pending:
            return "waiting"
        if not self.over:
            return "working"
        return "done" if self.reply is not None or self.verdict is not None else "failed"

    def waits(self, said: msgspec.Raw, calls: list[dict[str, Any]]) -> None:
        """It has called tools, with this message, and goes on when the client has told what came of them."""
        self.history.append(said)
        self.pending = calls

    def fails(self) -> None:
        """It will say nothing more; a revision that failed leaves its answer as it was."""
        self.revising, self.over = False, True

    def answers(self, completion: Completion) -> None:
        choice = completion.choices[0]
        self.reply, self.finish, self.used = choice.message, choice.finish_reason, completion.usage
        self.over = True
        self.revised, self.revising = self.revised or self.revising, False


@dataclass(slots=True)
class Board:
    """A workflow under way. `steps` are in an order in which they could be worked on one by one."""

    steps: Sequence[Step]
    final: Final
    planned: bool = False
    """Whether a planner wrote the steps: then their ids, too, are words of the conversation."""
    degraded: bool = False
    agents: dict[str, Agent] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    turns: int = 0
    """How often the client's tools have answered the run."""

    def of(self, step: Step) -> list[Agent]:
        """The agents of a step that has begun."""
        return [self.agents[id] for id in step.agents if id in self.agents]

    def over(self, step: Step) -> bool:
        """Whether a step's agents have said all that they will."""
        agents = self.of(step)
        return step.id in self.skipped or (bool(agents) and all(agent.over for agent in agents))

    def failed(self, step: Step) -> bool:
        """Whether nothing has come of a step that is over."""
        return self.over(step) and all(agent.state == "failed" for agent in self.of(step))

    def verified(self, verifier: Step) -> list[tuple[Agent, Step]]:
        """Those with an answer that a verifier stands for, each with its step."""
        ids = verified(verifier, self.steps)
        return [
            (agent, step)
            for step in self.steps
            for agent in self.of(step)
            if agent.id in ids and agent.text.strip()
        ]

    def calls_left(self, *, revises: bool) -> int:
        """How many calls it still takes: of agents without an answer, for what may be revised, of the final model."""
        ids = [id for step in self.steps if not self.over(step) for id in step.agents]
        open = [id for id in ids if id not in self.agents or not self.agents[id].over]
        return len(open) + sum(map(self._revisions_left, self.steps)) * revises + 1

    def _revisions_left(self, step: Step) -> int:
        if step.role != "verifier" or self.over(step):
            return 0
        known = [self.agents.get(id) for id in verified(step, self.steps)]
        return len(step.models) + sum(
            agent is None or agent.revising or not agent.sent_back for agent in known
        )

    @property
    def waiting(self) -> list[Agent]:
        """The agents that wait for tools, in the plan's order."""
        return [agent for agent in self.agents.values() if agent.pending]

    @property
    def lack(self) -> Lack | None:
        """What an answer lacks that is written now."""
        agents = self.agents.values()
        if self.degraded:
            return "planner"
        if self.skipped:
            return "step"
        if any(agent.state == "failed" for agent in agents):
            return "failed"
        doubted = any(agent.verdict in ("fail", "unsure") for agent in agents)
        return "verifier" if doubted else None

    def shown_to(self, needs: Sequence[str], sees: Sequence[str] | None) -> list[Shown]:
        """What whoever needs and sees this is shown."""
        agents = (self.agents[id] for id in seen(sees, needs, self.steps) if id in self.agents)
        return list(_shown(agents))

    def shown_to_final(self) -> list[Shown]:
        return self.shown_to([step.id for step in self.steps], self.final.sees)

    def best(self, models: Mapping[str, Model]) -> list[Agent]:
        """Workers with an answer, best first: not rejected, whole, in a later step, of a better model."""
        found = [
            (self.rejected(agent), agent.is_cut, -at, -models[agent.model].general_rating, agent)
            for at, step in enumerate(self.steps)
            for agent in self.of(step)
            if step.role == "worker" and agent.text.strip()
        ]
        return [agent for *_, agent in sorted(found, key=lambda each: each[:4])]

    def rejected(self, worker: Agent) -> bool:
        """Whether a verifier says that its answer is wrong."""
        return any(
            agent.verdict == "fail"
            for verifier in self.steps
            if verifier.role == "verifier" and worker.id in verified(verifier, self.steps)
            for agent in self.of(verifier)
        )

    def name(self, id: str) -> str:
        """What a trace calls a step or an agent, which must be no word of the conversation."""
        step, _, number = id.partition(".")
        if not self.planned or step == FINAL:
            return id
        place = next(at for at, each in enumerate(self.steps, 1) if each.id == step)
        return f"step{place}.{number}" if number else f"step{place}"

    def describe(self, *, full: bool = False) -> dict[str, Any]:
        """Plan and agents as a trace shows them: nothing of what was said, unless it is `full`."""
        told = {step.id: {"prompt": step.prompt} for step in self.steps if full and step.prompt}
        return {
            "plan": [self._plain(step) | told.get(step.id, {}) for step in self.steps],
            "agents": [self._plain_agent(agent) for agent in self.agents.values()],
            "turns": self.turns,
        }

    def _plain(self, step: Step) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "step": self.name(step.id),
            "role": step.role,
            "models": list(step.models),
            "needs": [self.name(need) for need in step.needs],
        }
        if step.sees is not None:
            plain["sees"] = [self.name(each) for each in step.sees]
        if step.id in self.skipped:
            plain["skipped"] = True
        return plain

    def _plain_agent(self, agent: Agent) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "agent": self.name(agent.id),
            "model": agent.model,
            "state": agent.state,
            "turns": agent.turns,
        }
        if agent.revised:
            plain["revised"] = True
        if agent.verdict is not None:
            plain["verdict"] = agent.verdict
        return plain


def _shown(agents: Iterable[Agent]) -> Iterator[Shown]:
    for agent in agents:
        if agent.verdict is not None:
            text = "\n".join([agent.verdict, *(f"- {reason}" for reason in agent.reasons)])
            yield Shown(f"the verdict of {agent.id}", text)
        elif agent.text.strip():
            end = ", cut off: its end is missing" if agent.is_cut else ""
            yield Shown(f"the answer of {agent.id}{end}", agent.text)
