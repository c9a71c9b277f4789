"""Bodies of requests, within bounds."""

from aiohttp import web

from looper.errors import BodyTooLarge


async def read(request: web.Request, limit: int) -> bytes:
    """The body, if it is one that Envoy would have let through. Raises BodyTooLarge."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.")
    return b"".join(pieces)
