"""Several processes on one socket: each answers by itself, the store keeps them one.

On one machine that is a file of SQLite, or PostgreSQL and Redis, on several machines the latter.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from types import MappingProxyType
from typing import Any

from steerec.config import Settings
from steerec.errors import ConfigError
from steerec.service.addresses import BACKLOG, UNUSABLE, bound, refused

log = logging.getLogger(__name__)

LOOK_S = 0.2
AGAIN_S = 1.0  # before a worker that ended is started anew
GRACE_S = 15.0  # for a worker to finish what it began


@dataclass(frozen=True)
class Told:
    """What a worker needs to build its service."""

    settings: Settings
    snapshot: Path | None = None
    file: Path | None = None


def check_shared(settings: Settings) -> None:
    """Refuse several processes over PostgreSQL without Redis.

    Raises:
        ConfigError: if they would hear of each other's events late.
    """
    url, redis = settings.deployment.database_url or "", settings.deployment.redis_url
    if url.startswith("postgres") and not redis:
        raise ConfigError(
            f"workers={settings.service.workers} over PostgreSQL need Redis (STEEREC_REDIS_URL), "
            "by which they hear of each other's events: set it, or serve with one process"
        )


def run_many(told: Told, ready: Callable[[], None] = lambda: None) -> None:
    """Answer with several processes until this one is told to stop.

    A worker that dies is replaced; one that cannot begin ends all.

    Args:
        ready: called once, as soon as as many workers answer as were asked for.
    Raises:
        ConfigError: if Redis is missing, or the address cannot be had.
    """
    check_shared(told.settings)
    service = told.settings.service
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with _listening(service.host, service.port) as listening:
        _supervise(told, listening, stop, ready)


def _supervise(
    told: Told, listening: socket.socket, stop: threading.Event, ready: Callable[[], None]
) -> None:
    # Settings hold read-only tables, which cannot be sent to another process as they are.
    ForkingPickler.register(MappingProxyType, lambda table: (_read_only, (dict(table),)))
    context = multiprocessing.get_context("spawn")
    answering, missing = context.Semaphore(0), told.settings.service.workers

    def start() -> SpawnProcess:
        made = context.Process(target=work, args=(told, listening, os.getpid(), answering))
        made.start()
        return made

    workers = [start() for _ in range(told.settings.service.workers)]
    began = time.monotonic()
    while not stop.wait(LOOK_S):
        while missing and answering.acquire(block=False):
            missing -= 1
            if not missing:
                ready()
        for at, worker in enumerate(workers):
            if worker.exitcode is None:
                continue
            log.error("worker=%d ended=%s", at, worker.exitcode)
            if worker.exitcode > 0 and time.monotonic() - began < GRACE_S:
                stop.set()  # it could not begin; one that was killed is replaced
            elif not stop.wait(AGAIN_S):
                workers[at] = start()
    _end(workers)


def _read_only(table: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(table)


def _end(workers: list[SpawnProcess]) -> None:
    for worker in workers:
        if worker.exitcode is None:
            worker.terminate()
    until = time.monotonic() + GRACE_S
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
        if worker.exitcode is None:
            log.error("worker_pid=%s killed=1 it did not end in %s s", worker.pid, GRACE_S)
            worker.kill()
            worker.join()


def work(told: Told, listening: socket.socket, parent: int, answering: Semaphore) -> None:
    """One worker, in its own process; it lets go of `answering` as soon as it answers."""
    from steerec.service.server import build, leaving, run
    from steerec.service.telemetry import log_as_json

    log_as_json()
    service = build(told.settings, snapshot=told.snapshot, file=told.file)
    beside = (*service.beside, ending_with(parent))
    with leaving():
        run(replace(service, beside=beside), [_own(listening)], ready=answering.release)


def _own(shared: socket.socket) -> socket.socket:
    """A socket of this worker's own at the same address, among which Linux shares out connections.

    On one that all have, whoever is idle takes all that wait at once and keeps them, and the others
    have nothing to do.
    """
    if sys.platform != "linux":
        return shared
    made = bound(shared.family, shared.getsockname(), alone=False)
    made.listen(BACKLOG)
    return made


def ending_with(parent: int) -> Callable[[], Awaitable[None]]:
    """Beside a worker: tell it to stop when the process that started it is gone."""

    async def watch() -> None:
        while os.getppid() == parent:
            await asyncio.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    return watch


def _listening(host: str, port: int) -> socket.socket:
    """The address, taken; on Linux nobody is answered on this socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = bound(family, (host, port))
        if sys.platform == "linux":
            port = made.getsockname()[1]
            made.close()  # nobody else had it
            made = bound(family, (host, port), alone=False)
    except UNUSABLE as e:
        raise refused(host, port, e) from e
    if sys.platform != "linux":
        made.listen(BACKLOG)
    return made
