import json
import re
import time

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from looper.errors import InvalidField, InvalidJson, InvalidRequest
from looper.wire.chat import ChatRequest, Request, Usage, WireUsage

# No deadline: how long one example takes on a shared machine says nothing.
thorough = settings(deadline=None, max_examples=100)

MESSAGES = '"messages": [{"role": "user", "content": "hi"}]'
SECRET = "s3cr3t-of-the-user"


def chat(*members: str) -> bytes:
    return ("{" + ", ".join(['"model": "m"', MESSAGES, *members]) + "}").encode()


def complaint(body: str) -> str:
    """All that is said of a body, if anything is."""
    try:
        request = ChatRequest.parse(body.encode())
        _ = request.stream, request.include_usage, request.choices
    except InvalidRequest as error:
        return f"{error} {error.message} {error.param} {error.to_json().decode()}"
    return ""


# JSON as clients may write it: any white space, any escapes, any numbers. Each value is drawn as its text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
gaps = st.text(alphabet=" \t\r\n", max_size=2)
numbers = st.sampled_from(
    ["0", "-0", "-0.0", "1.10", "1e400", "-1E+2", "0.1e-7", "12345678901234567890123", "9007199254740993"]
) | st.integers().map(str)  # fmt: skip


@st.composite
def strings(draw: st.DrawFn, contents: st.SearchStrategy[str] | None = None) -> str:
    text = draw(texts if contents is None else contents)
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        return written
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text) + '"'


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(strings() | st.just('"model"'), max_size=4, unique_by=json.loads))
    members = [f"{draw(gaps)}{key}{draw(gaps)}:{draw(gaps)}{draw(values)}" for key in keys]
    return "{" + ",".join(f"{member}{draw(gaps)}" for member in members) + draw(gaps) + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(values, max_size=3))
    return "[" + ",".join(f"{draw(gaps)}{item}{draw(gaps)}" for item in items) + "]"


json_values = st.recursive(
    strings() | numbers | st.sampled_from(["true", "false", "null"]),
    lambda values: objects(values) | arrays(values),
    max_leaves=4,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str, str]:
    """A JSON object with a `model` at any place: what stands before its value, the value, what stands behind."""
    keys = draw(st.lists(strings(), max_size=4, unique_by=json.loads))
    assume("model" not in map(json.loads, keys))
    before = draw(st.integers(0, len(keys)))
    written = [
        f"{draw(gaps)}{key}{draw(gaps)}:{draw(gaps)}{draw(json_values)}{draw(gaps)}" for key in keys
    ]
    head = "".join(f"{member}," for member in written[:before])
    tail = "".join(f",{member}" for member in written[before:])
    key = draw(strings(st.just("model")))
    head = f"{draw(gaps)}{{{head}{draw(gaps)}{key}{draw(gaps)}:{draw(gaps)}"
    return head, draw(strings()), f"{draw(gaps)}{tail}}}{draw(gaps)}"


