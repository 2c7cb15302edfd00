"""Item-to-item weights, dense or sparse: asked with a query, stored without pickle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices
from steerec.heads.contract import Room
from steerec.heads.histories import Rows
from steerec.heads.packed import Packed

Weights: TypeAlias = Any  # Floats, sparse.csr_matrix or, compiled, Packed; SciPy ships no types
ALL = np.empty(0, np.int32)  # of the kernels: not some items, but the whole catalogue


NEWEST = 20  # events whose neighbours are looked at; older ones hardly weigh
LONG = 64  # entries of a row above which it is copied whole sooner than entry by entry


def ask(query: Rows, weights: Weights, items: Indices | None) -> Floats:
    """(n_queries, n) float32: query @ weights, for the given columns or all."""
    if len(query.indptr) == 2:
        return _ask_one(query, weights, items)[None]
    if sparse.issparse(weights):
        scores: Floats = (query.matrix() @ weights).toarray()
    else:
        scores = np.asarray(query.matrix() @ weights, np.float32)
    return scores if items is None else scores[:, items]


def _ask_one(query: Rows, weights: Weights, items: Indices | None) -> Floats:
    if sparse.issparse(weights):
        columns, values, sizes = entries(weights, query.indices)
        told = np.bincount(columns, values * np.repeat(query.data, sizes), weights.shape[1])
        return (told if items is None else told[items]).astype(np.float32)
    rows = weights[query.indices] if items is None else weights[query.indices[:, None], items]
    scores: Floats = query.data @ rows
    return scores


def entries(weights: sparse.csr_matrix, rows: Indices) -> tuple[Indices, Floats, Indices]:
    """Columns and values of the entries of some rows, one row after the other, and their numbers.

    SciPy's own picking of rows takes several times as long for few rows.
    """
    start, stop = weights.indptr[rows], weights.indptr[rows + 1]
    sizes = stop - start
    total = int(sizes.sum())
    if total > LONG * len(rows):
        cuts = [slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        columns = np.concatenate([weights.indices[cut] for cut in cuts])
        return columns, np.concatenate([weights.data[cut] for cut in cuts]), sizes
    place = np.repeat(start - (np.cumsum(sizes) - sizes), sizes) + np.arange(total)
    return weights.indices[place], weights.data[place], sizes


def asked_with(
    state: History, *, decay: float, last: int, known: NDArray[np.bool_]
) -> tuple[Indices, Floats]:
    """The entries of the state's row of `recency_rows`, newest item first; compiled."""
    return kernels.asking.query(state.item_idx, state.weight, state.basket, decay, last, known)


def add_products(
    rows: Indices, sums: Floats, weights: Weights, items: Indices | None, room: Room, out: Floats
) -> bool:
    """Add `sums @ weights[rows]`, for the given items or all, to `out`; compiled.

    False, and nothing is added: dense weights for some items only.
    """
    if not sparse.issparse(weights):
        if items is None and isinstance(weights, Packed):
            kernels.asking.add_packed(rows, sums, weights.codes, weights.step, out)
        elif items is None:
            kernels.asking.add_dense(rows, sums, weights, out)
        return items is None
    w = weights
    if items is None:
        kernels.asking.add_sparse(rows, sums, w.indptr, w.indices, w.data, out)
    else:
        zeros = room.zeros(w.shape[1])
        kernels.asking.add_sparse_to(rows, sums, w.indptr, w.indices, w.data, zeros, items, out)
    return True


def blank_unknown(
    out: Floats, known: NDArray[np.bool_], items: Indices | None, *, asked: bool
) -> None:
    """NaN for items that are not known, and for all if nothing was asked with."""
    if not asked:
        out.fill(np.nan)
    else:
        kernels.asking.blank(out, known, ALL if items is None else items)


def neighbours(state: History, weights: Weights) -> Indices | None:
    """Items that the newest events have a weight for, rising; None where weights are dense."""
    if not sparse.issparse(weights):
        return None
    asked = np.unique(state.item_idx[-NEWEST:])
    asked = asked[(asked >= 0) & (asked < weights.shape[0])]
    told = np.zeros(weights.shape[1], bool)
    told[entries(weights, asked)[0]] = True
    return np.flatnonzero(told).astype(np.int32)


