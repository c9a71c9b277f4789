import datetime
import gzip
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from extproc.config import load_config
from looper.evaluate.fitting import splits
from looper.evaluate.fitting.calibrate import TooFew, calibrate_team, costs_of
from looper.evaluate.fitting.cascade import Stage, frontier, run
from looper.evaluate.fitting.choice import chosen, promised
from looper.evaluate.fitting.features import score
from looper.evaluate.fitting.isotonic import calibrate
from looper.evaluate.fitting.logit import Design, Fit, Ridges, _likelihood, design, fit
from looper.evaluate.fitting.team import (
    WAYS,
    Constants,
    HeldOut,
    Team,
    Way,
    fit_team,
    measured,
    see,
    sheet,
    weights_of,
)
from looper.evaluate.outcomes import Outcomes, OutcomesError, Question, read_outcomes
from looper.patterns.confidence import ConfidenceConfig
from looper.voting import Ballot, Weights, decide, read_weights

TODAY = datetime.date(2026, 1, 31)


def questions(
    rates: dict[str, float], count: int = 400, silence: float = 0.0, seed: int = 0
) -> list[Question]:
    """Questions with four options and members that err by themselves."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        answers = {}
        for name, rate in rates.items():
            right = chance.random() < rate
            wrong = chance.choice("BCD")
            answers[name] = "" if chance.random() < silence else "A" if right else wrong
        rows.append(
            Question(
                id=str(number),
                category="law" if number % 3 else "physics",
                gold="A",
                answers=answers,
                prompt_chars=400,
                chars=dict.fromkeys(rates, 40),
            )
        )
    return rows


def outcomes(rows: Sequence[Question]) -> Outcomes:
    return Outcomes(rows, "sha256:" + "0" * 64)


RATES = {"a": 0.8, "b": 0.75, "c": 0.7}


@pytest.mark.parametrize(
    "silenced",
    [
        pytest.param((), id="everybody"),
        pytest.param((1,), id="some-silenced"),
        pytest.param((0, 1, 2), id="all-silenced"),
    ],
)
def test_the_slope_is_that_of_the_likelihood(silenced: Sequence[int]) -> None:
    """Also where only those who are silenced gave the right answer."""
    rows = questions(RATES, 60, silence=0.2)
    sure, long = np.random.default_rng(1).normal(size=(2, 60, 3))
    answered = design(rows, tuple(RATES), ("law", "physics"))
    everybody = replace(answered, sure=sure, long=long)
    data = everybody.only(~np.isin(np.arange(3), silenced))
    weight, terms = np.array([1.0, 0.5, -0.2]), np.full((2, 3), 0.1)
    start = Fit(weight, terms, np.full(3, 0.3), np.full(3, -0.2), 0.7)
    packed = start.pack()
    _, slope = _likelihood(data, start)
    for at in range(packed.size):
        step = np.zeros(packed.size)
        step[at] = 1e-5
        up = _likelihood(data, start.unpack(packed + step))[0]
        down = _likelihood(data, start.unpack(packed - step))[0]
        assert slope[at] == pytest.approx((up - down) / 2e-5, abs=1e-5)


def answers_only(rows: Sequence[Question], members: Iterable[str]) -> Design:
    """Nothing is known beside the answers."""
    return design(rows, tuple(members))


def test_what_is_fixed_stays_and_the_rest_grows_likelier() -> None:
    rows = questions(RATES)
    data = answers_only(rows, RATES)
    prior = Fit.by_weight(np.ones(3), 0, 1.0)
    found = fit(data, prior, np.array([True, False, False]))
    assert found.weight[0] == 1
    assert found.weight[1] != 1
    assert _likelihood(data, found)[0] > _likelihood(data, prior)[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_team_decides_as_requests_are_decided(way: Way) -> None:
    rates = {"best": 0.97, "b": 0.8, "c": 0.1, "d": 0.8}
    rows = questions(rates, 300, silence=0.2)
    answered = sheet(rows, Team(tuple(rates), {}, ("law", "physics")))
    fitted = fit_team(see(answered), way)
    team = weights_of(fitted, None)
    posterior, right = fitted.decides(answered.answers)
    voting = {name for name, member in team.members.items() if member.votes}
    match way:
        case "one member":
            assert voting == {"best"}
        case "fit of everybody":
            assert voting == set(rates)
        case _:
            assert voting == {"best", "b", "d"}
    for at, row in enumerate(rows):
        voters = team.electorate(row.category)
        verdict = decide([Ballot(name, row.answer(name)) for name in rates], voters, eq)
        assert verdict.confidence == pytest.approx(posterior[at], abs=1e-3)
        assert (verdict.spokesman is not None and row.is_right(verdict.spokesman)) == right[at]


def test_a_fit_starts_from_what_ratings_say() -> None:
    """Held as tightly as can be it stays there; who adds nothing by its rating stays silent then, and only then."""
    rates = {"best": 0.9, "b": 0.8, "weak": 0.2}
    seen = see(sheet(questions(rates), Team(tuple(rates), {})))
    held = Constants(ridges=Ridges(weight=1e9, term=1e9, length=1e9, bias=1e9))
    tight, loose = (fit_team(seen, "fit of everybody", each) for each in (held, Constants()))
    by_rating = fit_team(seen, "ratings")
    assert tight.weights.weight[:2] == pytest.approx(by_rating.weights.weight[:2], abs=1e-3)
    assert tight.weights.weight[2] == pytest.approx(0, abs=1e-3)
    assert abs(loose.weights.weight[2]) > 0.01
    assert by_rating.votes.tolist() == [True, True, False]


@pytest.mark.parametrize("way", ["fit", "fit of everybody"])
def test_members_that_are_mostly_wrong_are_heard(way: Way) -> None:
    """Where wrong answers are many, two that agree are right though each is in a third of cases only."""
    rates = dict.fromkeys("abcde", 0.35)
    chance = random.Random(3)
    rows = [
        structs.replace(
            row,
            answers={
                name: "A" if row.is_right(name) else str(chance.randrange(1000)) for name in rates
            },
        )
        for row in questions(rates, 100)
    ]
    answered = sheet(rows, Team(tuple(rates), {}))
    right = fit_team(see(answered), way).decides(answered.answers)[1]
    assert right.mean() > 0.5


def test_ratings_count_as_some_answers() -> None:
    answered = sheet(questions({"a": 1.0}, 20), Team(("a",), {"a": 0.5}))
    assert measured(answered) == {"a": pytest.approx(50 / 80)}


# --- The choice among ways ----------------------------------------------------------------------------


def held(*rights: Sequence[int]) -> dict[Way, HeldOut]:
    """What would have been right, by each way in their order."""
    flags = [np.array(right, dtype=bool) for right in rights]
    return {way: HeldOut(each * 0.5, each, each) for way, each in zip(WAYS, flags, strict=False)}


def first(count: int) -> list[int]:
    return [1] * count + [0] * (10 - count)


@pytest.mark.parametrize(
    ("alone", "ratings", "voters", "everybody", "way"),
    [
        pytest.param(4, 5, 6, 5, "fit", id="the-best"),
        pytest.param(4, 5, 5, 6, "fit of everybody", id="the-best-is-everybody"),
        pytest.param(4, 6, 6, 6, "ratings", id="equals-need-no-fit"),
        # One of ten more: a mean of 0.1, of which the standard error is 0.095.
        pytest.param(6, 5, 5, 4, "one member", id="alone-by-more-than-a-standard-error"),
        pytest.param(5, 5, 5, 5, "ratings", id="alone-is-no-better"),
    ],
)
def test_the_way_that_is_right_most_often(
    alone: int, ratings: int, voters: int, everybody: int, way: Way
) -> None:
    assert chosen(held(*map(first, (alone, ratings, voters, everybody)))) == way


def test_one_member_alone_has_to_be_ahead_for_certain() -> None:
    """Four right where the others are wrong and three the other way round is no lead."""
    assert chosen(held([1] * 4 + [0] * 3, [0] * 4 + [1] * 3)) == "ratings"


def test_what_is_promised_was_chosen_on_other_questions() -> None:
    """A way that is right in one fold only is chosen for that fold's sake, and not by the others."""
    lucky = [int(at % 5 == 0) for at in range(40)]
    usual = [int(at % 5 != 0 and at < 8) for at in range(40)]
    found = held([0] * 40, usual, lucky)
    assert chosen(found) == "fit"
    assert not promised(found)[::5].any()
    assert promised(found).sum() < found["fit"].right.sum()


