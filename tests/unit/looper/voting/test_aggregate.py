import itertools
import math
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.contract.base import FREE
from looper.voting import (
    Ballot,
    Electorate,
    Features,
    Outstanding,
    Voter,
    decide,
    group,
    majority_certainty,
    rated,
    settled,
)
from looper.voting.electorate import Assumed
from looper.voting.medoid import Text, medoid, similarity

MEMBERS = "abcdef"


def equal(a: int, b: int) -> bool:
    return a == b


def near(a: int, b: int) -> bool:
    return abs(a - b) <= 1


def ballots(*said: tuple[str, int | None], **settings: Any) -> list[Ballot[int]]:
    return [Ballot(member, value, **settings) for member, value in said]


def team(**weights: float) -> Electorate:
    return Electorate({name: Voter(weight) for name, weight in weights.items()}, 0.0)


# --- Ratings to weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratings", "weights"),
    [
        pytest.param({"a": 0.8}, {"a": 3.465736}, id="ln-4-times-8"),
        pytest.param({"a": None}, {"a": 2.079442}, id="unknown-is-a-half"),
        # 2 (ln 32 - 2 ln 32 / 3) of each
        pytest.param({"a": 0.8, "b": None}, {"a": 2.310491, "b": 2.310491}, id="unknown-is-lowest"),
        # ln 32 = 3.465736 and ln(56/3) = 2.926739, a third of the sum 2.130825, times 2
        pytest.param(
            {"a": 0.8, "b": 0.7}, {"a": 2.669822, "b": 1.591828}, id="without-what-is-common"
        ),
        pytest.param({"a": 0.05}, {"a": 0.01}, id="floor"),
        # without c two of ln 16 = 2.772589 and ln 8: thirds of the sum 4.852030, times 2; c's ln(8/9) is the floor
        pytest.param(
            {"a": 2 / 3, "b": 0.5, "c": 0.1},
            {"a": 2.310491, "b": 0.924196, "c": 0.005},
            id="who-adds-nothing-keeps-a-share",
        ),
    ],
)
def test_weights_of_ratings(ratings: dict[str, float | None], weights: dict[str, float]) -> None:
    found = rated(ratings).voters
    assert {name: voter.weight for name, voter in found.items()} == pytest.approx(weights, abs=1e-6)


@pytest.mark.parametrize(
    ("ratings", "voting"),
    [
        pytest.param({"a": 0.5, "b": 0.5}, "ab", id="equals"),
        pytest.param({"a": 0.74, "b": 0.6, "c": 0.56}, "abc", id="who-adds-a-little"),
        pytest.param({"a": 0.74, "b": 0.6, "c": 0.4}, "ab", id="who-adds-nothing"),
        pytest.param({"a": 0.998, "b": 0.6}, "a", id="one-far-ahead"),
        pytest.param({"a": 1.0, "b": 0.99}, "ab", id="never-wrong"),
    ],
)
def test_who_adds_something_votes(ratings: dict[str, float], voting: str) -> None:
    found = rated(ratings)
    assert {name for name, voter in found.voters.items() if voter.votes} == set(voting)


@pytest.mark.parametrize(
    ("ratings", "dominant"),
    [
        pytest.param({"a": 0.95, "b": 0.6, "c": 0.6, "d": 0.5}, "a", id="outweighs-all-others"),
        pytest.param({"a": 0.74, "b": 0.72, "c": 0.7}, None, id="peers"),
        pytest.param({"a": 0.8, "b": 0.7}, "a", id="the-better-of-two"),
        pytest.param({"a": 0.7, "b": 0.7}, None, id="equals"),
        pytest.param({"a": 0.7}, None, id="alone"),
    ],
)
def test_who_outweighs_the_others_together(ratings: dict[str, float], dominant: str | None) -> None:
    assert rated(ratings).dominant == dominant


SOME_RATINGS = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@given(SOME_RATINGS, st.floats(0, 0.95))
def test_a_better_rating_is_never_worth_less(ratings: list[float], common: float) -> None:
    names = [str(at) for at in range(len(ratings))]
    voters = rated(dict(zip(names, ratings, strict=True)), Assumed(common=common)).voters
    by_rating = sorted(voters.values(), key=lambda voter: voter.rating)
    assert by_rating[-1].votes
    voting = [voter for voter in by_rating if voter.votes]
    assert [voter.weight for voter in voting] == sorted(voter.weight for voter in voting)
    assert [voter.votes for voter in by_rating] == sorted(voter.votes for voter in by_rating)


