"""Source tables into canonical columns and types; no row is dropped, unreadable cells are NaN."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from steerec.data.counted import counted
from steerec.data.mapping import ColumnMap, map_columns
from steerec.errors import DataError

_TIME_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d-%b-%Y",
)
_COMPACT_DATE = r"^(19|20)[0-9]{2}[01][0-9][0-3][0-9]$"  # 20240131 is no second of 1970
_KIND_BY_VALUE = {"rating": "rating", "ratings": "rating", "stars": "rating", "overall": "rating"}


@dataclass(frozen=True)
class _Source:
    """A raw table with its column mapping; reads canonical columns and keeps notes."""

    raw: pl.DataFrame
    found: ColumnMap
    notes: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.found.columns

    def column(self, name: str) -> pl.Series:
        return self.raw[self.found.columns[name]]

    def constant(self, value: str | None, dtype: type[pl.DataType] = pl.String) -> pl.Series:
        return pl.repeat(value, len(self.raw), dtype=dtype, eager=True)

    def text(self, name: str) -> pl.Series:
        if name not in self:
            return self.constant(None)
        column = self.column(name)
        if column.dtype.is_float():  # pandas writes whole numbers with gaps as 17850.0
            whole = column.is_null() | (column.is_finite() & (column == column.round(0)))
            return column.cast(pl.Int64 if whole.all() else pl.Float64).cast(pl.String)
        if isinstance(column.dtype, pl.List | pl.Array):
            return column.cast(pl.List(pl.String)).list.join(" ")
        if isinstance(column.dtype, pl.Struct):
            raise self._wrong(name, "a text")
        if column.dtype == pl.Binary:
            raise self._wrong(name, "a text")
        return column.cast(pl.String, strict=False)

    def number(self, name: str) -> pl.Series:
        """Float64; what is no number becomes NaN, which cleaning counts and rejects."""
        if name not in self:
            return self.constant(None, pl.Float64)
        column = self.column(name)
        if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
            return column.cast(pl.Float64)
        if column.dtype != pl.String:
            raise self._wrong(name, "a number")
        numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
        return self._mark_unread(name, numbers)

    def time(self, name: str) -> pl.Series:
        """Float64, Unix seconds as far as the source says so; dates without a zone are UTC."""
        if name not in self:
            return self.constant(None, pl.Float64)
        column = self.column(name)
        if isinstance(column.dtype, pl.Date | pl.Datetime):
            return _epoch(column.cast(pl.Datetime("us")))
        if column.dtype != pl.String:
            return self.number(name)
        return self._mark_unread(name, _parsed_times(column.str.strip_chars()))

    def _mark_unread(self, name: str, read: pl.Series) -> pl.Series:
        """NaN where a text could not be read; a column that is mostly so is the wrong one."""
        source = self.column(name)
        bad = source.is_not_null() & read.is_null() & (source.str.strip_chars() != "")
        count = int(bad.sum())
        if not count:
            return read
        what = (
            "a time (Unix seconds, or ISO 8601 such as 2026-01-05 10:12)"
            if name == "timestamp"
            else "a number"
        )
        if 2 * count > len(source) - source.null_count():
            raise self._wrong(name, what)
        example = source.filter(bad)[0]
        self.notes[name] = (
            f"not {what}: {counted(count, 'row')} of {source.name!r}, such as {example!r}"
        )
        return read.zip_with(~bad, pl.repeat(float("nan"), len(read), eager=True))

    def _wrong(self, name: str, what: str) -> DataError:
        column = self.column(name)
        shown = column.drop_nulls().head(1).to_list()
        return DataError(
            f"column {column.name!r} (type {column.dtype}, such as {shown}) was taken as {name}, "
            f"expected {what}: convert it, map another with --columns {name}=COLUMN, or {name}= "
            "for none"
        )

    def assemble(self, columns: Mapping[str, pl.Series]) -> pl.DataFrame:
        """Canonical columns, texts of them that could not be read, then the source's own."""
        made = {**columns, **self._unread_texts(columns)}
        for name in self.raw.columns:
            if name not in self.found.columns.values():
                own = name
                while own in made:
                    own += "_source"
                made[own] = _own_column(self.raw[name])
        return pl.DataFrame([series.alias(name) for name, series in made.items()])

    def _unread_texts(self, columns: Mapping[str, pl.Series]) -> dict[str, pl.Series]:
        kept = {}
        for name, read in columns.items():
            if read.dtype != pl.Float64 or name not in self:
                continue
            bad = read.is_nan().fill_null(value=False)
            if self.column(name).dtype == pl.String and bad.any():
                kept[f"{name}_text"] = self.column(name).zip_with(bad, self.constant(None))
        return kept


