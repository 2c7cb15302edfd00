"""P5: the closed loop in one world, with plots; stores results/loop-WORLD.json and .png.

python benchmarks/tuning/loop.py --world shop --seeds 3
python benchmarks/tuning/loop.py --world shop --seeds 3 --slates 4000   (a look)
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from steerec.engine.evaluate import commit, machine
from steerec.engine.loop import LoopConfig, Trace
from steerec.engine.loop_figures import per_seed, summary, windows
from steerec.engine.simulate import POLICIES, WORLDS, SimulateConfig, Simulated, cores, simulate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WINDOW = 2_000  # slates
WORST = -0.02  # under the frozen blend in any window, mean over seeds
GOALS = {"shop": 0.15, "films": 0.25, "jester": 0.25}


def goals(found: Simulated) -> dict[str, Any]:
    """Each goal of P5 with its figure and whether it holds; None where it cannot be told."""
    runs, told = found.runs, found.to_json()["policies"]
    if not {"ours", "frozen", "popularity", "oracle_blend"} <= set(runs):
        return {}
    size = min(WINDOW, found.config.loop.slates // 2)
    ours, frozen = windows(runs["ours"], size), windows(runs["frozen"], size)
    worst = float((ours.mean(axis=0) / frozen.mean(axis=0) - 1).min())
    over = told["ours"]["lift_over_popularity"]["mean"]
    frozen_ci = told["ours"]["lift_over_frozen"]["ci"]
    gap = drift_gap(found)
    open_gap = gap["ci"] is not None and gap["ci"][0] > 0
    recovered = told["ours"]["recovery"]
    return {
        "over_popularity": {"figure": over, "holds": over >= GOALS[found.config.world]},
        "over_frozen_low": {
            "figure": frozen_ci and frozen_ci[0],
            "holds": frozen_ci and frozen_ci[0] > 0,
        },
        "gap_per_1000_after_drift": gap,
        "recovery": {"figure": recovered, "holds": recovered >= 0.8 if open_gap else None},
        "worst_window_under_frozen": {"figure": worst, "holds": worst >= WORST},
    }


def drift_gap(found: Simulated) -> dict[str, Any]:
    """Expected clicks per 1,000 slates from the frozen to the best blend in the second half."""

    def late(run: Trace) -> float:
        return 1_000 * float(run.expected[len(run.expected) // 2 :].mean())

    best, frozen = (per_seed(found.runs[name], late) for name in ("oracle_blend", "frozen"))
    return summary({seed: best[seed] - frozen[seed] for seed in best})


def draw(found: Simulated, file: Path) -> None:
    """Reward over time with bands, regret, head weights of ours, and the way back after drift."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    size = max(found.config.loop.slates // 40, 1)
    for name, runs in found.runs.items():
        over_time(panels[0, 0], name, windows(runs, size), size)
    panels[0, 0].set(title="Expected clicks per 1,000 slates", xlabel="slates")
    if "oracle" in found.runs:
        best = windows(found.runs["oracle"], size)
        for name, runs in found.runs.items():
            lost = np.cumsum(best - windows(runs, size), axis=1) * size / 1_000
            over_time(panels[0, 1], name, lost, size)
    panels[0, 1].set(title="Regret against the oracle, clicks so far", xlabel="slates")
    weights(panels[1, 0], found)
    recovery(panels[1, 1], found, size)
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{found.config.world}, {found.config.seeds} seeds; drift at half time")
    figure.savefig(file, dpi=90)
    plt.close(figure)


def over_time(panel: Any, name: str, values: np.ndarray, size: int) -> None:
    """The mean over seeds, and a band of two standard errors."""
    at, mean = size * np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    (line,) = panel.plot(at, mean, label=name)
    if len(values) > 1:
        half = 2 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
        panel.fill_between(at, mean - half, mean + half, color=line.get_color(), alpha=0.2)


def weights(panel: Any, found: Simulated) -> None:
    if "ours" not in found.runs:
        return
    told = found.runs["ours"][0].told
    at = [one["slates"] for one in told]
    for row, head in enumerate(found.heads):
        panel.plot(at, [one["weights"][row] for one in told], label=head, lw=0.8)
    panel.set(title="Head weights of ours, seed 0", xlabel="slates")
    panel.legend(fontsize=8)


def recovery(panel: Any, found: Simulated, size: int) -> None:
    if not {"ours", "frozen", "oracle_blend"} <= set(found.runs):
        return
    ours, frozen, best = (
        windows(found.runs[name], size).mean(axis=0) for name in ("ours", "frozen", "oracle_blend")
    )
    at = size * np.arange(1, len(ours) + 1)
    panel.plot(at, (ours - frozen) / np.maximum(best - frozen, 1e-9))
    panel.axvline(found.config.loop.slates / 2, color="grey", ls=":")
    panel.axhline(0.8, color="grey", ls=":")
    panel.set(
        title="Gap from frozen to best blend, share closed", xlabel="slates", ylim=(-0.5, 1.5)
    )


def store(found: Simulated, name: str) -> None:
    """Figures with all that is needed to repeat them."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "id": f"P5-{name}",
        "commit": commit(),
        "machine": machine(),
        "finished": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "data_hash": found.data_hash,
        "seconds": round(found.seconds),
        "processes": found.config.processes,
        "temperature": found.config.loop.temperature,
        "heads": found.heads,
        "interval": "95 %, Student's t over seeds; lifts paired by seed",
        "goals": goals(found),
        **found.to_json(),
        "notes_of_ours": [run.notes for run in found.runs.get("ours", [])],
    }
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", "utf-8")
    draw(found, RESULTS / f"{name}.png")
    print(json.dumps(result["goals"], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slates", type=int, default=20_000)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("give --data-dir or set STEEREC_DATA_DIR: a folder with the sets by name")
    logging.basicConfig(level=logging.WARNING)
    config = SimulateConfig(
        world=options.world,
        seeds=options.seeds,
        policies=tuple(options.policies),
        processes=options.processes,
        loop=LoopConfig(slates=options.slates),
    )
    found = simulate(config, Path(options.data_dir), options.cache_dir)
    short = "" if options.slates == LoopConfig().slates else f"-{options.slates}"
    store(found, f"loop-{options.world}{short}")


if __name__ == "__main__":
    main()
