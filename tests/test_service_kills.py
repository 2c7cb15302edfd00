"""Against loss: a server is killed under events, again and again, and must know all it promised."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.client import HTTPException
from itertools import count
from pathlib import Path
from urllib.error import HTTPError

import pytest

from live_servers import wait_until
from steerec.store import open_store

START = "from steerec.cli import main; main()"
SETTINGS = """
[deployment]
database_url = "{url}"

[service]
metrics_port = {metrics_port}

[encoder]
encoder = "none"
"""
SENDERS = 4
ITEMS = 50


class Server:
    """`steerec serve` from nothing, in a process of its own that can be killed."""

    def __init__(self, folder: Path):
        self.port, self.metrics_port = free_ports(2)
        self.settings = folder / "steerec.toml"
        url = f"sqlite:///{folder}/store.db"
        self.settings.write_text(SETTINGS.format(url=url, metrics_port=self.metrics_port))
        self.log = folder / "log.jsonl"

    def start(self):
        words = ["serve", "--port", str(self.port), "--config", str(self.settings)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, *words],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                self.call("/api/health/live")
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.loads(answer.read())


def free_ports(n):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


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
        threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        while len(self.acknowledged) < wanted and any(t.is_alive() for t in threads):
            time.sleep(0.001)
        self.server.kill()
        self._over.set()
        for thread in threads:
            thread.join()

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
        assert metric(server, "steerec_applied_total", what="events") == len(kept)
        again = [
            {"event_id": i, "user_id": user, "item_id": item} for i, (user, item) in kept.items()
        ]
        told = server.call("/api/events", {"events": again[:5_000]})
        assert {event["outcome"] for event in told["events"]} == {"replay"}
        assert metric(server, "steerec_applied_total", what="events") == len(kept)
    finally:
        assert server.stop() == 0


def metric(server, name, **labels):
    """The value of one metric."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = (
        line
        for line in lines
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items())
    )
    return float(line.rsplit(" ", 1)[1])


def test_five_kills_lose_no_acknowledged_event_and_count_none_twice(tmp_path):
    check_kills(tmp_path, 5, each=20)


@pytest.mark.slow
def test_fifty_kills_under_load_lose_and_double_nothing(tmp_path):
    check_kills(tmp_path, 50, each=300)


def test_a_service_told_to_stop_writes_what_waits_and_ends_well(tmp_path):
    server = Server(tmp_path)
    server.start()
    try:
        items = [{"id": f"i{n}", "attributes": {"title": f"thing {n}"}} for n in range(20)]
        server.call("/api/items", {"entries": items})
        shown = [server.call(f"/api/recommend/u{n}")["request_id"] for n in range(10)]
        # what is written is on disk at once and found soon after, by a thread of its own
        wait_until(lambda: metric(server, "steerec_items", tenant="default") == 20)
        for path in ("/metrics", "/docs", "/openapi.json"):
            with pytest.raises(HTTPError, match="404"):
                server.call(path)
    finally:
        assert server.stop() == 0
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    kept = [page.request_id for page in store.shown.iterate("default")]
    store.close()
    assert kept == shown
