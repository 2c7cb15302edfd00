"""What the machine itself allows, whatever the server: stalls, and tails of one that only counts.

    python benchmarks/speed/machine.py [--seconds 8] [--rates 200 300] [--cpu-ms 1 2.5 3]

A loop that only adds numbers is timed chunk by chunk: a chunk that takes twice as long as the
median one or more is slow, and slow ones with less than a tenth of a second between them are one
stall. Then calls come at a fixed rate to a server that only counts (`limit.py`).
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from limit import counted
from openloop import Schedule, sent
from serve import counting, written

from steerec.engine.evaluate import commit, machine

RESULTS = Path(__file__).parent / "results"
CHUNK = 20_000  # numbers added
SLOW = 2.0  # times the median
APART_S = 0.1


def stalls(seconds: float) -> dict[str, Any]:
    """How often, for how long and by how much a loop is slowed that nothing disturbs."""
    began, took = [time.perf_counter()], list[float]()
    while began[-1] - began[0] < seconds:
        counted(CHUNK)
        began.append(time.perf_counter())
        took.append(began[-1] - began[-2])
    usual = statistics.median(took)
    slow = [(at, one) for at, one in zip(began, took, strict=False) if one >= SLOW * usual]
    firsts = [at for (before, _), (at, _) in zip([(-1.0, 0), *slow], slow, strict=False)
              if at - before > APART_S]  # fmt: skip
    return {
        "seconds": seconds,
        "chunk_ms": round(usual * 1e3, 3),
        "stalls": len(firsts),
        "slow_share": round(sum(one for _, one in slow) / seconds, 4),
        "slowest": round(max(took) / usual, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rates", type=int, nargs="+", default=[200, 300])
    parser.add_argument("--cpu-ms", type=float, nargs="+", default=[1.0, 2.5, 3.0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, Any] = {"alone": stalls(3 * given.seconds), "counting": []}
    for cpu_ms in given.cpu_ms:
        with counting(1, cpu_ms) as port:
            for rate in given.rates:
                calls = Schedule([("GET", "/")] * int(rate * given.seconds), rate)
                told = {"cpu_ms": cpu_ms, "rate": rate, **sent(port, calls)}
                found["counting"].append(told)
    about = {"benchmark": "speed-machine", "commit": commit(), "machine": machine()}
    about["load_average_before"] = round(load, 1)
    about["finished"] = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
    written(given.out / "machine.json", {**about, **found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
