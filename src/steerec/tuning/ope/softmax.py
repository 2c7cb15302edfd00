"""Policies that draw place by place by a softmax of scores over what is left of the pool.

Such draws are a race of exponential clocks (Plackett and Luce): an item's clock rings at a time of
mean 1/e, e = exp(score), and the slate is the order of ringing. Leaving an item out of a drawn
order therefore gives a draw from the pool without it, which `_place` uses.
"""

from collections.abc import Sequence

import numpy as np

import steerec.kernels as kernels
from steerec.errors import DataError
from steerec.kernels import loaded
from steerec.tuning.ope.log import Array, Doubles, SlateLog, TargetPolicy, at

DRAWS = 8
_BLOCK = 4_096  # slates drawn at once
_LOST = 1e-9  # share of the mass below which a difference of sums is no longer exact


def softmax_policy(
    log: SlateLog, scores: Array, *, seed: int = 0, draws: int = DRAWS
) -> TargetPolicy:
    """Read a policy on the log.

    Args:
        scores: (n, n_pool) score / temperature, -inf for what it may not show.
        seed: equal seeds draw from equal noise, so that what two policies share cancels.
    Raises:
        DataError: if the shape is not the log's, a score is NaN or +inf, or a request has
            nothing to show.
    """
    scores = np.asarray(scores, np.float64)
    _check(log, scores)
    rng = np.random.default_rng(seed)
    k = log.shown.shape[1]
    drawn = np.empty((len(log), draws, k), np.int32)
    place = np.empty(log.shown.shape)
    cluster = np.empty(log.shown.shape)
    for start in range(0, len(log), _BLOCK):
        cut = np.s_[start : start + _BLOCK]
        race = _Race(scores[cut], log.shown[cut])
        orders = [race.draw(rng, k + 1) for _ in range(draws)]
        drawn[cut] = np.stack([order[:, :k] for order in orders], axis=1)
        place[cut] = race.places(orders)
        if log.cluster is not None:
            above = [*(order[:, :k] for order in orders), log.shown[cut]]
            cluster[cut] = race.clusters(above, log.cluster[cut])
    given = conditional(scores, log.shown)
    drawn[np.broadcast_to(~log.filled[:, None], drawn.shape)] = -1
    return TargetPolicy(given, drawn, place, cluster if log.cluster is not None else None)


def conditional(scores: Array, shown: Array) -> Doubles:
    """(n, k): probability of each shown item among those that do not stand above it; 1 for -1."""
    top = scores.max(axis=1, keepdims=True)
    mass = np.exp(scores - top)
    taken = at(mass, shown)
    total = mass.sum(axis=1, keepdims=True)
    left = total - np.cumsum(taken, axis=1) + taken
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(shown >= 0, taken / left, 1.0)
    for row in np.flatnonzero((left < _LOST * total).any(axis=1)):
        found[row] = _conditional_exactly(scores[row], shown[row])
    return np.clip(found, 0.0, 1.0)


def _conditional_exactly(scores: Array, shown: Array) -> Doubles:
    """The same for one slate whose first items take nearly all the mass."""
    left = scores.astype(np.float64, copy=True)
    found = np.ones(len(shown))
    for j, item in enumerate(shown):
        if item < 0 or np.isneginf(left).all():
            found[j] = float(item < 0)
            continue
        peak = left.max()
        found[j] = np.exp(left[item] - peak) / np.exp(left - peak).sum()
        left[item] = -np.inf
    return found