# --- Scores and lengths -------------------------------------------------------------------------------


def test_a_length_that_tells_right_from_wrong_gives_a_member_weight() -> None:
    """Of one model the long answers are the good ones, of another the short ones; a third writes always as much."""
    rows = questions({"a": 0.6, "b": 0.6, "c": 0.6}, 600)
    chance = random.Random(1)
    written = [
        structs.replace(
            row,
            chars={
                "a": int((800 if row.is_right("a") else 200) * chance.uniform(0.5, 2)),
                "b": int((200 if row.is_right("b") else 800) * chance.uniform(0.5, 2)),
                "c": 400,
            },
        )
        for row in rows
    ]
    unknown = [structs.replace(row, chars={}) for row in rows]
    _, before = calibrate_team(outcomes(unknown), [("a", "b", "c")], {}, today=TODAY)
    weights, after = calibrate_team(outcomes(written), [("a", "b", "c")], {}, today=TODAY)
    members = weights.teams[0].members
    assert members["a"].length > 0.3
    assert members["b"].length < -0.3
    assert members["c"].length == pytest.approx(0, abs=0.01)
    assert 80 < weights.lengths["a"].typical < 170  # tokens, of about four characters
    assert after.check.accuracy.mean > before.check.accuracy.mean + 0.05


def test_knots_never_fall() -> None:
    chance = random.Random(0)
    scored = [(at / 500, chance.random() < at / 500) for at in range(500)]
    found = calibrate(scored)
    assert found is not None
    assert found.probability(0.9) > 0.75
    assert found.probability(0.1) < 0.25
    assert calibrate([]) is None
    one = calibrate([(0.5, True)] * 8)
    assert one is not None
    assert one.knots == ((0.5, 0.9),)


