"""Who may use the interface: no page of somebody else's in an operator's browser; over a network, who has the token.

A page that resolves its own name to our address is told apart by the Host that it sends, one that merely sends requests
to us by its Origin. Addresses as Host are good: no page can have them that is not ours.
"""

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEALTH = "/healthz"
LEAST_TOKEN = 16
"""Characters below which a token can be guessed."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def token_in(path: Path) -> str:
    """The token that a file holds. Raises ValueError if there is none, or one that can be guessed."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if len(token) < LEAST_TOKEN:
        raise ValueError(f"{path}: a token has at least {LEAST_TOKEN} characters")
    return token


@dataclass(frozen=True, slots=True)
class Guard:
    """What requests have to show. `names` are hosts by which the interface is called, beside its addresses."""

    socket: bool
    token: str | None = None
    names: Collection[str] = ()
    public: Collection[str] = ()
    """Paths that hold nothing of what is at work: the console's own files."""

    def refusal(self, request: web.Request) -> web.Response | None:
        """Why a request is not answered; None if it is."""
        if request.path == HEALTH:
            return None
        if not (self.socket or self._is_ours(request.host)):
            return _refused(403, "This Host is not one of ours; `--admin-name` allows others.")
        if _is_foreign(request):
            return _refused(403, "Pages of other origins may not ask.")
        if request.path not in self.public and not self._has_token(request):
            return _refused(401, "A bearer token is needed.", {"www-authenticate": "Bearer"})
        return None

    def _is_ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name in self.names or _is_address(name)

    def _has_token(self, request: web.Request) -> bool:
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self.token.encode())
        return scheme.lower() == "bearer" and same


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_foreign(request: web.Request) -> bool:
    """Whether a page of another origin has sent it. A link that somebody followed is no such thing."""
    origin = request.headers.get("origin")
    if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
        return True
    followed = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    return request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": why}, status=status, headers=headers)


def guarded(guard: Guard) -> Middleware:
    """The middleware. What is answered is never another page's to read or to frame."""

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = guard.refusal(request)
        return await handler(request) if refusal is None else refusal

    return look


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """The headers that every response has."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
