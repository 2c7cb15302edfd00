"""A running service: settings in, a socket that answers out."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from steerec.config import Settings
from steerec.contracts import Encoder
from steerec.encoders.cache import CachedEncoder
from steerec.engine.model import Model
from steerec.engine.snapshot import check_snapshot
from steerec.engine.texts import encoder_of, opened_encoder
from steerec.errors import ConfigError, EncoderError, StorageError
from steerec.kernels import load
from steerec.service.addresses import listen
from steerec.service.app import Beside, create_app, create_operators_app, keeping_up, tuning
from steerec.service.calls import Counter
from steerec.service.gate import OWNER, Gate
from steerec.service.refits import Refits
from steerec.service.streams import readers
from steerec.service.telemetry import Telemetry
from steerec.service.tenants import Tenants
from steerec.service.tracing import traces_to
from steerec.service.wakes import Wakes
from steerec.store import Store, open_store

log = logging.getLogger(__name__)

DEFAULT_STORE = "sqlite:///steerec.db"
TRIM_EVERY_S = 60.0
GC_AFTER = 20_000, 20, 50  # a list makes a thousand objects, hardly any in circles
GRACE_S = 10  # for calls that are being answered when the service is told to stop
LAST_S = 2.0  # for what threads are at then
HANDS = "steerec-hand"  # how their names begin


@dataclass(frozen=True)
class Service:
    """The parts of one process, put together and not yet listening."""

    settings: Settings
    store: Store
    tenants: Tenants
    counter: Counter
    beside: tuple[Beside, ...]
    refits: Refits

    def app(self) -> FastAPI:
        """The ASGI app."""
        apart = self.settings.service.metrics_port > 0
        return create_app(self.counter, beside=self.beside, public=apart)

    def close(self) -> None:
        """Write what waits and close the store."""
        self.refits.close()
        self.store.close()
        self.counter.telemetry.close()


def build(
    settings: Settings,
    *,
    snapshot: Path | None = None,
    model: Model | None = None,
    clock: Callable[[], float] = time.time,
    file: Path | None = None,
) -> Service:
    """Open the store, load the model, and replay what the log holds beyond it.

    Args:
        snapshot: folder of the owner's model, unless a refit made a later one; None: `model`, the
            newest of the refits, or it starts from nothing.
        model: the owner's, which is not fitted again.
        file: settings file that refits read; None: the default one, if it is there.
    Raises:
        ConfigError, StorageError, SnapshotError, EncoderError: whatever cannot be opened.
        MissingExtraError: if a package that the settings ask for is not installed.
    """
    if snapshot is not None:
        check_snapshot(snapshot)  # one that is none leaves no new store behind
    store = open_store(settings.deployment.database_url or DEFAULT_STORE)
    refits = Refits(settings, store, clock, snapshot=snapshot, fixed=model, file=file)
    owned = refits.load(OWNER)
    telemetry = Telemetry(traces_to(settings.service.traces))
    encoder = _encoder(settings, owned)
    tenants = Tenants(
        store,
        lambda name: owned if name == OWNER else refits.load(name),
        settings.live_config(),
        clock=clock,
        telemetry=telemetry,
        encoder=encoder,
    )
    service = settings.service
    gate = Gate(store.keys if service.keys else None, service.calls_per_s, service.burst)
    wakes = _wakes(settings, tenants)
    counter = Counter(tenants, gate, telemetry, clock, service.most_body_bytes, written=wakes.tell)
    beside: tuple[Beside, ...] = (
        keeping_up(tenants, clock, wakes),
        tuning(tenants, clock),
        wakes.publish,
        wakes.listen,
        _trimming(settings, tenants, clock),
        *readers(settings, tenants, wakes.tell, clock),
        refits.schedule,
        partial(refits.watch, tenants),
        partial(_warm, encoder),
        *_for_operators(settings, counter),
    )
    return Service(settings, store, tenants, counter, beside, refits)


def _wakes(settings: Settings, tenants: Tenants) -> Wakes:
    """A server may have other writers; a file of SQLite is this process's own, or its workers'."""
    database = tenants.store.database
    is_file = database.path is not None
    tenants.shared = settings.service.workers > 1 or not is_file
    return Wakes(
        tenants,
        url=settings.deployment.redis_url,
        others=tenants.shared,
        version=database.version if is_file else None,
    )


def run(
    service: Service,
    sockets: Sequence[socket.socket],
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until the process is told to stop, then finish what was begun.

    Args:
        sockets: bound, perhaps to an address that other processes answer at too.
        ready: called once, when callers are answered.
    Raises:
        ConfigError: if another process took the address at the same moment.
    """
    service.tenants.open_now(OWNER)
    listen(sockets)
    gc.collect()
    gc.freeze()  # it stays, and to look it through again and again took a tenth of the CPU
    gc.set_threshold(*GC_AFTER)
    told = service.settings.service
    config = uvicorn.Config(
        service.app(),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=told.tls_certificate,
        ssl_keyfile=told.tls_key,
    )
    # uvicorn sends itself the signal again once it is done, which would end the process before
    # what waits is written.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: log.info("stopping=1"))
    stop = Event()
    beside = Thread(target=_load_kernels, args=(service, stop), name="steerec-kernels", daemon=True)
    if told.compiled:  # nobody waits for them
        beside.start()
    try:
        with threadpool_limits(1, "blas"):  # a list's products are small: two threads cost more
            _Announced(config, ready).run(list(sockets))
    finally:
        stop.set()
        service.close()
        if told.compiled:  # a compiler at work must not see the process go
            beside.join(GRACE_S)


