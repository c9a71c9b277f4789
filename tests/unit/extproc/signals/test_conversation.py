from typing import Any

import pytest

from tests.fakes.subjects import read, subject

ASKED = {"role": "user", "content": "Weather?"}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function"}, {"id": "2", "type": "function"}],
}
FUNCTION = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": "f", "arguments": "{}"},
    "tool_calls": None,
}
CAME = {"role": "function", "name": "f", "content": "sunny"}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SEEN = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, PICTURE, PICTURE]}


@pytest.mark.parametrize(
    ("of", "messages", "members", "value"),
    [
        pytest.param("turns", [ASKED, ANSWER, ASKED], {}, 2, id="turns"),
        pytest.param("messages", [ASKED, ANSWER, ASKED], {}, 3, id="messages"),
        pytest.param("system", [{"role": "developer", "content": "x"}, ASKED], {}, 1, id="system"),
        pytest.param("tools", [ASKED], {"tools": [{}, {}]}, 2, id="tools"),
        pytest.param("tools", [ASKED], {"functions": [{}]}, 1, id="functions"),
        pytest.param("tools", [ASKED], {"tools": None}, 0, id="tools-null"),
        pytest.param("tools", [ASKED], {"tools": {"a": 1}}, 0, id="tools-no-list"),
        pytest.param("tool_calls", [ASKED, CALLS, RESULT, RESULT], {}, 2, id="tool-calls"),
        pytest.param("tool_calls", [ASKED, FUNCTION, FUNCTION], {}, 2, id="function-calls"),
        pytest.param("tool_calls", [{**ANSWER, "function_call": None}], {}, 0, id="no-function-call"),
        pytest.param("tool_loop", [ASKED, CALLS, RESULT, RESULT], {}, 2, id="active-loop"),
        pytest.param("tool_loop", [ASKED, FUNCTION, CAME], {}, 1, id="function-loop"),
        pytest.param("tool_loop", [ASKED, CALLS, RESULT, ANSWER], {}, 0, id="answered-loop"),
        pytest.param("tool_loop", [ASKED, CALLS, RESULT, ANSWER, ASKED], {}, 0, id="past-loop"),
        pytest.param("images", [SEEN], {}, 2, id="images"),
        pytest.param("images", [ASKED], {}, 0, id="no-images"),
    ],
)  # fmt: skip
def test_counts_what_the_conversation_holds(
    of: str, messages: list[dict[str, Any]], members: dict[str, Any], value: int
) -> None:
    """Turns, roles, tools, calls, results without an answer, images."""
    reading = read(subject(*messages, **members), type="conversation", of=of)
    assert (reading.value, reading.match) == (value, value >= 1)


def test_messages_of_one_role_can_be_counted() -> None:
    """Whatever the role is called."""
    asked = subject(ASKED, ANSWER, RESULT)
    assert read(asked, type="conversation", of="messages", role="assistant").value == 1


class TestReask:
    @pytest.mark.parametrize(
        ("before", "last", "match"),
        [
            pytest.param("How far is the moon?", "How far is the moon?", True, id="the-same"),
            pytest.param("How far is the moon?", "how far  is the MOON??", True, id="nearly"),
            pytest.param("Как далеко до Луны?", "Как далеко до луны", True, id="cyrillic"),
            pytest.param(
                "月はどれくらい遠いですか", "月はどれくらい遠いですか?", True, id="japanese"
            ),
            pytest.param("ดวงจันทร์อยู่ไกลแค่ไหน", "ดวงจันทร์อยู่ไกลแค่ไหน", True, id="thai"),
            pytest.param("How far is the moon?", "How old is the sun?", False, id="another"),
            pytest.param("How far is the moon?", "Thanks!", False, id="thanks"),
            pytest.param("", "", False, id="nothing"),
        ],
    )
    def test_a_question_asked_again_is_known(self, before: str, last: str, match: bool) -> None:
        """By what both turns have in common, whatever stands between them."""
        asked = subject(before, ANSWER, last)
        assert read(asked, type="conversation", of="reask").match is match

    def test_one_turn_repeats_nothing(self) -> None:
        """There has to be one before."""
        assert read("Hello", type="conversation", of="reask").value == 0
