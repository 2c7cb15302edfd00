"""What the catalogue tells of items beside their texts, as numbers a network can read."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from steerec.contracts import Floats
from steerec.data.scale import Scaler
from steerec.heads.segments import Segments

MOST_VALUES = 128  # names kept over all columns, those that the most items bear
LEAST_ITEMS = 5  # a name on fewer items teaches nothing that carries over
CLIP = 3.0  # numbers further out, in interquartile ranges, are outliers


def attribute_vectors(items: pl.DataFrame, columns: Sequence[str]) -> Floats:
    """Names (or lists of names) as multi-hot rows, numbers robustly scaled beside them.

    Args:
        columns: those the table lacks are left out.
    Returns:
        (n_items, k) float32: names of length 1 in all, numbers within -1 and 1, and for each
        number a 1 where it is missing; zero rows for items of which nothing is told.
    """
    own = [c for c in columns if c in items.columns]
    numbers = [c for c in own if items[c].dtype.is_numeric() and _varies(items[c])]
    named = _names(items, [c for c in own if not items[c].dtype.is_numeric()])
    scaled = Scaler.fit(items, numbers, method="robust").transform(items)
    scaled[:, : len(numbers)] = scaled[:, : len(numbers)].clip(-CLIP, CLIP) / CLIP
    told = named.any(axis=1) | (scaled[:, len(numbers) :] == 0).any(axis=1)
    found: Floats = np.hstack([named, scaled]) * told[:, None]
    return found


def _varies(column: pl.Series) -> bool:
    return column.cast(pl.Float64).fill_nan(None).n_unique() > 1


def _names(items: pl.DataFrame, columns: Sequence[str]) -> Floats:
    """(n_items, k), rows of length 1 or zero."""
    segments = Segments.fit(items, columns, bins=2, least_users=LEAST_ITEMS)
    table = segments.table(items)
    count = np.asarray(table.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-count, kind="stable")[:MOST_VALUES])
    hot: Floats = table[:, kept].toarray()
    found: Floats = hot / np.sqrt(np.maximum(hot.sum(axis=1, keepdims=True), 1))
    return found