def _load_kernels(service: Service, stop: Event) -> None:
    load(service.settings.cache_dir / "kernels", stop=stop)
    for tenant in service.tenants:
        tenant.live.recommender.prepare()
    gc.freeze()  # what a compiler brings with it stays, too


class _Announced(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        asyncio.get_running_loop().set_default_executor(_Hands(thread_name_prefix=HANDS))
        await super().startup(sockets)
        self._ready()


class _Hands(ThreadPoolExecutor):
    """The threads of a loop, which wait for little when it ends.

    One may be loading a model, which nothing interrupts; what goes to the store is all or nothing.
    """

    def shutdown(self, *_: Any, **__: Any) -> None:
        """See ThreadPoolExecutor."""
        super().shutdown(wait=False, cancel_futures=True)
        until = time.monotonic() + LAST_S
        for thread in _at_work():
            thread.join(max(0.0, until - time.monotonic()))


def _at_work() -> list[Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(HANDS)]


@contextmanager
def leaving() -> Iterator[None]:
    """Around `run`: the process ends with it, even if a thread is at what nothing interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        _leave(1)
        raise
    _leave(0)


def _leave(code: int) -> None:
    if left := _at_work():  # Python would wait for them
        log.warning("threads_left=%d", len(left))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Beside(uvicorn.Server):
    """A server within another one, which has the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn.Server."""
        yield


def _for_operators(settings: Settings, counter: Counter) -> tuple[Beside, ...]:
    """Metrics and docs on a port of their own, if asked.

    Raises:
        ConfigError: if the port is taken.
    """
    told = settings.service
    if told.metrics_port == 0:
        return ()
    several = told.workers > 1  # any of them answers, as on the other port
    host = told.metrics_host or told.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server(
            (host, told.metrics_port), family=family, reuse_port=several
        )
    except OSError as e:
        raise ConfigError(
            f"metrics_port={told.metrics_port} at {host} cannot be had ({e}): choose another"
        ) from e
    operators_app = create_operators_app(counter)
    config = uvicorn.Config(operators_app, log_config=None, access_log=False, lifespan="off")

    async def operators() -> None:
        await _Beside(config).serve([listening])

    return (operators,)


def _encoder(settings: Settings, model: Model | None) -> Encoder | None:
    if model is None:
        return opened_encoder(settings.encoder, settings.cache_dir)
    return encoder_of(model.data, settings.encoder, settings.cache_dir)


async def _warm(encoder: Encoder | None) -> None:
    """Load the encoder's model once, beside the calls: the first new item finds it ready."""
    if isinstance(encoder, CachedEncoder):
        try:
            await asyncio.to_thread(encoder.warm)
        except EncoderError as e:
            log.error("encoder=away error=%s", e)
    await asyncio.Event().wait()


def _trimming(settings: Settings, tenants: Tenants, clock: Callable[[], float]) -> Beside:
    """Delete what is over the limits of number and age, a little at a time."""
    limits = settings.service.retention

    async def trim_all() -> None:
        for tenant in tenants:
            more = True
            while more:
                told = await asyncio.to_thread(tenant.store.trim, tenant.name, limits, now=clock())
                more = told.more
                await asyncio.sleep(0.05)

    async def trim() -> None:
        while True:
            try:
                await trim_all()
            except StorageError as e:
                log.warning("trim=waits error=%s", e)
            await asyncio.sleep(TRIM_EVERY_S)

    return trim
