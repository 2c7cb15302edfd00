"""From the heads' scores to the pool: bounds, exact scores of what is left, and the best of it.

What `engine.narrow`, `engine.calibrate` and `engine.pool` do with NumPy, in a few passes.
"""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels.choosing import nth_largest
from steerec.kernels.compiling import DOUBLE, FLAG, FLOAT, INT, LONG, compiled, given, made, none

_NOTHING = np.float32(-np.inf)
BLOCK = 64  # scores looked at together for one that is high enough
PLACES = 2**24  # more than a catalogue has items that are scored at once


@compiled(none(given(FLOAT, 2), given(FLOAT, 3), given(FLOAT), made(FLOAT), made(FLOAT)))
def bounds(
    scores: Floats, tables: Floats, weights: Floats, least: Floats, greatest: Floats
) -> None:
    """Least and greatest Σ w z of each item, from the upper half of each score's bits.

    Args:
        tables: (n_heads, 65536, 2) of least and greatest z.
    """
    n_heads, n_items = scores.shape
    least[:] = 0.0
    greatest[:] = 0.0
    for head in range(n_heads):
        bits, table, weight = scores[head].view(np.uint32), tables[head], weights[head]
        low, high = (0, 1) if weight >= 0 else (1, 0)
        for item in range(n_items):
            code = bits[item] >> 16
            least[item] += weight * table[code, low]
            greatest[item] += weight * table[code, high]


@compiled(none(made(FLOAT), made(INT), FLOAT, INT))
def _put(best: Floats, at: Indices, score: float, item: int) -> None:
    """Put an item in its place among falling scores; the last falls out."""
    place = len(best) - 1
    while place > 0 and best[place - 1] < score:
        best[place], at[place] = best[place - 1], at[place - 1]
        place -= 1
    best[place], at[place] = score, item


@compiled(none(given(FLOAT), given(FLAG), LONG, made(FLAG)))
def mark_best(
    scores: Floats, allowed: NDArray[np.bool_], n: int, chosen: NDArray[np.bool_]
) -> None:
    """Mark the `n` best allowed items; of equal ones at the edge none. NaN is never marked."""
    best, at = np.full(n + 1, _NOTHING, np.float32), np.zeros(n + 1, np.int32)
    for start in range(0, len(scores), BLOCK):
        part, may = scores[start : start + BLOCK], allowed[start : start + BLOCK]
        n_above, least = np.int32(0), best[n]
        for place in range(len(part)):
            n_above += np.int32(part[place] > least)
        for place in range(len(part) if n_above else 0):
            if part[place] > best[n] and may[place]:
                _put(best, at, part[place], start + place)
    for place in range(n):
        if best[place] > best[n]:
            chosen[at[place]] = True


@compiled(FLOAT(made(FLOAT), LONG))
def _edge(values: Floats, n: int) -> float:
    """`nth_largest`: what a sample of every eighth shows to be too small is left out before."""
    sample = values[::8].copy()
    wanted = n // 8 + n // 32 + 8
    if wanted < len(sample):
        guess, n_above = nth_largest(sample, wanted), 0
        above = np.empty(len(values), np.float32)
        for number in range(len(values)):
            above[n_above] = values[number]
            n_above += values[number] >= guess
        if n_above >= n:
            values = above[:n_above]
    return float(nth_largest(values, n))


