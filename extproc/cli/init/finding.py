"""Which servers an environment has keys for, and which models they list."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec


@dataclass(frozen=True, slots=True)
class Server:
    """Somebody who speaks OpenAI's API: where, in which dialect, and with the key of which variable."""

    url: str
    variable: str | None = None
    dialect: str | None = None


PROVIDERS = (
    Server("https://api.openai.com/v1", "OPENAI_API_KEY", "openai"),
    Server("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openai"),
    Server("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic-compat"),
    Server(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        "gemini-compat",
    ),
    Server("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral"),
    Server("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    Server("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    Server("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    Server("https://api.x.ai/v1", "XAI_API_KEY"),
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A server, and the models that it says it has."""

    server: Server
    models: tuple[str, ...]


def servers(environment: Mapping[str, str], urls: Sequence[str]) -> list[Server]:
    """Those with a key, and those that were named. `OPENAI_BASE_URL` says where OpenAI's are, as for its SDKs."""
    base = environment.get("OPENAI_BASE_URL")
    keyed = [
        Server(base.rstrip("/"), each.variable, each.dialect)
        if base and each.variable == "OPENAI_API_KEY"
        else each
        for each in PROVIDERS
        if each.variable is not None and environment.get(each.variable)
    ]
    return [*keyed, *(Server(url.rstrip("/")) for url in urls)]


async def found(
    known: Sequence[Server], environment: Mapping[str, str], seconds: float
) -> tuple[list[Listed], list[str]]:
    """What each server lists; and of those that did not answer why, in words without a key."""
    limit = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(timeout=limit, trust_env=True) as session:
        asking = (_ask(session, each, environment) for each in known)
        answers = await asyncio.gather(*asking)
    listed = [each for each in answers if isinstance(each, Listed)]
    return listed, [each for each in answers if isinstance(each, str)]


async def _ask(
    session: aiohttp.ClientSession, server: Server, environment: Mapping[str, str]
) -> Listed | str:
    key = environment.get(server.variable or "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with session.get(f"{server.url}/models", headers=headers) as response:
            if response.status != 200:
                return f"{server.url}: lists no models: HTTP {response.status}"
            names = _names(msgspec.json.decode(await response.read()))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return f"{server.url}: could not be reached"
    except (msgspec.DecodeError, ValueError):
        names = ()
    return Listed(server, names) if names else f"{server.url}: lists no models"


def _names(answer: Any) -> tuple[str, ...]:
    """The ids, in any of the forms that servers use: a list, or a list in `data` or `models`."""
    if isinstance(answer, dict):
        answer = answer.get("data") or answer.get("models")
    if not isinstance(answer, list):
        return ()
    found = (
        each.get("id") or each.get("name") if isinstance(each, dict) else each for each in answer
    )
    return tuple(dict.fromkeys(str(each) for each in found if isinstance(each, str)))
