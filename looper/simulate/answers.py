"""What a simulated model says: right and wrong answers, tool calls, verdicts, finals, JSON.

Everything here is a function of its arguments: chance is a hash of them, so the same request to the
same model has the same answer in every process. Only the ids of tool calls are new each time.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import zip_longest
from secrets import token_hex
from typing import Annotated, Any, TypeAlias

import msgspec

VERDICT_KEYS = (
    "consensus",
    "contradictions",
    "partial_coverage",
    "unique_insights",
    "blind_spots",
    "winner",
    "scores",
    "agreement",
)

# Loose on purpose, prompts differ: `Candidate 2`, `=== 7f3a9c1d Answer #2 ===`,
# `<response id="2">`, `[2]`. No colon before the number, because `Answer: 42` is what a candidate
# says, not the start of one.
_CANDIDATE = re.compile(
    r"^(?:[^\w\n]|[0-9a-f]{6,64}\b)*"
    r"(?:(?:candidate|answer|response|draft|member|evidence)\b[ \t]*(?:(?:id|no)\b)?[ \t]*"
    r"(?:\.|=|#)?[ \t]*[\"']?(\d{1,2})\b|(?<=\[)(\d{1,2})(?=\]))[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_CANDIDATE_ENDS = re.compile(r"^[^\w\n]*(?:[0-9a-f]{6,64}\W+)*(?:end\b|(?<=</)\w)", re.I | re.M)


def draw(*parts: object) -> float:
    """A number in 0..1 that looks random and depends on nothing but `parts`."""
    digest = blake2b("\0".join(map(str, parts)).encode(errors="replace"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


@lru_cache(maxsize=1024)  # each request is searched for all of them
def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    text: str
    right: str
    wrong: tuple[str, ...]

    @property
    def is_choice(self) -> bool:
        """Whether the answer is a letter, to be written after `ANSWER:`."""
        return len(self.right) == 1 and self.right.isupper()

    def given(self, text: str) -> str | None:
        """Which of the known values `text` ends up with: the last one that it names."""
        found: tuple[int, int, str] | None = None
        for value in (self.right, *self.wrong):
            # A whole word or number: neither the 3 of 3.14 nor the 1 of 391.
            for match in re.finditer(rf"(?<![\w.]){re.escape(value)}(?!\w|\.\d)", text):
                found = max(found or (0, 0, ""), (match.end(), len(value), value))
        return found and found[2]

    def majority(self, texts: Sequence[str]) -> str | None:
        """The value that most of `texts` give; the earliest one of equals."""
        given = Counter(value for text in texts if (value := self.given(text)) is not None)
        return given.most_common(1)[0][0] if given else None


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: what makes one model's luck differ from another's, and one sample's too."""

    model: str
    skill: float
    seed: int
    sample: str

    def draw(self, *parts: object) -> float:
        return draw(self.seed, self.model, self.sample, *parts)

    def pick(self, options: Sequence[str], *parts: object) -> str:
        return options[int(self.draw(*parts) * len(options))]


@dataclass(frozen=True, slots=True)
class Said:
    """A text, and whether its speaker has reason to be sure of it: log-probabilities show it."""

    text: str
    sure: bool = True


