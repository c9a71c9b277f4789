"""What can be wrong with a simulated model, as data: a closed set of faults in five families.

A new fault is a class in its family here, and an arm in that family's `match`.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """What is read from JSON, and cannot be changed after that."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Fault(Frozen):
    times: int | None = Field(default=None, ge=1)
    """How many calls fail before all is well again; None: every call."""


# The response does not come as it should, or not at all


class Hang(_Fault):
    """Nothing (more) comes: None, not even headers; else after so many chunks (0: headers only)."""

    type: Literal["hang"] = "hang"
    after_chunks: int | None = Field(default=None, ge=0)


class Reset(_Fault):
    """The connection is reset: None, before the headers; else after so many chunks."""

    type: Literal["reset"] = "reset"
    after_chunks: int | None = Field(default=None, ge=0)


class Status(_Fault):
    """An HTTP error with OpenAI's error object."""

    type: Literal["status"] = "status"
    status: int = Field(default=500, ge=400, le=599)
    code: str = "simulated_failure"
    message: str = "This failure is simulated."
    retry_after: Annotated[float, Field(ge=0)] | str | None = None
    """Seconds; a text goes out as it is."""
    retry_after_date: bool = False
    """Whether the seconds are said as the date that they lead to."""


class Cut(_Fault):
    """A stream ends properly but early, without `[DONE]`; an unstreamed body is half there."""

    type: Literal["cut"] = "cut"
    after_chunks: int = Field(default=1, ge=0)


class Torn(_Fault):
    """A stream ends inside an event, so many chunks and half of another; a body breaks its promised length."""

    type: Literal["torn"] = "torn"
    after_chunks: int = Field(default=1, ge=0)


class Trickle(_Fault):
    """The headers come, and then everything else one byte at a time."""

    type: Literal["trickle"] = "trickle"
    pace: float = Field(default=0.01, ge=0)
    """Seconds between two bytes."""


# Success is claimed for what is no answer


class Garbage(_Fault):
    """No JSON where some was promised, a proxy's HTML page, or an answer that is not called JSON."""

    type: Literal["garbage"] = "garbage"
    kind: Literal["bytes", "html", "content_type"] = "bytes"
    status: int = Field(default=200, ge=200, le=599)
    after_chunks: int = Field(default=0, ge=0)
    """How many good chunks of a stream come before the bytes."""


class ErrorObject(_Fault):
    """An error with status 200: instead of a body, or as an event after so many chunks."""

    type: Literal["error_object"] = "error_object"
    code: str = "simulated_failure"
    message: str = "This failure is simulated."
    shape: Literal["nested", "text", "flat"] = "nested"
    """OpenAI's object; a text as the member `error`; the object's members on the outermost level."""
    after_chunks: int = Field(default=0, ge=0)
    done: bool = True
    """Whether the stream ends with `[DONE]` after it."""
    named: bool = False
    """Whether the event of a stream is called `error`."""


class BrokenOff(_Fault):
    """Every choice ends with a `finish_reason` that says that something broke."""

    type: Literal["broken_off"] = "broken_off"
    word: str = "error"


class OtherMode(_Fault):
    """One body where a stream was asked for, and a stream where it was not."""

    type: Literal["other_mode"] = "other_mode"


# An answer that says little or nothing


class Blank(_Fault):
    """A complete answer with nothing in it."""

    type: Literal["blank"] = "blank"
    kind: Literal["empty", "whitespace", "null_content", "null_message", "no_choices"] = "empty"


class ReasoningOnly(_Fault):
    """Thoughts and no answer: beside the content, or in it between tags, the last of which may be missing."""

    type: Literal["reasoning_only"] = "reasoning_only"
    where: Literal["reasoning_content", "content", "unclosed"] = "reasoning_content"
    finish: Literal["stop", "length"] = "stop"


class Refusal(_Fault):
    """The model declines, or a content filter stops it after `text`."""

    type: Literal["refusal"] = "refusal"
    kind: Literal["refusal", "content_filter"] = "refusal"
    text: str = "I would rather not say that."


class Length(_Fault):
    """The answer ends after so many tokens, because no more were allowed."""

    type: Literal["length"] = "length"
    tokens: int = Field(default=3, ge=1)


# Far too much


class Huge(_Fault):
    """An answer of so many characters."""

    type: Literal["huge"] = "huge"
    size: int = Field(default=10_000_000, ge=0)


