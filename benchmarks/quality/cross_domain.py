"""Cross-domain: what people did in one shop as evidence in another, for two kinds of people.

Both sets have the same user ids. *Shared* users have events in both; their last event in the target
domain is foretold from all events before it. *Strangers* are a quarter of the shared users, all of
whose events in the target domain are hidden; their last one there is foretold from what they did in
the other domain. Only items of the target domain are ranked. The sets have an order within each
domain and no times, so events of the other domain may be later than the target: this looks ahead.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from run import RESULTS, conditions, store
from steps import measured

from steerec.config import load_settings
from steerec.contracts import Floats
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.read import read_tables
from steerec.data.split import Cases, blind, single_targets
from steerec.data.tables import Tables
from steerec.engine.evaluate import commit, machine
from steerec.engine.model import Model, fit, rankable
from steerec.engine.texts import encode_items, with_vectors
from steerec.evaluation.ranks import ranks_of

PAIRS = (("amazon-beauty", "amazon-sports"), ("amazon-sports", "amazon-beauty"))
HEADS = ("trending", "transitions", "item_knn", "user_knn", "content")
STRANGERS = 4  # one shared user in so many
NOTE = (
    "no times: events of the other domain stand before those of the target domain, and may really "
    "be later than the target (this looks ahead)"
)


@dataclass(frozen=True)
class Domains:
    """Two domains as one catalogue.

    Attributes:
        data: all events; a user's events of the source domain stand first.
        is_target: (n_items,) items of the target domain.
        shared, strangers: (n_users,) bool; strangers are some of the shared.
    """

    data: Dataset
    is_target: np.ndarray
    shared: np.ndarray
    strangers: np.ndarray


def domains(source: Tables, target: Tables) -> Domains:
    """Both sets joined; item ids of the two are told apart by a prefix."""
    events, items = [], []
    for number, tables in enumerate((source, target)):
        name = pl.concat_str([pl.lit(f"{number}:"), pl.col("item_id")])
        part = tables.events.select("user_id", name.alias("item_id"), "event", "seq")
        events.append(part.with_columns(seq=pl.col("seq") + number * 1_000_000))
        items.append(tables.items.with_columns(name.alias("item_id")))
    data = blind(build_dataset(pl.concat(events), pl.concat(items, how="diagonal"))).compact()
    is_target = np.array([str(name).startswith("1:") for name in data.item_ids])
    counts = [
        np.bincount(data.user_idx[is_target[data.item_idx] == side], minlength=data.n_users)
        for side in (False, True)
    ]
    shared = (counts[0] > 0) & (counts[1] > 1)
    drawn = [
        int(hashlib.sha256(str(n).encode()).hexdigest(), 16) % STRANGERS for n in data.user_ids
    ]
    return Domains(data, is_target, shared, shared & (np.array(drawn) == 0))


def split_of(both: Domains) -> tuple[Dataset, dict[str, Cases]]:
    """What is learnt from, and the cases of both kinds of people."""
    data = both.data
    in_target = both.is_target[data.item_idx]
    last = data.starts[1:] - 1
    keep = np.ones(data.n_events, bool)
    keep[last[both.shared]] = False
    keep[both.strangers[data.user_idx] & in_target] = False
    cases = single_targets(data, last[both.shared & ~both.strangers])
    strange = single_targets(data, last[both.strangers])
    n_source = np.bincount(data.user_idx[~in_target], minlength=data.n_users)
    stop = data.starts[strange.user_idx] + n_source[strange.user_idx]
    return data.take(keep), {"shared": cases, "strangers": replace(strange, stop=stop)}


def without_source(cases: Cases, is_target: np.ndarray) -> Cases:
    """The same cases from the events of the target domain alone."""
    keep = is_target[cases.data.item_idx]
    stop = np.concatenate([[0], np.cumsum(keep)])[cases.stop]
    return replace(cases, data=cases.data.take(keep), stop=stop)


def ranks(model: Model, cases: Cases, is_target: np.ndarray) -> dict[str, np.ndarray]:
    """Model or head → rank of each target among the unseen items of its domain."""
    found: dict[str, list[np.ndarray]] = {}
    for start, stop in model.batches(len(cases)):
        raw, _, blend = model.scores(cases.histories(start, stop), None, cases.now[start:stop])
        skip = ~(rankable(cases, start, stop, repeats=False) & is_target)
        scores: Mapping[str, Floats] = {"blend": blend, **raw}
        targets = cases.targets[start:stop]
        for name, table in scores.items():
            found.setdefault(name, []).append(ranks_of(table, targets, skip=skip))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def popularity_ranks(train: Dataset, cases: Cases, is_target: np.ndarray) -> np.ndarray:
    counts = np.bincount(train.item_idx, minlength=train.n_items).astype(np.float32)
    parts = []
    for start in range(0, len(cases), 500):
        stop = min(start + 500, len(cases))
        skip = ~(rankable(cases, start, stop, repeats=False) & is_target)
        table = np.tile(counts, (stop - start, 1))
        parts.append(ranks_of(table, cases.targets[start:stop], skip=skip))
    return np.concatenate(parts)


def run(
    source: str, target: str, folder: Path, heads: tuple[str, ...], seed: int
) -> dict[str, Any]:
    around, settings, began = conditions(), load_settings(None), time.perf_counter()
    both = domains(*(read_tables(folder / name).tables for name in (source, target)))
    vectors = encode_items(both.data.items, settings.encoder, cache_dir=settings.cache_dir)
    both = replace(both, data=with_vectors(both.data, vectors))
    train, cases = split_of(both)
    config = replace(settings.fit_config(heads), holdout="last", repeats=False)
    joint = fit(train, config, np.random.default_rng(seed))
    alone = fit(train.take(both.is_target[train.item_idx]), config, np.random.default_rng(seed))
    found = {
        name: {f"joint {k}": r for k, r in ranks(joint, part, both.is_target).items()}
        for name, part in cases.items()
    }
    own = ranks(alone, without_source(cases["shared"], both.is_target), both.is_target)
    found["shared"].update({f"target only {k}": r for k, r in own.items()})
    for name, part in cases.items():
        found[name]["popularity"] = popularity_ranks(train, part, both.is_target)
        found[name]["blend"] = found[name].pop("joint blend")
    return {
        "id": f"cross-{source}-to-{target}",
        **around,
        "source": source,
        "target": target,
        "data_hash": both.data.content_hash,
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "encoder": vectors.note,
        "heads": list(joint.heads),
        "note": NOTE,
        "seconds": time.perf_counter() - began,
        "shared_users": int(both.shared.sum()),
        "target_items": int(both.is_target.sum()),
        "people": {
            name: measured(table, cases[name].user_idx, np.ones(len(cases[name]), bool), seed)
            for name, table in found.items()
        },
    }


def lines(result: Mapping[str, Any]) -> Iterable[str]:
    """One direction as Markdown."""
    yield f"### {result['id']}\n"
    yield (
        f"- {result['source']} → {result['target']}, {result['shared_users']:,} shared users, "
        f"{result['target_items']:,} items ranked, data `{result['data_hash'][:12]}`, commit "
        f"`{result['commit']}`, seed {result['seed']}, {result['machine']}, {result['finished']}"
    )
    yield f"- note: {result['note']}\n"
    for name, part in result["people"].items():
        yield f"| {name}, {part['requests']:,} requests | NDCG@10 | 95 % | HR@10 | 95 % |"
        yield "|---|---|---|---|---|"
        rows = sorted(part["models"].items(), key=lambda pair: -pair[1]["ndcg@10"])
        for model, row in rows:
            label = "**joint blend**" if model == "blend" else model
            cells = (
                f"{row[m]:.4f} | {row['ci'][m][0]:.4f}–{row['ci'][m][1]:.4f}"
                for m in ("ndcg@10", "hr@10")
            )
            yield f"| {label} | " + " | ".join(cells) + " |"
        yield ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    heads = tuple(options.heads.split(","))
    for source, target in PAIRS:
        result = run(source, target, options.data_dir, heads, options.seed)
        store(f"{result['id']}.json", result)
        stored = json.loads((RESULTS / f"{result['id']}.json").read_text("utf-8"))
        print("\n".join(lines(stored)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
