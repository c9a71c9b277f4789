"""Which handler a call is for, and how it ends when that has returned."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from extproc.errors import Abandoned
from extproc.serving.calls import CRASHED, Handler, Status
from extproc.serving.http2.call import Call

_log = structlog.get_logger()


class Handlers:
    """Serves each call with the handler of its path, in a task of a group."""

    def __init__(self, handlers: Mapping[str, Handler], tasks: asyncio.TaskGroup) -> None:
        self._handlers = handlers
        self._tasks = tasks

    def serve(self, call: Call, done: Callable[[], None]) -> None:
        request = call.request
        handler = self._handlers.get(request.path)
        if request.method != "POST":
            call.refuse(405, "gRPC is spoken here, which knows only POST\n")
        elif not request.metadata.get("content-type", "").startswith("application/grpc"):
            call.refuse(415, "gRPC is spoken here, and nothing else\n")
        elif request.oversized:
            call.finish(Status.RESOURCE_EXHAUSTED, "the metadata is too large")
        elif handler is None:
            call.finish(Status.UNIMPLEMENTED, "there is no such method")
        else:
            task = self._tasks.create_task(self._served(handler, call))
            call.serve(task)
            # Not in the task itself, of which not a line is run if it is cancelled before it has begun.
            task.add_done_callback(partial(_ended, call, done))
            return
        done()

    @staticmethod
    async def _served(handler: Handler, call: Call) -> None:
        """No text of an exception reaches the client."""
        status, why = Status.INTERNAL, CRASHED
        try:
            await handler(call)
            status, why = Status.OK, ""
        except Abandoned:
            pass  # the client has broken it off
        except Exception:
            _log.exception("call.crashed")
        finally:
            call.finish(status, why)


def _ended(call: Call, done: Callable[[], None], _: "asyncio.Task[None]") -> None:
    call.served()
    done()
