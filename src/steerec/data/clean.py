"""Clean raw tables: every rule counts what it did, and what is rejected goes to quarantine."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from steerec.data import catalogue, rules
from steerec.data.rules import SOURCE_ROW, CleanConfig, Verdict
from steerec.data.tables import Tables
from steerec.errors import DataError

_log = logging.getLogger(__name__)
_QUARANTINE = {
    "table": pl.String,
    "row": pl.Int64,
    "rule": pl.String,
    "reason": pl.String,
    "dropped": pl.Boolean,
    "record": pl.String,
}
_Step = tuple[str, bool, Callable[[pl.DataFrame], Verdict]]


@dataclass(frozen=True)
class RuleCount:
    """What one rule did to one table; `checked` is 0 where it was off or had nothing to read."""

    rule: str
    table: str
    checked: int
    repaired: int = 0
    rejected: int = 0
    note: str = ""


@dataclass(frozen=True)
class CleanReport:
    """All rules in the order in which they ran, and rows per table before and after."""

    rules: tuple[RuleCount, ...]
    rows_in: dict[str, int]
    rows_out: dict[str, int]

    def as_rows(self) -> list[tuple[str, ...]]:
        """Texts for a printed table: rule, table, checked, repaired, rejected, note."""
        return [
            (r.rule, r.table, f"{r.checked:,}", f"{r.repaired:,}", f"{r.rejected:,}", r.note)
            for r in self.rules
        ]

    def rejected(self, table: str) -> int:
        """Rows of the table that were rejected, by all rules."""
        return sum(r.rejected for r in self.rules if r.table == table)


@dataclass(frozen=True)
class Cleaned:
    """Clean tables, the report, and the quarantine.

    Attributes:
        quarantine: table ("events", "items", "users"), row (0-based place in the table as read),
            rule, reason, dropped (false where only a cell was emptied), record (the row as JSON,
            as the rule saw it: earlier repairs included).
    """

    tables: Tables
    report: CleanReport
    quarantine: pl.DataFrame

    def write_quarantine(self, path: Path) -> None:
        """Write the quarantine as JSON lines; an empty one gives an empty file.

        Raises:
            DataError: if the file cannot be written.
        """
        try:
            self.quarantine.write_ndjson(path)
        except OSError as e:
            raise DataError(f"{path} cannot be written ({e}): check folder and permission") from e


@dataclass
class _Work:
    """One table on its way through its rules."""

    table: str
    frame: pl.DataFrame
    counts: list[RuleCount] = field(default_factory=list)
    rejected: list[pl.DataFrame] = field(default_factory=list)

    def run(self, steps: Iterator[_Step]) -> None:
        for rule, is_on, apply in steps:
            if not is_on:
                self.counts.append(RuleCount(rule, self.table, 0, note="off"))
                continue
            checked = len(self.frame)
            verdict = apply(self.frame)
            self.frame = verdict.frame
            dropped = self._drop(rule, verdict.rejected)
            self.counts.append(
                RuleCount(rule, self.table, checked, verdict.repaired, dropped, verdict.note)
            )

    def empty_prices(self, verdict: Verdict) -> Verdict:
        """Null the named prices; their rows stay, and the quarantine says what they were."""
        reasons = verdict.rejected
        if reasons is None or reasons.null_count() == len(reasons):
            return Verdict(self.frame)
        bad = reasons.is_not_null()
        self._quarantine("prices", bad, reasons, dropped=False)
        price = pl.when(~bad).then(pl.col("price")).alias("price")
        return Verdict(self.frame.with_columns(price), repaired=int(bad.sum()))

    def _drop(self, rule: str, reasons: pl.Series | None) -> int:
        if reasons is None or reasons.null_count() == len(reasons):
            return 0
        bad = reasons.is_not_null()
        self._quarantine(rule, bad, reasons, dropped=True)
        self.frame = self.frame.filter(~bad)
        return int(bad.sum())

    def _quarantine(self, rule: str, bad: pl.Series, reasons: pl.Series, *, dropped: bool) -> None:
        rows = self.frame.filter(bad)
        self.rejected.append(
            pl.DataFrame(
                {
                    "table": pl.repeat(self.table, len(rows), eager=True),
                    "row": rows[SOURCE_ROW].cast(pl.Int64),
                    "rule": pl.repeat(rule, len(rows), eager=True),
                    "reason": reasons.filter(bad),
                    "dropped": pl.repeat(dropped, len(rows), dtype=pl.Boolean, eager=True),
                    "record": _as_json(rows.drop(SOURCE_ROW)),
                },
                schema=_QUARANTINE,
            )
        )


def clean(tables: Tables, config: CleanConfig, *, now: float) -> Cleaned:
    """Run the rules that `config` switches on; nothing is lost without a record.

    Rows out plus rows rejected are the rows that came in, for each table.

    Args:
        now: Unix seconds; times more than `config.future_s` later are impossible.
    """
    works = [_Work("events", tables.events.with_row_index(SOURCE_ROW))]
    works[0].run(_event_steps(config, now))
    for name, table in (("items", tables.items), ("users", tables.users)):
        if table is not None:
            work = _Work(name, table.with_row_index(SOURCE_ROW))
            work.run(_item_steps(config, work) if name == "items" else _user_steps(config))
            works.append(work)
    out = {w.table: w.frame.drop(SOURCE_ROW) for w in works}
    given = {"events": tables.events, "items": tables.items, "users": tables.users}
    sizes = {name: len(frame) for name, frame in given.items() if frame is not None}
    counts = tuple(count for w in works for count in w.counts)
    report = CleanReport(counts, sizes, {name: len(frame) for name, frame in out.items()})
    parts = [part for w in works for part in w.rejected]
    quarantine = pl.concat(parts) if parts else pl.DataFrame(schema=_QUARANTINE)
    for name, rows_in in sizes.items():
        _log.info("cleaned table=%s rows_in=%d rows_out=%d", name, rows_in, len(out[name]))
    cleaned = replace(tables, events=out["events"], items=out.get("items"), users=out.get("users"))
    return Cleaned(cleaned, report, quarantine)


def _event_steps(config: CleanConfig, now: float) -> Iterator[_Step]:
    ids = ("user_id", "item_id")
    latest = now + config.future_s
    yield "missing_ids", config.missing_ids, lambda f: rules.missing_ids(f, ids)
    yield "long_ids", config.long_ids, lambda f: rules.long_ids(f, ids)
    yield "not_finite", config.not_finite, rules.not_finite
    yield "time_units", config.time_units, lambda f: rules.time_units(f, latest)
    yield (
        "impossible_times",
        config.impossible_times,
        lambda f: rules.impossible_times(f, latest),
    )
    yield "exact_duplicates", config.exact_duplicates, rules.exact_duplicates
    yield (
        "near_duplicates",
        config.near_duplicates,
        lambda f: rules.near_duplicates(f, config.near_s),
    )
    yield "bot_rate", config.bot_rate, lambda f: rules.bot_rate(f, config.moments_per_hour)
    yield (
        "bot_volume",
        config.bot_volume,
        lambda f: rules.bot_volume(f, config.volume_z, config.volume_min_events),
    )


def _item_steps(config: CleanConfig, work: _Work) -> Iterator[_Step]:
    yield "missing_ids", config.missing_ids, lambda f: rules.missing_ids(f, ("item_id",))
    yield "long_ids", config.long_ids, lambda f: rules.long_ids(f, ("item_id",))
    yield (
        "duplicate_entries",
        config.duplicate_entries,
        lambda f: catalogue.duplicate_entries(f, "item_id"),
    )
    yield "texts", config.texts, catalogue.texts
    if "categories" in work.frame.columns:
        yield (
            "categories",
            config.categories,
            lambda f: catalogue.categories(
                f, rare_ratio=config.rare_ratio, min_chars=config.rare_min_chars
            ),
        )
    if "price" in work.frame.columns:
        yield (
            "prices",
            config.prices,
            lambda f: work.empty_prices(
                catalogue.prices(f, config.price_z, config.price_min_items)
            ),
        )


def _user_steps(config: CleanConfig) -> Iterator[_Step]:
    yield "missing_ids", config.missing_ids, lambda f: rules.missing_ids(f, ("user_id",))
    yield "long_ids", config.long_ids, lambda f: rules.long_ids(f, ("user_id",))
    yield (
        "duplicate_entries",
        config.duplicate_entries,
        lambda f: catalogue.duplicate_entries(f, "user_id"),
    )


def _as_json(rows: pl.DataFrame) -> pl.Series:
    """Each row as a JSON object; bytes are written as hexadecimal text."""
    encoded = rows.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    return encoded.select(pl.struct(pl.all()).struct.json_encode().alias("record"))["record"]