def column(weights: Weights, rows: Indices, item_idx: int) -> Floats:
    """(n_rows,) float32: the weight of each row's item for one item."""
    if not sparse.issparse(weights):
        return np.asarray(weights[rows, item_idx], np.float32)
    columns, values, sizes = entries(weights, rows)
    at = np.flatnonzero(columns == item_idx)
    found = np.zeros(len(rows), np.float32)
    found[np.searchsorted(np.cumsum(sizes), at, side="right")] = values[at]
    return found


Part = tuple[Indices, Floats, Weights]  # rows asked with, their weights, and of which matrix


def find_near(
    state: History,
    parts: Sequence[Part],
    known: NDArray[np.bool_],
    room: Room,
    n: int,
    live: tuple[Indices, Floats] | None = None,
) -> Indices:
    """At most `n` best known items that the newest events have a sparse weight for; compiled.

    Args:
        parts: what is summed to the scores.
        live: items that are looked at besides, and what they are scored more.
    """
    newest, find = state.item_idx[-NEWEST:], kernels.finding
    sums, marks = room.zeros(len(known)), room.marks(len(known))
    for rows, weight, w in parts:
        kernels.asking.add_sparse(rows, weight, w.indptr, w.indices, w.data, sums)
    also = ALL
    if live is not None:
        also = live[0]
        np.add.at(sums, *live)
    if len(parts) == 1 and (live is None or len(state) <= NEWEST):
        keys = _from_all(state, parts[0][2], sums, known, marks, n)
        if len(keys) >= n:
            sums.fill(0.0)
            return best_first(keys)[:n]
    if len(parts) > 1:
        more = [find.beside(newest, w.indptr, w.indices, marks) for _, _, w in parts[1:]]
        also = np.concatenate([also, *more])
        marks[also] = False
    w = parts[0][2]
    keys = find.best_beside(newest, w.indptr, w.indices, also, sums, known, marks, n)
    for rows, _, w in parts:
        find.clear(rows, w.indptr, w.indices, sums)
    sums[also] = 0.0
    return best_first(keys)


def _from_all(
    state: History,
    w: Weights,
    sums: Floats,
    known: NDArray[np.bool_],
    marks: NDArray[np.bool_],
    n: int,
) -> NDArray[np.int64]:
    """Keys of the best items, not `n` of them if it is quicker to look at what is near alone."""
    newest, find = state.item_idx[-NEWEST:], kernels.finding
    least = find.likely(newest, w.indptr, w.indices, sums, n)
    if least <= 0:
        return np.empty(0, np.int64)
    keys = find.all_above(sums, known, least, 32 * n)
    if len(state) <= NEWEST or len(keys) < n:  # then all that was added to is near
        return keys
    return find.near_only(keys, newest, w.indptr, w.indices, marks)


def best_first(keys: NDArray[np.int64]) -> Indices:
    """The items of keys as `kernels.finding` makes them."""
    keys.sort()
    return (kernels.finding.ITEM - 1 - keys[::-1] % kernels.finding.ITEM).astype(np.int32)


def spoken(
    state: History, weights: Weights, items: Indices, room: Room, *, decay: float, last: int
) -> Floats:
    """(n_items, n): what each of the newest events said of each item, none named twice; compiled.

    Events of items that the weights do not know say nothing.
    """
    events = state.item_idx, state.weight, state.basket, decay, last
    if isinstance(weights, np.ndarray):
        dense: Floats = kernels.telling.said_dense(*events, weights, items)
        return dense
    if isinstance(weights, Packed):
        short: Floats = kernels.telling.said_packed(*events, weights.codes, weights.step, items)
        return short
    w, zeros = weights, room.zeros(weights.shape[1])
    said: Floats = kernels.telling.said_sparse(*events, w.indptr, w.indices, w.data, items, zeros)
    return said


def save_weights(weights: Weights, path: Path) -> None:
    """Write to `path`: sparse ones as .npz, dense ones as .npy, which loads much faster."""
    if sparse.issparse(weights):
        sparse.save_npz(path.with_suffix(".npz"), weights, compressed=False)
    else:
        np.save(path.with_suffix(".npy"), weights, allow_pickle=False)


def load_weights(path: Path) -> Weights:
    """Read what `save_weights` wrote; dense ones are mapped, so that they cost no time to load.

    The map is private: live counts change the memory and never the file. Replace such a file by
    renaming, as snapshots do; one that is cut short in its place takes the process with it.
    """
    plain = path.with_suffix(".npy")
    if plain.exists():
        dense: Floats = np.asarray(np.load(plain, mmap_mode="c", allow_pickle=False))
        return dense
    weights: Weights = sparse.load_npz(path.with_suffix(".npz")).tocsr()
    return weights