def canonical_events(
    raw: pl.DataFrame, given: Mapping[str, str], notes: dict[str, str]
) -> tuple[pl.DataFrame, ColumnMap]:
    """Rename and type the events; what was noticed is added to `notes`.

    Raises:
        DataError: if a column is missing, ambiguous, or holds hardly anything of its type.
    """
    source = _Source(raw, map_columns("events", raw.columns, given), notes)
    columns = {
        "user_id": source.text("user_id"),
        "item_id": source.text("item_id"),
        "event": source.text("event") if "event" in source else _one_kind(source),
        "value": source.number("value"),
        "timestamp": source.time("timestamp"),
        "basket": source.text("basket"),
    }
    if "timestamp" not in source and "seq" not in source:
        notes["timestamp"] = "no column names the time: each user's events are taken in row order"
    if "seq" in source:
        columns["seq"] = source.number("seq").fill_nan(None).cast(pl.Int64, strict=False)
    return source.assemble(columns), source.found


def canonical_items(
    raw: pl.DataFrame, given: Mapping[str, str], notes: dict[str, str]
) -> tuple[pl.DataFrame, ColumnMap]:
    """Rename and type the catalogue; only fields that the source has.

    Raises:
        DataError: as canonical_events.
    """
    source = _Source(raw, map_columns("items", raw.columns, given), notes)
    readers = {
        "item_id": source.text,
        "title": source.text,
        "description": source.text,
        "brand": source.text,
        "price": source.number,
        "year": source.number,
    }
    columns = {name: read(name) for name, read in readers.items() if name in source}
    if "categories" in source:
        columns["categories"] = split_categories(source.column("categories"))
    return source.assemble(columns), source.found


def canonical_users(raw: pl.DataFrame, given: Mapping[str, str]) -> tuple[pl.DataFrame, ColumnMap]:
    """Rename and type the users.

    Raises:
        DataError: if no column holds the user's id, or two may.
    """
    source = _Source(raw, map_columns("users", raw.columns, given))
    return source.assemble({"user_id": source.text("user_id")}), source.found


def split_categories(column: pl.Series) -> pl.Series:
    """Make a list of labels: lists stay, texts split at `|` or `;` (or are a JSON list)."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return column.cast(pl.List(pl.String))
    text = pl.col("text")
    is_list = text.str.contains(r"^\s*\[.*\]\s*$")
    inner = text.str.strip_chars(" []").str.replace_all("['\"]", "")
    parts = (
        pl.when(is_list)
        .then(inner.str.split(","))
        .otherwise(text.str.replace_all(";", "|", literal=True).str.split("|"))
    )
    label = pl.element().str.strip_chars()
    frame = pl.DataFrame({"text": column.cast(pl.String)})
    return frame.select(parts.list.eval(label.filter(label != ""))).to_series()


def _own_column(column: pl.Series) -> pl.Series:
    """Lists of bytes become lists of hexadecimal texts: Polars cannot write them as JSON."""
    if column.dtype != pl.List(pl.Binary):
        return column
    return column.to_frame().select(pl.all().list.eval(pl.element().bin.encode("hex"))).to_series()


def _one_kind(source: _Source) -> pl.Series:
    value = source.found.columns.get("value", "").lower()
    kind = _KIND_BY_VALUE.get(value, "purchase" if "basket" in source else "view")
    source.notes["event"] = f"no column names the kind of event: all are taken as {kind!r}"
    return source.constant(kind)


def _parsed_times(texts: pl.Series) -> pl.Series:
    """Unix seconds from numbers or dates in text; null where neither fits."""
    compact = texts.str.contains(_COMPACT_DATE)
    if compact.any() and compact.all():
        return _epoch(texts.str.to_datetime("%Y%m%d", strict=False, time_unit="us"))
    seconds = texts.cast(pl.Float64, strict=False)
    plain = texts.str.replace("T", " ", literal=True)
    for form in _TIME_FORMATS:
        if seconds.null_count() == texts.null_count():
            break
        dates = plain.str.to_datetime(form, strict=False, time_unit="us")
        seconds = seconds.fill_null(_epoch(dates))
    return seconds


def _epoch(dates: pl.Series) -> pl.Series:
    return dates.dt.epoch("us").cast(pl.Float64) / 1e6
