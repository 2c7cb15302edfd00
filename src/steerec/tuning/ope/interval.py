"""Intervals for the mean of heavy-tailed terms."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steerec.tuning.ope.log import Array, Doubles

LEVEL = 0.95
MOST_SKEW = 0.6  # of skewness / √n; above it the correction is no longer one


def per_unit(terms: Doubles, unit: Array | None) -> tuple[Doubles, NDArray[np.int64]]:
    """Sum of the terms of each user, and how many slates that user has."""
    if unit is None:
        return terms, np.ones(len(terms), np.int64)
    _, number = np.unique(unit, return_inverse=True)
    return np.bincount(number, terms).astype(np.float64), np.bincount(number).astype(np.int64)


def interval(
    terms: Doubles, *, unit: Array | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Bounds of the mean, studentised and corrected for skewness.

    Weighted rewards are skewed: a symmetric interval lies too low when the rare large weights have
    not come. Hall's cubic transformation stretches it to the side of the tail.

    Args:
        terms: (n,) finite.
        unit: (n,) user of each; users are independent, their terms are not.
    Returns:
        (-inf, inf) with fewer than two users.
    Source: Hall 1992, On the removal of skewness by transformation, eq. 2.2; ratio of sums over
        users by the delta method.
    """
    sums, sizes = per_unit(terms, unit)
    n, mean = len(sums), float(terms.mean()) if len(terms) else 0.0
    if n < 2:
        return -np.inf, np.inf
    parts = (sums - mean * sizes) / sizes.mean()
    spread = float(parts.std(ddof=1))
    if spread == 0.0:
        return mean, mean
    skew = float(np.mean((parts / spread) ** 3))
    quantiles = stats.t.ppf([(1 - level) / 2, (1 + level) / 2], n - 1)
    low, high = (_untransformed(float(q), skew, n) for q in quantiles)
    return mean - spread / np.sqrt(n) * high, mean - spread / np.sqrt(n) * low


def _untransformed(t: float, skew: float, n: int) -> float:
    """Studentised value whose transformation is t."""
    s = float(np.clip(skew / np.sqrt(n), -MOST_SKEW, MOST_SKEW))
    if abs(s) < 1e-9:
        return t
    return 3 / s * (float(np.cbrt(1 + s * t - s * s / 6)) - 1)


def standard_error(terms: Doubles, *, unit: Array | None = None) -> float:
    """Of the mean, with users as what is independent; infinite with fewer than two."""
    sums, sizes = per_unit(terms, unit)
    if len(sums) < 2:
        return float("inf")
    parts = (sums - terms.mean() * sizes) / sizes.mean()
    return float(parts.std(ddof=1) / np.sqrt(len(sums)))


def bernstein(
    terms: Doubles, *, lowest: float, highest: float, level: float = LEVEL
) -> tuple[float, float]:
    """Bounds that hold for any n and any distribution on [lowest, highest], wider than `interval`.

    Source: Maurer and Pontil 2009, theorem 4, on both sides.
    Raises:
        ValueError: if a term lies outside.
    """
    if len(terms) < 2:
        return -np.inf, np.inf
    if terms.min() < lowest or terms.max() > highest:
        raise ValueError(
            f"terms reach from {terms.min()} to {terms.max()}, outside [{lowest}, {highest}]"
        )
    n, heat = len(terms), np.log(4 / (1 - level))
    half = np.sqrt(2 * terms.var(ddof=1) * heat / n) + 7 * (highest - lowest) * heat / (3 * (n - 1))
    return float(terms.mean() - half), float(terms.mean() + half)
