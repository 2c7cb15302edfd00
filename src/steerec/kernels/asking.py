"""One user's newest events as a query, and its product with weights of items.

What `heads` computes for many users with NumPy and SciPy, for one user in one pass.
"""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels import CODES
from steerec.kernels.compiling import (
    DOUBLE,
    FLAG,
    FLOAT,
    INT,
    LONG,
    SHORT,
    compiled,
    given,
    made,
    none,
    pair,
)

FAINT = 1e-10  # of the greatest weight of a query: rows that weigh less are left out


@compiled(LONG(given(INT), LONG))
def reach(basket: Indices, last: int) -> int:
    """How many of the newest events lie in the `last` newest places; see histories.places."""
    n = len(basket)
    if n == 0 or basket[n - 1] < 0:
        return min(n, last)
    place = 0
    for at in range(n - 2, -1, -1):
        place += basket[at] != basket[at + 1] or basket[at] < 0
        if place >= last:
            return n - 1 - at
    return n


@compiled(
    pair(made(INT), made(FLOAT))(given(INT), given(FLOAT), given(INT), DOUBLE, LONG, given(FLAG))
)
def query(
    item_idx: Indices, weight: Floats, basket: Indices, decay: float, last: int, known: np.ndarray
) -> tuple[Indices, Floats]:
    """Items of the `last` newest places and their decayed weights, each item once.

    The row that histories.recency_rows makes, with the newest item first.
    """
    n, n_asked = len(item_idx), reach(basket, last)
    slots = 8
    while slots < 2 * n_asked:
        slots *= 2
    at_slot = np.full(slots, -1, np.int32)  # a hash table: place of an item in `items`
    items, sums = np.empty(n_asked, np.int32), np.empty(n_asked, np.float32)
    grouped = n > 0 and basket[n - 1] >= 0
    n_items, power, fade = 0, 1.0, np.float64(np.float32(decay))
    for at in range(n - 1, n - 1 - n_asked, -1):
        if at < n - 1 and (not grouped or basket[at] != basket[at + 1] or basket[at] < 0):
            power *= fade
        item = item_idx[at]
        if item < 0 or item >= len(known) or not known[item]:
            continue
        slot = (item * 40503) & (slots - 1)
        while at_slot[slot] >= 0 and items[at_slot[slot]] != item:
            slot = (slot + 1) & (slots - 1)
        if at_slot[slot] < 0:
            at_slot[slot] = n_items
            items[n_items], sums[n_items] = item, 0.0
            n_items += 1
        sums[at_slot[slot]] += np.float32(weight[at] * power)
    kept = 0
    for number in range(n_items):
        items[kept], sums[kept] = items[number], sums[number]
        kept += sums[number] != 0.0
    return items[:kept], sums[:kept]


@compiled(FLOAT(given(FLOAT)))
def faint(sums: Floats) -> float:
    """What a row must weigh at least to be looked at."""
    greatest = np.float32(0.0)
    for number in range(len(sums)):
        greatest = max(greatest, abs(sums[number]))
    return float(greatest * FAINT)


@compiled(none(given(INT), given(FLOAT), given(FLOAT, 2), made(FLOAT)))
def add_dense(rows: Indices, sums: Floats, weights: Floats, out: Floats) -> None:
    """Add `sums @ weights[rows]` to `out`, four rows at a time."""
    n, least = weights.shape[1], faint(sums)
    used, n_used = np.empty(len(rows), np.int32), 0
    for number in range(len(rows)):
        used[n_used] = number
        n_used += abs(sums[number]) >= least
    number = 0
    while number + 4 <= n_used:
        i, j, k, m = used[number], used[number + 1], used[number + 2], used[number + 3]
        a, b, c, d = weights[rows[i]], weights[rows[j]], weights[rows[k]], weights[rows[m]]
        for item in range(n):
            two = sums[i] * a[item] + sums[j] * b[item]
            out[item] += two + sums[k] * c[item] + sums[m] * d[item]
        number += 4
    while number < n_used:
        a = weights[rows[used[number]]]
        for item in range(n):
            out[item] += sums[used[number]] * a[item]
        number += 1


