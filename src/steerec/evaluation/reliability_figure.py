"""Whether the chances that models give come true, drawn for a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from steerec.evaluation import page
from steerec.evaluation.page import Html
from steerec.evaluation.wording import name_of

SHOWN = 5  # lines that can be told apart
LEAST_HITS = 5  # a point with fewer would only show chance

_WORDS = (
    "Items in groups by the chance that the model gave them to be the next one, and how many "
    "were, on requests that nothing was fitted on. On the dotted line chances come true; below it "
    "the model promises too much. Bars: 95 % intervals of the blend. Groups with fewer than "
    f"{LEAST_HITS} right items are left out."
)


def reliability_figure(
    reliability: Mapping[str, Mapping[str, Any]], best: Sequence[str]
) -> list[Html]:
    """A section with figure and table; nothing where there is nothing to draw.

    Args:
        reliability: model → error_nats and bins, as in the JSON of `steerec evaluate`.
        best: all models, the best first.
    """
    points = {name: _points(of["bins"]) for name, of in reliability.items()}
    known = [name for name in best if len(points.get(name, ((), ()))[0])]
    if not known:
        return []
    known.sort(key=lambda name: name != "blend")
    drawing, axes = page.chart(9, 4.2)
    for name, colour in zip(known[:SHOWN], page.SERIES, strict=False):
        _line(axes, points[name], colour, name)
    _even_line(axes, [points[name] for name in known[:SHOWN]])
    axes.set_xlabel("chance given")
    axes.set_ylabel("share that came true")
    page.legend(axes)
    rows = [[name_of(name), _factor(reliability[name]["error_nats"])] for name in known]
    alt = "; ".join(f"{row[0]} off by {row[1] or 'an unknown factor'}" for row in rows)
    return [
        page.heading("Do the chances come true?"),
        page.figure(drawing, alt=f"Reliability: {alt}", caption=_WORDS),
        page.table(["model", "chances are off by, on average"], rows),
    ]


def _points(bins: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float], list[float]]:
    """Chance given, share come true, and hits of each bin."""
    told = [b for b in bins if b["hits"] >= LEAST_HITS and b["items"] > 0]
    return (
        [b["given"] / b["items"] for b in told],
        [b["hits"] / b["items"] for b in told],
        [b["hits"] for b in told],
    )


def _line(
    axes: Axes, points: tuple[list[float], list[float], list[float]], colour: str, name: str
) -> None:
    given, true, hits = (np.array(one) for one in points)
    label = page.label(name_of(name))
    axes.loglog(given, true, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)
    if name == "blend":
        reach = true * np.minimum(1.96 / np.sqrt(hits), 0.99)  # a count varies by its square root
        axes.errorbar(given, true, yerr=reach, fmt="none", ecolor=colour, linewidth=1.0)


def _even_line(axes: Axes, points: Sequence[tuple[list[float], ...]]) -> None:
    given = [x for one in points for x in one[0]]
    ends = [min(given), max(given)]
    axes.plot(ends, ends, color=page.INK, linewidth=1.0, linestyle=":")


def _factor(nats: float | None) -> str:
    return "" if nats is None else f"a factor of {np.exp(nats):.2f}"
