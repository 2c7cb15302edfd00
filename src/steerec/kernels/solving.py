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

SIZES = 4_096  # steps of size by which most of what is too small is passed over unsorted
NUMBER = 2**32  # below: the stretch and its sign, above: the size


@compiled(made(LONG)(given(INT), made(FLOAT), LONG))
def _largest_keys(touched: Indices, room: Floats, most: int) -> NDArray[np.int64]:
    """What sorts stretches by size, low indices before high ones; `room` becomes zero."""
    bits, histogram = room.view(np.int32), np.zeros(SIZES, np.int64)
    keys, n_keys = np.empty(len(touched), np.int64), 0
    for number in range(len(touched)):
        stretch = touched[number]
        size = bits[stretch] & 0x7FFFFFFF
        if size:  # 0: its own, or taken already
            sign = int(bits[stretch] < 0)
            below = ((NUMBER // 2 - 1 - np.int64(stretch)) << 1) | sign
            keys[n_keys] = np.int64(size) * NUMBER + below
            histogram[size >> 19] += 1
            n_keys += 1
            room[stretch] = 0.0
    if n_keys <= most:
        return keys[:n_keys]
    step, n_above = SIZES, 0
    while n_above < most:
        step -= 1
        n_above += histogram[step]
    n_kept = 0
    for number in range(n_keys):
        keys[n_kept] = keys[number]
        n_kept += keys[number] // NUMBER >> 19 >= step
    large = keys[:n_kept].copy()
    least = nth_largest(large, most)
    n_large = 0
    for number in range(n_kept):
        large[n_large] = keys[number]
        n_large += keys[number] >= least and n_large < most
    return large[:most]


@compiled(
    pair(made(INT), made(FLOAT))(
        given(INT), given(FLOAT), given(INT), given(INT), given(FLOAT), given(LONG), made(FLOAT),
        LONG,
    )
)  # fmt: skip
def nearest(
    items: Indices,
    sums: Floats,
    indptr: Indices,
    indices: Indices,
    data: Floats,
    own: NDArray[np.int64],
    room: Floats,
    most: int,
) -> tuple[Indices, Floats]:
    """The `most` stretches whose cosines with the query are largest in size, ties by index.

    Args:
        indptr, indices, data: (n_items, n_stretches) as CSR, stretches of unit length.
        own: stretches that have no say.
        room: (n_stretches,) of zeros, which it is again afterwards.
    """
    square, n_entries = np.float32(0.0), 0
    for number in range(len(items)):
        square += sums[number] * sums[number]
        n_entries += indptr[items[number] + 1] - indptr[items[number]]
    length = np.float32(max(np.sqrt(square), np.float32(1e-12)))
    touched, n_touched = np.empty(n_entries, np.int32), 0
    for number in range(len(items)):
        share = sums[number] / length
        for at in range(indptr[items[number]], indptr[items[number] + 1]):
            stretch = indices[at]
            touched[n_touched] = stretch
            n_touched += room[stretch] == 0.0
            room[stretch] += share * data[at]
    for number in range(len(own)):
        room[own[number]] = 0.0
    keys = _largest_keys(touched[:n_touched], room, most)
    found, alike = np.empty(len(keys), np.int32), np.empty(len(keys), np.float32)
    bits = alike.view(np.int32)
    for number in range(len(keys)):
        below = keys[number] % NUMBER
        found[number] = (NUMBER // 2 - 1) - (below >> 1)
        bits[number] = (keys[number] // NUMBER) | ((below & 1) << 31)
    return found, alike


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
