import json
from typing import Any

import pytest
from pydantic import ValidationError

from extproc.signals import HeaderConfig, RequestConfig, Subject
from extproc.signals.attribute import AttributeConfig
from looper.wire.chat import ChatRequest
from tests.fakes.subjects import read, subject

ASKED = subject(
    "x",
    stream=True,
    max_tokens=4096,
    temperature=0.0,
    response_format={"type": "json_schema"},
    metadata={"team": "red", "user.id": "7", "groups": ["dev", "ops"], "none": None, "no": []},
    tools=[{"type": "function", "function": {"name": "f"}}],
    reasoning_effort="high",
)


class TestRequest:
    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            pytest.param({"path": "stream", "equals": True}, True, id="true"),
            pytest.param({"path": "stream", "equals": 1}, False, id="true-is-no-number"),
            pytest.param({"path": "temperature", "equals": 0}, True, id="zero-is-zero"),
            pytest.param({"path": "temperature", "equals": False}, False, id="zero-is-not-false"),
            pytest.param({"path": "temperature", "exists": True}, True, id="zero-is-there"),
            pytest.param({"path": "max_tokens", "at_least": "4k"}, True, id="at-least"),
            pytest.param({"path": "max_tokens", "at_least": "5k"}, False, id="too-small"),
            pytest.param({"path": "max_tokens", "at_most": 4096}, True, id="at-most"),
            pytest.param({"path": "stream", "at_least": 0}, False, id="true-is-not-measured"),
            pytest.param({"path": "reasoning_effort", "in": ["high", "xhigh"]}, True, id="in"),
            pytest.param({"path": "reasoning_effort", "in": ["low"]}, False, id="not-in"),
            pytest.param({"path": "reasoning_effort", "prefix": "hi"}, True, id="prefix"),
            pytest.param({"path": "reasoning_effort", "regex": "^x?high$"}, True, id="regex"),
            pytest.param({"path": "response_format.type", "equals": "json_schema"}, True, id="inside"),
            pytest.param({"path": "tools.0.function.name", "equals": "f"}, True, id="in-a-list"),
            pytest.param({"path": "tools.1", "exists": False}, True, id="behind-a-list"),
            pytest.param({"path": ["metadata", "user.id"], "equals": "7"}, True, id="dot-in-a-name"),
            pytest.param({"path": "metadata.groups", "equals": "ops"}, True, id="an-element"),
            pytest.param({"path": "metadata.groups", "equals": "hr"}, False, id="no-element"),
            pytest.param({"path": "metadata.no", "exists": True}, True, id="empty-list-is-there"),
            pytest.param({"path": "metadata.no", "equals": "a"}, False, id="empty-list"),
            pytest.param({"path": "metadata.none", "exists": False}, True, id="null-is-not-there"),
            pytest.param({"path": "metadata.none", "equals": "a"}, False, id="null-is-nothing"),
            pytest.param({"path": "missing", "exists": False}, True, id="missing"),
            pytest.param({"path": "missing", "exists": True}, False, id="missing-wanted"),
            pytest.param({"path": "missing.deep.er", "equals": 1}, False, id="missing-inside"),
            pytest.param({"path": "stream.deep", "exists": True}, False, id="inside-a-scalar"),
            pytest.param({"path": "stream", "exists": False}, False, id="there-and-not-wanted"),
            pytest.param({"path": "metadata", "exists": True}, True, id="an-object-is-there"),
            pytest.param({"path": "metadata", "prefix": "x"}, False, id="an-object-is-no-text"),
            pytest.param({"path": "messages.0.role", "equals": "user"}, True, id="messages"),
            pytest.param({"path": "max_tokens", "at_least": 1, "at_most": 9}, False, id="all-must-hold"),
        ],
    )  # fmt: skip
    def test_a_member_is_found_and_compared(self, settings: dict[str, Any], match: bool) -> None:
        """By its path; values are those of JSON, with their types."""
        assert read(ASKED, type="request", **settings).match is match

    @pytest.mark.parametrize("value", ["1e400", "[" * 900 + "]" * 900, f'"{"x" * 100_000}"'])
    def test_what_is_not_decoded_is_there(self, value: str) -> None:
        """Numbers beyond all bounds, nests without end, and very long texts."""
        body = '{"model":"m","messages":[{"role":"user","content":"x"}],"seed":%s}' % value  # noqa: UP031
        asked = Subject(ChatRequest.parse(body.encode()))
        assert read(asked, type="request", path="seed", exists=True).match
        assert not read(asked, type="request", path="seed", equals=1).match
        assert not read(asked, type="request", path="seed.0.0", equals=1).match

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"in": []},
            {"exists": False, "equals": 1},
            {"regex": "("},
            {"path": "", "equals": 1},
            {"path": "a..b", "equals": 1},
            {"prefix": ""},
            {"at_least": "much"},
        ],
        ids=["nothing", "in-nothing", "contradiction", "regex", "no-path", "gap", "blank", "word"],
    )  # fmt: skip
    def test_settings_that_ask_for_nothing_are_refused(self, settings: dict[str, Any]) -> None:
        """So are those that contradict themselves."""
        with pytest.raises(ValidationError):
            RequestConfig.model_validate({"type": "request", "path": "a", **settings})


