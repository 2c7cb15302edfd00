"""Learning curves of heads that train by epochs: loss and validation, drawn for a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from steerec.evaluation import page
from steerec.evaluation.page import Html
from steerec.evaluation.wording import name_of

_WORDS = (
    "Left: the mean training loss of each epoch; heads have losses of their own, so compare a "
    "line only with itself. Right: NDCG@10 on events held back from training; a head keeps the "
    "weights of its best epoch. From a dotted line on, training went on with the newest events."
)


def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Html]:
    """A section with the curves; nothing where no head trained by epochs.

    Args:
        curves: head → one entry an epoch: epoch, loss, validation (or None), seconds, and
            continued where the training went on from an earlier one.
    """
    shown = {name: entries for name, entries in curves.items() if entries}
    if not shown:
        return []
    drawing, left = page.chart(9, 3.4)
    left.set_subplotspec(drawing.add_gridspec(1, 2)[0])
    right = drawing.add_subplot(1, 2, 2)
    page.dress(right)
    for number, (name, entries) in enumerate(shown.items()):
        colour = page.SERIES[number % len(page.SERIES)]
        _line(left, entries, "loss", colour, page.label(name_of(name)))
        _line(right, entries, "validation", colour, page.label(name_of(name)))
    for axes, words in ((left, "training loss"), (right, "NDCG@10 on held-back events")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(words)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    page.legend(left)
    rows = [_row(name, entries) for name, entries in shown.items()]
    alt = "; ".join(f"{row[0]} {row[1]} epochs, last loss {row[2]}" for row in rows)
    return [
        page.heading("How the trained models learnt"),
        page.figure(drawing, alt=f"Learning curves: {alt}", caption=_WORDS),
        page.table(["model", "epochs", "last loss", "best validation", "seconds"], rows),
    ]


def _line(
    axes: Axes, entries: Sequence[Mapping[str, Any]], what: str, colour: str, name: str
) -> None:
    """One series, and a dotted line where the training went on from an earlier one."""
    known = [(e["epoch"], e[what]) for e in entries if e.get(what) is not None]
    if known:
        x, y = zip(*known, strict=True)
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=name)
    first = next((e["epoch"] for e in entries if e.get("continued")), None)
    if first is not None:
        axes.axvline(first - 0.5, color=colour, linewidth=1.0, linestyle=":")


def _row(name: str, entries: Sequence[Mapping[str, Any]]) -> list[object]:
    validations = [e["validation"] for e in entries if e.get("validation") is not None]
    best = f"{max(validations):.4f}" if validations else ""
    seconds = sum(e.get("seconds", 0.0) for e in entries)
    return [name_of(name), len(entries), f"{entries[-1]['loss']:.4f}", best, f"{seconds:.1f}"]
