"""The cleaning rules for events; each looks at all rows at once and says which to reject."""

from dataclasses import dataclass

import polars as pl

from steerec.data.counted import counted
from steerec.errors import ConfigError

EARLIEST_S = 631_152_000.0  # 1990-01-01 UTC: before the web, so no click
MAX_ID_CHARS = 512
SOURCE_ROW = "_source_row"  # carried through cleaning, never seen outside
HOUR_S = 3600


@dataclass(frozen=True)
class CleanConfig:
    """Which cleaning rules run, and their thresholds.

    Attributes:
        missing_ids: reject rows without a user or item, strip spaces around ids.
        long_ids: reject ids over 512 characters.
        not_finite: reject events whose value or time is NaN or infinite.
        time_units: turn times in ms, us or ns into seconds.
        impossible_times: reject times before 1990 or in the future.
        exact_duplicates: reject repeats of a whole row; the first stays.
        near_duplicates: reject repeats of user, item, kind, value and basket in quick succession.
        bot_rate: reject all events of users that act faster than a person can.
        bot_volume: reject all events of users with an absurd number of them.
        duplicate_entries: reject repeats of an id in the catalogue or the users.
        prices: null prices far from those of their category.
        texts: normalise titles and descriptions.
        categories: merge variants of a category's spelling.
        near_s: double clicks and network retries come within a second; people repeat slower.
        future_s: clocks may be ahead by this much.
        moments_per_hour: distinct times at which one user acts within a clock hour. 1,800 is one
            action every two seconds for an hour. Rows of one moment (an invoice) are one action.
        volume_z: robust z-score of log event counts. The heaviest real users known to us reach 7.3.
        volume_min_events: no user with fewer events is a bot by volume.
        price_z: robust z-score of log price within the category.
        price_min_items: categories with fewer prices are compared with the whole catalogue.
        rare_ratio: a misspelling is at most this share as frequent as the word it stands for.
        rare_min_chars: words shorter than this are never merged by edit distance.
    """

    missing_ids: bool = True
    long_ids: bool = True
    not_finite: bool = True
    time_units: bool = True
    impossible_times: bool = True
    exact_duplicates: bool = True
    near_duplicates: bool = True
    bot_rate: bool = True
    bot_volume: bool = True
    duplicate_entries: bool = True
    prices: bool = True
    texts: bool = True
    categories: bool = True
    near_s: float = 1.0
    future_s: float = 86_400.0
    moments_per_hour: int = 1_800
    volume_z: float = 8.0
    volume_min_events: int = 2_000
    price_z: float = 6.0
    price_min_items: int = 20
    rare_ratio: float = 0.05
    rare_min_chars: int = 7

    def __post_init__(self) -> None:
        positive = ("moments_per_hour", "volume_z", "volume_min_events", "price_z")
        for name in (*positive, "price_min_items", "rare_min_chars"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("near_s", "future_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected seconds from 0 up")
        if not 0 <= self.rare_ratio <= 1:
            raise ConfigError(f"rare_ratio is {self.rare_ratio}, expected 0 to 1")


@dataclass(frozen=True)
class Verdict:
    """What a rule decided.

    Attributes:
        frame: all rows, repaired where the rule repairs.
        rejected: reason per row, null where the row may stay; None: no row is rejected.
        repaired: number of rows changed.
    """

    frame: pl.DataFrame
    rejected: pl.Series | None = None
    repaired: int = 0
    note: str = ""


def missing_ids(frame: pl.DataFrame, ids: tuple[str, ...]) -> Verdict:
    """Strip spaces around ids and reject rows without one."""
    stripped = frame.with_columns(_null_if_empty(name) for name in ids)
    changed = pl.any_horizontal(pl.col(n).ne_missing(frame[n]) for n in ids)
    repaired = changed & pl.all_horizontal(pl.col(n).is_not_null() for n in ids)
    reason = pl.coalesce(pl.when(pl.col(n).is_null()).then(pl.lit(f"no {n}")) for n in ids)
    return Verdict(
        stripped,
        stripped.select(reason.alias("reason"))["reason"],
        int(stripped.select(repaired.sum()).item()),
    )


def long_ids(frame: pl.DataFrame, ids: tuple[str, ...]) -> Verdict:
    """Reject ids over 512 characters: they are texts or damage."""
    reason = pl.coalesce(
        pl.when(pl.col(n).str.len_chars() > MAX_ID_CHARS).then(
            pl.format(
                n + " has {} characters, at most {} allowed",
                pl.col(n).str.len_chars(),
                pl.lit(MAX_ID_CHARS),
            )
        )
        for n in ids
    )
    return Verdict(frame, frame.select(reason.alias("reason"))["reason"])


def not_finite(events: pl.DataFrame) -> Verdict:
    """Reject NaN and infinite values and times; null means unknown and stays."""
    reason = pl.coalesce(
        pl.when(~pl.col(n).is_finite()).then(pl.lit(f"{n} is not a finite number"))
        for n in ("value", "timestamp")
    )
    return Verdict(events, events.select(reason.alias("reason"))["reason"])


def time_units(events: pl.DataFrame, latest: float) -> Verdict:
    """Turn ms, us and ns into seconds, row by row, where that makes a possible time."""
    time = pl.col("timestamp")
    fixed = pl.coalesce(
        pl.when((time / unit).is_between(EARLIEST_S, latest)).then(time / unit)
        for unit in (1e3, 1e6, 1e9)
    )
    # 1990 in ms is the year 21970 in s: no time is possible in two units.
    repaired = events.select((fixed.is_not_null() & (time > latest)).sum()).item()
    if not repaired:
        return Verdict(events)
    seconds = pl.when(time > latest).then(pl.coalesce(fixed, time)).otherwise(time)
    return Verdict(events.with_columns(timestamp=seconds), repaired=int(repaired))


def impossible_times(events: pl.DataFrame, latest: float) -> Verdict:
    """Reject times before 1990 and after `latest`."""
    time = pl.col("timestamp")
    reason = (
        pl.when(time > latest)
        .then(pl.lit("time lies in the future"))
        .when(time <= 0)
        .then(pl.lit("time is zero or negative"))
        .when(time < EARLIEST_S)
        .then(pl.lit("time lies before 1990"))
    )
    return Verdict(events, events.select(reason.alias("reason"))["reason"])


def exact_duplicates(events: pl.DataFrame) -> Verdict:
    """Reject rows equal in every column but the source's row number; the first stays."""
    flat = events.drop("row", SOURCE_ROW, strict=False)
    nested = [c for c, t in flat.schema.items() if t.is_nested()]
    suspects = flat.drop(nested).hash_rows().is_duplicated()
    if not suspects.any():
        return Verdict(events)
    # Equal hashes only nominate: the rows themselves decide.
    rows = flat.with_row_index("_at").filter(suspects)
    rows = rows.with_columns(pl.struct(c).struct.json_encode().alias(c) for c in nested)
    repeats = rows.filter(~pl.struct(pl.exclude("_at")).is_first_distinct())["_at"]
    return Verdict(events, _reasons(len(events), repeats, "same as an earlier row"))


def near_duplicates(events: pl.DataFrame, near_s: float) -> Verdict:
    """Reject an event that repeats the user's same event at most `near_s` after the one before.

    The same value and basket are part of "the same": two lines of one invoice with different
    quantities are no double click. A chain of quick repeats collapses to its first event.
    """
    clock = clock_step(events["timestamp"])
    if clock > near_s:
        note = f"times are multiples of {clock} s: too coarse for this rule"
        return Verdict(events, note=note)
    key = ["user_id", "item_id", "event", "value", "basket"]
    suspects = events.select(key).hash_rows().is_duplicated() & events["timestamp"].is_not_null()
    if not suspects.any():
        return Verdict(events)
    rows = events.select(*key, "timestamp").with_row_index("_at").filter(suspects)
    rows = rows.with_columns(_key=pl.struct(key).hash()).sort("_key", "timestamp", "_at")
    same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(c).shift(1)) for c in key)
    close = (pl.col("timestamp") - pl.col("timestamp").shift(1)) <= near_s
    repeats = rows.filter(same & close)["_at"]
    reason = f"same event within {near_s:g} s of the one before"
    return Verdict(events, _reasons(len(events), repeats, reason))