class TestWithModel:
    @thorough
    @given(bodies(), texts)
    def test_changes_the_value_of_model_and_nothing_else(
        self, body: tuple[str, str, str], name: str
    ) -> None:
        """Whatever the body, all bytes before and behind the model's value stay as they were."""
        head, value, tail = body
        changed = Request.parse(f"{head}{value}{tail}".encode()).with_model(name)
        assert changed == head.encode() + msgspec.json.encode(name) + tail.encode()

    @thorough
    @given(bodies(), texts)
    def test_its_result_names_the_new_model(self, body: tuple[str, str, str], name: str) -> None:
        """What was rewritten is a request again, for the model that was written into it."""
        assert Request.parse(Request.parse("".join(body).encode()).with_model(name)).model == name

    @thorough
    @given(bodies())
    def test_members_are_the_bytes_of_the_client(self, body: tuple[str, str, str]) -> None:
        """Each member is kept as it was written, so that no number is rounded and no escape is undone."""
        text = "".join(body)
        request = Request.parse(text.encode())
        assert list(request.members) == list(json.loads(text))
        for name, raw in request.members.items():
            assert bytes(raw) in text.encode()
            assert json.loads(bytes(raw)) == json.loads(text)[name]

    @pytest.mark.parametrize(
        ("body", "changed"),
        [
            pytest.param('{"model":"a"}', '{"model":"z"}', id="alone"),
            pytest.param(
                '{"x":{"model":"a"},"model":"a","y":[{"model":"a"}]}',
                '{"x":{"model":"a"},"model":"z","y":[{"model":"a"}]}',
                id="nested-model-keys-stay",
            ),
            pytest.param('{"\\u006dodel":"a"}', '{"\\u006dodel":"z"}', id="escaped-key"),
            pytest.param('{"x":"\\"model\\":1","model":"a"}', '{"x":"\\"model\\":1","model":"z"}', id="in-a-string"),
            pytest.param('{"a":"model","model":"model"}', '{"a":"model","model":"z"}', id="model-as-a-value"),
            pytest.param('{"model":"\\ud83d\\ude00","n":1}', '{"model":"z","n":1}', id="escaped-value"),
            pytest.param('\n{ "model"\t:\r"a" , "n": 1 } ', '\n{ "model"\t:\r"z" , "n": 1 } ', id="white-space"),
            pytest.param('{"}":"{","model":"a","]":"["}', '{"}":"{","model":"z","]":"["}', id="brackets-in-strings"),
            pytest.param('{"\\\\":1,"\\"":2,"model":"a"}', '{"\\\\":1,"\\"":2,"model":"z"}', id="escapes-in-keys"),
            pytest.param('{"":1,"model":"a"}', '{"":1,"model":"z"}', id="empty-key"),
        ],
    )  # fmt: skip
    def test_by_example(self, body: str, changed: str) -> None:
        """The value of the top-level `model` is found wherever and however it is written."""
        assert Request.parse(body.encode()).with_model("z") == changed.encode()

    def test_escapes_the_name(self) -> None:
        """A name cannot break out of its string."""
        changed = Request.parse(b'{"model":"a"}').with_model('x","stream":true,"y":"\n')
        assert json.loads(changed) == {"model": 'x","stream":true,"y":"\n'}


