"""Proves our subset of the ext_proc API against the complete one that envoy-data-plane has."""

import dataclasses
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import betterproto2
import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.warnings import PydanticDeprecatedSince212

from extproc.protocol._pb import ext_proc_pb2 as pb

with warnings.catch_warnings():
    warnings.simplefilter("ignore", PydanticDeprecatedSince212)
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc_filter
    from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
    from envoy_data_plane.envoy.type import v3 as types
    from envoy_data_plane.google import protobuf as well_known

pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:HeaderValueOption\.append is deprecated:DeprecationWarning"
    ),
    pytest.mark.filterwarnings(r"ignore:HttpHeaders\.attributes is deprecated:DeprecationWarning"),
]

# Declared in our one file, at home elsewhere in Envoy's API.
HOMES: Mapping[str, Any] = {
    "HeaderMap": core,
    "HeaderValue": core,
    "HeaderValueOption": core,
    "Metadata": core,
    "HttpStatus": types,
    "ProcessingMode": ext_proc_filter,
}
# Enums of Envoy that are plain numbers with us.
NUMBERS_FOR_ENUMS = {"HttpStatus.code"}

FILE = pb.DESCRIPTOR
KINDS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


# ---- The two descriptions, side by side ----------------------------------------------------------


def messages_in(descriptors: Mapping[str, Descriptor]) -> Iterator[Descriptor]:
    """Yield every message, nested ones too, less those that protoc makes for map entries."""
    for descriptor in descriptors.values():
        if not descriptor.GetOptions().map_entry:
            yield descriptor
            yield from messages_in(descriptor.nested_types_by_name)


MESSAGES = list(messages_in(FILE.message_types_by_name))
ENUMS = [*FILE.enum_types_by_name.values(), *(e for m in MESSAGES for e in m.enum_types)]
ONEOF_MEMBERS = [(m, field) for m in MESSAGES for field in m.fields if field.containing_oneof]


def short(descriptor: Descriptor | EnumDescriptor | FieldDescriptor) -> str:
    """Return a descriptor's name as it reads within its package."""
    return descriptor.full_name.removeprefix(f"{FILE.package}.")


def counterpart(descriptor: Descriptor | EnumDescriptor) -> type:
    """Return the class that stands for the same message or enum in the complete API."""
    package, _, name = descriptor.full_name.rpartition(".")

    if package == "google.protobuf":
        home: Any = well_known
    else:
        name = short(descriptor)
        home = HOMES.get(name.partition(".")[0], ext_proc)

    found = getattr(home, name.replace(".", ""), None)
    assert isinstance(found, type), f"the complete API has no {name}"
    return found


class Field(typing.NamedTuple):
    """What of a field shows on the wire, and its name."""

    name: str
    number: int
    kind: str
    repeated: bool
    oneof: str | None
    map_key: str | None
    points_to: type | None


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """Return the message that protoc made for the entries of a map, if the field is one."""
    entry = field.message_type
    return entry if entry and entry.GetOptions().map_entry else None


def our_field(field: FieldDescriptor) -> Field:
    """Describe a field of ours."""
    entry = map_entry(field)
    value = entry.fields_by_name["value"] if entry else field
    target = value.message_type or value.enum_type

    return Field(
        name=field.name,
        number=field.number,
        kind=KINDS[value.type],
        repeated=field.is_repeated and not entry,
        oneof=field.containing_oneof.name if field.containing_oneof else None,
        map_key=KINDS[entry.fields_by_name["key"].type] if entry else None,
        points_to=counterpart(target) if target else None,
    )


def pointed_to(hint: Any) -> type | None:
    """Return the message or enum class within an annotation such as `list[X]` or `X | None`."""
    parts = [part for inner in typing.get_args(hint) if (part := pointed_to(inner))]

    if isinstance(hint, type) and issubclass(hint, betterproto2.Message | betterproto2.Enum):
        return hint

    return parts[0] if parts else None


def their_field(cls: type, name: str) -> Field:
    """Describe a field of the complete API."""
    declared = {field.name: field for field in dataclasses.fields(cls)}
    assert name in declared, f"the complete API has no {cls.__name__}.{name}"
    meta = declared[name].metadata["betterproto"]
    key, value = meta.map_meta or (None, meta)

    return Field(
        name=name,
        number=meta.number,
        kind=value.proto_type,
        repeated=meta.repeated,
        oneof=meta.group,
        map_key=key.proto_type if key else None,
        points_to=meta.unwrap() if meta.unwrap else pointed_to(typing.get_type_hints(cls)[name]),
    )


