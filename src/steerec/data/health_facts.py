"""Plain facts about event tables: counts, tails, gaps, kinds. No judgement; `health` judges."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

DAY_S = 86_400
EARLIEST, LATEST = 315_532_800.0, 4_102_444_800.0  # 1980 and 2100: outside, a time is no Unix time
_STRAY_DAYS = 30
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 500)


@dataclass(frozen=True)
class EventFacts:
    """Events made ready for questions.

    Attributes:
        raw: the table as given.
        events: rows with both ids; user_id, item_id, event, value, timestamp (null where unknown or
            no Unix time), seq where given, and user, item: whole numbers for the ids, quicker to
            sort and compare.
        per_user, per_item: id and n_events, most first.
    """

    raw: pl.DataFrame
    events: pl.DataFrame
    per_user: pl.DataFrame
    per_item: pl.DataFrame

    @property
    def n(self) -> int:
        """Number of events with both ids."""
        return len(self.events)

    @cached_property
    def n_pairs(self) -> int:
        """Number of different pairs of a user and an item."""
        pair = pl.col("user").cast(pl.UInt64) * (len(self.per_item) + 1) + pl.col("item")
        return int(self.events.select(pair.n_unique()).item())

    @property
    def repeat_share(self) -> float:
        """Share of the events that repeat an earlier one of the same user and item."""
        return 1 - self.n_pairs / self.n if self.n else 0.0


def event_facts(raw: pl.DataFrame) -> EventFacts:
    """Bring a table of events into one form; columns it lacks are null."""
    events = raw.select(
        pl.col("user_id", "item_id").cast(pl.String),
        _column(raw, "event", pl.String).fill_null("view"),
        _column(raw, "value", pl.Float64),
        _column(raw, "timestamp", pl.Float64),
        *([pl.col("seq").cast(pl.Float64, strict=False)] if "seq" in raw.columns else []),
    )
    in_range = pl.col("timestamp").is_between(EARLIEST, LATEST)
    events = events.drop_nulls(["user_id", "item_id"]).with_columns(
        timestamp=pl.when(in_range).then("timestamp"),
        user=pl.col("user_id").rank("dense"),
        item=pl.col("item_id").rank("dense"),
    )
    return EventFacts(raw, events, _tally(events, "user_id"), _tally(events, "item_id"))


def _column(table: pl.DataFrame, name: str, kind: type[pl.DataType]) -> pl.Expr:
    there = pl.col(name).cast(kind, strict=False) if name in table.columns else pl.lit(None, kind)
    return there.alias(name)


def _tally(events: pl.DataFrame, key: str) -> pl.DataFrame:
    counted = events.group_by(key).agg(n_events=pl.len())
    return counted.sort("n_events", key, descending=[True, False])


def quantiles(facts: EventFacts) -> pl.DataFrame:
    """Events per user and per item: least, quartiles, 99 %, most and mean."""
    rows = []
    for name, tally in (("user", facts.per_user), ("item", facts.per_item)):
        n = tally["n_events"].to_numpy()
        if len(n):
            at = np.quantile(n, [0, 0.25, 0.5, 0.75, 0.99, 1])
            rows.append((f"events per {name}", *(float(x) for x in at), float(n.mean())))
    names = ["of", "least", "25 %", "median", "75 %", "99 %", "most", "mean"]
    kinds = {name: pl.String if name == "of" else pl.Float64 for name in names}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def kinds(facts: EventFacts) -> pl.DataFrame:
    """Events, share, users and range of values per kind, most frequent first."""
    value = pl.col("value").filter(pl.col("value").is_finite())
    return (
        facts.events.group_by("event")
        .agg(
            events=pl.len(),
            share=pl.len() / max(facts.n, 1),
            users=pl.col("user_id").n_unique(),
            values=value.len(),
            least=value.min(),
            median=value.median(),
            most=value.max(),
        )
        .sort("events", "event", descending=[True, False])
    )


def events_per_day(facts: EventFacts) -> pl.DataFrame:
    """Each day from the first to the last event with its number of events, zeros included."""
    day = (pl.col("timestamp") // DAY_S).cast(pl.Int32).alias("day")
    counted = facts.events.drop_nulls("timestamp").group_by(day).agg(events=pl.len())
    if counted.is_empty():
        return pl.DataFrame(schema={"day": pl.Date, "events": pl.UInt32})
    first, last = counted.select(a=pl.col("day").min(), b=pl.col("day").max()).row(0)
    days = pl.DataFrame({"day": pl.int_range(first, last + 1, dtype=pl.Int32, eager=True)})
    joined = days.join(counted, on="day", how="left", maintain_order="left")
    return joined.with_columns(pl.col("day").cast(pl.Date), pl.col("events").fill_null(0))


def bulk(per_day: pl.DataFrame) -> pl.DataFrame:
    """The days that remain when a few stray events before and after all others are left out.

    Strays are 1 % of the events at most (or one), over 30 days from the next event.

    Args:
        per_day: as from `events_per_day`.
    """
    busy = per_day.with_row_index("at").filter(pl.col("events") > 0)
    at, n = busy["at"].cast(pl.Int64).to_numpy(), busy["events"].cast(pl.Int64).to_numpy()
    first, last, left = 0, len(at), max(int(n.sum()) // 100, 1)
    while last - first > 1:
        cut = first + int(np.diff(at[first:last]).argmax()) + 1
        before, after = int(n[first:cut].sum()), int(n[cut:last].sum())
        if at[cut] - at[cut - 1] <= _STRAY_DAYS or min(before, after) > left:
            break
        left -= min(before, after)
        first, last = (cut, last) if before <= after else (first, cut)
    return per_day[int(at[first]) : int(at[last - 1]) + 1]


def longest_gaps(facts: EventFacts, n: int = 5) -> pl.DataFrame:
    """The longest stretches without any event: from, to (UTC), hours."""
    moment = pl.col("timestamp")
    times = facts.events.select(moment).drop_nulls().unique().sort("timestamp")
    gaps = times.select(since=moment.shift(1), until=moment, hours=moment.diff() / 3600)
    longest = gaps.drop_nulls().sort("hours", "since", descending=[True, False]).head(n)
    as_time = [pl.from_epoch((pl.col(c)).cast(pl.Int64), time_unit="s") for c in ("since", "until")]
    return longest.with_columns(as_time)


def long_tail(facts: EventFacts, points: int = 100) -> pl.DataFrame:
    """Share of events that the most popular share of items takes, both from 0 to 1."""
    n = facts.per_item["n_events"].to_numpy()
    shares = np.linspace(0, 1, points + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(n)]) / max(int(n.sum()), 1)
    at = np.ceil(shares * len(n)).astype(int)
    return pl.DataFrame({"items": shares, "events": cumulative[at]})


def top_share(tally: pl.DataFrame, share: float) -> float:
    """Share of events on the first `share` of the rows of a tally, at least one row."""
    n = tally["n_events"].to_numpy()
    first = max(int(np.ceil(share * len(n))), 1)
    return float(n[:first].sum() / max(int(n.sum()), 1))


def history_lengths(facts: EventFacts) -> pl.DataFrame:
    """Number of users by length of their history, in fixed steps."""
    n = facts.per_user["n_events"].to_numpy()
    place = np.searchsorted(_LENGTHS, n)
    edges = [0, *_LENGTHS]
    names = [str(b) if b == a + 1 else f"{a + 1}–{b}" for a, b in pairwise(edges)]
    names.append(f"over {_LENGTHS[-1]}")
    return pl.DataFrame({"length": names, "users": np.bincount(place, minlength=len(names))})


def gini(amounts: NDArray[np.integer]) -> float:
    """Gini coefficient of non-negative amounts; 0 where there are none.

    sum over j of (2j - n - 1) x_j / (n sum x), x ascending, j = 1 … n.
    """
    x = np.sort(amounts).astype(np.float64)
    n, total = len(x), x.sum()
    if total == 0:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * total))


def tie_share(facts: EventFacts) -> float | None:
    """Share of successive events of one user in the same second; None without times."""
    steps = _steps(facts.events, "timestamp")
    return float((steps == 0).mean()) if len(steps) else None


def against_time(facts: EventFacts) -> float | None:
    """Share of successive events by seq whose time runs backwards; None without seq and times."""
    if "seq" not in facts.events.columns:
        return None
    steps = _steps(facts.events.drop_nulls("seq"), "seq")
    return float((steps < 0).mean()) if len(steps) else None


def _steps(events: pl.DataFrame, order: str) -> NDArray[np.float64]:
    """Whole seconds from each timed event of a user to the next one in this order."""
    second = pl.col("timestamp").floor()
    columns = {"user": pl.col("user"), "order": pl.col(order), "second": second}
    timed = events.drop_nulls("timestamp").select(**columns).sort("user", "order")
    same_user = np.diff(timed["user"].to_numpy()) == 0
    steps: NDArray[np.float64] = np.diff(timed["second"].to_numpy())[same_user]
    return steps