class TestParse:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b" \n", id="blank"),
            pytest.param(b"hello", id="not-json"),
            pytest.param(b'{"model": "m"', id="truncated"),
            pytest.param(b'{"model": "m', id="truncated-in-a-string"),
            pytest.param(b'{"model": "m"} {}', id="trailing-text"),
            pytest.param(b'{"model": "m",}', id="trailing-comma"),
            pytest.param(b'{"model": "m" "n": 1}', id="missing-comma"),
            pytest.param(b"{'model': 'm'}", id="single-quotes"),
            pytest.param(b'{"model": "m", "n": 01}', id="leading-zero"),
            pytest.param(b'{"model": "m", "n": NaN}', id="nan"),
            pytest.param(b'{"model": "m", "x": "\x01"}', id="control-character"),
            pytest.param(b'{"model": "m", "x": "\\q"}', id="bad-escape"),
            pytest.param(b'{"model": "m", "x": "\xff"}', id="invalid-utf-8"),
            pytest.param(b'{"model": "m", "x": "\xed\xa0\x80"}', id="surrogate-in-utf-8"),
            pytest.param(b'{"model": "m", "\xc3": 1}', id="cut-utf-8-in-a-key"),
            pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
            pytest.param('{"model": "m"}'.encode("utf-16"), id="utf-16"),
            pytest.param(b"[]", id="array"),
            pytest.param(b'"model"', id="string"),
            pytest.param(b"null", id="null"),
            pytest.param(b"1", id="number"),
            pytest.param(b'{"model": "m", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", id="too-deep"),
            pytest.param(b"[" * 100_000, id="far-too-deep"),
        ],
    )
    def test_what_is_no_json_object_is_invalid_json(self, body: bytes) -> None:
        """A body that is not one JSON object in UTF-8 is refused as such."""
        with pytest.raises(InvalidJson) as caught:
            ChatRequest.parse(body)
        assert (caught.value.status, caught.value.code) == (400, "invalid_json")

    @pytest.mark.parametrize(
        ("members", "name"),
        [
            pytest.param('"a": 1, "a": 2', "a", id="other-value"),
            pytest.param('"a": 1, "a": 1', "a", id="same-value"),
            pytest.param('"a": 1, "a": 11', "a", id="second-begins-with-the-first"),
            pytest.param('"a": 11, "a": 1', "a", id="first-begins-with-the-second"),
            pytest.param('"a": [1], "b": 2, "a": [1]', "a", id="apart"),
            pytest.param('"ab": 1, "a\\u0062": 1', "ab", id="escaped"),
            pytest.param('"a": 1, "a": 2, "a": 1', "a", id="three-times"),
            pytest.param('"model": "x"', "model", id="model"),
            pytest.param('"mod\\u0065l": "m"', "model", id="escaped-model"),
            pytest.param('"messages": []', "messages", id="messages"),
            pytest.param('"": 1, "": 1', "", id="empty-key"),
            pytest.param('"é": 1, "\\u00e9": 1', "é", id="not-ascii"),
        ],
    )  # fmt: skip
    def test_a_key_that_stands_twice_is_refused(self, members: str, name: str) -> None:
        """Two readers of such a body could see two different requests, so nobody gets to see it."""
        with pytest.raises(InvalidJson, match=re.escape(f"The key `{name}` stands twice")):
            ChatRequest.parse(chat(members))

    @thorough
    @given(objects(json_values), st.data())
    def test_a_key_is_found_to_stand_twice_whatever_is_between(
        self, rest: str, data: st.DataObject
    ) -> None:
        """A repeated key is refused with any value and anything between the two."""
        values = data.draw(st.tuples(json_values, json_values))
        key = data.draw(strings(st.just("repeated")))
        inner = rest[1:-1].strip(" \t\r\n")
        assume(not {"repeated", "model"} & set(json.loads(rest)))
        body = f'{{"model":"m","repeated":{values[0]},{inner + "," if inner else ""}{key}:{values[1]}}}'
        with pytest.raises(InvalidJson, match="stands twice"):
            Request.parse(body.encode())

    @pytest.mark.parametrize("where", ["nested", "array"])
    def test_a_key_that_stands_twice_further_in_is_the_clients_affair(self, where: str) -> None:
        """Only the top level is read here, so only there a repetition matters."""
        member = {"nested": '"x": {"a": 1, "a": 2}', "array": '"x": [{"a": 1, "a": 2}]'}[where]
        assert ChatRequest.parse(chat(member)).model == "m"

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            pytest.param("{}", "model", id="no-model"),
            pytest.param('{"Model": "m"}', "model", id="model-in-other-case"),
            pytest.param('{"model": null}', "model", id="null"),
            pytest.param('{"model": 1}', "model", id="number"),
            pytest.param('{"model": ["m"]}', "model", id="array"),
            pytest.param('{"model": {"id": "m"}}', "model", id="object"),
            pytest.param('{"model": "m"}', "messages", id="no-messages"),
            pytest.param('{"model": "m", "messages": null}', "messages", id="null-messages"),
            pytest.param('{"model": "m", "messages": []}', "messages", id="empty-messages"),
            pytest.param('{"model": "m", "messages": {}}', "messages", id="messages-are-an-object"),
            pytest.param(
                '{"model": "m", "messages": "hi"}', "messages", id="messages-are-a-string"
            ),
        ],
    )
    def test_a_member_of_the_wrong_kind_is_an_invalid_field(self, body: str, param: str) -> None:
        """What a request must have is refused by name if it is missing or cannot be read."""
        with pytest.raises(InvalidField) as caught:
            ChatRequest.parse(body.encode())
        assert (caught.value.param, caught.value.code) == (param, "invalid_field")
        assert f"`{param}" in caught.value.message

    @pytest.mark.parametrize(
        ("message", "place"),
        [
            pytest.param('"hi"', "", id="a-string"),
            pytest.param("null", "", id="null"),
            pytest.param('{"content": "x"}', "", id="no-role"),
            pytest.param('{"role": 1}', ".role", id="role-is-a-number"),
            pytest.param('{"role": "user", "content": 1}', ".content", id="content-is-a-number"),
            pytest.param('{"role": "user", "content": {}}', ".content", id="content-is-an-object"),
            pytest.param('{"role": "user", "content": ["x"]}', ".content[0]", id="part-is-a-string"),
            pytest.param('{"role": "user", "content": [{"text": 1}]}', ".content[0].text", id="text-is-a-number"),
        ],
    )  # fmt: skip
    def test_a_message_of_the_wrong_kind_is_named_by_its_place(
        self, message: str, place: str
    ) -> None:
        """Where a team is to read it. What one model is to read is passed on, and what is understood of it is read."""
        body = f'{{"model": "m", "messages": [{{"role": "user", "content": "x"}}, {message}]}}'
        request = ChatRequest.parse(body.encode())
        assert request.text.startswith("x")
        assert len(request.messages) == 2
        with pytest.raises(InvalidField, match=re.escape(f"`messages[1]{place}`")) as caught:
            request.check()
        assert caught.value.param == "messages"

    def test_what_signals_read_of_a_strange_message(self) -> None:
        """Each of its members by itself, and a text that is null is none."""
        part = '{"type": "text", "text": "b"}'
        for content, text in (
            (f'["a", {part}, {{"text": null}}, {{"type": "image_url"}}]', "b"),
            (f'[{part}, {{"text": 3}}]', "b"),
            ("3", ""),
        ):
            body = f'{{"model": "m", "messages": [{{"role": "user", "content": {content}}}]}}'
            assert ChatRequest.parse(body.encode()).text == text
        body = '{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]}'
        ChatRequest.parse(body.encode()).check()

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize(
        ("said", "limit"),
        [("null", None), ("1", 1), ("256.0", 256), ("1e3", 1000), (str(10**30), 10**30)],
    )
    def test_a_limit_is_a_positive_number(self, name: str, said: str, limit: int | None) -> None:
        """However it is written."""
        request = ChatRequest.parse(chat(f'"{name}": {said}'))
        request.check()
        assert request.output_limit == limit

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
    @pytest.mark.parametrize(
        "said",
        ["-1", "-1000000", "0", "0.0", "-0", "1.5", "0.5", '"256"', "true", "[]", "{}", "1e400"],
    )
    def test_a_limit_is_nothing_else(self, name: str, said: str) -> None:
        """Whoever counts what is spent cannot count with it, also where it stands beside a good one."""
        members = f'"{name}": {said}' + (
            ', "max_completion_tokens": 5' if name == "max_tokens" else ""
        )
        with pytest.raises(InvalidField) as caught:
            ChatRequest.parse(chat(members)).check()
        assert caught.value.param == name

    @pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\ud83d x", r"\\\ud83d"])
    def test_half_a_character_is_text(self, half: str) -> None:
        """It is read as U+FFFD, and every byte stays as it came."""
        body = f'{{"model": "m", "user": "{half}", "messages": [{{"role": "user", "content": "<{half}>"}}]}}'
        request = ChatRequest.parse(body.encode())
        request.check()
        assert request.text == json.loads(f'"<{half}>"').encode("utf-16", "surrogatepass").decode(
            "utf-16", "replace"
        )
        assert request.with_model("o") == body.replace('"model": "m"', '"model": "o"').encode()
        assert b"ufffd" in bytes(request.members["messages"])

    @pytest.mark.parametrize("place", ["in-messages", "in-stream-options", "beside"])
    def test_a_body_is_as_deep_as_it_may_be_or_refused(self, place: str) -> None:
        """No depth of nesting, just under the limit of any reader or above, is a mistake of ours."""
        for depth in range(900, 1010):
            nest = "[" * depth + "]" * depth
            messages = f'[{{"role": "user", "x": {nest if place == "in-messages" else "0"}}}]'
            options = f'{{"x": {nest if place == "in-stream-options" else "0"}}}'
            beside = nest if place == "beside" else "0"
            body = f'{{"model": "m", "messages": {messages}, "stream_options": {options}, "x": {beside}}}'
            try:
                request = ChatRequest.parse(body.encode())
                assert not request.include_usage
            except InvalidRequest:
                pass

    @pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "n"])
    @pytest.mark.parametrize("cut", [0, 1, 3])
    @pytest.mark.parametrize(
        "shape",
        [
            '"{}"', '["{}"]', '{{"{}": 1}}', '{{"x": "{}"}}', '[{{"role": "{}", "content": 5}}]',
            '[{{"role": 5, "content": "{}"}}]', '[{{"content": "{}"}}]', '[{{"{}": 1}}]',
            '[{{"role": "user", "content": [{{"type": "{}", "text": 5}}]}}]', '{{"include_usage": "{}"}}',
        ],
    )  # fmt: skip
    def test_no_error_says_a_value_of_the_body(self, name: str, shape: str, cut: int) -> None:
        """Errors name members and types; what the client wrote is not repeated, as it lands in logs."""
        members = {"model": '"m"', "messages": '[{"role": "user", "content": "hi"}]'}
        members[name] = shape.format(SECRET)
        text = "{" + ", ".join(f'"{key}": {value}' for key, value in members.items()) + "}"
        assert SECRET not in complaint(text[: len(text) - cut])


