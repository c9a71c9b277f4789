"""grpc.health.v1, which Envoy and the kubelet ask."""

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListResponse,
)

from extproc.serving.calls import Call, Handler, Status

_METHODS = "/grpc.health.v1.Health/"

SERVICES = ("", "liveness", "readiness")
"""What is answered for; `liveness` stays up while the process drains."""


class Health:
    """Whether services serve, by name; who watches one is told of each change."""

    def __init__(self, services: Sequence[str] = SERVICES) -> None:
        self._serving = dict.fromkeys(services, False)
        self._changed = asyncio.Event()
        self._ended = False

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            f"{_METHODS}Check": self._check,
            f"{_METHODS}Watch": self._watch,
            f"{_METHODS}List": self._list,
        }

    def set_serving(self, serving: bool) -> None:
        for service in self._serving:
            if service != "liveness" or serving:
                self._serving[service] = serving
        self._tell()

    def end_watches(self) -> None:
        """Keep no call open for who watches: an end of the process would wait for it."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, call: Call) -> None:
        service = await _asked(call)
        if service is None:
            return
        if service not in self._serving:
            await call.abort(Status.NOT_FOUND, "there is no such service")
            return
        await call.write(_response(self._serving[service]).SerializeToString())

    async def _watch(self, call: Call) -> None:
        service = await _asked(call)
        if service is None:
            return
        told: HealthCheckResponse | None = None
        while True:
            changed, now = self._changed, _response(self._serving.get(service))
            if now != told:
                await call.write(now.SerializeToString())
                told = now
            if self._ended:
                break
            if changed is self._changed:  # nothing has changed while that was written
                await changed.wait()
        await call.abort(Status.UNAVAILABLE, "the server stops")

    async def _list(self, call: Call) -> None:
        answer = HealthListResponse()
        for service, serving in self._serving.items():
            answer.statuses[service].CopyFrom(_response(serving))
        await call.write(answer.SerializeToString())


async def _asked(call: Call) -> str | None:
    """The service that is asked for. None where none is, and the call has ended."""
    message = await call.read()
    try:
        if message is not None:
            return str(HealthCheckRequest.FromString(message).service)
    except DecodeError:
        pass
    await call.abort(Status.INVALID_ARGUMENT, "not a HealthCheckRequest")
    return None


def _response(serving: bool | None) -> HealthCheckResponse:
    match serving:
        case None:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        case True:
            status = HealthCheckResponse.SERVING
        case False:
            status = HealthCheckResponse.NOT_SERVING
    return HealthCheckResponse(status=status)
