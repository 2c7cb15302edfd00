"""Several processes over one PostgreSQL and one Redis, and both of them away for a while."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import psutil
import pytest

from live_servers import postgres_running, redis_running, wait_until
from service_worlds import own_model
from steerec.config import Deployment, ServiceConfig, Settings
from steerec.encoders import EncoderConfig
from steerec.engine.learning import TuningConfig
from steerec.engine.snapshot import save_snapshot
from steerec.errors import ConfigError
from steerec.service.app import ended
from steerec.service.server import build
from steerec.service.wakes import Wakes
from steerec.service.workers import _listening, _own, check_shared
from steerec.store import open_store

MOST_S = 0.1  # until an event to one process shows in another's list; with five times the slack


@pytest.fixture(scope="module")
def redis_server():
    with redis_running() as server:
        yield server


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where snapshots are kept


def settings_of(url, redis_url=None, **service):
    return Settings(
        deployment=Deployment(database_url=url, redis_url=redis_url),
        encoder=EncoderConfig(encoder="none"),
        service=ServiceConfig(**service),
    )


@contextlib.asynccontextmanager
async def running(settings):
    """Calls to a process's service, with all that runs beside it."""
    service = build(settings, model=own_model())
    service.tenants.open_now("default")
    app = service.app()
    transport = httpx.ASGITransport(app)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://one") as client,
        ):
            client.live = service.tenants.open_now("default").live
            yield client
    finally:
        service.close()


