"""Pairs of one user's events some steps apart: the counts that directed linear heads learn from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices
from steerec.data.dataset import Dataset
from steerec.data.distinct import distinct

DENSE_ITEMS = 6_000  # up to here n² float32 counts (144 MB) are faster than sorting pairs
FLUSH = 8_000_000  # pairs held before they are summed into a sparse matrix
# Nanoseconds by which a user's way of counting is chosen: one pair after the other, or by a
# product of matrices (steps x the user's items).
PER_PAIR, PER_USER, PER_CELL, PER_FLOP = 35.0, 100_000.0, 10.0, 0.1


@dataclass(frozen=True)
class Steps:
    """Events of positive weight, each with its step: a basket is one step, else an event is.

    Attributes:
        user, item: (n,) int32, sorted by user, oldest first.
        step: (n,) int32, number of the step within the user, from 0.
        left: (n,) int32, steps of the user that follow, 0 for the last.
        size: (n,) int32, number of events in the event's own step.
    """

    user: Indices
    item: Indices
    step: Indices
    left: Indices
    size: Indices

    @classmethod
    def of(cls, data: Dataset) -> "Steps":
        """The steps of all users of `data`."""
        return cls._of(data.weight, data.user_idx, data.item_idx, data.basket)

    @classmethod
    def of_history(cls, history: History) -> "Steps":
        """The steps of one user."""
        nobody_else = np.zeros(len(history), np.int32)
        return cls._of(history.weight, nobody_else, history.item_idx, history.basket)

    @classmethod
    def _of(cls, weight: Floats, users: Indices, items: Indices, baskets: Indices) -> "Steps":
        liked = np.flatnonzero(weight > 0)
        user, item, basket = users[liked], items[liked], baskets[liked]
        if len(user) == 0:
            return cls(*(np.empty(0, np.int32) for _ in range(5)))
        other_user = np.concatenate([[True], user[1:] != user[:-1]])
        fresh = other_user | np.concatenate([[True], (basket[1:] != basket[:-1])]) | (basket < 0)
        number = np.cumsum(fresh) - 1
        starts = np.flatnonzero(other_user)
        step = number - np.repeat(number[starts], np.diff(np.append(starts, len(user))))
        last = np.repeat(
            step[np.append(starts[1:] - 1, len(user) - 1)], np.diff(np.append(starts, len(user)))
        )
        return cls(
            user,
            item,
            step.astype(np.int32),
            (last - step).astype(np.int32),
            np.bincount(number)[number].astype(np.int32),
        )

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(n_users with events + 1,): where each user's events start, and the end."""
        fresh = np.flatnonzero(self.user[1:] != self.user[:-1]) + 1
        return (
            np.concatenate([[0], fresh, [len(self.user)]]) if len(self.user) else np.zeros(1, int)
        )

    def take(self, keep: NDArray[np.bool_]) -> "Steps":
        """Only these events; steps keep their numbers."""
        return Steps(
            self.user[keep], self.item[keep], self.step[keep], self.left[keep], self.size[keep]
        )

    def pairs(self, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Indices]]:
        """All pairs of a user's events 1 to `most` steps apart: earlier, later, steps apart."""
        n = len(self.user)
        earlier = np.arange(n)
        for offset in range(1, n):
            earlier = earlier[: np.searchsorted(earlier, n - offset)]
            later = earlier + offset
            apart = self.step[later] - self.step[earlier]
            near = (self.user[later] == self.user[earlier]) & (apart <= most)
            earlier = earlier[near]  # what is too far apart now stays so
            if len(earlier) == 0:
                return
            later, apart = later[near], apart[near]
            other = apart > 0
            yield earlier[other], later[other], apart[other]


@dataclass(frozen=True)
class Weighing:
    """What a pair of events weighs: by_lag[steps apart] x early[earlier] x late[later].

    Attributes:
        by_lag: (most + 1,) float32; its first place, the same step, is not counted.
        early, late: (n_events,) float32; None: 1.
    """

    by_lag: Floats
    early: Floats | None = None
    late: Floats | None = None

    def take(self, keep: NDArray[np.bool_]) -> "Weighing":
        """The same for these events only."""
        early = None if self.early is None else self.early[keep]
        return Weighing(self.by_lag, early, None if self.late is None else self.late[keep])


