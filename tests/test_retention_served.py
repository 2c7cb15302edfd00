"""Bounded disk and memory: far more events through a service than it may keep."""

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field

import numpy as np
import psutil
import pytest

from served import Server
from service_worlds import opened
from steerec.store.retention import RetentionConfig

USERS, ITEMS = 400, 500
MIB = 2**20


def batches(n_events, size, rng):
    """Events of a few people over and over, so that histories reach their bound."""
    numbers = itertools.count()
    for _ in range(n_events // size):
        users, items = rng.integers(0, USERS, size), rng.zipf(1.3, size) % ITEMS
        yield [
            {"event_id": f"e{next(numbers)}", "user_id": f"u{user}", "item_id": f"i{item}"}
            for user, item in zip(users.tolist(), items.tolist(), strict=True)
        ]


def test_disk_stays_bounded_while_events_pass_through(sqlite_url, loop):
    """Five times what is kept; the file does not grow after the first two."""
    limits = RetentionConfig(events=2_000, impressions=50)
    shop = opened(sqlite_url, loop=loop, fitted=False, retention=limits)
    store, sizes = shop.service.store, []
    for batch in batches(10_000, 1_000, np.random.default_rng(1)):
        assert shop.post("/api/events", {"events": batch}).json()["accepted"] == 1_000
        for user in range(20):
            shop.ids(f"u{user}", n=5)
        shop.settle()
        while store.trim("default", limits, now=shop.clock()).more:
            pass
        sizes.append(store.database.n_bytes())
    assert store.log.count("default") == 2_000
    assert len(list(store.shown.iterate("default"))) == 50
    assert max(sizes[4:]) <= 1.1 * max(sizes[:4])
    # what was trimmed was counted all the same, once
    assert shop.tenant().live.applied["events"] == 10_000
    shop.close()


def test_a_service_trims_by_itself(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, fitted=False, retention=RetentionConfig(events=5))
    log, (batch,) = shop.service.store.log, batches(20, 20, np.random.default_rng(1))
    assert shop.post("/api/events", {"events": batch}).json()["accepted"] == 20
    (trim,) = (run for run in shop.service.beside if getattr(run, "__name__", "") == "trim")

    async def trimmed():
        running = asyncio.ensure_future(trim())
        while log.count("default") > 5:
            await asyncio.sleep(0.01)
        running.cancel()

    loop.run_until_complete(asyncio.wait_for(trimmed(), 60.0))
    assert [one.event_id for one in log.iterate("default")] == [e["event_id"] for e in batch[15:]]
    shop.close()


@dataclass
class Watch:
    """Size of a server's process and of its store, by events sent."""

    server: Server
    rows: list = field(default_factory=list)

    def look(self, n_events, began):
        process = psutil.Process(self.server.process.pid)
        files = list(self.server.folder.glob("store.db*"))
        self.rows.append(
            {
                "events": n_events,
                "seconds": round(time.monotonic() - began, 1),
                "rss_mib": round(process.memory_info().rss / MIB, 1),
                "disk_mib": round(sum(file.stat().st_size for file in files) / MIB, 1),
            }
        )
        print(json.dumps(self.rows[-1]), flush=True)  # noqa: T201  figures to read

    def most(self, what, start, end):
        return max(row[what] for row in self.rows if start <= row["events"] <= end)


LIMITS = """
[service.retention]
events = 200_000
impressions = 20_000

[tuning.reward]
most_kept = 2_000
"""


@pytest.mark.slow
@pytest.mark.timeout(3 * 3_600)
def test_five_million_events_leave_disk_and_memory_bounded(tmp_path):
    """Through a real process, over HTTP, trimmed by itself once a minute."""
    server = Server(tmp_path, service=LIMITS)
    server.start()
    watch, began, n_sent = Watch(server), time.monotonic(), 0
    try:
        for batch in batches(5_000_000, 10_000, np.random.default_rng(1)):
            told = server.call("/api/events", {"events": batch}, timeout_s=120)
            assert told["accepted"] == len(batch)
            n_sent += len(batch)
            if n_sent % 250_000 == 0:
                for user in range(USERS):
                    server.call(f"/api/recommend/u{user}")
                watch.look(n_sent, began)
        assert server.metric("steerec_applied_total", what="events") == 5_000_000
    finally:
        assert server.stop() == 0
    # Histories are at their bound of 5,000 events each from 2 million on, slates that wait for late
    # events at theirs from 1.25 million on.
    assert watch.most("rss_mib", 4e6, 5e6) < 1.1 * watch.most("rss_mib", 2e6, 3e6)
    assert watch.most("disk_mib", 4e6, 5e6) < 1.2 * watch.most("disk_mib", 1e6, 3e6)
