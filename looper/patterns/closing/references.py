"""What a later prompt shows of a round's answers: one for each thing that was said, and how many said it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from pydantic import Field

from looper.calling.calls import Result
from looper.calling.models import Model
from looper.patterns.closing.evidence import fenced, marked, room, said
from looper.settings import Setting, Tokens
from looper.voting.votes import Vote
from looper.wire.chat import ChatRequest
from looper.wire.tokens import tail


class Compaction(Setting):
    """How much of the answers is shown."""

    compaction_strategy: Literal["full", "last_n_tokens"] = Field(
        default="full", description="what the next round sees of an answer"
    )
    compaction_tokens: Tokens = Field(default=1000, description="of `last_n_tokens`")
    max_responses_per_round: int | None = Field(
        default=None, ge=1, description="answers that the next round sees; distinct ones always"
    )
    include_reasoning: bool = Field(default=False, description="show what proposers thought, too")

    @property
    def is_uncut(self) -> bool:
        """Whether a number of tokens is given to which nothing is cut."""
        return self.compaction_strategy == "full" and "compaction_tokens" in self.model_fields_set


@dataclass(frozen=True, slots=True)
class References:
    """Answers in the order in which a prompt shows them, with how many are behind each."""

    shown: Sequence[Result]
    counts: Sequence[int]

    @classmethod
    def of(cls, vote: Vote, settings: Compaction, random: Random) -> "References":
        """A representative of each group, in random order.

        What says something of its own is always kept; of texts that nothing compares there are as many as
        `max_responses_per_round` allows.
        """
        groups = vote.voices()
        texts = [group for group in groups if vote.is_text(group[0]) or group[0].is_cut]
        surplus = (
            []
            if settings.max_responses_per_round is None
            else texts[settings.max_responses_per_round :]
        )
        groups = [group for group in groups if group not in surplus]
        random.shuffle(groups)
        thoughts = _thoughts(vote) if settings.include_reasoning else []
        return cls(
            [*(group[0] for group in groups), *thoughts],
            [*(len(group) for group in groups), *(1 for _ in thoughts)],
        )

    def answers(self) -> "References":
        """Without those that thought and did not answer, and those that were cut, where others are whole."""
        pairs = [
            pair for pair in zip(self.shown, self.counts, strict=True) if pair[0].state == "ok"
        ]
        pairs = [pair for pair in pairs if not pair[0].is_cut] or pairs
        return References([result for result, _ in pairs], [count for _, count in pairs])

    def text(
        self,
        request: ChatRequest,
        reader: Model,
        settings: Compaction,
        fence: str,
        *,
        less: bool = False,
    ) -> str:
        """The references as `reader` gets them: numbered, fenced, cut to what its window has room for, or to less."""
        counts = ["" if count == 1 else f" (and {count - 1} more like it)" for count in self.counts]
        notes = [marked(each, count) for each, count in zip(self.shown, counts, strict=True)]
        texts = [_compact(result, settings) for result in self.shown]
        space = room(request, reader)
        return fenced(texts, fence, room=space, label="reference", notes=notes, less=less)


def _thoughts(vote: Vote) -> list[Result]:
    """Those that thought and did not answer: they may inform, and are never published."""
    return [each for each in vote.results if each.state == "unusable" and each.thoughts]


def _compact(result: Result, settings: Compaction) -> str:
    text = said(result).strip()
    if settings.include_reasoning and result.thoughts:
        text = f"(thoughts)\n{result.thoughts.strip()}\n(answer)\n{text or 'none'}"
    if settings.compaction_strategy == "last_n_tokens":
        return tail(text, settings.compaction_tokens)
    return text
