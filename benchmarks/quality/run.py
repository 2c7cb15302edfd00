"""Run scenarios of benchmarks/quality and store their figures in results/ID.json."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers.environment import default_env, ready_env
from peers.export import export_split
from scenarios import SCENARIOS, Scenario

from steerec.data.public import PUBLIC_SETS
from steerec.data.read import read_tables
from steerec.engine.evaluate import commit, machine
from steerec.evaluation.intervals import Bootstrap, intervals
from steerec.evaluation.metrics import rank_metrics
from steerec.evaluation.protocols import Task, prepare

HERE = Path(__file__).parent
RESULTS = HERE / "results"
THREADS = 2
PEER_LIMIT_S = 2_400  # as long as our own fit may take on the largest set
PEERS = (
    "implicit-cosine",
    "implicit-bm25",
    "implicit-als-movielens",
    "implicit-als-tutorial",
    "implicit-als-plain",
    "lenskit-item-knn",
    "lenskit-ease",
    "lenskit-implicit-mf",
)
LIBRARIES = ("numpy", "scipy", "torch", "onnxruntime", "implicit")


def child_env(threads: int = THREADS) -> dict[str, str]:
    """This environment with the threads of all numeric libraries fixed."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON", "POLARS_MAX", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    limits["POLARS_MAX_THREADS"] = limits.pop("POLARS_MAX_NUM_THREADS")
    return {**os.environ, **limits}


def conditions(threads: int | None = None) -> dict[str, Any]:
    """What stood around a run; threads: those of this process if it is the one that works."""
    own = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return {
        "threads": threads or own,
        "load_average_before": round(os.getloadavg()[0], 1),
        "finished": "",
        "versions": {name: version(name) for name in LIBRARIES},
    }


def run_product(name: str, scenario: Scenario, options: argparse.Namespace) -> None:
    """`steerec evaluate` in a process of its own, so that seconds and memory are the product's."""
    data_dir, seed, threads = options.data_dir, options.seed, options.threads
    ablation = not options.no_ablation and scenario.track != "refit"
    around = conditions(threads)
    known = scenario.data in PUBLIC_SETS
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        words = [
            str(Path(sys.executable).with_name("steerec")),
            "evaluate",
            f"--data={scenario.data if known else data_dir / scenario.data}",
            f"--data-dir={data_dir}",
            f"--protocol={scenario.protocol}",
            f"--track={scenario.track}",
            f"--heads={scenario.heads}",
            f"--seed={seed}",
            f"--json={out}",
            *(["--ablation"] if ablation else []),
        ]
        if scenario.settings:
            config = Path(folder) / "steerec.toml"
            config.write_text(scenario.settings, "utf-8")
            words.append(f"--config={config}")
        subprocess.run(words, check=True, env=child_env(threads))
        result = json.loads(out.read_text("utf-8"))
    result["data"] = scenario.data
    store(f"{name}.json", {"id": name, **around, **result})


def run_peers(name: str, scenario: Scenario, data_dir: Path, env: Path, seed: int) -> bool:
    """Every peer on the same split; True if none failed."""
    python, around = ready_env(env), conditions(THREADS)
    tables = read_tables(data_dir / scenario.data).tables
    task = prepare(tables, scenario.protocol, scenario.track, name=scenario.data)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        split = Path(folder) / "split.npz"
        export_split(task, split)
        for peer in PEERS:
            print(f"{name}: {peer}", flush=True)
            found[peer] = run_peer(python, peer, split, task, seed)
    about = {
        "id": name,
        **around,
        "data": scenario.data,
        "protocol": scenario.protocol,
        "track": scenario.track,
        "data_hash": task.split.cases.data.content_hash,
        "requests": len(task.split.cases),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
    }
    store(f"{name}.peers.json", {**about, "peers": found})
    return not any("failed" in row for row in found.values())


def run_peer(python: Path, peer: str, split: Path, task: Task, seed: int) -> dict[str, Any]:
    """One peer in its own process and environment, measured by our metrics."""
    out = split.with_name(f"{peer}.npz")
    words = [python, HERE / "peers" / "compete.py", "--peer", peer, "--split", split, "--out", out]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": PEER_LIMIT_S}
    try:
        done = subprocess.run([str(w) for w in words], check=False, env=child_env(), **options)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {PEER_LIMIT_S:,} s"}
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        print(f"{peer} failed: {reason}")
        return {"failed": reason}
    with np.load(out) as arrays:
        measured = measure_lists(arrays["lists"], task, seed)
    return {**json.loads(done.stdout.splitlines()[-1]), **measured}


def measure_lists(lists: np.ndarray, task: Task, seed: int) -> dict[str, Any]:
    """The metrics of shown lists, with intervals over users; a target not listed has no rank."""
    cases = task.split.cases
    group = np.repeat(np.arange(len(cases)), np.diff(cases.offsets))
    hit = lists[group] == cases.targets[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)
    values = dict(rank_metrics(rank, group=group))
    bounds = intervals(values, Bootstrap.draw(cases.user_idx, np.random.default_rng(seed)))
    return {
        **{metric: bound.mean for metric, bound in bounds.items()},
        "ci": {metric: [bound.low, bound.high] for metric, bound in bounds.items()},
    }


def store(file_name: str, result: dict[str, Any]) -> None:
    """Write one result; only figures, nothing of the data."""
    result["finished"] = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (RESULTS / file_name).write_text(text + "\n", "utf-8")
    print(f"stored results/{file_name}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--all", action="store_true", help="every scenario, with peers")
    chosen.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="ID")
    chosen.add_argument("--list", action="store_true", help="show the ids")
    parser.add_argument("--peers", action="store_true", help="also run the peers")
    parser.add_argument("--peers-only", action="store_true", help="leave steerec's own run out")
    parser.add_argument(
        "--no-ablation", action="store_true", help="leave out the blend without each head"
    )
    parser.add_argument("--env", type=Path, default=default_env(), help="the peers' environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=THREADS, help="of our own run")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    options = parser.parse_args()
    if options.data_dir is None and not options.list:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    return options


def main() -> int:
    options = arguments()
    if options.list:
        print("\n".join(SCENARIOS))
        return 0
    failed = []
    for name in SCENARIOS if options.all else options.only:
        scenario = SCENARIOS[name]
        if not options.peers_only:
            try:
                run_product(name, scenario, options)
            except subprocess.CalledProcessError as e:
                print(f"{name} failed with exit status {e.returncode}")
                failed.append(name)
        asked = options.all or options.peers or options.peers_only
        if (
            asked
            and scenario.peers
            and not run_peers(name, scenario, options.data_dir, options.env, options.seed)
        ):
            failed.append(f"{name} (a peer)")
    if failed:
        print("failed: " + ", ".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