def bot_rate(events: pl.DataFrame, moments_per_hour: int) -> Verdict:
    """Reject all events of users who act at more than so many moments of a clock hour."""
    hour = (pl.col("timestamp") // HOUR_S).alias("hour")
    busy = (
        events.lazy()
        .filter(pl.col("timestamp").is_not_null())
        .filter(pl.len().over("user_id") > moments_per_hour)
        .group_by("user_id", hour)
        .agg(pl.col("timestamp").n_unique().alias("moments"))
        .filter(pl.col("moments") > moments_per_hour)
        .group_by("user_id")
        .agg(pl.col("moments").max())
        .collect()
    )
    text = pl.format("bot: acted at {} moments of one hour", pl.col("moments"))
    return _reject_users(events, busy.select("user_id", text.alias("reason")))


def bot_volume(events: pl.DataFrame, z: float, min_events: int) -> Verdict:
    """Reject all events of users whose log count lies over `z` robust deviations above the median.

    The deviation is 1.4826 times the median absolute one, at least 0.5 (in log counts), so that
    a set where nearly all users have the same count does not condemn those with a few more.
    """
    counts = events.group_by("user_id").len("n").with_columns(log=pl.col("n").log())
    middle = pl.col("log").median()
    spread = pl.max_horizontal(1.4826 * (pl.col("log") - middle).abs().median(), pl.lit(0.5))
    scored = counts.with_columns(z=(pl.col("log") - middle) / spread)
    bots = scored.filter((pl.col("z") > z) & (pl.col("n") >= min_events))
    text = pl.format("bot: {} events, robust z-score {}", pl.col("n"), pl.col("z").round(1))
    return _reject_users(events, bots.select("user_id", text.alias("reason")))


def clock_step(times: pl.Series) -> int:
    """Seconds between the ticks of the clock that made these times: 86400, 3600, 60 or 1."""
    known = times.drop_nulls()
    if known.is_empty():
        return 1
    return next((s for s in (86_400, 3_600, 60) if bool((known % s == 0).all())), 1)


def _reject_users(events: pl.DataFrame, reasons: pl.DataFrame) -> Verdict:
    if reasons.is_empty():
        return Verdict(events)
    joined = events.select("user_id").join(reasons, on="user_id", how="left", maintain_order="left")
    return Verdict(events, joined["reason"], note=f"all events of {counted(len(reasons), 'user')}")


def _reasons(n_rows: int, at: pl.Series, reason: str) -> pl.Series:
    """`reason` at the given rows, null elsewhere."""
    index = pl.int_range(n_rows, eager=True, dtype=pl.UInt32)
    rejected = index.is_in(at.implode())
    return pl.select(pl.when(rejected).then(pl.lit(reason)).alias("reason"))["reason"]


def _null_if_empty(name: str) -> pl.Expr:
    stripped = pl.col(name).str.strip_chars()
    return pl.when(stripped != "").then(stripped).alias(name)
