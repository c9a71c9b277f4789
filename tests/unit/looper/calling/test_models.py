from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from looper.calling.models import ApiKey, Model
from tests.fakes.models import model


def with_url(url: Any) -> Model:
    return Model.model_validate({"name": "m", "url": url})


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "kept"),
        [
            ("http://10.0.0.11:8000/v1", "http://10.0.0.11:8000/v1"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
            ("https://host", "https://host"),
            ("https://host/", "https://host"),
            ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
            ("https://host/a/b/v1", "https://host/a/b/v1"),
            ("https://host/v1/?api-version=1&b", "https://host/v1?api-version=1&b"),
            ("https://host/v1?", "https://host/v1"),
        ],
    )
    def test_is_a_host_and_a_path(self, url: str, kept: str) -> None:
        """A slash at the end is taken off, so that paths can be put behind it."""
        assert with_url(url).url == kept

    @pytest.mark.parametrize(
        "url",
        [
            "", "host", "host:8000/v1", "//host/v1", "ftp://host", "unix:/run/x.sock", "http://", "http:///v1", "http://:80",
            "http://user@host/v1", "http://host/v1?key=x", "http://host/v1?a=1&API-Key=x", "http://host/v1?=x", "http://host/v1?a=%ff",
            "http://host/v1#x", "http://host/v1?a=ä",
            "http://user:pass@host/v1",  # pragma: allowlist secret
            "http://host:port/v1", "http://host:70000/v1", "http://[::1/v1", 5, None,
        ],
        ids=repr,
    )  # fmt: skip
    def test_is_nothing_else(self, url: Any) -> None:
        """Credentials, fragments and what is no HTTP address are refused."""
        with pytest.raises(ValidationError):
            with_url(url)


class TestApiKey:
    @pytest.mark.parametrize(
        ("settings", "prefix"),
        [
            pytest.param({}, "Bearer ", id="default"),
            pytest.param({"header": "authorization"}, "Bearer ", id="authorization"),
            pytest.param({"header": "x-api-key"}, "", id="another-header"),
            pytest.param({"header": "authorization", "prefix": ""}, "", id="without-a-prefix"),
            pytest.param({"header": "x-api-key", "prefix": "Key "}, "Key ", id="with-a-prefix"),
        ],
    )
    def test_stands_behind_its_headers_usual_prefix(
        self, settings: dict[str, str], prefix: str
    ) -> None:
        """`Bearer` belongs to authorization; unset and empty are different things."""
        assert ApiKey.model_validate({"env": "KEY", **settings}).value_prefix == prefix

    @pytest.mark.parametrize("header", ["", "X-Api-Key", "x api", "x:y", "x\n", "é"], ids=repr)
    def test_goes_in_a_header_that_envoy_takes(self, header: str) -> None:
        """Header names are lower-case, and hold nothing that ends them."""
        with pytest.raises(ValidationError):
            ApiKey.model_validate({"env": "KEY", "header": header})


class TestModel:
    @pytest.mark.parametrize(
        ("settings", "upstream"), [({}, "m"), ({"upstream_model": "vendor/m-9b"}, "vendor/m-9b")]
    )
    def test_goes_by_its_own_name_upstream_unless_told_otherwise(
        self, settings: dict[str, str], upstream: str
    ) -> None:
        """A catalogue's name is often the upstream's, too."""
        assert model("m", **settings).upstream == upstream

    @pytest.mark.parametrize(
        ("rating", "general"),
        [
            (None, 0.0),
            (0.7, 0.7),
            (0, 0.0),
            ({"default": 0.7, "math": 0.8}, 0.7),
            ({"math": 0.8}, 0.0),
            ({}, 0.0),
        ],
        ids=repr,
    )
    def test_general_rating_is_that_of_no_category(self, rating: Any, general: float) -> None:
        """What is not known counts least."""
        assert model("m", rating=rating).general_rating == general

    @pytest.mark.parametrize("rating", [1.5, -0.1, "high", {"math": 2}, [0.5]], ids=repr)
    def test_a_rating_is_a_probability(self, rating: Any) -> None:
        """Over all, or for each category."""
        with pytest.raises(ValidationError):
            model("m", rating=rating)

    def test_prices_are_exact(self) -> None:
        """Money is no floating-point number."""
        price = model("m", price={"input": "0.15", "output": 0.6}).price
        assert price is not None
        assert (price.input, price.output) == (Decimal("0.15"), Decimal("0.6"))

    @pytest.mark.parametrize(
        "price", [{"input": -1, "output": 1}, {"input": 1}, {"input": "NaN", "output": 1}, 5], ids=repr
    )  # fmt: skip
    def test_prices_are_two_and_not_negative(self, price: Any) -> None:
        """Half a price would make half a bill."""
        with pytest.raises(ValidationError):
            model("m", price=price)

    @pytest.mark.parametrize("capability", ["logprob", "Tools", "streaming"])
    def test_capabilities_are_known_ones(self, capability: str) -> None:
        """A misspelt capability would be one that is never used."""
        with pytest.raises(ValidationError):
            model("m", capabilities=[capability])

    def test_is_not_public_by_default(self) -> None:
        """What stands in the catalogue is for teams; clients ask for it only where that is said."""
        assert model("m").public is False

    @pytest.mark.parametrize(
        "settings",
        [
            {"retry": {"attempts": 11}},
            {"retry": {"attempts": -1}},
            {"breaker": {"max_requests": 0}},
            {"context_window": 0},
        ],
        ids=repr,
    )  # fmt: skip
    def test_numbers_are_within_reason(self, settings: dict[str, Any]) -> None:
        """What could never work is refused when it is read."""
        with pytest.raises(ValidationError):
            model("m", **settings)
