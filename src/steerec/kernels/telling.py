"""Why an item is shown: what each event of a history spoke for it, and the strongest of them."""

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.kernels.asking import reach
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
    several,
)


@compiled(made(FLOAT)(given(FLOAT), given(INT), DOUBLE, LONG))
def faded(weight: Floats, basket: Indices, decay: float, last: int) -> Floats:
    """(n,) decayed weights of the events of the `last` newest places; see histories.decayed."""
    n, n_asked = len(weight), reach(basket, last)
    found = np.empty(n_asked, np.float32)
    grouped = n > 0 and basket[n - 1] >= 0
    power, fade = 1.0, np.float64(np.float32(decay))
    for number in range(n_asked):
        at = n - 1 - number
        if number and (not grouped or basket[at] != basket[at + 1] or basket[at] < 0):
            power *= fade
        found[n_asked - 1 - number] = weight[at] * power
    return found


@compiled(
    made(FLOAT, 2)(given(INT), given(FLOAT), given(INT), DOUBLE, LONG, given(FLOAT, 2), given(INT))
)
def said_dense(
    item_idx: Indices,
    weight: Floats,
    basket: Indices,
    decay: float,
    last: int,
    weights: Floats,
    items: Indices,
) -> Floats:
    """(n_items, n): what each of the newest events said of some items; see linear.spoken."""
    fades = faded(weight, basket, decay, last)
    found = np.zeros((len(items), len(fades)), np.float32)
    first = len(item_idx) - len(fades)
    for number in range(len(fades)):
        row = item_idx[first + number]
        if 0 <= row < len(weights):
            for place in range(len(items)):
                found[place, number] = fades[number] * weights[row, items[place]]
    return found


@compiled(
    made(FLOAT, 2)(
        given(INT), given(FLOAT), given(INT), DOUBLE, LONG, given(SHORT, 2), given(FLOAT),
        given(INT),
    )
)  # fmt: skip
def said_packed(
    item_idx: Indices,
    weight: Floats,
    basket: Indices,
    decay: float,
    last: int,
    codes: NDArray[np.int16],
    step: Floats,
    items: Indices,
) -> Floats:
    """`said_dense` where the weights are packed."""
    fades = faded(weight, basket, decay, last)
    found = np.zeros((len(items), len(fades)), np.float32)
    first = len(item_idx) - len(fades)
    for number in range(len(fades)):
        row = item_idx[first + number]
        if 0 <= row < len(codes):
            for place in range(len(items)):
                told = step[row] * np.float32(codes[row, items[place]])
                found[place, number] = fades[number] * told
    return found


@compiled(
    made(FLOAT, 2)(
        given(INT), given(FLOAT), given(INT), DOUBLE, LONG, given(INT), given(INT), given(FLOAT),
        given(INT), made(FLOAT),
    )
)  # fmt: skip
def said_sparse(
    item_idx: Indices,
    weight: Floats,
    basket: Indices,
    decay: float,
    last: int,
    indptr: Indices,
    indices: Indices,
    data: Floats,
    items: Indices,
    room: Floats,
) -> Floats:
    """`said_dense` where the weights are CSR.

    Args:
        items: none twice.
        room: (n_columns,) of zeros, which it is again afterwards.
    """
    fades = faded(weight, basket, decay, last)
    found = np.zeros((len(items), len(fades)), np.float32)
    first = len(item_idx) - len(fades)
    for place in range(len(items)):
        room[items[place]] = place + 1
    for number in range(len(fades)):
        row = item_idx[first + number]
        if 0 <= row < len(indptr) - 1:
            for at in range(indptr[row], indptr[row + 1]):
                place = int(room[indices[at]])
                if place:
                    found[place - 1, number] = fades[number] * data[at]
    for place in range(len(items)):
        room[items[place]] = 0.0
    return found


@compiled(INT(given(DOUBLE), given(FLAG), made(DOUBLE), made(INT)))
def _rank(
    parts: NDArray[np.float64],
    slow: NDArray[np.bool_],
    weight: NDArray[np.float64],
    heads: Indices,
) -> int:
    """The head with the largest share, -1: none is above 0; fill in the strongest not slow."""
    top, greatest, most = -1, 0.0, len(heads)
    for head in range(len(parts)):
        share = parts[head]
        if share > greatest:
            greatest, top = share, head
        rank = most
        while rank > 0 and share > weight[rank - 1] and not slow[head]:
            rank -= 1
            if rank + 1 < most:
                weight[rank + 1], heads[rank + 1] = weight[rank], heads[rank]
        if rank < most:
            weight[rank], heads[rank] = share, head
    return top