class _Race:
    """One block of slates."""

    def __init__(self, scores: Doubles, shown: Array) -> None:
        self.scores = np.ascontiguousarray(scores - scores.max(axis=1, keepdims=True))
        self.scores_f32 = self.scores.astype(np.float32)
        self.shown = shown
        self.mass = np.exp(self.scores)
        self.total = self.mass.sum(axis=1)
        self.own = at(self.mass, shown)

    def draw(self, rng: np.random.Generator, k: int) -> Array:
        """(m, k) places in the order of ringing; -1 where the pool has no more."""
        noise = rng.standard_exponential(self.scores.shape, dtype=np.float32)
        keys = np.log(np.maximum(noise, np.float32(1e-30))) - self.scores_f32
        if loaded():
            return kernels.racing.first(keys, k)
        k_here = min(k, keys.shape[1])
        first = _least(keys, k_here)
        keys = np.take_along_axis(keys, first, axis=1)
        order = np.argsort(keys, axis=1)
        found = np.take_along_axis(first, order, axis=1)
        found[np.isposinf(np.take_along_axis(keys, order, axis=1))] = -1
        rest = np.full((len(found), k - k_here), -1, found.dtype)
        return np.concatenate([found, rest], axis=1)

    def places(self, orders: Sequence[Array]) -> Doubles:
        """(m, k): mean of `place` over these orders."""
        if not loaded():
            return np.asarray(np.mean([self.place(order) for order in orders], axis=0))
        found, shown = np.zeros(self.shown.shape), np.ascontiguousarray(self.shown, np.int32)
        for order in orders:
            kernels.racing.add_places(self.mass, self.total, self.own, shown, order, found)
        return found / len(orders)

    def clusters(self, above: Sequence[Array], cluster: Array) -> Doubles:
        """(m, k): mean of `cluster` over what may stand above."""
        if not loaded():
            return np.asarray(np.mean([self.cluster(one, cluster) for one in above], axis=0))
        found, size = np.zeros(self.shown.shape), self._sizes(cluster)
        shown, whose = (np.ascontiguousarray(a, np.int32) for a in (self.shown, cluster))
        for one in above:
            order = np.ascontiguousarray(one, np.int32)
            kernels.racing.add_clusters(self.mass, self.total, size, whose, shown, order, found)
        return found / len(above)

    def _sizes(self, cluster: Array) -> Doubles:
        """(m, n_clusters): the mass of each cluster."""
        n_clusters = int(cluster.max()) + 1
        row = np.arange(len(cluster))[:, None] * n_clusters
        size = np.bincount((row + cluster).ravel(), self.mass.ravel(), len(cluster) * n_clusters)
        return np.asarray(size.reshape(-1, n_clusters))

    def place(self, order: Array) -> Doubles:
        """(m, k): probability that the shown item stands at its place, from one drawn order.

        With the item left out, the order is a draw from the others; under it the item comes to
        place j with probability Π_{i<j}(1 - e/rest_i) · e/rest_j, never 0.
        """
        passed = np.cumsum(at(self.mass, order), axis=1)
        left = self.total[:, None] - np.concatenate(
            [np.zeros((len(order), 1)), passed[:, :-1]], axis=1
        )
        without = self.total[:, None] - passed  # plus the item itself: what is left behind it
        found = np.empty(self.shown.shape)
        for j in range(self.shown.shape[1]):
            e = self.own[:, j]
            met = np.cumsum(order == self.shown[:, j, None], axis=1, dtype=np.int8) > 0
            before = np.concatenate([np.zeros((len(order), 1), bool), met[:, :j]], axis=1)
            rest = np.where(before, without[:, : j + 1] + e[:, None], left[:, : j + 1])
            alone = np.broadcast_to((e > 0)[:, None], rest.shape).astype(np.float64)
            share = np.divide(e[:, None], rest, out=alone, where=rest > e[:, None])
            found[:, j] = np.prod(1 - share[:, :j], axis=1) * share[:, j]
        return np.where(self.shown >= 0, found, 1.0)

    def cluster(self, above: Array, cluster: Array) -> Doubles:
        """(m, k): probability of the shown item's cluster at each place, given these above."""
        size = self._sizes(cluster)
        wanted = np.take_along_axis(cluster, np.maximum(self.shown, 0), axis=1)
        stood = np.take_along_axis(cluster, np.maximum(above, 0), axis=1)
        taken = at(self.mass, above)
        left = self.total[:, None] - np.cumsum(taken, axis=1) + taken
        found = np.take_along_axis(size, wanted, axis=1)
        for j in range(1, above.shape[1]):
            same = stood[:, :j] == wanted[:, j, None]
            found[:, j] -= np.where(same, taken[:, :j], 0.0).sum(axis=1)
        share = np.divide(found, left, out=np.ones_like(found), where=left > 0)
        return np.where(self.shown >= 0, np.clip(share, 0.0, 1.0), 1.0)


def _least(keys: Array, k: int) -> Array:
    """(m, k) places of the k least keys of each row, in no order."""
    edge = np.partition(keys, k - 1, axis=1)[:, k - 1, None]
    within = keys <= edge
    if np.count_nonzero(within) == k * len(keys):  # four times as fast as argpartition
        return np.nonzero(within)[1].reshape(-1, k)
    return np.argpartition(keys, k - 1, axis=1)[:, :k]


def _check(log: SlateLog, scores: Doubles) -> None:
    if scores.shape != log.z.shape[:2]:
        raise DataError(
            f"scores have shape {scores.shape}, expected {log.z.shape[:2]} as the log's pools"
        )
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise DataError("scores hold NaN or +inf: give -inf for what may not be shown")
    if np.isneginf(scores).all(axis=1).any():
        raise DataError("a request has no item that may be shown: leave it out of the log")
