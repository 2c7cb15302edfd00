"""The items that a head, or the fused matrix, would bring forward out of a large catalogue.

What is found comes as keys: one whole number an item, by which the best sorts last.
"""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels.choosing import nth_largest
from steerec.kernels.compiling import FLAG, FLOAT, INT, LONG, TINY, compiled, given, made, none

BLOCK = 64  # scores looked at together for one that is high enough
SPARSE = 16  # entries for so many items and more are worth looking at all items in turn
ITEM = 2**32  # below: the item, low ones last; above: its score


@compiled(made(LONG)(given(INT), given(FLOAT), LONG))
def largest(items: Indices, scores: Floats, n: int) -> NDArray[np.int64]:
    """Keys of the `n` best, in no order; of equal scores those of low index; NaN is left out."""
    keys, n_keys = np.empty(len(items), np.int64), 0
    for number in range(len(items)):
        if scores[number] == scores[number]:
            bits = np.int64(scores[number : number + 1].view(np.int32)[0])
            size = bits if bits >= 0 else -(bits & 0x7FFFFFFF)
            keys[n_keys] = size * ITEM + (ITEM - 1 - np.int64(items[number]))
            n_keys += 1
    keys = keys[:n_keys]
    if n_keys <= n:
        return keys.copy()
    least = nth_largest(keys.copy(), n)
    n_kept = 0
    for number in range(n_keys):
        keys[n_kept] = keys[number]
        n_kept += keys[number] >= least
    return keys[:n_kept].copy()


@compiled(made(INT)(given(INT), given(INT), given(INT), made(FLAG)))
def beside(newest: Indices, indptr: Indices, indices: Indices, marks: NDArray[np.bool_]) -> Indices:
    """Items that some have a weight for, in CSR, none that is marked already; they are now."""
    n_entries = 0
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            n_entries += indptr[newest[number] + 1] - indptr[newest[number]]
    found, n_found = np.empty(n_entries, np.int32), 0
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            for at in range(indptr[newest[number]], indptr[newest[number] + 1]):
                item = indices[at]
                if not marks[item]:
                    marks[item] = True
                    found[n_found] = item
                    n_found += 1
    return found[:n_found].copy()


@compiled(made(INT)(given(INT), given(INT), given(INT), given(INT)))
def _entries(newest: Indices, indptr: Indices, indices: Indices, also: Indices) -> Indices:
    """The columns of some rows of CSR and these others, as often as they stand there."""
    n_entries = len(also)
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            n_entries += indptr[newest[number] + 1] - indptr[newest[number]]
    found, n_found = np.empty(n_entries, np.int32), len(also)
    found[:n_found] = also
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            start, stop = indptr[newest[number]], indptr[newest[number] + 1]
            found[n_found : n_found + stop - start] = indices[start:stop]
            n_found += stop - start
    return found


