"""Narrow: the few items that can come into a list, told from bounds before anything is exact."""

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, Indices
from steerec.engine.calibrate import Curves

TIE = 2e-6  # scores this near may count as equal


def contenders(
    scores: Floats,
    curves: Curves,
    weights: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    *,
    sure: NDArray[np.bool_],
    n: int,
    each: int,
) -> Indices:
    """Places of all items that can be among the `n` best of the blend, rising, and some more.

    Args:
        scores: (n_heads, n_items) float32 raw scores, NaN where unknown.
        weights: (n_heads,) of the blend.
        sure: (n_items,) items that are taken in if allowed: those that are weighed otherwise.
        each: so many of the best of each head are taken in too; of equal ones at the edge none.
    """
    least, greatest = curves.bounds(scores, weights)
    told = least[allowed & ~sure]
    if len(told) <= n:
        return np.flatnonzero(allowed).astype(np.int32)
    edge = np.partition(told, len(told) - n)[len(told) - n] - TIE
    chosen = (greatest >= edge) | sure
    if each:
        chosen |= _tops(np.where(allowed, scores, np.nan), each)
    return np.flatnonzero(chosen & allowed).astype(np.int32)


def contenders_compiled(
    scores: Floats,
    curves: Curves,
    weights: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    *,
    sure: NDArray[np.bool_],
    n: int,
    each: int,
) -> Indices:
    """`contenders` by compiled loops."""
    w = weights.astype(np.float32)
    return kernels.ranking.contenders(scores, curves.tables, w, allowed, sure, n, each, TIE)


def _tops(scores: Floats, n: int) -> NDArray[np.bool_]:
    """(n_items,): which are among the `n` best of a row; rows with ties at the edge give fewer."""
    low = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    n = min(n, low.shape[1])
    edge = np.partition(low, low.shape[1] - n, axis=1)[:, low.shape[1] - n][:, None]
    crowded = np.count_nonzero(low >= edge, axis=1) > n
    return np.asarray(np.where(crowded[:, None], low > edge, low >= edge).any(axis=0))
