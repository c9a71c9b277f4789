"""What a decision does to the headers of a request on its way to models."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.headers import check_forwardable
from looper.settings import Setting

HeaderName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$"), AfterValidator(check_forwardable)
]
"""The name, in lower case, of a header that Envoy lets the processor write."""

HeaderValue = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class HeaderMutations(Setting):
    """`headers: {set: {NAME: VALUE}, append: {NAME: VALUE}, remove: [NAME]}`"""

    set: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="in place of what the client sent"
    )
    append: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="beside what the client sent"
    )
    remove: tuple[HeaderName, ...] = ()

    @model_validator(mode="after")
    def _does_one_thing_to_each(self) -> Self:
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} stands there twice")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every header that is changed."""
        return (*self.set, *self.append, *self.remove)

    def applied(self, sent: Mapping[str, str]) -> dict[str, str]:
        """The headers of a call of our own, which has none of the client's but those in `sent`."""
        kept = {name: value for name, value in sent.items() if name not in self.remove}
        more = {
            name: f"{kept[name]}, {value}" if name in kept else value
            for name, value in self.append.items()
        }
        return {**kept, **self.set, **more}


NO_MUTATIONS = HeaderMutations()
