"""The race of a slate without diversity and limits: its noise, who arrives first, how likely.

What `engine.sampler` does with NumPy, in one call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Indices
from steerec.kernels.compiling import DOUBLE, INT, LONG, WORD, compiled, given, made, pair

HALF = np.uint64(32)
LOW = np.uint64(2**32 - 1)
TIMES = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
MORE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
ROUNDS = 10


@compiled(WORD(WORD, WORD))
def _upper(one: Any, other: Any) -> Any:
    """The upper 64 bits of a product."""
    a, b, c, d = one >> HALF, one & LOW, other >> HALF, other & LOW
    middle = a * d + ((b * d) >> HALF)
    return a * c + (middle >> HALF) + ((b * c + (middle & LOW)) >> HALF)


@compiled(made(WORD)(WORD, LONG))
def words(seed: Any, n: int) -> NDArray[np.uint64]:
    """(n,) what `numpy.random.Philox(key=seed).random_raw(n)` gives.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3; Philox 4x64-10.
    """
    found = np.empty(n + 3, np.uint64)
    for block in range(0, n, 4):
        a, b, c, d = np.uint64(block // 4 + 1), np.uint64(0), np.uint64(0), np.uint64(0)
        key, other = seed, np.uint64(0)
        for _ in range(ROUNDS):
            up, low = _upper(TIMES[0], a), TIMES[0] * a
            up_too, low_too = _upper(TIMES[1], c), TIMES[1] * c
            a, b, c, d = up_too ^ b ^ key, low_too, up ^ d ^ other, low
            key, other = key + MORE[0], other + MORE[1]
        found[block], found[block + 1], found[block + 2], found[block + 3] = a, b, c, d
    return found[:n]


@compiled(made(INT)(given(DOUBLE), WORD, LONG))
def _first(logits: NDArray[np.float64], seed: Any, n: int) -> Indices:
    """Places of the first `n` to arrive, of equal ones those of low place."""
    raw, n_best = words(seed, len(logits)), 0
    best, at = np.empty(n + 1), np.empty(n + 1, np.int32)
    for place in range(len(logits)):
        inside = (np.float64(raw[place] >> np.uint64(12)) + 0.5) * 2.0**-52
        key = logits[place] - np.log(-np.log(inside))
        if n_best == n and key <= best[n - 1]:
            continue
        to = n_best
        while to > 0 and best[to - 1] < key:
            best[to], at[to] = best[to - 1], at[to - 1]
            to -= 1
        best[to], at[to] = key, place
        n_best = min(n_best + 1, n)
    return at[:n_best].copy()


@compiled(pair(made(INT), made(DOUBLE))(given(DOUBLE), DOUBLE, WORD, LONG))
def race(
    scores: NDArray[np.float64], temperature: float, seed: Any, n: int
) -> tuple[Indices, NDArray[np.float64]]:
    """The slate, top first, and the log of each place's probability given those above."""
    logits = scores / temperature
    places = _first(logits, seed, n)
    shown, logs = np.zeros(len(logits), np.bool_), np.empty(len(places))
    for place in places:
        shown[place] = True
    top = -1e300  # of the others, lest all underflow
    for place in range(len(logits)):
        if not shown[place]:
            top = max(top, logits[place])
    mass = 0.0
    for place in range(len(logits)):
        if not shown[place]:
            mass += np.exp(logits[place] - top)
    left = np.log(mass) + top if mass > 0.0 else -np.inf
    for rank in range(len(places) - 1, -1, -1):  # upwards: nothing is taken away from a sum
        logit = logits[places[rank]]
        most = max(left, logit)
        left = most + np.log(np.exp(left - most) + np.exp(logit - most))
        logs[rank] = logit - left
    return places, logs
