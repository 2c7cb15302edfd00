"""The figure of P5: reward over time, regret, head weights of ours, the way back after drift."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from steerec.engine.loop import Trace
from steerec.engine.loop_figures import windows

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend is chosen

PARTS = 40  # of a run, each a point of a line
Runs = dict[str, list[Trace]]


def draw(about: dict[str, Any], runs: Runs, file: Path) -> None:
    """Write the picture of one world."""
    figure, panels = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    slates = about["loop"]["slates"]
    size = max(slates // PARTS, 1)
    for name, some in runs.items():
        _over_time(panels[0, 0], name, windows(some, size), size)
    panels[0, 0].set(title="Expected clicks per 1,000 slates", xlabel="slates")
    panels[0, 0].legend(fontsize=8)
    if "oracle" in runs:
        _regret(panels[0, 1], runs, size)
    _weights(panels[1, 0], about, runs)
    _recovery(panels[1, 1], runs, size)
    for panel in panels.flat:
        if panel.has_data():
            panel.axvline(slates / 2, color="grey", ls=":", lw=1)
        else:  # a policy that it is told by was not run
            panel.set_axis_off()
    seeds = ", ".join(f"{name} {len(some)}" for name, some in runs.items())
    figure.suptitle(f"{about['world']}; tastes drift at half time; seeds: {seeds}")
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _over_time(panel: Any, name: str, values: np.ndarray, size: int) -> None:
    """The mean over seeds, and a band of two standard errors."""
    at, mean = size * np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    (line,) = panel.plot(at, mean, label=name)
    if len(values) > 1:
        half = 2 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
        panel.fill_between(at, mean - half, mean + half, color=line.get_color(), alpha=0.2)


def _regret(panel: Any, runs: Runs, size: int) -> None:
    best = {run.seed: run for run in runs["oracle"]}
    for name, some in runs.items():
        both = [run for run in some if run.seed in best]
        if both:
            gap = windows([best[run.seed] for run in both], size) - windows(both, size)
            _over_time(panel, name, np.cumsum(gap, axis=1) * size / 1_000, size)
    panel.set(title="Regret against the oracle, clicks so far", xlabel="slates")


def _weights(panel: Any, about: dict[str, Any], runs: Runs) -> None:
    """Weights swing with the hour: a line is the mean of a part, the band its extremes."""
    if "ours" not in runs:
        return
    told = runs["ours"][0].told
    step = max(len(told) // PARTS, 1)
    at = [one["slates"] for one in told[step - 1 :: step]]
    weights, promoted = (
        np.array([one[name] for one in told])[: step * len(at)].reshape(len(at), step, -1)
        for name in ("weights", "promoted")
    )
    for row, head in enumerate(about["heads"]):
        (line,) = panel.plot(at, weights[:, :, row].mean(axis=1), label=head, lw=1.2)
        colour = line.get_color()
        low, high = weights[:, :, row].min(axis=1), weights[:, :, row].max(axis=1)
        panel.fill_between(at, low, high, color=colour, alpha=0.12, lw=0)
        panel.plot(at, promoted[:, :, row].mean(axis=1), color=colour, lw=0.8, ls="--")
    panel.set(
        title=f"Head weights of ours, seed {runs['ours'][0].seed} (dashed: promoted)",
        xlabel="slates",
    )
    panel.legend(fontsize=8)


def _recovery(panel: Any, runs: Runs, size: int) -> None:
    names = ("ours", "frozen", "oracle_blend")
    if not set(names) <= set(runs):
        return
    seeds = set.intersection(*({run.seed for run in runs[name]} for name in names))
    ours, frozen, best = (
        windows([run for run in runs[name] if run.seed in seeds], size).mean(axis=0)
        for name in names
    )
    at = size * np.arange(1, len(ours) + 1)
    panel.plot(at, (ours - frozen) / np.maximum(best - frozen, 1e-9))
    panel.axhline(0.8, color="grey", ls=":", lw=1)
    panel.set(
        title="Gap from frozen to best blend, share closed", xlabel="slates", ylim=(-0.5, 1.5)
    )