def test_a_few_scores_at_the_end_count_with_those_before() -> None:
    """No answer is lost, and none counts twice."""
    found = calibrate([(at / 100, at >= 10) for at in range(24)])
    assert found is not None
    assert found.knots == ((0.045, round(1 / 12, 6)), (0.165, round(15 / 16, 6)))


def test_a_score_that_tells_right_from_wrong_gives_a_member_weight() -> None:
    rows = questions({"a": 0.6, "b": 0.6, "c": 0.6})
    chance = random.Random(1)
    sure = [
        Question(
            gold="A",
            answers=row.answers,
            logprob={"a": (-0.1 if row.is_right("a") else -1.5) + chance.uniform(-0.3, 0.1)},
        )
        for row in rows
    ]
    plain, before = calibrate_team(outcomes(rows), [("a", "b", "c")], {}, today=TODAY)
    weights, after = calibrate_team(outcomes(sure), [("a", "b", "c")], {}, today=TODAY)
    assert plain.sureness_from is None
    assert weights.sureness_from == "avg_logprob"
    assert weights.teams[0].members["a"].sureness > 0.3
    assert after.check.accuracy.mean > before.check.accuracy.mean + 0.05
    assert score(sure[0], "b", "avg_logprob") is None


def test_stages_whose_scores_differ_are_weighed_by_the_same_method() -> None:
    """A file has one: where a stage's own members have no such score, nothing but their word counts there."""
    rates = {"small": 0.7, "large": 0.8}
    rows = [
        structs.replace(
            row,
            logprob={"small": -0.1 if row.is_right("small") else -1.5},
            scores={"answer_span": {"large": 0.9 if row.is_right("large") else 0.2}},
        )
        for row in questions(rates)
    ]
    weights, _ = calibrate_team(outcomes(rows), [("small",), ("large",)], {}, today=TODAY)
    assert weights.sureness_from == "answer_span"
    assert [team.members["small"].sureness for team in weights.teams] == [0, 0]
    assert weights.teams[1].members["large"].sureness > 0.1
    assert set(weights.scores["small"]) == {"avg_logprob"}


