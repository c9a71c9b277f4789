"""LlamaIndex."""

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.programs.told import QUESTION, RESULT, TOOL_QUESTION, base_url, refused, tell


class Place(BaseModel):
    answer: str


def lookup(q: str) -> str:
    """Looks it up."""
    return RESULT


def of(model):
    return OpenAILike(
        model=model, api_base=base_url(), api_key="unused", max_retries=0,
        is_chat_model=True, is_function_calling_model=True, should_use_structured_outputs=True,
    )  # fmt: skip


def asked(text=QUESTION):
    return [ChatMessage(role="user", content=text)]


def tools(model):
    known = FunctionTool.from_defaults(fn=lookup)
    llm, history = of(model), asked(TOOL_QUESTION)
    for _ in range(3):
        answer = llm.chat_with_tools([known], chat_history=history)
        calls = llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        if not calls:
            return answer.message.content
        history.append(answer.message)
        history += [
            ChatMessage(
                role="tool", content=RESULT, additional_kwargs={"tool_call_id": call.tool_id}
            )
            for call in calls
        ]


def streamed(model):
    return "".join(piece.delta or "" for piece in of(model).stream_chat(asked()))


def leave(model):
    stream = of(model).stream_chat(asked())
    return bool(next(piece.delta for piece in stream if piece.delta))


tell(
    leave,
    whole=lambda model: of(model).chat(asked()).message.content,
    streamed=streamed,
    tools=tools,
    structured=lambda model: of(model).as_structured_llm(Place).chat(asked()).raw.model_dump(),
    error=lambda model: refused(lambda: of("nobody").chat(asked())),
)
