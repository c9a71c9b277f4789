import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from looper.calling.calls import CallFailed, Failure, Result, successes, usable
from looper.calling.drafts import Draft, answering, json_schema, private
from looper.calling.models import Model
from looper.wire.chat import ChatRequest, Completion
from tests.fakes.models import completion, model

MODEL = model("m", upstream_model="vendor/m-9b")
SCHEMED = model("m", capabilities=["json_schema"])
USER = '{"role": "user", "content": "hi"}'
TOOL_TURN = (
    '{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [{"id": "c"}]}, '
    '{"role": "tool", "tool_call_id": "c", "content": "5"}'
)


def request_of(*members: str, messages: str = USER) -> ChatRequest:
    return ChatRequest.parse(
        f'{{"model": "looper/auto", "messages": [{messages}], {", ".join(members)}}}'.replace(
            ", }", "}"
        ).encode()
    )


def members_of(draft: Draft, max_tokens: int | None = None) -> dict[str, str]:
    """A call's members, each as it is written."""
    raws = msgspec.json.decode(draft.call(max_tokens).body, type=dict[str, msgspec.Raw])
    return {name: bytes(raw).decode() for name, raw in raws.items()}


TOOLS = {
    "tools": '[{"type": "function", "function": {"name": "f"}}]',
    "tool_choice": '"auto"',
    "parallel_tool_calls": "false",
}


def written(members: dict[str, str]) -> list[str]:
    return [f'"{name}": {value}' for name, value in members.items()]


