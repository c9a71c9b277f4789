"""Does a header of the request say something?"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from extproc.signals.base import Reading, Subject
from extproc.signals.values import Condition


def _known(name: str) -> str:
    name = name.lower()
    if name.startswith("x-looper-"):
        raise ValueError("headers that begin with x-looper- are taken from clients: none arrives")
    return name


HeaderName = Annotated[
    str, Field(pattern=r"^:?[A-Za-z0-9!#$%&'*+.^_|~-]+$"), AfterValidator(_known)
]


class HeaderConfig(Condition):
    """`{type: header, name: x-tenant, in: [acme, globex]}`"""

    type: Literal["header"]
    name: HeaderName = Field(description="of the header; case does not count")

    def build(self) -> "Header":
        return Header(self)


class Header:
    """Reads a `header` signal."""

    def __init__(self, config: HeaderConfig) -> None:
        self._config = config

    def read(self, subject: Subject) -> Reading:
        return self._config.reading(subject.headers.get(self._config.name))
