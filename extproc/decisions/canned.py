"""An answer that stands in the configuration: what a decision says instead of asking a model."""

from typing import Annotated, Literal

from pydantic import Field

from looper.settings import Setting

Status = Literal[200] | Annotated[int, Field(ge=400, le=599)]
OnUnknown = Literal["act", "skip"]


class Canned(Setting):
    """`respond: {message: TEXT}`: the assistant's words with status 200, an error with any other."""

    status: Status = 200
    message: str = Field(min_length=1, max_length=8000)
    code: str = Field(
        default="refused",
        pattern=r"^[a-z0-9_]{1,64}$",
        description="what an error is called in `error.code`",
    )
