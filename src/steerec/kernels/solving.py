"""What single heads work out for one user: neighbours, a user vector, shares of a mixture."""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels.choosing import nth_largest
from steerec.kernels.compiling import (
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    compiled,
    given,
    made,
    none,
    pair,
)

SIZES = 4_096  # steps of size by which most of what is too small is passed over at once
BLOCK = 4_096  # stretches looked at together: their cosines stay in the nearest cache
NUMBER = 2**32  # below: the stretch and its sign, above: the size


@compiled(
    LONG(
        made(LONG),
        given(LONG),
        given(FLOAT),
        given(INT),
        given(FLOAT),
        LONG,
        made(FLOAT),
        made(INT),
    )
)
def _meet(
    at: NDArray[np.int64],
    stop: NDArray[np.int64],
    share: Floats,
    indices: Indices,
    data: Floats,
    first: int,
    room: Floats,
    touched: Indices,
) -> int:
    """Add to the cosines of the stretches from `first` on, as many as fit into `room`.

    Args:
        at, stop: (n,) where the entries of each item go on, and end; the first is moved.
        touched: filled with the places in `room` that were named, some perhaps twice where weights
            cancelled out; how many is returned.
    """
    n_touched, end = 0, first + len(room)
    for number in range(len(at)):
        entry, weight = at[number], share[number]
        while entry < stop[number] and indices[entry] < end:
            place = np.uint32(indices[entry] - first)  # unsigned: none counts from the end
            touched[n_touched] = place
            n_touched += room[place] == 0.0
            room[place] += weight * data[entry]
            entry += 1
        at[number] = entry
    return n_touched