@compiled(
    several(made(INT), made(INT), made(INT), made(INT, 2), made(DOUBLE, 2))(
        given(DOUBLE, 2), given(FLAG), LONG
    )
)
def asked(
    parts: NDArray[np.float64], slow: NDArray[np.bool_], most: int
) -> tuple[Indices, Indices, Indices, Indices, NDArray[np.float64]]:
    """Which heads are asked about which items; see engine.reasons.Asked, whose fields these are."""
    n_items, n_heads = parts.shape
    top, heads = np.full(n_items, -1, np.int32), np.full((n_items, most), -1, np.int32)
    weight, starts = np.zeros((n_items, most)), np.zeros(n_heads + 1, np.int32)
    for item in range(n_items):
        top[item] = _rank(parts[item], slow, weight[item], heads[item])
    row_of, rows, n_rows = np.full((n_items, most), -1, np.int32), np.empty(heads.size, np.int32), 0
    for head in range(n_heads):
        for item in range(n_items):
            for rank in range(most):
                if heads[item, rank] == head:
                    row_of[item, rank], rows[n_rows] = n_rows, item
                    n_rows += 1
        starts[head + 1] = n_rows
    return top, rows[:n_rows].copy(), starts, row_of, weight


@compiled(made(FLAG)(given(INT), given(INT), given(FLOAT)))
def liked(items: Indices, item_idx: Indices, weight: Floats) -> NDArray[np.bool_]:
    """(n_items,): which of the items are liked in a history."""
    found = np.zeros(len(items), np.bool_)
    for place in range(len(items)):
        for event in range(len(item_idx)):
            found[place] |= item_idx[event] == items[place] and weight[event] > 0.0
    return found


@compiled(pair(made(INT), made(INT))(given(INT)))
def distinct(items: Indices) -> tuple[Indices, Indices]:
    """The different items, in the order of their first events, and the place of each event's."""
    slots = 8
    while slots < 2 * len(items):
        slots *= 2
    at_slot = np.full(slots, -1, np.int32)
    different, place, n = np.empty(len(items), np.int32), np.empty(len(items), np.int32), 0
    for event in range(len(items)):
        slot = (items[event] * 40503) & (slots - 1)
        while at_slot[slot] >= 0 and different[at_slot[slot]] != items[event]:
            slot = (slot + 1) & (slots - 1)
        if at_slot[slot] < 0:
            at_slot[slot] = n
            different[n] = items[event]
            n += 1
        place[event] = at_slot[slot]
    return different[:n].copy(), place


@compiled(none(DOUBLE, INT, made(DOUBLE), made(INT)))
def _put(value: float, item: int, sizes: NDArray[np.float64], best: Indices) -> None:
    """Put an item in its place among the best, if it is one; of equal ones the lower goes first."""
    at = len(best)
    while at > 0 and (
        value > sizes[at - 1] or (value == sizes[at - 1] and value > 0 and item < best[at - 1])
    ):
        at -= 1
        if at + 1 < len(best):
            sizes[at + 1], best[at + 1] = sizes[at], best[at]
    if at < len(best):
        sizes[at], best[at] = value, item


@compiled(none(given(FLOAT), DOUBLE, given(INT), made(DOUBLE)))
def _add_shares(spoke: Floats, weight: float, place: Indices, total: NDArray[np.float64]) -> None:
    """Add each event's share of what is above 0, times the weight, to its item's total."""
    whole = 0.0
    for at in range(len(spoke)):
        whole += spoke[at] if spoke[at] > 0.0 else 0.0
    for at in range(len(spoke) if whole > 0.0 else 0):
        if spoke[at] > 0.0:
            total[place[at]] += weight * (spoke[at] / whole)


@compiled(
    pair(made(INT, 2), made(INT))(
        given(FLOAT, 2), given(INT, 2), given(DOUBLE, 2), given(INT), LONG
    )
)
def strongest(
    told: Floats,
    row_of: Indices,
    weight: NDArray[np.float64],
    history: Indices,
    most: int,
) -> tuple[Indices, Indices]:
    """The items of the history that spoke most for each shown item, and its one event.

    Args:
        told: (n_rows, n_events) how much each event spoke for an item by a head; what is not above
            0 counts as nothing.
        row_of: (n_shown, n_asked) the row of each item and head asked, -1: none.
        weight: (n_shown, n_asked) of the heads asked.
        history: (n_events,) whose event each is.
    Returns:
        (n_shown, most) items, strongest first, ties by index, then -1; and (n_shown,) the place of
        the event that spoke most by the first head, the newest of equal ones, -1: none.
    """
    n_shown, n_asked = row_of.shape
    best, event = np.full((n_shown, most), -1, np.int32), np.full(n_shown, -1, np.int32)
    items, place = distinct(history)
    total, size = np.empty(len(items)), np.empty(most)
    for shown in range(n_shown):
        total[:] = 0.0
        for rank in range(n_asked):
            if row_of[shown, rank] >= 0:
                _add_shares(told[row_of[shown, rank]], weight[shown, rank], place, total)
        top = np.float32(0.0)
        first = told[max(row_of[shown, 0], 0)]
        for at in range(len(history) if row_of[shown, 0] >= 0 else 0):
            if first[at] > 0.0 and first[at] >= top:
                top, event[shown] = first[at], at
        size[:] = 0.0
        for number in range(len(items)):
            _put(np.rint(total[number] * 1e9), items[number], size, best[shown])
    return best, event
