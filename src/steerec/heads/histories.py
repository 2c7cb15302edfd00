"""Histories as sparse rows: the newest events as a query, stretches of events to learn from."""

from collections.abc import Sequence
from itertools import pairwise

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


def decayed(history: History, *, decay: float, last: int) -> tuple[Indices, Floats]:
    """Items of the `last` newest places (events or baskets), and weight x decay ** place."""
    if not (history.basket[-1:] >= 0).any():
        history = history.last(last)
        place = np.arange(len(history) - 1, -1, -1, dtype=np.int32)
    else:
        place = places(history.basket)
        history = history.last(int(np.count_nonzero(place < last)))
        place = place[len(place) - len(history) :]
    faded = history.weight * np.float32(decay) ** place
    return history.item_idx, faded.astype(np.float32)


def recency_query(
    states: Sequence[History],
    n_items: int,
    *,
    decay: float,
    last: int,
    known: NDArray[np.bool_] | None = None,
) -> sparse.csr_matrix:
    """(len(states), n_items) float32: decayed weights summed by item, zeros not stored.

    Events of items outside the catalogue are left out; a row without any entry means that
    nothing is known of the user.

    Args:
        known: (n_items,) true for items that may be asked with; None: all.
    """
    pairs = [decayed(state, decay=decay, last=last) for state in states]
    sizes = [len(items) for items, _ in pairs]
    rows = np.repeat(np.arange(len(pairs)), sizes)
    cols = np.concatenate([items for items, _ in pairs] or [np.empty(0, np.int32)])
    faded = np.concatenate([weights for _, weights in pairs] or [np.empty(0, np.float32)])
    inside = (cols >= 0) & (cols < n_items)
    if known is not None:
        inside[inside] = known[cols[inside]]
    if len(pairs) == 1:
        return _one_row(cols[inside], faded[inside], n_items)
    query = sparse.coo_matrix(
        (faded[inside], (rows[inside], cols[inside])), shape=(len(pairs), n_items)
    ).tocsr()  # duplicates add up
    query.eliminate_zeros()
    return query


def _one_row(cols: Indices, weights: Floats, n_items: int) -> sparse.csr_matrix:
    """What a query of one state comes to: a request's path, several times as fast as by COO."""
    unique, place = np.unique(cols, return_inverse=True)
    total = np.zeros(len(unique), np.float32)
    np.add.at(total, place, weights)  # in the order of events and in float32, as SciPy adds
    kept = total != 0
    pointers = np.array([0, np.count_nonzero(kept)], np.int32)
    return sparse.csr_matrix((total[kept], unique[kept], pointers), shape=(1, n_items))


def blank(scores: Floats, query: sparse.csr_matrix) -> Floats:
    """Scores with NaN in the rows of users of whom the query knows nothing, in place."""
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
        start + _largest(np.abs(rows.data[start:stop]), rows.indices[start:stop], n)
        for start, stop in pairwise(rows.indptr)
    ]
    chosen = np.concatenate(kept or [np.empty(0, np.int64)])
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in kept], dtype=np.int64)])
    result = sparse.csr_matrix((rows.data[chosen], rows.indices[chosen], indptr), shape=rows.shape)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _largest(values: Floats, columns: Indices, n: int) -> NDArray[np.int64]:
    """Positions of the `n` largest values; of equal ones at the edge, those of low column."""
    if len(values) <= n:
        return np.arange(len(values))
    edge = np.partition(values, len(values) - n)[len(values) - n]
    above = np.flatnonzero(values > edge)
    ties = np.flatnonzero(values == edge)
    ties = ties[np.argsort(columns[ties], kind="stable")]
    return np.concatenate([above, ties[: n - len(above)]])
