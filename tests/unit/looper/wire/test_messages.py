import json
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.wire.dialects import DIALECTS, Dialect, ToolCallIds
from looper.wire.messages import map_ids, message, short_id, speak, with_ours

LONG = "call_" + "x" * 60
RULES: dict[ToolCallIds, str] = {"max40": r".{0,40}", "alnum9": r"[A-Za-z0-9]{9}"}
each_rule = pytest.mark.parametrize("rule", RULES)


contents = (
    st.none()
    | st.text(max_size=3)
    | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), max_size=2)
)


def raw(messages: Any) -> msgspec.Raw:
    return msgspec.Raw(messages if isinstance(messages, bytes) else json.dumps(messages).encode())


def spoken(messages: Any, dialect: Dialect) -> Any:
    """What becomes of messages, as Python has it."""
    return json.loads(msgspec.json.encode(speak(raw(messages), dialect)))


def mapped(messages: Any, rule: ToolCallIds) -> Any:
    return spoken(messages, Dialect(tool_call_ids=rule))


def turn(*ids: Any) -> list[dict[str, Any]]:
    """A conversation in which tools are called under these ids, and answer."""
    calls = [
        {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids
    ]
    answers = [{"role": "tool", "tool_call_id": id, "content": "5"} for id in ids]
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": calls}, *answers]  # fmt: skip


def ids_of(messages: Any) -> tuple[list[Any], list[Any]]:
    """The ids of calls, and those that answers name."""
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    return calls, [message["tool_call_id"] for message in messages if "tool_call_id" in message]


class TestUntouched:
    @pytest.mark.parametrize("dialect", [Dialect(), *DIALECTS.values()], ids=["default", *DIALECTS])
    @pytest.mark.parametrize(
        "messages",
        [
            pytest.param(b'[ {"role":"user" , "content":"caf\\u00e9"} ]', id="spaces-and-escapes"),
            pytest.param(b'[{"role":"user","content":null,"x":123456789012345678901234567890}]', id="big-numbers"),
            pytest.param(b'[{"role":"user","content":"a","y":1.10,"y":1E400}]', id="odd-numbers"),
            pytest.param(b'[{"content":[{"type":"text","text":"a"}],"role":"user"}]', id="parts"),
            pytest.param(b'[{"role":"assistant","tool_calls":[{"id":"abcdefgh1"}]}]', id="ids-that-fit"),
            pytest.param(b'[{"role":"assistant","tool_calls":null}]', id="no-calls"),
            pytest.param(b'[{"role":"strange","content":"a"}]', id="an-unknown-role"),
        ],
    )  # fmt: skip
    def test_what_needs_no_change_is_the_very_same_object(
        self, messages: bytes, dialect: Dialect
    ) -> None:
        """A conversation that fits already goes on byte for byte, without being copied."""
        given_ = raw(messages)
        assert speak(given_, dialect) is given_

    def test_a_message_beside_one_that_changes_stays_byte_for_byte(self) -> None:
        """Only what must be rebuilt is."""
        kept = b'{"role":"user","content":[ {"type":"text", "text":"caf\\u00e9"} ],"x":1234567890123456789012.50}'
        messages = raw(b'[{"role":"developer","content":"a"},' + kept + b"]")
        changed = msgspec.json.encode(speak(messages, DIALECTS["vllm"]))
        values = msgspec.json.decode(changed, type=list[dict[str, msgspec.Raw]])[1]
        assert bytes(values["content"]) == b'[ {"type":"text", "text":"caf\\u00e9"} ]'
        assert bytes(values["x"]) == b"1234567890123456789012.50"

    def test_members_of_a_message_that_changes_stay_byte_for_byte(self) -> None:
        """A role has another name; what it says has not."""
        messages = raw(b'[{"role":"developer","content":"caf\\u00e9","x":1.10}]')
        changed = bytes(speak(messages, DIALECTS["vllm"]))
        assert changed == b'[{"role":"system","content":"caf\\u00e9","x":1.10}]'

    @pytest.mark.parametrize("number", ["123456789012345678901234567890", "1.10", "1E400", "-0.0"])
    def test_a_tool_call_with_a_new_id_keeps_its_other_members(self, number: str) -> None:
        """What vendors add to a call is not rounded because its id was too long."""
        call = f'{{"id":"{LONG}","function":{{"name":"f","arguments":"{{\\"a\\": 1.10}}"}},"x":{number}}}'
        messages = raw(f'[{{"role":"assistant","tool_calls":[{call}]}}]'.encode())
        changed = bytes(map_ids(messages, "max40"))
        assert f'"x":{number}'.encode() in changed.replace(b'"x": ', b'"x":')

    def test_what_a_stage_appended_is_spoken_too(self) -> None:
        """Messages may be plain values as well."""
        given_ = [{"role": "developer", "content": "a"}]
        assert json.loads(msgspec.json.encode(speak(given_, DIALECTS["vllm"]))) == [
            {"role": "system", "content": "a"}
        ]
        assert given_ == [{"role": "developer", "content": "a"}]


class TestRoles:
    @pytest.mark.parametrize(
        ("name", "role", "said"),
        [
            ("openai", "developer", "developer"),
            ("openai", "system", "system"),
            ("openai-reasoning", "system", "developer"),
            ("openai-reasoning", "developer", "developer"),
            ("vllm", "developer", "system"),
            ("mistral", "developer", "system"),
            ("anthropic-compat", "developer", "system"),
            ("gemini-compat", "developer", "system"),
            ("vllm", "user", "user"),
            ("mistral", "assistant", "assistant"),
        ],
    )
    def test_have_the_names_that_the_upstream_knows(self, name: str, role: str, said: str) -> None:
        """Who knows no developers has a system, and the other way round."""
        messages = [{"role": role, "content": "a"}, {"role": "tool", "content": "b"}]
        assert [message["role"] for message in spoken(messages, DIALECTS[name])] == [said, "tool"]


class TestMerging:
    MERGING = Dialect(merge=True)

    @pytest.mark.parametrize(
        ("one", "other", "merged"),
        [
            pytest.param("a", "b", "a\n\nb", id="texts"),
            pytest.param(
                [{"type": "text", "text": "a"}],
                "b",
                [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                id="parts-and-text",
            ),
            pytest.param(
                "a",
                [{"type": "image_url", "image_url": {"url": "data:"}}],
                [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}],
                id="text-and-an-image",
            ),
            pytest.param(None, "b", [{"type": "text", "text": "b"}], id="nothing-and-text"),
            pytest.param([], [], [], id="no-parts"),
        ],
    )  # fmt: skip
    def test_neighbours_of_a_role_become_one(self, one: Any, other: Any, merged: Any) -> None:
        """Upstreams that insist on turns get turns."""
        messages = [{"role": "user", "content": one}, {"role": "user", "content": other}]
        assert spoken(messages, self.MERGING) == [{"role": "user", "content": merged}]

    def test_any_number_of_neighbours(self) -> None:
        """Three become one as well, and others stay where they are."""
        messages = [
            {"role": role, "content": content}
            for role, content in [("system", "s"), ("user", "a"), ("user", "b"), ("user", "c")]
        ]
        assert spoken([*messages, {"role": "assistant", "content": "d"}], self.MERGING) == [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a\n\nb\n\nc"},
            {"role": "assistant", "content": "d"},
        ]

    @given(st.lists(contents, min_size=2, max_size=6))
    def test_it_does_not_matter_how_they_come_together(self, said: list[Any]) -> None:
        """All at once or one after the other: nothing is lost, and nothing said twice."""
        messages = [{"role": "user", "content": content} for content in said]
        before = spoken(messages[:-1], self.MERGING)
        assert spoken(messages, self.MERGING) == spoken([*before, messages[-1]], self.MERGING)

    @pytest.mark.parametrize("content", [b'"hi"', b'[{"type":"text","text":"hi"}]'])
    def test_very_many_do_not_take_long(self, content: bytes) -> None:
        """Each is looked at once, and not once more for each that follows it."""
        messages = raw(b"[%b]" % b",".join([b'{"role":"user","content":%b}' % content] * 60_000))
        began = time.process_time()
        (message,) = spoken(bytes(messages), self.MERGING)
        assert time.process_time() - began < 8
        assert len(message["content"]) in (60_000, 4 * 60_000 - 2)

    def test_parts_stay_byte_for_byte(self) -> None:
        """A number that Python has no room for is handed on as it came."""
        part = b'{"type":"x","n":123456789012345678901234567890,"y":1E400}'
        messages = raw(b'[{"role":"user","content":"a"},{"role":"user","content":[%b]}]' % part)
        assert part in bytes(speak(messages, self.MERGING))

    def test_roles_are_compared_under_their_new_names(self) -> None:
        """A developer beside a system is the same, where one name stands for both."""
        messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]
        assert spoken(messages, DIALECTS["mistral"]) == [{"role": "system", "content": "a\n\nb"}]

    @pytest.mark.parametrize(
        "pair",
        [
            pytest.param(turn("a", "b")[2:], id="answers-of-tools"),
            pytest.param(
                [{"role": "assistant", "content": "x"}, {"role": "assistant", "tool_calls": []}],
                id="calls-of-tools",
            ),
            pytest.param(
                [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
                id="different-roles",
            ),
        ],
    )
    def test_what_says_more_than_its_words_stays_by_itself(self, pair: list[Any]) -> None:
        """Who calls a tool, or answers for one, is not mixed up with others."""
        assert spoken(pair, self.MERGING) == pair

    @pytest.mark.parametrize(
        ("names", "kept"), [(("z", "z"), "z"), (("y", "z"), None), ((None, "z"), None)]
    )
    def test_a_name_stays_if_it_is_everybodys(
        self, names: tuple[str | None, str | None], kept: str | None
    ) -> None:
        """Who has a name speaks as the others do: two in a row would be refused."""
        pair = [
            {"role": "user", "content": "x", **({"name": each} if each else {})} for each in names
        ]
        named = {"name": kept} if kept else {}
        assert spoken(pair, self.MERGING) == [{"role": "user", "content": "x\n\nx", **named}]

    def test_without_it_neighbours_stay(self) -> None:
        """Most upstreams take them as they are."""
        messages = raw([{"role": "user", "content": "a"}] * 2)
        assert speak(messages, DIALECTS["openai"]) is messages


class TestOurs:
    """Our words go on the client's last message where that is the user's."""

    @pytest.mark.parametrize(
        ("last", "content"),
        [
            pytest.param({"content": "why?"}, "why?\n\nours", id="text"),
            pytest.param({"content": "why?", "name": "z"}, "why?\n\nours", id="name"),
            pytest.param({"content": "why?", "cache": {"a": 1}}, "why?\n\nours", id="vendors-own"),
            pytest.param({"content": ""}, "ours", id="empty"),
            pytest.param({"content": None}, "ours", id="null"),
            pytest.param({}, "ours", id="absent"),
            pytest.param(
                {"content": [{"type": "image_url", "image_url": {"url": "x"}}]},
                [
                    {"type": "image_url", "image_url": {"url": "x"}},
                    {"type": "text", "text": "ours"},
                ],
                id="parts",
            ),
            pytest.param({"content": []}, [{"type": "text", "text": "ours"}], id="no-parts"),
        ],
    )
    def test_a_users_message_goes_on(self, last: dict[str, Any], content: Any) -> None:
        """Whatever else it has, it stays one message."""
        mine = {"role": "user", **last}
        before = [{"role": "system", "content": "s"}]
        told = json.loads(bytes(with_ours(raw([*before, mine]), [message("user", "ours")])))
        assert told == [*before, {**mine, "content": content}]

    @pytest.mark.parametrize("role", ["tool", "assistant", "system", "function"])
    def test_behind_anybody_else_they_are_a_message(self, role: str) -> None:
        """They are no tool's words, nor a model's."""
        before = [{"role": "user", "content": "x"}, {"role": role, "content": "y"}]
        told = json.loads(bytes(with_ours(raw(before), [message("user", "ours")])))
        assert told == [*before, {"role": "user", "content": "ours"}]

    def test_ours_do_not_follow_each_other_either(self) -> None:
        """Who is asked again without having said anything is told in the same message."""
        ours = [message("user", each) for each in ("one", "two")]
        told = json.loads(bytes(with_ours(raw([{"role": "user", "content": "x"}]), ours)))
        assert told == [{"role": "user", "content": "x\n\none\n\ntwo"}]

    def test_no_byte_of_the_clients_changes(self) -> None:
        """Not even how its text is written."""
        messages = msgspec.Raw(
            b'[ {"role":"system","content":"\\u0041"} , {"n":1e400,"content":"\\u00e9","role":"user"} ]'
        )
        assert bytes(with_ours(messages, [message("user", "ours")])) == (
            b'[ {"role":"system","content":"\\u0041"} , '
            b'{"n":1e400,"content":"\\u00e9\\n\\nours","role":"user"}]'
        )


class TestToolCallIds:
    @each_rule
    @pytest.mark.parametrize(
        "id",
        [
            pytest.param(LONG, id="long"),
            pytest.param("x" * 41, id="one-too-long"),
            pytest.param("é" * 41, id="no-ascii"),
            pytest.param("a-b_c/d." * 9, id="punctuation"),
        ],
    )
    def test_one_that_does_not_fit_is_replaced(self, id: str, rule: ToolCallIds) -> None:
        """By one that does, the same in the call and in its answer."""
        calls, answers = ids_of(mapped(turn(id), rule))
        assert calls == answers
        assert calls != [id]
        assert re.fullmatch(RULES[rule], calls[0])

    @pytest.mark.parametrize(
        ("id", "rule"),
        [
            ("x" * 40, "max40"),
            ("call_abc", "max40"),
            ("aB3dE6gH9", "alnum9"),
            (LONG, "any"),
        ],
    )
    def test_one_that_fits_stays(self, id: str, rule: ToolCallIds) -> None:
        """Clients and upstreams that agree are not disturbed."""
        messages = raw(turn(id))
        assert map_ids(messages, rule) is messages

    @each_rule
    def test_calls_at_once_stay_paired(self, rule: ToolCallIds) -> None:
        """Each answer names the call that it is for, also where only some ids had to change."""
        given_ = [f"{LONG}{number}" for number in range(5)] + ["abcdefgh1"]
        calls, answers = ids_of(mapped(turn(*given_), rule))
        assert calls == answers
        assert len(set(calls)) == len(given_)
        assert calls[-1] == "abcdefgh1"

    @each_rule
    def test_are_the_same_on_every_call(self, rule: ToolCallIds) -> None:
        """A conversation that grows names its old calls as before: nothing is remembered for that."""
        first, _ = ids_of(mapped(turn(LONG), rule))
        again, _ = ids_of(mapped(turn("other" * 20, LONG), rule))
        assert again[1] == first[0]

    @each_rule
    def test_do_not_collide(self, rule: ToolCallIds) -> None:
        """Far more ids than a conversation ever has are told apart."""
        assert len({short_id(f"call_{number}", rule) for number in range(20_000)}) == 20_000

    @given(st.text(st.characters(codec=None, exclude_categories=())), st.sampled_from(list(RULES)))
    def test_of_any_text_fit(self, id: str, rule: ToolCallIds) -> None:
        """Whatever a client calls its calls."""
        assert re.fullmatch(RULES[rule], short_id(id, rule))

    @each_rule
    def test_that_were_mapped_fit(self, rule: ToolCallIds) -> None:
        """Mapping twice is mapping once."""
        once = map_ids(raw(turn(LONG, "a b" * 20)), rule)
        assert map_ids(once, rule) is once

    @each_rule
    @pytest.mark.parametrize("id", [5, 1.5, True, None], ids=repr)
    def test_that_are_no_texts_stay_paired(self, id: Any, rule: ToolCallIds) -> None:
        """What is wrong already is the upstream's to refuse, but is not torn apart by us."""
        calls, answers = ids_of(mapped(turn(id), rule))
        assert calls == answers

    @each_rule
    @pytest.mark.parametrize(
        "message",
        [
            pytest.param({"tool_calls": None}, id="null"),
            pytest.param({"tool_calls": "x"}, id="a-text"),
            pytest.param({"tool_calls": {"id": LONG}}, id="an-object"),
            pytest.param({"tool_calls": []}, id="none"),
            pytest.param({"tool_calls": ["x", None, 5, [LONG]]}, id="calls-that-are-none"),
            pytest.param({"tool_call_id": None}, id="an-answer-to-null"),
            pytest.param({"tool_call_id": {"id": LONG}}, id="an-answer-to-an-object"),
        ],
    )
    def test_where_there_should_be_some_nothing_is_made_up(
        self, message: dict[str, Any], rule: ToolCallIds
    ) -> None:
        """A shape that is none of the API's goes on as it is."""
        messages = raw([{"role": "assistant", **message}])
        assert map_ids(messages, rule) is messages

    @each_rule
    def test_a_call_without_one_is_not_given_the_same_as_another(self, rule: ToolCallIds) -> None:
        """Two calls without ids are not made one."""
        messages = [
            {"role": "assistant", "tool_calls": [{"type": "function"}, {"type": "function"}]}
        ]
        ids = [call.get("id") for call in mapped(messages, rule)[0]["tool_calls"]]
        assert ids == [None, None] or len(set(ids)) == 2  # fmt: skip
