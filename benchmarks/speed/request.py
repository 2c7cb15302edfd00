"""Seconds of each part of a fit, and microseconds of each stage of a request, as JSON."""

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from steerec.contracts import Query
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.rules import CleanConfig
from steerec.encoders import EncoderConfig
from steerec.engine import recommender as engine
from steerec.engine.calibrate import Curves
from steerec.engine.evaluate import commit, machine, peak_rss_mib
from steerec.engine.intake import Source, take_in
from steerec.engine.model import FitConfig, Model, fit
from steerec.engine.phi import Phi
from steerec.engine.pool import Pool
from steerec.engine.reasons import Reasons
from steerec.engine.recommender import Recommender
from steerec.engine.rules import Catalogue
from steerec.engine.snapshot import load_snapshot
from steerec.engine.texts import encode_items, with_vectors

HERE = Path(__file__).parent
NOW = 1.75e9
WARM_UP = 100  # requests before those that are timed
N_REQUESTS = 2_000
STAGES = (  # where it is looked up, its name there, and what it is called in the result
    (Recommender, "_who", "user"),
    (Catalogue, "allowed", "rules"),
    (Pool, "candidates", "candidates"),
    (Phi, "__call__", "phi"),
    (engine, "contenders", "narrow"),
    (Curves, "__call__", "calibrate"),
    (Pool, "shortlist", "shortlist"),
    (Reasons, "of_all", "reasons"),
)


def generated(n_users: int, n_items: int, rng: np.random.Generator) -> Dataset:
    """A shop with long tails: 30 to 300 events a user, in a taste of their own, titles of words."""
    words = np.array([f"{a}{b}" for a in "bdfgklmnprst" for b in ("ana", "elo", "iru", "otu")])
    taste = rng.integers(0, 40, n_items)
    appeal = 1 / (1 + rng.permutation(n_items)) ** 0.8
    rows = []
    for user in range(n_users):
        n_events = int(rng.integers(30, 300))
        weight = appeal * np.where(np.isin(taste, rng.integers(0, 40, 4)), 10.0, 1.0)
        items = rng.choice(n_items, n_events, p=weight / weight.sum())
        times = np.sort(NOW - rng.random(n_events) * 3e7)
        rows += [(f"u{user}", f"i{item}", float(at)) for item, at in zip(items, times, strict=True)]
    events = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    titles = [" ".join(words[[t, *rng.integers(0, len(words), 3)]]) for t in taste]
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)], "title": titles})
    return build_dataset(events, items)


def taken_in(name: str, data_dir: Path | None, cache_dir: Path) -> Dataset:
    """A real set, cleaned."""
    source = Source(data=name, cache_dir=cache_dir, data_dir=data_dir)
    return take_in(source, CleanConfig(), now=NOW).data


def fitted(options: argparse.Namespace) -> Model:
    if options.snapshot:
        return load_snapshot(options.snapshot)
    rng = np.random.default_rng(options.seed)
    cache_dir = HERE / "cache"
    if options.data:
        data = taken_in(options.data, options.data_dir, cache_dir)
    else:
        data = generated(options.users, options.items, rng)
    encoder = EncoderConfig(encoder="hashing")
    data = with_vectors(data, encode_items(data.items, encoder, cache_dir=cache_dir))
    return fit(data, FitConfig(), rng)


class Clock:
    """Time spent in each stage of one request, the stages being wrapped where they stand."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def wrap(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                took = time.perf_counter() - began
                self.spent[stage] = self.spent.get(stage, 0.0) + took

        return timed

    def watch(self, model: Model) -> None:
        for owner, name, stage in STAGES:
            setattr(owner, name, self.wrap(getattr(owner, name), stage))
        for name, head in model.heads.items():
            head.score = self.wrap(head.score, f"head {name}")


def requests_of(model: Model, n: int, rng: np.random.Generator) -> list[Query]:
    """Known users with a history, each as seldom as possible."""
    known = model.data.user_ids[np.diff(model.data.starts) > 0]
    order = np.concatenate([rng.permutation(known) for _ in range(n // len(known) + 1)])
    return [Query(str(user)) for user in order[:n]]


def timed_requests(model: Model, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """Microseconds of whole requests without any watching, then of their stages."""
    plain = Recommender(model, np.random.default_rng(0))
    queries = requests_of(model, n + WARM_UP, rng)
    for query in queries[:WARM_UP]:
        plain.recommend(query)
    wall, cpu = np.empty((2, n))
    for row, query in enumerate(queries[WARM_UP:]):
        began, began_cpu = time.perf_counter(), time.process_time()
        plain.recommend(query)
        wall[row], cpu[row] = time.perf_counter() - began, time.process_time() - began_cpu
    watched, clock = Recommender(model, np.random.default_rng(0)), Clock()
    clock.watch(model)
    stages: dict[str, list[float]] = {}
    for query in queries[WARM_UP:]:
        clock.spent = {}
        began = time.perf_counter()
        watched.recommend(query)
        rest = time.perf_counter() - began - sum(clock.spent.values())
        for stage, took in {**clock.spent, "rest": rest}.items():
            stages.setdefault(stage, []).append(took)
    return {
        "request": summary(wall),
        "request_cpu": summary(cpu),
        "stages": {stage: summary(np.array(took)) for stage, took in sorted(stages.items())},
    }


def summary(seconds: np.ndarray) -> dict[str, float]:
    quantiles = {"median": 0.5, "p99": 0.99}
    return {k: round(float(np.quantile(seconds, q)) * 1e6, 1) for k, q in quantiles.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a set by name or a folder; else data are generated")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--snapshot", type=Path, help="skip the fit")
    parser.add_argument("--users", type=int, default=2_500)
    parser.add_argument("--items", type=int, default=3_400)
    parser.add_argument("--requests", type=int, default=N_REQUESTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    model = fitted(options)
    rng = np.random.default_rng(options.seed)
    about = {
        "benchmark": "request",
        "data": options.data or (str(options.snapshot.name) if options.snapshot else "generated"),
        "data_hash": model.data.content_hash,
        "n_items": model.data.n_items,
        "n_users": model.data.n_users,
        "n_events": model.data.n_events,
        "heads": list(model.heads),
        "seed": options.seed,
        "commit": commit(),
        "machine": machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "versions": {name: version(name) for name in ("numpy", "scipy", "implicit")},
        "load_average_before": load,
    }
    found = timed_requests(model, options.requests, rng)
    result = {
        **about,
        "fit_seconds": {name: round(took, 2) for name, took in model.seconds.items()},
        "requests": options.requests,
        "microseconds": found,
        "peak_rss_mib": round(peak_rss_mib()),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