async def until(true, *, most_s=20.0):
    """Seconds until an awaited condition holds."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < most_s
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def ids(client, user):
    answer = await client.get(f"/api/recommend/{user}", params={"n": 50, "repeats": False})
    assert answer.status_code == 200, answer.text
    return [choice["item_id"] for choice in answer.json()["items"]]


async def click(client, user, item, **more):
    body = {"user_id": user, "item_id": item, "event": "purchase", **more}
    answer = await client.post("/api/events", json=body)
    return answer.status_code


async def ready(client):
    answer = await client.get("/api/health/ready")
    assert answer.status_code == 200
    return answer.json()["degraded"]


async def shown(client, user, item):
    return item in await ids(client, user)


async def lag(one, other, user):
    """Seconds until the best item of a user's list is off the other's list once it is bought."""
    item = (await ids(other, user))[0]
    before = other.live.applied["events"]

    async def followed():
        return other.live.applied["events"] > before

    assert await click(one, user, item) == 200
    seconds = await until(followed)
    assert not await shown(other, user, item)
    return seconds


def test_an_event_to_one_process_shows_in_the_list_of_the_other(postgres_url, redis_server):
    settings = settings_of(postgres_url, redis_server.url)

    async def run():
        async with running(settings) as one, running(settings) as other:
            await until(lambda: _there(one))
            await until(lambda: _there(other))
            return [await lag(one, other, f"u{n:04d}") for n in range(10)]

    seconds = sorted(asyncio.run(run()))
    assert seconds[len(seconds) // 2] < 5 * MOST_S, seconds


async def _there(client):
    return not await ready(client)


def test_items_and_erasures_reach_the_other_process_too(postgres_url, redis_server):
    settings = settings_of(postgres_url, redis_server.url)

    async def run():
        async with running(settings) as one, running(settings) as other:
            item = (await ids(other, "u0001"))[0]
            answer = await one.patch(f"/api/items/{item}", json={"hidden": True})
            assert answer.status_code == 200

            async def hidden():
                return not await shown(other, "u0002", item)

            await until(hidden)
            bought = (await ids(other, "u0003"))[0]
            await lag(one, other, "u0003")
            assert (await one.delete("/api/users/u0003/data")).status_code == 200
            await until(lambda: shown(other, "u0003", bought))

    asyncio.run(run())


def test_what_runs_beside_the_service_ends_whenever_it_is_told_to(redis_server):
    """Also while it connects or sends: there a cancellation gets lost."""

    async def run(n_steps):
        wakes = Wakes([], url=redis_server.url, others=True)
        tasks = [asyncio.create_task(run()) for run in (wakes.publish, wakes.listen)]
        wakes.tell("default")
        for _ in range(n_steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await ended(tasks)

    for n_steps in range(2, 6):
        asyncio.run(run(n_steps))


def check_redis_away(url, *, away_s):
    """Events still reach the other process, health tells, and it recovers by itself."""

    async def run():
        with redis_running() as redis:
            settings = settings_of(url, redis.url)
            async with running(settings) as one, running(settings) as other:
                await until(lambda: _there(other))
                redis.stop()
                await until(lambda: _away(other, "redis"))
                began, n = time.monotonic(), 10
                while time.monotonic() - began < away_s or n == 10:
                    await lag(one, other, f"u{n:04d}")
                    assert await _away(other, "redis")
                    n = n + 1 if n < 99 else 10
                redis.start()
                await until(lambda: _there(one))
                await until(lambda: _there(other))
                await lag(one, other, "u0005")

    asyncio.run(run())


def test_without_redis_others_are_looked_for_and_it_comes_back(postgres_url):
    check_redis_away(postgres_url, away_s=0.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_redis_may_be_away_for_half_a_minute(postgres_url):
    check_redis_away(postgres_url, away_s=30.0)


async def _away(client, what):
    return any(why.startswith(what) for why in await ready(client))


def test_a_lone_process_on_postgres_needs_no_redis(postgres_url):
    async def run():
        settings = settings_of(postgres_url)
        async with running(settings) as one, running(settings) as other:
            await lag(one, other, "u0006")

    asyncio.run(run())


def check_store_away(*, away_s):
    """Lists go on, writes are refused, nothing acknowledged is lost, and it recovers by itself."""

    async def run():
        with postgres_running() as postgres:
            settings = settings_of(postgres.url, keys=True)
            store = open_store(postgres.url)
            key, _ = store.keys.issue("default", ["read", "events"], now=time.time())
            store.close()
            async with running(settings) as one:
                one.headers["X-API-Key"] = key
                assert await click(one, "ann", "i0001", event_id="before") == 200
                await asyncio.to_thread(postgres.stop)
                began, refused = time.monotonic(), 0
                await until(lambda: _away(one, "store"))
                while time.monotonic() - began < away_s or refused < 3:
                    assert len(await ids(one, "u0001")) == 50
                    assert await click(one, "ann", "i0002", event_id=f"away{refused}") == 503
                    refused += 1
                await asyncio.to_thread(postgres.start)
                await until(lambda: _there(one))
                assert await click(one, "ann", "i0003", event_id="after") == 200
                assert await click(one, "ann", "i0002", event_id="away0") == 200
            store = open_store(postgres.url)
            kept = [logged.event_id for logged in store.log.of_user("default", "ann")]
            store.close()
            assert kept == ["before", "after", "away0"]

    asyncio.run(run())


def test_the_database_may_be_away_for_a_moment():
    check_store_away(away_s=0.5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_database_may_be_away_for_half_a_minute():
    check_store_away(away_s=30.0)


def test_several_workers_over_postgres_need_redis():
    settings = settings_of("postgresql://db/x", workers=2)
    with pytest.raises(ConfigError, match=r"need Redis \(STEEREC_REDIS_URL\)"):
        check_shared(settings)
    check_shared(settings_of("postgresql://db/x", "redis://host", workers=2))
    check_shared(settings_of("sqlite:///x.db", workers=2))


def test_processes_over_one_file_need_no_redis_and_count_an_event_on_the_next_list():
    settings = settings_of("sqlite:///shared.db", workers=2)

    async def run():
        async with running(settings) as one, running(settings) as other:
            for n in range(20):
                user, (here, there) = f"u{n:04d}", ((one, other), (other, one))[n % 2]
                item = (await ids(there, user))[0]
                assert await click(here, user, item) == 200
                assert not await shown(there, user, item)  # at once, with no wait
            item = (await ids(other, "u0020"))[0]
            assert (await one.patch(f"/api/items/{item}", json={"hidden": True})).status_code == 200

            async def hidden():
                return not await shown(other, "u0020", item)

            assert await until(hidden) < 5 * MOST_S
            assert await click(one, "ann", "never seen before") == 200
            assert not await shown(other, "ann", "never seen before")
            assert not await ready(one)

    asyncio.run(run())


def test_processes_over_one_file_follow_each_other_without_being_asked():
    settings = settings_of("sqlite:///shared.db", workers=2)

    async def run():
        async with running(settings) as one, running(settings) as other:
            return [await lag(one, other, f"u{n:04d}") for n in range(10)]

    seconds = sorted(asyncio.run(run()))
    assert seconds[len(seconds) // 2] < 5 * MOST_S, seconds


def test_an_erasure_by_one_process_leaves_no_list_in_the_memory_of_the_other():
    settings = settings_of("sqlite:///shared.db", workers=2)
    settings = replace(settings, tuning=TuningConfig(on=False))  # the tuner would take it away

    async def run():
        async with running(settings) as one, running(settings) as other:
            await ids(other, "nobody knows me")
            held = other.live.store.shown._newest
            assert [shown.user_id for shown in held.values()] == ["nobody knows me"]

            async def gone():
                return not any(shown.user_id == "nobody knows me" for shown in held.values())

            answer = await one.delete("/api/users/nobody knows me/data")
            assert answer.status_code == 200, answer.text
            await until(gone)

    asyncio.run(run())


def test_a_list_can_be_paged_and_explained_by_another_process():
    settings = settings_of("sqlite:///shared.db", workers=2, keys=False)

    async def run():
        async with running(settings) as one, running(settings) as other:
            told = (await one.get("/api/recommend/u0001", params={"n": 3})).json()
            page = await other.get("/api/recommend/u0001", params={"n": 3, "next": told["next"]})
            assert page.status_code == 200, page.text
            first, second = ({i["item_id"] for i in t["items"]} for t in (told, page.json()))
            assert len(second) == 3
            assert not first & second
            answer = await other.get(f"/api/requests/{told['request_id']}/explain")
            assert answer.status_code == 200, answer.text

    asyncio.run(run())


def test_an_address_that_another_service_has_is_not_shared_with_it():
    with _listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with _own(taken) as one, _own(taken) as other:  # two workers of the same service
            assert one.getsockname() == other.getsockname() == taken.getsockname()
            with pytest.raises(ConfigError, match=f"port={port} cannot be listened on"):
                _listening("127.0.0.1", port)
    with _listening("127.0.0.1", port):
        pass


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_of_one_command_answer_alike_and_are_replaced(postgres_url, redis_server, tmp_path):
    """The command itself: two processes, one of them killed, then the whole told to stop."""
    save_snapshot(own_model(), tmp_path / "model", now=1.0)
    (tmp_path / "steerec.toml").write_text('[encoder]\nencoder = "none"\n')
    port = free_port()
    command = [sys.executable, "-m", "steerec", "serve", "--workers", "2", "--port", str(port)]
    shared = {"STEEREC_DATABASE_URL": postgres_url, "STEEREC_REDIS_URL": redis_server.url}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--snapshot", "model"],
            cwd=tmp_path,
            env={**os.environ, **shared},
            stdout=said,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as client:
            wait_until(
                lambda: process.poll() is not None or _answers(client), most_s=180.0, every_s=0.2
            )
            assert process.poll() is None
            wait_until(lambda: len(_workers(process)) == 2)
            _bought_is_gone_everywhere(client, "u0001")
            victim = _workers(process)[0]
            victim.kill()
            wait_until(lambda: victim.pid not in {w.pid for w in _workers(process)})
            wait_until(lambda: len(_workers(process)) == 2, most_s=180.0, every_s=0.2)
            _bought_is_gone_everywhere(client, "u0002")
        left = _workers(process)
        process.terminate()
        assert process.wait(60.0) == 0
        assert not [worker for worker in left if worker.is_running()]
        words = (tmp_path / "said").read_text("utf-8")
        assert words.count("Ready in ") == 1  # of both, and not again of the one that came later
    finally:
        process.kill()
        process.wait()


def _answers(client):
    with contextlib.suppress(httpx.TransportError):
        return client.get("/api/health/ready").json()["status"] == "ok"
    return False


def _workers(process):
    """Children that answer; multiprocessing has one more that watches over resources."""
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def _bought_is_gone_everywhere(client, user):
    asked = {"n": 50, "repeats": False}
    listed = client.get(f"/api/recommend/{user}", params=asked).json()["items"]
    item = listed[0]["item_id"]
    body = {"user_id": user, "item_id": item, "event": "purchase"}
    assert client.post("/api/events", json=body).status_code == 200
    wait_until(lambda: not any(_shows(client, user, asked, item) for _ in range(20)))


def _shows(client, user, asked, item):
    """Whether a list has the item; by a connection of its own, so that any process may answer."""
    with httpx.Client(base_url=client.base_url, timeout=60.0) as other:
        found = other.get(f"/api/recommend/{user}", params=asked).json()["items"]
    return item in [choice["item_id"] for choice in found]
