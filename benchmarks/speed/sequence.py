"""What a network of the next item costs a list and an event: CPU of one thread, as JSON.

python benchmarks/speed/sequence.py [--world ml-1m] [--head sequence]

One epoch is enough of training here: it decides what is said, not what saying it costs.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerec.contracts import History
from steerec.data.dataset import Dataset
from steerec.engine.evaluate import commit, machine
from steerec.engine.snapshot import load_snapshot
from steerec.heads import load_head
from worlds import snapshot_of

HERE = Path(__file__).parent
WARM_UP, CALLS = 50, 500
GOALS_MS = {"a list, state cached": 0.2, "a list, after an event": 4.0}


def newest(history: History) -> tuple[History, History]:
    """A history without its last event, and that event."""
    last = len(history) - 1
    return history.slice(0, last), history.slice(last, last + 1)


def spent(calls: list[Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of this thread's CPU for each call."""
    took = []
    for call in calls:
        began = time.thread_time()
        call()
        took.append(1e3 * (time.thread_time() - began))
    told = np.quantile(took[WARM_UP:], [0.5, 0.9])
    return {"p50_ms": round(float(told[0]), 3), "p90_ms": round(float(told[1]), 3)}


def measured(head: Any, data: Dataset, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Of users with at least 20 events, each once."""
    users = np.flatnonzero(np.diff(data.starts) >= 20)
    users = rng.choice(users, min(WARM_UP + CALLS, len(users)), replace=False)
    pairs = [newest(data.history(int(user))) for user in users]
    now = np.array([float(data.time.max()) if data.has_times else np.nan])
    states = [head.start(before) for before, _ in pairs]
    for state in states:
        head.score([state], None, now)  # from now on what it read is cached
    cached = [lambda state=state: head.score([state], None, now) for state in states]

    def after(state: Any, event: History) -> None:
        head.score([head.update(state, event)], None, now)

    fresh = [
        lambda state=state, event=event: after(state, event)
        for state, (_, event) in zip(states, pairs, strict=True)
    ]
    lengths = np.minimum([len(before) for before, _ in pairs], head.config.length)
    return {
        "a list, state cached": spent(cached),
        "a list, after an event": spent(fresh),
        "events read": {"median": float(np.median(lengths)), "most": int(lengths.max())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", default="ml-1m", help="as of serve.py")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--head", default="sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    snapshot = snapshot_of(given.world, data_dir=given.data_dir)
    data, kind = load_snapshot(snapshot).data, load_head(given.head)
    config = getattr(import_module(kind.__module__), f"{kind.__name__}Config")
    rng = np.random.default_rng(given.seed)
    head = kind.fit(data, config(epochs=1), rng)
    torch.set_num_threads(1)
    found = measured(head, data, rng)
    result = {
        "benchmark": "speed-sequence",
        "world": given.world,
        "data_hash": data.content_hash,
        "head": given.head,
        "width": head.config.width,
        "length": head.config.length,
        "seed": given.seed,
        "commit": commit(),
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "goals_ms": GOALS_MS,
        "cpu": found,
    }
    file = given.out / f"{given.head}-{given.world}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