@compiled(none(given(FLOAT, 2), made(SHORT, 2), made(FLOAT)))
def pack(weights: Floats, codes: NDArray[np.int16], step: Floats) -> None:
    """Round each row to codes; see heads.packed."""
    for row in range(len(weights)):
        numbers, coded, greatest = weights[row], codes[row], np.float32(0.0)
        for item in range(len(numbers)):
            greatest = max(greatest, abs(numbers[item]))
        told = greatest > 1e-30  # below, 1 / step would be infinite
        step[row] = greatest / np.float32(CODES) if told else np.float32(0.0)
        per = np.float32(1.0) / step[row] if told else np.float32(0.0)
        for item in range(len(numbers)):
            coded[item] = np.int16(np.rint(numbers[item] * per))


@compiled(none(given(INT), given(FLOAT), given(SHORT, 2), given(FLOAT), made(FLOAT)))
def add_packed(
    rows: Indices, sums: Floats, codes: NDArray[np.int16], step: Floats, out: Floats
) -> None:
    """Add `sums @ weights[rows]` to `out`, the weights being packed.

    Rows that are lost in the rounding of the one that weighs most are left out.
    """
    n, greatest = codes.shape[1], np.float32(0.0)
    used, factor, n_used = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32), 0
    for number in range(len(rows)):
        greatest = max(greatest, abs(sums[number] * step[rows[number]]))
    for number in range(len(rows)):
        used[n_used], factor[n_used] = rows[number], sums[number] * step[rows[number]]
        n_used += abs(factor[n_used]) * np.float32(2 * CODES) > greatest
    number = 0
    while number + 4 <= n_used:
        a, b = codes[used[number]], codes[used[number + 1]]
        c, d = codes[used[number + 2]], codes[used[number + 3]]
        s, t, u, v = factor[number], factor[number + 1], factor[number + 2], factor[number + 3]
        for item in range(n):
            two = s * np.float32(a[item]) + t * np.float32(b[item])
            out[item] += two + u * np.float32(c[item]) + v * np.float32(d[item])
        number += 4
    while number < n_used:
        a = codes[used[number]]
        for item in range(n):
            out[item] += factor[number] * np.float32(a[item])
        number += 1


@compiled(none(given(INT), given(FLOAT), given(INT), given(INT), given(FLOAT), made(FLOAT)))
def add_sparse(
    rows: Indices, sums: Floats, indptr: Indices, indices: Indices, data: Floats, out: Floats
) -> None:
    """Add `sums @ weights[rows]` to `out`, the weights being CSR."""
    least = faint(sums)
    for number in range(len(rows)):
        if abs(sums[number]) >= least:
            for at in range(indptr[rows[number]], indptr[rows[number] + 1]):
                out[np.uint32(indices[at])] += sums[number] * data[at]  # so none is below 0


@compiled(
    none(
        given(INT), given(FLOAT), given(INT), given(INT), given(FLOAT), made(FLOAT), given(INT),
        made(FLOAT),
    )
)  # fmt: skip
def add_sparse_to(
    rows: Indices,
    sums: Floats,
    indptr: Indices,
    indices: Indices,
    data: Floats,
    room: Floats,
    items: Indices,
    out: Floats,
) -> None:
    """`add_sparse`, to some items only.

    Args:
        room: (n_items,) of zeros, which it is again afterwards.
    """
    add_sparse(rows, sums, indptr, indices, data, room)
    n_entries = 0
    for number in range(len(items)):
        out[number] += room[items[number]]
    for number in range(len(rows)):
        n_entries += indptr[rows[number] + 1] - indptr[rows[number]]
    if n_entries > len(room) // 16:  # then all are emptied sooner than one by one
        room[:] = 0.0
        return
    for number in range(len(rows)):
        for at in range(indptr[rows[number]], indptr[rows[number] + 1]):
            room[np.uint32(indices[at])] = 0.0


@compiled(none(made(FLOAT), given(FLAG), given(INT)))
def blank(out: Floats, known: np.ndarray, items: Indices) -> None:
    """NaN where an item is not known.

    Args:
        items: (n,) whose scores these are; empty: of the whole catalogue.
    """
    for number in range(len(out)):
        if not known[items[number] if len(items) else number]:
            out[number] = np.nan


@compiled(FLAG(given(FLOAT, 2)))
def finite(scores: Floats) -> bool:
    """Whether no score is infinite; unknown ones (NaN) may be."""
    n_infinite = np.int32(0)
    for head in range(len(scores)):
        row = scores[head]
        for item in range(len(row)):
            n_infinite += np.int32(abs(row[item]) == np.inf)
    return bool(n_infinite == 0)
