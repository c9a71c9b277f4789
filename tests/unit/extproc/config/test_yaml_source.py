import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config.yaml_source import dotted, parse_yaml
from extproc.errors import ConfigError

thorough = settings(deadline=None, max_examples=100)

TEXT = """\
# a comment
version: 1
models:
  - name: a
    url: x
  - {name: b,
     url: y}
recipes:
  general:
    when:
      all: [p,
            q]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    return caught.value.problems


class TestLines:
    @pytest.mark.parametrize(
        ("path", "line"),
        [
            ((), 2),
            (("version",), 2),
            (("models",), 3),
            (("models", 0), 4),
            (("models", 0, "url"), 5),
            (("models", 1), 6),
            (("models", 1, "name"), 6),
            (("models", 1, "url"), 7),
            (("recipes", "general", "when", "all"), 11),
            (("recipes", "general", "when", "all", 0), 11),
            (("recipes", "general", "when", "all", 1), 12),
        ],
        ids=lambda value: dotted(value) if isinstance(value, tuple) else "",
    )
    def test_each_value_has_the_line_of_its_key(self, path: Any, line: int) -> None:
        """A key's line is where an operator looks; an item of a list has its own."""
        assert parse_yaml(TEXT, "f.yaml").line(path) == line

    @pytest.mark.parametrize(
        ("path", "line"),
        [(("models", 0, "rating"), 4), (("models", 9, "x"), 3), (("nothing", "at", "all"), 2)],
        ids=["missing-key", "missing-item", "missing-altogether"],
    )
    def test_what_is_not_there_has_the_line_of_what_is_around_it(
        self, path: Any, line: int
    ) -> None:
        """A missing key is reported where it should have stood."""
        assert parse_yaml(TEXT, "f.yaml").line(path) == line

    def test_an_alias_has_the_line_where_it_stands(self) -> None:
        """What is wrong by way of an alias is wrong where the alias is used, or where its anchor is."""
        source = parse_yaml("a: &x\n  k: 1\nb: *x\n", "f.yaml")
        assert source.data == {"a": {"k": 1}, "b": {"k": 1}}
        assert source.line(("b",)) == 3
        assert source.line(("b", "k")) in (2, 3)

    def test_an_empty_file_has_one_line(self) -> None:
        """Nothing is no data, and its problems stand in line 1."""
        source = parse_yaml("", "f.yaml")
        assert source.data is None
        assert source.line(("a",)) == 1


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            pytest.param("a: [1\n", 2, id="open-list"),
            pytest.param("a: 1\nb: {c: 1\n", 3, id="open-mapping"),
            pytest.param("a: 1\n\tb: 2\n", 2, id="tab"),
            pytest.param("a: 'x\n", 2, id="open-quote"),
            pytest.param("a: 1\n b: 2\n", 2, id="indentation"),
            pytest.param("a: 1\nb: *x\n", 2, id="unknown-alias"),
            pytest.param("a: !secret x\n", 1, id="unknown-tag"),
            pytest.param("a: !!python/object/apply:os.system [ls]\n", 1, id="python-tag"),
            pytest.param("a: 1\n---\nb: 2\n", 2, id="two-documents"),
            pytest.param("a: 1\nb: 2020-13-45\n", 2, id="impossible-date"),
            pytest.param("a: 1\nb: 0x_\n", 2, id="impossible-number"),
            pytest.param("a: 1\nb: !!bool maybe\n", 2, id="impossible-bool"),
            pytest.param("a: 1\nb: !!int ''\n", 2, id="empty-int"),
            pytest.param("a: 1\nb: !!float ''\n", 2, id="empty-float"),
            pytest.param("a: 1\nb: !!timestamp x\n", 2, id="impossible-timestamp"),
            pytest.param("a: 1\nb: !!binary é\n", 2, id="impossible-binary"),
            pytest.param("a: 1\nb: !!omap 5\n", 2, id="impossible-omap"),
            pytest.param(f"a: 1\nb: {'9' * 5000}\n", 2, id="number-of-thousands-of-digits"),
            pytest.param('a: 1\nb: "\x00"\n', 2, id="control-character"),
            pytest.param("a: 1\n? [b]\n: 2\n", 2, id="list-for-a-key"),
            pytest.param("a: 1\n? {b: 1}\n: 2\n", 2, id="mapping-for-a-key"),
            pytest.param("a: 1\nb: {<<: 5}\n", 2, id="merge-of-no-mapping"),
            pytest.param("a: 1\nb: &x [*x]\n", 2, id="alias-of-itself"),
            pytest.param("a: &x {b: *x}\n", 1, id="alias-of-itself-in-a-mapping"),
            pytest.param("a: 1\nb: " + "[" * 100 + "]" * 100, 2, id="deep"),
        ],
    )  # fmt: skip
    def test_what_is_no_plain_yaml_is_a_problem_with_its_line(self, text: str, line: int) -> None:
        """Whatever is wrong with a file, an operator reads one line that says where, and no traceback."""
        (problem,) = problems(text)
        assert problem.startswith(f"f.yaml:{line}: ")
        assert "\n" not in problem

    @pytest.mark.parametrize(
        "text",
        ["a: " + "[" * 3000 + "]" * 3000, "a: " + "{a: " * 500 + "}" * 500, "- " * 5000],
        ids=["lists", "mappings", "items"],
    )
    def test_what_is_far_too_deep_is_a_problem(self, text: str) -> None:
        """Nobody writes such a file by hand; it is refused all the same, and without a traceback."""
        (problem,) = problems(text)
        assert problem.startswith("f.yaml:")

    def test_a_key_that_stands_twice_is_a_problem(self) -> None:
        """YAML readers keep the last one in silence; operators mean both."""
        assert problems("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n") == [
            "f.yaml:5: b.c: the key stands twice",
            "f.yaml:6: a: the key stands twice",
        ]

    def test_a_key_may_stand_in_several_mappings(self) -> None:
        """Each mapping has its own keys."""
        assert parse_yaml("[{a: 1}, {a: 2}]", "f.yaml").data == [{"a": 1}, {"a": 2}]

    def test_a_merge_may_be_overridden(self) -> None:
        """`<<` brings in what is not said here; that it brings in more is no repetition."""
        text = "x: &x {a: 1, b: 1}\ny: {<<: *x, a: 2}\n"
        assert parse_yaml(text, "f.yaml").data["y"] == {"a": 2, "b": 1}


