"""The trusted Dataset: dense indices, histories in order, features, content hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.counted import counted
from steerec.data.distinct import distinct
from steerec.data.social import renumbered, social_edges
from steerec.errors import DataError

# Kinds not named weigh 1: a free name is evidence for the item unless the settings say otherwise.
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "view": 1.0,
    "click": 1.0,
    "cart": 2.0,
    "purchase": 3.0,
    "rating": 1.0,
    "dislike": -1.0,
    "return": -1.0,
}
RATED = frozenset({"rating", "dislike"})  # kinds whose value, where there is one, is a rating
FORMAT = 2  # 1 had no checksums of its files


@dataclass(frozen=True)
class Dataset:
    """Events by user in order of time, with the catalogue and the users they speak of.

    Attributes:
        user_ids, item_ids: (n_users,), (n_items,) object arrays of str; position = dense index.
        user_idx, item_idx: (n_events,) int32, sorted by user, then in the user's order.
        kind: (n_events,) int16, index into `kinds`.
        weight: (n_events,) float32, the kind's weight.
        value: (n_events,) float32, the event's own value (stars, quantity), NaN where none.
        time: (n_events,) float64, Unix seconds, NaN where unknown.
        basket: (n_events,) int32, -1 where none; numbered in order of time.
        row: (n_events,) int64, place in the source; breaks ties of time.
        items: one row per item in index order: item_id, title, … (list columns hold categories).
        users: one row per user in index order: user_id and demographics.
        vectors: (n_items, d) float32 encoder vectors, zero rows where an item has no text.
        notes: what is worth telling of the data, by subject.
        social: (n, 2) int32, pairs of users who are friends, each once; None where none are told.
    """

    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    user_idx: Indices
    item_idx: Indices
    kind: NDArray[np.int16]
    kinds: tuple[str, ...]
    weight: Floats
    value: Floats
    time: Times
    basket: Indices
    row: NDArray[np.int64]
    items: pl.DataFrame
    users: pl.DataFrame
    vectors: Floats | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    social: Indices | None = None

    @property
    def n_users(self) -> int:
        """Number of users, with or without events."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue, with or without events."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.item_idx)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(n_users + 1,): events of user u are `starts[u]:starts[u + 1]`."""
        return np.searchsorted(self.user_idx, np.arange(self.n_users + 1)).astype(np.int64)

    @cached_property
    def user_index(self) -> dict[str, int]:
        """user_id → user_idx."""
        return {name: i for i, name in enumerate(self.user_ids)}

    @cached_property
    def item_index(self) -> dict[str, int]:
        """item_id → item_idx."""
        return {name: i for i, name in enumerate(self.item_ids)}

    @cached_property
    def has_times(self) -> bool:
        """Whether every event has a time."""
        return self.n_events > 0 and not bool(np.isnan(self.time).any())

    @cached_property
    def has_baskets(self) -> bool:
        """Whether every event belongs to a basket."""
        return self.n_events > 0 and bool((self.basket >= 0).all())

    @cached_property
    def has_repeats(self) -> bool:
        """Whether at least 2 % of the events repeat a user's earlier item."""
        pairs = self.user_idx.astype(np.int64) * self.n_items + self.item_idx
        return len(distinct(pairs)) < 0.98 * max(len(pairs), 1)

    @cached_property
    def kind_weights(self) -> dict[str, float]:
        """Kind of event → weight, of the kinds that occur."""
        kinds, first = np.unique(self.kind, return_index=True)
        pairs = zip(kinds, self.weight[first].tolist(), strict=True)
        return {self.kinds[kind]: weight for kind, weight in pairs}

    @cached_property
    def rating(self) -> Floats | None:
        """(n_events,) float32, what a user gave the item, NaN where none; None: no event did."""
        rated = np.array([kind in RATED for kind in self.kinds], bool)[self.kind]
        given = rated & np.isfinite(self.value)
        return np.where(given, self.value, np.float32(np.nan)) if given.any() else None

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the event rows in their order (users, items, kinds, values, times)."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids, self.kinds):
            digest.update(json.dumps(list(ids), ensure_ascii=False).encode())
        for column in (self.user_idx, self.item_idx, self.kind, self.value, self.time):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def history(self, user_idx: int) -> History:
        """All events of one user, oldest first (views, no copies)."""
        return self.events(self.starts[user_idx], self.starts[user_idx + 1], user_idx)

    def events(self, start: Any, stop: Any, user_idx: int) -> History:
        """The events at positions `start` to `stop`, all of one user (views, no copies)."""
        cut = np.s_[start:stop]
        return History(
            self.item_idx[cut],
            self.weight[cut],
            self.time[cut],
            self.basket[cut],
            user_idx,
            rating=None if self.rating is None else self.rating[cut],
        )

    def matrix(self) -> sparse.csr_matrix:
        """(n_users, n_items) float32: 1 where the user's events with the item weigh above 0."""
        return liked(self.weight, self.user_idx, self.item_idx, (self.n_users, self.n_items))

    def counts(self) -> NDArray[np.int64]:
        """(n_items,): events per item, all kinds of positive weight."""
        return np.bincount(self.item_idx[self.weight > 0], minlength=self.n_items)

    def by_time(self) -> NDArray[np.int64]:
        """(n_events,): positions of the events in order of time; ties in source order."""
        return np.lexsort((self.row, self.time))

    def take(self, keep: NDArray[np.bool_]) -> "Dataset":
        """The same users and items with only the events where `keep` is true."""
        return replace(
            self,
            **{name: getattr(self, name)[keep] for name in _EVENT_COLUMNS},
        )

    def compact(self) -> "Dataset":
        """Only the users and items that have events, indices renumbered in the same order."""
        users, user_idx = np.unique(self.user_idx, return_inverse=True)
        items, item_idx = np.unique(self.item_idx, return_inverse=True)
        return replace(
            self,
            user_ids=self.user_ids[users],
            item_ids=self.item_ids[items],
            user_idx=user_idx.astype(np.int32),
            item_idx=item_idx.astype(np.int32),
            users=self.users[users.tolist()],
            items=self.items[items.tolist()],
            vectors=None if self.vectors is None else self.vectors[items],
            social=None if self.social is None else renumbered(self.social, users, self.n_users),
        )

    def with_vectors(self, vectors: Floats) -> "Dataset":
        """The same data with encoder vectors attached.

        Raises:
            DataError: if there is not one row per item, or a value is not finite.
        """
        if vectors.ndim != 2 or len(vectors) != self.n_items:
            raise DataError(
                f"item vectors have shape {vectors.shape}, expected ({self.n_items}, dim): "
                "encode the same catalogue"
            )
        if not np.isfinite(vectors).all():
            raise DataError("item vectors hold NaN or infinity: check the encoder")
        return replace(self, vectors=np.ascontiguousarray(vectors, np.float32))

    def save(self, folder: Path) -> None:
        """Write Parquet and JSON into `folder` (made if missing)."""
        folder.mkdir(parents=True, exist_ok=True)
        events = pl.DataFrame({name: getattr(self, name) for name in _EVENT_COLUMNS})
        tables = {"events": events, "items": self.items, "users": self.users}
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
        arrays = {n: array for n in _ARRAYS if (array := getattr(self, n)) is not None}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        for name in set(_ARRAYS) - set(arrays):
            (folder / f"{name}.npy").unlink(missing_ok=True)  # of an older save
        files = [f"{name}.parquet" for name in tables] + [f"{name}.npy" for name in arrays]
        about = {
            "format": FORMAT,
            "kinds": list(self.kinds),
            "n_users": self.n_users,
            "n_items": self.n_items,
            "n_events": self.n_events,
            "content_hash": self.content_hash,
            "notes": dict(self.notes),
            "sha256": {file: _sha256(folder / file) for file in files},
        }
        (folder / "dataset.json").write_text(json.dumps(about, indent=2, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what `save` wrote.

        Raises:
            DataError: if the folder is no dataset, of another format, or any file of it changed.
        """
        try:
            about = json.loads((folder / "dataset.json").read_text())
            if about["format"] != FORMAT:
                raise DataError(
                    f"{folder} has format {about['format']}, expected {FORMAT}: import the data "
                    "again, or use the version of steerec that wrote it"
                )
            _check_files(folder, about["sha256"])
            data = cls._read(folder, about)
        except (OSError, ValueError, TypeError, KeyError, pl.exceptions.PolarsError) as e:
            raise DataError(
                f"{folder} is no saved dataset ({e}): write one with Dataset.save"
            ) from e
        if data.content_hash != about["content_hash"]:
            raise DataError(f"{folder} was altered: its events no longer match dataset.json")
        return data

    @classmethod
    def _read(cls, folder: Path, about: Mapping[str, Any]) -> "Dataset":
        events = pl.read_parquet(folder / "events.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        users = pl.read_parquet(folder / "users.parquet")
        arrays = [name for name in _ARRAYS if f"{name}.npy" in about["sha256"]]
        return cls(
            user_ids=users["user_id"].to_numpy().astype(object),
            item_ids=items["item_id"].to_numpy().astype(object),
            items=items,
            users=users,
            kinds=tuple(about["kinds"]),
            notes=about["notes"],
            **{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in arrays},
            **{name: events[name].to_numpy() for name in _EVENT_COLUMNS},
        )


def _check_files(folder: Path, told: Mapping[str, str]) -> None:
    for name, digest in told.items():
        if _sha256(folder / name) != digest:
            raise DataError(
                f"{folder} was altered: {name} is not the file that was saved; restore it, or "
                "import the data again"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def liked(
    weight: Floats, row: NDArray[Any], item_idx: Indices, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """`shape`, float32: 1 where a row's events with the item weigh above 0 in all."""
    total = sparse.coo_matrix((weight, (row, item_idx)), shape=shape).tocsr()  # duplicates add up
    total.data = (total.data > 0).astype(np.float32)
    total.eliminate_zeros()
    return total


_ARRAYS = ("vectors", "social")  # each in a file of its own, where there are any
_EVENT_COLUMNS = ("user_idx", "item_idx", "kind", "weight", "value", "time", "basket", "row")


def build_dataset(
    events: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    social: pl.DataFrame | None = None,
) -> Dataset:
    """Make a Dataset from clean tables; rows are kept as they are, none dropped.

    Args:
        events: user_id, item_id (strings); optional event, value, timestamp, seq, basket.
            Order within a user: by seq where it is given for all rows, else by timestamp, ties
            in file order.
        items: item_id and features; items without events stay in the catalogue. None: from events.
        users: user_id and features. None: from events.
        weights: event kind → weight; kinds not named weigh 1.
        social: user_id and friend_id; pairs that name users unknown here are left out, and the
            notes tell how many.
    Raises:
        DataError: if there are no events, or a row has no user or item.
    """
    _check_events(events)
    events = events.drop("row", strict=False).with_row_index("row")
    item_table = _table_with_all(items, events, "item_id")
    user_table = _table_with_all(users, events, "user_id")
    user_idx = _positions(events["user_id"], user_table["user_id"])
    kinds, kind = _kinds(events)
    kind_weight = np.array([weights.get(k, 1.0) for k in kinds], np.float32)
    # lexsort is stable and rows come in file order, so that the row breaks ties by itself.
    order = np.lexsort((_order_key(events), user_idx))
    edges, notes = _friends(social, user_table)
    return Dataset(
        user_ids=user_table["user_id"].to_numpy().astype(object),
        item_ids=item_table["item_id"].to_numpy().astype(object),
        user_idx=user_idx[order],
        item_idx=_positions(events["item_id"], item_table["item_id"])[order],
        kind=kind[order],
        kinds=kinds,
        weight=kind_weight[kind[order]],
        value=_floats(events, "value").astype(np.float32)[order],
        time=_floats(events, "timestamp")[order],
        basket=_baskets(events)[order],
        row=order.astype(np.int64),
        items=item_table,
        users=user_table,
        notes=notes,
        social=edges,
    )


def _friends(
    social: pl.DataFrame | None, users: pl.DataFrame
) -> tuple[Indices | None, dict[str, str]]:
    if social is None:
        return None, {}
    edges, n_unknown = social_edges(social, users["user_id"])
    if not n_unknown:
        return edges, {}
    note = f"{n_unknown:,} of {len(social):,} friendships name users unknown here: left out"
    return edges, {"social": note}


def _check_events(events: pl.DataFrame) -> None:
    missing = {"user_id", "item_id"} - set(events.columns)
    if missing:
        raise DataError(
            f"events have no column {sorted(missing)}; given: {events.columns}. "
            "Say which it is, for example --columns user_id=customer"
        )
    if events.is_empty():
        raise DataError("there are no events: expected at least one row with a user and an item")
    nulls = events.select(pl.col("user_id", "item_id").null_count()).row(0)
    if any(nulls):
        raise DataError(
            f"{counted(max(nulls), 'event')} without a user or item: clean the data first"
        )


def _table_with_all(table: pl.DataFrame | None, events: pl.DataFrame, key: str) -> pl.DataFrame:
    """The given table plus a row for each id that only events name."""
    seen = events.select(pl.col(key).cast(pl.String)).unique().sort(key)
    if table is None:
        return seen
    if table[key].n_unique() != len(table):
        raise DataError(f"{key} is not unique in its table: clean the data first")
    table = table.with_columns(pl.col(key).cast(pl.String))
    new = seen.join(table.select(key), on=key, how="anti").sort(key)
    return pl.concat([table, new], how="diagonal")


def _positions(ids: pl.Series, table: pl.Series) -> Indices:
    """Row of each id in the table, int32."""
    index = pl.DataFrame({"id": table}).with_row_index("at")
    wanted = pl.DataFrame({"id": ids.cast(pl.String)})
    found = wanted.join(index, on="id", how="left", maintain_order="left")["at"]
    return found.cast(pl.Int32).to_numpy()


def _kinds(events: pl.DataFrame) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """The names of the kinds, sorted, and each event's place among them."""
    if "event" not in events.columns:
        return ("view",), np.zeros(len(events), np.int16)
    names = events["event"].cast(pl.String).fill_null("view")
    kinds = names.unique().sort()
    return tuple(kinds.to_list()), _positions(names, kinds).astype(np.int16)


def _order_key(events: pl.DataFrame) -> Times:
    if "seq" in events.columns and events["seq"].null_count() == 0:
        return events["seq"].cast(pl.Float64).to_numpy()
    return _floats(events, "timestamp")


def _floats(events: pl.DataFrame, name: str) -> Times:
    if name not in events.columns:
        return np.full(len(events), np.nan)
    return events[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _baskets(events: pl.DataFrame) -> Indices:
    """Number baskets by the time of their earliest row, then by first row."""
    if "basket" not in events.columns or events["basket"].null_count() == len(events):
        return np.full(len(events), -1, np.int32)
    firsts = (
        events.filter(pl.col("basket").is_not_null())
        .group_by("basket")
        .agg(
            pl.col("timestamp").min() if "timestamp" in events.columns else pl.col("row").min(),
            pl.col("row").min().alias("_row"),
        )
        .sort(pl.nth(1), "_row")
        .select("basket")
        .with_row_index("number")
    )
    joined = events.select("basket").join(firsts, on="basket", how="left", maintain_order="left")
    return joined["number"].cast(pl.Int32).fill_null(-1).to_numpy()