@pytest.mark.parametrize("message", MESSAGES, ids=short)
def test_message_has_the_fields_of_the_complete_api(message: Descriptor) -> None:
    """Each of our fields has name, number, type, repetition and oneof of its counterpart."""
    cls = counterpart(message)

    for field in message.fields:
        expected = their_field(cls, field.name)

        if short(field) in NUMBERS_FOR_ENUMS:
            assert expected.kind == "enum"
            expected = expected._replace(kind="int32", points_to=None)

        assert our_field(field) == expected


@pytest.mark.parametrize("enum", ENUMS, ids=short)
def test_enum_has_the_values_of_the_complete_api(enum: EnumDescriptor) -> None:
    """Each of our enums has all names and numbers of its counterpart, and no others."""
    theirs: Any = counterpart(enum)

    assert {v.name: v.number for v in enum.values} == {v.name: v.value for v in theirs}


def test_numbers_are_used_where_envoy_has_enums_only_in_fields_that_exist() -> None:
    """The list of exceptions names no field that has gone."""
    assert {short(field) for m in MESSAGES for field in m.fields} >= NUMBERS_FOR_ENUMS


def test_service_is_reached_at_the_path_of_the_complete_api() -> None:
    """The one method has the path, the types and the two-way streaming that Envoy expects."""
    (service,) = FILE.services_by_name.values()
    (method,) = service.methods
    ((path, handler),) = ext_proc.ExternalProcessorBase().__mapping__().items()

    assert f"/{service.full_name}/{method.name}" == path
    assert method.client_streaming
    assert method.server_streaming
    assert counterpart(method.input_type) is handler.request_type
    assert counterpart(method.output_type) is handler.reply_type


# ---- The same message built with either library --------------------------------------------------

# A message as plain values: a field's name to bytes, text, numbers, lists, timedeltas, JSON or,
# again, messages as plain values.
Plain = dict[str, Any]


def build_ours(descriptor: Descriptor, plain: Plain) -> Message:
    """Build a message with the code that protoc generated for us."""
    message = GetMessageClass(descriptor)()

    for name, value in plain.items():
        set_ours(message, descriptor.fields_by_name[name], value)

    return message


