"""Events out of a real Redis Stream, and out of Kafka as far as that goes without a broker."""

import asyncio
import contextlib
import json

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition
from redis import Redis

from live_servers import redis_running, wait_until
from served import Server
from service_worlds import opened
from steerec.config import StreamsConfig
from steerec.errors import ConfigError, StorageError
from steerec.service.app import ended
from steerec.service.streams import IDLE_MS, Intake, KafkaReader, RedisReader, readers
from steerec.service.wakes import redis_client
from steerec.store import open_store


@pytest.fixture(scope="module")
def redis_server():
    with redis_running() as server:
        yield server


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def shop(sqlite_url, loop):
    made = opened(sqlite_url, loop=loop)
    yield made
    made.close()


@pytest.fixture
def intake(shop):
    told = []
    made = Intake(shop.service.tenants, "default", told.append, shop.clock)
    made.told = told
    return made


def stored(shop):
    return {one.event_id: one.event for one in shop.service.store.log.iterate("default")}


def event(**more):
    return {"user_id": "ann", "item_id": "i0001", **more}


@pytest.fixture
def stream(request):
    return request.node.name


def reading(redis_server, stream, intake, **more):
    config = StreamsConfig(redis_stream=stream, at_once=10)
    return RedisReader(redis_server.url, config, intake, **more)


async def until_empty(reader, client):
    while await reader.read_once(client):
        pass


def test_messages_are_stored_once_and_then_acknowledged(shop, loop, redis_server, intake, stream):
    async def run():
        client = redis_client(redis_server.url)
        reader = reading(redis_server, stream, intake)
        await reader._join(client)
        await reader._join(client)  # a second service of the group
        first = await client.xadd(stream, {"json": json.dumps(event(event_id="e1"))})
        await client.xadd(stream, {"json": json.dumps(event(event_id="e1"))})  # sent again
        plain = await client.xadd(stream, event(event="purchase", timestamp="1750000000.5"))
        await until_empty(reader, client)
        assert (await client.xpending(stream, "steerec"))["pending"] == 0
        await client.aclose()
        return first, plain

    _, plain = loop.run_until_complete(run())
    kept = stored(shop)
    assert set(kept) == {"e1", f"{stream}:{plain.decode()}"}
    assert kept[f"{stream}:{plain.decode()}"].timestamp == 1750000000.5
    assert shop.tenant().live.applied["events"] == 2
    assert intake.told
    assert set(intake.told) == {"default"}


def test_what_can_never_be_stored_is_set_aside_with_its_reason(
    shop, loop, redis_server, intake, stream
):
    async def run():
        client = redis_client(redis_server.url)
        reader = reading(redis_server, stream, intake)
        await reader._join(client)
        for fields in (
            {"json": "{"},
            {"json": json.dumps({"user_id": "ann"})},
            {"user_id": "ann", "item_id": "x" * 300},
            {"user_id": "a\x00", "item_id": "x"},
            event(event_id="good"),
        ):
            await client.xadd(stream, fields)
        await until_empty(reader, client)
        aside = await client.xrange(f"{stream}:refused")
        pending = await client.xpending(stream, "steerec")
        await client.aclose()
        return [fields[b"why"].decode() for _, fields in aside], pending["pending"]

    why, pending = loop.run_until_complete(run())
    assert pending == 0
    assert set(stored(shop)) == {"good"}
    assert len(why) == 4
    assert "item_id" in why[1]
    assert (intake.stored, intake.refused) == (1, 4)


def test_nothing_is_acknowledged_before_it_is_on_disk(
    shop, loop, redis_server, intake, stream, monkeypatch
):
    log = shop.service.store.log
    append, steps = log.append_async, []

    async def watched(*given, **more):
        steps.append(("pending", (await client.xpending(stream, "steerec"))["pending"]))
        if len(steps) == 1:
            raise StorageError("away for a moment")
        return await append(*given, **more)

    async def run():
        reader = reading(redis_server, stream, intake)
        await reader._join(client)
        await client.xadd(stream, event(event_id="once"))
        await reader.read_once(client)
        steps.append(("pending", (await client.xpending(stream, "steerec"))["pending"]))
        await client.aclose()

    client = redis_client(redis_server.url)
    monkeypatch.setattr("steerec.service.streams.AGAIN_S", 0.0)
    monkeypatch.setattr(type(log), "append_async", lambda self, *a, **b: watched(*a, **b))
    loop.run_until_complete(run())
    assert [n for _, n in steps] == [1, 1, 0]
    assert set(stored(shop)) == {"once"}


def test_what_a_dead_consumer_left_is_taken_over(shop, loop, redis_server, intake, stream):
    async def run():
        client = redis_client(redis_server.url)
        reader = reading(redis_server, stream, intake, idle_ms=0)
        await reader._join(client)
        await client.xadd(stream, event(event_id="left"))
        await client.xreadgroup("steerec", "dead", {stream: ">"}, count=1)
        assert await reader.read_once(client) == 1
        assert (await client.xpending(stream, "steerec"))["pending"] == 0
        await client.aclose()

    loop.run_until_complete(run())
    assert set(stored(shop)) == {"left"}
    assert IDLE_MS > 1_000


