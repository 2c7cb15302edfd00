"""From what the user names — a folder, a file, a set, a database — to tables and a Dataset."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from steerec.data.clean import Cleaned, clean
from steerec.data.counted import counted
from steerec.data.dataset import DEFAULT_WEIGHTS, Dataset, build_dataset
from steerec.data.download import Progress
from steerec.data.public import PUBLIC_SETS, locate
from steerec.data.read import read_tables
from steerec.data.rules import CleanConfig
from steerec.data.sample import sample_shop
from steerec.data.social import social_table
from steerec.data.tables import ReadResult, Tables
from steerec.errors import DataError

log = logging.getLogger(__name__)

SAMPLE = "sample"
SAVED = "dataset.json"  # marks a folder that Dataset.save wrote


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is to be read, and how.

    Attributes:
        data: a folder, a file, a database URL, a set's name, or "sample" for the built-in shop.
        items, users: files of the catalogue and the users; for a database, queries.
        query: SQL for the events, or a table's name.
        columns: canonical field → source column; the rest is guessed.
        weights: event kind → weight, on top of the defaults; a saved Dataset keeps its own.
        data_dir: where sets are looked for by name, before they are downloaded to `cache_dir`.
    """

    data: str
    cache_dir: Path
    data_dir: Path | None = None
    items: str | None = None
    users: str | None = None
    query: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Intake:
    """What came in.

    Attributes:
        read: the tables as they were read, and how their columns were understood.
        cleaned: None for a saved Dataset, which is clean already.
    """

    data: Dataset
    read: ReadResult
    cleaned: Cleaned | None


def read_source(source: Source, *, progress: Progress | None = None) -> ReadResult:
    """Read tables from whatever the source names.

    Args:
        progress: called with (bytes so far, bytes in all or None) of a download.
    Raises:
        DataError: if there is no such thing, or it cannot be read.
        DownloadError: if a set must be fetched and cannot be.
    """
    if _is_saved(source.data):
        return _as_read(_load(source), source.weights)
    read = _read_raw(source, progress)
    weights = {**DEFAULT_WEIGHTS, **source.weights}
    return replace(read, tables=replace(read.tables, weights=weights))


def take_in(
    source: Source,
    rules: CleanConfig,
    *,
    now: float,
    progress: Progress | None = None,
) -> Intake:
    """Read, clean and build the Dataset; one that was saved is loaded as it is.

    Args:
        now: Unix seconds; later times are impossible.
    Raises:
        DataError: if it cannot be read, or cleaning leaves no event.
    """
    if _is_saved(source.data):
        data = _load(source)
        return Intake(data, _as_read(data, source.weights), None)
    read = read_source(source, progress=progress)
    if read.tables.events.is_empty():
        raise DataError(f"{source.data} has columns and no rows of events: export it again")
    cleaned = clean(read.tables, rules, now=now)
    if cleaned.tables.events.is_empty():
        raise DataError(_what_rejected_all(cleaned))
    return Intake(_dataset_of(cleaned.tables), read, cleaned)


def _dataset_of(tables: Tables) -> Dataset:
    weights, social = tables.weights, tables.social
    return build_dataset(tables.events, tables.items, tables.users, weights=weights, social=social)


def _what_rejected_all(cleaned: Cleaned) -> str:
    """The rules that left no event, how many each took, and the first reason of each."""
    said = cleaned.quarantine.filter(pl.col("dropped") & (pl.col("table") == "events"))
    first = said.group_by("rule", maintain_order=True).agg(pl.len(), pl.first("reason"))
    parts = [f"{rule} rejected {n:,} ({reason})" for rule, n, reason in first.rows()]
    return (
        f"cleaning left none of {counted(len(said), 'event')}: {'; '.join(parts)}. Repair the "
        "data, or switch off what does not fit them in steerec.toml, such as "
        f"[clean] {first['rule'][0]} = false"
    )