def count_pairs(
    steps: Steps, n_items: int, weighings: Mapping[str, Weighing]
) -> dict[str, Floats | sparse.csr_matrix]:
    """Sum weights of pairs by (earlier item, later item), for several weighings in one pass.

    A user with many events in a step is counted by a product of matrices, which costs steps x
    items² and not pairs; all others pair by pair.

    Args:
        weighings: name → weighing, all with equally many lags.
    Returns:
        name → (n_items, n_items) float32, dense up to DENSE_ITEMS items, else CSR.
    """
    kind = _Dense if n_items <= DENSE_ITEMS else _Sparse
    sums = {name: kind(n_items) for name in weighings}
    most = max(len(weighing.by_lag) for weighing in weighings.values()) - 1
    crowded = _crowded(steps, most)
    for start, stop in zip(steps.starts[:-1][crowded], steps.starts[1:][crowded], strict=True):
        items, place = np.unique(steps.item[start:stop], return_inverse=True)
        key = np.add.outer(items.astype(np.int64) * n_items, items).ravel()
        for name, weighing in weighings.items():
            block = _of_user(steps, np.s_[start:stop], place, weighing)
            sums[name].add_once(key, block.ravel())
    _add_pairs(steps, np.repeat(~crowded, np.diff(steps.starts)), weighings, sums)
    return {name: total.matrix() for name, total in sums.items()}


def _crowded(steps: Steps, most: int) -> NDArray[np.bool_]:
    """(n_users with events,): whose pairs cost more one by one than as a product of matrices."""
    if len(steps.user) == 0:
        return np.zeros(0, bool)
    sizes = np.diff(steps.starts)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = owner * (int(steps.step.max()) + most + 2) + steps.step.astype(np.int64)
    earliest = np.maximum(np.searchsorted(place, place - most), np.repeat(steps.starts[:-1], sizes))
    earlier = np.searchsorted(place, place) - earliest
    n_pairs = np.add.reduceat(earlier, steps.starts[:-1])
    n_steps = steps.step[steps.starts[1:] - 1] - steps.step[steps.starts[:-1]] + 1.0
    n_items = int(steps.item.max()) + 1
    own = distinct(owner * n_items + steps.item) // n_items  # the user of each pair with an item
    cells = np.bincount(own, minlength=len(sizes)) ** 2.0
    product = PER_USER + cells * (PER_CELL + PER_FLOP * n_steps)
    return np.asarray(product < PER_PAIR * n_pairs)


def _of_user(steps: Steps, cut: slice, place: NDArray[np.int64], weighing: Weighing) -> Floats:
    """(n_own, n_own): sums of the pairs of one user's own items, `place` telling each event's."""
    step = (steps.step[cut] - steps.step[cut.start]).astype(np.int64)
    shape = (int(step[-1]) + 1, int(place.max()) + 1)
    cell = step * shape[1] + place

    def by_step(weight: Floats | None) -> Floats:
        counted = np.bincount(cell, None if weight is None else weight[cut], shape[0] * shape[1])
        return counted.reshape(shape).astype(np.float32)

    lag = np.subtract.outer(np.arange(shape[0]), np.arange(shape[0]))
    near = (lag >= 1) & (lag < len(weighing.by_lag))
    faded = np.where(near, weighing.by_lag[np.where(near, lag, 0)], np.float32(0))
    block: Floats = (faded @ by_step(weighing.early)).T @ by_step(weighing.late)
    return block


