"""What a fine-tuned encoder changes: `content` alone on items never seen, before and after.

    python benchmarks/quality/finetune.py amazon-beauty --model-dir /tmp/encoder

The encoder learns from the training events of `cold` only: no test event, no event of a cold item.
With --heads their blend is measured as well, as `evaluate --protocol cold` does.
With --validation all is asked one step earlier, with other cold items (sha256 modulo 10 is 1): for
choices, never for figures.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from run import conditions, store

from steerec.config import Settings
from steerec.contracts import Floats
from steerec.data.split import Split, leave_last_out, withhold
from steerec.encoders import EncoderConfig
from steerec.encoders.finetune import base_model, finetune
from steerec.encoders.finetuned import NOTE, FineTuneConfig
from steerec.encoders.pairs import pairs_of
from steerec.engine.evaluate import commit, evaluate, machine
from steerec.engine.intake import Source, read_source
from steerec.engine.texts import ItemVectors, encode_items, task_with_vectors, texts_of
from steerec.evaluation.intervals import Bootstrap, compare_all, intervals
from steerec.evaluation.metrics import ndcg
from steerec.evaluation.protocols import COLD_ONE_IN, Task, prepare
from steerec.evaluation.ranks import ranks_of
from steerec.heads.content import Content, ContentConfig

BATCH = 500
KINDS = {"vectors": ContentConfig(lexical_weight=0.0), "vectors and words": ContentConfig()}


def validation(tables: Any, track: str) -> Task:
    """`cold` one step earlier: last events are gone, and so are all of the test's cold items."""
    task = prepare(tables, "cold", track)
    hashes = (hashlib.sha256(str(i).encode()).hexdigest() for i in task.split.train.item_ids)
    other = np.array([int(number, 16) % COLD_ONE_IN == 1 for number in hashes])
    earlier = withhold(leave_last_out(prepare(tables, "loo", track).split.train), task.cold)
    known = np.flatnonzero(~task.cold[earlier.cases.targets])
    split = withhold(Split(earlier.train, earlier.cases.take(known)), other)
    return replace(task, split=split, cold=other)


def fewer_warm(task: Task, most: int, seed: int) -> Task:
    """All cold targets and so many of the warm ones."""
    cases = task.split.cases
    cold = task.cold[cases.targets]
    warm = np.random.default_rng(seed).permutation(np.flatnonzero(~cold))[:most]
    chosen = np.sort(np.concatenate([np.flatnonzero(cold), warm]))
    return replace(task, split=replace(task.split, cases=cases.take(chosen)))


def made_encoder(task: Task, how: FineTuneConfig, folder: Path, seed: int, threads: int) -> Any:
    """Fine-tune on the task's training events; what was made before is taken as it is."""
    if not (folder / NOTE).is_file():
        settings, train = Settings(), task.split.train
        base = base_model(settings.encoder, settings.cache_dir / "vectors")
        pairs, held_out = pairs_of(train, texts_of(train.items), last=how.last)
        kept = folder.with_name(f".{folder.name}.training")
        tuned = finetune(
            base,
            pairs,
            held_out,
            how,
            seed=seed,
            threads=threads,
            checkpoint=kept,
            watch=tell,
        )
        replace(tuned, about={"data_hash": train.content_hash, "seed": seed}).save(folder)
    return json.loads((folder / NOTE).read_text("utf-8"))


def tell(done: int, total: int) -> None:
    if done % 50 == 0:
        print(f"{done} of {total} steps", flush=True)


def gains(task: Task, vectors: Floats, config: ContentConfig) -> dict[str, Floats]:
    """(n_cases,) NDCG@10 among all items, and among cold ones for cold targets, else NaN."""
    train, cases = task.split.train.with_vectors(vectors), task.split.cases
    head = Content.fit(train, config, np.random.default_rng(0))
    among_all, among_cold = [], []
    for start in range(0, len(cases), BATCH):
        stop = min(start + BATCH, len(cases))
        states, targets = cases.histories(start, stop), cases.targets[start:stop]
        scores = head.score([head.start(h) for h in states], None, cases.now[start:stop])
        skip = np.zeros(scores.shape, bool)
        for row, history in enumerate(states):
            skip[row, history.item_idx] = True
        among_all.append(ranks_of(scores, targets, skip=skip))
        among_cold.append(ranks_of(scores, targets, skip=skip | ~task.cold))
    cold = task.cold[cases.targets]
    return {
        "cold among all": np.where(cold, ndcg(np.concatenate(among_all)), np.nan),
        "cold among cold": np.where(cold, ndcg(np.concatenate(among_cold)), np.nan),
        "warm": np.where(~cold, ndcg(np.concatenate(among_all)), np.nan),
    }


