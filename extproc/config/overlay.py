"""What an operator lays over the Envoy that is written for them: TLS, CORS, and files of Envoy's own configuration.

Only `looper envoy-config` puts the content of these files to use. A processor may be where they are not, so that one
that is not there is no error here; and what they say is no part of the generation, on which both have to agree.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from extproc.config.yaml_source import parse_yaml
from extproc.errors import ConfigError
from extproc.headers import ALGORITHM, DECISION, OUTCOME, RUN
from looper.calling.models import FilePath
from looper.settings import Duration, Setting
from looper.settings.files import read_text

Entry = dict[str, Any]
"""A message of Envoy's, as it is written in YAML."""

OURS = frozenset({"looper.ext_proc", "looper.refusals", "looper.headers", "looper.gzip"}) | {
    *("looper.zstd", "looper.br", "envoy.filters.http.cors", "envoy.filters.http.buffer"),
    *("envoy.filters.http.json_to_metadata", "envoy.filters.http.router"),
}
"""Names of filters in the chain that is written: routes tell them apart by these."""


class Entries(Setting):
    """A file with a list of Envoy's messages; None where there is no file."""

    path: str
    content: tuple[Entry, ...] | None = Field(default=None, exclude=True)


def _read(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    context = info.context or {}
    path = Path(context.get("folder", "."), value)
    context.get("files", []).append(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        return Entries(path=value)
    except OSError as error:
        raise ValueError(f"{value} cannot be read: {error.strerror}") from None
    try:
        data = parse_yaml(text, str(path)).data
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise ValueError(f"{value} has to be a list, each item of which is a mapping")
    return Entries.model_construct(path=value, content=tuple(data))


def _checked(check: Callable[[Entry], Iterator[str]]) -> AfterValidator:
    """Has `check` find what is wrong with each item, so that Envoy does not have to."""

    def checked(entries: Entries) -> Entries:
        content = entries.content or ()
        problems = [
            f"{entries.path}: item {number}: {text}"
            for number, each in enumerate(content, 1)
            for text in check(each)
        ]
        names = [each.get("name") for each in content]
        problems += [f"{entries.path}: {name!r} is there twice" for name in _twice(names)]
        if problems:
            raise ValueError("; ".join(problems))
        return entries

    return AfterValidator(checked)


def _twice(names: list[object]) -> list[object]:
    return [name for at, name in enumerate(names) if name is not None and name in names[:at]]


def _named(entry: Entry) -> Iterator[str]:
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        yield "has no `name`"


def _typed(entry: Entry) -> Iterator[str]:
    typed = entry.get("typed_config")
    if not isinstance(typed, dict) or not isinstance(typed.get("@type"), str):
        yield "has no `typed_config` with an `@type`"


def _check_filter(entry: Entry) -> Iterator[str]:
    yield from _named(entry)
    if entry.get("name") in OURS:
        yield f"the name {entry['name']} is taken by a filter of ours"
    if "config_discovery" not in entry:
        yield from _typed(entry)
    if str((entry.get("typed_config") or {}).get("@type", "")).endswith(".router.v3.Router"):
        yield "the router ends the chain and is there already"


def _check_log(entry: Entry) -> Iterator[str]:
    yield from _named(entry)
    yield from _typed(entry)


def _check_route(entry: Entry) -> Iterator[str]:
    if "domains" in entry:
        yield from _named(entry)
        if "*" in entry["domains"]:
            yield "the domain `*` is ours: name those of yours"
    elif not isinstance(entry.get("match"), dict):
        yield "is neither a route, with `match`, nor a virtual host, with `domains`"


def _check_cluster(entry: Entry) -> Iterator[str]:
    yield from _named(entry)
    if is_ours(name := str(entry.get("name"))):
        yield f"the name {name} is taken by a cluster of ours"


def is_ours(cluster: str) -> bool:
    """Whether a cluster is one that is written here: Envoy's admin interface, the processors, models with a URL."""
    return cluster == "admin" or cluster.startswith(("looper_", "model:"))


_FILE = BeforeValidator(_read, json_schema_input_type=str)
_AS_PATH = PlainSerializer(lambda entries: entries.path, return_type=str)

Filters = Annotated[Entries, _FILE, _checked(_check_filter), _AS_PATH]
AccessLogs = Annotated[Entries, _FILE, _checked(_check_log), _AS_PATH]
Routes = Annotated[Entries, _FILE, _checked(_check_route), _AS_PATH]
Clusters = Annotated[Entries, _FILE, _checked(_check_cluster), _AS_PATH]


class DownstreamTls(Setting):
    """TLS for clients. Files are where Envoy runs, and are read again when their folder changes."""

    certificate: FilePath = Field(
        description="PEM file: Envoy's certificate, and those between it and a root"
    )
    key: FilePath = Field(description="PEM file")
    client_ca: FilePath | None = Field(
        default=None, description="PEM file of roots: clients show a certificate of one of these"
    )
    client_certificate: Literal["required", "optional"] = "required"

    @model_validator(mode="after")
    def _is_checked(self) -> Self:
        if self.client_ca is None and "client_certificate" in self.model_fields_set:
            raise ValueError("`client_certificate` needs `client_ca`, which says whose are good")
        return self


_PRINTABLE = re.compile(r"[!-~]{1,512}")


def _check_origin(origin: str) -> str:
    scheme, _, rest = origin.partition("://")
    bare = origin in ("*", "null")
    if not _PRINTABLE.fullmatch(origin):
        raise ValueError("an origin is plain ASCII: write `xn--…`")
    if not bare and (scheme not in ("http", "https") or not rest or "/" in rest):
        raise ValueError(
            f"{origin!r} is no origin: scheme, host and perhaps a port, such as https://app.example.com"
        )
    if not bare and "*" in rest and (not rest.startswith("*.") or "*" in rest[2:]):
        raise ValueError(f"{origin!r}: `*` stands for what comes before the first dot of a host")
    return origin


Origin = Annotated[str, AfterValidator(_check_origin)]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]


class Cors(Setting):
    """Which pages of other origins may ask. Envoy answers their `OPTIONS`."""

    origins: tuple[Origin, ...] = Field(
        min_length=1, description="https://app.example.com, https://*.example.com, or * for any"
    )
    methods: tuple[Token, ...] = ("GET", "POST", "OPTIONS")
    headers: tuple[Token, ...] = Field(
        default=("*",), description="that pages may send; `*` is whatever they ask for"
    )
    expose: tuple[Token, ...] = Field(
        default=(
            *("x-request-id", "retry-after", "x-should-retry"),
            *(DECISION, ALGORITHM, OUTCOME, RUN),
        ),
        description="headers of answers that pages may read",
    )
    credentials: bool = Field(default=False, description="whether pages may send cookies")
    max_age: Duration = Field(
        default=timedelta(hours=1), description="how long a browser remembers an answer"
    )

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError("`credentials` for any origin lets every page act for its reader")
        return self
