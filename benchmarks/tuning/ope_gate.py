"""P6-gate: how far the gate's interval can be believed where the log stands for few slates.

    python benchmarks/tuning/ope_gate.py --world shop --cases 100

A case is a present strategy, a live one and a proposal near the live one, all sharp, so that few
logged slates speak for some of them. By turns the log is of the present strategy alone, or of the
live one with a control arm of 5 % as in the closed loop, and of 3,000 or 10,000 slates. The gate's
interval of the difference, and the interval of the proposal alone, are held against the truth, by
bins of effective slates. A run goes on from what is stored; cases from 100,000 on may settle
things, those from 300 on are reported.
"""

import argparse
import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ope import draw_slates, scores_of, slate_log
from ope_worlds import Table, digest, load_table

from steerec.engine.evaluate import commit, machine
from steerec.simulation.world import examined
from steerec.tuning.ope.choice import automatic, bounds, candidates
from steerec.tuning.ope.estimators import prepare, read
from steerec.tuning.ope.gate import GateConfig, decide
from steerec.tuning.ope.softmax import softmax_policy

RESULTS = Path(__file__).parent / "results"
BINS = (0, 50, 100, 200, 400, 700, 1_000, 2_000, 1_000_000)  # effective slates
STEPS = (1.0, 0.5)  # of the way from the present to what was learnt, as the loop proposes
SHARPNESS = (1.0, 6.0)  # standard deviation of score / temperature in a pool
TRUTH_DRAWS = 16
STORE_EVERY = 10
KINDS = ("gate", "automatic", "place_dros")
ANY = GateConfig(least_slates=0.0)  # decides whatever the log stands for


def draw_case(table: Table, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Scores of the three strategies for every visitor."""
    spread = table.z[table.allowed].astype(np.float64).std(axis=0)

    def blend() -> np.ndarray:
        return table.w + rng.normal(0, 0.5, len(spread)) / spread

    present, other, third = blend(), blend(), blend()
    live = present + rng.uniform(0.1, 1.0) * (other - present)
    learnt = live + 0.2 * (third - live)
    proposed = present + rng.choice(STEPS) * (learnt - present)
    sharpness = rng.uniform(*SHARPNESS)
    named = {"present": present, "live": live, "proposed": proposed}
    return {name: scores_of(table, w, sharpness) for name, w in named.items()}


def drawn_value(table: Table, scores: np.ndarray, rng: np.random.Generator) -> float:
    """Mean clicks of a slate over all visitors, by slates drawn from a policy.

    `ope.true_value` takes what is left of a pool's mass as a difference; sharp policies lose it.
    """
    total = 0.0
    for _ in range(TRUTH_DRAWS):
        shown = draw_slates(scores, rng)
        wanted = np.take_along_axis(table.wanted, shown, axis=1)
        total += float((wanted @ examined(shown.shape[1])).mean())
    return total / TRUTH_DRAWS


def run_case(table: Table, number: int) -> dict[str, Any]:
    """Both intervals of one case, with the truth."""
    some = draw_case(table, np.random.default_rng([number, 1]))
    rng = np.random.default_rng([number, 2])
    n = (3_000, 10_000)[number // 2 % 2]
    control = (0.05, 1.0)[number % 2]
    visitor = rng.integers(0, len(table.z), n)
    arm = rng.random(len(table.z)) < control
    scores = np.where(arm[visitor][:, None], some["present"][visitor], some["live"][visitor])
    log = slate_log(table, visitor, scores, rng, unit=visitor)
    evidence = prepare(log, rng)
    present = read(evidence, softmax_policy(log, some["present"][visitor]))
    proposed = read(evidence, softmax_policy(log, some["proposed"][visitor]))
    found = decide(evidence, present, proposed, config=ANY)
    worth = {
        name: drawn_value(table, some[name], np.random.default_rng([number, 3]))
        for name in ("present", "proposed")
    }
    gain = worth["proposed"] - worth["present"]
    row = {
        "case": number,
        "slates": n,
        "control": control,
        "action": found.action,
        "gate": [gain, found.estimate, *found.interval, found.ess, found.unsupported],
    }
    alone = automatic(evidence, proposed, model_alone=False)
    (fixed,) = candidates(evidence, proposed, among=("place_dros",), shares=(1.0,))
    for name, one in (("automatic", alone), ("place_dros", fixed)):
        within = bounds(one, unit=log.unit)
        row[name] = [worth["proposed"], one.value, *within, one.ess, one.unsupported]
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind of interval and bin of effective slates: how many, how often it holds the truth."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        truth, value, low, high, ess, _ = np.array([row[kind] for row in rows]).T
        found[kind] = []
        for start, stop in pairwise(BINS):
            here = (start <= ess) & (ess < stop)
            if here.any():
                found[kind].append(
                    {
                        "from": start,
                        "to": stop,
                        "cases": int(here.sum()),
                        "holds": float(((low <= truth) & (truth <= high))[here].mean()),
                        "too_high": float((low > truth)[here].mean()),
                        "too_low": float((high < truth)[here].mean()),
                        "error": float(np.abs(value - truth)[here].mean()),
                        "half_width": float(np.median((high - low)[here] / 2)),
                        "says_better": int((low > 0)[here].sum()),
                        "wrongly": int(((low > 0) & (truth <= 0))[here].sum()),
                    }
                )
    return found


def run(options: argparse.Namespace) -> None:
    table = load_table(options.world, options.data_dir, options.cache_dir)
    about = {
        "id": f"P6-gate-{options.world}",
        "world": options.world,
        "commit": commit(),
        "machine": machine(),
        "data_hash": digest(table),
        "seed": options.first,
        "load_average_before": round(os.getloadavg()[0], 1),
    }
    kept = options.cache_dir / f"{about['id']}-{options.first}.json"
    rows = json.loads(kept.read_text("utf-8")) if kept.exists() and not options.fresh else []
    began = time.process_time()
    for number in range(options.first + len(rows), options.first + options.cases):
        if time.process_time() - began > options.limit_s:
            print(f"stopped after {options.limit_s} s of the processor: run again to go on")
            break
        rows.append(run_case(table, number))
        if len(rows) % STORE_EVERY == 0:
            kept.write_text(json.dumps(rows), "utf-8")
    kept.write_text(json.dumps(rows), "utf-8")
    print(f"{options.world}: {len(rows)} cases, {time.process_time() - began:.0f} s")
    told = summary(rows)
    for kind, bins in told.items():
        for one in bins:
            print(kind, {name: round(value, 4) for name, value in one.items()})
    result = {**about, "cases": len(rows), "summary": told}
    options.out.mkdir(exist_ok=True)
    path = options.out / f"{about['id']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=("jester", "films", "shop"), default="shop")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=300, help="number of the first case")
    parser.add_argument("--limit-s", type=float, default=540, help="processor's, then it stores")
    parser.add_argument("--fresh", action="store_true", help="do not go on from what is stored")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--cache-dir", type=Path, default=Path.home() / ".cache" / "steerec" / "ope"
    )
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    run(parser.parse_args())


if __name__ == "__main__":
    main()
