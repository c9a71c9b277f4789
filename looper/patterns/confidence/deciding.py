"""Whether what was said so far is sure enough, and what is best of it if nothing is."""

from looper.calling.failures import why_no_answer
from looper.patterns.confidence.climb import Climb, Ranking, by_score
from looper.patterns.confidence.grading import grounds_of, verdict
from looper.patterns.confidence.settings import ConfidenceSettings
from looper.run import Run
from looper.voting import similarity
from looper.voting.scoring import agreement
from looper.voting.votes import TEXT, Vote
from looper.wire.events import Grounds

_ALIKE = 0.8
"""Free texts of at least this likeness say the same."""


class Deciding:
    """Weighs a pool as a chain's settings say."""

    def __init__(self, config: ConfidenceSettings) -> None:
        self._config = config

    def sure_enough(self, climb: Climb) -> Ranking | None:
        """What has been said by now, if it is sure enough to be published."""
        match self._config.method_for(climb.run.terms.contract):
            case "posterior":
                return self._by_posterior(climb)
            case "agreement":
                return self._by_agreement(climb)
            case _:
                passing = by_score([each for each in climb.pool if each.passes])
                others = by_score([each for each in climb.pool if not each.passes])
                if not passing:
                    return None
                return Ranking([*passing, *others], passing[0].worth, passing[0].grounds)

    def best(self, climb: Climb) -> Ranking:
        """The best of what was said, though none of it is sure enough: by everybody's vote, else by score."""
        answered = by_score(climb.pool)
        if not answered:
            raise why_no_answer(climb.results)
        climb.run.trace.note("no stage was sure enough: the best of their answers is published")
        if all(each.value is None for each in answered):
            return Ranking(answered, None)
        vote = self._vote(climb)
        if vote.comparable:
            bar = self._config.bar_for_pool([each.draft.model.name for each in climb.pool])
            return _ranking(climb, vote, vote.verdict.confidence, grounds_of("posterior", bar.at))
        if self._config.method_for(climb.run.terms.contract) == "agreement":
            return _ranking(climb, vote, _agreement(vote), Grounds("agreement"))
        return Ranking(answered, answered[0].worth, answered[0].grounds)

    def _vote(self, climb: Climb) -> Vote:
        """The vote on all that was said so far: no stage's word is lost."""
        asked = [each.draft.model.name for each in climb.pool]
        contract = climb.run.terms.contract
        electorate = self._config.electorate(
            asked,
            climb.run.models,
            category=climb.run.bands.get(self._config.category or ""),
        )
        return Vote.on(climb.results, electorate, contract, asked, self._config.about)

    def _by_posterior(self, climb: Climb) -> Ranking | None:
        vote = self._vote(climb)
        if not vote.verdict.groups:
            return None
        bar = self._config.bar_for_pool([each.draft.model.name for each in climb.pool])
        worth, grounds = vote.verdict.confidence, grounds_of("posterior", bar.at)
        passes = worth >= bar.at
        _note(vote, worth, grounds, climb.run, passes=passes)
        return _ranking(climb, vote, worth, grounds) if passes else None

    def _by_agreement(self, climb: Climb) -> Ranking | None:
        vote = self._vote(climb)
        share = _agreement(vote)
        if share is None:
            return None
        bar = self._config.bar_for_agreement
        passes, grounds = share >= bar.at, grounds_of("agreement", bar.at)
        _note(vote, share, grounds, climb.run, passes=passes)
        return _ranking(climb, vote, share, grounds) if passes else None


def _note(vote: Vote, sure: float, grounds: Grounds, run: Run, *, passes: bool) -> None:
    """Put in the trace what the vote came to: of each answer that says what the leader does, and of the others."""
    run.trace.voted(vote.told())
    if grounds.threshold is not None:
        run.trace.checked(grounds.method, sure, grounds.threshold, enough=passes)
    followed = verdict(passes, grounds)
    leading = {id(each) for each in next(vote.groups(), [])}
    for each, value in zip(vote.results, vote.values, strict=True):
        if value is None:
            run.trace.score(each, None, "silent")
        elif id(each) in leading:
            run.trace.score(each, sure, followed)
        else:
            run.trace.score(each, vote.probability(value), "other")


def _ranking(climb: Climb, vote: Vote, sure: float | None, grounds: Grounds) -> Ranking:
    of = {id(each.result): each for each in climb.pool}
    return Ranking([of[id(each)] for each in vote.ranked()], sure, grounds)


def _agreement(vote: Vote) -> float | None:
    """The share of those who speak that agree with the leader. Texts that nothing compares agree in their words."""
    spoken = [
        (each, value)
        for each, value in zip(vote.results, vote.values, strict=True)
        if value is not None
    ]
    if not spoken:
        return None
    leading = next(vote.groups())
    if not vote.is_text(leading[0]):
        return agreement(len(leading), len(spoken))
    text = leading[0].text
    alike = [
        each for each, value in spoken if value is TEXT and similarity(each.text, text) >= _ALIKE
    ]
    return agreement(len(alike), len(spoken))
