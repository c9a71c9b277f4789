from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protocol.events import ResponseBody, ResponseHeaders
from extproc.signals import Subject
from looper.wire.chat import WireUsage
from looper.wire.tokens import IMAGE, Correction, estimate
from tests.fakes.channel import body, exchanged, opening
from tests.fakes.models import ScriptedClient, Step, completion, in_turn
from tests.fakes.subjects import read, subject
from tests.unit.extproc.exchange.test_exchange import JUDGED, chat, runtime

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def tokens(asked: Subject) -> float:
    value = read(asked, type="context").value
    assert value is not None
    return value


class TestSize:
    @pytest.mark.parametrize(
        ("text", "least", "most"),
        [
            pytest.param("word " * 800, 900, 1_100, id="latin"),
            pytest.param("слово " * 800, 2_000, 2_700, id="cyrillic"),
            pytest.param("语言模型" * 250, 900, 1_100, id="chinese"),
            pytest.param("ภาษา" * 250, 900, 1_100, id="thai"),
            pytest.param("كلمة " * 800, 1_600, 2_300, id="arabic"),
        ],
    )
    def test_every_script_has_its_measure(self, text: str, least: int, most: int) -> None:
        """A character of Chinese is about a token, four of English are."""
        assert least <= tokens(subject(text)) <= most

    def test_an_image_does_not_count_by_its_bytes(self) -> None:
        """A hundred kilobytes of base64 are no thirty thousand tokens."""
        asked = subject({"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]})
        assert IMAGE < tokens(asked) < IMAGE + 20

    def test_tools_and_their_calls_count(self) -> None:
        """They are part of the prompt."""
        tool = {"type": "function", "function": {"name": "f", "description": "d" * 4_000}}
        call = {"id": "1", "function": {"name": "f", "arguments": "a" * 4_000}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert tokens(subject("x", tools=[tool])) > 1_000
        assert tokens(subject("x", said)) > 1_000

    def test_every_turn_counts(self) -> None:
        """Whoever spoke, and with what a template puts around it."""
        assert tokens(subject("a" * 400, {"role": "assistant", "content": "b" * 400})) >= 200

    def test_a_very_long_text_is_taken_from_all_over(self) -> None:
        """Its middle is not taken to be like its ends."""
        ends, middle = "word " * 100_000, "语言模型" * 250_000
        whole = estimate(ends + middle + ends)
        assert whole == pytest.approx(estimate(ends) * 2 + estimate(middle), rel=0.1)


class TestCalibration:
    def test_reports_correct_estimates(self) -> None:
        """Within a request the factor stays as it was when the request came."""
        correction = Correction()
        asked = replace(subject("word " * 1_000), correction=correction.factor)
        before = tokens(asked)
        for _ in range(200):
            correction.learn(1_000, 1_300)
        assert tokens(asked) == before
        corrected = replace(asked, correction=correction.factor)
        assert tokens(corrected) == pytest.approx(before * 1.3, rel=0.01)

    def test_one_report_says_little(self) -> None:
        """A model that counts strangely does not turn everything over."""
        correction = Correction()
        correction.learn(1_000, 10**9)
        assert correction.factor < 1.05

    def test_short_prompts_say_nothing(self) -> None:
        """Of them, most is the template's."""
        correction = Correction()
        correction.learn(10, 100)
        correction.learn(1_000, 0)
        assert correction.factor == 1.0

    @given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(-1, 10**12)), max_size=500))
    def test_the_factor_stays_within_bounds(self, reports: list[tuple[int, int]]) -> None:
        """Whatever models report."""
        correction = Correction()
        for estimated, reported in reports:
            correction.learn(estimated, reported)
        assert 0.5 <= correction.factor <= 2.0


TEXT = "team " + "word " * 150
ESTIMATED = 193
"""Tokens of a conversation of this text."""

USAGE = WireUsage(prompt_tokens=2 * ESTIMATED, completion_tokens=5)


class TestLearning:
    """Models' reports reach the factor through exchanges."""

    async def test_teams_report_of_what_their_members_were_sent(self) -> None:
        """Two members of a panel were sent the conversation as it is; what the judge read is ours."""
        says = completion("draft", usage=USAGE)
        script: dict[str, Step] = {
            "small": says,
            "other": says,
            "large": in_turn(JUDGED, "the answer"),
        }
        taught = runtime(ScriptedClient(script))
        channel = await exchanged(taught, opening(), body(chat(text=TEXT)))
        assert channel.respond.status == 200
        assert taught.process.correction.factor == pytest.approx(2 ** (1 - 0.95**2), rel=0.001)

    async def test_metered_answers_report(self) -> None:
        """In the profile `metered`, of what one model was routed."""
        answer = msgspec.json.encode(
            {"choices": [], "usage": {"prompt_tokens": 2 * ESTIMATED, "completion_tokens": 5}}
        )
        headers = ResponseHeaders({":status": "200", "content-type": "application/json"})
        taught = runtime()
        first = replace(opening(), metered=True)
        asked = body(chat("looper/plain", text=TEXT))
        await exchanged(taught, first, [*asked, headers, ResponseBody(answer, True)])
        assert taught.process.correction.factor == pytest.approx(2**0.05, rel=0.001)