def test_a_reader_goes_on_when_redis_was_away(shop, loop, intake, stream, monkeypatch):
    monkeypatch.setattr("steerec.service.streams.AGAIN_S", 0.05)

    async def run():
        with redis_running() as server:
            reader = reading(server, stream, intake)
            task = asyncio.create_task(reader.read())
            await _add(server, stream, "before")
            await _until(lambda: "before" in stored(shop))
            server.stop()
            await _until(lambda: shop.service.tenants.open_now("default").degraded())
            server.start()  # and has lost all it had: the group is made again
            await _add(server, stream, "after")
            await _until(lambda: "after" in stored(shop))
            assert not shop.service.tenants.open_now("default").degraded()
            await ended([task])

    loop.run_until_complete(run())


async def _add(server, stream, name):
    client = redis_client(server.url)
    await client.xadd(stream, event(event_id=name))
    await client.aclose()


async def _until(true):
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def record(offset, value):
    return ConsumerRecord(
        topic="events",
        partition=3,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=None,
        value=value,
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=len(value or b""),
        headers=(),
    )


class Topic:
    """Records handed out once, and how many events were on disk at each commit."""

    def __init__(self, records, shop):
        self.records, self.shop, self.at_commit = records, shop, []

    async def getmany(self, *, timeout_ms, max_records):
        came, self.records = self.records[:max_records], self.records[max_records:]
        return {TopicPartition("events", 3): came} if came else {}

    async def commit(self):
        self.at_commit.append(len(stored(self.shop)))


def test_offsets_of_kafka_are_committed_after_their_events_are_on_disk(shop, loop, intake):
    body = json.dumps(event()).encode()
    topic = Topic([record(7, body), record(8, b"{"), record(9, None), record(7, body)], shop)
    reader = KafkaReader(StreamsConfig(kafka_servers="x:1", at_once=3), intake)

    async def run():
        return [await reader.read_once(topic) for _ in range(3)]

    assert loop.run_until_complete(run()) == [3, 1, 0]
    assert topic.at_commit == [1, 1]
    assert set(stored(shop)) == {"events:3:7"}
    assert intake.refused == 2


def test_a_kafka_that_is_not_there_shows_in_health(shop, loop, intake):
    config = StreamsConfig(kafka_servers="127.0.0.1:9")

    async def run():
        task = asyncio.create_task(KafkaReader(config, intake).read())
        await _until(lambda: shop.service.tenants.open_now("default").degraded())
        await ended([task])

    shop.tenant()
    loop.run_until_complete(run())
    (why,) = shop.tenant().degraded()
    assert why.startswith("kafka: ")


def test_a_stream_without_redis_is_a_mistake_in_the_settings(shop):
    from dataclasses import replace

    settings = shop.service.settings
    streams = replace(settings.service, streams=StreamsConfig(redis_stream="events"))
    with pytest.raises(ConfigError, match="STEEREC_REDIS_URL"):
        readers(replace(settings, service=streams), shop.service.tenants, print, shop.clock)


def test_a_reader_killed_between_disk_and_acknowledgement_leaves_an_event_that_counts_once(
    shop, loop, redis_server, intake, stream, monkeypatch
):
    async def killed(*_, **__):
        raise asyncio.CancelledError

    async def run():
        client, other = redis_client(redis_server.url), redis_client(redis_server.url)
        reader = reading(redis_server, stream, intake)
        await reader._join(client)
        await client.xadd(stream, event(event_id="named"))
        await client.xadd(stream, event())  # whose id is its place in the stream
        monkeypatch.setattr(client, "xack", killed)
        with pytest.raises(asyncio.CancelledError):
            await reader.read_once(client)
        assert len(stored(shop)) == 2
        assert (await other.xpending(stream, "steerec"))["pending"] == 2
        await until_empty(reading(redis_server, stream, intake, idle_ms=0), other)
        assert (await other.xpending(stream, "steerec"))["pending"] == 0
        await client.aclose()
        await other.aclose()

    loop.run_until_complete(run())
    assert len(stored(shop)) == 2
    assert shop.tenant().live.applied["events"] == 2
    assert len(shop.tenant().live.recommender.history("ann")) == 2


STREAMS = """
[service.streams]
redis_stream = "clicks"
at_once = 20
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_service_killed_again_and_again_takes_each_message_once(tmp_path):
    """SIGKILL at five moments of a stream of 20,000 messages, one in ten of them sent twice."""
    with redis_running() as redis:
        client = Redis.from_url(redis.url)
        server = Server(tmp_path, service=STREAMS, environment={"STEEREC_REDIS_URL": redis.url})
        for n in range(20_000):
            fields = event(event_id=f"e{n}", user_id=f"u{n % 50}")
            for _ in range(1 + (n % 10 == 0)):
                client.xadd("clicks", fields)
        for part in range(1, 6):
            server.start()
            wait_until(lambda part=part: n_stored(server) >= part * 3_000, most_s=120)
            server.kill()
        assert client.xpending("clicks", "steerec")["pending"] > 0  # what the last one had begun
        server.start()
        try:
            wait_until(lambda: n_stored(server) == 20_000, most_s=300)
            idle = IDLE_MS / 1_000
            wait_until(lambda: not client.xpending("clicks", "steerec")["pending"], most_s=9 * idle)
            assert server.metric("steerec_applied_total", what="events") == 20_000
        finally:
            client.close()
            assert server.stop() == 0
    store = open_store(server.url)
    ids = [one.event_id for one in store.log.iterate("default")]
    store.close()
    assert sorted(ids) == sorted(f"e{n}" for n in range(20_000))


def n_stored(server):
    """Events the engine has taken in; none are told of before the first."""
    with contextlib.suppress(ValueError):
        return server.metric("steerec_applied_total", what="events")
    return 0
