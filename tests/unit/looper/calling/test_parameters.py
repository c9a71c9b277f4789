"""What a decision sets in a client's request, or bounds."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.calling.parameters import Parameters
from looper.errors import InvalidField
from looper.wire.chat import ChatRequest

USER = {"role": "user", "content": "hi"}


def request(messages: list[dict[str, Any]] | None = None, **members: Any) -> ChatRequest:
    body = {"model": "m", "messages": messages or [USER], **members}
    return ChatRequest.parse(json.dumps(body).encode())


def applied(settings: dict[str, Any], **members: Any) -> dict[str, Any]:
    """The members that are neither model nor messages, afterwards."""
    changed = Parameters.model_validate(settings).applied(request(**members))
    body: dict[str, Any] = json.loads(changed.body)
    assert (body.pop("model"), body.pop("messages")) == ("m", [USER])
    return body


def prompted(messages: list[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
    settings = {"system_prompt": {"text": "Ours.", "mode": mode}}
    changed = Parameters.model_validate(settings).applied(request(messages))
    assert changed.messages
    body = json.loads(changed.body)
    said: list[dict[str, Any]] = body["messages"]
    return said


class TestTokenLimit:
    @pytest.mark.parametrize(
        ("limit", "said", "expected"),
        [
            ({"cap": 100}, {"max_tokens": 500}, {"max_tokens": 100}),
            ({"cap": 100}, {"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
            ({"cap": 9}, {"max_tokens": 50, "max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}),
            ({"cap": 100}, {"max_tokens": 50}, {"max_tokens": 50}),
            ({"cap": 100}, {}, {"max_tokens": 100}),
            ({"cap": 100}, {"max_tokens": None}, {"max_tokens": 100}),
            ({"cap": 100}, {"max_tokens": -1}, {"max_tokens": 100}),
            ({"cap": "1k", "default": 100}, {}, {"max_tokens": 100}),
            ({"cap": "1k", "default": 100}, {"max_tokens": 5000}, {"max_tokens": 1000}),
            ({"default": 100}, {"max_completion_tokens": None}, {"max_completion_tokens": None, "max_tokens": 100}),
            ({"default": 100}, {"max_tokens": 5000}, {"max_tokens": 5000}),
        ],
    )  # fmt: skip
    def test_has_a_default_and_a_cap(
        self, limit: dict[str, Any], said: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """A client that names no limit gets the default, and no more than the cap even without one."""
        assert applied({"max_tokens": limit}, **said) == expected

    @given(
        st.none() | st.integers(1, 10_000),
        st.none() | st.integers(1, 10_000),
        st.integers(1, 10_000),
    )
    def test_is_never_above_the_cap(self, old: int | None, new: int | None, cap: int) -> None:
        """Under whichever name the client says it."""
        body = applied({"max_tokens": {"cap": cap}}, max_tokens=old, max_completion_tokens=new)
        said = [limit for limit in body.values() if limit is not None]
        assert said
        assert max(said) <= cap


class TestTemperature:
    @pytest.mark.parametrize(
        ("heat", "said", "expected"),
        [
            ({"set": 0}, {"temperature": 1.5}, {"temperature": 0.0}),
            ({"set": 0}, {}, {"temperature": 0.0}),
            ({"default": 0.3}, {}, {"temperature": 0.3}),
            ({"default": 0.3}, {"temperature": None}, {"temperature": 0.3}),
            ({"default": 0.3}, {"temperature": 0}, {"temperature": 0}),
            ({"cap": 0.7}, {"temperature": 1.5}, {"temperature": 0.7}),
            ({"cap": 0.7}, {}, {}),
        ],
    )
    def test_is_set_or_bounded(
        self, heat: dict[str, Any], said: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """`set` holds whatever the client says; a cap does not say what a client did not say."""
        assert applied({"temperature": heat}, **said) == expected


class TestEffort:
    @pytest.mark.parametrize(
        ("effort", "said", "expected"),
        [
            ({"set": "low"}, {"reasoning_effort": "high"}, "low"),
            ({"default": "low"}, {}, "low"),
            ({"default": "low"}, {"reasoning_effort": "high"}, "high"),
            ({"cap": "medium"}, {"reasoning_effort": "high"}, "medium"),
            ({"cap": "medium"}, {"reasoning_effort": "minimal"}, "minimal"),
            ({"cap": "medium"}, {"reasoning_effort": "ludicrous"}, "medium"),
            ({"cap": "medium"}, {}, None),
        ],
    )
    def test_is_set_or_bounded(
        self, effort: dict[str, Any], said: dict[str, Any], expected: str | None
    ) -> None:
        """A word that we do not know may mean more than any that we do."""
        assert applied({"reasoning_effort": effort}, **said).get("reasoning_effort") == expected


SYSTEM = {"role": "system", "content": "Theirs."}


class TestSystemPrompt:
    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("insert", {"role": "system", "content": "Ours.\n\nTheirs."}),
            ("append", {"role": "system", "content": "Theirs.\n\nOurs."}),
            ("replace", {"role": "system", "content": "Ours."}),
        ],
    )
    def test_joins_the_clients_own(self, mode: str, expected: dict[str, Any]) -> None:
        """There is one message of instructions, as many models take no second one."""
        assert prompted([SYSTEM, USER], mode) == [expected, USER]

    @pytest.mark.parametrize("mode", ["insert", "append", "replace"])
    def test_stands_first_where_the_client_has_none(self, mode: str) -> None:
        """Without a message to join, it is one by itself."""
        assert prompted([USER], mode) == [{"role": "system", "content": "Ours."}, USER]

    @pytest.mark.parametrize("mode", ["insert", "append", "replace"])
    def test_has_the_role_that_the_client_uses(self, mode: str) -> None:
        """A model that is spoken to as a developer is not spoken to as a system as well."""
        said = prompted([{"role": "developer", "content": "Theirs."}, USER], mode)
        assert [message["role"] for message in said] == ["developer", "user"]

    def test_joins_the_last_of_several_at_the_beginning(self) -> None:
        """Appended, it has the last word among the instructions."""
        other = {"role": "system", "content": "More."}
        said = prompted([SYSTEM, other, USER, SYSTEM], "append")
        assert said == [SYSTEM, {"role": "system", "content": "More.\n\nOurs."}, USER, SYSTEM]

    def test_replaces_all_of_the_clients(self) -> None:
        """Instructions later in the conversation are instructions too."""
        assert prompted([SYSTEM, USER, SYSTEM], "replace") == [
            {"role": "system", "content": "Ours."}, USER,
        ]  # fmt: skip

    def test_replaces_very_many_in_no_time(self) -> None:
        """Each message is looked at once, and not once for each other one."""
        began = time.process_time()
        said = prompted([SYSTEM] * 30_000, "replace")
        assert time.process_time() - began < 5
        assert said == [{"role": "system", "content": "Ours."}]

    @pytest.mark.parametrize(("mode", "at"), [("insert", 0), ("append", 1)])
    def test_is_a_part_among_parts(self, mode: str, at: int) -> None:
        """A message of parts gets one more, and keeps its other members."""
        part = {"type": "text", "text": "Theirs.", "cache_control": {"type": "ephemeral"}}
        said = prompted([{"role": "system", "name": "n", "content": [part]}, USER], mode)
        parts = said[0]["content"]
        assert said[0]["name"] == "n"
        assert parts.pop(at) == {"type": "text", "text": "Ours."}
        assert parts == [part]

    def test_leaves_every_other_message_byte_for_byte(self) -> None:
        """What the client said is not written anew."""
        user = b'{"role":"user" , "content":"caf\\u00e9","x":1.0E+2}'
        body = (
            b'{"model":"m","messages":[{"role":"system","content":"T"}, ' + user + b'],"y" : 1e3 }'
        )
        settings = {"system_prompt": {"text": "O"}}
        changed = Parameters.model_validate(settings).applied(ChatRequest.parse(body))
        assert user in changed.body
        assert changed.body.endswith(b'],"y" : 1e3 }')


class TestAsAWhole:
    @pytest.mark.parametrize("mode", ["insert", "append", "replace"])
    def test_it_is_still_the_same_conversation(self, mode: str) -> None:
        """What an operator adds to all of them must not move them from model to model."""
        settings = {"system_prompt": {"text": "Ours.", "mode": mode}, "temperature": {"set": 0}}
        before = request([SYSTEM, USER])
        after = Parameters.model_validate(settings).applied(before)
        assert after.fingerprint == before.fingerprint
        assert after.fingerprint != request([SYSTEM]).fingerprint

    def test_nothing_to_change_is_the_very_same_request(self) -> None:
        """Nothing is parsed twice for nothing."""
        same = request(max_tokens=5, temperature=0.1)
        settings = {"max_tokens": {"cap": 10}, "temperature": {"cap": 1}}
        assert Parameters.model_validate(settings).applied(same) is same

    @pytest.mark.parametrize(
        ("settings", "members"),
        [
            ({"temperature": {"cap": 1}}, {"temperature": "hot"}),
            ({"reasoning_effort": {"cap": "low"}}, {"reasoning_effort": 3}),
        ],
    )
    def test_what_cannot_be_bounded_is_refused(
        self, settings: dict[str, Any], members: dict[str, Any]
    ) -> None:
        """A value of another kind might be understood upstream, and be no bound at all."""
        with pytest.raises(InvalidField):
            applied(settings, **members)

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"max_tokens": {}}, "give at least one of `default` and `cap`"),
            ({"max_tokens": {"default": 2, "cap": 1}}, "`default` is above `cap`"),
            ({"max_tokens": {"cap": 0}}, "greater than or equal to 1"),
            ({"temperature": {}}, "give `set`, or at least one"),
            ({"temperature": {"set": 0, "cap": 1}}, "`set` leaves nothing"),
            ({"temperature": {"default": 1, "cap": 0.5}}, "`default` is above `cap`"),
            ({"temperature": {"set": 3}}, "less than or equal to 2"),
            ({"reasoning_effort": {"set": "much"}}, "Input should be"),
            ({"reasoning_effort": {"default": "high", "cap": "low"}}, "`default` is above `cap`"),
            ({"system_prompt": {"text": ""}}, "at least 1 character"),
        ],
    )
    def test_what_makes_no_sense_is_wrong(self, settings: dict[str, Any], text: str) -> None:
        """A mistake is found when the file is read."""
        with pytest.raises(ValidationError, match=text):
            Parameters.model_validate(settings)
