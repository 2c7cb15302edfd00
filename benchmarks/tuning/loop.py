"""P5: the closed loop in one world; stores results/loop-WORLD.json and .png.

python benchmarks/tuning/loop.py --world shop --seeds 3
python benchmarks/tuning/loop.py --world shop --seeds 20 --policies frozen ours   (more of these)
python benchmarks/tuning/loop.py --world shop --seeds 3 --slates 4000   (a look)
python benchmarks/tuning/loop.py --figures   (all results anew from the runs that are kept)

Each run is kept in cache/runs as soon as it is over; a run that is there is not made again.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from loop_figure import draw
from loop_runs import RUNS, Kept, made_of, missing

from steerec.engine.loop import LoopConfig, Trace
from steerec.engine.loop_figures import figures, per_seed, recovered_by, summary, windows
from steerec.engine.simulate import (
    POLICIES,
    WORLDS,
    SimulateConfig,
    build_world,
    cores,
    fit_heads,
    traces,
)

RESULTS = Path(__file__).parent / "results"
WINDOW = 2_000  # slates
CLOSED = 0.8  # of the gap to the best blend
WORST = -0.02  # under the frozen blend in any window, mean over seeds
GOALS = {"shop": 0.15, "films": 0.25, "jester": 0.25}


def goals(world: str, runs: dict[str, list[Trace]], told: dict[str, Any]) -> dict[str, Any]:
    """Each goal of P5 with its figure and whether it holds; None where it cannot be told."""
    if not {"ours", "frozen", "popularity", "oracle_blend"} <= set(runs):
        return {}
    ours = told["ours"]
    over, frozen_ci = ours["lift_over_popularity"]["mean"], ours["lift_over_frozen"]["ci"]
    gap = drift_gap(runs)
    open_gap = gap["ci"] is not None and gap["ci"][0] > 0
    worst = worst_window(runs)
    found = {
        "over_popularity": {"figure": over, "goal": GOALS[world], "holds": over >= GOALS[world]},
        "over_frozen_low": {
            "figure": frozen_ci and frozen_ci[0],
            "holds": frozen_ci and frozen_ci[0] > 0,
        },
        "gap_per_1000_after_drift": gap,
        "recovered_by": _closed(recovered_by("ours", runs), open_gap=open_gap),
        "recovery": _closed(ours["recovery"], open_gap=open_gap),
        "worst_window_under_frozen": {"figure": worst, "holds": worst >= WORST},
    }
    if "vw" in runs:
        ahead = over_vw(runs)
        low, high = ahead["ci"] or (-1.0, 1.0)  # one seed tells nothing
        told_apart = low > 0 or high < 0
        found["over_vw"] = {**ahead, "holds": ahead["mean"] > 0 if told_apart else None}
    return found


def _closed(share: float | None, *, open_gap: bool) -> dict[str, Any]:
    return {"figure": share, "holds": share >= CLOSED if share is not None and open_gap else None}


def worst_window(runs: dict[str, list[Trace]]) -> float:
    """Lift over the frozen blend in the worst window of 2,000 slates, mean over seeds."""
    both = {run.seed for run in runs["ours"]} & {run.seed for run in runs["frozen"]}
    size = min(WINDOW, len(runs["ours"][0].clicks) // 2)
    ours, frozen = (
        windows([run for run in runs[name] if run.seed in both], size)
        for name in ("ours", "frozen")
    )
    return float((ours.mean(axis=0) / frozen.mean(axis=0) - 1).min())


def drift_gap(runs: dict[str, list[Trace]]) -> dict[str, Any]:
    """Expected clicks per 1,000 slates from the frozen to the best blend in the second half."""

    def late(run: Trace) -> float:
        return 1_000 * float(run.expected[len(run.expected) // 2 :].mean())

    best, frozen = (per_seed(runs[name], late) for name in ("oracle_blend", "frozen"))
    return summary({seed: best[seed] - frozen[seed] for seed in best.keys() & frozen.keys()})


def over_vw(runs: dict[str, list[Trace]]) -> dict[str, Any]:
    """Lift of ours over Vowpal Wabbit in clicks, paired by seed."""
    ours, theirs = (
        per_seed(runs[name], lambda run: float(run.clicks.mean())) for name in ("ours", "vw")
    )
    return summary({seed: ours[seed] / theirs[seed] - 1 for seed in ours.keys() & theirs.keys()})


def store(kept: Kept) -> None:
    """Figures with all that is needed to repeat them, and the plot."""
    found = kept.runs()
    runs = {name: [trace for trace, _ in found[name]] for name in _ordered(found)}
    facts = [fact for some in found.values() for _, fact in some]
    told, slates = figures(runs), kept.about["loop"]["slates"]
    result = {
        "id": f"P5-{kept.folder.name}",
        "commits": sorted({fact["commit"] for fact in facts}),
        "machine": sorted({fact["machine"] for fact in facts}),
        "load": [min(fact["load"] for fact in facts), max(fact["load"] for fact in facts)],
        "finished": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        **kept.about,
        "slates": slates,
        "seeds": {name: [run.seed for run in some] for name, some in runs.items()},
        "cpu_seconds": {
            name: round(sum(fact["cpu_s"] for _, fact in found[name]) / len(found[name]), 1)
            for name in runs
        },
        "vw": sorted({fact["words"] for _, fact in found.get("vw", [])}),
        "interval": "95 %, Student's t over seeds; lifts paired by seed",
        "goals": goals(kept.about["world"], runs, told),
        "policies": told,
        "notes_of_ours": [run.notes for run in runs.get("ours", [])],
    }
    RESULTS.mkdir(exist_ok=True)
    short = "" if slates == LoopConfig().slates else f"-{slates}"
    file = RESULTS / f"loop-{kept.about['world']}{short}.json"
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", "utf-8")
    draw(kept.about, runs, file.with_suffix(".png"))
    print(json.dumps(result["goals"], indent=1))


def _ordered(names: Any) -> list[str]:
    known = [*POLICIES[:-2], "vw", *POLICIES[-2:]]
    return [name for name in known if name in names]


def play(options: argparse.Namespace) -> Kept:
    """Make what is missing of the runs."""
    loop = LoopConfig(slates=options.slates)
    config = SimulateConfig(
        world=options.world,
        seeds=options.seeds,
        policies=tuple(options.policies),
        processes=options.processes,
        loop=loop,
    )
    world = build_world(options.world, Path(options.data_dir), options.cache_dir)
    model = fit_heads(world)
    kept = Kept.open(options.keep, options.world, loop, made_of(model))
    jobs = missing(kept, config.policies, range(options.first, options.seeds))
    for trace in traces(world, model, config, jobs):
        kept.keep(trace, cpu_s=trace.cpu_s, load=round(os.getloadavg()[0], 1))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", action="store_true", help="only tell what is kept")
    parser.add_argument("--world", choices=WORLDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--slates", type=int, default=LoopConfig().slates)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--keep", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("STEEREC_DATA_DIR"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if options.figures:
        for world in WORLDS:
            if (options.keep / f"{world}-{options.slates}").is_dir():
                store(Kept.found(options.keep, world, options.slates))
        return
    if options.data_dir is None or options.world is None:
        parser.error("give --world, and --data-dir or STEEREC_DATA_DIR: the folder of all sets")
    store(play(options))


if __name__ == "__main__":
    main()
