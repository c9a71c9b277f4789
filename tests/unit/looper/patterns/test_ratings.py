import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from itertools import product
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from looper.calling.budget import Budget, Ledger
from looper.calling.models import Model
from looper.contract import ChoiceConfig, NumberConfig, Terms
from looper.errors import InvalidField, LooperError
from looper.patterns.ratings import Ratings, RatingsConfig
from looper.run import Deadline, Run
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish, Grounds, Progress, Speaker
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Answers,
    Asked,
    Hang,
    ScriptedClient,
    Step,
    completion,
    in_turn,
    model,
    refused,
)

CATALOGUE: Mapping[str, Model] = {
    "alpha": model("alpha", upstream_model="vendor/alpha-9b", rating=0.70),
    "beta": model("beta", upstream_model="vendor/beta-9b", rating=0.74),
    "gamma": model("gamma", upstream_model="vendor/gamma-9b", rating=0.72),
    "delta": model("delta", upstream_model="vendor/delta-9b", rating=0.71),
    "large": model("large", upstream_model="vendor/large-99b", rating=0.95),
    "judge": model("judge", upstream_model="vendor/judge-99b", capabilities=["json_schema"]),
}
PEERS = ("alpha", "beta", "gamma")
CHOICE = ChoiceConfig(type="choice", values=("A", "B", "C", "D")).build()
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def ratings(*models: str, **settings: Any) -> Ratings:
    return Ratings(
        RatingsConfig.model_validate({"type": "ratings", "models": models or PEERS, **settings})
    )


def request_of(**members: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "why?"}]
    body = {"model": "looper/auto", "messages": messages, **members}
    return ChatRequest.parse(json.dumps(body).encode())


def run_of(client: ScriptedClient, *, contract: Any = CHOICE, calls: int | None = None) -> Run:
    return Run(
        "r", CATALOGUE, client, Ledger(Budget(calls=calls)), Deadline.after(100), Random(1),
        terms=Terms(contract), fence="0123456789abcdef",
    )  # fmt: skip


class Played:
    """A run, with what came of it."""

    def __init__(self, client: ScriptedClient, run: Run) -> None:
        self.client = client
        self.run = run
        self.events: list[Event] = []

    def text(self, choice: int = 0) -> str:
        return "".join(
            event.value
            for event in self.events
            if isinstance(event, Delta) and event.kind == "content" and event.choice == choice
        )

    @property
    def done(self) -> Done:
        assert [event for event in self.events if isinstance(event, Done)] == self.events[-1:]
        assert isinstance(self.events[-1], Done)
        return self.events[-1]

    def said(self, kind: str) -> list[Any]:
        deltas = (event for event in self.events if isinstance(event, Delta))
        return [event.value for event in deltas if event.kind == kind]

    @property
    def verdicts(self) -> dict[str, tuple[float | None, str | None]]:
        return {
            record.model: (record.score and round(record.score, 3), record.verdict)
            for record in self.run.trace.calls
        }