class TestAnswering:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("temperature", "1.10"),
            ("top_p", "1e-1"),
            ("seed", "12345678901234567890123"),
            ("stop", '[ "\\u000a",  "x" ]'),
            ("response_format", '{ "type" : "json_schema", "json_schema": {"schema": {"maximum": 1e400}} }'),
            ("logit_bias", '{"50256": -100.0}'),
            ("reasoning_effort", '"high"'),
            ("user", '"\\u00e9\\/"'),
            ("metadata", '{"a": null}'),
            ("vllm_xargs", '{"a": [1 , 2], "a": 3}'),
            ("x-vendor", "-0.0"),
        ],
    )  # fmt: skip
    def test_the_clients_wishes_go_on_byte_for_byte(self, name: str, value: str) -> None:
        """What is not ours to set is what the client wrote, down to its digits and spaces."""
        call = answering(request_of(f'"{name}": {value}'), MODEL, "panel")
        assert members_of(call)[name] == value

    @settings(deadline=None, max_examples=100)
    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
                lambda name: name not in ("model", "messages", "max_tokens", "max_completion_tokens")
            ),
            st.sampled_from(["0", "1.10", "1e400", "9" * 30, '"\\u00e9"', "[ ]", '{"b" :{}}', "null"]),
            max_size=5,
        )
    )  # fmt: skip
    def test_members_that_nobody_knows_go_on_byte_for_byte(self, members: dict[str, str]) -> None:
        """Vendors' own members pass, whatever they are called, and nothing is added to them."""
        own = ["stream", "stream_options", "n", "logprobs", "top_logprobs"]
        pairs = [f"{json.dumps(name)}: {value}" for name, value in members.items()]
        call = answering(request_of(*pairs), MODEL, "panel", tools=True)
        said = {name: value for name, value in members.items() if value != "null"}
        kept = {name: value for name, value in said.items() if name not in own}
        assert members_of(call) == {
            "model": '"vendor/m-9b"', "messages": f"[{USER}]", **kept,
        }  # fmt: skip

    def test_the_model_is_the_upstreams(self) -> None:
        """A backend is asked for its own model, not for our public name."""
        assert members_of(answering(request_of(), MODEL, "panel"))["model"] == '"vendor/m-9b"'

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("stream", "true"),
            ("stream_options", '{"include_usage": true}'),
            ("n", "1"),
            ("logprobs", "true"),
            ("top_logprobs", "3"),
        ],
    )
    def test_what_the_runtime_sets_itself_is_taken_out(self, name: str, value: str) -> None:
        """How an answer is delivered is between us and the client."""
        call = answering(request_of(f'"{name}": {value}'), MODEL, "panel")
        assert name not in members_of(call)

    def test_logprobs_go_on_where_the_answer_is_published(self) -> None:
        """The stage whose answer the client reads is asked for what the client wants to read."""
        request = request_of('"logprobs": true', '"top_logprobs": 3')
        members = members_of(answering(request, MODEL, "final", logprobs=True))
        assert (members["logprobs"], members["top_logprobs"]) == ("true", "3")

    def test_logprobs_are_not_asked_for_unless_the_client_does(self) -> None:
        """To ask for more than is wanted costs time, and some backends refuse it."""
        members = members_of(answering(request_of(), MODEL, "final", logprobs=True))
        assert not {"logprobs", "top_logprobs"} & set(members)

    def test_a_stream_is_asked_for_with_its_usage(self) -> None:
        """A streamed call reports what it took, whether the client wants to see it or not."""
        request = request_of('"stream": true', '"stream_options": {"include_usage": false}')
        members = members_of(answering(request, MODEL, "final", stream=True))
        assert json.loads(members["stream"]) is True
        assert json.loads(members["stream_options"]) == {"include_usage": True}

    def test_an_unstreamed_call_says_nothing_of_streams(self) -> None:
        """The default of every backend is an answer in one piece."""
        assert not {"stream", "stream_options"} & set(
            members_of(answering(request_of('"stream": true'), MODEL, "panel"))
        )

    def test_tools_go_on_where_they_may_be_called(self) -> None:
        """The stage that may call the client's tools gets them as they are."""
        members = members_of(answering(request_of(*written(TOOLS)), MODEL, "final", tools=True))
        assert {name: members[name] for name in TOOLS} == TOOLS

    def test_tools_are_taken_out_where_nobody_could_run_them(self) -> None:
        """Without a turn of tools in the conversation, a call without tools knows nothing of any."""
        members = members_of(answering(request_of(*written(TOOLS)), MODEL, "panel"))
        assert not set(TOOLS) & set(members)

    @pytest.mark.parametrize("messages", [USER, TOOL_TURN], ids=["plain", "tool-turn"])
    @pytest.mark.parametrize("tools", [True, False], ids=["may", "may-not"])
    def test_how_many_at_once_is_not_said_without_tools(self, tools: bool, messages: str) -> None:
        """`parallel_tool_calls` without `tools` is an error to backends."""
        request = request_of('"parallel_tool_calls": false', messages=messages)
        assert "parallel_tool_calls" not in members_of(
            answering(request, MODEL, "final", tools=tools)
        )

    def test_tools_stay_disarmed_where_the_conversation_holds_their_answers(self) -> None:
        """Backends refuse tool messages without tools; so these stay, but may not be called."""
        request = request_of(*written(TOOLS), messages=TOOL_TURN)
        members = members_of(answering(request, MODEL, "panel"))
        assert members["tools"] == TOOLS["tools"]
        assert members["tool_choice"] == '"none"'

    def test_a_choice_is_not_made_where_there_are_no_tools(self) -> None:
        """`tool_choice` without `tools` is an error to backends, so none is added."""
        members = members_of(answering(request_of(messages=TOOL_TURN), MODEL, "panel"))
        assert "tool_choice" not in members

    def test_tools_may_be_called_in_a_later_turn_as_well(self) -> None:
        """A conversation with tool messages does not disarm the stage that may call tools."""
        request = request_of(*written(TOOLS), messages=TOOL_TURN)
        members = members_of(answering(request, MODEL, "final", tools=True))
        assert members["tool_choice"] == '"auto"'

    def test_the_role_and_the_model_are_kept_beside_the_body(self) -> None:
        """Statistics know what a call is for without reading it."""
        call = answering(request_of(), MODEL, "final")
        assert (call.model, call.role) == (MODEL, "final")