class TestText:
    def test_is_what_the_user_wrote_over_all_turns(self) -> None:
        """Other roles' messages are no part of the text that signals read."""
        body = {
            "model": "m",
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "tool", "content": "three", "tool_call_id": "x"},
                {"role": "user", "content": "four"},
            ],
        }
        assert ChatRequest.parse(json.dumps(body).encode()).text == "one\nfour"

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            pytest.param("plain", "plain", id="string"),
            pytest.param(None, "", id="null"),
            pytest.param([], "", id="no-parts"),
            pytest.param([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb", id="parts"),
            pytest.param(
                [{"type": "image_url", "image_url": {"url": "http://x"}}, {"type": "text", "text": "a"}],
                "a",
                id="images-have-no-text",
            ),
            pytest.param([{"type": "input_audio", "input_audio": {"data": "AA"}}], "", id="audio"),
            pytest.param([{"text": "a"}], "a", id="part-without-a-type"),
        ],
    )  # fmt: skip
    def test_of_each_kind_of_content(self, content: object, text: str) -> None:
        """A message's text is its string, or the text of its parts line by line."""
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        assert ChatRequest.parse(json.dumps(body).encode()).text == text


class TestWishes:
    @pytest.mark.parametrize(
        ("member", "stream"),
        [('"x": 1', False), ('"stream": null', False), ('"stream": false', False), ('"stream": true', True)],
        ids=["absent", "null", "false", "true"],
    )  # fmt: skip
    def test_stream(self, member: str, stream: bool) -> None:
        """An answer is streamed only if the client says so."""
        assert ChatRequest.parse(chat(member)).stream is stream

    @pytest.mark.parametrize(
        ("member", "include"),
        [
            pytest.param('"x": 1', False, id="absent"),
            pytest.param('"stream_options": null', False, id="null"),
            pytest.param('"stream_options": {}', False, id="empty"),
            pytest.param('"stream_options": {"include_usage": null}', False, id="null-inside"),
            pytest.param('"stream_options": {"include_usage": false}', False, id="false"),
            pytest.param('"stream_options": {"include_usage": true, "x": 1}', True, id="true"),
        ],
    )
    def test_include_usage(self, member: str, include: bool) -> None:
        """A usage chunk is wanted only if the client says so."""
        assert ChatRequest.parse(chat(member)).include_usage is include

    @pytest.mark.parametrize(
        ("member", "choices"),
        [('"x": 1', 1), ('"n": null', 1), ('"n": 1', 1), ('"n": 3', 3), ('"n": 2.0', 2)],
        ids=["absent", "null", "one", "three", "two"],
    )
    def test_choices(self, member: str, choices: int) -> None:
        """One choice is the default."""
        assert ChatRequest.parse(chat(member)).choices == choices

    @pytest.mark.parametrize(
        ("member", "name", "param"),
        [
            pytest.param('"stream": "yes"', "stream", "stream", id="stream"),
            pytest.param('"stream": 1', "stream", "stream", id="stream-is-a-number"),
            pytest.param('"stream_options": []', "include_usage", "stream_options", id="options"),
            pytest.param('"stream_options": {"include_usage": 1}', "include_usage", "stream_options", id="usage"),
            pytest.param('"n": "two"', "choices", "n", id="n"),
            pytest.param('"n": 0', "choices", "n", id="n-is-none"),
            pytest.param('"n": -1', "choices", "n", id="n-is-negative"),
            pytest.param('"n": 1.5', "choices", "n", id="n-is-a-fraction"),
            pytest.param('"n": 1e400', "choices", "n", id="n-is-beyond-all-numbers"),
            pytest.param(f'"n": {"9" * 5000}', "choices", "n", id="n-has-thousands-of-digits"),
        ],
    )  # fmt: skip
    def test_a_wish_of_the_wrong_kind_is_an_invalid_field(
        self, member: str, name: str, param: str
    ) -> None:
        """A wish that cannot be read is refused when it is looked at, and no sooner: a route may not need it."""
        request = ChatRequest.parse(chat(member))
        with pytest.raises(InvalidField) as caught:
            getattr(request, name)
        assert caught.value.param == param


