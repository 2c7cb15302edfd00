"""Routes for who runs the service: health and metrics."""

import msgspec
from starlette.responses import Response

from steerec.service.calls import Call
from steerec.service.schemas import HealthOut
from steerec.version import __version__


async def get_live(call: Call) -> HealthOut:
    """Whether the process answers at all."""
    return HealthOut(status="ok", version=__version__)


async def get_ready(call: Call) -> Response:
    """Whether lists are made; `degraded` says what is away, such as the store for events.

    The answer is 200 while lists go on from memory: a balancer that took a degraded process away
    would take all of them, since they share what is away. Watch `status` instead.
    """
    degraded = call.tenant.degraded()
    told = HealthOut(
        status="degraded" if degraded else "ok", version=__version__, degraded=degraded
    )
    return Response(msgspec.json.encode(told), media_type="application/json")


async def get_metrics(call: Call) -> Response:
    """Prometheus metrics of this process."""
    telemetry = call.tenant.telemetry
    telemetry.waiting.set(call.tenant.store.writer.waiting_rows)
    return Response(telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
