"""Ranks and top lists from whole rows of scores, fast: ties count as half, NaN is lowest."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, Indices

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
_ROWS = 256  # rows compared at once: a block of comparisons stays in the processor's cache


def rank_of(scores: Floats, target: int, mask: Bools | None = None) -> float:
    """Give the place of one item: 1 + number scored higher + half of the ties.

    Args:
        scores: (n_items,), NaN is lower than every number and ties with NaN.
        mask: (n_items,), True for items that are not ranked; a masked target has rank infinity.
    """
    skip = None if mask is None else mask[None, :]
    return float(ranks_of(scores[None, :], np.array([target]), skip=skip)[0])


def ranks_of(
    scores: Floats,
    target: NDArray[np.integer],
    *,
    row: NDArray[np.integer] | None = None,
    skip: Bools | sparse.csr_matrix | None = None,
) -> Values:
    """Give the rank of each target as `rank_of` does.

    Args:
        scores: (n_rows, n_items).
        target: (m,) item indices.
        row: (m,) row of each target; None: target i belongs to row i.
        skip: (n_rows, n_items) boolean or CSR, items not ranked.
    Returns:
        (m,) float64; infinity where the target itself is not ranked.
    """
    row = np.arange(len(target)) if row is None else row
    if len(row) != len(target):
        raise ValueError(f"{len(target)} targets but {len(row)} rows: give one row per target")
    rank = np.empty(len(target))
    for start in range(0, len(target), _ROWS):
        cut = np.s_[start : start + _ROWS]
        rank[cut] = _block_ranks(scores, target[cut], row[cut], skip)
    return rank


def _block_ranks(
    scores: Floats,
    target: NDArray[np.integer],
    row: NDArray[np.integer],
    skip: Bools | sparse.csr_matrix | None,
) -> Values:
    own = scores[row, target]
    block = scores[row[0] : row[0] + len(row)] if _is_run(row) else scores[row]
    unknown = np.isnan(own)
    higher, equal = block > own[:, None], block == own[:, None]
    if unknown.any():
        nan = np.isnan(block[unknown])
        higher[unknown], equal[unknown] = ~nan, nan
    if skip is None:
        above, same = np.count_nonzero(higher, axis=1), np.count_nonzero(equal, axis=1)
        return np.asarray(1 + above + (same - 1) / 2)
    hidden = _hidden(skip, row)
    hidden_target = hidden[np.arange(len(row)), target]
    above = np.count_nonzero(higher & ~hidden, axis=1)
    same = np.count_nonzero(equal & ~hidden, axis=1)
    return np.where(hidden_target, np.inf, 1 + above + (same - 1) / 2)


def _is_run(row: NDArray[np.integer]) -> bool:
    return bool((np.diff(row) == 1).all())


def _hidden(skip: Bools | sparse.csr_matrix, row: NDArray[np.integer]) -> Bools:
    """(len(row), n_items): the rows of `skip` as a dense boolean block."""
    if not sparse.issparse(skip):
        return np.asarray(skip[row])
    rows = skip[row]
    hidden = np.zeros(rows.shape, bool)
    lengths = np.diff(rows.indptr)
    hidden[np.repeat(np.arange(len(row)), lengths), rows.indices] = rows.data != 0
    return hidden


def top_lists(
    scores: Floats, k: int = 10, *, skip: Bools | sparse.csr_matrix | None = None
) -> Indices:
    """Give the `k` best items of each row, best first, ties by index.

    Args:
        scores: (n_rows, n_items); NaN, minus infinity and skipped items are never listed.
        skip: (n_rows, n_items) boolean or CSR, items not listed.
    Returns:
        (n_rows, k) int32, -1 where a row has fewer items.
    """
    lists = np.full((len(scores), k), -1, np.int32)
    for start in range(0, len(scores), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(scores)))
        block = np.where(np.isnan(scores[rows]), -np.inf, scores[rows])
        if skip is not None:
            block[_hidden(skip, rows)] = -np.inf
        lists[rows, : min(k, block.shape[1])] = _block_top(block, min(k, block.shape[1]))
    return lists


def _block_top(block: Floats, k: int) -> NDArray[np.int64]:
    edge = np.partition(block, -k, axis=1)[:, -k][:, None]
    higher, tied = block > edge, block == edge
    room = k - np.count_nonzero(higher, axis=1)[:, None]
    chosen = higher | (tied & (np.cumsum(tied, axis=1) <= room))
    items = np.nonzero(chosen)[1].reshape(len(block), k)
    score = np.take_along_axis(block, items, 1)
    order = np.argsort(-score, axis=1, kind="stable")
    items = np.take_along_axis(items, order, 1)
    return np.where(np.isneginf(np.take_along_axis(block, items, 1)), -1, items)