counts = st.integers(0, 10**12)
details = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "x"]), counts)
usages = st.builds(Usage, counts, counts, details, details)


class TestUsage:
    @thorough
    @given(usages, usages)
    def test_adding_is_commutative(self, a: Usage, b: Usage) -> None:
        """It does not matter which call was settled first."""
        assert a + b == b + a

    @thorough
    @given(usages, usages, usages)
    def test_adding_is_associative(self, a: Usage, b: Usage, c: Usage) -> None:
        """It does not matter how calls are grouped into stages."""
        assert (a + b) + c == a + (b + c)

    @thorough
    @given(usages)
    def test_nothing_is_the_identity(self, usage: Usage) -> None:
        """A call without usage changes nothing."""
        assert usage + Usage() == usage == Usage() + usage

    @thorough
    @given(st.lists(usages, max_size=5))
    def test_totals_add_up(self, parts: list[Usage]) -> None:
        """The total of a sum is the sum of the totals, and each detail's sum is that of its parts."""
        whole = sum(parts, Usage())
        assert whole.total_tokens == sum(part.total_tokens for part in parts)
        assert whole.total_tokens == whole.prompt_tokens + whole.completion_tokens
        for name, count in whole.prompt_details.items():
            assert count == sum(part.prompt_details.get(name, 0) for part in parts)

    @thorough
    @given(usages, usages)
    def test_adding_leaves_the_parts_alone(self, a: Usage, b: Usage) -> None:
        """A sum shares nothing with its parts that could change."""
        before = msgspec.json.encode([a, b])
        _ = a + b
        assert msgspec.json.encode([a, b]) == before

    @pytest.mark.parametrize(
        ("reported", "usage"),
        [
            pytest.param({}, Usage(), id="nothing"),
            pytest.param({"prompt_tokens": None, "completion_tokens": None}, Usage(), id="nulls"),
            pytest.param({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4), id="without-a-total"),
            pytest.param({"prompt_tokens": 3, "total_tokens": 9}, Usage(3, 0), id="the-total-is-ours"),
            pytest.param(
                {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None}},
                Usage(3, 0, {"cached_tokens": 2, "audio_tokens": 0}),
                id="details",
            ),
            pytest.param(
                {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}},
                Usage(0, 3, {}, {"reasoning_tokens": 2}),
                id="completion-details",
            ),
            pytest.param({"prompt_tokens": 3, "queue_time": 0.5}, Usage(3), id="unknown-members"),
        ],
    )  # fmt: skip
    def test_is_read_as_backends_report_it(self, reported: dict[str, object], usage: Usage) -> None:
        """What a backend leaves out or sets to null counts as nothing."""
        assert msgspec.convert(reported, WireUsage).read() == usage

    def test_details_are_written_only_if_there_are_any(self) -> None:
        """A client that reads details finds OpenAI's names, and no empty objects."""
        assert Usage(1, 2).to_dict() == {
            "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
        }  # fmt: skip
        assert Usage(1, 2, {"cached_tokens": 1}, {"reasoning_tokens": 2}).to_dict() == {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }


