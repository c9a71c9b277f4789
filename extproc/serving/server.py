"""What Envoy talks to: external processing and health, at addresses, and how both end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from extproc.protocol.codec import METHOD
from extproc.serving.calls import Server, Tls, Transport
from extproc.serving.health import Health
from extproc.serving.processor import Processor
from extproc.serving.sockets import bindable, publish
from extproc.serving.versions import Begin

_TIDYING = 2.0
"""Seconds that exchanges have which were cut off, such as to let go of what others may go on with."""

_MOMENT = 0.05
"""Seconds before the end of that grace from which on what ends is taken to be broken off by it."""


@asynccontextmanager
async def serving(
    begin: Begin,
    listen: Sequence[str],
    health_address: str | None,
    grace: float,
    transport: Transport,
    tls: Tls | None = None,
    *,
    replace: bool = False,
) -> AsyncIterator[Health]:
    """Listen at every address while the context is open; on leaving, give open exchanges `grace` seconds.

    Health is answered to the very end. Raises OSError for an address that cannot be listened on, and for a socket
    that another process serves, unless we are to `replace` that.
    """
    health, processor = Health(), Processor(begin)
    async with AsyncExitStack() as stack:
        if health_address is not None:
            apart = await stack.enter_async_context(transport(health.handlers))
            await _listen(apart, health_address, None, stack, replace=replace)
        server = await stack.enter_async_context(
            transport({METHOD: processor.process, **health.handlers})
        )
        for address in listen:
            await _listen(server, address, tls, stack, replace=replace)
        health.set_serving(True)
        try:
            yield health
        finally:
            health.set_serving(False)
            health.end_watches()
            cutting = asyncio.get_running_loop().call_later(
                max(0.0, grace - _MOMENT), processor.stop
            )
            await asyncio.shield(server.stop(grace))
            cutting.cancel()
            with suppress(TimeoutError):  # what is broken off is not waited for
                await asyncio.wait_for(processor.idle(), _TIDYING)


async def _listen(
    server: Server, address: str, tls: Tls | None, stack: AsyncExitStack, *, replace: bool
) -> None:
    """Processes of this machine need no TLS."""
    bound = stack.enter_context(bindable(address))
    try:
        await server.listen(bound, None if address.startswith("unix:") else tls)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror or error}") from None
    publish(address, bound, replace=replace)
