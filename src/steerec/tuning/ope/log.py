"""Logged slates, and what another policy would do with them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.errors import DataError

Doubles = NDArray[np.float64]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class TargetPolicy:
    """What a policy does in each logged request; `softmax_policy` makes one from scores.

    Attributes:
        conditional: (n, k) its probability of the shown item at each place, given the items above
            it in the log; 0 where it would never show it.
        drawn: (n, draws, k) slates drawn from it, as places in the pool; -1: outside the pool.
        place: (n, k) its probability that the shown item stands there, whatever stands above;
            None: unknown, and the estimators that need it are left out.
        cluster: (n, k) the same for any item of the shown item's cluster; None: unknown.
    """

    conditional: Doubles
    drawn: Array
    place: Doubles | None = None
    cluster: Doubles | None = None


@dataclass(frozen=True, eq=False)
class SlateLog:
    """Slates as they were shown, with the probabilities they were drawn with.

    Attributes:
        shown: (n, k) int, place of each item in the request's pool; -1 behind the end of a list.
        propensity: (n, k) probability of the item at that place given the items above; NaN is
            allowed only behind the end.
        reward: (n, k) what came of each item; rewards add over places.
        z: (n, n_pool, n_heads) float16 or float32, calibrated scores of the pool.
        phi: (n, n_features) context.
        scores: (n, n_pool) score / temperature by which the logging policy drew, -inf for what it
            could not show (also padding); None where it was no plain softmax.
        cluster: (n, n_pool) int, number of each item's cluster of vectors; None: no clusters.
        unit: (n,) int, the user: slates of one user depend on each other; None: all independent.
    """

    shown: Array
    propensity: Array
    reward: Array
    z: Array
    phi: Array
    scores: Array | None = None
    cluster: Array | None = None
    unit: Array | None = None

    def __post_init__(self) -> None:
        """Check what every estimate relies on.

        Raises:
            DataError: if shapes differ, a propensity is not in (0, 1] or a reward is not finite.
        """
        self._check_shapes()
        real = self.filled
        bad = real & ~((self.propensity > 0) & (self.propensity <= 1))
        if bad.any():
            slate, place = np.argwhere(bad)[0]
            raise DataError(
                f"{int(bad.sum())} propensities are not in (0, 1], the first "
                f"{self.propensity[slate, place]} in slate {slate} at place {place + 1}: leave out "
                "slates that were not drawn by chance"
            )
        if not np.isfinite(self.reward[real]).all():
            raise DataError(
                f"{int((~np.isfinite(self.reward[real])).sum())} rewards are not finite: leave "
                "those slates out"
            )

    def _check_shapes(self) -> None:
        n, k = self.shown.shape if self.shown.ndim == 2 else (-1, -1)
        pool = self.z.shape[:2] if self.z.ndim == 3 else (-1, -1)
        wanted = {
            "propensity": (n, k),
            "reward": (n, k),
            "scores": pool,
            "cluster": pool,
            "unit": (n,),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise DataError(f"slate log: {name} has shape {array.shape}, expected {shape}")
        if n != pool[0] or self.phi.ndim != 2 or len(self.phi) != n:
            raise DataError(
                f"slate log: shown {self.shown.shape}, z {self.z.shape}, phi {self.phi.shape}: "
                "expected (n, k), (n, pool, heads) and (n, features)"
            )
        if n and self.shown.size and not -1 <= self.shown.min() <= self.shown.max() < pool[1]:
            raise DataError(
                f"slate log: places {self.shown.min()} to {self.shown.max()} in a pool of {pool[1]}"
            )

    def __len__(self) -> int:
        return len(self.shown)

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """(n, k): where an item stood."""
        return np.asarray(self.shown >= 0)

    @cached_property
    def gained(self) -> Doubles:
        """(n, k): rewards, 0 behind the end of a list."""
        return np.asarray(np.where(self.filled, self.reward, 0.0), np.float64)


def need_slates(log: SlateLog) -> None:
    """Raise DataError if there is nothing to estimate from."""
    if len(log) == 0:
        raise DataError("the log holds no slates: nothing can be estimated from it")


def at(table: Array, places: Array) -> Doubles:
    """(n, …): entry of each row of the (n, n_pool) table at these places; 0 for -1."""
    flat = places.reshape(len(places), -1)
    found = np.take_along_axis(table, np.maximum(flat, 0), axis=1)
    return np.where(flat >= 0, found, 0.0).reshape(places.shape).astype(np.float64, copy=False)
