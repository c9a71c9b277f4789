"""The file that `looper calibrate` writes: what was measured of a team, and of what data."""

import datetime
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from looper.settings import Name, Probability, Setting
from looper.settings.files import read
from looper.settings.wording import in_words
from looper.voting.calibration import Calibration, HeldOut
from looper.voting.electorate import Electorate, Voter, heeded, logit

_LARGEST = 4 << 20

Method = Literal[
    "avg_logprob",
    "margin",
    "hybrid",
    "answer_span",
    "self_verify",
    "verifier",
    "automix_entailment",
]
"""What a raw score is made of; named as in `confidence_method`."""

Advice = Literal["vote", "cascade", "use one model", "do not cascade"]
"""What a calibration came to: whether the team is worth its cost at all."""

Rating = Annotated[float, Field(gt=0, lt=1)]


class Provenance(Setting):
    """Where the figures come from."""

    date: datetime.date
    rows: int = Field(ge=1, description="questions with a known answer")
    checksum: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="of the data")
    decision: str | None = None


class Length(Setting):
    """How long a member's answers are: half of them are longer than `typical`, in tokens.

    A length says something of its own: of one model short answers are those it did not think about, of another long
    ones are those it is lost in.
    """

    typical: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    spread: Annotated[float, Field(gt=0, le=10)] = Field(
        description="standard deviation of the natural logarithm"
    )

    def deviation(self, tokens: float) -> float:
        """By how many standard deviations so many tokens are more than usual."""
        return math.log(max(1.0, tokens) / self.typical) / self.spread


class MemberWeights(Setting):
    """What one member's word counts for in one team."""

    weight: FiniteFloat
    votes: bool = True
    rating: Rating = Field(description="how often it was right; silence is not")
    by_category: dict[str, FiniteFloat] = Field(default={}, description="added in a category")
    sureness: FiniteFloat = Field(default=0.0, description="per logit of its calibrated score")
    length: FiniteFloat = Field(
        default=0.0, description="per standard deviation of its answer's length"
    )


class TeamWeights(Setting):
    """A set of members whose answers are weighed together."""

    members: dict[Name, MemberWeights] = Field(min_length=1, max_length=64)
    none_of_these: FiniteFloat
    posterior: Calibration | None = Field(
        default=None, description="what the leader's posterior is worth"
    )
    accept_at: Probability | None = Field(
        default=None, description="confidence from which on a cascade ends with this team"
    )

    def electorate(self, category: str | None = None) -> Electorate:
        voters = {
            name: Voter(
                member.weight + member.by_category.get(category or "", 0.0),
                member.votes,
                member.rating,
                member.sureness,
                member.length,
            )
            for name, member in self.members.items()
        }
        return Electorate(voters, self.none_of_these, self.posterior)


class Weights(Setting):
    """The whole file. A cascade has a team for each of its stages: who was asked until then."""

    version: Literal[1]
    provenance: Provenance
    advice: Advice = "vote"
    scores: dict[Name, dict[Method, Calibration]] = Field(
        default={}, description="what each member's raw scores are worth"
    )
    sureness_from: Method | None = Field(
        default=None, description="the score that `sureness` is about"
    )
    lengths: dict[Name, Length] = Field(default={}, description="how long answers are usually")
    teams: tuple[TeamWeights, ...] = Field(min_length=1, max_length=16)
    held_out: dict[Method | Literal["posterior"], tuple[HeldOut, ...]] = Field(
        default={}, description="what `max_accepted_error` is read off: of each team but the last"
    )

    @model_validator(mode="after")
    def _has_what_it_counts_with(self) -> Self:
        sure = [
            name for team in self.teams for name, member in team.members.items() if member.sureness
        ]
        for name in sure:
            if self.sureness_from is None or self.sureness_from not in self.scores.get(name, {}):
                raise ValueError(f"{name!r} has a sureness, and `scores` has no calibration of it")
        return self

    @model_validator(mode="after")
    def _knows_the_lengths_it_counts_with(self) -> Self:
        for team in self.teams:
            for name, member in team.members.items():
                if member.length and name not in self.lengths:
                    raise ValueError(
                        f"{name!r} has a length, and `lengths` does not say what is usual"
                    )
        return self

    @model_validator(mode="after")
    def _knows_members_only(self) -> Self:
        for known, names in (("scores", self.scores), ("lengths", self.lengths)):
            if strangers := sorted(names.keys() - self.members):
                raise ValueError(f"`{known}` has {strangers[0]!r}, who is in no team")
        return self

    @model_validator(mode="after")
    def _held_out_of_teams(self) -> Self:
        for method, stages in self.held_out.items():
            if len(stages) != len(self.teams) - 1:
                raise ValueError(f"`held_out.{method}` is not about each team but the last")
            if len({len(stage.right) for stage in stages}) > 1:
                raise ValueError(f"stages of `held_out.{method}` have different questions")
        return self

    @property
    def members(self) -> frozenset[str]:
        return frozenset(name for team in self.teams for name in team.members)

    @property
    def categories(self) -> frozenset[str]:
        """Those in which somebody's word counts for more or less than elsewhere."""
        members = (member for team in self.teams for member in team.members.values())
        return frozenset(name for member in members for name in member.by_category)

    def team(self, asked: Iterable[str]) -> TeamWeights:
        """The smallest team that everybody who was asked belongs to; the largest, if there is none."""
        names = set(asked) & self.members
        by_size = sorted(self.teams, key=lambda team: len(team.members))
        return next((team for team in by_size if names <= team.members.keys()), by_size[-1])

    def electorate(self, asked: Iterable[str], category: str | None = None) -> Electorate:
        return self.team(asked).electorate(category)

    def feature(self, member: str, method: Method, score: float | None) -> float | None:
        """How sure a member is beyond what it usually is, in logits, for a ballot; None if nothing is known."""
        calibration = self.scores.get(member, {}).get(method)
        if score is None or calibration is None or method != self.sureness_from:
            return None
        return beyond_usual(calibration, score, self.team([member]).members[member].rating)

    def length(self, member: str, tokens: float | None) -> float | None:
        """By how many standard deviations an answer is longer than usual; None if nothing is known."""
        usual = self.lengths.get(member)
        return None if usual is None or not tokens else usual.deviation(tokens)


def beyond_usual(calibration: Calibration, score: float, usual: float) -> float:
    """In logits, within what a voter heeds: how much likelier to be right than usual an answer with this score is."""
    probability = max(0.01, min(0.99, calibration.probability(score)))
    return heeded(logit(probability) - logit(usual))


class WeightsError(ValueError):
    """A weights file that cannot be used. One line for each problem, each with the file's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_weights(path: Path) -> Weights:
    """Read and check a file. Raises WeightsError with every problem in it."""
    try:
        data = read(path, _LARGEST)
    except FileNotFoundError:
        raise WeightsError(
            [
                f"{path}: cannot be read: No such file; leave `weights` out until `looper calibrate` has written it"
            ]
        ) from None
    except OSError as error:
        raise WeightsError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        return Weights.model_validate(json.loads(data, parse_constant=_no_constant))
    except ValidationError as error:
        raise WeightsError(
            [f"{path}: {_dotted(each['loc'])}: {in_words(each)}" for each in error.errors()]
        ) from None
    except (ValueError, RecursionError):
        raise WeightsError([f"{path}: not JSON"]) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _dotted(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"
