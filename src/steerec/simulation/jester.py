"""The world of jester: 7,200 people whose rating of every joke is known, so the truth is real.

P(click | examined) = σ((rating - 5) / 2); heads learn from the other users only.
"""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Floats, History
from steerec.data.dataset import Dataset, build_dataset
from steerec.errors import DataError
from steerec.simulation.visits import Schedule
from steerec.simulation.world import World

LIKED = 5.0  # a rating above it is a positive event, any other a dislike
KNOWN = 10  # ratings of each visitor that are told at the start
VISITS = 3


def jester(folder: Path) -> World:
    """Build the world from the set's folder.

    Raises:
        DataError: if a visitor has not rated every joke.
    """
    events = pl.read_parquet(folder / "events.parquet")
    items = pl.read_parquet(folder / "items.parquet")
    visitors = pl.read_parquet(folder / "users_rated_all.parquet")["user_id"]
    data = build_dataset(_log(events.filter(~pl.col("user_id").is_in(visitors.implode()))), items)
    ratings = _table(events, visitors, data)
    known = first_by_hash(visitors.to_list(), data.item_ids.tolist(), KNOWN)
    hidden = np.zeros(ratings.shape, bool)
    np.put_along_axis(hidden, known, values=True, axis=1)
    wanted = (1 / (1 + np.exp(-(ratings - LIKED) / 2))).astype(np.float32)
    shuffled = np.random.default_rng(len(visitors)).permutation(len(visitors))
    starts = tuple(_told(row, ratings[u, row]) for u, row in enumerate(known))
    return World(
        name="jester",
        data=data,
        starts=starts,
        truth=(wanted, wanted[shuffled]),
        hidden=hidden,
        arrives=np.zeros(data.n_items),
        forgets=False,
        visits=lambda seed: Schedule.draw(len(visitors), VISITS, seed),
    )


def first_by_hash(user_ids: list[str], item_ids: list[str], n: int) -> NDArray[np.int64]:
    """(n_users, n): the items with the smallest SHA-256 of `user_id:item_id`, smallest first."""
    found = np.empty((len(user_ids), n), np.int64)
    for row, user in enumerate(user_ids):
        digests = [hashlib.sha256(f"{user}:{item}".encode()).digest() for item in item_ids]
        found[row] = sorted(range(len(item_ids)), key=digests.__getitem__)[:n]
    return found


def _log(events: pl.DataFrame) -> pl.DataFrame:
    """Likes and dislikes in an order drawn once, each user's last a like.

    The set has no order, and the last event is what a fit foretells: it should be a like. Users
    who like nothing are left out.
    """
    rng = np.random.default_rng(events.height)
    return (
        events.select("user_id", "item_id", "value", liked=pl.col("value") > LIKED)
        .with_columns(draw=pl.Series(rng.random(events.height)))
        .filter(pl.col("liked").any().over("user_id"))
        .with_columns(
            last=pl.col("liked")
            & (pl.col("draw") == pl.col("draw").filter(pl.col("liked")).max().over("user_id"))
        )
        .sort("user_id", "last", "draw")
        .select(
            "user_id",
            "item_id",
            "value",
            event=pl.when("liked").then(pl.lit("rating")).otherwise(pl.lit("dislike")),
        )
    )


def _table(events: pl.DataFrame, visitors: pl.Series, data: Dataset) -> Floats:
    """(n_visitors, n_items) float32 ratings."""
    place = {user: row for row, user in enumerate(visitors)}
    rated = events.filter(pl.col("user_id").is_in(visitors.implode()))
    table = np.full((len(visitors), data.n_items), np.nan, np.float32)
    rows = [place[user] for user in rated["user_id"]]
    columns = [data.item_index[item] for item in rated["item_id"]]
    table[rows, columns] = rated["value"].to_numpy()
    if np.isnan(table).any():
        raise DataError(
            f"{int(np.isnan(table).any(axis=1).sum())} of the jester visitors lack a rating: "
            "users_rated_all.parquet must name users with all ratings"
        )
    return table


def _told(items: NDArray[np.int64], ratings: Floats) -> History:
    n = len(items)
    weight = np.where(ratings > LIKED, 1.0, -1.0).astype(np.float32)
    unknown = np.full(n, np.nan)
    return History(
        items.astype(np.int32), weight, unknown, np.full(n, -1, np.int32), rating=ratings
    )