def with_headers(**headers: str) -> Subject:
    return Subject(ASKED.request, {name.replace("_", "-"): text for name, text in headers.items()})


class TestHeader:
    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            pytest.param({"equals": "acme"}, True, id="equals"),
            pytest.param({"equals": "ACME"}, False, id="case-counts"),
            pytest.param({"in": ["globex", "acme"]}, True, id="in"),
            pytest.param({"prefix": "ac"}, True, id="prefix"),
            pytest.param({"regex": "^a.*e$"}, True, id="regex"),
            pytest.param({"exists": True}, True, id="exists"),
            pytest.param({"exists": False}, False, id="exists-not"),
        ],
    )
    def test_a_header_is_compared(self, settings: dict[str, Any], match: bool) -> None:
        """Its name goes without regard to case, its value does not."""
        asked = with_headers(x_tenant="acme")
        assert read(asked, type="header", name="X-Tenant", **settings).match is match

    def test_a_header_that_is_missing_is_not_unknown(self) -> None:
        """That it is missing is an answer."""
        assert not read(with_headers(), type="header", name="x-tenant", equals="acme").match
        assert read(with_headers(), type="header", name="x-tenant", exists=False).match

    @pytest.mark.parametrize("name", ["x-looper-model", "a b", "", "X-Looper-Run"])
    def test_names_of_headers_that_cannot_come_are_refused(self, name: str) -> None:
        """Our own are taken from clients before any filter."""
        with pytest.raises(ValidationError):
            HeaderConfig.model_validate({"type": "header", "name": name, "exists": True})


SAID_BY_ENVOY = Subject(
    ASKED.request,
    {},
    {
        "xds.route_name": "chat",
        "source.port": 1234.0,
        "connection.mtls": True,
        "metadata": {
            "jwt": {"claims": {"plan": "gold", "groups": ["dev", "ops"], "https://a/b": "x"}}
        },
    },
)


class TestAttribute:
    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            pytest.param({"name": "xds.route_name", "equals": "chat"}, True, id="attribute"),
            pytest.param({"name": "source.port", "equals": 1234}, True, id="number"),
            pytest.param({"name": "connection.mtls", "equals": True}, True, id="bool"),
            pytest.param({"name": "request.id", "exists": True}, False, id="not-there"),
            pytest.param({"metadata": "jwt", "path": "claims.plan", "in": ["gold"]}, True, id="metadata"),
            pytest.param({"metadata": "jwt", "path": "claims.groups", "equals": "ops"}, True, id="group"),
            pytest.param({"metadata": "jwt", "path": ["claims", "https://a/b"], "equals": "x"}, True, id="address"),
            pytest.param({"metadata": "jwt", "path": "claims.plan.x", "exists": True}, False, id="too-deep"),
            pytest.param({"metadata": "other", "exists": False}, True, id="no-such-namespace"),
            pytest.param({"metadata": "jwt", "exists": True}, True, id="the-namespace-itself"),
        ],
    )  # fmt: skip
    def test_what_envoy_says_is_compared(self, settings: dict[str, Any], match: bool) -> None:
        """An attribute by its name, dynamic metadata by namespace and path."""
        assert read(SAID_BY_ENVOY, type="attribute", **settings).match is match

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"name": "xds.route_name", "metadata": "jwt"},
            {"name": "xds.route_nam"},
            {"name": "request.headers"},
            {"name": "xds.route_name", "path": "a"},
        ],
        ids=["nothing", "both", "misspelt", "all-headers", "path-of-an-attribute"],
    )
    def test_places_that_are_none_are_refused(self, settings: dict[str, Any]) -> None:
        """Envoy leaves out what it does not know without a word; and all headers would be too many."""
        with pytest.raises(ValidationError):
            AttributeConfig.model_validate({"type": "attribute", "exists": True, **settings})


def test_conditions_are_written_in_yaml_as_they_are_named() -> None:
    """`in` is a word that Python keeps for itself."""
    schema = json.dumps(RequestConfig.model_json_schema(by_alias=True)["properties"])
    assert '"in"' in schema
    assert '"in_"' not in schema
