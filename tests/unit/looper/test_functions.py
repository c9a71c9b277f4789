import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.calling.trace import Trace
from looper.errors import InvalidRequest
from looper.functions import for_client, goes_on, with_tools
from looper.patterns.workflows.pauses.ids import Ids
from looper.patterns.workflows.pauses.white_space import read, written
from looper.patterns.workflows.tools import ONLY_ONE
from looper.run import Heartbeat
from looper.wire.answer import Chunks, Whole
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish, Progress
from looper.wire.sse import DONE, EventReader
from tests.fakes.models import USAGE

IDS = Ids([b"k" * 32])
OURS = IDS.make(IDS.state(), 0)
F = {"name": "f", "parameters": {"type": "object"}}
USER = {"role": "user", "content": "hi"}
CALL = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": "f", "arguments": '{"x": 1}'},
}
SAID = {"role": "assistant", "content": "x"}
RESULT = {"role": "function", "name": "f", "content": "5"}


def request(*messages: dict[str, Any], **members: Any) -> ChatRequest:
    body = {"model": "m", "messages": list(messages or (USER,)), **members}
    return ChatRequest.parse(json.dumps(body).encode())


def translated(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(with_tools(request(*messages, **members)).body)
    return body


def conversation(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = translated(*messages)["messages"]
    return found


def called(arguments: str, **members: Any) -> dict[str, Any]:
    call = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": None, "function_call": call, **members}


class TestMembers:
    def test_functions_are_tools(self) -> None:
        """Each is one, called one at a time; nothing of the older API is left."""
        assert translated(functions=[F, {"name": "g"}], temperature=0.5) == {
            "model": "m",
            "messages": [USER],
            "temperature": 0.5,
            "tools": [
                {"type": "function", "function": F},
                {"type": "function", "function": {"name": "g"}},
            ],
            "parallel_tool_calls": False,
        }

    @pytest.mark.parametrize(
        ("choice", "becomes"),
        [
            pytest.param("none", "none", id="none"),
            pytest.param("auto", "auto", id="auto"),
            pytest.param({"name": "f"}, {"type": "function", "function": {"name": "f"}}, id="named"),
        ],
    )  # fmt: skip
    def test_a_choice_of_a_function_is_one_of_a_tool(self, choice: Any, becomes: Any) -> None:
        """Which of them may or must be called."""
        assert translated(functions=[F], function_call=choice)["tool_choice"] == becomes

    @pytest.mark.parametrize(
        "members",
        [
            pytest.param({"functions": None, "function_call": None}, id="null"),
            pytest.param({"functions": [], "function_call": "auto"}, id="empty"),
            pytest.param({"function_call": "none"}, id="a-choice-of-nothing"),
        ],
    )
    def test_where_nothing_is_offered_nothing_is(self, members: dict[str, Any]) -> None:
        """What clients send who have no functions just now does no harm."""
        asked = translated(**members)
        assert not {"functions", "function_call", "tools", "tool_choice"} & set(asked)

    def test_bytes_stay_as_they_came(self) -> None:
        """Numbers, spaces and vendors' members of a function, and of the request, are those of the client."""
        function = b'{ "name":"f", "parameters":{"maximum": 1e400, "x":1.10}, "strict":true }'
        body = b'{ "model":"m","messages": [%b ,%b],  "functions":[ %b ], "seed":123456789012345678901 }'
        user = b'{"role":"user", "content":"h\\u0069", "x": 1.0}'
        result = b'{"role": "function" , "name":"f", "content":"\\u0035", "x":1.0}'
        asked = with_tools(ChatRequest.parse(body % (user, result, function))).body
        assert b'"tools":[{"type":"function","function":%b}]' % function in asked
        assert user in asked
        assert b'"content":"\\u0035","x":1.0' in asked
        assert b'"seed":123456789012345678901' in asked

    @pytest.mark.parametrize(
        "members",
        [
            pytest.param({}, id="neither"),
            pytest.param({"tools": [{"type": "function", "function": F}]}, id="tools"),
        ],
    )
    def test_what_is_in_the_newer_api_is_the_same_object(self, members: dict[str, Any]) -> None:
        """Nothing is read twice for clients who know tools."""
        asked = request(**members)
        assert with_tools(asked) is asked

    def test_it_is_the_same_conversation(self) -> None:
        """Whatever a decision has added to it before."""
        asked = request(functions=[F])
        told = asked.changed(
            {"messages": json.dumps([{"role": "system", "content": "x"}, USER]).encode()}
        )
        assert with_tools(told).fingerprint == asked.fingerprint

    def test_a_client_of_tools_may_have_spoken_of_functions(self) -> None:
        """Its conversation is translated, and how many tools it takes at once is its own business."""
        tools = [{"type": "function", "function": F}]
        asked = translated(USER, CALL, RESULT, tools=tools)
        assert asked["tools"] == tools
        assert "parallel_tool_calls" not in asked
        assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "tool"]

    @pytest.mark.parametrize(
        ("members", "param", "said"),
        [
            pytest.param({"functions": {}}, "functions", "Expected `array | null`", id="no-list"),
            pytest.param({"functions": [1]}, "functions", "`functions[0]`", id="no-object"),
            pytest.param({"functions": [F, {}]}, "functions", "`functions[1]`: Object missing", id="no-name"),
            pytest.param({"functions": [{"name": ""}]}, "functions", "`functions[0].name`", id="blank-name"),
            pytest.param({"functions": [F], "tools": [F]}, "tools", "do not go together", id="tools-too"),
            pytest.param({"functions": [F], "tool_choice": "auto"}, "tool_choice", "do not go", id="tool-choice"),
            pytest.param({"functions": [F], "function_call": "any"}, "function_call", "neither", id="odd-choice"),
            pytest.param({"functions": [F], "function_call": 1}, "function_call", "Expected", id="number"),
            pytest.param({"functions": [F], "function_call": {}}, "function_call", "missing", id="no-choice"),
            pytest.param({"functions": [F], "function_call": {"name": "g"}}, "function_call", "not among", id="other"),
            pytest.param({"function_call": {"name": "f"}}, "function_call", "not among", id="of-nothing"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said(self, members: dict[str, Any], param: str, said: str) -> None:
        """A 400 that names the member, and repeats nothing of a value."""
        with pytest.raises(InvalidRequest) as refused:
            with_tools(request(**members))
        assert refused.value.param == param
        assert said in refused.value.message

    @pytest.mark.parametrize(
        ("message", "said"),
        [
            pytest.param({"role": "function", "content": "5"}, "`messages[1]`: Object missing", id="no-name"),
            pytest.param({"role": "function", "name": 1, "content": "5"}, "`messages[1].name`", id="odd-name"),
            pytest.param({**CALL, "function_call": "f"}, "`messages[1].function_call`", id="no-object"),
            pytest.param({**CALL, "function_call": {"name": "f"}}, "`messages[1].function_call`", id="no-arguments"),
            pytest.param(
                {**CALL, "function_call": {"name": "f", "arguments": {}}},
                "`messages[1].function_call.arguments`",
                id="no-text",
            ),
            pytest.param({**CALL, "tool_calls": [{"id": "c"}]}, "do not go together", id="calls-too"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_a_message_is_said(self, message: dict[str, Any], said: str) -> None:
        """A 400 that says in which one."""
        with pytest.raises(InvalidRequest) as refused:
            with_tools(request(USER, message))
        assert refused.value.param == "messages"
        assert said in refused.value.message


class TestConversation:
    def test_a_call_and_its_result(self) -> None:
        """They are paired by an id that is the same in every turn."""
        _, call, result = conversation(USER, CALL, RESULT)
        (made,) = call["tool_calls"]
        assert re.fullmatch(r"[0-9A-Za-z_]{1,40}", made["id"])
        assert made == {"id": made["id"], "type": "function", "function": CALL["function_call"]}
        assert "function_call" not in call
        assert result == {"role": "tool", "name": "f", "content": "5", "tool_call_id": made["id"]}
        assert conversation(USER, CALL, RESULT, USER)[:3] == [USER, call, result]

    def test_several_calls_have_several_ids(self) -> None:
        """Each result belongs to the call before it."""
        said = conversation(USER, CALL, RESULT, CALL, RESULT)
        ids = [message["tool_calls"][0]["id"] for message in said[1::2]]
        assert ids == [message["tool_call_id"] for message in said[2::2]]
        assert len(set(ids)) == 2

    def test_a_result_of_nothing_gets_a_call(self) -> None:
        """Upstreams want to have been told who asked."""
        _, call, result = conversation(USER, RESULT)
        (made,) = call["tool_calls"]
        assert made["function"] == {"name": "f", "arguments": "{}"}
        assert result["tool_call_id"] == made["id"]

    @pytest.mark.parametrize("after", [[], [USER]], ids=["at-the-end", "in-the-middle"])
    def test_a_call_of_which_nothing_came_gets_a_result(self, after: list[dict[str, Any]]) -> None:
        """Who used functions to have JSON written never answered them, and upstreams want an answer."""
        _, call, result, *rest = conversation(USER, CALL, *after)
        made = call["tool_calls"][0]["id"]
        assert result == {"role": "tool", "tool_call_id": made, "content": ""}
        assert rest == after

    @pytest.mark.parametrize("content", [{"content": None}, {}], ids=["null", "absent"])
    def test_a_result_without_content_is_an_empty_text(self, content: dict[str, Any]) -> None:
        """A function may say null, a tool may not."""
        *_, result = conversation(USER, CALL, {"role": "function", "name": "f", **content})
        assert result["content"] == ""

    def test_nulls_of_an_sdk_are_nothing(self) -> None:
        """What was dumped with all its members is what it says, and no more."""
        plain = {"role": "assistant", "content": "hello", "function_call": None, "tool_calls": None}
        assert conversation(plain) == [plain]
        _, call, _ = conversation(USER, {**CALL, "tool_calls": None}, RESULT)
        assert call["tool_calls"][0]["function"] == CALL["function_call"]

    def test_an_id_of_ours_is_read_from_the_white_space(self) -> None:
        """The call's id is what we gave out, and the white space goes no further."""
        arguments = '{"x":  1.10}\n'
        _, call, result = conversation(USER, called(arguments + written(OURS)), RESULT)
        (made,) = call["tool_calls"]
        assert (made["id"], result["tool_call_id"]) == (OURS, OURS)
        assert made["function"] == {"name": "f", "arguments": arguments}

    def test_an_id_of_ours_without_a_result_is_none(self) -> None:
        """A call that nobody has answered goes on with no run."""
        _, call, result = conversation(USER, called("{}" + written(OURS)))
        (made,) = call["tool_calls"]
        assert OURS not in (made["id"], result["tool_call_id"])
        assert made["function"]["arguments"] == "{}"

    @given(
        st.lists(
            st.sampled_from(
                [USER, SAID, CALL, RESULT, called("{} \n"), called("{}" + written(OURS))]
            ),
            min_size=1,
            max_size=8,
        )
    )  # fmt: skip
    def test_upstreams_take_every_conversation(self, messages: list[dict[str, Any]]) -> None:
        """Behind each call stands its result and nothing else, and what speaks of no function stays in its order."""
        said = conversation(*messages)
        open: str | None = None
        for message in said:
            assert message["role"] != "function"
            assert "function_call" not in message
            assert (message["role"] == "tool") is (open is not None)
            if open is not None:
                assert message["tool_call_id"] == open
            (call,) = message.get("tool_calls") or [None]
            open = call and call["id"]
            assert call is None or call["function"]["arguments"] in ('{"x": 1}', "{}", "{} \n")
        assert open is None
        kept = [
            each
            for each in messages
            if each.get("function_call") is None and each["role"] != "function"
        ]
        assert [
            each for each in said if each["role"] != "tool" and "tool_calls" not in each
        ] == kept

    def test_a_long_conversation_takes_a_moment(self) -> None:
        """A megabyte of calls is read in linear time."""
        asked = request(USER, *([called("{}" + " " * 500), RESULT] * 1500), functions=[F])
        began = time.process_time()
        with_tools(asked)
        assert time.process_time() - began < 2


class TestUntranslated:
    """What signals and routes see of a request that is still in the older API."""

    def test_tools_are_in_play(self) -> None:
        """Functions that are offered, a call, and a result."""
        assert request(functions=[F]).has_tools
        assert request(USER, CALL).has_tools
        assert request(USER, RESULT).has_tools
        assert not request(USER, {**SAID, "function_call": None}).has_tools

    def test_calls_and_functions_count_in_the_prompt(self) -> None:
        """About as many tokens as the same in the API of tools, whose words are more."""
        long = called(json.dumps({"x": "word " * 200}))
        asked = request(USER, long, RESULT, functions=[{**F, "description": "word " * 200}])
        assert asked.prompt_tokens > 400
        assert 0 < with_tools(asked).prompt_tokens - asked.prompt_tokens < 100


class TestGoesOn:
    @pytest.mark.parametrize(
        ("messages", "goes"),
        [
            pytest.param([USER, called("{}" + written(OURS)), RESULT], True, id="ours"),
            pytest.param([USER, called("{}" + written(OURS)), RESULT, USER], False, id="over"),
            pytest.param([USER, called("{}" + written(OURS))], False, id="no-result"),
            pytest.param([USER, called("{}" + written(OURS)), USER, RESULT], False, id="not-beside-it"),
            pytest.param([USER, called("{}"), RESULT], False, id="somebody's"),
            pytest.param([USER, {**CALL, "function_call": 1}, RESULT], False, id="odd"),
            pytest.param([RESULT], False, id="alone"),
            pytest.param([USER], False, id="plain"),
        ],
    )  # fmt: skip
    def test_only_a_result_of_a_call_of_ours(
        self, messages: Sequence[dict[str, Any]], goes: bool
    ) -> None:
        """Nothing else needs to be translated before it is decided on."""
        assert goes_on(request(*messages)) is goes


def bit(index: int = 0, id: str | None = None, **function: str) -> dict[str, Any]:
    return {"index": index, **({"id": id} if id else {}), "function": function}


def heard(
    *events: Event | Heartbeat, **members: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], Trace]:
    """The completion, the choices of the chunks, and the trace, when these events are handed on to a client."""
    asked = request(**(members or {"functions": [F]}))
    whole, chunks, trace = Whole(asked), Chunks(asked), Trace()
    frames = b""

    async def hand_on() -> None:
        async def emit(event: Event | Heartbeat) -> None:
            nonlocal frames
            assert not isinstance(event, Heartbeat)
            whole.add(event)
            frames += chunks.frames(event)

        take = for_client(asked, emit, trace)
        for event in (*events, Done(USAGE.read(), "ok")):
            await take(event)

    asyncio.run(hand_on())
    read_ = [json.loads(each.data) for each in EventReader().feed(frames) if each.data != DONE]
    return json.loads(whole.to_json()), [each["choices"][0] for each in read_], trace


def joined(choices: list[dict[str, Any]], index: int = 0) -> tuple[str, str]:
    """The name and the arguments, as a client puts them together."""
    calls = [
        each["delta"]["function_call"]
        for each in choices
        if each["index"] == index and "function_call" in each["delta"]
    ]
    assert "name" in calls[0]
    assert not any("name" in each for each in calls[1:])
    return calls[0]["name"], "".join(each["arguments"] for each in calls)


class TestAnswer:
    def test_a_call_in_one_piece(self) -> None:
        """A winner's call is one of a function, whole and streamed."""
        tool = {"index": 0, "id": "c", "type": "function", "function": CALL["function_call"]}
        whole, choices, trace = heard(Delta("tool_calls", [tool]), Finish("tool_calls"))
        (choice,) = whole["choices"]
        assert choice["message"] == {**CALL}
        assert choice["finish_reason"] == "function_call"
        assert joined(choices) == ("f", '{"x": 1}')
        assert choices[-1]["finish_reason"] == "function_call"
        assert trace.notes == []

    def test_a_call_in_bits(self) -> None:
        """First its name, once, and then its arguments as they come."""
        bits = [
            bit(id="c", name="f", arguments=""),
            bit(name="f", arguments='{"x"'),
            bit(arguments=": 1}"),
        ]
        whole, choices, _ = heard(
            *[Delta("tool_calls", [each]) for each in bits], Finish("tool_calls")
        )
        assert whole["choices"][0]["message"]["function_call"] == CALL["function_call"]
        assert joined(choices) == ("f", '{"x": 1}')
        assert [each["delta"] for each in choices[:2]] == [
            {"function_call": {"name": "f", "arguments": ""}},
            {"function_call": {"arguments": '{"x"'}},
        ]  # fmt: skip

    @pytest.mark.parametrize("first", [0, 1], ids=["from-0", "with-gaps"])
    def test_of_several_calls_the_first_counts(self, first: int) -> None:
        """A client of functions can take no more, and the trace says that there were."""
        bits = [
            bit(first, "a", name="f", arguments=""),
            bit(first + 2, "b", name="g", arguments="{"),
            bit(first, arguments="{}"),
            bit(first + 2, arguments="}"),
        ]
        whole, choices, trace = heard(Delta("tool_calls", bits), Finish("tool_calls"))
        assert whole["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}
        assert joined(choices) == ("f", "{}")
        assert trace.notes == [ONLY_ONE]

    def test_each_choice_makes_its_own_call(self) -> None:
        """With several choices, every one of them."""
        deltas = [
            Delta("tool_calls", [bit(0, f"c{at}", name="f", arguments=f'{{"x": {at}}}')], at)
            for at in (0, 1)
        ]
        whole, choices, trace = heard(*deltas, Finish("tool_calls"), Finish("stop", 1))
        calls = [each["message"]["function_call"]["arguments"] for each in whole["choices"]]
        assert calls == ['{"x": 0}', '{"x": 1}']
        assert [joined(choices, at)[1] for at in (0, 1)] == calls
        assert [each["finish_reason"] for each in whole["choices"]] == ["function_call", "stop"]
        assert trace.notes == []

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [(['{"x"', ": 1}"], '{"x": 1}'), ([], "{}"), ([" ", "\n"], " \n{}"), (["{}\n"], "{}\n")],
        ids=["some", "none", "blank", "ending-in-white-space"],
    )
    def test_a_call_that_a_run_waits_for_carries_its_id(
        self, arguments: list[str], shown: str
    ) -> None:
        """It is the last bit, and JSON all the same."""
        bits = [bit(id=OURS, name="f"), *(bit(arguments=each) for each in arguments)]
        whole, choices, _ = heard(Delta("tool_calls", bits), Finish("tool_calls"))
        call = whole["choices"][0]["message"]["function_call"]
        assert joined(choices) == ("f", call["arguments"])
        assert read(call["arguments"]) == (shown, OURS)
        json.loads(call["arguments"])
        assert choices[-2]["delta"]["function_call"]["arguments"].endswith(written(OURS))

    def test_everything_else_is_handed_on(self) -> None:
        """Text, thoughts, stages and other ends are what they are."""
        events = (
            Progress("x"),
            Delta("reasoning_content", "hm"),
            Delta("content", "hi"),
            Finish("length"),
        )
        assert heard(*events)[0]["choices"] == heard(*events, temperature=1)[0]["choices"]

    @pytest.mark.parametrize(
        "members",
        [{"temperature": 1}, {"tools": [{"type": "function", "function": F}], "function_call": None}],
        ids=["neither", "tools"],
    )  # fmt: skip
    def test_clients_of_tools_get_tools(self, members: dict[str, Any]) -> None:
        """Who does not offer functions reads nothing of them."""
        whole, _, _ = heard(
            Delta("tool_calls", [bit(id="c", name="f", arguments="{}")]),
            Finish("tool_calls"),
            **members,
        )
        assert whole["choices"][0]["finish_reason"] == "tool_calls"
        assert whole["choices"][0]["message"]["tool_calls"][0]["id"] == "c"