def _add_pairs(
    steps: Steps,
    keep: NDArray[np.bool_],
    weighings: Mapping[str, Weighing],
    sums: Mapping[str, "_Dense | _Sparse"],
) -> None:
    """Add the pairs of these events one by one."""
    n_items = next(iter(sums.values())).n_items
    most = max(len(weighing.by_lag) for weighing in weighings.values()) - 1
    some = steps.take(keep)
    weighings = {name: weighing.take(keep) for name, weighing in weighings.items()}
    for early, late, apart in some.pairs(most):
        key = some.item[early].astype(np.int64) * n_items + some.item[late]
        for name, weighing in weighings.items():
            weight = weighing.by_lag[apart]
            if weighing.early is not None:
                weight = weight * weighing.early[early]
            if weighing.late is not None:
                weight = weight * weighing.late[late]
            sums[name].add(key, weight)


def count_within(steps: Steps, n_items: int, weight: Floats) -> sparse.csr_matrix:
    """Sum weights of pairs of two events of one step, in both directions, by their items.

    Args:
        weight: (n_events,) float32, the same for all events of a step.
    Returns:
        (n_items, n_items) float32, symmetric.
    """
    fresh = np.ones(len(steps.user), bool)
    fresh[1:] = (steps.user[1:] != steps.user[:-1]) | (steps.step[1:] != steps.step[:-1])
    first = np.flatnonzero(fresh)
    counts = sparse.coo_matrix(
        (np.ones(len(fresh), np.float32), (np.cumsum(fresh) - 1, steps.item)),
        shape=(len(first), n_items),
    ).tocsr()  # duplicates add up
    weights = sparse.diags(weight[first].astype(np.float32))
    pairs = (counts.T @ (weights @ counts)).tocoo()
    entries = counts.tocoo()
    twice = weight[first][entries.row] * entries.data * (entries.data - 1)
    own = np.bincount(entries.col, twice, n_items)  # an event is no pair with itself
    other = pairs.row != pairs.col
    here = np.flatnonzero(own)
    return sparse.coo_matrix(
        (
            np.concatenate([pairs.data[other], own[here]]).astype(np.float32),
            (
                np.concatenate([pairs.row[other], here]),
                np.concatenate([pairs.col[other], here]),
            ),
        ),
        shape=(n_items, n_items),
    ).tocsr()


class _Dense:
    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self._flat = np.zeros(n_items * n_items, np.float32)

    def add_once(self, key: NDArray[np.int64], weight: Floats) -> None:
        """Add to cells of which none is named twice."""
        self._flat[key] += weight

    def add(self, key: NDArray[np.int64], weight: Floats) -> None:
        np.add.at(self._flat, key, weight)

    def matrix(self) -> Floats:
        return self._flat.reshape(self.n_items, self.n_items)


class _Sparse:
    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self._total = sparse.csr_matrix((n_items, n_items), dtype=np.float32)
        self._keys: list[NDArray[np.int64]] = []
        self._weights: list[Floats] = []
        self._held = 0

    def add_once(self, key: NDArray[np.int64], weight: Floats) -> None:
        """Add to cells of which none is named twice."""
        told = np.flatnonzero(weight)
        self.add(key[told], weight[told])

    def add(self, key: NDArray[np.int64], weight: Floats) -> None:
        self._keys.append(key)
        self._weights.append(weight)
        self._held += len(key)
        if self._held >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        if not self._keys:
            return
        row, col = np.divmod(np.concatenate(self._keys), self.n_items)
        held = (np.concatenate(self._weights), (row, col))
        self._total = self._total + sparse.coo_matrix(held, shape=self._total.shape).tocsr()
        self._keys, self._weights, self._held = [], [], 0

    def matrix(self) -> sparse.csr_matrix:
        self._flush()
        return self._total


def keep_strongest(weights: Floats, per_row: int) -> sparse.csr_matrix:
    """(n, m) dense → CSR with the `per_row` entries of each row that are largest in size."""
    n, m = weights.shape
    if per_row >= m:
        return sparse.csr_matrix(weights)
    columns = np.argpartition(-np.abs(weights), per_row - 1, axis=1)[:, :per_row]
    columns.sort(axis=1)
    values = np.take_along_axis(weights, columns, axis=1)
    pointers = np.arange(n + 1) * per_row
    return sparse.csr_matrix((values.ravel(), columns.ravel(), pointers), shape=(n, m))
