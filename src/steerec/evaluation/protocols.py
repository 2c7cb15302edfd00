"""The protocols: which rows take part, what is learnt from, which steps are to be foretold."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.data.counted import counted
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.split import (
    Split,
    basket_core,
    blind,
    k_core,
    leave_last_out,
    one_event_a_basket,
    single_targets,
    split_baskets,
    split_by_time,
    withhold,
    without_repeats_in_a_row,
)
from steerec.data.tables import Tables
from steerec.errors import DataError

TRACKS: Mapping[str, tuple[str, ...]] = {
    "loo": ("time-blind", "time-aware"),
    "successive": ("frozen", "live"),
    "basket": ("all", "new"),
    "stream": ("live", "refit"),
    "cold": ("time-blind", "time-aware"),
}
DAY_S = 86_400.0
RECENT_DAYS = 30.0
RECENT_EVENTS = 5  # `loo` and `cold` have no common clock: each user's newest events are recent
WARM_UP = 0.2  # share of the stream that is learnt before anything is foretold
POSITIVE_STARS = 5.0
COLD_ONE_IN = 10  # `cold`: one item in so many is never seen in training
EXPECTED = {"ml-1m": (999_611, 6_040, 3_416)}  # rows, users, items of the published version


@dataclass(frozen=True)
class Task:
    """One protocol on one set.

    Attributes:
        split: events to learn from, and the cases in the order they are foretold.
        holdout: how the fit sets its own cases aside, as the protocol does.
        repeats: whether items of the user's history are ranked.
        live: whether what the product updates online may learn each event after it was foretold.
        refits: whether everything is fitted anew, on the events so far, as their number grows.
        cold: (n_items,) the items whose events were taken away; None: none were.
        notes: what a reader of the figures must know.
    """

    protocol: str
    track: str
    split: Split
    holdout: str
    repeats: bool
    only_new: bool = False
    live: bool = False
    refits: bool = False
    cold: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()


def prepare(tables: Tables, protocol: str, track: str | None = None, *, name: str = "") -> Task:
    """Make the task of a protocol from a set's rows as they are.

    Args:
        track: one of TRACKS[protocol]; None: the first.
        name: of a well-known set whose counts are checked.

    Raises:
        ValueError: if protocol or track is unknown.
        DataError: if the set lacks what the protocol needs, or nothing is left to foretell.
    """
    if protocol not in TRACKS:
        raise ValueError(f"protocol {protocol!r}: expected one of {', '.join(TRACKS)}")
    track = track or TRACKS[protocol][0]
    if track not in TRACKS[protocol]:
        raise ValueError(
            f"{protocol} has no track {track!r}: expected one of {', '.join(TRACKS[protocol])}"
        )
    owned, notes = _owned(tables)
    makers: Mapping[str, Callable[[Tables, str, str], Task]] = {
        "loo": _loo,
        "successive": _successive,
        "basket": _basket,
        "stream": _stream,
        "cold": _cold,
    }
    task = makers[protocol](owned, track, name)
    return replace(task, notes=notes + task.notes)


def usable_protocol(tables: Tables) -> str:
    """The protocol that fits a set: by time where rows have times, else leave-one-out."""
    times = tables.events["timestamp"] if "timestamp" in tables.events.columns else None
    if times is None or times.null_count() == len(times):
        return "loo"
    return "successive" if times.drop_nulls().n_unique() > 10 else "loo"


def _owned(tables: Tables) -> tuple[Tables, tuple[str, ...]]:
    """Rows with a user and an item: no protocol can use others."""
    owned = tables.events.drop_nulls(["user_id", "item_id"])
    lost = len(tables.events) - len(owned)
    notes = (f"{counted(lost, 'row')} without a user or an item cannot take part",) if lost else ()
    items = None if tables.items is None else tables.items.drop_nulls("item_id")
    if items is not None:
        items = items.unique("item_id", keep="first", maintain_order=True)
    users = None if tables.users is None else tables.users.drop_nulls("user_id")
    if users is not None:
        users = users.unique("user_id", keep="first", maintain_order=True)
    return replace(tables, events=owned, items=items, users=users), notes


def _dataset(tables: Tables, events: pl.DataFrame) -> Dataset:
    weights, social = tables.weights, tables.social
    return build_dataset(events, tables.items, tables.users, weights=weights, social=social)


def _timed_rows(tables: Tables) -> pl.DataFrame:
    """Rows with a time, to be ordered by it."""
    events = tables.events
    if "timestamp" not in events.columns or events["timestamp"].null_count() == len(events):
        raise DataError("no row has a timestamp: use --protocol loo")
    return events.drop_nulls("timestamp").drop("seq", strict=False)


def _loo(tables: Tables, track: str, name: str) -> Task:
    events, notes = tables.events, tuple[str, ...]()
    if "seq" in events.columns and events["seq"].null_count() < len(events):
        events = events.drop_nulls("seq")
        if track == "time-aware":
            events = _aware(events)
    else:
        events = _official_order(tables)
        notes = ("official order: the set has no seq; items with under 5 events are dropped",)
    data = _dataset(tables, events).compact()
    if name in EXPECTED and not notes and track == "time-blind":
        found = (data.n_events, data.n_users, data.n_items)
        if found != EXPECTED[name]:
            raise DataError(
                f"{name} has (rows, users, items) = {found}, expected {EXPECTED[name]}: "
                "these are not the published rows, so figures could not be compared"
            )
    if track == "time-blind":
        data = blind(data)
    return Task("loo", track, leave_last_out(data), "last", data.has_repeats, notes=notes)


def _aware(events: pl.DataFrame) -> pl.DataFrame:
    events = events.drop_nulls("timestamp")
    if events.is_empty():
        raise DataError("no row has both seq and timestamp: use --track time-blind")
    return events


def _official_order(tables: Tables) -> pl.DataFrame:
    counts = tables.events["item_id"].value_counts()
    kept = counts.filter(pl.col("count") >= 5)["item_id"].implode()
    events = tables.events.filter(pl.col("item_id").is_in(kept))
    if events.is_empty():
        raise DataError("no item has 5 events, as `loo` without seq needs: give more events")
    return events


def _successive(tables: Tables, track: str, _: str) -> Task:
    data = _dataset(tables, _timed_rows(tables))
    data = k_core(without_repeats_in_a_row(data), 5)
    if data.n_events == 0:
        raise DataError(
            "no user and item have 5 events with each other, as `successive` needs: use loo"
        )
    data = data.compact()
    split = split_by_time(data, 0.9)
    cases = split.cases.take(np.lexsort((data.row[split.cases.stop], split.cases.now)))
    return Task(
        "successive",
        track,
        Split(split.train, cases),
        "time",
        data.has_repeats,
        live=track == "live",
    )


def _basket(tables: Tables, track: str, _: str) -> Task:
    events = _timed_rows(tables)
    if "event" in events.columns and (events["event"] == "purchase").any():
        events = events.filter(pl.col("event") == "purchase")
    if "basket" not in events.columns or events["basket"].null_count() == len(events):
        raise DataError("no row has a basket (invoice or order number): use --protocol successive")
    data = one_event_a_basket(_dataset(tables, events.drop_nulls("basket")))
    data = basket_core(data, item_baskets=5, user_baskets=2)
    if data.n_events == 0:
        raise DataError("no item lies in 5 baskets of users with 2 baskets: give more events")
    data = data.compact()
    new = track == "new"
    split = split_baskets(data, 0.9, only_new=new)
    return Task("basket", track, split, "basket", not new, only_new=new)


def _stream(tables: Tables, track: str, _: str) -> Task:
    events = _positive(_timed_rows(tables))
    data = _dataset(tables, events).compact()
    order = data.by_time()
    warm = int(WARM_UP * data.n_events)
    if warm < 1 or warm == data.n_events:
        raise DataError(f"only {counted(data.n_events, 'positive event')}: too few for a stream")
    early = np.zeros(data.n_events, bool)
    early[order[:warm]] = True
    cases = single_targets(data, order[warm:])
    return Task(
        "stream",
        track,
        Split(data.take(early), cases),
        "time",
        data.has_repeats,
        live=True,
        refits=track == "refit",
    )


def _positive(events: pl.DataFrame) -> pl.DataFrame:
    """Purchases where there are any; else ratings of 5 stars where there are any; else all."""
    kinds = set(events["event"].unique()) if "event" in events.columns else set()
    if "purchase" in kinds:
        return events.filter(pl.col("event") == "purchase")
    if kinds == {"rating"} and "value" in events.columns:
        best = events.filter(pl.col("value") >= POSITIVE_STARS)
        return best if len(best) else events
    return events


def cold_items(item_ids: Iterable[str]) -> NDArray[np.bool_]:
    """Which items are cold, by their ids alone: sha256(item_id) modulo 10 is 0."""
    hashes = (hashlib.sha256(str(item_id).encode()).hexdigest() for item_id in item_ids)
    return np.array([int(number, 16) % COLD_ONE_IN == 0 for number in hashes], bool)


def _cold(tables: Tables, track: str, name: str) -> Task:
    """`loo` with all events of the cold items gone, but where they are what is to be foretold."""
    task = _loo(tables, track, name)
    cases = task.split.cases
    cold = cold_items(cases.data.item_ids)
    found = int(cold[cases.targets].sum())
    if found in (0, len(cases)):
        raise DataError(
            f"{found} of {len(cases)} last events are of cold items, expected both cold and warm "
            "ones: give more events"
        )
    split = withhold(task.split, cold)
    if split.train.n_events == 0:
        raise DataError("no event of a warm item is left to learn from: give more events")
    note = f"{int(cold.sum()):,} cold items, {found:,} of {len(cases):,} targets are cold"
    return replace(task, protocol="cold", split=split, cold=cold, notes=(*task.notes, note))


def recent_counts(task: Task) -> NDArray[np.int64]:
    """(n_items,): training events of the last 30 days, or of each user's last 5 without clock."""
    train = task.split.train
    if task.protocol in ("loo", "cold"):
        from_end = train.starts[train.user_idx + 1] - np.arange(train.n_events)
        recent = from_end <= RECENT_EVENTS
    else:
        recent = train.time > train.time.max() - RECENT_DAYS * DAY_S
    return np.bincount(train.item_idx[recent], minlength=train.n_items)
