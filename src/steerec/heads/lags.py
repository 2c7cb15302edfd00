"""Pairs of one user's events some steps apart: the counts that directed linear heads learn from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, Indices
from steerec.data.dataset import Dataset

DENSE_ITEMS = 6_000  # up to here n² float32 counts (144 MB) are faster than sorting pairs
FLUSH = 8_000_000  # pairs held before they are summed into a sparse matrix


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
        liked = np.flatnonzero(data.weight > 0)
        user, item, basket = data.user_idx[liked], data.item_idx[liked], data.basket[liked]
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

    def pairs(self, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Indices]]:
        """All pairs of a user's events at most `most` steps apart: earlier, later, steps apart."""
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
            yield earlier, later[near], apart[near]


Weigh = Callable[[NDArray[np.int64], NDArray[np.int64], Indices], Floats]


def count_pairs(
    steps: Steps, n_items: int, *, most: int, weigh: dict[str, Weigh]
) -> dict[str, Floats | sparse.csr_matrix]:
    """Sum weights of pairs by (earlier item, later item), for several weightings in one pass.

    Args:
        most: steps apart at the most; 0 apart means the same basket.
        weigh: name → function of (earlier, later, steps apart) giving (n_pairs,) float32.
    Returns:
        name → (n_items, n_items) float32, dense up to DENSE_ITEMS items, else CSR.
    """
    kind = _Dense if n_items <= DENSE_ITEMS else _Sparse
    sums = {name: kind(n_items) for name in weigh}
    for earlier, later, apart in steps.pairs(most):
        key = steps.item[earlier].astype(np.int64) * n_items + steps.item[later]
        for name, function in weigh.items():
            sums[name].add(key, function(earlier, later, apart))
    return {name: total.matrix() for name, total in sums.items()}


class _Dense:
    def __init__(self, n_items: int) -> None:
        self._n = n_items
        self._flat = np.zeros(n_items * n_items, np.float32)

    def add(self, key: NDArray[np.int64], weight: Floats) -> None:
        np.add.at(self._flat, key, weight)

    def matrix(self) -> Floats:
        return self._flat.reshape(self._n, self._n)


class _Sparse:
    def __init__(self, n_items: int) -> None:
        self._n = n_items
        self._total = sparse.csr_matrix((n_items, n_items), dtype=np.float32)
        self._keys: list[NDArray[np.int64]] = []
        self._weights: list[Floats] = []
        self._held = 0

    def add(self, key: NDArray[np.int64], weight: Floats) -> None:
        self._keys.append(key)
        self._weights.append(weight)
        self._held += len(key)
        if self._held >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        if not self._keys:
            return
        row, col = np.divmod(np.concatenate(self._keys), self._n)
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
