"""LiteLLM's SDK."""

import litellm

from tests.clients.programs.told import (
    RESULT,
    SCHEMA,
    TOOL,
    TOOL_QUESTION,
    USER,
    base_url,
    refused,
    tell,
)


def ask(model, messages=(USER,), **members):
    return litellm.completion(
        f"openai/{model}", list(messages), api_base=base_url(), api_key="unused", **members
    )


def said(chunk):
    return chunk.choices[0].delta.content or ""


def tools(model):
    messages = [{"role": "user", "content": TOOL_QUESTION}]
    for _ in range(3):
        chunks = list(ask(model, messages, tools=[TOOL], stream=True))
        message = litellm.stream_chunk_builder(chunks).choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": RESULT}
            for call in message.tool_calls
        ]


def structured(model):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    return ask(model, response_format=wanted).choices[0].message.content


def leave(model):
    stream = ask(model, stream=True)
    return bool(next(filter(None, map(said, stream))))


tell(
    leave,
    list=lambda model: litellm.get_valid_models(
        check_provider_endpoint=True,
        custom_llm_provider="openai",
        api_base=base_url(),
        api_key="unused",
    ),
    whole=lambda model: ask(model).choices[0].message.content,
    streamed=lambda model: "".join(map(said, ask(model, stream=True))),
    tools=tools,
    structured=structured,
    error=lambda model: refused(lambda: ask("nobody")),
)
