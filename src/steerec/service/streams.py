"""Events out of Redis Streams and Kafka: at least once, and once in effect by the event's id.

A message is acknowledged only after the log has its event on disk.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from steerec.config import Settings, StreamsConfig
from steerec.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    QueueFullError,
    StorageError,
)
from steerec.service.events import logged, take_in
from steerec.service.mistakes import UNREADABLE, Given, told_of
from steerec.service.problems import Problem
from steerec.service.schemas import EventIn
from steerec.service.tenants import Tenants
from steerec.service.wakes import redis_client, redis_failures
from steerec.store.log import LoggedEvent

log = logging.getLogger(__name__)

BLOCK_MS = 1_000
CLAIM_EVERY_S = 10.0
IDLE_MS = 30_000  # after which a message that another consumer has not finished is taken over
AGAIN_S = 1.0
REFUSED = "refused"  # stream beside the one that is read, of messages that can never be stored
MOST_REFUSED = 100_000

_DECODER = msgspec.json.Decoder(EventIn)


@dataclass(frozen=True)
class Message:
    """One message, with the id that makes it count once where the event has none of its own."""

    id: str
    fields: Mapping[str, str] | None = None
    body: bytes = b""

    def event(self) -> LoggedEvent:
        """The event, as POST /api/events takes it; fields of a stream may hold it as they are.

        Raises:
            DataError: if it is none.
        """
        given: Given = self.body if self.fields is None else dict(self.fields)
        if isinstance(given, dict) and "json" in given:
            given = given["json"].encode("utf-8", "surrogatepass")
        try:
            if isinstance(given, bytes):
                read = _DECODER.decode(given)
            else:
                read = msgspec.convert(given, EventIn, strict=False)
        except UNREADABLE as e:
            raise DataError(told_of(e, EventIn, given)) from e
        if read.event_id is None:
            read = msgspec.structs.replace(read, event_id=self.id)
        return logged(read)


@dataclass
class Intake:
    """Stores what readers bring.

    Attributes:
        written: told the tenant after each batch.
        stored, refused: messages since the start.
    """

    tenants: Tenants
    tenant: str
    written: Callable[[str], None]
    clock: Callable[[], float]
    stored: int = 0
    refused: int = 0

    async def take(self, messages: Sequence[Message]) -> dict[str, str]:
        """Store messages; waits for as long as the store is away.

        Returns:
            Id → reason, of those that can never be stored; all others are on disk.
        """
        told: dict[str, str] = {}
        events: dict[str, LoggedEvent] = {}
        for message in messages:
            try:
                events[message.id] = message.event()
            except DataError as e:
                told[message.id] = str(e)
        told.update(await self._store(events))
        self.stored += len(messages) - len(told)
        self.refused += len(told)
        for name, why in told.items():
            log.warning("message=%s refused=1 why=%s", name, why)
        return told

    async def _store(self, events: Mapping[str, LoggedEvent]) -> dict[str, str]:
        """Append a batch; where the store refuses one of it, each by itself."""
        if not events:
            return {}
        try:
            await self._append(list(events.values()))
        except (DataError, Problem) as e:
            if len(events) == 1:
                return dict.fromkeys(events, e.detail if isinstance(e, Problem) else str(e))
            told: dict[str, str] = {}
            for name, event in events.items():
                told.update(await self._store({name: event}))
            return told
        return {}

    async def _append(self, batch: Sequence[LoggedEvent]) -> None:
        while True:
            try:
                tenant = await self.tenants.of(self.tenant)
                await take_in(tenant, batch, now=self.clock())
            except QueueFullError as e:
                await asyncio.sleep(e.retry_after_s)
            except StorageError as e:
                log.error("stream=waits error=%s", e)
                await asyncio.sleep(AGAIN_S)
            else:
                self.written(self.tenant)
                return


@dataclass
class RedisReader:
    """Reads a Redis Stream as one consumer of a group."""

    url: str
    config: StreamsConfig
    intake: Intake
    consumer: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    )
    idle_ms: int = IDLE_MS
    _claimed: float = float("-inf")

    async def read(self) -> None:
        """Read for as long as the service runs; begin again where Redis was away."""
        while True:
            client = redis_client(self.url)
            try:
                await self._join(client)
                _found(self.intake, "redis_stream")
                while True:
                    await self.read_once(client)
            except redis_failures() as e:
                _missed(self.intake, "redis_stream", e)
            finally:
                await client.aclose()
            await asyncio.sleep(AGAIN_S)

    async def read_once(self, client: Any) -> int:
        """Take the next messages, or those another consumer left unfinished; how many."""
        stream, group, n = self.config.redis_stream, self.config.group, self.config.at_once
        found = await self._left_by_others(client)
        if not found:
            came = await client.xreadgroup(
                group, self.consumer, {stream: ">"}, count=n, block=BLOCK_MS
            )
            found = came[0][1] if came else []
        messages = [_of_redis(stream, name, fields) for name, fields in found]
        names = {message.id: name for message, (name, _) in zip(messages, found, strict=True)}
        told = await self.intake.take(messages)
        for message in messages:
            if message.id in told:
                why = {"id": message.id, "why": told[message.id], **(message.fields or {})}
                await client.xadd(f"{stream}:{REFUSED}", why, maxlen=MOST_REFUSED)
        if messages:
            await client.xack(stream, group, *names.values())
        return len(messages)

    async def _join(self, client: Any) -> None:
        """Be of the group, which begins with the stream's first message."""
        from redis.exceptions import ResponseError

        stream, group = self.config.redis_stream, self.config.group
        try:
            await client.xgroup_create(stream, group, id="0", mkstream=True)
        except ResponseError as e:
            if "BUSYGROUP" not in str(e):
                raise

    async def _left_by_others(self, client: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        if time.monotonic() - self._claimed < CLAIM_EVERY_S:
            return []
        stream, group, n = self.config.redis_stream, self.config.group, self.config.at_once
        answer = await client.xautoclaim(
            stream, group, self.consumer, min_idle_time=self.idle_ms, start_id="0-0", count=n
        )
        found = [(name, fields) for name, fields in answer[1] if fields is not None]
        if not found:
            self._claimed = time.monotonic()
        return found


def _of_redis(stream: str, name: bytes, fields: Mapping[bytes, bytes]) -> Message:
    given = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in fields.items()}
    return Message(f"{stream}:{name.decode()}", given)