def set_ours(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set one field of a message of ours."""
    target = getattr(message, field.name)

    if map_entry(field):
        for key, struct in value.items():
            target[key].update(struct)
    elif isinstance(value, list):
        inner = field.message_type
        target.extend([build_ours(inner, item) for item in value] if inner else value)
    elif field.message_type:
        target.SetInParent()
        set_ours_message(target, field.message_type, value)
    else:
        setattr(message, field.name, value)


def set_ours_message(target: Any, descriptor: Descriptor, value: Any) -> None:
    """Fill a message that is the value of a field."""
    match descriptor.full_name:
        case "google.protobuf.Struct":
            target.update(value)
        case "google.protobuf.Duration":
            target.FromTimedelta(value)
        case "google.protobuf.BoolValue":
            target.value = value
        case _:
            target.MergeFrom(build_ours(descriptor, value))


def build_theirs(descriptor: Descriptor, plain: Plain) -> Any:
    """Build the same message with the complete API."""
    fields = descriptor.fields_by_name
    return counterpart(descriptor)(
        **{name: value_for_theirs(fields[name], value) for name, value in plain.items()}
    )


def value_for_theirs(field: FieldDescriptor, value: Any) -> Any:
    """Turn a plain value into what the complete API takes for this field."""
    described = our_field(field)
    inner = field.message_type

    if short(field) in NUMBERS_FOR_ENUMS:
        return types.StatusCode(value)

    if described.kind == "enum" and described.points_to:
        return described.points_to(value)

    if described.map_key:
        return {key: well_known.Struct.from_dict(struct) for key, struct in value.items()}

    if described.points_to is well_known.Struct:
        return well_known.Struct.from_dict(value)

    if inner and isinstance(value, list):
        return [build_theirs(inner, item) for item in value]

    if inner and isinstance(value, dict):
        return build_theirs(inner, value)

    # Scalars; BoolValue and Duration too, which are bool and timedelta there.
    return value


def assert_same_on_the_wire(descriptor: Descriptor, plain: Plain) -> None:
    """Assert that what either library writes, the other reads as what it would have built."""
    ours, theirs = build_ours(descriptor, plain), build_theirs(descriptor, plain)

    assert type(theirs).parse(ours.SerializeToString()) == theirs
    assert GetMessageClass(descriptor).FromString(bytes(theirs)) == ours


# ---- Any message ---------------------------------------------------------------------------------

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
STRUCTS = st.dictionaries(TEXT, JSON, max_size=3)
SCALARS: Mapping[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "bytes": st.binary(max_size=16),
    "string": TEXT,
    "uint32": st.integers(0, 2**32 - 1),
}
SPECIAL: Mapping[type, st.SearchStrategy[Any]] = {
    well_known.Struct: STRUCTS,
    well_known.Duration: st.timedeltas(timedelta(), timedelta(days=1)),
    well_known.BoolValue: st.booleans(),
}


def plain_values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Draw plain values for one field."""
    described = our_field(field)
    one: st.SearchStrategy[Any]

    if short(field) in NUMBERS_FOR_ENUMS:
        one = st.sampled_from([status.value for status in types.StatusCode])
    elif described.points_to and described.points_to in SPECIAL:
        one = SPECIAL[described.points_to]
    elif field.enum_type:
        one = st.sampled_from([value.number for value in field.enum_type.values])
    elif field.message_type:
        one = plain_messages(field.message_type)
    else:
        one = SCALARS[described.kind]

    if described.map_key:
        return st.dictionaries(TEXT, one, max_size=2)

    return st.lists(one, max_size=2) if described.repeated else one


def plain_messages(
    descriptor: Descriptor, member: FieldDescriptor | None = None
) -> st.SearchStrategy[Plain]:
    """Draw messages with any of their fields, and one of each oneof at most: this one, if given."""
    free = {f.name: plain_values(f) for f in descriptor.fields if not f.containing_oneof}
    drawn = st.fixed_dictionaries({}, optional=free)

    for oneof in descriptor.oneofs:
        members = [member] if member in oneof.fields and member else oneof.fields
        picks = [st.fixed_dictionaries({f.name: plain_values(f)}) for f in members]
        drawn = st.builds(dict.__or__, drawn, st.one_of(picks if member else [st.just({}), *picks]))

    return drawn


few = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("message", MESSAGES, ids=short)
@few
@given(data=st.data())
def test_any_message_is_read_alike_by_both(message: Descriptor, data: st.DataObject) -> None:
    """What either library writes, the other reads, whichever fields are set."""
    assert_same_on_the_wire(message, data.draw(plain_messages(message)))


@pytest.mark.parametrize(
    ("message", "member"), ONEOF_MEMBERS, ids=[short(member) for _, member in ONEOF_MEMBERS]
)
@few
@given(data=st.data())
def test_any_oneof_member_is_read_alike_by_both(
    message: Descriptor, member: FieldDescriptor, data: st.DataObject
) -> None:
    """What either library writes, the other reads, for every member of every oneof."""
    assert_same_on_the_wire(message, data.draw(plain_messages(message, member)))


# ---- Messages as they really come ----------------------------------------------------------------

METADATA = {
    "looper": {
        "decision": "hard",
        "confidence": 0.8125,
        "tokens": 12345678901.0,
        "cached": False,
        "error": None,
        "models": ["small", "large", {"name": "judge", "calls": 2.0}],
        "nested": {"deep": {"er": {}}, "empty": []},
    }
}
STREAM_HEADERS = [{"key": ":status", "raw_value": b"200"}, {"key": "x", "raw_value": b"\xff\x00"}]

EXAMPLES: Mapping[str, tuple[str, Plain]] = {
    "first_message_of_a_stream": (
        "ProcessingRequest",
        {
            "request_headers": {
                "headers": {"headers": [{"key": ":path", "raw_value": b"/v1/chat/\xe9"}]},
                "end_of_stream": True,
            },
            "metadata_context": {"filter_metadata": METADATA},
            "attributes": {"envoy.filters.http.ext_proc": {"request.size": 17.0}},
            "protocol_config": {"request_body_mode": pb.ProcessingMode.FULL_DUPLEX_STREAMED},
        },
    ),
    "last_piece_of_a_body": (
        "ProcessingRequest",
        {"request_body": {"body": bytes(range(256)), "end_of_stream": True}},
    ),
    "empty_trailers": ("ProcessingRequest", {"request_trailers": {}}),
    "header_change": (
        "ProcessingResponse",
        {
            "request_headers": {
                "response": {
                    "header_mutation": {
                        "set_headers": [
                            {"header": {"key": "a", "raw_value": b"\xff"}, "append": False},
                            {"header": {"key": "b", "raw_value": b"1"}, "append_action": 2},
                        ],
                        "remove_headers": ["content-length"],
                    },
                    "clear_route_cache": True,
                }
            },
            "dynamic_metadata": METADATA,
        },
    ),
    "piece_of_a_body": (
        "ProcessingResponse",
        {
            "request_body": {
                "response": {
                    "body_mutation": {"streamed_response": {"body": b"{}\n", "end_of_stream": True}}
                }
            }
        },
    ),
    "body_cleared_or_not": ("BodyMutation", {"clear_body": False}),
    "immediate_response": (
        "ProcessingResponse",
        {
            "immediate_response": {
                "status": {"code": 429},
                "headers": {"set_headers": [{"header": {"key": "retry-after", "raw_value": b"1"}}]},
                "body": b'{"error": {}}',
                "grpc_status": {"status": 8},
                "details": "budget",
            }
        },
    ),
    "streamed_headers": (
        "ProcessingResponse",
        {
            "streamed_immediate_response": {
                "headers_response": {"headers": {"headers": STREAM_HEADERS}}
            }
        },
    ),
    "streamed_body": (
        "ProcessingResponse",
        {
            "streamed_immediate_response": {
                "body_response": {"body": b"data: [DONE]\n\n", "end_of_stream": True}
            },
            "dynamic_metadata": METADATA,
        },
    ),
    "streamed_trailers": (
        "ProcessingResponse",
        {"streamed_immediate_response": {"trailers_response": {"headers": STREAM_HEADERS}}},
    ),
    "more_time": (
        "ProcessingResponse",
        {"override_message_timeout": timedelta(seconds=4, microseconds=500_001)},
    ),
    "another_mode": (
        "ProcessingResponse",
        {
            "response_headers": {},
            "mode_override": {"response_header_mode": 2, "response_body_mode": 1},
            "request_drain": True,
        },
    ),
}


@pytest.mark.parametrize(("message", "plain"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_real_message_is_read_alike_by_both(message: str, plain: Plain) -> None:
    """What either library writes, the other reads, for messages as they are really sent."""
    assert_same_on_the_wire(FILE.message_types_by_name[message], plain)


# ---- Fields that we left out ---------------------------------------------------------------------

STRUCT = struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=1.0)})
THEIR_STRUCT = well_known.Struct.from_dict({"a": 1.0})

