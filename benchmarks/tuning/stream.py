"""P4 with the tuner on: test, then learn, heads and θ both; stores results/P4-SET.json.

    python benchmarks/tuning/stream.py --set ml-100k

Each event is foretold before anything learns it. Heads learn every event, as in `steerec evaluate
--protocol stream`. The tuner learns from what a service would have seen: the ten best items of its
own blend, and whether the event's item was among them; an epoch for each batch of 128 events, with
the defaults of learner and guard, no chance and no control arm. Beside it the same blend with θ as
fitted. Heads that need texts, people's attributes or friends are left out.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from steerec.data.read import read_tables
from steerec.engine.evaluate import commit, machine
from steerec.engine.foretell import LIVE_BATCH, Feed
from steerec.engine.model import FitConfig, Model, fit, rankable
from steerec.engine.phi import UNSEEN_ITEM
from steerec.evaluation.intervals import Bootstrap, intervals
from steerec.evaluation.metrics import rank_metrics
from steerec.evaluation.protocols import Task, prepare
from steerec.evaluation.ranks import ranks_of
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.guard import GuardConfig, Reference, hold
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Observed
from steerec.tuning.prior import Prior

RESULTS = Path(__file__).parent / "results"
HEADS = ("trending", "transitions", "autoregressive", "ease", "item_knn", "user_knn", "als")
SHOWN, REFERENCE, POOL = 10, 40, 100
PRECISION = 100.0  # TuningConfig.precision


@dataclass
class Tuned:
    """The online tuner over a model's blend."""

    model: Model
    began: float
    update_s: list[float] = field(default_factory=list)
    reference: Reference | None = None

    def __post_init__(self) -> None:
        strategy = self.model.strategy
        n_heads, n_features = strategy.theta.shape
        columns = tuple(
            c
            for c in choose_columns(strategy.features, n_heads, n_positions=SHOWN)
            if strategy.features[c] != UNSEEN_ITEM
        )
        design = Design(n_heads, n_features, columns, SHOWN)
        prior = Prior(strategy.theta, PRECISION)
        learner = Learner(design, prior, LearnerConfig(), now=self.began)
        self.tuner = OnlineTuner(learner, bound=self._bound)

    def blended(self, z: Any, histories: Any, now: Any) -> Any:
        """(n, n_items) scores under the epoch in force."""
        strategy = replace(self.model.strategy, theta=self.tuner.epoch.theta)
        return replace(self.model, strategy=strategy).blended(z, histories, None, now)

    def learn(self, scores: Any, z: Any, phi: Any, targets: Any, now: float) -> None:
        """What came of the ten best of each case, -inf being what could not be shown."""
        lists = np.argsort(-scores, axis=1, kind="stable")[:, :POOL]
        rows = np.arange(len(lists))[:, None]
        pool = np.moveaxis(z[:, rows, lists], 0, 2).astype(np.float32)
        open_ = np.isfinite(scores[rows, lists])
        pool = np.where(open_[:, :, None], pool, 0.0)
        newest = np.s_[-REFERENCE:]
        self.reference = Reference(pool[newest], phi[newest], open_[newest])
        for at, target in enumerate(targets):
            began = time.process_time()
            shown = lists[at, :SHOWN][open_[at, :SHOWN]]
            reward = (shown == target).astype(np.float64)
            self.tuner.observe(Observed.slate(pool[at, : len(shown)], phi[at], reward))
            self.update_s.append(time.process_time() - began)
        self.tuner.publish(now)

    def _bound(self, theta: Any) -> Any:
        promoted = self.model.strategy.theta
        if self.reference is None:
            return promoted
        return hold(theta, promoted, self.reference, GuardConfig().most_nats)[0]


def stream(task: Task, model: Model) -> tuple[dict[str, Any], Tuned]:
    """Ranks of every event by each head, the blend as fitted and the blend tuned."""
    cases, found = task.split.cases, {}
    tuned, feed = Tuned(model, float(cases.now[0])), Feed(task, model)
    for start in range(0, len(cases), LIVE_BATCH):
        stop = min(start + LIVE_BATCH, len(cases))
        histories, now = cases.histories(start, stop), cases.now[start:stop]
        raw, z, blend = model.scores(histories, None, now)
        skip = ~rankable(cases, start, stop, repeats=task.repeats)
        targets = cases.targets[cases.offsets[start] : cases.offsets[stop]]
        own = tuned.blended(z, histories, now)
        for name, table in {**raw, "blend": blend, "tuned": own}.items():
            ranks = ranks_of(table, targets, row=np.arange(stop - start), skip=skip)
            found.setdefault(name, []).append(ranks)
        phi = model.phi(histories, now)
        tuned.learn(np.where(skip, -np.inf, own), z, phi, targets, float(now[-1]))
        feed.learn_until(stop)
    return {name: np.concatenate(parts) for name, parts in found.items()}, tuned


def figures(task: Task, ranks: dict[str, Any], seed: int) -> dict[str, Any]:
    """Means with 95 % intervals over users, and what tuning gains, paired."""
    drawn = Bootstrap.draw(task.split.cases.user_idx, np.random.default_rng(seed))
    values = {
        name: {m: v for m, v in rank_metrics(r).items() if m in ("ndcg@10", "recall@10")}
        for name, r in ranks.items()
    }
    gain = {m: values["tuned"][m] - values["blend"][m] for m in values["blend"]}
    return {
        name: {m: [b.mean, b.low, b.high] for m, b in intervals(some, drawn).items()}
        for name, some in {**values, "tuned - blend": gain}.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="ml-100k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    given = parser.parse_args()
    load, began = os.getloadavg()[0], time.process_time()
    task = prepare(read_tables(given.data_dir / given.set).tables, "stream", "live", name=given.set)
    config = FitConfig(heads=HEADS, holdout=task.holdout, repeats=task.repeats)
    model = fit(task.split.train, config, np.random.default_rng(given.seed))
    ranks, tuned = stream(task, model)
    told = figures(task, ranks, given.seed)
    heads = {name: told[name]["ndcg@10"][0] for name in model.heads}
    best = max(heads, key=heads.__getitem__)
    result = {
        "id": f"P4-{given.set}-tuned",
        "set": given.set,
        "requests": len(task.split.cases),
        "data_hash": task.split.cases.data.content_hash,
        "commit": commit(),
        "machine": machine(),
        "seed": given.seed,
        "load": round(load, 1),
        "cpu_s": round(time.process_time() - began, 1),
        "epochs": tuned.tuner.epoch.number,
        "update_ms": [round(1e3 * float(q), 4) for q in np.quantile(tuned.update_s, [0.5, 0.99])],
        "best_head": best,
        "tuned_over_best": told["tuned"]["ndcg@10"][0] / heads[best],
        "blend_over_best": told["blend"]["ndcg@10"][0] / heads[best],
        "results": told,
    }
    path = given.out / f"P4-{given.set}.json"
    path.write_text(json.dumps(result, indent=1, default=float) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "results"}))
    for name, row in told.items():
        print(f"{name:16}", {m: [round(x, 4) for x in v] for m, v in row.items()})


if __name__ == "__main__":
    main()
