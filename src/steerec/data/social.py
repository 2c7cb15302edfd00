"""Friendships: from a table of pairs of user ids to edges between rows of the users' table."""

import logging

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Indices
from steerec.errors import DataError

log = logging.getLogger(__name__)

SOCIAL_FIELDS = ("user_id", "friend_id")


def canonical_social(raw: pl.DataFrame) -> pl.DataFrame:
    """user_id and friend_id as texts; other columns are left out.

    Raises:
        DataError: if one of the two columns is missing.
    """
    missing = [name for name in SOCIAL_FIELDS if name not in raw.columns]
    if missing:
        raise DataError(
            f"social: no column {missing}; given: {raw.columns}. Name the two ids of a "
            "friendship user_id and friend_id"
        )
    return raw.select(pl.col(name).cast(pl.String) for name in SOCIAL_FIELDS)


def social_edges(social: pl.DataFrame, user_ids: pl.Series) -> tuple[Indices, int]:
    """Pairs of rows of the users' table, and how many pairs name somebody else.

    Returns:
        (n, 2) int32, each friendship once, the smaller row first, in rising order; nobody is
        their own friend.
    """
    index = pl.DataFrame({"id": user_ids.cast(pl.String)}).with_row_index("at")
    ends = [
        social.select(pl.col(name).cast(pl.String).alias("id"))
        .join(index, on="id", how="left", maintain_order="left")["at"]
        .cast(pl.Int64)
        .fill_null(-1)
        .to_numpy()
        for name in SOCIAL_FIELDS
    ]
    pairs = np.sort(np.stack(ends, axis=1), axis=1)
    known = pairs[:, 0] >= 0
    n_unknown = int((~known).sum())
    if n_unknown:
        log.warning("social pairs=%d unknown=%d left_out=1", len(pairs), n_unknown)
    pairs = pairs[known & (pairs[:, 0] != pairs[:, 1])]
    return np.unique(pairs, axis=0).astype(np.int32).reshape(-1, 2), n_unknown


def social_table(edges: Indices, user_ids: NDArray[np.object_]) -> pl.DataFrame:
    """The edges as pairs of ids, as `social_edges` reads them."""
    ends = zip(SOCIAL_FIELDS, edges.T, strict=True)
    return pl.DataFrame(
        {name: pl.Series(user_ids[end].tolist(), dtype=pl.String) for name, end in ends}
    )


def renumbered(edges: Indices, kept: Indices, n_users: int) -> Indices:
    """The edges between the users `kept`, by their place among them."""
    place = np.full(n_users, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    moved = place[edges]
    return np.asarray(moved[(moved >= 0).all(axis=1)])
