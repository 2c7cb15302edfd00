"""Item weights solved item by item on their neighbourhoods, where n² numbers do not fit."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from steerec.contracts import Floats, Indices
from steerec.errors import DataError

SAMPLE = 1_000  # rows counted to foretell the entries of a product


def count_entries(seen: sparse.csr_matrix, most: int) -> tuple[int, int]:
    """Foretell the entries of seenᵀ seen without forming it, from rows of 1,000 items.

    Args:
        seen: (n_users, n) float32, items from most to least seen, each with an event.
    Returns:
        Entries in all, and entries when each row keeps at most `most`; exact up to 1,000 items.
    """
    n = seen.shape[1]
    n_drawn = min(n, SAMPLE)
    # the middle item of equal stretches of popularity: rows shrink steadily along it
    drawn = ((np.arange(n_drawn) + 0.5) * n / n_drawn).astype(np.int64)
    sizes = np.diff((seen[:, drawn].T.tocsr() @ seen).indptr)
    scale = n / n_drawn
    return int(sizes.sum() * scale), int(np.minimum(sizes, most).sum() * scale)


def solve_columns(
    gram: sparse.csr_matrix,
    neighbours: int,
    *,
    first: int = 0,
    right: sparse.csr_matrix | None = None,
) -> tuple[sparse.csc_matrix, Floats]:
    """Regress each column from `first` on upon its strongest neighbours, exactly among them.

    Column j solves gram[S, S] x = right[j, S], S being the `neighbours` that would lower the
    squared error of j the most if each were alone: right_ji² / gram_ii.

    Args:
        gram: (n, n) float32, symmetric, λ on its diagonal, indices sorted. Any order of items
            gives the same columns; from most to least seen is fastest, since the entry of two
            items is looked up in the row of the later one.
        right: (m, n) float32, row j the right-hand side of column j; None: gram without its
            diagonal, so that each item is regressed on others.
    Returns:
        (n, m - first) float32 weights, row = item asked with, and (m - first,) float32 what a
        column leaves of gram_jj, where `right` is gram: 1 / P_jj of the neighbourhood, P = gram⁻¹.
    Raises:
        DataError: if a neighbourhood is not positive definite.
    Source: the pattern-restricted inverse of Kolotilina and Yeremin 1993, section 2; a sparse
        inverse for EASE is the idea of Spišák et al. 2023, Scalable Approximate NonSymmetric
        Autoencoder, solved there by incomplete factors.
    """
    own = _diagonal_places(gram)
    diagonal = gram.data[own]
    place = np.full(gram.shape[0], -1, np.int32)
    targets = gram if right is None else right
    chosen, solved = [], []
    left = np.zeros(targets.shape[0] - first, np.float32)
    for j in range(first, targets.shape[0]):
        row = slice(targets.indptr[j], targets.indptr[j + 1])
        among, together = targets.indices[row], targets.data[row]
        gain = together**2 / diagonal[among]
        if right is None:
            gain[own[j] - row.start] = -1.0  # no item explains itself
            left[j - first] = diagonal[j]
        best = _largest(gain, neighbours)
        among, together = among[best], together[best]
        weights = _solved(_block(gram, own, among, place), together)
        chosen.append(among)
        solved.append(weights)
        left[j - first] -= together @ weights
    pointers = np.concatenate([[0], np.cumsum([len(part) for part in chosen])])
    entries = np.concatenate(solved or [diagonal[:0]]), np.concatenate(chosen or [own[:0]])
    return sparse.csc_matrix((*entries, pointers), shape=(gram.shape[0], len(left))), left


def _diagonal_places(gram: sparse.csr_matrix) -> NDArray[np.int64]:
    """(n,): where the diagonal's entries lie in `gram.data`."""
    bounds = zip(gram.indptr[:-1].tolist(), gram.indptr[1:].tolist(), strict=True)
    return np.array(
        [a + np.searchsorted(gram.indices[a:b], i) for i, (a, b) in enumerate(bounds)], np.int64
    )


def _largest(gain: Floats, n: int) -> NDArray[np.int64]:
    """Places of the `n` largest gains that are not negative, at most one being so, in order."""
    if len(gain) <= n:
        return np.flatnonzero(gain >= 0)
    found = np.argpartition(-gain, n)[:n]
    found.sort()
    return found


def _solved(block: Floats, right: Floats) -> Floats:
    if len(right) == 0:
        return right  # LAPACK refuses an empty system
    weights: Floats
    # C order read as Fortran's: the lower triangle is the upper one
    _, weights, info = linalg.lapack.sposv(block.T, right, lower=0, overwrite_a=1)
    if info != 0:
        raise DataError(f"a neighbourhood of {len(right)} items is not positive definite: raise l2")
    return weights


def _block(
    gram: sparse.csr_matrix, own: NDArray[np.int64], chosen: Indices, place: Indices
) -> Floats:
    """gram[chosen, chosen] as a dense lower triangle; zeros above.

    Args:
        own: (n,) places of the diagonal's entries; entries before it in a row are of items before.
        chosen: (m,) rising item numbers.
        place: (n,) of -1, used as scratch and left as it was.
    """
    m = len(chosen)
    place[chosen] = np.arange(m)
    starts, stops = gram.indptr[chosen], own[chosen]
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    # place[] of the items before each chosen one, row after row
    column = place[np.concatenate([gram.indices[a:b] for a, b in bounds] or [chosen])]
    inside = np.flatnonzero(column >= 0)
    ends = np.cumsum(stops - starts)
    row = np.searchsorted(ends, inside, side="right")
    block = np.zeros((m, m), np.float32)
    block[row, column[inside]] = gram.data[inside + (stops - ends)[row]]
    block.flat[:: m + 1] = gram.data[own[chosen]]
    place[chosen] = -1
    return block
