"""The speed table of the protocols through the real server: one JSON file a run, and the medians.

python benchmarks/speed/serve.py --world ml-1m [--runs 5] [--seconds 30] [--rates 300 600]

Each run starts a server of its own over an empty store; no user is asked for twice in its life, so
no result cache could help. Throughput is closed loop (wrk, 16 connections), latency open loop (our
own sender, which starts every call on its time and says how late it was itself). Load generator
and server share the machine, as does whatever else runs on it: the load average stands beside, and
what a server that only takes as much CPU for a call does there under the same load (`limit.py`).
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from openloop import Schedule, reflected, sent

from steerec.engine.evaluate import commit, machine
from worlds import snapshot_of

HERE = Path(__file__).parent
CONNECTIONS = 16
WARM_UP = 300  # calls before anything is timed
START = "from steerec.cli import main; main()"
SETTINGS = """
[deployment]
database_url = "sqlite:///{folder}/store.db"

[encoder]
encoder = "hashing"

[scenarios.default]
temperature = 0.2
"""
# Each call takes the next line of a file. wrk counts to the end of its time even if the file ends
# before, so the seconds that the file lasted are written beside.
LISTS = """
local ffi = require("ffi")
ffi.cdef("typedef struct {{ long s; long us; }} moment; int gettimeofday(moment *now, void *zone);")
local moment = ffi.new("moment")
local seconds = function()
  ffi.C.gettimeofday(moment, nil)
  return tonumber(moment.s) + tonumber(moment.us) / 1e6
