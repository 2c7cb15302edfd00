"""Is this data fit to learn from? Facts and findings for `steerec doctor`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from steerec.data import health_facts as facts_of
from steerec.data.counted import counted, percent
from steerec.data.dataset import Dataset
from steerec.data.findings import NOTICE, OK, WARNING, Finding
from steerec.data.health_facts import EventFacts, event_facts
from steerec.data.health_items import catalogue_findings, user_findings
from steerec.data.health_times import time_findings
from steerec.errors import DataError


@dataclass(frozen=True)
class Health:
    """What the doctor found.

    Attributes:
        counts: figures by name: n_events, n_users, n_items, n_catalogue, density, …
        findings: warnings first.
        tables: quantiles, kinds, gaps, events_per_day, long_tail, history_lengths.
    """

    counts: Mapping[str, float]
    findings: tuple[Finding, ...]
    tables: Mapping[str, pl.DataFrame]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values, times as text."""
        return {
            "counts": dict(self.counts),
            "findings": [f.as_json() for f in self.findings],
            "tables": {
                name: t.with_columns(pl.col(pl.Date, pl.Datetime).cast(pl.String)).to_dicts()
                for name, t in self.tables.items()
            },
        }


def examine(
    events: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    max_tokens: int = 256,
    now: float | None = None,
) -> Health:
    """Examine canonical tables as they were read, before cleaning.

    Args:
        max_tokens: how much of a text the encoder reads.
        now: Unix seconds; later times are named. None: no time is too late.
    Raises:
        DataError: if a table lacks its id column, or there are no events.
    """
    _check(events, items, users)
    facts = event_facts(events)
    findings = [
        *_id_findings(facts),
        *_size_findings(facts),
        *time_findings(facts, now),
        *_value_findings(facts),
        *_habit_findings(facts),
        *catalogue_findings(facts, items, max_tokens=max_tokens),
        *user_findings(facts, users),
    ]
    order = (WARNING, NOTICE, OK)
    return Health(
        _counts(facts, items, users),
        tuple(sorted(findings, key=lambda f: order.index(f.severity))),
        {
            "quantiles": facts_of.quantiles(facts),
            "kinds": facts_of.kinds(facts),
            "gaps": facts_of.longest_gaps(facts),
            "events_per_day": facts_of.events_per_day(facts),
            "long_tail": facts_of.long_tail(facts),
            "history_lengths": facts_of.history_lengths(facts),
        },
    )


def examine_dataset(data: Dataset, *, max_tokens: int = 256) -> Health:
    """Examine a Dataset, that is, data already cleaned."""
    events = pl.DataFrame(
        {
            "user_id": data.user_ids[data.user_idx].astype(str),
            "item_id": data.item_ids[data.item_idx].astype(str),
            "event": np.array(data.kinds)[data.kind],
            "value": data.value,
            "timestamp": data.time,
        }
    ).with_columns(pl.col("value", "timestamp").fill_nan(None))
    return examine(events, data.items, data.users, max_tokens=max_tokens)


def _check(events: pl.DataFrame, items: pl.DataFrame | None, users: pl.DataFrame | None) -> None:
    wanted = (("events", events, ("user_id", "item_id")), ("items", items, ("item_id",)))
    for name, table, columns in (*wanted, ("users", users, ("user_id",))):
        missing = [c for c in columns if table is not None and c not in table.columns]
        if missing:
            given = [] if table is None else table.columns
            raise DataError(
                f"{name} has no column {missing}; given: {given}. Map it with --columns"
            )
    if events.is_empty():
        raise DataError("there are no events: expected at least one row with a user and an item")


def _counts(
    facts: EventFacts, items: pl.DataFrame | None, users: pl.DataFrame | None
) -> dict[str, float]:
    n_users, n_items = len(facts.per_user), len(facts.per_item)
    cells = n_users * n_items
    return {
        "n_rows": len(facts.raw),
        "n_events": facts.n,
        "n_users": n_users,
        "n_items": n_items,
        "n_catalogue": n_items if items is None else items["item_id"].n_unique(),
        "n_user_rows": n_users if users is None else users["user_id"].n_unique(),
        "density": facts.n_pairs / cells if cells else 0.0,
        "repeat_share": facts.repeat_share,
        "top_1_percent_share": facts_of.top_share(facts.per_item, 0.01),
        "top_10_percent_share": facts_of.top_share(facts.per_item, 0.1),
        "gini": facts_of.gini(facts.per_item["n_events"].to_numpy()),
        "one_event_user_share": _share(facts.per_user, pl.col("n_events") == 1),
        "days": len(facts_of.events_per_day(facts)),
    }


