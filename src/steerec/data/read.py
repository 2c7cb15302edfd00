"""Read events, items and users from files, folders and databases, whatever their form."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from steerec.data.canonical import canonical_events, canonical_items, canonical_users
from steerec.data.formats import form_of, read_frame, with_number_types
from steerec.data.gorse import find_gorse, read_gorse
from steerec.data.mapping import FIELDS, ColumnMap, check_mapping
from steerec.data.movielens import find_movielens, read_movielens
from steerec.data.recbole import find_recbole, read_atomic, read_recbole
from steerec.data.social import canonical_social
from steerec.data.sql import is_database_url, read_database
from steerec.data.tables import RawTables, ReadResult, Tables
from steerec.errors import DataError

_log = logging.getLogger(__name__)
# In this order: a folder with several forms of a table is read from the most exact one.
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
_PACKED = ("", ".gz", ".zst")


def read_tables(
    source: Path | str,
    *,
    items: Path | str | None = None,
    users: Path | str | None = None,
    mapping: Mapping[str, str] | None = None,
    query: str | None = None,
) -> ReadResult:
    """Read a source, recognised by its name, extension or content, into canonical tables.

    Args:
        source: a file, a folder, or a database URL.
        items, users: files of the catalogue and of the users; for a database, queries.
        mapping: canonical field → source column ("" for none); the rest is guessed.
        query: SQL for the events, or a table's name; only with a database URL.
    Raises:
        DataError: if something cannot be read, or a column is missing or ambiguous.
        MissingExtraError: if the database's driver is not installed.
    """
    given = dict(mapping or {})
    check_mapping(given)
    if is_database_url(str(source)):
        raw = read_database(str(source), query, items=_sql(items), users=_sql(users))
        return _canonical(raw, given, "sql")
    if query is not None:
        raise DataError(f"a query needs a database URL, but {source} is a path")
    kind, raw = _read_path(Path(source))
    for name, side in (("items", items), ("users", users)):
        if side is not None:
            raw = _with_side(raw, name, Path(side))
    return _canonical(raw, given, kind)


def _sql(query: Path | str | None) -> str | None:
    return None if query is None else str(query)


def _read_path(path: Path) -> tuple[str, RawTables]:
    try:
        return _recognise(path)
    except PermissionError as e:
        raise DataError(f"{path} may not be read ({e.strerror}): change its permissions") from e


def _recognise(path: Path) -> tuple[str, RawTables]:
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path")
    if path.is_dir() and (events := _table_file(path, "events")) is not None:
        raw = RawTables(read_frame(events), untyped=("events",) * _is_untyped(events))
        for name in ("items", "users"):
            if (side := _table_file(path, name)) is not None:
                raw = _with_side(raw, name, side)
        if (pairs := _table_file(path, "social")) is not None:
            raw = replace(raw, social=read_frame(pairs))
        return "folder", raw
    if (inter := find_recbole(path)) is not None and find_movielens(path) is None:
        return "recbole", read_recbole(inter)
    if (ratings := find_movielens(path)) is not None:
        return "movielens", read_movielens(ratings)
    if dump := find_gorse(path):
        return "gorse", read_gorse(dump)
    if path.is_dir():
        raise DataError(
            f"folder {path} holds no events: expected events.parquet (or .jsonl, .csv, .tsv), "
            "u.data, ratings.dat, a .inter file or a gorse dump"
        )
    frame = read_frame(path)
    return form_of(path) or "file", RawTables(frame, untyped=("events",) * _is_untyped(path))


def _table_file(folder: Path, name: str) -> Path | None:
    names = (f"{name}{suffix}{packed}" for suffix in _SUFFIXES for packed in _PACKED)
    return next((folder / n for n in names if (folder / n).exists()), None)


def _with_side(raw: RawTables, name: str, path: Path) -> RawTables:
    atomic = path.suffix in (".item", ".user")
    frame = read_atomic(path) if atomic else read_frame(path)
    untyped = {*raw.untyped, name} if atomic or _is_untyped(path) else {*raw.untyped} - {name}
    if name == "items":
        return replace(raw, items=frame, untyped=tuple(untyped))
    return replace(raw, users=frame, untyped=tuple(untyped))


def _is_untyped(path: Path) -> bool:
    return form_of(path) in ("csv", "tsv")


def _canonical(raw: RawTables, given: Mapping[str, str], kind: str) -> ReadResult:
    notes: dict[str, str] = {}
    frames: dict[str, pl.DataFrame] = {}
    maps: dict[str, ColumnMap] = {}
    frames["events"], maps["events"] = canonical_events(raw.events, given, notes)
    if raw.items is not None:
        frames["items"], maps["items"] = canonical_items(raw.items, given, notes)
    if raw.users is not None:
        frames["users"], maps["users"] = canonical_users(raw.users, given)
    _check_given(given, maps)
    for name in set(raw.untyped) & frames.keys():
        texts = [c for c in frames[name].columns if c.endswith("_text")]
        frames[name] = with_number_types(frames[name], {*FIELDS[name], *texts})
    social = None if raw.social is None else canonical_social(raw.social)
    tables = Tables(
        frames["events"], frames.get("items"), frames.get("users"), notes, social=social
    )
    _log.info("read kind=%s events=%d", kind, len(tables.events))
    columns = {f"{t}.{f}": c for t, m in maps.items() for f, c in m.columns.items()}
    guessed = tuple(f"{t}.{f}" for t, m in maps.items() for f in m.guessed)
    return ReadResult(tables, columns, guessed, kind)


def _check_given(given: Mapping[str, str], maps: Mapping[str, ColumnMap]) -> None:
    """A given field must have been used by some table."""
    used = {f for m in maps.values() for f in m.columns}
    for name, column in given.items():
        if column and name.rpartition(".")[2] not in used:
            raise DataError(
                f"the mapping says {name}={column}, but no table was read that has {name}: "
                "give the items or users file too"
            )
