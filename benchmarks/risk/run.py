"""The risk loop on the real sets against scikit-learn by itself; stores results/SET.json.

nice -n 10 python benchmarks/risk/run.py --set credit-default
nice -n 10 python benchmarks/risk/run.py --set credit-fraud
python benchmarks/risk/run.py --table        (writes RESULTS.md from results/)
"""

import argparse
import hashlib
import json
import os
import pickle
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "examples" / "risk"))

import hourly  # noqa: E402  the recipe's own modules
import monthly  # noqa: E402
from clients import LGD, Clients  # noqa: E402
from figures import Ranked, of_reviews, percentiles, top  # noqa: E402
from monthly import Plain, Policy, Tuned  # noqa: E402
from scorers import Linear, Tree, TwoTowers, Unlike  # noqa: E402
from table import write_table  # noqa: E402
from transactions import read_transactions  # noqa: E402

from steerec.engine.evaluate import commit, machine  # noqa: E402
from steerec.evaluation.intervals import Bootstrap  # noqa: E402

LOOKED_AT = 6_000  # clients that the loop was made with: they are in no fit and no figure
SCORED = 2  # months decided before the first that counts: they only give thresholds
CREDIT = Policy(budget=0.1, most=0.3, review_cost=5_000.0)
FRAUD_REVIEW = 2.0  # EUR a review
OURS = "ours"
BASELINES = ("logistic, once", "logistic, refitted", "boosting, once", "boosting, refitted")


def credit_ways(profile):
    makers = {"linear": Linear, "tree": Tree, "two_tower": partial(TwoTowers, profile)}
    shared = {}
    return {
        OURS: Tuned(makers, shared=shared),
        "ours, blend not tuned": Tuned(makers, learning=False, shared=shared),
        "ours, heads once": Tuned(makers, again=False, shared=shared),
        "logistic, once": Plain(Linear, again=False),
        "logistic, refitted": Plain(Linear, again=True),
        "boosting, once": Plain(Tree, again=False),
        "boosting, refitted": Plain(Tree, again=True),
    }


def fraud_ways():
    makers = {"linear": Linear, "tree": Tree, "unlike": Unlike}
    return {
        OURS: hourly.TunedScore(makers, again=True),
        "ours, blend not tuned": hourly.TunedScore(makers, again=True, learning=False),
        "ours, heads once": hourly.TunedScore(makers, again=False),
        "logistic, once": hourly.PlainScore(Linear, again=False),
        "logistic, refitted": hourly.PlainScore(Linear, again=True),
        "boosting, once": hourly.PlainScore(Tree, again=False),
        "boosting, refitted": hourly.PlainScore(Tree, again=True),
    }


class Part:
    """Decisions that are ranked together: a month, or all hours."""

    def __init__(self, cases, p, chosen, by_cost, review_cost):
        self.cases, self.p, self.chosen, self.by_cost = cases, p, chosen, by_cost
        self.review_cost = review_cost
        self.ranked = Ranked(p, cases.outcome)

    def figures(self, count):
        """name → value, for how often (units,) each unit was drawn."""
        w = count[self.cases.unit].astype(float)
        at = {"weight": w, "review_cost": self.review_cost}
        bad, loss = self.cases.outcome, self.cases.loss
        found = self.ranked.separation(w) | self.ranked.calibration(self.p, w)
        found |= of_reviews(self.chosen, bad, loss, **at)
        cost = of_reviews(self.by_cost, bad, loss, **at)
        return found | {f"{name}_by_cost": cost[name] for name in ("reviewed", "recall", "cost")}


def measured(parts, count):
    """Mean over the parts of each figure."""
    each = [part.figures(count) for part in parts]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def summary(ways, draws, seed):
    """Figures with intervals, and ours against the others on the same draws of units."""
    units = 1 + max(int(part.cases.unit.max()) for parts in ways.values() for part in parts)
    rng = np.random.default_rng(seed)
    counts = Bootstrap.draw(np.arange(units), rng, draws=draws).counts
    point = {name: measured(parts, np.ones(units)) for name, parts in ways.items()}
    drawn = {name: [measured(parts, c) for c in counts] for name, parts in ways.items()}
    figures = {
        name: {
            key: {"mean": value, "ci": percentiles([d[key] for d in drawn[name]])}
            for key, value in found.items()
        }
        for name, found in point.items()
    }
    against = {
        name: {
            key: {"mean": change(point[OURS], point[name]), "ci": percentiles(moves)}
            for key, change in CHANGES.items()
            if (moves := [change(a, b) for a, b in zip(drawn[OURS], drawn[name], strict=True)])
        }
        for name in ways
        if name != OURS
    }
    return figures, against


def minus(key):
    return lambda ours, other: ours[key] - other[key]