@pytest.mark.parametrize(
    ("rates", "advice"),
    [
        pytest.param({"a": 0.7, "b": 0.7, "c": 0.7}, "vote", id="peers"),
        pytest.param({"a": 0.97, "b": 0.4, "c": 0.4}, "use one model", id="dominant"),
    ],
)
def test_advice_for_a_team(rates: dict[str, float], advice: str) -> None:
    weights, report = calibrate_team(outcomes(questions(rates)), [tuple(rates)], {}, today=TODAY)
    assert (weights.advice, report.advice) == (advice, advice)
    assert report.dominant == ("a" if advice == "use one model" else None)
    beyond = report.check.beyond_best
    assert beyond.low <= beyond.mean <= beyond.high


@pytest.mark.parametrize(
    ("price", "advice"),
    [
        pytest.param(0.1, "cascade", id="cheap-first-stage"),
        pytest.param(30.0, "do not cascade", id="dear-first-stage"),
    ],
)
def test_advice_for_a_cascade(price: float, advice: str) -> None:
    rates = {"a": 0.85, "b": 0.85, "large": 0.92}
    rows = questions(rates, 600)
    prices = {"a": (price, price), "b": (price, price), "large": (10.0, 10.0)}
    costs = costs_of(rows, tuple(rates), prices)
    weights, report = calibrate_team(
        outcomes(rows), [("a", "b"), ("large",)], {}, costs, today=TODAY
    )
    assert report.advice == advice
    assert len(weights.teams) == 2
    assert weights.teams[0].accept_at is not None
    assert weights.teams[1].accept_at is None
    if advice == "cascade":
        assert report.cascade is not None
        assert (report.cascade.cost_of_best or 1) < 0.6


def test_thresholds_agree_with_trying_them_all() -> None:
    chance = np.random.default_rng(0)
    sure = chance.uniform(size=200)
    first = Stage(sure, chance.uniform(size=200) < sure, np.full(200, 1.0))
    last = Stage(np.ones(200), chance.uniform(size=200) < 0.8, np.full(200, 10.0))
    for plan in frontier([first, last]):
        better = [
            run([first, last], [level])
            for level in np.linspace(0, 1, 50)
            if run([first, last], [level]).cost < plan.cost - 0.5
        ]
        assert all(each.accuracy <= plan.accuracy + 0.02 for each in better)


def test_costs_are_recorded_or_follow_from_price_and_length() -> None:
    rows = [
        Question(gold="A", answers={"a": "A", "b": "A"}, prompt_chars=4000, chars={"a": 400}),
        Question(gold="A", answers={"a": "A"}, prompt_chars=0, cost={"a": 0.5}),
    ]
    found = costs_of(rows, ["a"], {"a": (1.0, 10.0)})
    assert found is not None
    assert found["a"].tolist() == pytest.approx([0.002, 0.5])
    assert costs_of(rows, ["a", "b"], {"a": (1.0, 10.0)}) is None


@pytest.mark.parametrize("stages", [(("a", "b"),), (("a",), ("b",)), (("a",),)])
@pytest.mark.parametrize(
    ("said", "ratings"),
    [
        pytest.param({"a": "A", "b": "A"}, {}, id="never-wrong"),
        pytest.param({"a": "B", "b": "C"}, {}, id="never-right"),
        pytest.param({"a": "A", "b": "B"}, {"a": 1.0, "b": 0.0}, id="as-rated"),
        pytest.param({"a": "", "b": ""}, {"a": 0.0}, id="silent"),
    ],
)
def test_members_that_are_always_the_same(
    stages: Sequence[Sequence[str]], said: dict[str, str], ratings: dict[str, float]
) -> None:
    """Nothing is certain, however often it was seen: a file comes of it that can be read."""
    rows = [Question(gold="A", answers=said, cost={"a": 0.1, "b": 1.0})] * 40
    costs = costs_of(rows, ("a", "b"), {})
    weights, report = calibrate_team(outcomes(rows), stages, ratings, costs, today=TODAY)
    assert Weights.model_validate_json(weights.model_dump_json()) == weights
    assert report.check.accuracy.mean == (said["a"] == "A")
    assert report.advice in ("use one model", "do not cascade", "cascade")


