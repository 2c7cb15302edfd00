"""Item-to-item weights, dense or sparse: asked with a query, stored without pickle."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from steerec.contracts import Floats, Indices

Weights: TypeAlias = Any  # Floats or sparse.csr_matrix; SciPy ships no types


def ask(query: sparse.csr_matrix, weights: Weights, items: Indices | None) -> Floats:
    """(n_queries, n) float32: query @ weights, for the given columns or all."""
    if items is not None and query.shape[0] == 1:
        return _ask_one(query, weights, items)
    if sparse.issparse(weights):
        scores: Floats = (query @ weights).toarray()
    else:
        scores = np.asarray(query @ weights, np.float32)
    return scores if items is None else scores[:, items]


def _ask_one(query: sparse.csr_matrix, weights: Weights, items: Indices) -> Floats:
    rows = weights[query.indices]
    if sparse.issparse(rows):
        total = np.asarray(query.data @ rows, np.float32)
        return total[items][None]
    picked: Floats = query.data @ rows[:, items]
    return picked[None]


def column(weights: Weights, rows: Indices, item_idx: int) -> Floats:
    """(n_rows,) float32: the weight of each row's item for one item."""
    if not sparse.issparse(weights):
        return np.asarray(weights[rows, item_idx], np.float32)
    weights.sort_indices()  # once: free where they are sorted already
    found = np.zeros(len(rows), np.float32)
    for place, row in enumerate(rows):  # SciPy's own slicing takes some ten times as long
        start, stop = weights.indptr[row], weights.indptr[row + 1]
        at = start + np.searchsorted(weights.indices[start:stop], item_idx)
        if at < stop and weights.indices[at] == item_idx:
            found[place] = weights.data[at]
    return found


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
