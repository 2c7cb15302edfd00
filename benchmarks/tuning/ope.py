"""P6: off-policy estimates against the truth, in the worlds of steerec.simulation.

    python benchmarks/tuning/ope.py --world jester --slates 10000 --pairs 200
    python benchmarks/tuning/ope.py --world coat        # a report: 290 users, 16 coats each
    python benchmarks/tuning/ope.py --figure

A run goes on from what is stored, so that it may be stopped at any time. Each pair of policies has
a log of its own; pairs below 300 and from 100,000 on were used to settle the estimators and are
never reported.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ope_worlds import Table, digest, load_table

from steerec import kernels
from steerec.engine.evaluate import commit, machine
from steerec.simulation.world import examined
from steerec.tuning.ope.choice import automatic, bounds, candidates, slope
from steerec.tuning.ope.estimators import ESTIMATORS, Estimate, prepare, read
from steerec.tuning.ope.interval import standard_error
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import conditional, softmax_policy

RESULTS = Path(__file__).parent / "results"
TRUTH_DRAWS = 8
STORE_EVERY = 10  # pairs, so that a run that is cut tells too
TUNED = ("switch_dr", "dros", "place_dros")
BEST_OF = tuple(ESTIMATORS)  # fixed estimators that the automatic choice is held against


@dataclass(frozen=True)
class Pair:
    """Scores of two policies for every visitor."""

    logging: np.ndarray
    target: np.ndarray


def draw_pair(table: Table, rng: np.random.Generator) -> Pair:
    """Two blends around the fitted one, from near to far, with a sharpness each."""
    spread = table.z[table.allowed].astype(np.float64).std(axis=0)

    def blend() -> np.ndarray:
        return table.w + rng.normal(0, 0.5, len(spread)) / spread

    logging, other, share = blend(), blend(), rng.uniform(0.1, 1.0)
    target = (1 - share) * logging + share * other
    return Pair(*(scores_of(table, w, rng.uniform(0.5, 1.5)) for w in (logging, target)))


def scores_of(table: Table, w: np.ndarray, sharpness: float) -> np.ndarray:
    """Scores whose standard deviation within a pool is `sharpness` on average."""
    raw = np.einsum("nph,nh->np", table.z.astype(np.float32), w.astype(np.float32))
    raw = np.where(table.allowed, raw, np.nan).astype(np.float64)
    raw *= sharpness / np.nanmean(np.nanstd(raw, axis=1))
    return np.where(table.allowed, raw, -np.inf)


def draw_slates(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_exponential(scores.shape, dtype=np.float32)
    keys = scores.astype(np.float32) - np.log(noise + np.float32(1e-30))
    k = min(10, scores.shape[1] // 5)
    edge = np.partition(-keys, k - 1, axis=1)[:, k - 1, None]
    first = np.nonzero(-keys <= edge)[1]
    if len(first) != k * len(keys):  # a tie
        first = np.argpartition(-keys, k, axis=1)[:, :k]
    first = first.reshape(-1, k)
    order = np.argsort(-np.take_along_axis(keys, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1)


def true_value(table: Table, scores: np.ndarray, rng: np.random.Generator) -> float:
    """Mean clicks of a slate over all visitors; only the items above are drawn."""
    mass = np.exp(scores - scores.max(axis=1, keepdims=True))
    total = np.zeros(len(scores))
    for _ in range(TRUTH_DRAWS):
        above = draw_slates(scores, rng)
        taken = np.take_along_axis(mass, above, axis=1)
        wanted = np.take_along_axis(mass * table.wanted, above, axis=1)
        left = mass.sum(axis=1, keepdims=True) - np.cumsum(taken, axis=1) + taken
        worth = (mass * table.wanted).sum(axis=1, keepdims=True) - np.cumsum(wanted, axis=1)
        total += ((worth + wanted) / left) @ examined(above.shape[1])
    return float(total.mean() / TRUTH_DRAWS)


def clicks(table: Table, visitor: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> Any:
    chance = table.wanted[visitor[:, None], shown] * examined(shown.shape[1])
    return (rng.random(shown.shape) < chance).astype(np.float64)


def slate_log(
    table: Table, visitor: np.ndarray, scores: np.ndarray, rng: np.random.Generator, **more: Any
) -> SlateLog:
    """Slates drawn by these scores, with what the truth clicks."""
    shown = draw_slates(scores, rng)
    return SlateLog(
        shown=shown,
        propensity=conditional(scores, shown),
        reward=clicks(table, visitor, shown, rng),
        z=table.z[visitor],
        phi=table.phi[visitor],
        scores=scores,
        **more,
    )


def run_pair(table: Table, number: int, n: int) -> dict[str, Any]:
    """All estimates of one pair, with the truth."""
    rng = np.random.default_rng([number, n])
    pair = draw_pair(table, np.random.default_rng([number]))
    visitor = rng.integers(0, len(table.z), n)
    log = slate_log(table, visitor, pair.logging[visitor], rng, cluster=table.cluster[visitor])
    began = time.process_time()
    evidence = prepare(log, rng)
    reading = read(evidence, softmax_policy(log, pair.target[visitor]))
    found = list(candidates(evidence, reading))
    auto = automatic(evidence, reading)
    seconds = time.process_time() - began
    live = clicks(table, visitor, draw_slates(pair.target[visitor], rng), rng).sum(axis=1)
    return {
        "pair": number,
        "truth": true_value(table, pair.target, rng),
        "logging": float(log.reward.sum(axis=1).mean()),
        "live_half": 1.96 * standard_error(live),
        "unsupported": reading.unsupported,
        "seconds": round(seconds, 2),
        "chosen": label(auto),
        "estimates": {
            label(one): told(one)
            for one in [*found, *tuned(found), replace(auto, name="automatic")]
        },
    }


def tuned(found: list[Estimate]) -> list[Estimate]:
    """SLOPE within each estimator that has a parameter."""
    return [
        replace(slope([one for one in found if one.name == name]), name=f"{name}_tuned")
        for name in TUNED
    ]


def label(one: Estimate) -> str:
    known = one.name.endswith("_tuned") or one.name == "automatic" or np.isnan(one.parameter)
    return one.name if known else f"{one.name}@{one.parameter / len(one.terms):g}n"


def told(one: Estimate) -> list[float]:
    """Value, bounds, standard error, effective slates."""
    return [round(x, 7) for x in (one.value, *bounds(one), standard_error(one.terms), one.ess)]


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean relative error with a bootstrap interval over pairs, coverage and width by estimator."""
    truth = np.array([p["truth"] for p in pairs])
    live = np.array([p["live_half"] for p in pairs])
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(pairs), (1_000, len(pairs)))
    table = {}
    for name in pairs[0]["estimates"]:
        value, low, high, error, ess = np.array([p["estimates"][name] for p in pairs]).T
        wrong = np.abs(value / truth - 1)
        table[name] = {
            "relative_error": wrong.mean(),
            "ci": np.quantile(wrong[draws].mean(axis=1), [0.025, 0.975]).tolist(),
            "coverage": ((low <= truth) & (truth <= high)).mean(),
            "width_over_live": np.median((high - low) / 2 / live),
            "standard_error": np.median(error),
            "ess": np.median(ess),
        }
    fixed = {n: row["relative_error"] for n, row in table.items() if n.partition("@")[0] in BEST_OF}
    best = min(fixed, key=fixed.__getitem__)
    return {
        "estimators": table,
        "best_fixed": best,
        "automatic_over_best": table["automatic"]["relative_error"] / fixed[best],
    }