@given(SOME_RATINGS)
def test_with_nothing_in_common_odds_are_added_up(ratings: list[float]) -> None:
    names = [str(at) for at in range(len(ratings))]
    alone = [
        rated({name: rating})[name].weight for name, rating in zip(names, ratings, strict=True)
    ]
    voters = rated(dict(zip(names, ratings, strict=True)), Assumed(common=0.0)).voters
    assert [voter.weight for voter in voters.values()] == pytest.approx(alone)


@pytest.mark.parametrize("others", [2, 4, 9])
def test_many_that_are_a_little_worse_outvote_the_best_only_together(others: int) -> None:
    """Members that err together: four of 36 % beside one of 48 % are no four times as much word as one."""
    names = [f"m{at}" for at in range(others)]
    voters = rated({"best": 0.48, **dict.fromkeys(names, 0.36)})
    against = voters[names[0]].weight * others
    assert voters["best"].weight > against * 0.6
    assert voters["best"].weight > voters[names[0]].weight * min(2, others)


# --- The posterior ----------------------------------------------------------------------------------


def test_a_member_alone_is_right_as_often_as_its_rating_says() -> None:
    assert decide(ballots(("a", 1)), rated({"a": 0.7}), equal).confidence == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("weights", "bias", "said", "posteriors", "none"),
    [
        # e², e¹ and e⁰: 7.389056 + 2.718282 + 1 = 11.107338
        pytest.param(
            {"a": 2, "b": 1},
            0,
            [("a", 1), ("b", 2)],
            {1: 0.665241, 2: 0.244728},
            0.090031,
            id="two",
        ),
        # e³ and e¹: 20.085537 + 2.718282 = 22.803819
        pytest.param(
            {"a": 2, "b": 1}, 1, [("a", 1), ("b", 1)], {1: 0.880797}, 0.119203, id="agree"
        ),
        pytest.param({"a": 2, "b": 1}, 1, [("a", None), ("b", None)], {}, 1, id="silence"),
        pytest.param(
            {"a": 2, "b": 1}, 1, [("a", None), ("b", 3)], {3: 0.5}, 0.5, id="the-silent-abstain"
        ),
    ],
)
def test_posterior(
    weights: dict[str, float],
    bias: float,
    said: list[tuple[str, int | None]],
    posteriors: dict[int, float],
    none: float,
) -> None:
    verdict = decide(ballots(*said), replace(team(**weights), none_of_these=bias), equal)
    found = {each.group.value: each.posterior for each in verdict.groups}
    assert found == pytest.approx(posteriors, abs=1e-6)
    assert verdict.none == pytest.approx(none, abs=1e-6)


def test_a_feature_counts_by_what_the_member_s_sureness_is_worth() -> None:
    voters = Electorate({"a": Voter(1.0, sureness=0.5), "b": Voter(1.0)}, 0.0)
    sure = Features(sure=2.0)
    said = [Ballot("a", 1, sure), Ballot("b", 2, sure)]
    verdict = decide(said, voters, equal)
    # e² and e¹ and 1
    assert verdict.groups[0].posterior == pytest.approx(0.665241, abs=1e-6)
    huge = decide([Ballot("a", 1, Features(sure=1e9)), said[1]], voters, equal)
    assert huge.groups[0].score == pytest.approx(2.5)


def test_a_length_counts_by_what_it_is_worth_of_the_member() -> None:
    voters = Electorate({"a": Voter(1.0, length=-0.5), "b": Voter(1.0, length=0.25)}, 0.0)
    long = Features(length=2.0)
    verdict = decide([Ballot("a", 1, long), Ballot("b", 2, long)], voters, equal)
    assert [(each.group.value, each.score) for each in verdict.groups] == [(2, 1.5), (1, 0.0)]
    assert voters["a"].says(Features(sure=3.0, length=-1e9)) == 2.5
    assert voters["a"].most() == 2.5


def test_samples_of_one_member_share_its_weight() -> None:
    said = ballots(("a", 1), ("a", 1), ("a", 2), share=1 / 3)
    verdict = decide(said, team(a=3), equal)
    assert [each.score for each in verdict.groups] == [2, 1]