FULLER: Mapping[str, tuple[Callable[[], Any], Message]] = {
    "header_attributes": (
        lambda: ext_proc.ProcessingRequest(
            request_headers=ext_proc.HttpHeaders(attributes={"a": THEIR_STRUCT}, end_of_stream=True)
        ),
        pb.ProcessingRequest(request_headers=pb.HttpHeaders(end_of_stream=True)),
    ),
    "grpc_body_flags": (
        lambda: ext_proc.ProcessingRequest(
            request_body=ext_proc.HttpBody(
                body=b"x", end_of_stream_without_message=True, grpc_message_compressed=True
            )
        ),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x")),
    ),
    "typed_metadata": (
        lambda: ext_proc.ProcessingRequest(
            metadata_context=core.Metadata(
                filter_metadata={"a": THEIR_STRUCT},
                typed_filter_metadata={"b": well_known.Any(type_url="t/x", value=b"\x01")},
            ),
            observability_mode=True,
        ),
        pb.ProcessingRequest(
            metadata_context=pb.Metadata(filter_metadata={"a": STRUCT}),
            observability_mode=True,
        ),
    ),
}


@pytest.mark.parametrize(("fuller", "known"), FULLER.values(), ids=FULLER.keys())
def test_fields_left_out_do_not_disturb_the_others(
    fuller: Callable[[], Any], known: Message
) -> None:
    """A message with fields that we do not declare is read for those that we do, losing nothing."""
    sent = fuller()
    read = type(known).FromString(bytes(sent))
    rewritten = read.SerializeToString()
    read.DiscardUnknownFields()

    assert read == known
    assert type(sent).parse(rewritten) == sent


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(b"\xc0\x3e\x01", id="varint"),
        pytest.param(b"\xc1\x3e" + bytes(8), id="fixed64"),
        pytest.param(b"\xc2\x3e\x03abc", id="length_delimited"),
        pytest.param(b"\xc5\x3e" + bytes(4), id="fixed32"),
    ],
)
def test_field_of_a_later_api_is_passed_over(unknown: bytes) -> None:
    """A field with a number that no API has yet, 1000, is passed over whatever its wire type."""
    body = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x"))
    read = pb.ProcessingRequest.FromString(unknown + body.SerializeToString() + unknown)
    read.DiscardUnknownFields()

    assert read == body


def test_event_of_a_later_api_reads_as_no_event() -> None:
    """A message of a kind that we do not know is read, and is none of those that we know."""
    read = pb.ProcessingRequest.FromString(b"\xc2\x3e\x03abc")

    assert read.WhichOneof("request") is None
