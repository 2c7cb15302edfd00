"""Choose an estimator, and how strongly to tame it, from the log alone.

Two steps. What a reward may depend on decides between the reference estimators: SLOPE prefers the
narrower one unless it contradicts the one that assumes less. What taming, or trusting the reward
model alone, would then gain in variance is held against how biased it may be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from steerec.tuning.ope.estimators import ESTIMATORS, Estimate, Evidence, Reading, estimate
from steerec.tuning.ope.interval import LEVEL, interval, standard_error
from steerec.tuning.ope.log import Array

# Parameters of taming as shares of the number of slates, which bounds weights near its square root
# (Ionides 2008, Truncated importance sampling): bias and variance then fall together.
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# Reference → its kin, tamed more. The first holds if rewards
# depend on the items above, the second only if they depend on item and place.
REFERENCES = {"dros": ("dros", "switch_dr"), "place_dros": ("place_dros",)}
# Reference → the same weights, neither tamed nor corrected by a model.
UNTAMED = {"dros": "rips", "place_dros": "place_snips"}
LEAST_SLATES = 1_000.0  # effective; with fewer, an interval of heavy tails says little
AGREE = 3.92  # standard errors: twice the half width of a 95 % interval
DOUBT = 2.0  # standard errors of a difference that a bias may hide in


def automatic(
    evidence: Evidence,
    reading: Reading,
    *,
    minus: Reading | None = None,
    model_alone: bool = True,
) -> Estimate:
    """Estimate the value of a policy by the estimator that promises the least error.

    Args:
        minus: a second policy; the estimate is then of the difference to it.
        model_alone: whether the reward model may decide without being corrected by the log.
    """
    unit = evidence.log.unit
    found = list(candidates(evidence, reading, among=REFERENCES, minus=minus, shares=SHARES[:1]))
    firm = [one for one in found if one.ess >= LEAST_SLATES]
    reference = slope(firm or [max(found, key=lambda one: one.ess)], unit=unit)
    among = (*REFERENCES[reference.name], *(("dm",) if model_alone else ()))
    tamed = candidates(evidence, reading, among=among, minus=minus)
    (plain,) = candidates(evidence, reading, among=(UNTAMED[reference.name],), minus=minus)
    return replace(least_error([reference, *tamed], unit=unit), untamed=plain.terms)


def bounds(
    found: Estimate, *, unit: Array | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Bounds of what was estimated, wide enough for what taming may have done to it.

    An interval of tamed terms does not hold their bias, so that it covers less than it says. It is
    stretched to the bounds of the untamed estimate of the same weights.
    """
    some = [found.terms] if found.untamed is None else [found.terms, found.untamed]
    lows, highs = zip(*(interval(terms, unit=unit, level=level) for terms in some), strict=True)
    return min(lows), max(highs)


def candidates(
    evidence: Evidence,
    reading: Reading,
    *,
    among: Iterable[str] = ESTIMATORS,
    minus: Reading | None = None,
    shares: Sequence[float] = SHARES,
) -> Iterable[Estimate]:
    """Every estimator of `among` whose weights are known, with every parameter of its taming."""
    n = len(evidence.log)
    for name in among:
        recipe = ESTIMATORS[name]
        if any(recipe.kind not in r.weights for r in (reading, minus) if r is not None):
            continue
        tamable = recipe.taming in ("switch", "shrink")
        for parameter in [share * n for share in shares] if tamable else [np.inf]:
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
    intersection of the intervals before it, mean ± AGREE standard errors.

    Source: Su, Srinath and Krishnamurthy 2020, Adaptive estimator selection, algorithm 1 (SLOPE).
    """
    errors = np.array([standard_error(one.terms, unit=unit) for one in found])
    low, high = -np.inf, np.inf
    chosen = int(np.argmax(errors))
    for place in np.argsort(-errors, kind="stable"):
        low = max(low, found[place].value - AGREE * errors[place])
        high = min(high, found[place].value + AGREE * errors[place])
        if low > high:
            break
        chosen = int(place)
    return found[chosen]


def least_error(found: Sequence[Estimate], *, unit: Array | None = None) -> Estimate:
    """The estimate with the least bound of its squared error; the first is taken as unbiased.

    Of another, bias² + variance is at most (|d| + DOUBT·s)² + variance, where d is its difference
    to the first and s the standard error of d, taken slate by slate.

    Source: as the bounds of Tucker and Lee 2021 (SLOPE++), which need no order of the biases.
    """
    first, bounds = found[0], []
    for one in found:
        apart = one.terms - first.terms
        hidden = abs(float(apart.mean())) + DOUBT * standard_error(apart, unit=unit)
        bounds.append(hidden**2 + standard_error(one.terms, unit=unit) ** 2)
    return found[int(np.argmin(bounds))]
