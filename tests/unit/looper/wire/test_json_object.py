import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.errors import InvalidJson
from looper.wire.json_object import JsonObject

thorough = settings(deadline=None, max_examples=150)

keys = st.lists(st.sampled_from(["a", "model", "usage", 'q"', "é"]), max_size=5, unique=True)
values = st.sampled_from(["1.0", '"x"', "null", "[]", '{"a": 1, "model": "}"}', '"\\u00e9,\\""'])
gaps = st.sampled_from(["", " ", "\n\t"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A JSON object with any white space."""
    members = [
        f"{draw(gaps)}{json.dumps(key, ensure_ascii=draw(st.booleans()))}{draw(gaps)}:{draw(gaps)}"
        f"{draw(values)}{draw(gaps)}"
        for key in draw(keys)
    ]
    return f"{draw(gaps)}{{{','.join(members) or draw(gaps)}}}{draw(gaps)}".encode()


class TestEdited:
    @thorough
    @given(objects(), st.dictionaries(keys.filter(bool).map(lambda names: names[0]), values))
    def test_changes_the_named_members_and_adds_new_ones(
        self, data: bytes, changes: dict[str, str]
    ) -> None:
        """Members keep their order, new ones stand at the end, and no other value changes."""
        edited = JsonObject.parse(data).edited({k: v.encode() for k, v in changes.items()})
        expected = json.loads(data) | {key: json.loads(value) for key, value in changes.items()}
        assert list(json.loads(edited).items()) == list(expected.items())

    @thorough
    @given(objects())
    def test_nothing_to_change_changes_nothing(self, data: bytes) -> None:
        """Without edits the bytes are the same."""
        assert JsonObject.parse(data).edited({}) == data

    @thorough
    @given(objects(), st.data())
    def test_a_member_can_be_left_out(self, data: bytes, draw: st.DataObject) -> None:
        """What is left is an object without that member, edits of others included."""
        members = json.loads(data)
        name = draw.draw(st.sampled_from([*members, "nobody"]))
        changes = {"model": b'"z"'} if name != "model" else {}
        edited = json.loads(JsonObject.parse(data).edited(changes, without=name))
        expected = members | {key: json.loads(value) for key, value in changes.items()}
        expected.pop(name, None)
        assert list(edited.items()) == list(expected.items())

    @pytest.mark.parametrize(
        ("data", "changes", "without", "edited"),
        [
            pytest.param("{}", {"a": "1"}, None, '{"a":1}', id="into-nothing"),
            pytest.param("{ }", {"a": "1", "b": "2"}, None, '{"a":1,"b":2 }', id="two-into-nothing"),
            pytest.param('{ "x": 1 }', {"a": "2"}, None, '{ "x": 1,"a":2 }', id="behind-the-last"),
            pytest.param('{"x":1, "y":2}', {"y": "{}"}, None, '{"x":1, "y":{}}', id="in-place"),
            pytest.param('{ "x" : 1 , "y":2}', {}, "x", '{ "y":2}', id="without-the-first"),
            pytest.param('{"x":1 , "y" : 2 }', {}, "y", '{"x":1 }', id="without-the-last"),
            pytest.param('{"x":1, "y":2, "z":3}', {}, "y", '{"x":1, "z":3}', id="without-one-between"),
            pytest.param('{ "x":1 }', {}, "x", "{  }", id="without-the-only-one"),
            pytest.param('{"x":1}', {"a": "2"}, "x", '{"a":2}', id="another-for-the-only-one"),
            pytest.param('{"x":1,"y":2}', {"a": "3"}, "y", '{"x":1,"a":3}', id="another-for-the-last"),
            pytest.param('{"x":1,"y":2}', {"y": "3"}, "x", '{"y":3}', id="without-one-beside-an-edit"),
        ],
    )  # fmt: skip
    def test_by_example(
        self, data: str, changes: dict[str, str], without: str | None, edited: str
    ) -> None:
        """As few bytes change as can be."""
        values = {name: value.encode() for name, value in changes.items()}
        assert JsonObject.parse(data.encode()).edited(values, without=without) == edited.encode()

    @pytest.mark.parametrize("data", [b"[]", b"", b'{"a":1,"a":2}', b'{"a":"\xff"}', b"{} {}"])
    def test_what_is_no_plain_object_is_refused(self, data: bytes) -> None:
        """What cannot be edited safely is an error."""
        with pytest.raises(InvalidJson):
            JsonObject.parse(data)
