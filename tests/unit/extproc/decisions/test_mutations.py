"""What a decision does to the headers that models get."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from extproc.bootstrap.ingress import writable_regex
from extproc.config import parse_config
from extproc.decisions.mutations import HeaderMutations
from extproc.protocol._pb.ext_proc_pb2 import ProcessingResponse
from extproc.protocol.actions import Rewrite
from extproc.protocol.codec import encode
from extproc.protocol.events import BodyMode


def mutations(**settings: Any) -> HeaderMutations:
    return HeaderMutations.model_validate(settings)


@pytest.mark.parametrize(
    "name",
    [
        *(":path", ":authority", "host", "x-envoy-max-retries", "x-looper-model", "authorization"),
        *("content-length", "transfer-encoding", "te", "connection", "cookie", "x-api-key"),
        *("x-forwarded-for", "accept-encoding", "X-Upper", "sp ace", "", "x" * 129, "a\nb"),
    ],
)
@pytest.mark.parametrize("how", ["set", "append", "remove"])
def test_what_envoy_would_not_do_is_wrong(how: str, name: str) -> None:
    """A name that Envoy refuses, or takes away behind us, is found when the file is read."""
    settings = {how: [name] if how == "remove" else {name: "x"}}
    with pytest.raises(ValidationError):
        mutations(**settings)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\x00", "\x7f", "x" * 4097])
def test_a_value_has_no_control_characters(value: str) -> None:
    """One header cannot become two."""
    with pytest.raises(ValidationError):
        mutations(set={"x-a": value})


def test_a_name_is_changed_in_one_way() -> None:
    """Which of two would win would be nobody's guess."""
    with pytest.raises(ValidationError, match="'x-a' stands there twice"):
        mutations(set={"x-a": "1"}, remove=["x-a"])


def test_calls_of_a_team_have_them_too() -> None:
    """What is set for models is set for each of them, whoever makes the call."""
    changed = mutations(set={"x-a": "1"}, append={"x-b": "2", "x-c": "3"}, remove=["traceparent"])
    sent = {"traceparent": "t", "x-b": "0", "x-request-id": "r"}
    assert changed.applied(sent) == {"x-request-id": "r", "x-a": "1", "x-b": "0, 2", "x-c": "3"}


@pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)
def test_envoy_is_told_in_both_modes(mode: BodyMode) -> None:
    """`append` goes by the one field that Envoy reads."""
    action = Rewrite((("x-a", "1"),), b"{}", {}, appended=(("x-b", "2"),), removed=("x-c",))
    first = ProcessingResponse.FromString(next(iter(encode(action, mode))))
    part = first.request_headers if mode is BodyMode.FULL_DUPLEX else first.request_body
    mutation = part.response.header_mutation
    told = {option.header.key: option.append.value for option in mutation.set_headers}
    assert told.items() >= {"x-a": False, "x-b": True}.items()
    assert mutation.remove_headers == ["x-c"]


CONFIG = """\
version: 1
egress: unix:/run/egress.sock
models: [{name: small, url: "http://small/v1"}]
recipes:
  general:
    decisions:
      - name: only
        algorithm: {type: single, model: small}
        headers: {set: {x-tenant: gold}, append: {x-via_us: "1"}, remove: [x-inner]}
entrypoints: {looper/auto: general}
"""


def test_envoy_is_configured_to_allow_these_and_no_others() -> None:
    """The filter's allow-list follows from the configuration."""
    allowed = re.compile(writable_regex(parse_config(CONFIG, "f.yaml")))
    for name in ("x-tenant", "x-via_us", "x-inner", "x-looper-model", "content-length"):
        assert allowed.fullmatch(name)
    for name in ("x-tenants", "authorization", "x-tenan", "xxtenant"):
        assert not allowed.fullmatch(name)
