"""LangChain."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.clients.programs.told import (
    QUESTION,
    RESULT,
    SCHEMA,
    TOOL_QUESTION,
    base_url,
    refused,
    tell,
)


@tool
def lookup(q: str) -> str:
    """Looks it up."""
    return RESULT


def of(model):
    return ChatOpenAI(model=model, base_url=base_url(), api_key="unused")


def tools(model):
    bound = of(model).bind_tools([lookup])
    messages = [HumanMessage(TOOL_QUESTION)]
    for _ in range(3):
        message = None
        for piece in bound.stream(messages):
            message = piece if message is None else message + piece
        messages.append(message)
        if not message.tool_calls:
            return message.content
        messages += [
            ToolMessage(lookup.invoke(call["args"]), tool_call_id=call["id"])
            for call in message.tool_calls
        ]


def leave(model):
    for piece in of(model).stream(QUESTION):
        if piece.content:
            return True


tell(
    leave,
    whole=lambda model: of(model).invoke(QUESTION).content,
    streamed=lambda model: "".join(piece.content for piece in of(model).stream(QUESTION)),
    tools=tools,
    structured=lambda model: (
        of(model).with_structured_output({"title": "x", **SCHEMA}).invoke(QUESTION)
    ),
    error=lambda model: refused(lambda: of("nobody").invoke(QUESTION)),
)
