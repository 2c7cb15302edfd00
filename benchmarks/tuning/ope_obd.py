"""P6 on the Open Bandit Dataset: clicks of each logged policy from the other's log; no goal.

    python benchmarks/tuning/ope_obd.py

`bts` was not logged as a function: as a target it is the share of each item at each position in its
own log. One position of a list is one slate of length 1 here, as the set does not join them.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from steerec.engine.evaluate import commit, machine
from steerec.tuning.ope.choice import automatic
from steerec.tuning.ope.estimators import ESTIMATORS, estimate, prepare, read
from steerec.tuning.ope.interval import interval
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import softmax_policy

RESULTS = Path(__file__).parent / "results"
POSITIONS = 3


def slate_log(rows: pl.DataFrame, numbers: dict[str, int]) -> SlateLog:
    """Rows of one policy as slates of length 1."""
    affinity = np.array(rows["user_item_affinity"].to_list(), np.float32)
    at = rows["position"].to_numpy() - 1
    return SlateLog(
        shown=np.array([[numbers[i]] for i in rows["item_id"]]),
        propensity=rows["propensity"].to_numpy()[:, None],
        reward=(rows["event"] == "click").to_numpy().astype(float)[:, None],
        z=affinity[:, :, None],
        phi=np.eye(POSITIONS)[at],
    )


def policy_scores(rows: pl.DataFrame, log: SlateLog, numbers: dict[str, int]) -> np.ndarray:
    """Log share of each item at each position of these rows, for the positions of `log`."""
    counts = np.full((POSITIONS, len(numbers)), 0.5)
    items = [numbers[i] for i in rows["item_id"]]
    np.add.at(counts, (rows["position"].to_numpy() - 1, items), 1)
    return np.log(counts / counts.sum(axis=1, keepdims=True))[log.phi.argmax(axis=1)]


def compare(rows: pl.DataFrame, campaign: str, source: str, target: str) -> dict[str, Any]:
    """Estimates of `target` from the log of `source`, beside what `target` earned."""
    of = rows.filter(pl.col("campaign") == campaign)
    names = sorted(of["item_id"].unique(), key=lambda name: int(name.split(":")[1]))
    numbers = {name: number for number, name in enumerate(names)}
    mine = of.filter(pl.col("behavior_policy") == source)
    theirs = of.filter(pl.col("behavior_policy") == target)
    log = slate_log(mine, numbers)
    scores = (
        np.zeros(log.z.shape[:2]) if target == "random" else policy_scores(theirs, log, numbers)
    )
    evidence = prepare(log, np.random.default_rng(0))
    reading = read(evidence, softmax_policy(log, scores, draws=64))
    clicks = (theirs["event"] == "click").to_numpy().astype(float)
    found = [
        estimate(name, evidence, reading, parameter=100.0)
        for name, recipe in ESTIMATORS.items()
        if recipe.kind in reading.weights
    ]
    auto = automatic(evidence, reading)
    told = {one.name: _told(one.value, one.terms, clicks.mean()) for one in found}
    told["automatic"] = {"chosen": auto.name, **_told(auto.value, auto.terms, clicks.mean())}
    return {
        "campaign": campaign,
        "log": source,
        "target": target,
        "truth": clicks.mean(),
        "truth_ci": list(interval(clicks)),
        "clicks": int(clicks.sum()),
        "ess": found[0].ess if found[0].name != "dm" else found[1].ess,
        "unsupported": reading.unsupported,
        "estimates": told,
    }


def _told(value: float, terms: np.ndarray, truth: float) -> dict[str, Any]:
    return {
        "value": round(value, 6),
        "ci": [round(x, 6) for x in interval(terms)],
        "relative_error": round(abs(value / truth - 1), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    path = Path(options.data_dir) / "obd" / "events.parquet"
    rows = pl.read_parquet(path)
    runs = [
        compare(rows, campaign, *pair)
        for campaign in ("men", "women")
        for pair in (("random", "bts"), ("bts", "random"))
    ]
    result = {
        "id": "P6-obd",
        "commit": commit(),
        "machine": machine(),
        "data_hash": f"{int(rows.hash_rows(seed=0).sum()):x}",
        "seed": 0,
        "finished": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "runs": runs,
    }
    options.out.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False)
    (options.out / "P6-obd.json").write_text(text + "\n", "utf-8")
    for run in runs:
        best = {n: e["relative_error"] for n, e in run["estimates"].items()}
        print(run["campaign"], run["log"], "→", run["target"], round(run["truth"], 5), best)


if __name__ == "__main__":
    main()
