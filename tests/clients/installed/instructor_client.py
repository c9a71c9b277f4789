"""instructor, by tools and by JSON schema."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel

from tests.clients.programs.told import USER, base_url, refused, tell


class Place(BaseModel):
    answer: str


class Told(BaseModel):
    answer: Literal["It is Ottawa, says the tool."]


def of(mode):
    client = openai.OpenAI(base_url=base_url(), api_key="unused", max_retries=0)
    return instructor.from_openai(client, mode=mode)


def ask(model, mode=instructor.Mode.JSON_SCHEMA, wanted=Place):
    return of(mode).chat.completions.create(
        model=model, messages=[USER], response_model=wanted, max_retries=0
    )


def partial(model):
    return of(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(
        model=model, messages=[USER], response_model=Place, max_retries=0
    )


tell(
    None,
    streamed=lambda model: list(partial(model))[-1].model_dump(),
    tools=lambda model: ask(model, instructor.Mode.TOOLS, Told).model_dump(),
    structured=lambda model: ask(model).model_dump(),
    error=lambda model: refused(lambda: ask("nobody")),
)
