"""Vowpal Wabbit as a policy of the loop, on the same candidates, features and luck.

    python -m venv /tmp/vw-venv && /tmp/vw-venv/bin/pip install vowpalwabbit numpy
    python benchmarks/tuning/vw.py --world shop --slates 2000 --first 200 --seeds 201 \
        --python /tmp/vw-venv/bin/python                  (the grid; stores results/vw-shop.json)
    python benchmarks/tuning/vw.py --world shop --seeds 3 --python /tmp/vw-venv/bin/python \
        --words "--cb_explore_adf --bag 5 -l 0.1"         (the best of it, kept beside loop.py's)

Its candidates are the best 50 of the frozen blend. For each place it is asked anew for its
distribution over those that are left, and an item is drawn by luck that depends on visitor, visit
and place alone. It learns each shown place with the clicks divided by the known probability that
the place is looked at.
"""

import argparse
import io
import json
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from loop_runs import RUNS, Kept, made_of, missing

from steerec.engine.evaluate import commit, machine
from steerec.engine.loop import Board, LoopConfig, Served, Trace, best_of, run
from steerec.engine.loop_figures import figures
from steerec.engine.model import Model
from steerec.engine.policies import FixedBlend
from steerec.engine.simulate import WORLDS, build_world, fit_heads
from steerec.simulation.chance import NOISE, uniform
from steerec.simulation.world import World, examined

HERE = Path(__file__).parent
GRID = (
    "--cb_explore_adf --epsilon 0.05 -l 0.1",
    "--cb_explore_adf --bag 5 -l 0.1",
    "--cb_explore_adf --squarecb -l 0.1",
    "--cb_explore_adf --epsilon 0.02 -l 0.5",
    "--cb_explore_adf --squarecb --gamma_scale 100 -l 0.5",
)
CANDIDATES, PLACES = 50, 10


class VowpalWabbit:
    """A child process that gives distributions over candidates; see Policy."""

    temperature = 0.0  # it draws by itself

    def __init__(self, python: Path, words: str, frozen: FixedBlend, seed: int) -> None:
        self.name = "vw"
        self._frozen, self._seed = frozen, seed
        self._propensity = np.ones((0, 0))  # of the block that was asked for last
        script = str(HERE / "vw_child.py")
        self._child = subprocess.Popen(
            [str(python), script, *words.split()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def weigh(self, board: Board) -> np.ndarray:
        scores = np.where(board.allowed, self._frozen.weigh(board), -np.inf).astype(np.float64)
        pool, _ = best_of(scores, CANDIDATES)
        rows, visit = np.arange(len(pool))[:, None], board.visit
        place = np.arange(1, PLACES + 1)
        luck = uniform(self._seed, NOISE, visit.visitor[:, None], visit.number[:, None], place)
        z = np.moveaxis(board.z[:, rows, pool], 0, 2)
        self._send(z=z, phi=board.phi, open=pool >= 0, luck=luck)
        drawn = self._receive()
        self._propensity = drawn["propensity"]
        weighed = np.full(scores.shape, -np.inf)
        items = np.take_along_axis(pool, drawn["places"], axis=1)
        found = drawn["places"] >= 0
        weighed[np.nonzero(found)[0], items[found]] = -np.broadcast_to(place, items.shape)[found]
        return weighed

    def learn(self, board: Board, served: Served) -> None:
        rows = np.arange(len(served.items))[:, None]
        z = np.moveaxis(board.z[:, rows, served.items], 0, 2)
        cost = -1.0 * served.clicks / examined(served.items.shape[1])
        shown = served.items >= 0
        self._send(z=z, phi=board.phi, cost=cost, propensity=self._propensity, open=shown)

    def telling(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self._child.stdin.close()
        self._child.wait()

    def _send(self, **arrays: np.ndarray) -> None:
        out = io.BytesIO()
        np.savez(out, **arrays)
        self._child.stdin.write(struct.pack("<q", out.getbuffer().nbytes))
        self._child.stdin.write(out.getbuffer())
        self._child.stdin.flush()

    def _receive(self) -> dict[str, np.ndarray]:
        head = self._child.stdout.read(8)
        if len(head) < 8:
            raise RuntimeError("Vowpal Wabbit stopped: see its message above")
        body = self._child.stdout.read(struct.unpack("<q", head)[0])
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def grid(options: argparse.Namespace) -> None:
    """Each of the grid on seeds of its own; the best one is then run on others."""
    world, model, loop = _scene(options)
    frozen = FixedBlend.frozen(model, loop.temperature)
    seeds = range(options.first, options.seeds)
    base = {"frozen": [run(world, model, frozen, loop, seed=seed) for seed in seeds]}
    rows = []
    for words in GRID:
        traces = [_play(options, world, model, loop, words, seed)[0] for seed in seeds]
        rows.append({"words": words, **figures({**base, "vw": traces})["vw"]})
        print(json.dumps(rows[-1]), flush=True)
    told = {
        "id": f"P5-vw-{options.world}-{options.slates}",
        "commit": commit(),
        "machine": machine(),
        "data_hash": world.data.content_hash,
        "seeds": list(seeds),
        "slates": options.slates,
        "grid": rows,
    }
    file = HERE / "results" / f"vw-{options.world}.json"
    file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def best(options: argparse.Namespace) -> None:
    """One of the grid on the seeds that are reported; each run is kept beside loop.py's."""
    world, model, loop = _scene(options)
    kept = Kept.open(options.keep, options.world, loop, made_of(model))
    for _, seed in missing(kept, ["vw"], range(options.first, options.seeds)):
        trace, cpu_s = _play(options, world, model, loop, options.words, seed)
        load = round(os.getloadavg()[0], 1)
        kept.keep(trace, cpu_s=cpu_s, load=load, words=options.words)


def _scene(options: argparse.Namespace) -> tuple[World, Model, LoopConfig]:
    world = build_world(options.world, Path(options.data_dir), options.cache_dir)
    return world, fit_heads(world), LoopConfig(slates=options.slates)


def _play(
    options: argparse.Namespace,
    world: World,
    model: Model,
    loop: LoopConfig,
    words: str,
    seed: int,
) -> tuple[Trace, float]:
    """A run and the processor's seconds, those of the child apart."""
    began = time.process_time()
    frozen = FixedBlend.frozen(model, loop.temperature)
    policy = VowpalWabbit(options.python, f"{words} --random_seed {seed + 1}", frozen, seed)
    trace = run(world, model, policy, loop, seed=seed)
    policy.close()
    return trace, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--slates", type=int, default=LoopConfig().slates)
    parser.add_argument("--words", default="", help="one setting; none: the grid")
    parser.add_argument("--python", type=Path, required=True, help="of Vowpal Wabbit's environment")
    parser.add_argument("--keep", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    (best if options.words else grid)(options)


if __name__ == "__main__":
    main()