end
local paths = {{}}
for line in io.lines("{file}") do paths[#paths + 1] = line end
local at, began = 0, nil
request = function()
  began = began or seconds()
  at = at + 1
  if at == #paths then
    local file = io.open("{file}.seconds", "w")
    file:write(string.format("%.4f", seconds() - began))
    file:close()
  end
  if at >= #paths then wrk.thread:stop() end
  return wrk.format("GET", paths[math.min(at, #paths)])
end
"""
EVENTS = """
local users, items = {{}}, {{}}
for line in io.lines("{users}") do users[#users + 1] = line end
for line in io.lines("{items}") do items[#items + 1] = line end
local at, batch = 0, {batch}
local headers = {{["Content-Type"] = "application/json"}}
local one = function()
  at = at + 1
  return string.format('{{"event_id":"{name}-%d","user_id":"%s","item_id":"%s","event":"click"}}',
    at, users[at % #users + 1], items[(at * 7919) % #items + 1])
end
request = function()
  if batch == 1 then return wrk.format("POST", "/api/events", headers, one()) end
  local many = {{}}
  for i = 1, batch do many[i] = one() end
  return wrk.format("POST", "/api/events", headers,
    '{{"events":[' .. table.concat(many, ",") .. "]}}")
end
"""


class Server:
    """`steerec serve` in a process of its own."""

    def __init__(self, snapshot: Path, folder: Path, workers: int) -> None:
        self.folder, self.port, self.workers = folder, _free_port(), workers
        settings = folder / "steerec.toml"
        settings.write_text(SETTINGS.format(folder=folder))
        words = ["serve", "--snapshot", snapshot, "--port", self.port, "--config", settings]
        words += ["--workers", workers]
        self.began = time.perf_counter()
        with (folder / "log.jsonl").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, *map(str, words)], stdout=log, stderr=log
            )
        self.seen = psutil.Process(self.process.pid)
        self._wait()
        self.ready_s = time.perf_counter() - self.began

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def all(self) -> list[psutil.Process]:
        return [self.seen, *self.seen.children(recursive=True)]

    def cpu_s(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self.all())

    def rss_mib(self) -> int:
        return round(sum(one.memory_info().rss for one in self.all()) / 2**20)

    def kernels_s(self) -> float:
        """Seconds from the start until the compiled loops are loaded, which is waited for."""
        while (self.folder / "log.jsonl").read_text().count("kernels=") < self.workers:
            time.sleep(0.1)
            if self.process.poll() is not None or time.perf_counter() - self.began > 300:
                raise SystemExit("the compiled loops were not loaded: see service.compiled")
        return time.perf_counter() - self.began

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def _wait(self) -> None:
        while self.process.poll() is None:
            try:
                self.get("/api/health/ready")
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit((self.folder / "log.jsonl").read_text())


@contextmanager
def serving(snapshot: Path, workers: int) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(dir=HERE / "cache"))
    server = Server(snapshot, folder, workers)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextmanager
def counting(workers: int, cpu_ms: float) -> Iterator[int]:
    """As many processes that only count for each call; the port they answer at."""
    port = _free_port()
    words = [HERE / "limit.py", "--port", port, "--cpu-ms", cpu_ms]
    started = []
    try:
        for _ in range(workers):  # one after the other: each times its counting first
            command = [sys.executable, *map(str, words)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            if started[-1].stdout.readline().strip() != "ready":
                raise SystemExit("benchmarks/speed/limit.py did not start: see above")
        yield port
    finally:
        for process in started:
            process.terminate()
            process.wait(10)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Users:
    """Known users, each given out once."""

    def __init__(self, snapshot: Path, rng: np.random.Generator) -> None:
        ids = pl.read_parquet(snapshot / "dataset" / "users.parquet")["user_id"].to_list()
        self._left = [ids[i] for i in rng.permutation(len(ids))]

    def take(self, n: int) -> list[str]:
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    def __len__(self) -> int:
        return len(self._left)


def closed_loop(server: Server, script: str, seconds: float) -> dict[str, float]:
    """Calls a second by wrk, and the server's seconds of CPU for each."""
    file = server.folder / "script.lua"
    file.write_text(script)
    cpu, began = server.cpu_s(), time.perf_counter()
    how = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--timeout=20s", "-s", file]
    told = subprocess.run(
        ["wrk", *how, server.url], capture_output=True, text=True, check=True
    ).stdout
    n = int(re.search(r"(\d+) requests in", told)[1])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return {
        "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]),
        "calls": n,
        "failed": int(bad[1]) if bad else 0,
        "seconds": round(time.perf_counter() - began, 1),
        "server_cpu_ms": round((server.cpu_s() - cpu) / max(n, 1) * 1e3, 3),
    }


def lists_closed(server: Server, users: list[str], seconds: float) -> dict[str, float]:
    paths = server.folder / "paths.txt"
    paths.write_text("\n".join(f"/api/recommend/{u}" for u in users) + "\n")
    found = closed_loop(server, LISTS.format(file=paths), seconds)
    lasted = paths.with_name(f"{paths.name}.seconds")
    if lasted.exists():  # every user was asked for before the time was over
        found["seconds"] = float(lasted.read_text())
        found["per_s"] = round(len(users) / found["seconds"], 2)
    return found


def events_closed(
    server: Server, users: list[str], items: list[str], batch: int, seconds: float
) -> dict[str, float]:
    files = {"users": users, "items": items}
    for name, ids in files.items():
        (server.folder / f"{name}.txt").write_text("\n".join(ids) + "\n")
    named = {name: server.folder / f"{name}.txt" for name in files}
    script = EVENTS.format(**named, batch=batch, name=f"b{batch}")
    found = closed_loop(server, script, seconds)
    return {**found, "events_per_s": round(found["per_s"] * batch, 1)}


def one_run(snapshot: Path, given: argparse.Namespace, number: int) -> dict[str, Any]:
    rng = np.random.default_rng([given.seed, number])
    users = Users(snapshot, rng)
    items = pl.read_parquet(snapshot / "dataset" / "items.parquet")["item_id"].to_list()
    load = os.getloadavg()[0]
    with serving(snapshot, given.workers) as server:
        found: dict[str, Any] = {"ready_s": round(server.ready_s, 2)}
        found["kernels_s"] = round(server.kernels_s(), 2)
        for user in users.take(WARM_UP):
            server.get(f"/api/recommend/{user}")
        found["rss_mib"] = server.rss_mib()
        share = len(users) // (len(given.rates) + 3)  # of those left, for each part
        found["recommend_closed"] = lists_closed(server, users.take(2 * share), given.seconds)
        for rate in given.rates:
            n = min(share, int(rate * given.seconds))
            calls = Schedule([("GET", f"/api/recommend/{u}") for u in users.take(n)], rate)
            found[f"recommend_{rate}_per_s"] = sent(server.port, calls)
        n = min(len(users), int(given.reflect_rate * given.seconds))
        found["event_to_list"] = reflected(server.port, users.take(n), given.reflect_rate)
        buyers = [f"new{i}" for i in range(20_000)]
        for batch in (1, 100):
            name = "events_single" if batch == 1 else f"events_by_{batch}"
            found[name] = events_closed(server, buyers, items, batch, given.seconds / 3)
        found["rss_mib_at_the_end"] = server.rss_mib()
        found["applied"] = server.get("/api/health/ready")["status"]
    cpu_ms = found["recommend_closed"]["server_cpu_ms"]
    with counting(given.workers, cpu_ms) as port:
        for rate in given.rates:
            n = int(found[f"recommend_{rate}_per_s"]["calls"])
            found[f"limit_{rate}_per_s"] = sent(port, Schedule([("GET", "/")] * n, rate))
    found["load_average"] = [round(load, 1), round(os.getloadavg()[0], 1)]
    return found


def flat(found: dict[str, Any], before: str = "") -> dict[str, float]:
    """Every number under its path."""
    out: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            out |= flat(value, f"{before}{name}.")
        elif isinstance(value, int | float):
            out[before + name] = value
    return out


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    each = [flat(run) for run in runs]
    told = {}
    for name in each[0]:
        values = [run[name] for run in each]
        told[name] = {
            "median": round(statistics.median(values), 3), "min": min(values), "max": max(values)
        }  # fmt: skip
    return told


def written(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="ml-1m", help="100k or the like, or a set by name")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rates", type=int, nargs="+", default=[300])
    parser.add_argument("--reflect-rate", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    snapshot = snapshot_of(given.world, data_dir=given.data_dir)
    about = {
        "benchmark": "speed-serve",
        "world": given.world,
        "data_hash": json.loads((snapshot / "manifest.json").read_text())["data_hash"],
        "heads": json.loads((snapshot / "manifest.json").read_text())["heads"],
        "seed": given.seed,
        "commit": commit(),
        "machine": machine(),
        "nice": os.nice(0),
        "processes": given.workers,
        "connections": CONNECTIONS,
        "seconds": given.seconds,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": {n: version(n) for n in ("numpy", "uvicorn", "uvloop", "sqlalchemy")},
        "parser": "httptools" if _has("httptools") else "h11",
    }
    name = f"serve-{given.world}" + (f"-workers{given.workers}" if given.workers > 1 else "")
    runs = []
    for number in range(1, given.runs + 1):
        runs.append(one_run(snapshot, given, number))
        written(given.out / f"{name}-run{number}.json", {**about, "run": runs[-1]})
        print(json.dumps(runs[-1], indent=2), flush=True)
    written(given.out / f"{name}.json", {**about, "runs": summary(runs)})


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


if __name__ == "__main__":
    main()