@dataclass
class KafkaReader:
    """Reads a Kafka topic as one consumer of a group; offsets are committed by us alone."""

    config: StreamsConfig
    intake: Intake

    async def read(self) -> None:
        """Read for as long as the service runs; begin again where Kafka was away."""
        errors = _kafka_failures()
        while True:
            consumer = self._consumer()
            try:
                await consumer.start()
                _found(self.intake, "kafka")
                while True:
                    await self.read_once(consumer)
            except errors as e:
                _missed(self.intake, "kafka", e)
            finally:
                await consumer.stop()
            await asyncio.sleep(AGAIN_S)

    async def read_once(self, consumer: Any) -> int:
        """Take the next records, then commit their offsets; how many."""
        came = await consumer.getmany(timeout_ms=BLOCK_MS, max_records=self.config.at_once)
        records = [record for part in came.values() for record in part]
        if records:
            await self.intake.take([_of_kafka(record) for record in records])
            await consumer.commit()
        return len(records)

    def _consumer(self) -> Any:
        from aiokafka import AIOKafkaConsumer

        return AIOKafkaConsumer(
            self.config.kafka_topic,
            bootstrap_servers=self.config.kafka_servers,
            group_id=self.config.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )


def _of_kafka(record: Any) -> Message:
    name = f"{record.topic}:{record.partition}:{record.offset}"
    return Message(name, body=record.value or b"")


def _kafka_failures() -> tuple[type[Exception], ...]:
    try:
        from aiokafka.errors import KafkaError
    except ModuleNotFoundError as e:
        raise MissingExtraError("Kafka needs its client: pip install 'steerec[kafka]'") from e
    return (KafkaError, OSError)


def _missed(intake: Intake, what: str, error: Exception) -> None:
    log.error("%s=away error=%s", what, error)
    for tenant in intake.tenants:
        tenant.missed(what, f"{error}: tried again every {AGAIN_S:g} s")


def _found(intake: Intake, what: str) -> None:
    log.info("%s=there", what)
    for tenant in intake.tenants:
        tenant.found(what)


def readers(
    settings: Settings,
    tenants: Tenants,
    written: Callable[[str], None],
    clock: Callable[[], float],
) -> list[Callable[[], Awaitable[None]]]:
    """What runs beside the service for the streams that the settings name.

    Raises:
        ConfigError: if a Redis Stream is named without STEEREC_REDIS_URL.
        MissingExtraError: if a client is not installed.
    """
    config, url = settings.service.streams, settings.deployment.redis_url
    made: list[Callable[[], Awaitable[None]]] = []
    intake = Intake(tenants, config.tenant, written, clock)
    if config.redis_stream:
        if url is None:
            raise ConfigError(
                f"streams: redis_stream={config.redis_stream!r} needs STEEREC_REDIS_URL: set it"
            )
        made.append(RedisReader(url, config, intake).read)
    if config.kafka_servers:
        _kafka_failures()
        made.append(KafkaReader(config, intake).read)
    return made
