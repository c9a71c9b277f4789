"""The official SDK for Python."""

from typing import Any

import openai

from tests.clients.programs.told import (
    QUESTION,
    RESULT,
    SCHEMA,
    TOOL,
    TOOL_QUESTION,
    USER,
    base_url,
    refused,
    tell,
)

client = openai.OpenAI(base_url=base_url(), api_key="unused")


def whole(model: str) -> Any:
    answer: Any = client.chat.completions.create(model=model, messages=[USER])
    return answer.choices[0].message.content


def streamed(model: str) -> str:
    chunks: Any = client.chat.completions.create(model=model, messages=[USER], stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def tools(model: str) -> str | None:
    messages: list[Any] = [{"role": "user", "content": TOOL_QUESTION}]
    for _ in range(3):
        with client.chat.completions.stream(model=model, messages=messages, tools=[TOOL]) as stream:
            message = stream.get_final_completion().choices[0].message
        if not message.tool_calls:
            break
        messages.append(message.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": RESULT}
            for call in message.tool_calls
        ]
    return message.content


def structured(model: str) -> Any:
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
    }
    answer: Any = client.chat.completions.create(
        model=model, messages=[USER], response_format=wanted
    )
    return answer.choices[0].message.content


def error(model: str) -> str:
    return refused(lambda: client.chat.completions.create(model="nobody", messages=[USER]))


def leave(model: str) -> bool:
    stream: Any = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    with stream:
        next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
    return True


if __name__ == "__main__":
    tell(
        leave,
        list=lambda model: [each.id for each in client.models.list()],
        retrieve=lambda model: client.models.retrieve(model).id,
        whole=whole,
        streamed=streamed,
        tools=tools,
        structured=structured,
        error=error,
    )