async def gather(events: AsyncGenerator[Event], into: list[Event]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401  # what came before an error is kept


async def play(
    pattern: Ratings,
    script: Mapping[str, Step],
    *,
    contract: Any = CHOICE,
    calls: int | None = None,
    **members: Any,
) -> Played:
    client = ScriptedClient(script)
    played = Played(client, run_of(client, contract=contract, calls=calls))
    await gather(pattern.run(request_of(**members), played.run), played.events)
    return played


def calling(arguments: str, name: str = "weather", id: str = "c1") -> Step:
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return completion(tool_calls=[call], finish="tool_calls")


class TestVote:
    async def test_what_most_say_wins(self) -> None:
        """Of peers, two who agree are right against one; the best-rated of the two is published."""
        played = await play(ratings(stop="all"), {
            "alpha": "It is A.\n\nANSWER: A", "beta": "ANSWER: B", "gamma": "Surely.\n\nANSWER: A",
        })  # fmt: skip
        assert played.text() == "Surely.\n\nANSWER: A"
        assert played.done.outcome == "ok"
        assert played.done.confidence == pytest.approx(played.run.trace.calls[0].score)
        assert {name: verdict for name, (_, verdict) in played.verdicts.items()} == {
            "alpha": "agrees", "beta": "other", "gamma": "winner",
        }  # fmt: skip

    async def test_ratings_decide_a_tie(self) -> None:
        """Of two answers the better-rated member's is published, whoever comes first."""
        script = {"alpha": "ANSWER: A", "beta": "ANSWER: B"}
        assert (await play(ratings("alpha", "beta"), script)).text() == "ANSWER: B"

    async def test_a_dominant_member_is_not_outvoted(self) -> None:
        """Beside a member who errs far less than the others, nobody else has a vote."""
        script = {"alpha": "ANSWER: A", "beta": "ANSWER: A", "large": "ANSWER: B"}
        played = await play(ratings("alpha", "beta", "large", stop="all"), script)
        assert played.text() == "ANSWER: B"

    @pytest.mark.parametrize(
        "silence",
        [
            pytest.param(completion(""), id="blank"),
            pytest.param(completion(refusal="no"), id="refusal"),
            pytest.param(completion("Let me see", finish="length"), id="truncated"),
            pytest.param(completion("No idea at all"), id="no-answer"),
            pytest.param(refused(500), id="failed"),
        ],
    )
    async def test_silence_is_filled_by_the_others(self, silence: Step) -> None:
        """Where the dominant member says nothing, the others answer in its place."""
        script = {"alpha": "ANSWER: A", "beta": "ANSWER: A", "large": silence}
        played = await play(ratings("alpha", "beta", "large"), script)
        assert played.text() == "ANSWER: A"

    async def test_the_winner_is_verbatim(self) -> None:
        """Its thoughts, its words, its probabilities and its end reach the client as they came."""
        logprobs = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": []}]}
        script: dict[str, Step] = {
            "alpha": completion(
                " ANSWER: A\n", reasoning_content="hm", logprobs=logprobs, finish="length"
            )
        }
        played = await play(ratings("alpha"), script, logprobs=True)
        assert played.events[1:-1] == [
            Delta("reasoning_content", "hm"), Delta("content", " ANSWER: A\n"),
            Delta("logprobs", logprobs), Finish("length"),
        ]  # fmt: skip

    async def test_calls_of_tools_agree_by_name_and_arguments(self) -> None:
        """However the JSON is written, and whatever their ids, the same calls are one answer, published verbatim."""
        script = {
            "alpha": calling('{"city": "Rome", "days": 2}', id="a"),
            "beta": "I do not know.",
            "gamma": calling('{"days":2,"city":"Rome"}', id="g"),
        }
        played = await play(ratings(), script, contract=None, tools=TOOLS)
        (calls,) = played.said("tool_calls")
        assert calls[0]["id"] == "g"
        assert calls[0]["function"]["arguments"] == '{"days":2,"city":"Rome"}'
        assert [e.reason for e in played.events if isinstance(e, Finish)] == ["tool_calls"]
        assert all("tools" in asked.body for asked in played.client.asked)

    async def test_other_arguments_are_another_answer(self) -> None:
        """Two calls that differ are two answers; the better-rated member's is published."""
        script = {"alpha": calling('{"city": "Rome"}'), "beta": calling('{"city": "Oslo"}')}
        played = await play(ratings("alpha", "beta"), script, contract=None, tools=TOOLS)
        assert played.said("tool_calls")[0][0]["function"]["arguments"] == '{"city": "Oslo"}'

    async def test_samples_have_seeds_of_their_own_and_share_one_vote(self) -> None:
        """A model that is asked three times is asked three different questions, and has one vote in all."""
        script: dict[str, Step] = {
            "alpha": in_turn("ANSWER: A", "ANSWER: A", "ANSWER: A"),
            "beta": "ANSWER: B",
        }
        played = await play(ratings("alpha", "beta", samples=3, stop="all"), script, seed=5)
        seeds = [asked.body["seed"] for asked in played.client.calls_of("alpha")]
        assert seeds[0] == 5
        assert len(set(seeds)) == 3
        assert played.text() == "ANSWER: B"


class TestStop:
    @timeless
    async def test_settled_cancels_the_rest(self) -> None:
        """When the others cannot change the winner, they are cancelled, and the answer is out at once."""
        script: dict[str, Step] = {"alpha": Hang(), "beta": "ANSWER: A", "gamma": "ANSWER: A"}
        begun = asyncio.get_running_loop().time()
        played = await play(ratings(), script)
        assert asyncio.get_running_loop().time() == begun
        assert played.client.cancelled == ["alpha"]
        assert played.done.outcome == "ok"

    @timeless
    async def test_unsettled_waits(self) -> None:
        """As long as the last one may tip the scales, it is waited for."""
        script: dict[str, Step] = {
            "alpha": "ANSWER: A", "beta": "ANSWER: B", "gamma": After(5, "ANSWER: A"),
        }  # fmt: skip
        played = await play(ratings(), script)
        assert played.client.cancelled == []
        assert played.text() == "ANSWER: A"

    @timeless
    async def test_all_waits_for_everybody(self) -> None:
        """With `stop: all` nobody is cancelled."""
        script: dict[str, Step] = {
            **dict.fromkeys(("alpha", "beta"), "ANSWER: A"),
            "gamma": After(5, "ANSWER: A"),
        }
        played = await play(ratings(stop="all"), script)
        assert played.client.cancelled == []

    @timeless
    @pytest.mark.parametrize(("sure", "cancelled"), [("0.7", ["gamma"]), ("0.999", [])])
    async def test_a_posterior_that_is_high_enough(self, sure: str, cancelled: list[str]) -> None:
        """With `posterior>=x` the vote ends once it is that sure, settled or not."""
        script: dict[str, Step] = {
            "alpha": After(1, "ANSWER: A"), "beta": "ANSWER: A", "gamma": After(5, "ANSWER: B"),
        }  # fmt: skip
        played = await play(ratings(stop=f"posterior>={sure}"), script)
        assert played.client.cancelled[-1:] == cancelled

    @timeless
    @pytest.mark.parametrize("silence", [completion(refusal="no"), completion("No idea at all")])
    async def test_silence_makes_nobody_a_straggler(self, silence: Step) -> None:
        """Who says nothing quickly is no quorum behind which the others would be late."""
        script: dict[str, Step] = {
            "alpha": After(1, silence), "beta": After(9, "ANSWER: A"), "gamma": After(8, silence),
        }  # fmt: skip
        played = await play(ratings(straggler_factor=1.5), script)
        assert played.text() == "ANSWER: A"

    @timeless
    async def test_a_minimum_is_waited_for(self) -> None:
        """However settled, so many must have answered."""
        script: dict[str, Step] = {
            **dict.fromkeys(("alpha", "beta"), "ANSWER: A"),
            "gamma": After(5, "ANSWER: A"),
        }
        played = await play(ratings(min_successful_responses=3), script)
        assert played.client.cancelled == []

    @timeless
    async def test_a_substitute_counts_by_its_own_rating(self) -> None:
        """Who stands in for a member that is down has a vote while the others are waited for, as it has at the end."""
        script: dict[str, Step] = {
            "alpha": refused(500), "delta": "ANSWER: A", "gamma": "ANSWER: A", "beta": Hang(),
        }  # fmt: skip
        begun = asyncio.get_running_loop().time()
        played = await play(ratings(substitutes=["delta"]), script)
        assert asyncio.get_running_loop().time() == begun
        assert played.client.cancelled == ["beta"]
        assert played.text() == "ANSWER: A"

    @timeless
    async def test_free_text_waits_for_everybody(self) -> None:
        """Texts are compared once all of them are there."""
        script: dict[str, Step] = {"alpha": "one", "beta": "one", "gamma": After(5, "one")}
        played = await play(ratings(), script, contract=None)
        assert played.client.cancelled == []


class TestEscalation:
    async def test_a_vote_that_is_unsure_asks_stronger_models(self) -> None:
        """When the members contradict each other a stronger model joins them, and its word counts most."""
        script = {
            "alpha": "ANSWER: A", "beta": "ANSWER: B", "gamma": "ANSWER: C", "large": "ANSWER: C",
        }  # fmt: skip
        played = await play(ratings(escalate_to=["large"]), script)
        assert played.client.names[-1] == "large"
        assert played.text() == "ANSWER: C"
        assert Progress("escalation") in played.events

    @timeless
    @pytest.mark.parametrize(("first", "second"), list(product("ABC", repeat=2)))
    @pytest.mark.parametrize("quick", ["delta", "gamma"])
    async def test_who_joins_is_waited_for_as_long_as_it_may_matter(
        self, first: str, second: str, quick: str
    ) -> None:
        """Whoever is quicker, the answer is the one that waiting for all of them gives."""
        joining = {"delta": f"ANSWER: {first}", "gamma": f"ANSWER: {second}"}
        script: dict[str, Step] = {
            "alpha": "ANSWER: A", "beta": "ANSWER: B",
            **{name: After(1 if name == quick else 2, said) for name, said in joining.items()},
        }  # fmt: skip
        said = [
            CHOICE.extract((await play(pattern, script)).text())
            for pattern in (
                ratings("alpha", "beta", escalate_to=["delta", "gamma"], stop=stop)
                for stop in ("settled", "all")
            )
        ]
        assert said[0] == said[1]

    async def test_a_vote_that_is_sure_does_not(self) -> None:
        """Members who agree need nobody."""
        script = dict.fromkeys(PEERS, "ANSWER: A")
        played = await play(ratings(escalate_below=0.7, escalate_to=["large"]), script)
        assert "large" not in played.client.names

    @pytest.mark.parametrize(
        ("settings", "enough"),
        [
            ({}, None),
            ({"escalate_to": ["large"]}, 0.7),
            ({"escalate_to": ["large"], "escalate_below": 0.4}, 0.4),
        ],
    )
    async def test_what_would_have_been_enough_is_told(
        self, settings: dict[str, Any], enough: float | None
    ) -> None:
        """With the confidence, and by which measure; where nobody else could be asked, nothing hangs on it."""
        played = await play(ratings(**settings), dict.fromkeys(PEERS, "ANSWER: A"))
        assert played.done.grounds == Grounds("posterior", enough)

    async def test_what_was_measured_to_be_enough_is(self) -> None:
        """Weights say from which confidence on nobody stronger is asked, unless the decision does."""
        member = {"weight": 1.0, "rating": 0.7}
        members = dict.fromkeys(PEERS, member)
        peers = {"members": members, "none_of_these": 1.0, "accept_at": 0.95}
        everyone = {"members": {**members, "large": member}, "none_of_these": 1.0}
        weights = {
            "version": 1,
            "provenance": {"date": "2026-01-31", "rows": 50, "checksum": "sha256:" + "0" * 64},
            "teams": [peers, everyone],
        }
        script = dict.fromkeys([*PEERS, "large"], "ANSWER: A")  # e³ : e¹ is 0.88
        played = await play(ratings(escalate_to=["large"], weights=weights), script)
        assert played.client.names[-1] == "large"
        written = ratings(escalate_to=["large"], weights=weights, escalate_below=0.8)
        assert "large" not in (await play(written, script)).client.names

    async def test_nobody_is_cut_off_who_may_save_an_escalation(self) -> None:
        """Two of three cannot be outvoted, and are not sure enough: the third is heard before a stronger model is."""
        weights = {
            "version": 1,
            "provenance": {"date": "2026-01-31", "rows": 50, "checksum": "sha256:" + "0" * 64},
            "teams": [
                {
                    "members": {name: {"weight": 1.0, "rating": 0.7} for name in PEERS},
                    "none_of_these": 1.0,
                }
            ],
        }
        script = dict.fromkeys([*PEERS, "large"], "ANSWER: A")  # e² : e¹ is 0.73, e³ : e¹ 0.88
        played = await play(
            ratings(escalate_to=["large"], weights=weights, escalate_below=0.8), script
        )
        assert played.client.names == list(PEERS)
        assert played.done.confidence == pytest.approx(0.880797, abs=1e-6)

    async def test_calls_of_tools_are_a_vote_without_a_contract(self) -> None:
        """Calls that differ are settled by a stronger model; texts are not compared, and so not in doubt."""
        calls = {name: calling(f'{{"at": {at}}}') for at, name in enumerate(PEERS)}
        pattern = ratings(escalate_to=["large"])
        played = await play(pattern, {**calls, "large": calling('{"at": 1}')}, contract=None)
        assert played.client.names[-1] == "large"
        texts = {"alpha": "red", "beta": "blue", "gamma": "green"}
        assert "large" not in (await play(pattern, texts, contract=None)).client.names

    async def test_zero_never_escalates(self) -> None:
        """An explicit 0 is 0."""
        script = {"alpha": "ANSWER: A", "beta": "ANSWER: B", "gamma": "ANSWER: C"}
        played = await play(ratings(escalate_below=0, escalate_to=["large"]), script)
        assert "large" not in played.client.names


class TestSimilarity:
    async def test_the_text_most_like_the_others_wins(self) -> None:
        """Without a contract the answer in the middle is published; nobody knows how probably it is right."""
        script = {
            "alpha": "the cat sat on the mat", "beta": "bananas are yellow", "gamma": "the cat sat on a mat today",
            "delta": "a cat sat on the mat",
        }  # fmt: skip
        played = await play(ratings("alpha", "beta", "gamma", "delta"), script, contract=None)
        assert played.text() in (script["alpha"], script["delta"])
        assert (played.done.confidence, played.done.grounds) == (None, None)

    async def test_likeness_may_be_asked_for_under_a_contract(self) -> None:
        """`aggregate: similarity` compares words, whatever they say."""
        script = {
            "alpha": "green ANSWER: A", "beta": "blue ANSWER: A", "gamma": "blue ANSWER: B",
        }  # fmt: skip
        played = await play(ratings(aggregate="similarity"), script)
        assert played.text() == "blue ANSWER: A"

    async def test_who_outweighs_the_others_does_so_among_texts(self) -> None:
        """Beside a member who errs far less, the others' likeness to each other is no reason to publish one of them."""
        script = {"alpha": "the cat sat on the mat", "beta": "the cat sat on a mat"}
        pattern = ratings("alpha", "beta", "large")
        played = await play(pattern, {**script, "large": "felines rest"}, contract=None)
        assert played.text() == "felines rest"
        played = await play(pattern, {**script, "large": refused(500)}, contract=None)
        assert played.text() in script.values()

    async def test_many_long_texts_are_compared_once(self) -> None:
        """However many samples of a text there are, the process has time for others."""
        text = " ".join(f"word{at}" for at in range(3000))
        began = time.process_time()
        await play(ratings(samples=16), dict.fromkeys(PEERS, text), contract=None)
        assert time.process_time() - began < 2


def scores(*values: float) -> str:
    return json.dumps({"scores": values})


def shown(prompt: str, *texts: str) -> list[str]:
    return sorted(texts, key=prompt.index)


class TestJudge:
    DRAFTS = {"alpha": "the red one", "beta": "the blue one", "gamma": "the green one"}  # noqa: RUF012

    def pattern(self, **settings: Any) -> Ratings:
        return ratings(aggregate="judge", judge_model="judge", **settings)

    async def judged(self, *rounds: Mapping[str, float], **settings: Any) -> Played:
        """A run whose judge gives these points, whatever the order of the answers."""
        turns = iter(rounds)

        def judge(asked: Asked) -> str:
            points = {self.DRAFTS[name]: given for name, given in next(turns).items()}
            return scores(*(points[text] for text in shown(asked.prompt, *points)))

        script: dict[str, Step] = {**self.DRAFTS, "judge": Answers(judge)}
        return await play(self.pattern(**settings), script, contract=None)

    async def test_the_best_score_wins(self) -> None:
        """The judge's favourite is published, and each score is in the trace."""
        played = await self.judged({"alpha": 9, "beta": 3, "gamma": 5})
        assert played.text() == "the red one"
        assert played.verdicts["alpha"] == (0.9, "winner")
        assert played.verdicts["gamma"] == (0.5, "other")

    async def test_the_judge_knows_no_names(self) -> None:
        """Answers are numbered and fenced; no model's name is before the judge."""
        played = await self.judged({"alpha": 9, "beta": 3, "gamma": 5}, rubric="Colours count.")
        prompt = played.client.role("judge").prompt
        assert not any(name in prompt for name in ("alpha", "beta", "gamma", "vendor"))
        assert "[candidate 3 0123456789abcdef]" in prompt
        assert "Colours count." in prompt

    async def test_the_same_words_are_judged_once(self) -> None:
        """Samples that say the same are one answer before the judge."""
        script: dict[str, Step] = {
            "alpha": "the red one", "beta": "the red one", "gamma": "the green one",
            "judge": Answers(lambda asked: scores(*[5] * asked.prompt.count("[candidate"))),
        }  # fmt: skip
        played = await play(self.pattern(recheck_within=0), script, contract=None)
        assert played.client.role("judge").prompt.count("[candidate") == 2
        assert played.text() == "the red one"

    async def test_a_rating_adds_to_the_score(self) -> None:
        """A judge without the ratings is misled by style: the better model wins what is nearly even."""
        played = await self.judged(
            {"alpha": 7.1, "beta": 7.0, "gamma": 1}, rating_weight=10.0, recheck_within=0
        )
        assert played.text() == "the blue one"

    async def test_who_was_not_measured_is_not_held_for_hopeless(self) -> None:
        """A member that the weights know nothing of has the rating of the worst that they know, not none."""
        member = {"weight": 1.0, "rating": 0.7}
        weights = {
            "version": 1, "provenance": {"date": "2026-01-01", "rows": 20, "checksum": f"sha256:{'0' * 64}"},
            "teams": [{"members": {"beta": member, "gamma": member}, "none_of_these": 0.0}],
        }  # fmt: skip
        played = await self.judged(
            {"alpha": 7.1, "beta": 7.0, "gamma": 1}, weights=weights, recheck_within=0
        )
        assert played.text() == "the red one"

    async def test_a_close_call_is_judged_in_the_other_order(self) -> None:
        """The two best are shown once more, the other one first, and the mean decides."""
        played = await self.judged(
            {"alpha": 8, "beta": 7.9, "gamma": 1}, {"alpha": 5, "beta": 9}, rating_weight=0
        )
        first, second = (asked.prompt for asked in played.client.calls_of("judge"))
        assert played.text() == "the blue one"
        pair = (self.DRAFTS["alpha"], self.DRAFTS["beta"])
        assert shown(first, *pair) == shown(second, *pair)[::-1]
        assert self.DRAFTS["gamma"] not in second

    async def test_a_clear_call_is_judged_once(self) -> None:
        """Where one is far ahead nothing is asked again."""
        played = await self.judged({"alpha": 9, "beta": 3, "gamma": 5})
        assert len(played.client.calls_of("judge")) == 1

    @pytest.mark.parametrize(
        "verdict",
        ["no", scores(1, 2), scores(1, 2, 11), scores(1, 2, -1), '{"scores": [1, 2, "high"]}', refused(500)],
    )  # fmt: skip
    async def test_a_judge_that_gives_no_scores_is_done_without(self, verdict: Step) -> None:
        """What is out of range, too few, or no JSON at all is no verdict: the team decides, and it is degraded."""
        script: dict[str, Step] = {**self.DRAFTS, "judge": in_turn(verdict)}
        played = await play(self.pattern(), script, contract=None)
        assert played.text() in self.DRAFTS.values()
        assert played.done.lack == "judge"

    async def test_a_judge_that_miscounts_is_told(self) -> None:
        """A score too few is asked for once more, as any verdict that cannot be used."""
        script: dict[str, Step] = {**self.DRAFTS, "judge": in_turn(scores(5, 8), scores(1, 2, 9))}
        played = await play(self.pattern(recheck_within=0), script, contract=None)
        assert "2 scores for 3 answers" in played.client.calls_of("judge")[1].prompt
        assert played.done.outcome == "ok"

    async def test_the_trace_says_who_was_which_number(self) -> None:
        """The judge knows numbers only; whoever reads the trace knows whose they were."""
        played = await self.judged({"alpha": 9, "beta": 3, "gamma": 5})
        prompt = played.client.role("judge").prompt
        order = [
            list(self.DRAFTS.values()).index(text) for text in shown(prompt, *self.DRAFTS.values())
        ]
        read = f"the judge read the answers of calls {', '.join(map(str, order))}, in this order"
        assert read in played.run.trace.notes

    async def test_one_answer_needs_no_judge(self) -> None:
        """Where all say the same there is nothing to judge."""
        script = dict.fromkeys(PEERS, "ANSWER: A")
        played = await play(self.pattern(), script)
        assert "judge" not in played.client.names


class TestAll:
    async def test_every_answer_is_a_choice(self) -> None:
        """In a comparison each candidate is a choice, in declared order, with the name of its model."""
        script: dict[str, Step] = {"alpha": "one", "beta": refused(500), "gamma": " three\n"}
        played = await play(ratings(aggregate="all"), script, contract=None)
        assert [e for e in played.events if isinstance(e, Speaker)] == [
            Speaker("alpha", 0), Speaker("gamma", 1),
        ]  # fmt: skip
        assert (played.text(0), played.text(1)) == ("one", " three\n")
        assert played.done.outcome == "degraded"

    async def test_n_is_how_many_at_the_most(self) -> None:
        """A client that wants two choices gets the first two that there are."""
        script = dict.fromkeys(PEERS, "one")
        played = await play(ratings(aggregate="all"), script, contract=None, n=2)
        assert len([e for e in played.events if isinstance(e, Speaker)]) == 2
        assert all("n" not in asked.body for asked in played.client.asked)

    @pytest.mark.parametrize(("aggregate", "n"), [("all", 4), ("all", 0), ("vote", 2), (None, 2)])
    async def test_n_that_cannot_be_is_refused(self, aggregate: str | None, n: int) -> None:
        """More choices than candidates, or more than one where one answer comes of all, is the client's mistake."""
        with pytest.raises(InvalidField) as caught:
            await play(ratings(aggregate=aggregate), dict.fromkeys(PEERS, "one"), n=n)
        assert caught.value.param == "n"


class TestLogprobs:
    async def test_are_not_asked_for_without_need(self) -> None:
        """Nobody weighs probabilities here, so that no backend is asked for them."""
        played = await play(ratings(), dict.fromkeys(PEERS, "ANSWER: A"))
        assert not any("logprobs" in asked.body for asked in played.client.asked)

    async def test_go_to_the_client_as_it_asked(self) -> None:
        """A client that wants them has the winner's."""
        logprobs = {
            "content": [
                {"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "A", "logprob": -0.1}]}
            ]
        }
        script = dict.fromkeys(PEERS, completion("ANSWER: A", logprobs=logprobs))
        played = await play(ratings(), script, logprobs=True, top_logprobs=1)
        assert played.said("logprobs") == [logprobs]
        assert all(asked.body["top_logprobs"] == 1 for asked in played.client.asked)


class TestFailure:
    async def test_when_nobody_answers_the_error_is_typed(self) -> None:
        """One kind of failure everywhere is that kind of error."""
        with pytest.raises(LooperError) as caught:
            await play(ratings(), dict.fromkeys(PEERS, refused(429)))
        assert caught.value.code == "rate_limited"

    async def test_a_member_that_fails_degrades(self) -> None:
        """The others answer, and the outcome says that one is missing."""
        script: dict[str, Step] = {
            "alpha": refused(500),
            **dict.fromkeys(("beta", "gamma"), "ANSWER: A"),
        }
        played = await play(ratings(stop="all"), script)
        assert (played.text(), played.done.outcome) == ("ANSWER: A", "degraded")

    async def test_fewer_than_the_minimum_may_fail_the_run(self) -> None:
        """With `below_quorum: fail` the request fails where too few have said something; the silent do not count."""
        script: dict[str, Step] = {
            "alpha": "no idea",
            "beta": completion(refusal="no"),
            "gamma": "ANSWER: A",
        }
        pattern = ratings(min_successful_responses=2, below_quorum="fail")
        with pytest.raises(LooperError):
            await play(pattern, script)
        played = await play(ratings(min_successful_responses=2), script)
        assert (played.text(), played.done.outcome) == ("ANSWER: A", "degraded")

    async def test_when_all_are_silent_something_is_published(self) -> None:
        """A refusal is an answer to the client where there is no other."""
        played = await play(ratings("alpha"), {"alpha": completion(refusal="no")})
        assert played.said("refusal") == ["no"]
        assert played.done.outcome == "degraded"
        assert played.done.confidence is None

    async def test_a_budget_that_is_spent_asks_fewer(self) -> None:
        """Whom the budget has no room for is not asked, and the others answer."""
        played = await play(ratings(stop="all"), dict.fromkeys(PEERS, "ANSWER: A"), calls=2)
        assert len(played.client.asked) == 2
        assert played.done.lack == "unpaid"

    async def test_the_members_hear_the_contract(self) -> None:
        """A number within a tolerance is the same number."""
        contract = NumberConfig.model_validate(
            {"type": "number", "tolerance": {"absolute": 0.1}}
        ).build()
        script = {"alpha": "1.00", "beta": "2", "gamma": "It is 1.05."}
        played = await play(ratings(stop="all"), script, contract=contract)
        assert played.text() == "It is 1.05."


class TestConfig:
    @pytest.mark.parametrize(
        "settings",
        [
            {"models": []},
            {"models": ["a", "a"]},
            {"models": ["a"], "aggregate": "judge"},
            {"models": ["a"], "judge_model": "j"},
            {"models": ["a"], "escalate_below": 0.5},
            {"models": ["a"], "rubric": "Colours count."},
            {"models": ["a"], "recheck_within": 0},
            {"models": ["a"], "escalate_to": ["a"]},
            {"models": ["a"], "escalate_to": ["b"], "aggregate": "similarity"},
            {"models": ["a"], "stop": "posterior>=1.5"},
            {"models": ["a"], "stop": "never"},
            {"models": ["a"], "samples": 0},
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, settings: dict[str, Any]) -> None:
        """Contradictions are found before any request comes."""
        with pytest.raises(ValidationError):
            RatingsConfig.model_validate({"type": "ratings", **settings})

    def test_the_plan_is_everything_that_may_be_asked(self) -> None:
        """Each sample, each escalation, and the judge with its re-asks."""
        config = RatingsConfig.model_validate(
            {"type": "ratings", "models": ["a", "b"], "samples": 2, "escalate_to": ["c"]}
        )
        assert [(call.models, call.need) for call in config.planned()] == [
            (("a",), "always"), (("a",), "always"), (("b",), "always"), (("b",), "always"), (("c",), "perhaps"),
        ]  # fmt: skip

    def test_members_are_where_the_file_names_them(self) -> None:
        """Each name comes with its place, so that an unknown one is found."""
        config = RatingsConfig.model_validate(
            {
                "type": "ratings",
                "models": ["a"],
                "aggregate": "judge",
                "judge_model": "j",
                "substitutes": ["s"],
            }
        )
        assert list(config.members()) == [
            (("models", 0), "a"), (("judge_model",), "j"), (("substitutes", 0), "s"),
        ]  # fmt: skip
