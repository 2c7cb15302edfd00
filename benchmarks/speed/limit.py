"""A server that does nothing but take CPU, so that a figure can be held against the machine's own.

    python benchmarks/speed/limit.py --port 8010 --cpu-ms 2.5

Each call is answered after counting to a number that takes so long when the machine is at rest. No
store, threads, collector or other work stands in its way: what it cannot reach under a load, no
server can that takes as much CPU for a call.
"""

import argparse
import asyncio
import gc
import statistics
import time
from typing import Any

import uvloop

BODY = b"x" * 2_500  # about as long as a list of ten
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
TRIED = 200  # times that the counting is timed


def counted(upto: int) -> int:
    found = 0
    for number in range(upto):
        found += number & 1
    return found


def upto_of(cpu_ms: float) -> int:
    """A number that takes this much CPU to count to, at the median."""
    sample, took = 20_000, []
    for _ in range(TRIED):
        began = time.thread_time()
        counted(sample)
        took.append(time.thread_time() - began)
    return max(1, round(sample * cpu_ms / 1e3 / statistics.median(took)))


class Answering(asyncio.Protocol):
    """One connection; calls without a body."""

    def __init__(self, upto: int) -> None:
        self._upto, self._read = upto, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            _, _, self._read = self._read.partition(b"\r\n\r\n")
            counted(self._upto)
            self._transport.write(ANSWER)


async def answer(port: int, upto: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Answering(upto), "127.0.0.1", port, reuse_port=True, backlog=2_048
    )
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cpu-ms", type=float, required=True, help="for each call")
    given = parser.parse_args()
    gc.disable()
    uvloop.run(answer(given.port, upto_of(given.cpu_ms)))


if __name__ == "__main__":
    main()
