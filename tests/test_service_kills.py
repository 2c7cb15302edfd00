"""Against loss: a server is killed under events, again and again, and must know all it promised."""

import contextlib
import json
import threading
from collections import Counter
from http.client import HTTPException
from itertools import count
from urllib.error import HTTPError

import pytest

from live_servers import wait_until
from served import Server
from steerec.store import open_store

SENDERS = 4
ITEMS = 50


class Senders:
    """Threads that send events while the server lives, and know which were acknowledged."""

    def __init__(self, server: Server):
        self.server, self.numbers = server, count()
        self.acknowledged: dict[str, tuple[str, str]] = {}
        self.outcomes: Counter[str] = Counter()
        self._over = threading.Event()

    def while_it_lives(self, wanted: int):
        """Send until so many more are acknowledged; then kill while sending goes on."""
        self._over.clear()
        wanted += len(self.acknowledged)
        threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(self.acknowledged) >= wanted)
        finally:
            self.server.kill()
            self._over.set()
            for thread in threads:
                thread.join(30)

    def _send(self):
        while not self._over.is_set():
            numbers = [next(self.numbers) for _ in range(3)]
            batch = [
                {"event_id": f"e{n}", "user_id": f"u{n % 7}", "item_id": f"i{n % ITEMS}"}
                for n in numbers
            ]
            with contextlib.suppress(OSError, HTTPException):  # killed while it was asked
                told = self.server.call("/api/events", {"events": batch})["events"]
                for event, was in zip(batch, told, strict=True):
                    self.acknowledged[event["event_id"]] = (event["user_id"], event["item_id"])
                    self.outcomes[was["outcome"]] += 1
                if numbers[0] % 5 == 0:  # again, as a sender does who missed the answer
                    self.server.call("/api/events", {"events": batch})


def stored(folder):
    """Event id → user and item, of all that the log holds; no id twice, no place left out."""
    store = open_store(f"sqlite:///{folder}/store.db")
    try:
        log = list(store.log.iterate("default"))
    finally:
        store.close()
    ids = Counter(event.event_id for event in log)
    assert not [event_id for event_id, n in ids.items() if n > 1]
    return {e.event_id: (e.event.user_id, e.event.item_id) for e in log}


def check_kills(folder, n_kills, each):
    server = Server(folder)
    senders = Senders(server)
    for _ in range(n_kills):
        server.start()
        senders.while_it_lives(each)
    server.start()
    try:
        promised, kept = senders.acknowledged, stored(folder)
        assert len(promised) >= n_kills * each
        assert set(senders.outcomes) == {"new"}
        assert promised.items() <= kept.items()
        counted = server.call("/api/users/u0/data")["records"]
        mine = {i for i, (user, _) in kept.items() if user == "u0"}
        assert {r["event_id"] for r in counted if "event_id" in r} == mine
        # what the restarted engine counts is what the log holds, each event once
        assert server.metric("steerec_applied_total", what="events") == len(kept)
        again = [
            {"event_id": i, "user_id": user, "item_id": item} for i, (user, item) in kept.items()
        ]
        told = server.call("/api/events", {"events": again[:5_000]})
        assert {event["outcome"] for event in told["events"]} == {"replay"}
        assert server.metric("steerec_applied_total", what="events") == len(kept)
    finally:
        assert server.stop() == 0


@pytest.mark.timeout(600)
def test_five_kills_lose_no_acknowledged_event_and_count_none_twice(tmp_path):
    check_kills(tmp_path, 5, each=20)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_fifty_kills_under_load_lose_and_double_nothing(tmp_path):
    check_kills(tmp_path, 50, each=300)


def _found(server, words):
    return [entry["id"] for entry in server.call(f"/api/items?q={words}")["entries"]]


STUCK = """
from threading import Event
from steerec.encoders.hashing import HashingEncoder

class Stuck(HashingEncoder):
    def encode(self, texts):
        if texts == ["warm"]:
            Event().wait()
        return super().encode(texts)
"""


def test_a_service_told_to_stop_writes_what_waits_and_ends_well(tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)  # its model is being loaded all the while
    server = Server(tmp_path, encoder="stuck:Stuck")
    server.start()
    try:
        items = [{"id": f"i{n}", "attributes": {"title": f"thing {n}"}} for n in range(20)]
        server.call("/api/items", {"entries": items})
        shown = [server.call(f"/api/recommend/u{n}")["request_id"] for n in range(10)]
        # what is written is on disk at once and found within a second, here with slack
        wait_until(lambda: server.metric("steerec_items", tenant="default") == 20)
        server.call("/api/items", {"id": "new", "attributes": {"title": "a kite of ricepaper"}})
        wait_until(lambda: _found(server, "ricepaper") == ["new"], most_s=5.0)
        answer = server.call("/api/recommend", {"about": "ricepaper", "n": 1})
        assert [item["item_id"] for item in answer["items"]] == ["new"]
        shown.append(answer["request_id"])
        for path in ("/metrics", "/docs", "/openapi.json"):
            with pytest.raises(HTTPError, match="404") as refused:
                server.call(path)
            detail = json.loads(refused.value.read())["detail"]
            assert detail == f"nothing is at {path}: see /docs at the service's metrics_port"
    finally:
        assert server.stop() == 0
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    kept = [page.request_id for page in store.shown.iterate("default")]
    store.close()
    assert kept == shown
