"""Histories as sparse rows: the newest events as a query, stretches of events to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import isnan

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError


def places(basket: Indices) -> Indices:
    """(n,): place of each event from the end, 0 the newest; a basket is one place.

    Args:
        basket: (n,) basket numbers, oldest first, -1 where an event has none.
    """
    n = len(basket)
    if n == 0:
        return np.empty(0, np.int32)
    fresh = np.ones(n, np.int32)  # 1 where an event is of another place than the one after it
    fresh[:-1] = (basket[:-1] != basket[1:]) | (basket[:-1] < 0)
    fresh[-1] = 0
    return np.cumsum(fresh[::-1], dtype=np.int32)[::-1]


def place_among(before: History, time: float) -> int:
    """How many of these events happened before one of this time; unknown: all."""
    if len(before) == 0 or isnan(time) or time >= before.time[-1]:
        return len(before)
    known = np.maximum.accumulate(np.nan_to_num(before.time, nan=-np.inf))
    return int(np.searchsorted(known, time, side="right"))


@lru_cache(maxsize=64)
def _powers(decay: float, n: int) -> NDArray[np.float64]:
    """(n,): decay ** place, looked up instead of raised anew for each history."""
    powers = np.asarray(np.float32(decay) ** np.arange(n, dtype=np.int32), np.float64)
    powers.setflags(write=False)
    return powers


def decayed(history: History, *, decay: float, last: int) -> tuple[Indices, Floats]:
    """Items of the `last` newest places (events or baskets), and weight x decay ** place."""
    n = len(history.item_idx)
    if n == 0 or history.basket[-1] < 0:
        start = max(0, n - last)
        fading = _powers(decay, last)[: n - start][::-1]
    else:
        place = places(history.basket)
        start = n - int(np.count_nonzero(place < last))
        fading = _powers(decay, last)[place[start:]]
    return history.item_idx[start:], (history.weight[start:] * fading).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Sparse rows as plain arrays, as in CSR; one row costs a request no more than its events.

    Attributes:
        indptr: (n_rows + 1,); indices: columns, rising within a row; data: float32.
    """

    indptr: NDArray[np.int32]
    indices: Indices
    data: Floats
    n_items: int

    def scaled(self, by_item: NDArray[np.floating]) -> "Rows":
        """The same rows, each entry times its item's number, float32."""
        data = (self.data * by_item[self.indices]).astype(np.float32)
        return Rows(self.indptr, self.indices, data, self.n_items)

    def matrix(self) -> sparse.csr_matrix:
        """The same as a matrix of SciPy."""
        shape = (len(self.indptr) - 1, self.n_items)
        return sparse.csr_matrix((self.data, self.indices, self.indptr), shape=shape)


def recency_rows(
    states: Sequence[History],
    n_items: int,
    *,
    decay: float,
    last: int,
    known: NDArray[np.bool_] | None = None,
) -> Rows:
    """(len(states), n_items): decayed weights summed by item, zeros not stored.

    Events of items outside the catalogue are left out; a row without any entry means that
    nothing is known of the user.

    Args:
        known: (n_items,) true for items that may be asked with; None: all.
    """
    if len(states) == 1:
        return _one_row(*decayed(states[0], decay=decay, last=last), n_items, known)
    pairs = [decayed(state, decay=decay, last=last) for state in states]
    sizes = [len(items) for items, _ in pairs]
    rows = np.repeat(np.arange(len(pairs)), sizes)
    cols = np.concatenate([items for items, _ in pairs] or [np.empty(0, np.int32)])
    faded = np.concatenate([weights for _, weights in pairs] or [np.empty(0, np.float32)])
    inside = (cols >= 0) & (cols < n_items)
    if known is not None:
        inside[inside] = known[cols[inside]]
    query = sparse.coo_matrix(
        (faded[inside], (rows[inside], cols[inside])), shape=(len(pairs), n_items)
    ).tocsr()  # duplicates add up
    query.eliminate_zeros()
    return Rows(query.indptr, query.indices, query.data, n_items)


def _one_row(cols: Indices, weights: Floats, n_items: int, known: NDArray[np.bool_] | None) -> Rows:
    """What the rows of one state come to: a request's path."""
    order = np.argsort(cols, kind="stable")
    cols, weights = cols[order], weights[order]
    if len(cols) and (cols[0] < 0 or cols[-1] >= n_items):
        inside = np.s_[np.searchsorted(cols, 0) : np.searchsorted(cols, n_items)]
        cols, weights = cols[inside], weights[inside]
    if known is not None and not (may := known[cols]).all():
        cols, weights = cols[may], weights[may]
    fresh = cols[1:] != cols[:-1]
    if not fresh.all():
        first = np.concatenate([[0], np.flatnonzero(fresh) + 1])
        cols, weights = cols[first], np.add.reduceat(weights, first)
    if not weights.all():
        told = np.flatnonzero(weights)
        cols, weights = cols[told], weights[told]
    return Rows(np.array([0, len(cols)], np.int32), cols, weights, n_items)


