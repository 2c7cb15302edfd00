"""Step by step: every head and the blend for people of 0, 1, 2, 5, 10 and 50 events.

A fifth of the users is held out whole; nothing is fitted on them, but what the users' table tells
of them is known. Each is asked for after their first k events; the target is the event after those.
With `--every` all users are, a fifth at a time, each fifth by a fit of its own on the others.
With `--live` heads that count live count each event before the next step is asked for, user after
user, as a running service does; without, nothing is learnt from those who are held out.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from run import RESULTS, conditions, store

from steerec.config import load_settings
from steerec.data.dataset import Dataset
from steerec.data.read import read_tables
from steerec.data.split import Cases, Split, single_targets
from steerec.engine.evaluate import commit, machine
from steerec.engine.foretell import foretell
from steerec.engine.model import FitConfig, Model, fit
from steerec.engine.texts import encode_items, task_with_vectors
from steerec.evaluation.intervals import Bootstrap, compare_all, intervals
from steerec.evaluation.metrics import rank_metrics
from steerec.evaluation.protocols import Task, prepare

STEPS = (0, 1, 2, 5, 10, 50)
HELD_OUT = 5  # one user in so many
SETS = ("ml-100k", "ml-1m")
METRICS = ("ndcg@10", "hr@10")
BASELINES = ("popularity", "recent_popularity")


def held_out_users(data: Dataset, fold: int = 0) -> np.ndarray:
    """(n_users,) bool; by the id, so that the same users are held out whatever else changes."""
    digests = (hashlib.sha256(str(name).encode()).hexdigest() for name in data.user_ids)
    return np.array([int(digest, 16) % HELD_OUT == fold for digest in digests])


def step_cases(data: Dataset, users: np.ndarray) -> tuple[Cases, np.ndarray]:
    """Cases of all steps, and (n_cases,) the step of each."""
    longer = np.diff(data.starts)
    found = [
        (
            data.starts[:-1][users & (longer > step)] + step,
            np.full((users & (longer > step)).sum(), step),
        )
        for step in STEPS
    ]
    positions = np.concatenate([at for at, _ in found])
    return single_targets(data, positions), np.concatenate([step for _, step in found])


def task_of(task: Task, fold: int) -> tuple[Task, np.ndarray]:
    """The task of all steps of one fifth of the users, and the step of each case."""
    data = task.split.cases.data
    users = held_out_users(data, fold)
    cases, step = step_cases(data, users)
    return replace(task, split=Split(data.take(~users[data.user_idx]), cases)), step


@dataclass(frozen=True)
class Foretold:
    """What became of the cases of one fifth of the users.

    Attributes:
        ranks: model → (n_cases,) place of the target.
        users, step: (n_cases,).
        weights: head → (n_cases,) its weight.
    """

    ranks: Mapping[str, np.ndarray]
    users: np.ndarray
    step: np.ndarray
    weights: Mapping[str, np.ndarray]
    fit_s: float

    @classmethod
    def of(
        cls, task: Task, step: np.ndarray, config: FitConfig, seed: int, *, live: bool = False
    ) -> "Foretold":
        """By heads and weights fitted on all other users."""
        rng, began = np.random.default_rng(seed), time.perf_counter()
        model = fit(task.split.train, config, rng)
        fit_s, cases = time.perf_counter() - began, task.split.cases
        ranks = counted_on(task, model, rng) if live else ranked(task, model, rng)
        weights = model.weights(cases.histories(), cases.now).T
        return cls(ranks, cases.user_idx, step, dict(zip(model.heads, weights, strict=True)), fit_s)

    @classmethod
    def together(cls, parts: Sequence["Foretold"]) -> "Foretold":
        """All parts as one; of heads that every fit has."""

        def joined(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
            names = [n for n in tables[0] if all(n in table for table in tables)]
            return {n: np.concatenate([table[n] for table in tables]) for n in names}

        return cls(
            joined([part.ranks for part in parts]),
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.step for part in parts]),
            joined([part.weights for part in parts]),
            sum(part.fit_s for part in parts),
        )


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one set."""
    around, settings, seed = conditions(), load_settings(None), options.seed
    if options.encoder:
        settings = replace(settings, encoder=replace(settings.encoder, encoder=options.encoder))
    tables = read_tables(options.data_dir / name).tables
    task = prepare(tables, "loo", "time-blind", name=name)
    vectors = encode_items(task.split.train.items, settings.encoder, cache_dir=settings.cache_dir)
    task = task_with_vectors(task, vectors)
    heads = tuple(filter(None, options.heads.split(",")))
    config = replace(settings.fit_config(heads), holdout="last", repeats=task.repeats)
    folds = range(HELD_OUT if options.every else 1)
    found = Foretold.together(
        [Foretold.of(*task_of(task, fold), config, seed, live=options.live) for fold in folds]
    )
    return {
        "id": f"steps-{name}" + "-every" * options.every + "-live" * options.live,
        **around,
        "data": name,
        "data_hash": task.split.cases.data.content_hash,
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "encoder": vectors.note,
        "fit_s": found.fit_s,
        "users_held_out": len(np.unique(found.users)),
        "heads": list(found.weights),
        "steps": {
            str(k): {
                **measured(found.ranks, found.users, found.step == k, seed),
                "weights": {n: w[found.step == k].mean() for n, w in found.weights.items()},
            }
            for k in STEPS
            if (found.step == k).any()  # else nobody has done so much
        },
    }