def blended(task: Task, found: ItemVectors, heads: str, seed: int) -> dict[str, Any]:
    """What `evaluate` measures of the blend and its heads with these vectors."""
    config = Settings().fit_config(tuple(heads.split(",")))
    result = evaluate(task_with_vectors(task, found), config, seed=seed)
    parts = ("cold_among_all", "cold_among_cold", "warm")
    models = {
        part: {
            name: [row["ndcg@10"], *row["ci"]["ndcg@10"]]
            for name, row in result["slices"][part].items()
            if name != "n"
        }
        for part in parts
    }
    return {**models, "warm_loss": result["warm_loss"], "seconds": result["seconds"]}


def measured(task: Task, vectors: dict[str, Floats], seed: int) -> dict[str, Any]:
    """kind of likeness → figure → mean and interval of each encoder, and what was gained."""
    draws = Bootstrap.draw(task.split.cases.user_idx, np.random.default_rng(seed))
    found: dict[str, Any] = {}
    for kind, config in KINDS.items():
        by_encoder = {name: gains(task, v, config) for name, v in vectors.items()}
        for figure in next(iter(by_encoder.values())):
            values = {name: table[figure] for name, table in by_encoder.items()}
            row = {n: [b.mean, b.low, b.high] for n, b in intervals(values, draws).items()}
            gap = compare_all(values, "before", draws)["after"]
            row["gain"] = [gap.difference, gap.low, gap.high]
            found.setdefault(kind, {})[figure] = row
    return found


def lines(result: Any) -> Iterator[str]:
    """The result as Markdown."""
    made = result["made"]
    step = max(made["curve"], key=lambda point: point[1])[0]
    yield f"### {result['id']}\n"
    yield (
        f"- {result['finished']}, load {result['load_average_before']} before, commit "
        f"{result['commit']}, {result['machine']}, {result['threads']} thread, seed "
        f"{result['seed']}, event rows {result['data_hash'][:12]}"
    )
    yield (
        f"- {result['items']:,} items, {result['cold_targets']:,} cold and "
        f"{result['warm_targets']:,} warm targets; best after {step} of "
        f"{made['config']['steps']} steps of {made['config']['batch_pairs']} pairs"
    )
    if "stopped" in made:
        yield f"- stopped {made['stopped']}"
    yield "\n| `content` by | targets | before | after | gain, 95 % |\n|---|---|---|---|---|"
    for kind in KINDS:
        for figure, row in result["ndcg@10"][kind].items():
            gain, low, high = row["gain"]
            yield (
                f"| {kind} | {figure} | {row['before'][0]:.4f} | {row['after'][0]:.4f} | "
                f"{gain:+.4f} [{low:+.4f}, {high:+.4f}] |"
            )
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="name of a set")
    parser.add_argument("--model-dir", type=Path, required=True, help="where the model is kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of [finetune]")
    parser.add_argument("--heads", default="", help="also their blend, such as quick,sequence")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--warm", type=int, help="ask only so many warm targets, drawn; else all")
    parser.add_argument("--track", default="time-blind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    around, began = {**conditions(), "threads": options.threads}, time.perf_counter()
    how = FineTuneConfig(**{k: json.loads(v) for k, v in (s.split("=", 1) for s in options.set)})
    source = Source(data=options.data, cache_dir=Settings().cache_dir, data_dir=options.data_dir)
    tables = read_source(source).tables
    make = validation if options.validation else lambda t, track: prepare(t, "cold", track)
    task = make(tables, options.track)
    note = made_encoder(task, how, options.model_dir, options.seed, options.threads)
    if options.warm is not None:
        task = fewer_warm(task, options.warm, options.seed)
    encoders = {"before": EncoderConfig(), "after": EncoderConfig(model=str(options.model_dir))}
    threads = {n: replace(c, threads=options.threads) for n, c in encoders.items()}
    items, cache_dir = task.split.train.items, Settings().cache_dir
    encoded = {n: encode_items(items, c, cache_dir=cache_dir) for n, c in threads.items()}
    found = measured(task, {n: one.vectors for n, one in encoded.items()}, options.seed)
    print(json.dumps({"made": note, "ndcg@10": found}, indent=1), flush=True)
    if options.heads:
        for name, one in encoded.items():
            found.setdefault(options.heads, {})[name] = blended(
                task, one, options.heads, options.seed
            )
            print(json.dumps(found[options.heads][name], indent=1), flush=True)
    if options.validation:
        return
    about = {
        "id": f"finetune-{options.data}",
        **around,
        "data": options.data,
        "data_hash": task.split.cases.data.content_hash,
        "commit": commit(),
        "machine": machine(),
        "seed": options.seed,
        "items": len(task.cold),
        "cold_targets": int(task.cold[task.split.cases.targets].sum()),
        "warm_targets": int((~task.cold[task.split.cases.targets]).sum()),
        "seconds": time.perf_counter() - began,
    }
    store(f"finetune-{options.data}.json", {**about, "made": note, "ndcg@10": found})


if __name__ == "__main__":
    main()
