"""Findings about the times of events: missing, impossible, tied, out of order, with holes."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import polars as pl

from steerec.data import health_facts as facts_of
from steerec.data.counted import counted, percent
from steerec.data.findings import NOTICE, WARNING, Finding
from steerec.data.health_facts import EventFacts
from steerec.data.rules import EARLIEST_S, CleanConfig


def time_findings(facts: EventFacts, now: float | None) -> Iterator[Finding]:
    """Look at the times of the events.

    Args:
        now: Unix seconds; later times are named. None: no time is too late.
    """
    given = _given_times(facts.raw)
    if given.is_empty():
        yield Finding(
            "no_times",
            NOTICE,
            "No times",
            "Events have no timestamp; their order is that of seq, or of the file.",
            "Evaluate with leave-one-out; give times to use recency, trends and a split by time.",
        )
        return
    yield from _bad_time_findings(facts, given)
    yield from _impossible_findings(given, now)
    times = facts.events["timestamp"].drop_nulls()
    if times.is_empty():
        return
    if times.n_unique() == 1:
        yield Finding(
            "one_time",
            WARNING,
            "All events at one moment",
            "Every event has the same time, so there is no before and after.",
            "Look at the timestamp column: is it the time of the export?",
        )
        return
    yield from _order_findings(facts, times)
    yield from _gap_findings(facts, now)


def _given_times(raw: pl.DataFrame) -> pl.Series:
    if "timestamp" not in raw.columns:
        return pl.Series([], dtype=pl.Float64)
    return raw["timestamp"].cast(pl.Float64, strict=False).fill_nan(None).drop_nulls()


def _bad_time_findings(facts: EventFacts, given: pl.Series) -> Iterator[Finding]:
    missing = len(facts.raw) - len(given)
    if missing:
        yield Finding(
            "missing_times",
            WARNING if missing > 0.01 * len(facts.raw) else NOTICE,
            "Some events have no time",
            f"Without a timestamp, so that no order is known: {missing:,} of "
            f"{counted(len(facts.raw), 'row')}.",
            "Evaluations by time leave these rows out; complete the column, or give seq.",
        )
    odd = given.filter(~given.is_between(facts_of.EARLIEST, facts_of.LATEST))
    if len(odd):
        share, example = len(odd) / len(given), float(odd[0])
        unit = "milliseconds" if 1e11 < example < 1e14 else "another unit than seconds"
        yield Finding(
            "odd_times",
            WARNING,
            "Times that are no Unix seconds",
            f"{share:.1%} of the times lie before 1980 or after 2100, such as {example:.0f}: "
            f"perhaps {unit}.",
            "Cleaning turns milliseconds into seconds; else convert the column before the import.",
        )


def _order_findings(facts: EventFacts, times: pl.Series) -> Iterator[Finding]:
    if len(times) > 1 and (times % facts_of.DAY_S == 0).all():
        yield Finding(
            "whole_days",
            NOTICE,
            "Times are whole days",
            "No event has a time of day, so the order within a day is that of the file.",
            "Give exact times where you have them; sessions and hours play no part until then.",
        )
    ties = facts_of.tie_share(facts)
    if ties is not None and ties > 0.1:
        yield Finding(
            "ties",
            WARNING if ties > 0.3 else NOTICE,
            "Many events of one user in the same second",
            f"{ties:.0%} of successive events of a user share their second; their order is that of "
            "the file, and may hold knowledge that is not there in use.",
            "Things done together belong in a basket; else read the figures of the part “over a "
            "minute after the last event” beside the total.",
        )
    backwards = facts_of.against_time(facts)
    if backwards is not None and backwards > 0:
        yield Finding(
            "seq_against_time",
            WARNING if backwards > 0.01 else NOTICE,
            "The order in seq contradicts the times",
            f"{backwards:.1%} of the steps by seq go back in time.",
            "Evaluations by time use timestamp, leave-one-out uses seq: repair one of them.",
        )


def _impossible_findings(given: pl.Series, now: float | None) -> Iterator[Finding]:
    """Dates that cleaning rejects although they could be Unix seconds."""
    latest = facts_of.LATEST if now is None else now + CleanConfig().future_s
    early = given.filter((given >= facts_of.EARLIEST) & (given < EARLIEST_S))
    late = given.filter((given > latest) & (given <= facts_of.LATEST))
    n = len(early) + len(late)
    if n:
        sides = ((early, "before 1990"), (late, "in the future"))
        told = [
            f"{counted(len(t), 'time')} {side}, such as {_day(t[0])}" for t, side in sides if len(t)
        ]
        yield Finding(
            "impossible_times",
            WARNING if n > 0.01 * len(given) else NOTICE,
            "Times at which nothing can have happened",
            f"{'; '.join(told)}: {percent(n, len(given))} of all.",
            "A wrong clock, a placeholder date or another unit? Cleaning puts these rows aside.",
        )


def _gap_findings(facts: EventFacts, now: float | None) -> Iterator[Finding]:
    per_day = facts_of.events_per_day(facts)
    empty = int((per_day["events"] == 0).sum())
    if len(per_day) >= 14 and empty > 0.1 * len(per_day):
        gap = facts_of.longest_gaps(facts, 1).row(0, named=True)
        cause = _cause_of_gaps(per_day, empty, now)
        yield Finding(
            "days_without_events",
            NOTICE,
            "Days without any event",
            f"{empty:,} of {len(per_day):,} days are empty; the longest gap runs from "
            f"{gap['since']:%Y-%m-%d} to {gap['until']:%Y-%m-%d}.{cause}",
            "Look where the times of those events come from; with the wrong ones gone, look again."
            if cause
            else "Days of rest, or a hole in the log? Trends are blind across holes.",
        )


def _cause_of_gaps(per_day: pl.DataFrame, empty: int, now: float | None) -> str:
    """Which few events stretch the range, where they make most of the empty days; else nothing."""
    bulk = facts_of.bulk(per_day)
    left = int((bulk["events"] == 0).sum())
    if 2 * left > empty:
        return ""
    told = []
    first, last = bulk["day"][0], bulk["day"][-1]
    for side, where in ((pl.col("day") < first, "before"), (pl.col("day") > last, "after")):
        days = per_day.filter(side & (pl.col("events") > 0))
        if len(days):
            future = now is not None and days["day"][-1] > _day(now)
            told.append(
                f"{counted(int(days['events'].sum()), 'event')} {where} all others, such as on "
                f"{days['day'][-1]}" + ", which is in the future" * future
            )
    return (
        f" The cause: {'; '.join(told)}. Without them {left:,} of {counted(len(bulk), 'day')} "
        "would be empty."
    )


def _day(time: float) -> date:
    return datetime.fromtimestamp(time, UTC).date()