def tables_of(data: Dataset) -> Tables:
    """A Dataset's events, items and users as tables, rows in their source's order."""
    time = np.where(np.isnan(data.time), np.inf, data.time)
    same_user = np.diff(data.user_idx) == 0
    by_time = bool((np.diff(time)[same_user] >= 0).all()) if data.has_times else False
    seq = np.arange(data.n_events) - data.starts[data.user_idx]
    events = pl.DataFrame(
        {
            "user_id": pl.Series(data.user_ids[data.user_idx].tolist(), dtype=pl.String),
            "item_id": pl.Series(data.item_ids[data.item_idx].tolist(), dtype=pl.String),
            "event": np.array(data.kinds)[data.kind],
            "value": data.value.astype(np.float64),
            "timestamp": data.time,
            "basket": pl.Series(data.basket).cast(pl.String),
            "row": data.row,
            # The times alone would not give this order back.
            **({} if by_time else {"seq": seq}),
        }
    )
    events = events.with_columns(
        pl.col("value", "timestamp").fill_nan(None),
        pl.when(pl.col("basket") != "-1").then(pl.col("basket")).alias("basket"),
    )
    return Tables(
        events=events.sort("row").drop("row"),
        items=data.items,
        users=data.users,
        notes=data.notes,
        weights=data.kind_weights,
        social=None if data.social is None else social_table(data.social, data.user_ids),
    )


def _read_raw(source: Source, progress: Progress | None) -> ReadResult:
    if source.data == SAMPLE and not Path(SAMPLE).exists():
        shop = sample_shop()
        return ReadResult(Tables(shop.events, shop.items, shop.users), {}, (), "sample")
    return read_tables(
        _place(source, progress),
        items=source.items,
        users=source.users,
        mapping=source.columns,
        query=source.query,
    )


def _place(source: Source, progress: Progress | None) -> str | Path:
    """Where the data lie; a bare word that is nothing here is a set's name."""
    bare = "://" not in source.data and Path(source.data).name == source.data
    if not bare or Path(source.data).exists():
        return source.data
    if source.data in PUBLIC_SETS:
        return locate(
            source.data, data_dir=source.data_dir, cache_dir=source.cache_dir, progress=progress
        )
    if source.data_dir is not None and (source.data_dir / source.data).is_dir():
        return source.data_dir / source.data
    beside = "" if source.data_dir is None else f", a folder in {source.data_dir}"
    raise DataError(
        f"{source.data!r} is neither a file or folder here{beside} nor a known set; known by name: "
        f"{SAMPLE}, {', '.join(PUBLIC_SETS)}"
    )


def _is_saved(place: str) -> bool:
    try:
        return "://" not in place and (Path(place) / SAVED).is_file()
    except PermissionError as e:
        raise DataError(f"{place} may not be read ({e.strerror}): change its permissions") from e


def _as_read(data: Dataset, wanted: Mapping[str, float]) -> ReadResult:
    """A saved Dataset's rows, and a note where the settings want other weights than it has."""
    tables = tables_of(data)
    told = {**DEFAULT_WEIGHTS, **wanted}
    others = [
        f"{kind} {kept:g} (settings: {told.get(kind, 1.0):g})"
        for kind, kept in tables.weights.items()
        if not np.isclose(kept, told.get(kind, 1.0))  # kept as float32
    ]
    if others:
        note = f"as imported, {', '.join(others)}; import again to change them"
        tables = replace(tables, notes={**tables.notes, "weights": note})
    return ReadResult(tables, {}, (), "dataset")


def _load(source: Source) -> Dataset:
    """A saved dataset, which has no columns to map and no files beside it."""
    given = [n for n in ("items", "users", "query", "columns") if getattr(source, n)]
    if given:
        raise DataError(
            f"{source.data} is a saved dataset, which needs no {', '.join(given)}: leave them out, "
            "or name the files it was made from"
        )
    return Dataset.load(Path(source.data))