def test_beside_a_dominant_member_the_others_only_fill_its_silence() -> None:
    voters = rated({"best": 0.95, "b": 0.6, "c": 0.6, "d": 0.5})
    said = ballots(("b", 2), ("c", 2), ("d", 2))
    verdict = decide([*ballots(("best", 1)), *said], voters, equal)
    assert (verdict.leader and verdict.leader.value, verdict.spokesman) == (1, "best")
    agreed = decide([*ballots(("best", 2)), *said], voters, equal)
    assert verdict.confidence < 0.95 < agreed.confidence
    filled = decide([*ballots(("best", None)), *said], voters, equal)
    assert (filled.leader and filled.leader.value, filled.spokesman) == (2, "b")


def test_the_words_are_those_of_the_best_rated_member_of_the_leading_group() -> None:
    voters = Electorate({"a": Voter(1, rating=0.5), "b": Voter(1, rating=0.7)}, 0)
    assert decide(ballots(("a", 1), ("b", 1)), voters, equal).spokesman == "b"
    tied = Electorate({"a": Voter(1, rating=0.7), "b": Voter(1, rating=0.7)}, 0)
    assert decide(ballots(("b", 1), ("a", 1)), tied, equal).spokesman == "a"


def test_equal_scores_go_to_the_better_rated_then_to_the_declared_first() -> None:
    said = ballots(("a", 1), ("b", 2))
    better = Electorate({"a": Voter(1, rating=0.5), "b": Voter(1, rating=0.7)}, 0)
    assert decide(said, better, equal).spokesman == "b"
    tied = Electorate({"b": Voter(1, rating=0.7), "a": Voter(1, rating=0.7)}, 0)
    assert decide(said, tied, equal).spokesman == "b"


def test_who_is_not_known_only_fills_silence() -> None:
    assert decide(ballots(("a", 1), ("new", 2)), team(a=0.001), equal).spokesman == "a"
    assert decide(ballots(("a", None), ("new", 2)), team(a=1), equal).spokesman == "new"


# --- Groups -----------------------------------------------------------------------------------------


def test_free_text_is_like_nothing() -> None:
    said = [Ballot[int]("a", FREE), Ballot[int]("b", FREE), Ballot("c", 1)]
    assert [each.members for each in group(said, equal)] == [("a",), ("b",), ("c",)]


def test_equal_values_are_compared_once() -> None:
    """However many samples say the same, the contract is asked once for each two values."""
    asked: list[tuple[int, int]] = []

    def same(a: int, b: int) -> bool:
        asked.append((a, b))
        return a == b

    ballots = [Ballot("a", value % 3) for value in range(60)]
    assert [each.value for each in group(ballots, same)] == [0, 1, 2]
    assert len(asked) == 3


def test_a_chain_of_near_values_is_one_group() -> None:
    said = ballots(("a", 1), ("b", 3), ("c", 2), ("d", 9))
    assert [each.members for each in group(said, near)] == [("a", "b", "c"), ("d",)]


# --- Properties -------------------------------------------------------------------------------------

WEIGHT = st.sampled_from([0.01, 0.5, 1.0, 1.5, 2.0, 3.7])
VALUE = st.one_of(st.none(), st.integers(0, 5))
VOTERS = st.builds(Voter, WEIGHT, st.booleans(), st.sampled_from([0.5, 0.7]), st.just(0.0))


@st.composite
def elections(draw: st.DrawFn) -> tuple[list[Ballot[int]], Electorate]:
    members = MEMBERS[: draw(st.integers(1, 6))]
    voters = {member: draw(VOTERS) for member in members}
    said = [
        Ballot(member, draw(VALUE), share=1 / samples)
        for member in members
        for samples in [draw(st.integers(1, 2))]
        for _ in range(samples)
    ]
    return said, Electorate(voters, draw(st.sampled_from([-1.0, 0.0, 1.1])))


SAME = st.sampled_from([equal, near])