def test_a_best_member_that_costs_nothing_is_beaten_by_no_cascade() -> None:
    rows = [
        structs.replace(row, cost={"a": 0.01, "b": 0.01, "large": 0.0})
        for row in questions({"a": 0.6, "b": 0.6, "large": 0.95}, 200)
    ]
    costs = costs_of(rows, ("a", "b", "large"), {})
    _, report = calibrate_team(outcomes(rows), [("a", "b"), ("large",)], {}, costs, today=TODAY)
    assert report.cost_of_best is None
    assert report.cascade is not None
    assert report.cascade.cost_of_best is None
    assert report.advice == "do not cascade"


def test_too_few_questions() -> None:
    with pytest.raises(TooFew, match="19 questions are too few"):
        calibrate_team(outcomes(questions(RATES, 19)), [("a", "b")], {}, today=TODAY)


# --- Files and commands -----------------------------------------------------------------------------

CONFIG = """
version: 1
egress: unix:/run/looper/egress.sock
models:
  - {name: a, url: "http://127.0.0.1:1/v1", rating: 0.8}
  - {name: b, url: "http://127.0.0.1:1/v1", upstream_model: bee}
  - {name: c, url: "http://127.0.0.1:1/v1"}
recipes:
  general:
    decisions:
      - name: team
        contract: {type: choice, values: [A, B, C, D]}
        algorithm: {type: ratings, models: [a, b, c]WEIGHTS}
entrypoints: {auto: general}
"""


def recorded(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "outcomes.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def plain(rates: dict[str, float]) -> list[dict[str, Any]]:
    return [{"gold": "A", "answers": row.answers, "extra": 1} for row in questions(rates, 100)]


def command(*arguments: str | Path) -> Any:
    from extproc.cli.main import main

    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def test_calibrate_writes_a_file_that_the_configuration_can_name(tmp_path: Path) -> None:
    config = tmp_path / "looper.yaml"
    config.write_text(CONFIG.replace("WEIGHTS", ""))
    data = recorded(tmp_path, plain({"a": 0.8, "bee": 0.8, "c": 0.8}))
    result = command(config, "--data", data)
    assert result.exit_code == 0, result.output
    assert "advice: vote" in result.output
    assert re.search(
        r"weighed by .+: \d+\.\d % by .+, .+, .+, \d+\.\d % by a fit of everybody\n", result.output
    )
    promise = re.search(
        r"nor chosen on: ([\d.]+) \[([\d.]+), ([\d.]+)\] %, \S+ \[\S+ \S+\] points", result.output
    )
    assert promise is not None
    assert float(promise[2]) < float(promise[1]) < float(promise[3])
    weights = read_weights(tmp_path / "general.team.weights.json")
    assert weights.members == {"a", "b", "c"}
    assert weights.provenance.rows == 100
    assert weights.provenance.decision == "general.team"
    config.write_text(CONFIG.replace("WEIGHTS", ", weights: general.team.weights.json"))
    load_config(config)


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        pytest.param([{"gold": "A", "answers": {"a": "A"}}], [], "no answer of b, c", id="silent"),
        pytest.param(plain(RATES)[:5], [], "5 questions are too few", id="few"),
        pytest.param([{"answers": {}}], [], ":1: neither `gold` nor `correct`", id="no-gold"),
        pytest.param([{"gold": 1}], [], ":1: Expected", id="not-an-outcome"),
        pytest.param([], [], "no outcomes", id="empty"),
        pytest.param(
            plain(RATES), ["--decision", "other"], "there are: general.team", id="decision"
        ),
    ],
)
def test_what_cannot_be_calibrated_is_said(
    tmp_path: Path, rows: list[dict[str, Any]], options: list[str], problem: str
) -> None:
    config = tmp_path / "looper.yaml"
    config.write_text(CONFIG.replace("WEIGHTS", ""))
    result = command(config, "--data", recorded(tmp_path, rows), *options)
    assert result.exit_code == 1
    assert problem in result.output
    assert not list(tmp_path.glob("*.weights.json"))


def test_outcomes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutcomesError, match="cannot be read"):
        read_outcomes([tmp_path / "none.jsonl"])


