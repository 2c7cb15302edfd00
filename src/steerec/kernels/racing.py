"""Races over many pools: who arrives first, and how likely what was shown stood at its place.

What `tuning.ope.softmax` does with NumPy; there the formulas stand.
"""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels.compiling import DOUBLE, FLOAT, INT, LONG, compiled, given, made, none

Doubles = NDArray[np.float64]


@compiled(made(INT, 2)(given(FLOAT, 2), LONG))
def first(keys: Floats, k: int) -> Indices:
    """(m, k) places of the k least keys of each row, in order; -1 for those that are infinite."""
    found = np.full((len(keys), k), -1, np.int32)
    least = np.empty(k, np.float32)
    for row in range(len(keys)):
        n = 0
        for place in range(keys.shape[1]):
            key = keys[row, place]
            if key == np.inf or (n == k and key >= least[k - 1]):
                continue
            to = n if n < k else k - 1
            n = to + 1
            while to > 0 and least[to - 1] > key:
                least[to], found[row, to] = least[to - 1], found[row, to - 1]
                to -= 1
            least[to], found[row, to] = key, place
    return found


@compiled(
    none(
        given(DOUBLE, 2), given(DOUBLE), given(DOUBLE, 2), given(INT, 2), given(INT, 2),
        made(DOUBLE, 2),
    )
)  # fmt: skip
def add_places(
    mass: Doubles, total: Doubles, own: Doubles, shown: Indices, order: Indices, found: Doubles
) -> None:
    """Add to `found` (m, k) how likely each shown item stands at its place, from one drawn order.

    Args:
        mass: (m, n) and its sum (m,); own: (m, k) that of the shown items.
        shown: (m, k); order: (m, k + 1); -1 where there is none.
    """
    k = shown.shape[1]
    left, without = np.empty(k), np.empty(k)
    for row in range(len(shown)):
        passed = 0.0
        for i in range(k):
            left[i] = total[row] - passed
            passed += mass[row, order[row, i]] if order[row, i] >= 0 else 0.0
            without[i] = total[row] - passed
        for j in range(k):
            if shown[row, j] < 0:
                found[row, j] += 1.0
                continue
            e, chance, share, met = own[row, j], 1.0, 0.0, False
            for i in range(j + 1):
                chance *= 1 - share  # of the place above
                rest = without[i] + e if met else left[i]
                share = e / rest if rest > e else (1.0 if e > 0 else 0.0)
                met = met or order[row, i] == shown[row, j]
            found[row, j] += chance * share


@compiled(
    none(
        given(DOUBLE, 2), given(DOUBLE), given(DOUBLE, 2), given(INT, 2), given(INT, 2),
        given(INT, 2), made(DOUBLE, 2),
    )
)  # fmt: skip
def add_clusters(
    mass: Doubles,
    total: Doubles,
    size: Doubles,
    cluster: Indices,
    shown: Indices,
    above: Indices,
    found: Doubles,
) -> None:
    """Add to `found` (m, k) how likely the cluster shown is at each place, given these above.

    Args:
        mass: (m, n) and its sum (m,); size: (m, n_clusters) its sum by cluster.
        cluster: (m, n); shown, above: (m, k), -1 where there is none.
    """
    k = shown.shape[1]
    taken, stood = np.empty(k), np.empty(k, np.int32)
    for row in range(len(shown)):
        passed = 0.0
        for j in range(k):
            place = above[row, j]
            taken[j] = mass[row, place] if place >= 0 else 0.0
            stood[j] = cluster[row, max(place, 0)]
            passed += taken[j]
            if shown[row, j] < 0:
                found[row, j] += 1.0
                continue
            wanted = cluster[row, shown[row, j]]
            still = size[row, wanted]
            for i in range(j):
                still -= taken[i] if stood[i] == wanted else 0.0
            rest = total[row] - passed + taken[j]
            found[row, j] += min(max(still / rest, 0.0), 1.0) if rest > 0 else 1.0
