"""A sender that starts every call on its time, whether or not earlier ones have been answered.

Latency counts from the moment a call was due, so a server that stalls is charged for all who would
have called meanwhile; how late the sender itself was is told beside it.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

ANSWER_S = 20.0  # a call that is not answered by then has failed


@dataclass(frozen=True)
class Schedule:
    """Calls as (method, path) and how many of them begin in a second."""

    calls: Sequence[tuple[str, str]]
    rate: float


class _Line(asyncio.Protocol):
    """One connection with one call on its way at most."""

    def __init__(self) -> None:
        self._read, self._answer = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) >= length and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body[:length]))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server hung up"))
            self._answer.exception()  # of an idle connection nobody asks

    async def call(self, asked: bytes) -> tuple[int, bytes]:
        self._read, self._answer = b"", asyncio.get_running_loop().create_future()
        self.transport.write(asked)
        async with asyncio.timeout(ANSWER_S):
            return await self._answer


@dataclass
class Lines:
    """Connections that are kept and used again; more are made while all are busy."""

    port: int
    _free: list[_Line] = field(default_factory=list)
    n_made: int = 0

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        while self._free and self._free[-1].transport.is_closing():  # the server ends idle ones
            self._free.pop()
        line = self._free.pop() if self._free else await self._new()
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        found = await line.call(head.encode() + body)
        self._free.append(line)
        return found

    async def _new(self) -> _Line:
        self.n_made += 1
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Line, "127.0.0.1", self.port))[1]


async def _on_time(
    n: int, rate: float, begin: Callable[[int, float], Awaitable[None]]
) -> list[float]:
    """Begin n tasks at this rate; seconds by which each began late."""
    start, late, tasks = time.perf_counter() + 0.2, [], []
    for number in range(n):
        due = start + number / rate
        while (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        late.append(time.perf_counter() - due)
        tasks.append(asyncio.ensure_future(begin(number, due)))
        if number % 16 == 15:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return late


def sent(port: int, schedule: Schedule) -> dict[str, float]:
    """Milliseconds of each call from when it was due, at this rate."""
    took: list[float] = []
    failed = 0
    lines = Lines(port)

    async def one(number: int, due: float) -> None:
        nonlocal failed
        try:
            status, _ = await lines.call(*schedule.calls[number])
            failed += status != 200
        except (OSError, TimeoutError):  # counted as the wait it was
            failed += 1
        took.append(time.perf_counter() - due)

    late = uvloop.run(_on_time(len(schedule.calls), schedule.rate, one))
    return {
        **_quantiles(took),
        "calls": len(took),
        "failed": failed,
        "connections": lines.n_made,
        **{f"sender_late_{name}": value for name, value in _quantiles(late).items()},
    }


def reflected(port: int, users: Sequence[str], rate: float) -> dict[str, float]:
    """Each user takes a list, then clicks on its first item; every tenth asks again at once.

    So `rate` lists and `rate` events a second are on their way. Measured is the time from the click
    being sent until the next list is there; it counts as reflecting it if the item is gone.
    """
    took: list[float] = []
    acknowledged: list[float] = []
    wrong = failed = 0
    lines = Lines(port)

    async def one(number: int, due: float) -> None:
        nonlocal failed
        try:
            await clicked(number)
        except (OSError, TimeoutError):  # counted as failed; the server is behind
            failed += 1

    async def clicked(number: int) -> None:
        nonlocal wrong, failed
        path = f"/api/recommend/{users[number]}?repeats=false"
        status, body = await lines.call("GET", path)
        first = json.loads(body)["items"][0]["item_id"]
        event = {"user_id": users[number], "item_id": first, "event": "click"}
        event["event_id"] = f"{users[number]}-{number}"
        began = time.perf_counter()
        told, _ = await lines.call("POST", "/api/events", json.dumps(event).encode())
        acknowledged.append(time.perf_counter() - began)
        failed += (status, told) != (200, 200)
        if number % 10 == 0:
            _, body = await lines.call("GET", path)
            took.append(time.perf_counter() - began)
            wrong += first in {item["item_id"] for item in json.loads(body)["items"]}

    late = uvloop.run(_on_time(len(users), rate, one))
    return {
        **_quantiles(took),
        "measured": len(took),
        "not_reflected": wrong,
        "failed": failed,
        **{f"acknowledged_{name}": value for name, value in _quantiles(acknowledged).items()},
        **{f"sender_late_{name}": value for name, value in _quantiles(late).items()},
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) == 0:
        return {}
    told = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {k: round(float(np.quantile(seconds, q)) * 1e3, 2) for k, q in told.items()}
