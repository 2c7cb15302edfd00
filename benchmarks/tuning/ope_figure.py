"""The figure of P6: relative error and coverage of every estimator, world by world."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHOWN = (
    "dm",
    "ips",
    "snips",
    "dr",
    "rips",
    "cascade_dr",
    "switch_dr_tuned",
    "dros_tuned",
    "mips_cluster",
    "mips",
    "place_snips",
    "place_dr",
    "place_dros_tuned",
    "place_wdr",
    "automatic",
)


def draw_figure(folder: Path) -> None:
    """Write P6.png from the results in `folder`."""
    results = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("P6-*-*.json"))]
    results = [r for r in results if "summary" in r]
    if not results:
        raise SystemExit(f"no P6-*.json in {folder}: run ope.py first")
    figure, axes = plt.subplots(2, len(results), figsize=(3.2 * len(results) + 1.5, 7), sharey=True)
    for column, result in enumerate(results):
        errors, covers = axes[:, column] if len(results) > 1 else axes
        _bars(errors, covers, result)
    figure.tight_layout()
    figure.savefig(folder / "P6.png", dpi=110)


def _bars(errors: Any, covers: Any, result: dict[str, Any]) -> None:
    rows = result["summary"]["estimators"]
    names = [name for name in SHOWN if name in rows]
    colours = ["tab:orange" if name == "automatic" else "tab:blue" for name in names]
    mean = [rows[name]["relative_error"] for name in names]
    reach = [
        [max(m - rows[n]["ci"][0], 0) for n, m in zip(names, mean, strict=True)],
        [max(rows[n]["ci"][1] - m, 0) for n, m in zip(names, mean, strict=True)],
    ]
    errors.barh(names, mean, xerr=reach, color=colours)
    errors.set_xscale("log")
    errors.set_xlim(1e-3, 1.5)
    errors.set_title(
        f"{result['world']}, {result['slates']:,} slates\n{len(result['pairs'])} pairs"
    )
    errors.set_xlabel("mean relative error (95 % interval)")
    covers.barh(names, [rows[n]["coverage"] for n in names], color=colours)
    covers.axvline(0.95, color="black", linewidth=0.8)
    covers.set_xlabel("share of 95 % intervals that hold the truth")