@given(elections(), SAME, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(
    election: tuple[list[Ballot[int]], Electorate], same: Any, random: Any
) -> None:
    said, voters = election
    shuffled = random.sample(said, len(said))
    assert decide(shuffled, voters, same) == decide(said, voters, same)


@given(elections(), SAME)
def test_agrees_with_the_definition(
    election: tuple[list[Ballot[int]], Electorate], same: Any
) -> None:
    said, voters = election
    verdict = decide(said, voters, same)
    values = sorted({ballot.value for ballot in said if isinstance(ballot.value, int)})
    classes: list[set[int]] = []
    for value in values:
        if classes and same(max(classes[-1]), value):
            classes[-1].add(value)
        else:
            classes.append({value})
    total = {
        min(each): sum(voters[b.member].weight * b.share for b in said if b.value in each)
        for each in classes
    }
    norm = math.exp(voters.none_of_these) + sum(map(math.exp, total.values()))
    expected = {value: math.exp(score) / norm for value, score in total.items()}
    found = {
        min(b.value for b in each.group.ballots if isinstance(b.value, int)): each.posterior
        for each in verdict.groups
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert sum(found.values()) + verdict.none == pytest.approx(1)


@given(elections(), SAME, st.data())
def test_more_weight_never_harms_what_it_is_given_to(
    election: tuple[list[Ballot[int]], Electorate], same: Any, data: st.DataObject
) -> None:
    said, voters = election
    before = decide(said, voters, same)
    if before.leader is None or before.spokesman is None:
        return
    member = data.draw(st.sampled_from(before.leader.members))
    cast = [each for each in said if each.member == member and each.value is not None]
    if len({group.value for group in group(cast, same)}) > 1:
        return  # its samples disagree, and it has weight for both
    voter = voters[member]
    heavier = {**voters.voters, member: replace(voter, weight=voter.weight + 1)}
    after = decide(said, replace(voters, voters=heavier), same)
    assert after.leader == before.leader
    assert after.confidence >= before.confidence - 1e-9


def _all_endings(missing: list[Outstanding], voters: Electorate) -> Any:
    choices = [
        [
            Ballot(each.member, value, Features(far, far), each.share)
            for value in (None, *range(-1, 7))
            for far in ((-3.0, 3.0) if voters[each.member].sureness else (None,))
        ]
        for each in missing
    ]
    return itertools.product(*choices)


@given(
    elections(),
    SAME,
    st.integers(0, 2),
    st.sampled_from([0.0, 0.3, -0.2]),
    st.sampled_from([0.0, -0.6]),
)
def test_stopping_when_settled_never_changes_the_winner(
    election: tuple[list[Ballot[int]], Electorate], same: Any, late: int, sure: float, less: float
) -> None:
    said, voters = election
    voters = replace(
        voters,
        voters={
            name: replace(voter, sureness=sure, length=sure / 2, weight=voter.weight + less)
            for name, voter in voters.voters.items()
        },
    )
    missing = [Outstanding(each.member, each.share) for each in said[len(said) - late :]][:late]
    known = said[: len(said) - late]
    if not settled(known, missing, voters, same, transitive=same is equal):
        return
    leader = decide(known, voters, same).leader
    for ending in _all_endings(missing, voters):
        last = decide([*known, *ending], voters, same).leader
        if leader is None:
            assert not missing
            return
        assert last is not None
        assert {each.member for each in leader.ballots} <= {each.member for each in last.ballots}
        assert set(leader.ballots) <= set(last.ballots)


@given(elections())
def test_settled_stops_as_soon_as_no_ending_can_change_the_winner(
    election: tuple[list[Ballot[int]], Electorate],
) -> None:
    said, voters = election
    missing, known = [Outstanding(said[-1].member, said[-1].share)], said[:-1]
    before = decide(known, voters, equal)
    if settled(known, missing, voters, equal, transitive=True) or before.leader is None:
        return
    swing = voters[missing[0].member].weight * missing[0].share
    endings = [decide([*known, *each], voters, equal) for each in _all_endings(missing, voters)]
    changed = any(
        each.leader is not None and not set(before.leader.ballots) <= set(each.leader.ballots)
        for each in endings
    )
    assert changed or before.margin == pytest.approx(swing)  # a tie is not called before the end


def test_settled_by_weight_and_not_by_heads() -> None:
    voters = team(a=3, b=1, c=1)
    missing = [Outstanding("b"), Outstanding("c")]
    assert settled(ballots(("a", 1)), missing, voters, equal, transitive=True)
    assert not settled(
        ballots(("b", 1), ("c", 1)), [Outstanding("a")], voters, equal, transitive=True
    )


def test_one_that_joins_two_groups_is_reckoned_with() -> None:
    voters = team(a=5, b=3, c=3, d=1)
    said = ballots(("a", 9), ("b", 1), ("c", 3))
    missing = [Outstanding("d")]
    assert settled(said, missing, voters, equal, transitive=True)
    assert not settled(said, missing, voters, near, transitive=False)
    joined = decide([*said, Ballot("d", 2)], voters, near).leader
    assert joined is not None
    assert joined.members == ("b", "c", "d")


# --- Samples and free text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leader", "runner_up", "certainty"),
    [
        pytest.param(0, 0, 0.5, id="nothing"),
        pytest.param(3, 0, 0.9375, id="three-of-three"),  # 15/16
        pytest.param(4, 0, 0.96875, id="four-of-four"),  # 31/32
        pytest.param(4, 1, 0.890625, id="four-to-one"),  # 57/64
        pytest.param(5, 1, 0.9375, id="five-to-one"),  # 120/128
        pytest.param(6, 1, 0.96484375, id="six-to-one"),  # 247/256
    ],
)
def test_certainty_of_a_majority(leader: int, runner_up: int, certainty: float) -> None:
    assert majority_certainty(leader, runner_up) == certainty


@given(st.integers(0, 30), st.integers(0, 30))
def test_certainty_agrees_with_the_integral(leader: int, runner_up: int) -> None:
    steps = 2000
    at = [(step + 0.5) / steps for step in range(steps)]
    density = [p**leader * (1 - p) ** runner_up for p in at]
    expected = sum(density[steps // 2 :]) / sum(density)
    assert majority_certainty(leader, runner_up) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "f1"),
    [
        pytest.param("the cat sat", "The cat, sat.", 1.0, id="case-and-marks"),
        pytest.param("the cat sat", "the dog", 0.4, id="one-of-three-and-two"),
        pytest.param("a b c d", "c d e f", 0.5, id="half"),
        pytest.param("", "", 1.0, id="nothing"),
        pytest.param("x", "", 0.0, id="something-and-nothing"),
        pytest.param("答案是七", "答案是八", 0.75, id="characters"),
    ],
)
def test_similarity(a: str, b: str, f1: float) -> None:
    assert similarity(a, b) == pytest.approx(f1)
    assert similarity(b, a) == pytest.approx(f1)


def test_the_medoid_is_what_the_others_are_most_like() -> None:
    texts = ["the answer is blue", "the answer is blue sky", "something else entirely"]
    assert medoid([Text(each) for each in texts]) == 0
    weighted = [Text("a b"), Text("b c"), Text("c d", weight=1.5)]  # 1.5, 2.25 and 2.0
    assert medoid(weighted) == 1
    outweighed = [Text("a b"), Text("b c"), Text("c d", weight=5)]  # 1.5, 4.0 and 5.5
    assert medoid(outweighed) == 2


def test_equal_texts_go_to_the_higher_rating_then_to_the_first() -> None:
    assert medoid([Text("a"), Text("b", rating=0.7), Text("c", rating=0.7)]) == 1
    assert medoid([Text("one")]) == 0


@given(st.lists(st.text(alphabet="abc ", max_size=8), min_size=1, max_size=5))
def test_the_medoid_agrees_with_the_definition(texts: list[str]) -> None:
    def mean(at: int) -> float:
        others = [similarity(texts[at], other) for i, other in enumerate(texts) if i != at]
        return sum(others) / len(others) if others else 0.0

    best = max(mean(at) for at in range(len(texts)))
    assert mean(medoid([Text(each) for each in texts])) == pytest.approx(best)


def test_many_long_texts_are_compared_in_no_time() -> None:
    """However many there are and however long, nothing else waits long for it."""
    random = Random(1)
    texts = [
        Text(" ".join(str(random.randrange(50_000)) for _ in range(10_000))) for _ in range(256)
    ]
    began = time.process_time()
    medoid(texts)
    assert time.process_time() - began < 1


def test_who_does_not_vote_breaks_no_tie_of_one_members_samples() -> None:
    """Whichever of a voter's two samples leads, an idle member that agrees with the other changes nothing."""
    voters = Electorate(
        {"d": Voter(0.01, True, 0.5), "e": Voter(0.01, False, 0.7)}, none_of_these=-1.0
    )
    split = [Ballot("d", 0, share=0.5), Ballot("d", 1, share=0.5)]
    leader = decide(split, voters, equal).leader
    assert leader is not None
    for value in (None, 0, 1):
        last = decide([*split, Ballot("e", value)], voters, equal).leader
        assert last is not None
        assert last.value == leader.value