@compiled(made(LONG)(made(LONG), LONG))
def _largest(keys: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The `most` largest keys, no two being equal."""
    if len(keys) <= most:
        return keys
    least, n_kept = nth_largest(keys.copy(), most), 0
    for number in range(len(keys)):
        keys[n_kept] = keys[number]
        n_kept += keys[number] >= least
    return keys[:n_kept]


@compiled(
    none(given(INT), made(FLOAT), LONG, LONG, made(LONG), made(LONG), made(LONG)),
)
def _sift(
    touched: Indices,
    room: Floats,
    first: int,
    most: int,
    keys: NDArray[np.int64],
    so_far: NDArray[np.int64],
    histogram: NDArray[np.int64],
) -> None:
    """Add the keys of stretches that may be among the largest, from `first` on; empty `room`.

    Args:
        keys: what sorts stretches by size, low indices before high ones.
        so_far: how many keys there are, the step of size below which none is among the largest,
            and how many reach that step.
        histogram: (SIZES,) how many were added of each step.
    """
    n_keys, step, n_above = so_far
    bits, least = room.view(np.int32), max(step << 19, 1)  # 0: its own, or taken already
    for number in range(len(touched)):
        place = np.uint32(touched[number])
        size = bits[place] & 0x7FFFFFFF
        if size >= least:
            below = (NUMBER // 2 - 1 - first - np.int64(place)) << 1
            keys[n_keys] = np.int64(size) * NUMBER + (below | int(bits[place] < 0))
            histogram[size >> 19] += 1
            n_keys += 1
            n_above += 1
            while n_above - histogram[step] >= most:
                n_above -= histogram[step]
                step += 1
                least = step << 19
        room[place] = 0.0
    if n_keys > 2 * most:
        n_keys = len(_largest(keys[:n_keys], most))
    so_far[:] = n_keys, step, n_above


@compiled(pair(made(INT), made(FLOAT))(given(LONG)))
def _unkeyed(keys: NDArray[np.int64]) -> tuple[Indices, Floats]:
    """The stretches and their cosines."""
    found, alike = np.empty(len(keys), np.int32), np.empty(len(keys), np.float32)
    bits = alike.view(np.int32)
    for number in range(len(keys)):
        below = keys[number] % NUMBER
        found[number] = (NUMBER // 2 - 1) - (below >> 1)
        bits[number] = (keys[number] // NUMBER) | ((below & 1) << 31)
    return found, alike


@compiled(
    pair(made(INT), made(FLOAT))(
        given(INT), given(FLOAT), given(INT), given(INT), given(FLOAT), given(LONG), LONG, LONG
    )
)
def nearest(
    items: Indices,
    sums: Floats,
    indptr: Indices,
    indices: Indices,
    data: Floats,
    own: NDArray[np.int64],
    n_stretches: int,
    most: int,
) -> tuple[Indices, Floats]:
    """The `most` stretches whose cosines with the query are largest in size, ties by index.

    Args:
        indptr, indices, data: (n_items, n_stretches) as CSR, stretches of unit length, rising.
        own: stretches that have no say, rising.
    """
    square, n, n_entries = np.float32(0.0), len(items), 0
    at, stop, share = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.float32)
    for number in range(n):
        square += sums[number] * sums[number]
        at[number], stop[number] = indptr[items[number]], indptr[items[number] + 1]
        n_entries += stop[number] - at[number]
    length = np.float32(max(np.sqrt(square), np.float32(1e-12)))
    for number in range(n):
        share[number] = sums[number] / length
    room, most_at_once = np.zeros(BLOCK, np.float32), min(n_entries, n * BLOCK)
    touched = np.empty(most_at_once + 1, np.int32)
    keys, so_far = np.empty(2 * most + BLOCK, np.int64), np.zeros(3, np.int64)
    histogram, n_own = np.zeros(SIZES, np.int64), 0
    for first in range(0, n_stretches, BLOCK):
        n_touched = _meet(at, stop, share, indices, data, first, room, touched)
        while n_own < len(own) and own[n_own] < first + BLOCK:
            room[own[n_own] - first] = 0.0
            n_own += 1
        _sift(touched[:n_touched], room, first, most, keys, so_far, histogram)
    return _unkeyed(_largest(keys[: so_far[0]], most))


@compiled(DOUBLE(given(FLOAT), given(FLOAT)), reorder=True)
def _product(one: Floats, other: Floats) -> float:
    total = np.float32(0.0)
    for place in range(len(one)):
        total += one[place] * other[place]
    return float(total)


@compiled(none(made(DOUBLE, 2), made(DOUBLE)))
def _solve(system: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    """Solve in place by elimination; the largest number of a column goes first."""
    n = len(right)
    for step in range(n):
        top = step
        for row in range(step + 1, n):
            if abs(system[row, step]) > abs(system[top, step]):
                top = row
        if top != step:
            right[step], right[top] = right[top], right[step]
            for column in range(step, n):
                system[step, column], system[top, column] = (
                    system[top, column],
                    system[step, column],
                )
        for row in range(step + 1, n):
            share = system[row, step] / system[step, step]
            right[row] -= share * right[step]
            for column in range(step + 1, n):
                system[row, column] -= share * system[step, column]
    for step in range(n - 1, -1, -1):
        for column in range(step + 1, n):
            right[step] -= system[step, column] * right[column]
        right[step] /= system[step, step]


@compiled(made(FLOAT)(given(INT), given(FLOAT), DOUBLE, given(FLOAT, 2), given(FLOAT, 2)))
def fold_in(items: Indices, sums: Floats, alpha: float, factors: Floats, spread: Floats) -> Floats:
    """(factors,) the user vector that the query asks for; see Als._fold_in."""
    n, width = len(items), factors.shape[1]
    system, solved = np.empty((n, n)), np.empty(n)
    for row in range(n):
        solved[row] = alpha * sums[row]
        for column in range(n):
            product = _product(factors[items[row]], spread[items[column]])
            system[row, column] = abs(solved[row]) * product
        system[row, row] += 1.0
    _solve(system, solved)
    out = np.zeros(width, np.float32)
    for row in range(n):
        for place in range(width):
            out[place] += np.float32(solved[row]) * spread[items[row], place]
    return out


@compiled(made(DOUBLE)(given(DOUBLE, 2), given(DOUBLE)), reorder=True)
def _parts(counts: NDArray[np.float64], mix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_windows,) what one count of each window adds to a share."""
    parts = np.empty(len(mix))
    for window in range(len(mix)):
        total = 0.0
        for item in range(counts.shape[1]):
            total += counts[window, item]
        parts[window] = mix[window] / max(total, 1e-300)
    return parts


@compiled(none(given(DOUBLE, 2), given(DOUBLE), given(INT), made(FLOAT)))
def log_share_of(
    counts: NDArray[np.float64], parts: NDArray[np.float64], items: Indices, out: Floats
) -> None:
    """`log_share` of some items.

    Args:
        parts: (n_windows,) what one count of each window adds to a share.
    """
    for number in range(len(items)):
        share = 0.0
        for window in range(len(parts)):
            share += parts[window] * counts[window, items[number]]
        out[number] = np.log(share) if share > 0 else np.nan


@compiled(none(given(DOUBLE, 2), given(DOUBLE), made(FLOAT)))
def log_share(counts: NDArray[np.float64], mix: NDArray[np.float64], out: Floats) -> None:
    """Log of each item's share in the mixture of the windows, NaN where it is 0."""
    parts, share = _parts(counts, mix), np.zeros(counts.shape[1])
    for window in range(len(mix)):
        for item in range(len(share)):
            share[item] += parts[window] * counts[window, item]
    for item in range(len(share)):
        out[item] = np.log(share[item]) if share[item] > 0 else np.nan


@compiled(none(given(INT), given(FLOAT), LONG, given(FLOAT), made(FLOAT, 2), made(DOUBLE)))
def count_after(
    before: Indices,
    weight: Floats,
    item_idx: int,
    fading: Floats,
    counts: Floats,
    out: NDArray[np.float64],
) -> None:
    """Count an item after the newest liked ones of these, in place; see Transitions.count."""
    apart, at = 0, len(before) - 1
    while at >= 0 and apart + 1 < len(fading):
        if weight[at] > 0.0:
            apart += 1
            if 0 <= before[at] < len(out):
                counts[before[at], item_idx] += fading[apart]
                out[before[at]] += fading[apart]
        at -= 1
