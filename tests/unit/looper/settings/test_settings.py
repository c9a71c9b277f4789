from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from looper.settings import (
    ByteCount,
    Duration,
    Name,
    ParamSize,
    Probability,
    SecretReference,
    Setting,
    Tokens,
)

duration: TypeAdapter[timedelta] = TypeAdapter(Duration)
tokens: TypeAdapter[int] = TypeAdapter(Tokens)
size: TypeAdapter[int] = TypeAdapter(ByteCount)
name: TypeAdapter[str] = TypeAdapter(Name)
probability: TypeAdapter[float] = TypeAdapter(Probability)


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5s", 1.5), ("0.5h", 1800), ("0s", 0)],
    )  # fmt: skip
    def test_is_a_number_and_a_unit(self, text: str, seconds: float) -> None:
        """Milliseconds, seconds, minutes and hours are told apart by what is written behind the number."""
        assert duration.validate_python(text) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        "text",
        [
            "30", "s", "", "30 s", " 30s", "30s ", "-1s", "+1s", "1e3s", ".5s", "1.s", "1,5s", "30S", "1h30m", "1d",
            "PT30S", "30sec", "1.2.3s", "infs", "9" * 20 + "h", 30, 1.5, True, None, [], {"seconds": 1},
        ],
        ids=repr,
    )  # fmt: skip
    def test_is_nothing_else(self, text: Any) -> None:
        """What could mean two things, or nothing, is refused; a bare number says no unit."""
        with pytest.raises(ValidationError):
            duration.validate_python(text)

    def test_is_written_in_seconds(self) -> None:
        """What is printed can be read again."""
        assert duration.dump_python(timedelta(minutes=5)) == "300s"
        assert duration.validate_python(duration.dump_python(timedelta(milliseconds=250))) == (
            timedelta(milliseconds=250)
        )

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"]))
    def test_survives_writing_and_reading(self, number: int, unit: str) -> None:
        """Whatever an operator writes means the same after it was printed."""
        value = duration.validate_python(f"{number}{unit}")
        assert duration.validate_python(duration.dump_python(value)) == value


class TestTokens:
    @pytest.mark.parametrize(
        ("text", "count"),
        [(1, 1), (4096, 4096), ("4096", 4096), ("16k", 16_000), ("1M", 1_000_000), ("1.5k", 1500), ("0.25M", 250_000)],
    )  # fmt: skip
    def test_are_a_number_with_k_or_m(self, text: Any, count: int) -> None:
        """k is a thousand, as models' makers count."""
        assert tokens.validate_python(text) == count

    @pytest.mark.parametrize(
        "text",
        [0, -1, "0", "-1", "16K", "1m", "16 k", "16kb", "16KiB", "", "k", "1e3", 1.5, "1.5", "1.2345k", True, None, []],
        ids=repr,
    )  # fmt: skip
    def test_are_nothing_else(self, text: Any) -> None:
        """No tokens, half a token and other units are refused."""
        with pytest.raises(ValidationError):
            tokens.validate_python(text)


class TestParamSize:
    @pytest.mark.parametrize(
        ("written", "parameters"),
        [
            ("8B", 8 * 10**9),
            ("0.5b", 5 * 10**8),
            ("350M", 35 * 10**7),
            ("1.8T", 18 * 10**11),
            (7, 7),
        ],
    )
    def test_is_a_number_with_a_unit(self, written: Any, parameters: int) -> None:
        """Sizes are written as model cards write them."""
        assert TypeAdapter(ParamSize).validate_python(written) == parameters

    @pytest.mark.parametrize("written", ["8", "8G", "8x7B", "-1B", "0B", "", None, True, 1.5])
    def test_nothing_else(self, written: Any) -> None:
        """What is no size is an error that says how one is written."""
        with pytest.raises(ValidationError):
            TypeAdapter(ParamSize).validate_python(written)


class TestByteCount:
    @pytest.mark.parametrize(
        ("text", "count"),
        [(1, 1), (1_048_576, 1 << 20), ("5B", 5), ("64KiB", 64 << 10), ("32MiB", 32 << 20), ("2GiB", 2 << 30)],
    )  # fmt: skip
    def test_is_a_number_with_a_binary_unit(self, text: Any, count: int) -> None:
        """Sizes are powers of two, and say so."""
        assert size.validate_python(text) == count

    @pytest.mark.parametrize(
        "text",
        [0, -1, "0B", "32MB", "32M", "32", "32 MiB", "1.5MiB", "MiB", "", 1.5, True, None],
        ids=repr,
    )
    def test_is_nothing_else(self, text: Any) -> None:
        """A unit that could mean two things is refused."""
        with pytest.raises(ValidationError):
            size.validate_python(text)


class TestName:
    @pytest.mark.parametrize("text", ["a", "A9", "looper/auto", "qwen3-8b", "a.b_c:d@e", "a" * 128])
    def test_can_stand_in_a_header_and_a_path(self, text: str) -> None:
        """Letters, digits and what needs no escape."""
        assert name.validate_python(text) == text

    @pytest.mark.parametrize(
        "text",
        ["", " ", "a b", "-a", "/a", ".a", "a\n", "a\r\nx: y", "é", "a,b", 'a"b', "a?b", "a%20", "a" * 129, 5, None],
        ids=repr,
    )  # fmt: skip
    def test_holds_nothing_that_would_have_to_be_escaped(self, text: Any) -> None:
        """A name that could break out of a header, a label or a path is refused."""
        with pytest.raises(ValidationError):
            name.validate_python(text)


class TestProbability:
    @pytest.mark.parametrize("value", [0, 0.5, 1])
    def test_is_from_0_to_1(self, value: float) -> None:
        """Both ends are included."""
        assert probability.validate_python(value) == value

    @pytest.mark.parametrize("value", [-0.1, 1.1, 95, float("nan"), float("inf"), "high"], ids=repr)
    def test_is_nothing_else(self, value: Any) -> None:
        """A percentage is no probability."""
        with pytest.raises(ValidationError):
            probability.validate_python(value)


class TestSecretReference:
    @pytest.mark.parametrize(
        "value", [{"env": "KEY"}, {"env": "_k9"}, {"file": "/run/keys/x"}], ids=repr
    )
    def test_is_a_variable_or_a_file(self, value: dict[str, str]) -> None:
        """One place where the secret is to be found."""
        assert SecretReference.model_validate(value)

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"env": "A", "file": "/b"},
            {"env": "sk-123"},
            {"env": "9A"},
            {"env": ""},
            {"file": "x"},
            {"value": "x"},
            "x",
        ],
        ids=repr,
    )
    def test_is_never_the_secret_itself(self, value: Any) -> None:
        """What is no name of a variable and no absolute path is refused."""
        with pytest.raises(ValidationError):
            SecretReference.model_validate(value)


class TestSetting:
    def test_knows_its_keys_and_never_changes(self) -> None:
        """A misspelt key is a mistake, and a value that was read stays."""

        class Some(Setting):
            key: int = 1

        with pytest.raises(ValidationError):
            Some.model_validate({"kee": 2})
        with pytest.raises(ValidationError):
            Some().key = 2  # type: ignore[misc]