def blank(scores: Floats, query: Rows | sparse.csr_matrix) -> Floats:
    """Scores with NaN in the rows of users of whom the query knows nothing, in place."""
    if len(query.indices) and len(scores) == 1:
        return scores
    scores[np.diff(query.indptr) == 0] = np.nan
    return scores


def stretches(data: Dataset, *, length: int, step: int) -> tuple[sparse.csr_matrix, Indices]:
    """Overlapping stretches of each user's events of positive weight, as training rows.

    Every event lies in `length / step` of them, so two events of one user share the more
    stretches the nearer they are: products of these rows are counts that fade with distance.

    Args:
        length: places (events, or baskets) in a stretch; 0: one row for all events of a user.
        step: places between the starts of two stretches, a divisor of `length`.
    Returns:
        (n_rows, n_items) float32 of ones, and (n_rows,) the user of each row.
    Raises:
        DataError: if no event has a positive weight.
    """
    rows, n_rows = _stretch_of(data, length, step)
    item = data.item_idx[data.weight > 0]
    matrix = sparse.coo_matrix(
        (np.ones(rows.size, np.float32), (rows.ravel(), np.tile(item, len(rows)))),
        shape=(int(n_rows.sum()), data.n_items),
    ).tocsr()
    matrix.data[:] = 1.0  # an item repeated in a stretch counts once
    return matrix, np.repeat(np.arange(data.n_users, dtype=np.int32), n_rows)


def stretch_ages(data: Dataset, *, length: int, step: int) -> NDArray[np.float64]:
    """(n_rows,): seconds from the newest event of each stretch to the newest of all; 0 untimed."""
    rows, n_rows = _stretch_of(data, length, step)
    if not data.has_times:
        return np.zeros(int(n_rows.sum()))
    newest = np.full(int(n_rows.sum()), -np.inf)
    for row in rows:
        np.maximum.at(newest, row, data.time[data.weight > 0])
    return np.asarray(data.time.max() - newest)


def _stretch_of(
    data: Dataset, length: int, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(length / step, n_events) stretches of each event of positive weight, and each user's number.

    Raises:
        DataError: if no event has a positive weight.
    """
    liked = data.weight > 0
    if not liked.any():
        raise DataError("no event weighs above 0: expected at least one to learn from")
    user, basket = data.user_idx[liked], data.basket[liked]
    fresh = np.ones(len(user), np.int64)  # 1 where an event opens a place: an event, or a basket
    fresh[1:] = (user[1:] != user[:-1]) | (basket[1:] != basket[:-1]) | (basket[1:] < 0)
    counts = np.bincount(user, fresh, data.n_users).astype(np.int64)
    position = np.cumsum(fresh) - 1 - (np.cumsum(counts) - counts)[user]
    if length == 0:
        return user[None].astype(np.int64), np.ones_like(counts)
    copies = length // step
    n_rows = np.where(counts > 0, (counts - 1) // step + copies, 0)
    first = (np.cumsum(n_rows) - n_rows)[user] + position // step
    return first[None] + np.arange(copies)[:, None], n_rows


def emptied(rows: sparse.csr_matrix, gone: NDArray[np.bool_]) -> sparse.csr_matrix:
    """The same rows, those that are `gone` (n_rows,) without entries."""
    left = (sparse.diags((~gone).astype(np.float32)) @ rows).tocsr().astype(np.float32)
    left.eliminate_zeros()
    return left


def check_stretches(name: str, *, length: int, step: int) -> None:
    """Raises ConfigError unless `length` is 0 or a multiple of `step`."""
    if step < 1 or length < 0 or length % step:
        raise ConfigError(
            f"{name}: length={length} with step={step}: expected length 0 or a multiple of step, "
            "and step of at least 1"
        )


def check_query(name: str, *, decay: float, last: int) -> None:
    """Raises ConfigError unless the query's decay and number of events can be used."""
    if not 0 < decay <= 1 or last < 1:
        raise ConfigError(
            f"{name}: decay={decay}, last={last}: expected 0 < decay <= 1 and last of at least 1"
        )


def strongest(rows: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """Only the `n` entries of each row that are largest in size, zeros dropped; ties by column."""
    kept = [
        start + largest(np.abs(rows.data[start:stop]), rows.indices[start:stop], n)
        for start, stop in pairwise(rows.indptr)
    ]
    chosen = np.concatenate(kept or [np.empty(0, np.int64)])
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in kept], dtype=np.int64)])
    result = sparse.csr_matrix((rows.data[chosen], rows.indices[chosen], indptr), shape=rows.shape)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def largest(values: Floats, columns: Indices, n: int) -> NDArray[np.int64]:
    """Positions of the `n` largest values; of equal ones at the edge, those of low column."""
    if len(values) <= n:
        return np.arange(len(values))
    edge = np.partition(values, len(values) - n)[len(values) - n]
    above = np.flatnonzero(values > edge)
    ties = np.flatnonzero(values == edge)
    ties = ties[np.argsort(columns[ties], kind="stable")]
    return np.concatenate([above, ties[: n - len(above)]])