MESSAGES = [
    pytest.param(USER, id="one"),
    pytest.param(f"{USER} , {USER}\n", id="spaces-at-the-end"),
    pytest.param(
        '{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}], "x": 1e400}',
        id="parts-and-big-numbers",
    ),
    pytest.param('{"role":"assistant","content":null,"reasoning_content":"\\u0041"}', id="escapes"),
    pytest.param('{"role": "user", "content": "]}"}', id="brackets-in-a-string"),
]


class TestInstruction:
    @pytest.mark.parametrize("messages", MESSAGES)
    @pytest.mark.parametrize("kind", ["answering", "private"])
    def test_is_a_message_of_its_own_where_that_is_asked_for(
        self, messages: str, kind: str
    ) -> None:
        """Some servers are to be told apart from what the client says, of which no byte is touched."""
        text = self.told(messages, kind, model("m", dialect={"apart": True}))
        assert text.startswith(f"[{messages.rstrip()}")
        assert json.loads(text)[-1] == {"role": "user", "content": 'say "é"\n'}
        assert len(json.loads(text)) == len(json.loads(f"[{messages}]")) + 1

    @pytest.mark.parametrize("messages", MESSAGES)
    @pytest.mark.parametrize("kind", ["answering", "private"])
    def test_ends_the_users_last_message(self, messages: str, kind: str) -> None:
        """Many chat templates refuse two messages of the user's in a row. Every byte before ours stays."""
        text, before = self.told(messages, kind, MODEL), json.loads(f"[{messages}]")
        *others, last = json.loads(text)
        if before[-1]["role"] == "user":
            content = before[-1]["content"]
            more = (
                [*content, {"type": "text", "text": 'say "é"\n'}]
                if isinstance(content, list)
                else f'{content}\n\nsay "é"\n'
            )
            assert [*others, last] == [*before[:-1], {**before[-1], "content": more}]
            assert text.startswith(f"[{messages}"[: messages.rindex("content")])
        else:
            assert (others, last) == (before, {"role": "user", "content": 'say "é"\n'})

    def told(self, messages: str, kind: str, whom: Model) -> str:
        request = request_of(messages=messages)
        if kind == "answering":
            draft = answering(request, whom, "final", instruction='say "é"\n')
        else:
            draft = private(request, whom, "judge", instruction='say "é"\n', schema=None)
        return members_of(draft)["messages"]

    @pytest.mark.parametrize("messages", MESSAGES)
    def test_without_one_the_messages_are_the_clients(self, messages: str) -> None:
        """A call that adds nothing sends the very same conversation."""
        call = answering(request_of(messages=messages), MODEL, "panel")
        assert members_of(call)["messages"] == f"[{messages}]"


class TestPrivate:
    def call(self, *members: str, messages: str = USER, **options: Any) -> dict[str, str]:
        options = {"instruction": "judge!", "schema": None, **options}
        request = request_of(*members, messages=messages)
        return members_of(private(request, options.pop("model", MODEL), "judge", **options))

    def test_takes_the_conversation_and_nothing_else(self) -> None:
        """The client's wishes are about the answer, which this call does not write."""
        members = self.call(
            '"temperature": 1', '"stop": ["x"]', '"max_tokens": 5', '"seed": 1', '"n": 1', '"logprobs": true',
            '"response_format": {"type": "json_object"}', '"stream": true', '"user": "u"', '"x-vendor": 1',
            *written(TOOLS),
        )  # fmt: skip
        # A seed of its own follows from the client's, so that a rerun is the same and stages are not.
        assert members.pop("seed") != "1"
        assert set(members) == {"model", "messages"}
        assert members["model"] == '"vendor/m-9b"'

    def test_keeps_tools_disarmed_where_the_conversation_holds_their_answers(self) -> None:
        """As for the panel: they are there to be seen, not to be called."""
        members = self.call(*written(TOOLS), messages=TOOL_TURN)
        assert members["tools"] == TOOLS["tools"]
        assert members["tool_choice"] == '"none"'

    def test_gives_a_schema_to_a_model_that_knows_how(self) -> None:
        """A model with the capability is held to the schema by its backend."""
        members = self.call(schema={"type": "object"}, model=SCHEMED)
        assert json.loads(members["response_format"]) == {
            "type": "json_schema",
            "json_schema": {"name": "judge", "schema": {"type": "object"}, "strict": False},
        }

    @pytest.mark.parametrize(
        ("schema", "asked"),
        [({"type": "object"}, MODEL), (None, SCHEMED)],
        ids=["cannot", "need-not"],
    )
    def test_gives_none_to_a_model_that_does_not(self, schema: Any, asked: Any) -> None:
        """A backend without the capability would refuse the call."""
        assert "response_format" not in self.call(schema=schema, model=asked)