def bomb(levels: int, width: int = 9) -> str:
    """The billion laughs: each line repeats the one before so many times."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]"
        for level in range(1, levels)
    ]
    return "\n".join(lines)


class TestBombs:
    def test_what_is_kept_is_bounded_by_the_file(self) -> None:
        """A few hundred bytes of aliases do not become hundreds of thousands of paths."""
        text = bomb(5)
        assert len(text) < 300
        try:
            kept = len(parse_yaml(text, "f.yaml").lines)
        except ConfigError:
            kept = 0
        assert kept < 10_000

    def test_what_it_takes_is_bounded_by_the_file(self) -> None:
        """One line more does not multiply the time that reading takes."""
        times = []
        for levels in (3, 6):
            begun = time.process_time()
            with suppress(ConfigError):
                parse_yaml(bomb(levels), "f.yaml")
            times.append(time.process_time() - begun)
        assert times[1] < 20 * times[0] + 0.05


class TestDotted:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ((), "(top)"),
            (("a",), "a"),
            (("a", "b"), "a.b"),
            (("a", 0), "a[0]"),
            (("a", 0, "b", 1, 2), "a[0].b[1][2]"),
            ((0, "a"), "[0].a"),
        ],
        ids=["top", "key", "keys", "item", "both", "item-first"],
    )
    def test_is_written_as_operators_write_it(self, path: Any, text: str) -> None:
        """Keys with dots, items with brackets."""
        assert dotted(path) == text


@thorough
@given(st.text(st.sampled_from("ab:-?&*!{}[],|>'\"#% \n\t<\x00é0."), max_size=30))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    """Whatever a file holds, it is data or a ConfigError that names the file."""
    try:
        parse_yaml(text, "f.yaml")
    except ConfigError as error:
        complaints = error.problems
    else:
        complaints = ["f.yaml:"]
    assert complaints
    assert all(problem.startswith("f.yaml:") for problem in complaints)