def test_splits_measure_a_team_on_the_other_half(tmp_path: Path) -> None:
    data = recorded(tmp_path, plain({"a": 0.7, "b": 0.7, "c": 0.7}))
    for fit_ in ("weights", "ratings", "majority"):
        result = CliRunner().invoke(
            splits.main, [str(data), "--ranks", "1-3", "--fit", fit_, "--seeds", "2"]
        )
        assert result.exit_code == 0, result.output
        assert "best member" in result.output
    assert CliRunner().invoke(splits.main, [str(data)]).exit_code == 2


def test_a_chain_asks_on_where_its_best_is_silent(tmp_path: Path) -> None:
    """Silence is never accepted, and what that gains makes the chain worth while though it is no cheaper."""
    rows = questions({"best": 0.97, "other": 0.6})
    rows = [
        row if at % 10 else Question(gold="A", answers={"other": row.answers["other"]})
        for at, row in enumerate(rows)
    ]
    costs = {"best": np.full(400, 1.0), "other": np.full(400, 0.1)}
    weights, report = calibrate_team(
        outcomes(rows), [("best",), ("other",)], {}, costs, today=TODAY
    )
    assert report.dominant == "best"
    assert report.cascade is not None
    assert report.cascade.beyond_best.low > 0.02
    assert 1 < (report.cascade.cost_of_best or 0) < 1.05
    assert report.advice == "cascade"
    assert weights.teams[0].accept_at is not None


# --- What the report says, and what the file is used for ----------------------------------------------

DECISIONS = """
version: 1
egress: unix:/run/looper/egress.sock
models:
  - {name: a, url: "http://127.0.0.1:1/v1", price: {input: 0.1, output: 0.1}}
  - {name: b, url: "http://127.0.0.1:1/v1", price: {input: 0.1, output: 0.1}}
  - {name: large, url: "http://127.0.0.1:1/v1", price: {input: 10, output: 10}}
recipes:
  general:
    signals:
      statute: {type: keyword, any: [statute]}
    projections:
      field: {type: partition, members: [statute], default: chat}
    decisions:
      - name: team
        contract: {type: choice, values: [A, B, C, D]}
        algorithm: {ALGORITHM}
entrypoints: {auto: general}
"""


def calibrated(folder: Path, algorithm: str, rows: Sequence[dict[str, Any]]) -> tuple[Any, str]:
    """The weights that a decision gets, and what was said about it."""
    config = folder / "looper.yaml"
    config.write_text(DECISIONS.replace("ALGORITHM", algorithm))
    result = command(config, "--data", recorded(folder, rows), "-o", folder / "weights.json")
    assert result.exit_code == 0, result.output
    return read_weights(folder / "weights.json"), result.output


def in_fields(rates: dict[str, float]) -> list[dict[str, Any]]:
    rows = plain(rates)
    return [
        {
            **row,
            "category": "statute" if at % 2 else "physics",
            "prompt_chars": 400,
            "chars": dict.fromkeys(rates, 40),
        }
        for at, row in enumerate(rows)
    ]


def test_categories_are_those_that_requests_can_have(tmp_path: Path) -> None:
    """Terms are fitted for bands of the projection that the decision names; others are said to make no difference."""
    rows = in_fields({"a": 0.7, "b": 0.7, "large": 0.7})
    team = "type: ratings, models: [a, b, large]"
    with_none, output = calibrated(tmp_path, team, rows)
    assert with_none.categories == set()
    assert (
        "no difference, as no band of the decision's `category` is called so: physics, statute"
        in output
    )
    with_one, output = calibrated(tmp_path, f"{team}, category: field", rows)
    assert with_one.categories == {"statute"}
    assert "is called so: physics\n" in output
    alike = [{**row, "category": "physics"} for row in rows]
    assert "physics" not in calibrated(tmp_path, team, alike)[1]


