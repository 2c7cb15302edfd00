"""Events a second that a start reads back from the log, over a model that does not hold them.

python benchmarks/speed/replay.py --world ml-1m [--events 100000] [--runs 5]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from steerec.contracts import Event
from steerec.engine.evaluate import commit, machine, peak_rss_mib
from steerec.engine.live import Live
from steerec.engine.live_config import LiveConfig
from steerec.engine.seeding import write_items
from steerec.engine.snapshot import load_snapshot
from steerec.store import Store, open_store
from steerec.store.log import LoggedEvent
from worlds import NOW, snapshot_of

HERE = Path(__file__).parent
TENANT = "default"
BATCH = 2_000


def write_events(store: Store, users: list[str], items: list[str], n: int, seed: int) -> None:
    """A second between two events, users and items at random."""
    rng = np.random.default_rng(seed)
    who, what = rng.integers(0, len(users), n).tolist(), rng.integers(0, len(items), n).tolist()
    events = [
        LoggedEvent(f"e{at}", Event(users[u], items[i], "view", None, NOW + at))
        for at, (u, i) in enumerate(zip(who, what, strict=True))
    ]
    for start in range(0, n, BATCH):
        store.log.append(TENANT, events[start : start + BATCH], now=NOW + n)


def once(snapshot: Path, n: int, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=HERE / "cache") as folder:
        store = open_store(f"sqlite:///{folder}/store.db")
        try:
            model = load_snapshot(snapshot)
            write_items(store, TENANT, model, now=NOW)
            found = {"items_s": started(store, model)}
            users = [str(user) for user in model.data.user_ids[:20_000]]
            write_events(store, users, model.data.item_ids.tolist(), n, seed)
            found["with_events_s"] = started(store, load_snapshot(snapshot))
        finally:
            store.close()
    found["events_per_s"] = n / (found["with_events_s"] - found["items_s"])
    return {name: round(value, 2) for name, value in found.items()}


def started(store: Store, model: object) -> float:
    """Seconds until the engine has taken in all that the store holds."""
    began = time.perf_counter()
    Live(TENANT, store, model, LiveConfig(), now=NOW + 1e7)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="ml-1m", help="100k or the like, or a set by name")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    snapshot = snapshot_of(given.world, data_dir=given.data_dir)
    runs = [once(snapshot, given.events, given.seed + number) for number in range(given.runs)]
    result = {
        "benchmark": "speed-replay",
        "world": given.world,
        "events": given.events,
        "seed": given.seed,
        "commit": commit(),
        "machine": machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_average": [load, round(os.getloadavg()[0], 1)],
        "peak_rss_mib": round(peak_rss_mib()),
        "median": {name: statistics.median(run[name] for run in runs) for name in runs[0]},
        "runs": runs,
    }
    text = json.dumps(result, indent=2) + "\n"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"replay-{given.world}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