Message: TypeAlias = Mapping[str, Any]
Reply: TypeAlias = str | Message
"""A text, or a whole message that is sent as it is, with the choice's `logprobs` and `finish_reason`."""


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatBody(msgspec.Struct, frozen=True):
    """The members of a chat request that make a difference here."""

    messages: Annotated[tuple[_Message, ...], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_choice: list[str] | None = None
    guided_regex: str | None = None

    @property
    def choices(self) -> Sequence[str]:
        """The answers that there may be, as vLLM is told of them: today, and before that."""
        return self.guided_choice or (self.structured_outputs or {}).get("choice") or ()

    @property
    def expression(self) -> str | None:
        """The form that the answer has to have."""
        return self.guided_regex or (self.structured_outputs or {}).get("regex")

    @property
    def texts(self) -> list[str]:
        """Every message's text, the last user message's last."""
        users = [at for at, message in enumerate(self.messages) if message.role == "user"]
        last = users[-1] if users else len(self.messages) - 1
        others = [m.text for at, m in enumerate(self.messages) if at != last]
        return [*others, self.messages[last].text]

    @property
    def turn(self) -> Sequence[_Message]:
        """What has come since the assistant spoke last."""
        spoken = [at for at, message in enumerate(self.messages) if message.role == "assistant"]
        return self.messages[spoken[-1] + 1 if spoken else 0 :]


@dataclass(frozen=True, slots=True)
class Choice:
    message: Message
    finish_reason: str = "stop"
    logprobs: Mapping[str, Any] | None = None


def tokens(text: str) -> list[str]:
    """Pieces of a word or less that join to the text again."""
    return re.findall(r"\s*\S{1,6}|\s+", text)


def choose(
    voice: Voice,
    body: ChatBody,
    known: Sequence[KnownQuestion],
    *,
    reasoning: bool = False,
    short_ids: bool = False,
) -> Choice:
    """What a model answers of its own accord."""
    verdict = _verdict(body, known)
    functions = [] if verdict else _functions_to_call(body)
    if functions:
        if body.functions:
            return Choice(
                {"content": None, "function_call": _called(functions[0])}, "function_call"
            )
        return Choice(_tool_calls(functions, short_ids), "tool_calls")
    said = verdict or _tool_results(body) or say(voice, body.texts, body.response_format, known)
    said = _bound(said, body)
    thought = f"I am asked: {body.texts[-1][:80]} Let me think." if reasoning else ""
    return speak(said, body, thought)


def _bound(said: Said, body: ChatBody) -> Said:
    """What a server lets a model say under a grammar: of the choices the one it means, else the first."""
    if body.choices:
        meant = [each for each in body.choices if each.rpartition(" ")[2] in said.text.split()]
        return replace(said, text=[*meant, body.choices[0]][0])
    if body.expression is None:
        return said
    found = re.search(body.expression, said.text)
    return replace(said, text=found[0] if found else "0")


def speak(said: Said, body: ChatBody, reasoning: str = "") -> Choice:
    """A text within the request's limits: first `stop`, then the token limit, thoughts included."""
    text, reason = said.text, "stop"
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    thoughts, words = tokens(reasoning), tokens(text)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is not None and len(thoughts) + len(words) > limit:
        thoughts, words, reason = thoughts[:limit], words[: max(0, limit - len(thoughts))], "length"
    message = {"content": "".join(words)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    return Choice(message, reason, _logprobs(words, body, said.sure) if body.logprobs else None)


def recite(reply: Reply, body: ChatBody) -> Choice:
    """The choice that a script wants."""
    if isinstance(reply, str):
        return speak(Said(reply), body)
    message = {key: value for key, value in reply.items() if key not in _OF_THE_CHOICE}
    called = (name for name in ("tool_calls", "function_call") if message.get(name))
    reason = next(called, "stop")
    return Choice(message, reply.get("finish_reason", reason), reply.get("logprobs"))


_RESULTS = ("tool", "function")
_OF_THE_CHOICE = frozenset({"role", "logprobs", "finish_reason"})


def _functions_to_call(body: ChatBody) -> list[dict[str, Any]]:
    """The offered functions that are forced, or that the user mentions; none after a result."""
    tools = [t["function"] for t in body.tools or () if isinstance(t.get("function"), dict)]
    offered, wish = [*tools, *(body.functions or ())], body.tool_choice or body.function_call
    if wish == "none" or any(message.role in _RESULTS for message in body.turn):
        return []
    match wish:
        case {"function": {"name": name}} | {"name": name}:
            return [function for function in offered if function.get("name") == name]
        case choice:
            text = "\n".join(message.text for message in body.turn if message.role == "user")
            named = [f for f in offered if str(f.get("name")) in text]
            return named or (offered[:1] if choice == "required" else [])


def _tool_calls(functions: Iterable[dict[str, Any]], short_ids: bool) -> Message:
    calls = []
    for function in functions:
        call_id = token_hex(5)[:9] if short_ids else f"call_{token_hex(12)}"
        calls.append({"id": call_id, "type": "function", "function": _called(function)})
    return {"content": None, "tool_calls": calls}


def _called(function: Mapping[str, Any]) -> dict[str, str]:
    schema = function.get("parameters") or {"type": "object"}
    arguments = msgspec.json.encode(instance(schema, schema)).decode()
    return {"name": function.get("name", ""), "arguments": arguments}


def _tool_results(body: ChatBody) -> Said | None:
    results = [message.text for message in body.turn if message.role in _RESULTS]
    return Said(f"The tools say: {'; '.join(results)}") if results else None


def _logprobs(words: Iterable[str], body: ChatBody, sure: bool) -> Mapping[str, Any]:
    """Never above -0.8 when the answer is wrong, never below -0.31 otherwise."""
    entries = []
    for at, word in enumerate(words):
        luck = draw(at, word)
        logprob = -0.01 - 0.3 * luck if sure else -0.8 - 1.7 * luck
        # What probability is left is shared by the tokens that were not chosen, half by half.
        rest = min(math.exp(logprob), -math.expm1(logprob))
        others = [(f" other{n}", math.log(rest / 2**n)) for n in range(1, body.top_logprobs or 1)]
        top = [_token(*pair) for pair in [(word, logprob), *others]] if body.top_logprobs else []
        entries.append({**_token(word, logprob), "top_logprobs": top})
    return {"content": entries, "refusal": None}


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": round(logprob, 6), "bytes": list(token.encode())}


# --- Words ------------------------------------------------------------------------------------------


def say(
    voice: Voice,
    texts: Sequence[str],
    response_format: Mapping[str, Any] | None,
    known: Sequence[KnownQuestion],
) -> Said:
    """The answer to a conversation: its messages' texts, with the last user message last."""
    everything = "\n".join(texts)
    question = find_question(texts[-1:], known) or find_question(texts, known)
    answer = _answer(voice, question, candidates(everything, question)) if question else None
    sure = question is None or answer == question.right
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return Said(_json(instance(schema, schema, answer=answer)), sure)
        case {"type": "json_object"}:
            return Said(_json({"answer": answer or "simulated"}), sure)
        case _:
            if question is None or answer is None:
                return Said(_echo(voice, texts))
            return Said(_worded(voice, question, answer), sure)


def find_question(texts: Sequence[str], known: Sequence[KnownQuestion]) -> KnownQuestion | None:
    """The known question that is quoted last in `texts`."""
    text = " ".join(" ".join(texts).split())
    found = [(at, q) for q in known if (at := text.rfind(_one_line(q.text))) >= 0]
    return max(found, key=lambda pair: (pair[0], len(pair[1].text)))[1] if found else None


def candidates(prompt: str, question: KnownQuestion | None = None) -> dict[int, str]:
    """The numbered answers that a prompt quotes, by the numbers that the prompt gives them."""
    if question is not None:
        # Its options would be taken for values that the candidate before it gives.
        prompt = prompt.replace(question.text, "")
    heads = list(_CANDIDATE.finditer(prompt))
    found: dict[int, str] = {}
    for head, following in zip_longest(heads, heads[1:]):
        block = prompt[head.end() : following.start() if following else None]
        text = _CANDIDATE_ENDS.split(block, maxsplit=1)[0].strip()
        found.setdefault(int(head[1] or head[2]), text)
    return found


def judge_reply(prompt: str, known: Sequence[KnownQuestion]) -> str:
    """A Fusion judge's analysis, as JSON: the winner is the candidate with the right answer."""
    question = find_question([prompt], known)
    texts = candidates(prompt, question)
    given = {label: question.given(text) if question else None for label, text in texts.items()}
    groups = Counter(value for value in given.values() if value is not None)
    right = [label for label, value in given.items() if question and value == question.right]
    values = [value for value, _ in groups.most_common()]
    alone = {value for value, times in groups.items() if times == 1}
    analysis = {
        "consensus": [f"The answer {values[0]} is given most often."] if values else [],
        "contradictions": [f"{values[0]} against {value}." for value in values[1:]],
        "partial_coverage": [f"{n} gives no value." for n, value in given.items() if value is None],
        "unique_insights": [f"Only {n} says {v}." for n, v in given.items() if v in alone],
        "blind_spots": ["This analysis is simulated."],
        "winner": right[0] if right else None,
        "scores": [_score(label in right, text) for label, text in texts.items()],
        "agreement": round(groups.most_common(1)[0][1] / len(texts), 3) if groups else 0.0,
    }
    return _json(analysis)


def instance(
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    *,
    name: str = "value",
    answer: str | None = None,
    within: frozenset[str] = frozenset(),
) -> Any:
    """A plain value that satisfies a usual JSON schema; its property `answer` gets the answer."""

    def inner(part: Mapping[str, Any], part_name: str, *refs: str) -> Any:
        return instance(part, root, name=part_name, answer=answer, within=within.union(refs))

    match schema:
        case {"const": value} | {"enum": [value, *_]} | {"default": value}:
            return value
        case {"$ref": str(path)}:
            # A schema may refer to itself; that must end somewhere.
            return None if path in within else inner(_resolve(root, path), name, path)
        case {"anyOf": [part, *_]} | {"oneOf": [part, *_]} | {"allOf": [part, *_]}:
            return inner(part, name)
        case {"properties": dict(properties)}:
            return {key: inner(part, key) for key, part in properties.items()}
        case {"items": dict(items)}:
            return [value for value in [inner(items, name)] if value is not None]
        case _:
            return _scalar(schema, name, answer)


def _scalar(schema: Mapping[str, Any], name: str, answer: str | None) -> Any:
    kinds = schema.get("type", "string")
    text = answer if name == "answer" and answer is not None else f"simulated {name}"
    match kinds[0] if isinstance(kinds, list) and kinds else kinds:
        case "integer" | "number":
            return int(text) if text.isdecimal() else schema.get("minimum", 1)
        case "boolean":
            return True
        case "object":
            return {}
        case "array":
            return []
        case "null":
            return None
        case _:
            return text


def _resolve(root: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    found: Any = root
    for step in filter(None, path.removeprefix("#").split("/")):
        found = found.get(step, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _verdict(body: ChatBody, known: Sequence[KnownQuestion]) -> Said | None:
    """What is asked for by its schema or by naming the keys: a judge's analysis, a verifier's verdict, a plan."""
    prompt = "\n".join(body.texts)
    match body.response_format:
        case {"type": "json_schema", "json_schema": {"schema": {"properties": dict(properties)}}}:
            judged = {"consensus", "winner"} <= properties.keys()
            verified, planned = "verdict" in properties, "steps" in properties
        case _:
            judged = all(key in prompt for key in VERDICT_KEYS)
            verified, planned = (
                '"verdict":' in prompt,
                '"steps":' in prompt and '"needs":' in prompt,
            )
    if judged:
        return Said(judge_reply(prompt, known))
    if verified:
        return Said(verifier_reply(prompt, known))
    return Said(planner_reply(prompt)) if planned else None


def verifier_reply(prompt: str, known: Sequence[KnownQuestion]) -> str:
    """A verifier's verdict, as JSON: of a known question it knows the right answer, the rest passes."""
    question = find_question([prompt], known)
    given = (
        [question.given(text) for text in candidates(prompt, question).values()] if question else []
    )
    wrong = [f"{value} is not right." for value in given if question and value != question.right]
    return _json({"verdict": "fail" if wrong else "pass", "reasons": wrong})


def planner_reply(prompt: str) -> str:
    """A plan, as JSON: the first models that are offered work side by side, and the last one verifies."""
    labels = re.findall(r"^- (m\d+):", prompt, re.MULTILINE) or ["m1"]
    steps = [
        {"id": "solve", "models": labels[:3], "prompt": "Solve it.", "needs": []},
        {
            "id": "check",
            "role": "verifier",
            "models": labels[-1:],
            "prompt": "Check the answers.",
            "needs": ["solve"],
        },
    ]
    return _json({"steps": steps, "final": {"prompt": None, "sees": None}})


def _answer(voice: Voice, question: KnownQuestion, seen: Mapping[int, str]) -> str:
    """The right value with probability `skill`; else what most candidates say, or a wrong one."""
    if voice.draw("right", question.text) < voice.skill:
        return question.right
    return question.majority(list(seen.values())) or voice.pick(
        question.wrong, "wrong", question.text
    )


_OPENINGS = (
    "Working through it one step at a time",
    "Going through what the question asks and what follows from it",
    "Checking each possibility in turn",
    "From what is known about this",
)
_CLOSINGS = (
    "In short, it depends on what is asked for first.",
    "The simple way is usually the better one here.",
    "Start small, measure, and go on from there.",
    "Two things matter most: what is needed, and by when.",
)


def _worded(voice: Voice, question: KnownQuestion, value: str) -> str:
    opening = voice.pick(_OPENINGS, "opening", question.text)
    if question.is_choice:
        return f"{opening}, option {value} fits best.\n\nANSWER: {value}"
    return f"{opening}, the answer is {value}."


def _echo(voice: Voice, texts: Sequence[str]) -> str:
    # What quotes candidates stands behind the question: in a message of its own, or in the same one.
    asked = [text for text in texts if not candidates(text)]
    asked = asked or [_CANDIDATE.split(text, maxsplit=1)[0] for text in texts]
    head = " ".join(asked[-1][:400].split())[:100]
    return f"This is a simulated answer to: “{head}” {voice.pick(_CLOSINGS, 'closing', head)}"


def _score(right: bool, text: str) -> float:
    return 9.0 if right else 4.0 if text else 0.0


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


# --- The bank ---------------------------------------------------------------------------------------

_OPEN = (
    ("What is 17 times 23?", "391", "381 | 401 | 351"),
    ("What is 144 divided by 9?", "16", "18 | 14 | 12"),
    ("What is 15 percent of 240?", "36", "34 | 38 | 24"),
    ("How many prime numbers are there below 30?", "10", "9 | 11 | 12"),
    ("What is the sum of the whole numbers from 1 to 100?", "5050", "5000 | 5051 | 4950"),
    ("A train goes 180 km in 2.5 hours. What is its speed in km/h?", "72", "70 | 75 | 90"),
    ("What is 2 to the power of 12?", "4096", "2048 | 4092 | 8192"),
    ("What is the greatest common divisor of 84 and 126?", "42", "21 | 14 | 12"),
    ("What is the capital of Australia?", "Canberra", "Sydney | Melbourne | Perth"),
    ("What is the capital of Canada?", "Ottawa", "Toronto | Montreal | Vancouver"),
    ("What is the capital of Switzerland?", "Bern", "Zurich | Geneva | Basel"),
    ("What is the capital of Brazil?", "Brasília", "Rio de Janeiro | São Paulo | Salvador"),
    ("What is the capital of Kazakhstan?", "Astana", "Almaty | Shymkent | Tashkent"),
    ("Which year did the Berlin Wall fall?", "1989", "1990 | 1991 | 1987"),
    ("What does Python's len('héllo') return?", "5", "6 | 7 | 4"),
    ("What does Python's 7 // -2 evaluate to?", "-4", "-3 | -3.5 | 3"),
    ("What does Python's sorted('cab')[0] evaluate to?", "'a'", "'b' | 'c' | 'abc'"),
    ("Which method adds one item to the end of a Python list?", "append", "add | push | extend"),
    ("What is the time complexity of binary search?", "O(log n)", "O(n) | O(n log n) | O(1)"),
)
_CHOICES = (
    (
        "Which gas do plants take in for photosynthesis?",
        "A) oxygen  B) nitrogen  C) carbon dioxide  D) hydrogen",
        "C",
    ),
    ("Which planet has the shortest year?", "A) Mercury  B) Venus  C) Mars  D) Jupiter", "A"),
    ("Which particle has no electric charge?", "A) proton  B) neutron  C) electron", "B"),
    ("What does a mitochondrion mainly make?", "A) proteins  B) DNA  C) starch  D) ATP", "D"),
    ("Which wave is the longest?", "A) X-ray  B) visible light  C) radio  D) ultraviolet", "C"),
    ("What is the pH of pure water at 25 °C?", "A) 5  B) 7  C) 9  D) 14", "B"),
)


def _choice(question: str, options: str, right: str) -> KnownQuestion:
    wrong = tuple(letter for letter in "ABCD" if letter != right and f"{letter})" in options)
    return KnownQuestion(question + "\n" + options.replace("  ", "\n"), right, wrong)


KNOWN: tuple[KnownQuestion, ...] = (
    *(KnownQuestion(text, right, tuple(wrong.split(" | "))) for text, right, wrong in _OPEN),
    *(_choice(question, options, right) for question, options, right in _CHOICES),
)