def _seconds(body: bytes) -> float:
    begun = time.process_time()
    ChatRequest.parse(body)
    return time.process_time() - begun


def test_parsing_takes_linear_time() -> None:
    """Eight times the members take about eight times as long, not sixty-four times."""
    times = []
    for count in (4_000, 32_000):
        body = chat(*(f'"k{number}": "{"x" * 50}"' for number in range(count)))
        times.append(min(_seconds(body) for _ in range(3)))
    assert times[1] < times[0] * 32


class TestFingerprint:
    def of(self, *turns: tuple[str, object]) -> bytes:
        messages = [{"role": role, "content": content} for role, content in turns]
        return ChatRequest.parse(
            json.dumps({"model": "m", "messages": messages}).encode()
        ).fingerprint

    def test_it_is_the_same_in_every_turn(self) -> None:
        """What comes behind the user's first turn changes nothing."""
        first = [("system", "s"), ("user", "u")]
        assert self.of(*first) == self.of(
            *first, ("assistant", "a"), ("system", "x"), ("user", "v")
        )

    @pytest.mark.parametrize(
        "turns",
        [
            pytest.param([("system", "t"), ("user", "u")], id="other-instructions"),
            pytest.param([("system", "s"), ("user", "v")], id="other-question"),
            pytest.param([("user", "u")], id="no-instructions"),
            pytest.param([("system", "su"), ("user", "")], id="cut-elsewhere"),
            pytest.param([("user", "s"), ("user", "u")], id="said-by-the-user"),
        ],
    )
    def test_other_conversations_have_another(self, turns: list[tuple[str, object]]) -> None:
        """Both instructions and question count, and where one ends."""
        assert self.of(*turns) != self.of(("system", "s"), ("user", "u"))

    def test_how_a_text_is_written_does_not_count(self) -> None:
        """A text and one part with that text are the same to whoever reads them."""
        assert self.of(("user", "u")) == self.of(("user", [{"type": "text", "text": "u"}]))

    def test_no_user_is_no_matter(self) -> None:
        """A conversation without one has a fingerprint as well."""
        assert self.of(("system", "s")) == self.of(("system", "s"), ("assistant", "a"))