def ratio(key):
    return lambda ours, other: ours[key] / other[key] - 1


CHANGES = {
    "auc": minus("auc"),
    "log_loss": minus("log_loss"),
    "recall, relative": ratio("recall"),
    "recall at 5 % false positives, relative": ratio("recall_5fpr"),
    "loss missed, relative": ratio("missed"),
    "cost by threshold, relative": ratio("cost_by_cost"),
}


def kept(options, name, make):
    """What an earlier run left under --keep, else made now and left there."""
    if options.keep is None:
        return make()
    path = options.keep / f"{name}.pickle"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(make()))
    return pickle.loads(path.read_bytes())


def decided_monthly(clients, months, seed):
    """name → the parts of every month, and what each way told of itself."""
    parts, told = {}, {}
    for name, way in credit_ways(clients.profile).items():
        began = time.process_time()
        found = monthly.run(way, months, CREDIT, np.random.default_rng(seed))
        told[name] = [month.told for month in found]
        parts[name] = [
            Part(d.cases, d.p, top(d.p, CREDIT.budget), d.by_cost, CREDIT.review_cost)
            for d in found
        ]
        print(name, round(time.process_time() - began, 1), "s", flush=True)
    return parts, told


def credit(folder, options):
    clients = Clients.read(folder).without_first(LOOKED_AT).first(options.clients)
    months = [clients.cases(month) for month in range(clients.months)]
    parts, told = kept(
        options,
        f"credit-default-{len(clients.profile)}",
        lambda: decided_monthly(clients, months, options.seed),
    )
    even = np.ones(len(clients.profile))
    auc = {name: [p.ranked.separation(even)["auc"] for p in some] for name, some in parts.items()}
    ways = {name: some[SCORED - 1 :] for name, some in parts.items()}
    figures, against = summary(ways, options.draws, options.seed)
    setup = {"policy": vars(CREDIT), "lgd": LGD, "clients_left_out": LOOKED_AT}
    setup |= {
        "decided": [len(m) for m in months[SCORED:]],
        "bad": [int(m.outcome.sum()) for m in months[SCORED:]],
    }
    extra = {"auc_by_month": auc, "told": told}
    return {"setup": setup, "figures": figures, "against": against, **extra}


def decided_hourly(cases, desk, seed):
    """name → the one part of all hours, and what each way told of itself."""
    parts, told = {}, {}
    for name, way in fraud_ways().items():
        ledger = hourly.run(way, cases, desk, np.random.default_rng(seed))
        parts[name], told[name] = [part_of(ledger)], way.tell()
    return parts, told


def fraud(folder, options):
    cases, found = read_transactions(folder), {}
    for budget in (0.2, 0.3):
        desk = hourly.Desk(budget=budget)
        name = f"credit-fraud-{budget}"
        ways, told = kept(options, name, partial(decided_hourly, cases, desk, options.seed))
        figures, against = summary(ways, options.draws, options.seed)
        key = f"{100 * budget:.0f} % reviewed"
        found[key] = {"figures": figures, "against": against, "told": told}
        print(key, {n: round(f["recall"]["mean"], 4) for n, f in figures.items()}, flush=True)
    some = ways[OURS][0].cases
    setup = {"desk": vars(desk) | {"budget": "see runs"}, "decided": len(some)}
    return {"setup": setup | {"frauds": int(some.outcome.sum())}, "runs": found}


def part_of(ledger):
    rows = hourly.decided(ledger)
    chosen, by_cost = ledger.reviewed[rows], hourly.by_cost(ledger, FRAUD_REVIEW)[rows]
    return Part(ledger.cases[rows], ledger.p[rows], chosen, by_cost, FRAUD_REVIEW)


def data_hash(folder):
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.parquet")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


SETS = {"credit-default": credit, "credit-fraud": fraud}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1_000)
    parser.add_argument("--clients", type=int, help="of credit-default, the first so many; all")
    parser.add_argument("--keep", type=Path, help="folder for decisions, to go on after a kill")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.set:
        if options.data_dir is None:
            parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
        folder, began = Path(options.data_dir) / options.set, time.process_time()
        result = {
            "id": f"risk-{options.set}",
            "commit": commit(),
            "machine": machine(),
            "load": round(os.getloadavg()[0], 1),
            "data_hash": data_hash(folder),
            "seed": options.seed,
            "interval": f"95 %, bootstrap over units, {options.draws} draws, paired",
            **SETS[options.set](folder, options),
        }
        result["cpu_s"] = round(time.process_time() - began)
        text = json.dumps(result, indent=1, ensure_ascii=False)
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / f"{options.set}.json").write_text(text + "\n", "utf-8")
    if options.table:
        write_table(HERE)


if __name__ == "__main__":
    main()