def ranked(task: Task, model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Model → (n_cases,) place of the target."""
    return {n: np.concatenate(r) for n, r in foretell(task, model, rng).rank.items()}


def counted_on(task: Task, model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As `ranked`, user after user, each event counted before the next step is asked for."""
    cases, parts = task.split.cases, []
    order = np.lexsort([cases.stop, cases.user_idx])
    for user in np.unique(cases.user_idx):
        start = upto = int(cases.data.starts[user])
        for case in order[cases.user_idx[order] == user]:
            for at in range(upto, int(cases.stop[case])):
                before = cases.data.events(start, at, user)
                for head in model.heads.values():
                    head.observe(before, cases.data.events(at, at + 1, user))
            upto = int(cases.stop[case])
            alone = replace(task, split=replace(task.split, cases=cases.take(np.array([case]))))
            parts.append(ranked(alone, model, rng))
    back = np.argsort(order)
    return {n: np.concatenate([part[n] for part in parts])[back] for n in parts[0]}


def measured(
    ranks: Mapping[str, np.ndarray], users: np.ndarray, mask: np.ndarray, seed: int
) -> dict[str, Any]:
    """Figures of one step with intervals, and each model minus the blend."""
    values = {name: dict(rank_metrics(rank[mask])) for name, rank in ranks.items()}
    bootstrap = Bootstrap.draw(users[mask], np.random.default_rng(seed))
    models: dict[str, Any] = {}
    for name, metrics in values.items():
        bounds = intervals({m: metrics[m] for m in METRICS}, bootstrap)
        models[name] = {m: bound.mean for m, bound in bounds.items()}
        models[name]["ci"] = {m: [bound.low, bound.high] for m, bound in bounds.items()}
    against = compare_all({n: v["ndcg@10"] for n, v in values.items()}, "blend", bootstrap)
    return {
        "requests": int(mask.sum()),
        "models": models,
        "minus_blend": {name: asdict(row) for name, row in against.items()},
    }


def best_head(step: Mapping[str, Any], heads: Iterable[str]) -> str:
    """The head, or popularity, with the highest NDCG@10 at this step."""
    return max([*heads, *BASELINES], key=lambda name: step["models"][name]["ndcg@10"])


def lines(result: Mapping[str, Any]) -> Iterable[str]:
    """One set as Markdown: a row for each model, a column for each step."""
    steps, heads = result["steps"], result["heads"]
    each = ", each fifth by a fit of its own" if "-every" in result["id"] else ""
    each += ", their events counted as they come" if result["id"].endswith("-live") else ""
    yield f"### {result['id']}\n"
    yield (
        f"- {result['data']}, {result['users_held_out']:,} users held out whole{each}, time-blind, "
        f"data `{result['data_hash'][:12]}`, commit `{result['commit']}`, seed {result['seed']}, "
        f"{result['machine']}, {result['finished']}\n"
    )
    yield "| NDCG@10 after | " + " | ".join(f"{k} events" for k in steps) + " |"
    yield "|---|" + "---|" * len(steps)
    yield "| requests | " + " | ".join(f"{row['requests']:,}" for row in steps.values()) + " |"
    for name in ("blend", *heads, *BASELINES):
        cells = (row["models"][name]["ndcg@10"] for row in steps.values())
        label = "**blend**" if name == "blend" else name.replace("_", " ")
        yield f"| {label} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |"
    gaps = []
    for row in steps.values():
        best = best_head(row, heads)
        gap = row["minus_blend"][best]
        low, high = -gap["high"], -gap["low"]
        gaps.append(f"{best} {-gap['difference']:+.4f} [{low:+.4f}, {high:+.4f}]")
    yield "| blend minus the best of the others, 95 % | " + " | ".join(gaps) + " |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--heads", default="", help="only these, separated by commas")
    parser.add_argument("--encoder", help="text, hashing or none; default: as set")
    parser.add_argument("--every", action="store_true", help="hold out all users, in five fits")
    parser.add_argument("--live", action="store_true", help="count events as a service does")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print only, store nothing")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    for name in options.sets:
        result = run(name, options)
        if options.show:
            print("\n".join(lines({**result, "finished": "now"})))
            print(json.dumps({k: row["weights"] for k, row in result["steps"].items()}))
            continue
        store(f"{result['id']}.json", result)
        stored = json.loads((RESULTS / f"{result['id']}.json").read_text("utf-8"))
        print("\n".join(lines(stored)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
