"""How items stand: their share of late events and of all events, now or at moments of the past."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Indices, Times
from steerec.data.dataset import Dataset

DAY_S = 86_400.0
EVERY_S = 14 * DAY_S  # between two moments of the past; in between an item stands as it stood
PSEUDO = 0.5  # events that every item counts as having beside its own


def standings(
    data: Dataset, half_lives_days: Sequence[float], items: Indices, times: Times
) -> NDArray[np.float64]:
    """(n, n_windows + 1): how each item stood at the last moment up to its time; see `latest`.

    Moments lie EVERY_S apart back from the newest event. What was known at a moment is what came
    up to it, so that features of the past are as they were then; all 0 where times are unknown
    or nothing came before.
    """
    found = np.zeros((len(items), len(half_lives_days) + 1))
    if not data.has_times or len(items) == 0:
        return found
    end = float(data.time.max())
    moment = np.ceil((end - times) / EVERY_S).clip(0)  # 0 the newest, 1 the one before it
    order = np.argsort(-moment, kind="stable")
    cuts = np.searchsorted(-moment[order], -np.unique(moment)[::-1])
    rows = [part for part in np.split(order, cuts) if len(part)]
    clocks = [end - EVERY_S * float(moment[part[0]]) for part in rows]
    for part, table in zip(rows, _tables(data, half_lives_days, clocks), strict=True):
        found[part] = table[items[part]]
    return found


def latest(data: Dataset, half_lives_days: Sequence[float]) -> NDArray[np.float64]:
    """(n_items, n_windows + 1): log of how many times the average item's share each item has.

    One column for each half-life, of events that fade by it, and one of all events alike.
    """
    if not data.has_times:
        return np.zeros((data.n_items, len(half_lives_days) + 1))
    (table,) = _tables(data, half_lives_days, [float(data.time.max())])
    return table


def _tables(
    data: Dataset, half_lives_days: Sequence[float], clocks: Sequence[float]
) -> Iterator[NDArray[np.float64]]:
    """`latest` as of each clock (Unix seconds, rising)."""
    liked = data.weight > 0
    order = np.argsort(data.time[liked], kind="stable")
    item, time = data.item_idx[liked][order], data.time[liked][order]
    half_lives_s = [*(DAY_S * days for days in half_lives_days), np.inf]
    counts = np.zeros((len(half_lives_s), data.n_items))
    stops = np.searchsorted(time, clocks, side="right")
    start, before = 0, clocks[0]
    for clock, stop in zip(clocks, stops.tolist(), strict=True):
        for row, half_life_s in zip(counts, half_lives_s, strict=True):
            row *= 2.0 ** (-(clock - before) / half_life_s)
            fresh = 2.0 ** (-(clock - time[start:stop]) / half_life_s)
            row += np.bincount(item[start:stop], fresh, data.n_items)
        share = (counts + PSEUDO) / (counts.mean(axis=1, keepdims=True) + PSEUDO)
        yield np.log(share).T
        start, before = stop, clock
