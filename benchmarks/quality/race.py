"""Accuracy over time against a trained peer: RecTools SASRec for 45 minutes, and our own runs.

Stores results/race-ID.json: after each epoch of the peer its seconds and its figures, measured by
our metrics on the lists it gives. Our side is what the runs of run.py have stored.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.environment import default_env, ready_env
from peers.export import export_split
from run import RESULTS, THREADS, child_env, conditions, measure_lists, store
from scenarios import SCENARIOS

from steerec.data.read import read_tables
from steerec.engine.evaluate import commit, machine
from steerec.evaluation.protocols import Task, prepare

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers" / "requirements-rectools.txt"
PEER = "RecTools SASRec"
SETTINGS = (
    "64 factors, 2 blocks, softmax over all items, batches of 128; all else as its authors set it: "
    "4 heads, dropout .2, Adam with a rate of .001"
)
LENGTHS = {"P1-ml-1m": 200, "P1-amazon-beauty": 50}  # events of a history
OURS = {  # runs that the peer is set against, by the scenario they share
    "P1-ml-1m": ("P1-ml-1m", "P1-ml-1m-networks", "P1-ml-1m-wide"),
    "P1-amazon-beauty": ("P1-amazon-beauty", "P1-amazon-beauty-networks"),
}
SHARE = 5  # we are to be so many times as fast
SHOWN = 8  # epochs in the table


def race(
    name: str, data_dir: Path, env: Path, minutes: float, seed: int, threads: int = THREADS
) -> Iterator[dict[str, Any]]:
    """The result of one peer on one scenario so far, after each of its epochs."""
    scenario, python = SCENARIOS[name], ready_env(env, REQUIREMENTS)
    around = conditions(threads)
    tables = read_tables(data_dir / scenario.data).tables
    task = prepare(tables, scenario.protocol, scenario.track, name=scenario.data)
    result = {
        "id": f"race-{name}",
        "scenario": name,
        "peer": PEER,
        "settings": f"{SETTINGS}; histories of {LENGTHS[name]} events",
        **around,
        "data": scenario.data,
        "data_hash": task.split.cases.data.content_hash,
        "requests": len(task.split.cases),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "minutes": minutes,
        "epochs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        split = Path(folder) / "split.npz"
        export_split(task, split)
        words = [python, HERE / "peers" / "rectools_sasrec.py", "--split", split, "--out", folder]
        words += ["--minutes", minutes, "--length", LENGTHS[name], "--threads", threads]
        for row in _told_by([*map(str, words), f"--seed={seed}"]):
            if "version" in row:
                result["version"] = row["version"]
                continue
            with np.load(Path(folder) / f"{row['epoch']:04d}.npz") as arrays:
                result["epochs"].append({**row, **_measured(arrays["lists"], task, seed)})
            yield result


def _told_by(words: list[str]) -> Iterator[dict[str, Any]]:
    """Each line of the peer, which waits after it until we have measured it.

    Raises:
        SystemExit: if it fails.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, env=child_env()) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for line in child.stdout:
            if line.startswith("{"):
                yield json.loads(line)
                child.stdin.write("\n")
                child.stdin.flush()
    if child.returncode:
        raise SystemExit(f"the peer failed with exit status {child.returncode}")


def _measured(lists: np.ndarray, task: Task, seed: int) -> dict[str, Any]:
    found = measure_lists(lists, task, seed)
    return {
        **{m: found[m] for m in ("ndcg@10", "hr@10")},
        "ci": {m: found["ci"][m] for m in ("ndcg@10", "hr@10")},
    }


def lines(result: Mapping[str, Any]) -> Iterable[str]:
    """The peer's best so far over time, and our runs: a row each."""
    epochs, limit_s = result["epochs"], 60 * result["minutes"]
    yield f"### {result['id']}\n"
    last = epochs[-1]["seconds"] if epochs else 0.0
    ended = "" if last >= limit_s else ", stopped early"
    yield (
        f"- {result['peer']} {result['version']}, {result['settings']}; {len(epochs)} epochs in "
        f"{last:,.0f} s of {limit_s:,.0f} s{ended}; data `{result['data_hash'][:12]}`, commit "
        f"`{result['commit']}`, seed {result['seed']}, {result['machine']}, {result['threads']} "
        f"threads, {result['finished']}, load {result['load_average_before']} before\n"
    )
    yield "| who | seconds | NDCG@10 | 95 % | HR@10 | memory, MiB |"
    yield "|---|---|---|---|---|---|"
    chosen = np.unique(np.linspace(0, len(epochs) - 1, SHOWN).round()) if epochs else []
    for row in (epochs[int(i)] for i in chosen):
        yield _row(f"{result['peer']}, epoch {row['epoch']}", row["seconds"], row, row)
    ours = dict(_ours(result))
    for name, run in ours.items():
        blend = run["results"]["blend"]
        label = f"steerec: {name}, commit `{run['commit']}`, {run['threads']} threads"
        yield _row(label, run["seconds"]["fit"], blend, run)
    if epochs:
        yield "\n" + verdict(epochs, ours, limit_s)
    yield ""


def _ours(result: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Our stored runs of the same rows."""
    for name in OURS[result["scenario"]]:
        file = RESULTS / f"{name}.json"
        run = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if run.get("data_hash") == result["data_hash"]:
            yield name, run


def verdict(
    epochs: list[Mapping[str, Any]], ours: Mapping[str, Mapping[str, Any]], limit_s: float
) -> str:
    """Which of our runs reached the peer's best, in what share of its time."""
    best = max(epochs, key=lambda row: row["ndcg@10"])
    reached = [
        (run["seconds"]["fit"], name)
        for name, run in ours.items()
        if run["results"]["blend"]["ndcg@10"] >= best["ndcg@10"]
    ]
    words = f"The peer's best, {best['ndcg@10']:.4f} after {best['seconds']:,.0f} s, "
    if not reached:
        return words + "was not reached by any of our runs.\n"
    seconds, name = min(reached)
    share = limit_s / seconds
    goal = "reached" if share >= SHARE else "not reached"
    return (
        f"{words}is reached by {name} in {seconds:,.0f} s, 1/{share:.1f} of the peer's "
        f"{limit_s:,.0f} s (goal 1/{SHARE}: {goal}).\n"
    )


def _row(label: str, seconds: float, row: Mapping[str, Any], holder: Mapping[str, Any]) -> str:
    low, high = row["ci"]["ndcg@10"]
    return (
        f"| {label} | {seconds:,.0f} | {row['ndcg@10']:.4f} | {low:.4f}–{high:.4f} "
        f"| {row['hr@10']:.4f} | {holder['peak_rss_mib']:,.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=LENGTHS, default="P1-ml-1m")
    parser.add_argument("--minutes", type=float, default=45.0, help="of training")
    parser.add_argument("--env", type=Path, default=default_env().with_name("rectools-env"))
    parser.add_argument("--threads", type=int, default=THREADS, help="of the peer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    so_far = race(
        options.only,
        options.data_dir,
        options.env,
        options.minutes,
        options.seed,
        options.threads,
    )
    for result in so_far:
        row = result["epochs"][-1]
        print(f"epoch {row['epoch']}: {row['ndcg@10']:.4f} after {row['seconds']:,.0f} s")
        store(f"{result['id']}.json", result)  # after each epoch: what was stopped is kept
    return 0


if __name__ == "__main__":
    sys.exit(main())