def store(path: Path, kept: Path, about: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    """All estimates into the cache, to go on from; what is published into the results."""
    about = {**about, "finished": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(_rounded({**about, "pairs": pairs})), "utf-8")
    brief = [
        {
            **{name: p[name] for name in ("pair", "truth", "live_half", "seconds", "chosen")},
            "automatic": p["estimates"]["automatic"],
        }
        for p in pairs
    ]
    result = _rounded({**about, "summary": summary(pairs)})
    text = json.dumps(result, indent=1, allow_nan=False)[:-2]
    rows = ",\n  ".join(json.dumps(_rounded(row), allow_nan=False) for row in brief)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{text},\n "pairs": [\n  {rows}\n ]\n}}\n', "utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def run(options: argparse.Namespace) -> None:
    kernels.load()
    table = load_table(options.world, options.data_dir, options.cache_dir)
    path = options.out / f"P6-{options.world}-{options.slates}.json"
    about = {
        "id": path.stem,
        "world": options.world,
        "slates": options.slates,
        "commit": commit(),
        "machine": machine(),
        "data_hash": digest(table),
        "seed": options.first,
        "load_average_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
    }
    kept = options.cache_dir / f"{path.stem}-{options.first}.json"
    stored = json.loads(kept.read_text("utf-8")) if kept.exists() and not options.fresh else {}
    if stored and stored["data_hash"] != about["data_hash"]:
        raise SystemExit(f"{kept} is of other data: give --fresh to start again")
    pairs = stored.get("pairs", [])
    began = time.monotonic()
    for number in range(options.first + len(pairs), options.first + options.pairs):
        if time.monotonic() - began > options.limit_s:
            print(f"stopped after {options.limit_s} s: run again to go on")
            break
        pairs.append(run_pair(table, number, options.slates))
        if len(pairs) % STORE_EVERY == 0:
            store(path, kept, about, pairs)
    store(path, kept, about, pairs)
    show(path, len(pairs), summary(pairs))


def show(path: Path, n: int, found: dict[str, Any]) -> None:
    print(f"{path}: {n} pairs")
    rows = sorted(found["estimators"].items(), key=lambda row: row[1]["relative_error"])
    for name, row in rows:
        print(
            f"{name:18} error {row['relative_error']:.4f} "
            f"[{row['ci'][0]:.4f}, {row['ci'][1]:.4f}] covers {row['coverage']:.3f} "
            f"width {row['width_over_live']:5.2f} ess {row['ess']:.0f}"
        )
    print(f"automatic / best ({found['best_fixed']}): {found['automatic_over_best']:.3f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=("jester", "films", "shop", "coat"), default="jester")
    parser.add_argument("--slates", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--first", type=int, default=300, help="number of the first pair")
    parser.add_argument("--limit-s", type=float, default=540, help="stop after this and store")
    parser.add_argument("--fresh", action="store_true", help="do not go on from what is stored")
    parser.add_argument("--figure", action="store_true", help="only draw what is stored")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--cache-dir", type=Path, default=Path.home() / ".cache" / "steerec" / "ope"
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.data_dir is None and not options.figure:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    return options


def main() -> None:
    options = arguments()
    if options.figure:
        from ope_figure import draw_figure

        draw_figure(options.out)
        return
    run(options)


if __name__ == "__main__":
    main()
