"""Histories as sparse rows: the newest events as a query, stretches of events to learn from."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from steerec.contracts import Floats, History, Indices
from steerec.data.dataset import Dataset


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
    """Items of the `last` newest events, and weight x decay ** place of each."""
    newest = history.last(last)
    faded = newest.weight * np.float32(decay) ** places(newest.basket)
    return newest.item_idx, faded.astype(np.float32)


def recency_query(
    states: Sequence[History], n_items: int, *, decay: float, last: int
) -> sparse.csr_matrix:
    """(len(states), n_items) float32: decayed weights summed by item, zeros not stored.

    Events of items outside the catalogue are left out; a row without any entry means that
    nothing is known of the user.
    """
    pairs = [decayed(state, decay=decay, last=last) for state in states]
    sizes = [len(items) for items, _ in pairs]
    rows = np.repeat(np.arange(len(pairs)), sizes)
    cols = np.concatenate([items for items, _ in pairs] or [np.empty(0, np.int32)])
    faded = np.concatenate([weights for _, weights in pairs] or [np.empty(0, np.float32)])
    known = (cols >= 0) & (cols < n_items)
    query = sparse.coo_matrix(
        (faded[known], (rows[known], cols[known])), shape=(len(pairs), n_items)
    ).tocsr()  # duplicates add up
    query.eliminate_zeros()
    return query


def blank(scores: Floats, query: sparse.csr_matrix) -> Floats:
    """Scores with NaN in the rows of users of whom the query knows nothing, in place."""
    scores[np.diff(query.indptr) == 0] = np.nan
    return scores


def stretches(data: Dataset, *, length: int, step: int) -> tuple[sparse.csr_matrix, Indices]:
    """Overlapping stretches of each user's events of positive weight, as training rows.

    Every event lies in `length / step` of them, so two events of one user share the more
    stretches the nearer they are: products of these rows are counts that fade with distance.

    Args:
        length: events in a stretch; 0: one row for all events of a user.
        step: events between the starts of two stretches, a divisor of `length`.
    Returns:
        (n_rows, n_items) float32 of ones, and (n_rows,) the user of each row.
    """
    liked = np.flatnonzero(data.weight > 0)
    user, item = data.user_idx[liked], data.item_idx[liked]
    counts = np.bincount(user, minlength=data.n_users)
    copies = length // step if length else 1
    n_rows = -(-counts // step) + copies - 1 if length else np.ones_like(counts)
    first = np.concatenate([[0], np.cumsum(n_rows)])  # first row of each user
    position = np.arange(len(user)) - np.concatenate([[0], np.cumsum(counts)])[user]
    row = first[user] + (position // step if length else 0)
    rows = np.concatenate([row + copy for copy in range(copies)])
    matrix = sparse.coo_matrix(
        (np.ones(len(rows), np.float32), (rows, np.tile(item, copies))),
        shape=(int(first[-1]), data.n_items),
    ).tocsr()
    matrix.data[:] = 1.0  # an item repeated in a stretch counts once
    return matrix, np.repeat(np.arange(data.n_users, dtype=np.int32), n_rows)