def test_records_of_runs_say_what_the_request_was_taken_for(tmp_path: Path) -> None:
    """The band that the processor found is the category, and nobody has to add it."""
    rows = in_fields({"a": 0.7, "b": 0.7, "large": 0.7})
    records = [
        {
            "run": str(at),
            "gold": "A",
            "shape.field": row["category"] if row["category"] == "statute" else "chat",
            "calls": [{"model": name, "answer": said} for name, said in row["answers"].items()],
        }
        for at, row in enumerate(rows)
    ]
    team = "type: ratings, models: [a, b, large], category: field"
    weights, output = calibrated(tmp_path, team, records)
    assert weights.categories == {"statute", "chat"}
    assert "no difference" not in output


def test_records_of_runs_that_ended_early_are_left_out(tmp_path: Path) -> None:
    """A model that nobody had to ask any more was not wrong."""
    rows = plain({"a": 0.7, "b": 0.7, "large": 0.9})
    records = [
        {
            "run": str(at),
            "gold": row["gold"],
            "calls": [
                {"model": name, "role": "candidate", "state": "ok", "answer": answer}
                for name, answer in row["answers"].items()
                if name != "large" or at % 2
            ],
        }
        for at, row in enumerate(rows)
    ]
    chain = "type: confidence, stages: [[a, b], large], max_accepted_error: 0.1"
    weights, output = calibrated(tmp_path, chain, records)
    assert f"{len(rows) // 2} questions\n{len(rows) // 2} left out" in output
    assert weights.teams[-1].members["large"].rating > 0.8


def test_stages_are_fitted_in_the_order_in_which_they_are_asked(tmp_path: Path) -> None:
    """The cheap stage is asked first, wherever it stands; its team is who has been asked until then."""
    chain = "type: confidence, stages: [large, [a, b]], escalation_order: cost"
    weights, _ = calibrated(tmp_path, chain, in_fields({"a": 0.8, "b": 0.8, "large": 0.9}))
    assert [set(team.members) for team in weights.teams] == [{"a", "b"}, {"a", "b", "large"}]


def test_what_everybody_costs_is_said(tmp_path: Path) -> None:
    """Beside the best member, and that a threshold which nothing reaches is never reached."""
    chain = "type: confidence, stages: [a, large]"
    _, output = calibrated(tmp_path, chain, in_fields({"a": 0.3, "large": 0.95}))
    assert "points beside the best member, at 101 % of its cost" in output
    assert "\nstopping at never" in output
    assert "advice: do not cascade" in output
    assert "proposed" not in output


def test_without_costs_no_thresholds_are_chosen(tmp_path: Path) -> None:
    """And it is said what holds in their place, and what is missing."""
    rows = plain({"a": 0.8, "large": 0.9})
    weights, output = calibrated(tmp_path, "type: confidence, stages: [a, large]", rows)
    assert weights.teams[0].accept_at is None
    assert "no thresholds are chosen, and 0.7 holds" in output


def test_what_ends_early_is_measured_and_proposed(tmp_path: Path) -> None:
    """The file has what `max_accepted_error` is read off, and the report says what it would come to."""
    rows = in_fields({"a": 0.9, "b": 0.9, "large": 0.95})
    for at, row in enumerate(rows):  # where `a` and `b` agree they are right
        row["answers"]["b"] = row["answers"]["a"] if row["answers"]["a"] == "A" else "D"
        row["answers"]["a"] = row["answers"]["a"] if at % 10 else "B"
        right = row["answers"]["a"] == "A"
        row["scores"] = {"avg_logprob": {"a": 0.9 if right else 0.2, "b": 0.9 if right else 0.1}}
    chain = "type: confidence, stages: [[a, b], large], max_accepted_error: 0.1"
    weights, output = calibrated(tmp_path, chain, rows)
    assert set(weights.held_out) == {"posterior", "avg_logprob"}
    for stages in weights.held_out.values():
        (only,) = stages
        assert len(only.sure) == len(rows)
    assert "what ends early by everybody's vote" in output
    assert re.search(r"0\.1: \d+ % at a\+b, from 0\.\d+ on", output)
    assert weights.advice == "cascade"
    assert "proposed: `max_accepted_error: 0." in output


