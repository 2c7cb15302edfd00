"""What a request costs as items and users grow, and what the index of candidates finds, as JSON.

python benchmarks/speed/scale.py [--sizes 10k 100k 1000k] [--seed 0]

Each size is a generated shop with as many users as items (`worlds.shop`) under the same heads,
those that are fitted on a million items in minutes. Sizes run one after the other in processes of
their own, so that peak memory is each one's own. Recall compares the index, whose numbers are
int8, with the same search over float32.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from steerec.contracts import History, Query
from steerec.engine.evaluate import commit, machine, peak_rss_mib
from steerec.engine.fused import Fused, FusedConfig
from steerec.engine.model import Model
from steerec.engine.phi import Phi
from steerec.engine.recommender import Recommender
from steerec.engine.snapshot import load_snapshot
from steerec.heads import load_head
from worlds import NOW, number_of, shop, snapshot_of

HERE = Path(__file__).parent
HEADS = ("trending", "transitions", "als")
FOUND = 100  # items asked of the index
N_SEARCHES = 100
DIMS = 64


def index_of(n_items: int, rng: np.random.Generator) -> tuple[Fused, np.ndarray]:
    """An index of so many items, and the float32 numbers it was made of.

    Items lie around 200 tastes, and later directions matter less, as those of a fitted one do.
    """
    fading = (1 + np.arange(DIMS)) ** -0.7
    tastes = rng.normal(size=(200, DIMS))
    places = tastes[rng.integers(0, 200, n_items)] + 0.7 * rng.normal(size=(n_items, DIMS))
    places = (places * fading).astype(np.float32)
    nothing = np.zeros((0, DIMS), np.int8), np.zeros(0, np.float32)
    asks = np.vstack([np.eye(DIMS), np.zeros((1, DIMS))]).astype(np.float32)
    empty = Fused(FusedConfig(dims=DIMS), *nothing, asks, np.eye(DIMS, dtype=np.float32))
    return empty.with_items(places), places


def searched(n_items: int, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds of a search, and the share of the exact first items that it finds."""
    index, places = index_of(n_items, rng)
    allowed = np.ones(n_items, bool)
    took, recall = [], []
    for _ in range(N_SEARCHES):
        history = History.of(rng.integers(0, n_items, 10))
        began = time.perf_counter()
        found = index.search(history, FOUND, allowed)
        took.append(time.perf_counter() - began)
        exact = np.argpartition(-(places @ index.users([history])[0]), FOUND)[:FOUND]
        recall.append(len(np.intersect1d(found, exact)) / FOUND)
    return {
        **in_ms(took),
        "recall_at_100": round(float(np.mean(recall)), 4),
        "recall_at_100_least": round(float(np.min(recall)), 4),
        "mib": round((index.codes.nbytes + index.step.nbytes) / 2**20, 1),
    }


def model_of(n_items: int, seed: int) -> tuple[Model, dict[str, float]]:
    """A shop of this size under HEADS, with curves and weights of the one of 2,000 items."""
    rng = np.random.default_rng(seed)
    small = load_snapshot(snapshot_of("2k", seed=seed))
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    data = shop(n_items, rng)
    seconds["data"] = round(time.perf_counter() - began, 1)
    heads = {}
    for name in HEADS:
        began = time.perf_counter()
        kind = load_head(name)
        config = getattr(import_module(kind.__module__), f"{kind.__name__}Config")
        heads[name] = kind.fit(data, config(), rng)
        seconds[name] = round(time.perf_counter() - began, 1)
    rows = [small.strategy.heads.index(name) for name in HEADS]
    theta = small.strategy.theta[rows]
    phi = Phi.fit(data, small.phi.config)
    kept = [f in phi.names for f in small.strategy.features]
    strategy = replace(small.strategy, heads=HEADS, features=phi.names, theta=theta[:, kept])
    curves = {name: small.calibrations[name] for name in HEADS}
    model = Model(data, heads, curves, phi, strategy, small.repeats)
    return replace(model, fused=index_of(n_items, rng)[0]), seconds


def requested(model: Model, n: int, rng: np.random.Generator) -> dict[str, float]:
    """Milliseconds of whole requests, each of another user."""
    answering = Recommender(model, rng)
    users = model.data.user_ids[rng.permutation(model.data.n_users)[: n + 20]]
    took = []
    for user in users:
        began = time.perf_counter()
        answering.recommend(Query(str(user), now=NOW))
        took.append(time.perf_counter() - began)
    return in_ms(took[20:])


def in_ms(seconds: list[float]) -> dict[str, float]:
    told = {"p50_ms": 0.5, "p99_ms": 0.99}
    return {name: round(float(np.quantile(seconds, q)) * 1e3, 2) for name, q in told.items()}


def one_size(size: str, seed: int, n: int) -> dict[str, Any]:
    n_items, rng = number_of(size), np.random.default_rng(seed)
    found: dict[str, Any] = {"n_items": n_items, "n_users": n_items}
    found["index"] = searched(n_items, rng)
    model, seconds = model_of(n_items, seed)
    found |= {"n_events": model.data.n_events, "seconds": seconds}
    found["peak_rss_mib_of_the_fit"] = round(peak_rss_mib())
    found["request"] = requested(model, n, rng)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["10k", "100k", "1000k"])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale.json")
    parser.add_argument("--only", help="one size, in this process, printed")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(one_size(given.only, given.seed, given.requests)))
        return
    about = {"benchmark": "speed-scale", "heads": HEADS, "seed": given.seed, "commit": commit()}
    about |= {"machine": machine(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    sizes = {}
    for size in given.sizes:
        load = round(os.getloadavg()[0], 1)
        words = ["--only", size, "--seed", str(given.seed), "--requests", str(given.requests)]
        told = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, check=True
        ).stdout
        sizes[size] = {**json.loads(told), "load_average": [load, round(os.getloadavg()[0], 1)]}
        print(json.dumps(sizes[size]), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**about, "sizes": sizes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
