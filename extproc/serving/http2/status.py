"""How a call ends, in gRPC's words."""

from enum import IntEnum


class Status(IntEnum):
    """Those of gRPC's status codes that a processor has a use for."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