@pytest.mark.parametrize("method", ["verifier", "self_verify", "automix_entailment"])
def test_what_a_verifier_said_ends_chains_and_sways_no_vote(tmp_path: Path, method: str) -> None:
    """Nobody grades answers for a vote, so that weights for grades would be weights for nothing."""
    rows = in_fields({"a": 0.7, "large": 0.9})
    for row in rows:
        row["scores"] = {method: {"a": 0.9 if row["answers"]["a"] == "A" else 0.2}}
    asked = {"verifier": "verifier_model: b, "}
    asked["automix_entailment"] = "automix_verifier: {url: 'http://v.test', timeout: 1s}, "
    chain = (
        f"type: confidence, stages: [a, large], confidence_method: {method}, {asked.get(method, '')}"
        "max_accepted_error: 0.1"
    )
    weights, output = calibrated(tmp_path, chain, rows)
    assert weights.sureness_from is None
    assert not any(each.sureness for team in weights.teams for each in team.members.values())
    assert set(weights.held_out) == {"posterior", method}
    assert f"what ends early by `{method}`" in output
    assert "with `confidence_method: auto`, stopping at" in output
    config = tmp_path / "looper.yaml"
    config.write_text(DECISIONS.replace("ALGORITHM", f"{chain}, weights: weights.json"))
    (algorithm,) = (
        decision.algorithm
        for decision in load_config(config).recipes["general"].decisions
        if isinstance(decision.algorithm, ConfidenceConfig)
    )
    assert 0.5 < algorithm.bar_for("a", method).at < 1


def test_scores_without_a_method_of_theirs_choose_nothing(tmp_path: Path) -> None:
    """Where some of a stage have no scores, only the vote is measured; one stage alone has no end but its own."""
    rows = in_fields({"a": 0.8, "b": 0.8, "large": 0.9})
    for row in rows:
        row["scores"] = {"avg_logprob": {"a": 0.9}}
    weights, _ = calibrated(tmp_path, "type: confidence, stages: [[a, b], large]", rows)
    assert set(weights.held_out) == {"posterior"}
    weights, output = calibrated(tmp_path, "type: ratings, models: [a, b, large]", rows)
    assert weights.held_out == {}
    assert "ends early" not in output


def test_a_dominant_member_is_asked_first(tmp_path: Path) -> None:
    """Where a team gains by filling silence alone, a cheaper way to have the same is named."""
    rows = plain({"a": 0.97, "b": 0.4, "large": 0.4})
    for row in rows[::5]:
        del row["answers"]["a"]
    _, output = calibrated(tmp_path, "type: ratings, models: [a, b, large]", rows)
    assert "a outweighs the others together, which mostly fill its silence" in output
    assert "begins with it" in output


@pytest.mark.parametrize(
    ("algorithm", "change", "doubt"),
    [
        pytest.param(
            "type: confidence, stages: [a, large]",
            {"advice": "do not cascade"},
            "what they were fitted to advises: do not cascade",
            id="advice",
        ),
        pytest.param(
            "type: confidence, stages: [a, b, large]", {}, "they know nothing of b", id="stranger"
        ),
        pytest.param(
            "type: confidence, stages: [a, large]",
            {"by_category": {"law": 1.0}},
            "they differ by category, and no `category` says which",
            id="category",
        ),
        pytest.param("type: confidence, stages: [a, large]", {}, None, id="good"),
    ],
)
def test_weights_that_will_not_do_what_they_promise(
    tmp_path: Path, algorithm: str, change: dict[str, Any], doubt: str | None
) -> None:
    """`looper check` warns of a file that advises against its use, or does not fit the decision."""
    from extproc.config.lint import warnings
    from extproc.config.load import load

    member = {"weight": 1.5, "rating": 0.7, "by_category": change.pop("by_category", {})}
    file = {
        "version": 1,
        "provenance": {"date": "2026-01-31", "rows": 100, "checksum": "sha256:" + "0" * 64},
        "teams": [{"members": {"a": member, "large": member}, "none_of_these": 1.0}],
        **change,
    }
    (tmp_path / "weights.json").write_text(json.dumps(file))
    config = tmp_path / "looper.yaml"
    config.write_text(DECISIONS.replace("ALGORITHM", f"{algorithm}, weights: weights.json"))
    found = [line for line in warnings(load(config)) if "weights: " in line]
    assert len(found) == (doubt is not None)
    assert all(doubt is not None and doubt in line for line in found)