class TestUsable:
    @pytest.mark.parametrize(
        ("answer", "good"),
        [
            pytest.param(completion("yes"), True, id="text"),
            pytest.param(completion(" \n\t"), False, id="blank"),
            pytest.param(completion(""), False, id="empty"),
            pytest.param(completion(None), False, id="null"),
            pytest.param(completion(None, refusal="no"), True, id="refusal"),
            pytest.param(completion(None, tool_calls=[{}]), True, id="tool-call"),
            pytest.param(completion(None, tool_calls=[]), False, id="no-tool-calls"),
            pytest.param(completion(None, reasoning_content="hm"), False, id="reasoning-only"),
            pytest.param(completion("cut", finish="length"), True, id="cut-short"),
            pytest.param(Completion(), False, id="no-choices"),
            pytest.param(msgspec.convert({"choices": [{}]}, Completion), False, id="no-message"),
        ],
    )
    def test_is_what_could_be_published(self, answer: Completion, good: bool) -> None:
        """Text, a tool call or a refusal is an answer; blanks and mere thoughts are none."""
        assert usable(answer) is good


class TestResult:
    def test_text_is_the_answers_content(self) -> None:
        """A result reads as its text."""
        assert Result(MODEL, "panel", "ok", completion("yes")).text == "yes"

    def test_text_of_a_failure_is_empty(self) -> None:
        """Where there is no answer there is no text."""
        broken = CallFailed(Failure.BROKEN)
        assert Result(MODEL, "panel", "failed", error=broken).text == ""
        assert Result(MODEL, "panel", "ok", completion(None, refusal="no")).text == ""

    def test_successes_stay_in_their_order(self) -> None:
        """Only what is ok counts, in the order of the calls."""
        a, b = (Result(MODEL, "panel", "ok", completion(text)) for text in "ab")
        failed, unusable = Result(MODEL, "panel", "failed"), Result(MODEL, "panel", "unusable")
        assert successes([a, failed, b, unusable]) == [a, b]


@pytest.mark.parametrize("came", [None, Completion(choices=[])], ids=["nothing", "no-choices"])
def test_what_says_nothing_has_no_end(came: Completion | None) -> None:
    """Some backends send no choice at all, and that is no mistake of ours."""
    result = Result(model("m"), "candidate", "unusable", came)
    assert (result.message, result.finish, result.text) == (None, None, "")


def test_a_failed_call_says_no_more_than_its_kind() -> None:
    """The text of an exception may land in a log, so nothing of an upstream's is in it."""
    assert str(CallFailed(Failure.STATUS, status=429, retry_after=5)) == "status 429"
    assert str(CallFailed(Failure.CONNECT)) == "connect"


def test_the_schema_of_a_model_is_plain_json() -> None:
    """Backends get nothing that JSON does not have."""

    class Verdict(BaseModel):
        score: float | None = None

    schema = json_schema(Verdict)
    assert schema == json.loads(json.dumps(schema))
    assert "score" in schema["properties"]
