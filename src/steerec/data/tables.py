"""The tables that readers make and cleaning takes: canonical names first, own columns kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from steerec.data.dataset import DEFAULT_WEIGHTS

EVENT_FIELDS = ("user_id", "item_id", "event", "value", "timestamp", "basket", "seq")
ITEM_FIELDS = ("item_id", "title", "description", "categories", "brand", "price", "year")
USER_FIELDS = ("user_id",)


@dataclass(frozen=True)
class Tables:
    """Raw records in canonical columns; ids may still be null, times still in the wrong unit.

    Attributes:
        events: user_id, item_id, event (str), value, timestamp (f64, Unix seconds), basket (str);
            seq (i64) only where the source has one; then the source's own columns.
        items: item_id, the fields of ITEM_FIELDS that the source has, then its own columns.
        users: user_id, then the source's own columns.
        notes: what the reader found worth telling, by subject.
        social: user_id and friend_id, one row a friendship.
        weights: event kind → weight; kinds not named weigh 1.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
    social: pl.DataFrame | None = None


@dataclass(frozen=True)
class RawTables:
    """Tables as a source gives them, before their columns are mapped.

    Attributes:
        untyped: names of the tables whose source knows only texts, as CSV does.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    untyped: tuple[str, ...] = ()
    social: pl.DataFrame | None = None


@dataclass(frozen=True)
class ReadResult:
    """What was read, and how the source's columns were understood.

    Attributes:
        mapping: "events.user_id" → the source's column, for each field that was found.
        guessed: the keys of `mapping` that nobody asked for and whose names are not canonical.
        kind: the form of the source, such as "csv", "folder", "movielens", "recbole", "gorse".
    """

    tables: Tables
    mapping: Mapping[str, str]
    guessed: tuple[str, ...]
    kind: str
