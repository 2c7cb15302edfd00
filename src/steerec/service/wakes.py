"""How processes over one store hear of each other's writes: Redis wakes them, the store tells what.

Those that share a file of SQLite need no Redis: the file tells whether it was written to.

A lost message costs time and nothing else: everybody reads on in the log from where they are.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from steerec.errors import MissingExtraError, StorageError
from steerec.service.tenants import Tenants

log = logging.getLogger(__name__)

CHANNEL = "steerec:written"  # a message is the name of a tenant
POLL_S = 0.05  # while Redis is away, or there is none, and between glances at a file
LOOK_S = 1.0  # while it is there, for what a lost message would have told
PING_S = 1.0
RETRY_S = 0.5
WAIT_S = 2.0  # for Redis to answer


class Wakes:
    """Tells other processes that a tenant was written to, and hears it from them.

    Args:
        url: of Redis; None: there is none.
        others: whether other processes may write to the store; without, nothing is looked for.
        version: what changes when a file was written to; None: the store is a server.
    """

    def __init__(
        self,
        tenants: Tenants,
        *,
        url: str | None,
        others: bool,
        version: Callable[[], int] | None = None,
    ) -> None:
        self.others = others
        self._version, self._seen = version, 0
        self._tenants, self._url = tenants, url
        self._woken, self._told = asyncio.Event(), asyncio.Event()
        self._from: set[str] = set()
        self._to: set[str] = set()
        self._up: bool | None = None  # not known yet
        self._looked = float("-inf")

    def tell(self, tenant: str) -> None:
        """Let others look soon; costs nothing here. Called from the event loop."""
        if self._url is not None:
            self._to.add(tenant)
            self._told.set()

    async def wait(self) -> frozenset[str] | None:
        """Wait until somebody has written, 50 ms at most.

        Returns:
            Tenants whose log may hold what others wrote; None: all of them.
        """
        if self.others and self._version is not None:
            return await self._written(self._version)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._woken.wait()
        self._woken.clear()
        names, self._from = frozenset(self._from), set()
        if not self.others:
            return frozenset()
        now = time.monotonic()
        if not self._up or now - self._looked >= LOOK_S:
            self._looked = now
            return None
        return names

    async def _written(self, version: Callable[[], int]) -> frozenset[str] | None:
        """`wait`, by a glance at the file: this process's own writes count as others' do."""
        await asyncio.sleep(POLL_S)
        try:
            now = version()
        except StorageError:
            return None  # whoever looks will find it away, and tell
        if now == self._seen:
            return frozenset()
        self._seen = now
        return None

    async def publish(self) -> None:
        """Pass on what `tell` was told, for as long as the service runs."""
        if self._url is None:
            return await _for_ever()
        client = redis_client(self._url)
        try:
            while True:
                await self._told.wait()
                self._told.clear()
                names, self._to = self._to, set()
                try:
                    for name in sorted(names):
                        await client.publish(CHANNEL, name)
                except redis_failures() as e:
                    self._lost(e)  # they look by themselves
        finally:
            await client.aclose()

    async def listen(self) -> None:
        """Hear what others publish, for as long as the service runs."""
        if self._url is None:
            return await _for_ever()
        while True:
            client = redis_client(self._url)
            try:
                async with client.pubsub() as heard:
                    await heard.subscribe(CHANNEL)
                    self._back()
                    await self._hear(heard)
            except redis_failures() as e:
                self._lost(e)
            finally:
                with contextlib.suppress(*redis_failures()):
                    await client.aclose()
            await asyncio.sleep(RETRY_S)

    async def _hear(self, heard: Any) -> None:
        while True:
            message = await heard.get_message(ignore_subscribe_messages=True, timeout=PING_S)
            if message is None:
                async with asyncio.timeout(WAIT_S):
                    await heard.ping()
            elif message["type"] == "message":
                self._from.add(message["data"].decode("utf-8", "replace"))
                self._woken.set()

    def _back(self) -> None:
        if not self._up:
            log.info("redis=there")
        self._up = True
        self._looked = float("-inf")  # what was missed meanwhile
        self._woken.set()
        for tenant in self._tenants:
            tenant.found("redis")

    def _lost(self, error: Exception) -> None:
        if self._up is not False:
            log.error("redis=away error=%s", error)
        self._up = False
        for tenant in self._tenants:
            tenant.missed("redis", f"{error}: others' writes are looked for every {POLL_S} s")


async def _for_ever() -> None:
    await asyncio.Event().wait()


def redis_client(url: str) -> Any:
    """A connection that fails at once where Redis is away; whoever holds it tries again."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as e:
        raise MissingExtraError("Redis needs its client: pip install 'steerec[redis]'") from e
    return Redis.from_url(
        url,
        socket_connect_timeout=WAIT_S,
        socket_timeout=WAIT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


def redis_failures() -> tuple[type[Exception], ...]:
    """What a client raises where Redis is away."""
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