@compiled(
    made(LONG)(
        given(INT), given(INT), given(INT), given(INT), given(FLOAT), given(FLAG), made(FLAG), LONG
    )
)
def best_beside(
    newest: Indices,
    indptr: Indices,
    indices: Indices,
    also: Indices,
    sums: Floats,
    known: NDArray[np.bool_],
    marks: NDArray[np.bool_],
    n: int,
) -> NDArray[np.int64]:
    """Keys of the `n` best known items that some have a weight for in CSR, or that are in `also`.

    Args:
        sums: (n_items,) the scores.
        marks: (n_items,) of False, which it is again afterwards.
    """
    near = _entries(newest, indptr, indices, also)
    n_near = len(near)
    sample = np.empty(n_near // 16 + 1, np.float32)
    for number in range(0, n_near, 16):
        sample[number // 16] = sums[near[number]]
    wanted, guess = n // 8 + 16, np.float32(-np.inf)  # items stand there more than once
    if wanted < n_near // 16:
        guess = np.float32(nth_largest(sample[: n_near // 16], wanted))
    items, scores = np.empty(n_near, np.int32), np.empty(n_near, np.float32)
    for _ in range(2):
        n_found = 0
        for number in range(n_near):
            item = near[number]
            if sums[item] >= guess and not marks[item] and known[item]:
                marks[item] = True
                items[n_found], scores[n_found] = item, sums[item]
                n_found += 1
        for number in range(n_found):
            marks[items[number]] = False
        if n_found >= n or guess == -np.inf:
            break
        guess = np.float32(-np.inf)
    return largest(items[:n_found], scores[:n_found], n)


@compiled(FLOAT(given(INT), given(INT), given(INT), given(FLOAT), LONG))
def likely(newest: Indices, indptr: Indices, indices: Indices, sums: Floats, n: int) -> float:
    """What a few more than n of the items that some have a weight for in CSR reach, by a sample.

    0 where these are so few that it is quicker to look at each of them, or where too few sums are
    above 0.
    """
    n_entries = 0
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            n_entries += indptr[newest[number] + 1] - indptr[newest[number]]
    wanted = n // 2 + 16  # as each stands there several times
    if n_entries < max(len(sums) // SPARSE, 32 * wanted):
        return 0.0
    sample, n_sample = np.empty(n_entries // 16 + len(newest), np.float32), 0
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            for at in range(indptr[newest[number]], indptr[newest[number] + 1], 16):
                sample[n_sample] = sums[np.uint32(indices[at])]
                n_sample += 1
    return max(float(nth_largest(sample[:n_sample], wanted)), 0.0)


@compiled(made(LONG)(given(FLOAT), given(FLAG), FLOAT, LONG))
def all_above(sums: Floats, known: NDArray[np.bool_], least: float, most: int) -> NDArray[np.int64]:
    """Keys of all known items that reach `least`, which is above 0; none if they may be too many.

    Args:
        most: items, and some more may still be told.
    """
    items, scores, n_found = np.empty(most, np.int32), np.empty(most, np.float32), 0
    for start in range(0, len(sums), BLOCK):
        part, n_above = sums[start : start + BLOCK], np.int32(0)
        for place in range(len(part)):
            n_above += np.int32(part[place] >= least)
        if n_found + n_above > most:
            return np.empty(0, np.int64)
        for place in range(len(part) if n_above else 0):
            if part[place] >= least and known[start + place]:
                items[n_found], scores[n_found] = start + place, part[place]
                n_found += 1
    return largest(items[:n_found], scores[:n_found], n_found)


@compiled(made(LONG)(given(LONG), given(INT), given(INT), given(INT), made(FLAG)))
def near_only(
    keys: NDArray[np.int64],
    newest: Indices,
    indptr: Indices,
    indices: Indices,
    marks: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The keys of items that some have a weight for in CSR.

    Args:
        marks: (n_items,) of False, which it is again afterwards.
    """
    kept, n_kept = np.empty(len(keys), np.int64), 0
    for key in keys:
        marks[ITEM - 1 - key % ITEM] = True
    for number in range(len(newest)):
        if 0 <= newest[number] < len(indptr) - 1:
            for at in range(indptr[newest[number]], indptr[newest[number] + 1]):
                marks[np.uint32(indices[at])] = False
    for key in keys:
        kept[n_kept] = key
        n_kept += not marks[ITEM - 1 - key % ITEM]
        marks[ITEM - 1 - key % ITEM] = False
    return kept[:n_kept]


@compiled(none(given(INT), given(INT), given(INT), made(FLOAT)))
def clear(rows: Indices, indptr: Indices, indices: Indices, room: Floats) -> None:
    """Make zeros again of what `add_sparse` of these rows changed."""
    for number in range(len(rows)):
        for at in range(indptr[rows[number]], indptr[rows[number] + 1]):
            room[np.uint32(indices[at])] = 0.0


@compiled(none(given(TINY, 2), given(FLOAT), given(FLOAT), made(FLOAT)), reorder=True)
def coded_products(codes: NDArray[np.int8], step: Floats, user: Floats, out: Floats) -> None:
    """`codes @ user * step` of the fused matrix."""
    for item in range(codes.shape[0]):
        row, total = codes[item], np.float32(0.0)
        for place in range(len(user)):
            total += np.float32(row[place]) * user[place]
        out[item] = total * step[item]


@compiled(made(LONG)(given(FLOAT), given(FLAG), LONG))
def largest_allowed(scores: Floats, allowed: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Keys of the `n` best of the allowed items of a whole catalogue, as `largest`.

    What a sample of every 64th shows to be too small is left out before.
    """
    sample, n_sample = np.empty(len(scores) // 64 + 1, np.float32), 0
    for item in range(0, len(scores), 64):
        sample[n_sample] = scores[item]
        n_sample += allowed[item]
    wanted, guess = n // 64 + n // 128 + 16, np.float32(-np.inf)
    if wanted < n_sample:
        guess = np.float32(nth_largest(sample[:n_sample], wanted))
    items, found = np.empty(len(scores), np.int32), np.empty(len(scores), np.float32)
    for _ in range(2):
        n_found = 0
        for item in range(len(scores)):
            items[n_found], found[n_found] = item, scores[item]
            n_found += allowed[item] and scores[item] >= guess
        if n_found >= n or guess == -np.inf:
            break
        guess = np.float32(-np.inf)
    return largest(items[:n_found], found[:n_found], n)


@compiled(made(INT)(given(INT), given(FLAG), LONG, made(FLAG)))
def first_of(
    order: Indices, allowed: NDArray[np.bool_], n: int, marks: NDArray[np.bool_]
) -> Indices:
    """The first `n` different allowed items of an order; below 0 there is none.

    Args:
        marks: (n_items,) of False, which it is again afterwards.
    """
    found, n_found = np.empty(min(n, len(order)), np.int32), 0
    for number in range(len(order)):
        item = order[number]
        if item >= 0 and allowed[item] and not marks[item]:
            if n_found == n:
                break
            marks[item] = True
            found[n_found] = item
            n_found += 1
    for number in range(n_found):
        marks[found[number]] = False
    return found[:n_found].copy()
