"""What a user's dislikes take from items like them, for heads that learn from likes alone."""

import numpy as np

from steerec.contracts import Floats, History, Indices


def disliked(history: History, n_items: int) -> Indices:
    """Items whose newest event in the history weighs below 0."""
    last = dict(zip(history.item_idx.tolist(), history.weight.tolist(), strict=True))
    found = sorted(i for i, w in last.items() if w < 0 and 0 <= i < n_items)
    return np.array(found, np.int32)


def still_disliked(before: Indices, event: History, n_items: int) -> Indices:
    """The disliked items after one more event: the newest word on an item counts."""
    left = np.setdiff1d(before, event.item_idx)
    return np.union1d(left, disliked(event, n_items)).astype(np.int32)


def unit_rows(vectors: Floats) -> Floats:
    """Rows of length 1, zero rows as they are."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / np.maximum(length, 1e-12)
    return found


def nearness(unit: Floats, disliked: Indices, items: Indices | None) -> Floats:
    """(n,): how near each item lies to the disliked ones, as a sum of cosines above 0.

    Args:
        unit: (n_items, D) of `unit_rows`; all are compared where `items` is None.
    """
    wanted = unit if items is None else unit[items]
    near: Floats = np.maximum(wanted @ unit[disliked].T, 0).sum(axis=1)
    return near
