"""Routes for who runs the service: health, metrics, and the whole store in one file."""

import asyncio
import shutil
import tempfile
from http import HTTPStatus
from pathlib import Path

import msgspec
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from steerec.service.calls import Call
from steerec.service.gate import OWNER
from steerec.service.problems import refused
from steerec.service.schemas import HealthOut
from steerec.version import __version__


async def get_live(call: Call) -> HealthOut:
    """Whether the process answers at all."""
    return HealthOut(status="ok", version=__version__)


async def get_ready(call: Call) -> Response:
    """Whether lists are made; `degraded` says what is away, such as the store for events.

    `starting`: nothing is away, and items without vectors wait for the encoder to be loaded.
    The answer is 200 while lists go on from memory: a balancer that took a degraded process away
    would take all of them, since they share what is away. Watch `status` instead.
    """
    tenant = call.tenant
    told = HealthOut(status=tenant.status, version=__version__, degraded=tenant.degraded())
    return Response(msgspec.json.encode(told), media_type="application/json")


async def get_metrics(call: Call) -> Response:
    """Prometheus metrics of this process."""
    telemetry = call.tenant.telemetry
    telemetry.waiting.set(call.tenant.store.writer.waiting_rows)
    return Response(telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def get_dump(call: Call) -> Response:
    """Everything of all tenants as it is at one moment, a zip with checksums.

    For an admin of the tenant `default`. It holds personal data. To load it, stop the service and
    use `steerec restore`.
    """
    if call.caller.tenant != OWNER:
        raise refused(
            HTTPStatus.FORBIDDEN,
            f"a dump holds all tenants: it needs an admin key of {OWNER!r}, this one is of "
            f"{call.caller.tenant!r}",
        )
    folder = Path(tempfile.mkdtemp(prefix="steerec-dump-"))
    gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        await asyncio.to_thread(call.tenant.store.dump, folder / "steerec.zip", now=call.now)
    except BaseException:
        await gone()
        raise
    return FileResponse(
        folder / "steerec.zip",
        media_type="application/zip",
        filename="steerec.zip",
        headers={"Cache-Control": "no-store"},
        background=gone,
    )