@compiled(
    made(INT)(
        given(FLOAT, 2), given(FLOAT, 3), given(FLOAT), given(FLAG), given(FLAG), LONG, LONG, FLOAT
    )
)
def contenders(
    scores: Floats,
    tables: Floats,
    weights: Floats,
    allowed: NDArray[np.bool_],
    sure: NDArray[np.bool_],
    n: int,
    each: int,
    tie: float,
) -> Indices:
    """Places of all items that can be among the `n` best; see engine.narrow.contenders."""
    n_items = scores.shape[1]
    least, greatest = np.empty(n_items, np.float32), np.empty(n_items, np.float32)
    bounds(scores, tables, weights, least, greatest)
    told, n_told = np.empty(n_items, np.float32), 0
    for item in range(n_items):
        told[n_told] = least[item]
        n_told += allowed[item] and not sure[item]
    edge = _NOTHING
    if n_told > n:
        edge = np.float32(_edge(told[:n_told], n) - tie)
    chosen = np.zeros(n_items, np.bool_)
    if each and n_told > n:
        for head in range(scores.shape[0]):
            mark_best(scores[head], allowed, each, chosen)
    places, n_places = np.empty(n_items, np.int32), 0
    for item in range(n_items):
        places[n_places] = item
        may = chosen[item] or greatest[item] >= edge or sure[item]
        n_places += may and allowed[item]
    return places[:n_places].copy()


@compiled(none(given(FLOAT, 2), given(DOUBLE), given(DOUBLE), given(LONG), DOUBLE, made(FLOAT, 2)))
def interpolate(
    x: Floats,
    knots: NDArray[np.float64],
    values: NDArray[np.float64],
    starts: NDArray[np.int64],
    limit: float,
    out: Floats,
) -> None:
    """Each row of `x` through its own rising piecewise linear map; NaN becomes 0.

    Args:
        knots, values: of all maps, one after the other; `starts` (n_rows + 1,) where they begin.
        limit: of the size of a result.
    """
    for row in range(x.shape[0]):
        first, last = starts[row], starts[row + 1] - 1
        inner = knots[first + 1 : last]
        for column in range(x.shape[1]):
            at = np.float64(x[row, column])
            if np.isnan(at):
                out[row, column] = 0.0
                continue
            low = first
            for knot in range(len(inner)):  # all of them: quicker than to guess where to stop
                low += inner[knot] <= at
            slope = (values[low + 1] - values[low]) / (knots[low + 1] - knots[low])
            z = float(values[low] + slope * (at - knots[low]))
            out[row, column] = min(max(z, -limit), limit)


@compiled(none(given(FLOAT), given(FLAG), LONG, made(FLAG)))
def _take_best(z: Floats, allowed: NDArray[np.bool_], n: int, chosen: NDArray[np.bool_]) -> None:
    """Mark the `n` best allowed places, of equal ones the first."""
    best, at = np.full(n, _NOTHING, np.float32), np.full(n, -1, np.int32)
    for item in range(len(z)):
        if allowed[item] and z[item] > best[n - 1]:
            place = n - 1
            while place > 0 and best[place - 1] < z[item]:
                best[place], at[place] = best[place - 1], at[place - 1]
                place -= 1
            best[place], at[place] = z[item], item
    for place in range(n):
        if at[place] >= 0:
            chosen[at[place]] = True


@compiled(made(INT)(given(DOUBLE), given(FLOAT, 2), given(FLAG), LONG, LONG))
def pool(
    blend: NDArray[np.float64], z: Floats, allowed: NDArray[np.bool_], top: int, each: int
) -> Indices:
    """Places of the `top` best of the blend and the `each` best of each head, rising.

    See engine.pool.Pool.shortlist; of equal scores of a head those of low place.
    """
    n = len(blend)
    keys, places, n_keys = np.empty(n, np.int64), np.empty(n, np.int32), 0
    for place in range(n):
        if allowed[place]:
            rounded = np.int64(np.rint(blend[place] * 1e6))
            keys[n_keys] = rounded * PLACES + (PLACES - 1 - place)
            n_keys += 1
    chosen = np.zeros(n, np.bool_)
    least = nth_largest(keys[:n_keys].copy(), top) if n_keys > top else -(2**62)
    for number in range(n_keys):
        chosen[PLACES - 1 - keys[number] % PLACES] = keys[number] >= least
    if n_keys > top:
        for head in range(z.shape[0] if each else 0):
            _take_best(z[head], allowed, each, chosen)
    n_places = 0
    for place in range(n):
        places[n_places] = place
        n_places += chosen[place]
    return places[:n_places].copy()