class GzipBomb(_Fault):
    """A small body, compressed whatever was asked for, that becomes an answer of so many characters."""

    type: Literal["gzip_bomb"] = "gzip_bomb"
    size: int = Field(default=2**30, ge=0)


class Comments(_Fault):
    """So many comments before a stream's first event; so many line ends before a body."""

    type: Literal["comments"] = "comments"
    count: int = Field(default=1_000_000, ge=1)


# Habits: what a client must put up with. What is about streams leaves unstreamed answers alone.


class Ending(_Fault):
    """How a stream ends; in the last two kinds no choice has a `finish_reason`, unstreamed neither."""

    type: Literal["ending"] = "ending"
    kind: Literal[
        "done_twice", "chunks_after_done", "without_done", "without_finish", "without_both"
    ] = "done_twice"


class EmptyFirst(_Fault):
    """A first chunk without choices, as Azure sends it."""

    type: Literal["empty_first"] = "empty_first"


class UsageHabit(_Fault):
    """Usage is reported twice in a stream, not at all, empty, or with nulls or impossible numbers."""

    type: Literal["usage"] = "usage"
    kind: Literal["twice", "missing", "nulls", "empty", "negative", "impossible"] = "missing"


class RoleInEach(_Fault):
    """Every delta of a stream has the role."""

    type: Literal["role_in_each"] = "role_in_each"


class ToolDeltas(_Fault):
    """The streamed calls of tools have gaps between their indices, or the pieces of two come in turn.

    Or they have what tells them apart all the same, or not at all: index, id, type; and their names in each piece.
    """

    type: Literal["tool_deltas"] = "tool_deltas"
    kind: Literal[
        "gaps", "interleaved", "same_index", "no_index", "same_id", "empty_id", "bare", "named"
    ] = "gaps"


class FunctionCall(_Fault):
    """Of the tools that are called, the first one is, as a `function_call` of OpenAI's older API."""

    type: Literal["function_call"] = "function_call"


class PlainStop(_Fault):
    """An answer that calls tools ends as one that does not: with `stop`."""

    type: Literal["plain_stop"] = "plain_stop"


class EarlyFinish(_Fault):
    """A stream's last content and its `finish_reason` are one chunk."""

    type: Literal["early_finish"] = "early_finish"


class Framing(_Fault):
    """Lines of a stream end otherwise, or there is no space after `data:`."""

    type: Literal["framing"] = "framing"
    kind: Literal["crlf", "cr", "no_space"] = "crlf"


class Strange(_Fault):
    """Members beside an answer are of another kind than OpenAI's, all that are known at once; or only some of them."""

    type: Literal["strange"] = "strange"
    kind: Literal["all", "usage", "message", "choice", "text"] = "all"


class InParts(_Fault):
    """The content comes as parts: a text, or a thought and a text."""

    type: Literal["in_parts"] = "in_parts"
    thinking: bool = False


class Beside(_Fault):
    """A message, or the last delta of a stream, has members that OpenAI's newer answers have, or only some vendors'."""

    type: Literal["beside"] = "beside"


class SaidTwice(_Fault):
    """A stream has the whole message in its last event, or what was said so far beside each delta."""

    type: Literal["said_twice"] = "said_twice"
    kind: Literal["at_the_end", "beside"] = "at_the_end"


class NoChunks(_Fault):
    """A stream has events that are no chunks, `[DONE]` between spaces, no last blank line, or garbage at its end."""

    type: Literal["no_chunks"] = "no_chunks"
    kind: Literal["between", "spaces", "no_blank_line", "garbage_at_the_end"] = "between"


class OtherEnd(_Fault):
    """An answer that just stops says so in a word of the vendor's own."""

    type: Literal["other_end"] = "other_end"
    word: str = "eos"


Unsent: TypeAlias = Hang | Reset | Status | Cut | Torn | Trickle
Untrue: TypeAlias = Garbage | ErrorObject | BrokenOff | OtherMode
Unsaid: TypeAlias = Blank | ReasoningOnly | Refusal | Length
Excess: TypeAlias = Huge | GzipBomb | Comments
Habit: TypeAlias = (
    Ending
    | EmptyFirst
    | UsageHabit
    | RoleInEach
    | ToolDeltas
    | FunctionCall
    | PlainStop
    | EarlyFinish
    | Framing
    | Strange
    | InParts
    | Beside
    | SaidTwice
    | NoChunks
    | OtherEnd
)

AnyFault: TypeAlias = Unsent | Untrue | Unsaid | Excess | Habit
Fault: TypeAlias = Annotated[AnyFault, Field(discriminator="type")]
