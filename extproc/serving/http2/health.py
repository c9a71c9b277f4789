"""grpc.health.v1, which Envoy and the kubelet ask."""

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListResponse,
)

from extproc.serving.http2.call import Call
from extproc.serving.http2.services import Handler
from extproc.serving.http2.status import Status

_SERVICE = "/grpc.health.v1.Health/"


class HealthService:
    """Whether services serve, by name; who watches one is told of each change."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._watchers: dict[Call, str] = {}

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            f"{_SERVICE}Check": self._check,
            f"{_SERVICE}Watch": self._watch,
            f"{_SERVICE}List": self._list,
        }

    def set(self, service: str, serving: bool) -> None:
        self._serving[service] = serving
        answer = self._answer(service)
        for call, watched in self._watchers.items():
            if watched == service:
                call.put(answer)

    def _answer(self, service: str) -> bytes:
        answer: bytes = _response(self._serving.get(service)).SerializeToString()
        return answer

    async def _check(self, call: Call) -> None:
        service = await _asked(call)
        if service is None:
            return
        if service not in self._serving:
            await call.abort(Status.NOT_FOUND, "there is no such service")
            return
        await call.write(self._answer(service))

    async def _watch(self, call: Call) -> None:
        service = await _asked(call)
        if service is None:
            return
        self._watchers[call] = service
        try:
            await call.write(self._answer(service))
            await call.gone()
        finally:
            del self._watchers[call]

    async def _list(self, call: Call) -> None:
        answer = HealthListResponse()
        for service, serving in self._serving.items():
            answer.statuses[service].CopyFrom(_response(serving))
        await call.write(answer.SerializeToString())


async def _asked(call: Call) -> str | None:
    """The service that is asked for. None where nobody is, and the call has ended."""
    message = await call.read()
    if message is None:
        await call.abort(Status.INVALID_ARGUMENT, "nothing is asked")
        return None
    try:
        return str(HealthCheckRequest.FromString(message).service)
    except DecodeError:
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
