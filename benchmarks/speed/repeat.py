"""What kept scores cost a first list and save a second one: CPU of one thread, as JSON.

python benchmarks/speed/repeat.py --snapshot FOLDER [--users 600] [--rest-ms 2]

With a rest before each list, as between calls that come one by one, caches are others' by then.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from steerec import kernels
from steerec.contracts import Query
from steerec.engine.evaluate import commit, machine
from steerec.engine.model import Model
from steerec.engine.recommender import Recommender
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy, serve
from steerec.engine.snapshot import load_snapshot

MB = {"without": 0.0, "kept": 64.0}
POLICY = Policy(draw=SamplerConfig(temperature=0.1))
WARM_UP = 200
ROUNDS = 3  # of lists asked again


def spent(recommender: Recommender, user: str, now: float, number: int) -> float:
    """Milliseconds of this thread's CPU for one list."""
    began = time.thread_time()
    serve(recommender, Query(user, now=now), POLICY, request_id=f"{number:016x}", now=now)
    return 1e3 * (time.thread_time() - began)


def measured(
    model: Model, users: list[str], now: float, rest_s: float
) -> dict[str, dict[str, list[float]]]:
    """Of users in turn: each meets what others leave in the cache of the processor."""
    made = {
        name: Recommender(model, compiled=True, score_cache_mb=size) for name, size in MB.items()
    }
    for number, user in enumerate(users[:WARM_UP]):
        for recommender in made.values():
            spent(recommender, user, now, number)
    took: dict[str, dict[str, list[float]]] = {
        when: {name: [] for name in MB} for when in ("first", "again")
    }
    for number, user in enumerate(users[WARM_UP:]):
        for name in sorted(MB, reverse=bool(number % 2)):
            time.sleep(rest_s)
            took["first"][name].append(spent(made[name], user, now, number))
    for number in range(ROUNDS):
        for name, recommender in made.items():
            for user in users[WARM_UP:]:
                time.sleep(rest_s)
                took["again"][name].append(spent(recommender, user, now, number))
    kept = made["kept"].remembered
    assert kept.hits == ROUNDS * len(users[WARM_UP:]), "some made room: ask for fewer users"
    return took


def summary(took: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and what keeping scores adds to them."""
    told: dict[str, Any] = {name: round(float(np.median(ms)), 3) for name, ms in took.items()}
    return {**told, "change": round(told["kept"] / told["without"] - 1, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshot", type=Path, required=True)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--rest-ms", type=float, default=0.0, help="before each list")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    kernels.load(Path(tempfile.gettempdir()) / "steerec-kernels")
    model = load_snapshot(options.snapshot)
    gc.collect()
    gc.freeze()
    rng = np.random.default_rng(options.seed)
    known = model.data.user_ids[np.diff(model.data.starts) > 0]
    users = [str(user) for user in rng.permutation(known)[: options.users]]
    took = measured(model, users, float(np.nanmax(model.data.time)) + 60.0, options.rest_ms / 1e3)
    result = {
        "benchmark": "repeat",
        "data": options.snapshot.name,
        "data_hash": model.data.content_hash,
        "n_items": model.data.n_items,
        "heads": list(model.heads),
        "seed": options.seed,
        "users": len(users) - WARM_UP,
        "rest_ms": options.rest_ms,
        "commit": commit(),
        "machine": machine(),
        "load_average_before": load,
        "median_cpu_ms": {when: summary(one) for when, one in took.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