def _id_findings(facts: EventFacts) -> Iterator[Finding]:
    lost = len(facts.raw) - facts.n
    if lost:
        yield Finding(
            "missing_ids",
            WARNING if lost > 0.01 * len(facts.raw) else NOTICE,
            "Events without a user or an item",
            f"{lost:,} of {counted(len(facts.raw), 'row')} ({percent(lost, len(facts.raw))}): "
            "without a user or an item, and of no use for learning.",
            "Map another column as user_id or item_id, or let cleaning put these rows aside.",
        )
    else:
        yield Finding("missing_ids", OK, "Every event names a user and an item", "", "")


def _size_findings(facts: EventFacts) -> Iterator[Finding]:
    n_users = len(facts.per_user)
    if facts.n < 1000 or n_users < 50 or len(facts.per_item) < 20:
        yield Finding(
            "small",
            WARNING,
            "Too little to learn habits from",
            f"{counted(facts.n, 'event')} of {counted(n_users, 'user')} on "
            f"{counted(len(facts.per_item), 'item')}.",
            "Expect popularity and item texts to lead; collect at least some thousand events.",
        )
    single = _share(facts.per_user, pl.col("n_events") == 1)
    if single > 0.3:
        yield Finding(
            "one_event_users",
            NOTICE,
            "Many users with a single event",
            f"{single:.0%} of the users were seen once: nothing can be predicted from before that.",
            "Give item texts and user attributes, which serve users without a history.",
        )
    heaviest = facts.per_user["n_events"].max() if n_users else 0
    if n_users >= 20 and isinstance(heaviest, int) and heaviest > 0.05 * facts.n:
        yield Finding(
            "heavy_user",
            WARNING,
            "One user makes a large part of all events",
            f"User {facts.per_user['user_id'][0]!r} has {heaviest:,} events, "
            f"{heaviest / facts.n:.0%} of all.",
            "Is it a robot, a test account or a shared till? Leave it out or split it.",
        )


def _value_findings(facts: EventFacts) -> Iterator[Finding]:
    values = facts.events["value"].drop_nulls()
    bad = int((~values.is_finite()).sum())
    if bad:
        yield Finding(
            "values_not_finite",
            WARNING,
            "Values that are no numbers",
            f"{counted(bad, 'event')} with NaN or infinity as the value.",
            "Cleaning puts them aside; look where they come from.",
        )
    for row in facts_of.kinds(facts).iter_rows(named=True):
        if row["values"] >= 100 and row["most"] > 1000 * max(abs(row["median"]), 1e-9) > 0:
            yield Finding(
                "value_range",
                NOTICE,
                f"Very uneven values of {row['event']}",
                f"The median is {row['median']:g}, the largest {row['most']:g}.",
                "Check for another unit or a test entry before values are used as weights.",
            )


def _habit_findings(facts: EventFacts) -> Iterator[Finding]:
    if not facts.n:
        return
    if facts.repeat_share > 0.1:
        yield Finding(
            "repeats",
            NOTICE,
            "Users come back to the same items",
            f"{facts.repeat_share:.0%} of the events repeat one of the same user and item.",
            "Allow items of a user's own history in lists; evaluate by basket where there is one.",
        )
    timed = facts.events.drop_nulls("timestamp").drop("user_id", "item_id")
    copies = len(timed) - timed.n_unique()
    if copies:
        yield Finding(
            "copies",
            WARNING if copies > 0.01 * facts.n else NOTICE,
            "Rows that occur twice",
            f"{counted(copies, 'event')} with the user, item, kind, value and time of another.",
            "Cleaning drops exact copies; switch that off if each row is one piece sold.",
        )
    uneven = facts_of.gini(facts.per_item["n_events"].to_numpy())
    if uneven > 0.7:
        yield Finding(
            "long_tail",
            NOTICE,
            "A few items take most of the events",
            f"The top 10 % of the items take {facts_of.top_share(facts.per_item, 0.1):.0%} of the "
            f"events (Gini {uneven:.2f}).",
            "Watch popularity share and coverage in the report; popularity is a strong baseline.",
        )


def _share(table: pl.DataFrame, condition: pl.Expr) -> float:
    return float(table.select(condition.mean()).item() or 0.0)
