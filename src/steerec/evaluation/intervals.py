"""Bootstrap over users: intervals for means of per-request values, and paired comparison."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
_BLOCK = 100  # draws turned to float at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds that hold it with the stated level."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much higher one model is than another on the same requests, drawn together.

    Attributes:
        p: two-sided; the smallest possible is 2 / (draws + 1).
    """

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Bootstrap:
    """Draws of users, with replacement, shared by all models and metrics of one evaluation.

    A user is drawn with all of their requests, because those are not independent.

    Attributes:
        user: (n_requests,) dense number of the user, 0 … n_users - 1.
        counts: (draws, n_users) uint8, how often each user was drawn.
    """

    user: NDArray[np.int64]
    counts: NDArray[np.uint8]

    @classmethod
    def draw(
        cls, user: NDArray[np.integer], rng: np.random.Generator, *, draws: int = DRAWS
    ) -> "Bootstrap":
        """Draw the users once.

        Args:
            user: (n_requests,) any number per user.
        Raises:
            ValueError: if there are no requests.
        """
        if len(user) == 0:
            raise ValueError("no requests to draw from: expected at least one user")
        _, dense = np.unique(user, return_inverse=True)
        n = int(dense.max()) + 1
        counts = np.empty((draws, n), np.uint8)  # a count follows Poisson(1): 255 is out of reach
        for i in range(draws):
            counts[i] = np.bincount(rng.integers(0, n, n), minlength=n)
        return cls(dense.astype(np.int64), counts)

    def means(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean of the drawn users' requests: sum of their sums over sum of their numbers.

        Args:
            values: (n_requests, m); NaN is left out (outside the slice, or undefined).
        Returns:
            (draws, m), NaN where a draw holds no value.
        """
        if len(values) != len(self.user):
            raise ValueError(f"{len(values)} values for {len(self.user)} requests: give one each")
        known = ~np.isnan(values)
        sums = self._by_user(np.where(known, values, 0.0))
        sizes = self._by_user(known.astype(np.float64))
        drawn = np.empty((len(self.counts), values.shape[1]))
        for start in range(0, len(drawn), _BLOCK):
            times = self.counts[start : start + _BLOCK].astype(np.float64)
            n = times @ sizes
            drawn[start : start + _BLOCK] = np.divide(
                times @ sums, n, out=np.full_like(n, np.nan), where=n > 0
            )
        return drawn

    def _by_user(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        n = self.counts.shape[1]
        return np.stack([np.bincount(self.user, column, minlength=n) for column in values.T], 1)


def intervals(
    values: Mapping[str, NDArray[np.floating]], bootstrap: Bootstrap, *, level: float = 0.95
) -> dict[str, Interval]:
    """Give mean and percentile interval of each column, NaN where a column has no value.

    Args:
        values: name → (n_requests,), NaN left out.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, sect. 13.3.
    """
    table = np.stack(list(values.values()), axis=1).astype(np.float64)
    low, high = _bounds(bootstrap.means(table), level)
    return {
        name: Interval(_mean(table[:, i]), float(low[i]), float(high[i]))
        for i, name in enumerate(values)
    }


def compare_all(
    values: Mapping[str, NDArray[np.floating]],
    baseline: str,
    bootstrap: Bootstrap,
    *,
    level: float = 0.95,
) -> dict[str, Comparison]:
    """Compare each model with the baseline on the same requests and the same draws.

    Args:
        values: model → (n_requests,) of one metric.
        baseline: one of the models; left out of the answer.
    Raises:
        ValueError: if the baseline is not among the models.
    Source: Efron and Tibshirani 1993, sect. 15.4 and 16.4 (p: twice the smaller tail at 0).
    """
    if baseline not in values:
        raise ValueError(f"no model {baseline!r} to compare with; there are {sorted(values)}")
    names = [name for name in values if name != baseline]
    if not names:
        return {}
    gaps = np.stack([np.asarray(values[n], np.float64) - values[baseline] for n in names], 1)
    drawn = bootstrap.means(gaps)
    low, high = _bounds(drawn, level)
    return {
        name: Comparison(_mean(gaps[:, i]), float(low[i]), float(high[i]), _p_value(drawn[:, i]))
        for i, name in enumerate(names)
    }


def _bounds(
    drawn: NDArray[np.float64], level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles per column, leaving out draws without a value."""
    bounds = np.full((2, drawn.shape[1]), np.nan)
    for i, column in enumerate(drawn.T):
        known = column[~np.isnan(column)]
        if len(known):
            bounds[:, i] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return bounds[0], bounds[1]


def _p_value(drawn: NDArray[np.float64]) -> float:
    known = drawn[~np.isnan(drawn)]
    below, above = np.count_nonzero(known <= 0), np.count_nonzero(known >= 0)
    return min(1.0, 2 * (min(below, above) + 1) / (len(known) + 1))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
