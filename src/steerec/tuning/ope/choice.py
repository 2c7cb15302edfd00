"""Choose an estimator, and how strongly to tame it, from the log alone."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from steerec.tuning.ope.estimators import (
    ESTIMATORS,
    Estimate,
    Evidence,
    Reading,
    estimate,
)
from steerec.tuning.ope.interval import half_width
from steerec.tuning.ope.log import Array

PARAMETERS = (np.inf, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
# From the fewest assumptions on: rewards that depend on what stands above; on item and place; the
# same with large weights tamed; on cluster and place; on what the reward model knows.
AUTOMATIC = ("cascade_dr", "place_dr", "place_dros", "cluster_dr", "dm")
CORRECTED = ("cascade_dr", "place_dr", "place_dros")  # never the model alone


def automatic(
    evidence: Evidence,
    reading: Reading,
    *,
    minus: Reading | None = None,
    among: Sequence[str] = AUTOMATIC,
) -> Estimate:
    """Estimate the value of a policy by what SLOPE chooses among these estimators.

    Args:
        minus: a second policy; the estimate is then of the difference to it.
        among: names of ESTIMATORS; those that lack their weights are passed over.
    Raises:
        ValueError: if none of them can be had.
    """
    found = list(candidates(evidence, reading, minus=minus, among=among))
    if not found:
        raise ValueError(f"none of {', '.join(among)} has the weights it needs")
    return slope(found, unit=evidence.log.unit)


def candidates(
    evidence: Evidence,
    reading: Reading,
    *,
    minus: Reading | None = None,
    among: Sequence[str] = AUTOMATIC,
) -> Iterable[Estimate]:
    """Every estimator of `among` with every parameter of its taming."""
    for name in among:
        recipe = ESTIMATORS[name]
        if any(recipe.kind not in r.weights for r in (reading, minus) if r is not None):
            continue
        for parameter in PARAMETERS if recipe.taming in ("switch", "shrink") else (np.inf,):
            found = estimate(name, evidence, reading, parameter=parameter)
            if minus is not None:
                found = difference(found, estimate(name, evidence, minus, parameter=parameter))
            yield found


def difference(proposed: Estimate, present: Estimate) -> Estimate:
    """How much more the first is worth, slate by slate, so that what they share cancels."""
    return replace(
        proposed,
        value=proposed.value - present.value,
        terms=proposed.terms - present.terms,
        ess=min(proposed.ess, present.ess),
    )


def slope(found: Sequence[Estimate], *, unit: Array | None = None) -> Estimate:
    """The narrowest estimate that still agrees with all wider ones.

    Estimates are taken from the widest (least biased) on; each must share a point with the
    intersection of the intervals before it, mean ± 2 half widths.

    Source: Su, Srinath and Krishnamurthy 2020, Adaptive estimator selection, algorithm 1 (SLOPE).
    """
    widths = np.array([half_width(one.terms, unit=unit) for one in found])
    low, high = -np.inf, np.inf
    chosen = int(np.argmax(widths))
    for place in np.argsort(-widths, kind="stable"):
        low = max(low, found[place].value - 2 * widths[place])
        high = min(high, found[place].value + 2 * widths[place])
        if low > high:
            break
        chosen = int(place)
    return found[chosen]
