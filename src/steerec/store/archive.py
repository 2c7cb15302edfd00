"""The whole store in one file and back: a zip of JSON lines, each table with its SHA-256."""

import base64
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from steerec.errors import StorageError
from steerec.store.database import Database
from steerec.store.schema import (
    erased_events,
    erased_users,
    events,
    impressions,
    metadata,
    tenants,
)
from steerec.store.tombstones import erased_among, erased_at

FORMAT = 1
MANIFEST = "manifest.json"
_BATCH = 2_000
_REMEDY = "use another copy"
# Tombstones come back first: they decide what else may.
_TABLES = [
    erased_users,
    erased_events,
    *(t for t in metadata.tables.values() if t not in (erased_users, erased_events)),
]


def dump(database: Database, path: Path, *, now: float) -> Mapping[str, int]:
    """Write everything, as it is at one moment, to a file that appears whole or not at all.

    API keys go along as digests, tombstones of erased users too. Writers need not stop.

    Returns:
        Rows of each table.
    Raises:
        StorageError: if the database or the disk fails.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                manifest = _dump(database, archive, now)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        raise StorageError(f"{path} cannot be written ({e}): give another place") from e
    finally:
        part.unlink(missing_ok=True)
    return {name: table["rows"] for name, table in manifest["tables"].items()}


def restore(database: Database, path: Path, *, replace: bool = False) -> Mapping[str, int]:
    """Load an archive, all of it or nothing.

    What was erased in this store, or in the archive, stays erased: those rows are left out.
    Other processes must open the store anew afterwards.

    Args:
        replace: delete first what the store holds (its tombstones stay).
    Returns:
        Rows of each table now loaded.
    Raises:
        StorageError: if the archive is altered, incomplete or of another format, the store is not
            empty, or the database fails; the store is then as it was.
    """
    with _opened(path) as archive:
        with _readable(path):
            manifest = _verified(archive, path)
        with database.write() as connection:
            before = _make_room(connection, replace=replace)
            loaded = {
                table.name: _load(database, connection, archive, table)
                for table in _TABLES
                if table.name in manifest["tables"]
            }
            _go_on_from(database, connection, before)
            _recount(connection)
    return loaded


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _readable(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A damaged zip may fail in any of these ways."""
    try:
        yield
    except (
        *(OSError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile),
        *(KeyError, ValueError, TypeError, AttributeError),  # the manifest
    ) as e:
        raise StorageError(f"{path} is no whole archive of a store ({e!r}): {_REMEDY}") from e


def _dump(database: Database, archive: zipfile.ZipFile, now: float) -> dict[str, Any]:
    manifest: dict[str, Any] = {"format": FORMAT, "made": now, "tables": {}}
    with database.read() as connection:
        for table in _TABLES:
            digest, n_rows = hashlib.sha256(), 0
            with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as member:
                for line in _lines(connection, table):
                    digest.update(line)
                    member.write(line)
                    n_rows += 1
            manifest["tables"][table.name] = {"rows": n_rows, "sha256": digest.hexdigest()}
    manifest["sha256"] = _digest_of(manifest)
    archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    return manifest


def _digest_of(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _lines(connection: sa.Connection, table: sa.Table) -> Iterator[bytes]:
    ordered = sa.select(table).order_by(*table.primary_key)
    streamed = connection.execution_options(yield_per=_BATCH).execute(ordered)
    binary = _binary(table)
    for row in streamed.mappings():
        record = dict(row)
        for name in binary & record.keys():
            record[name] = base64.b64encode(record[name]).decode()
        yield json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _binary(table: sa.Table) -> set[str]:
    return {c.name for c in table.columns if isinstance(c.type, sa.LargeBinary)}


def _verified(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The manifest, after every byte has been compared with it."""
    manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
    if manifest["format"] != FORMAT:
        raise StorageError(
            f"{path} has format {manifest['format']}, this steerec reads {FORMAT}: update steerec"
        )
    named = {f"{name}.jsonl" for name in manifest["tables"]} | {MANIFEST}
    altered = [MANIFEST] if manifest["sha256"] != _digest_of(manifest) else []
    altered += sorted(named ^ set(archive.namelist()))
    for name, table in manifest["tables"].items():
        if f"{name}.jsonl" not in altered:
            with archive.open(f"{name}.jsonl") as member:
                digest = hashlib.sha256()
                while block := member.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != table["sha256"]:
                altered.append(f"{name}.jsonl")
    if altered:
        raise StorageError(f"{path} was altered or cut short ({', '.join(altered)}): {_REMEDY}")
    return manifest


def _make_room(connection: sa.Connection, *, replace: bool) -> Sequence[sa.RowMapping]:
    """The counters of the tenants that were there."""
    before = connection.execute(sa.select(tenants)).mappings().all()
    if before and not replace:
        raise StorageError("the store is not empty: restore into a new one, or ask to replace it")
    for table in _TABLES:
        if table not in (erased_users, erased_events):
            connection.execute(sa.delete(table))
    return before


def _load(
    database: Database, connection: sa.Connection, archive: zipfile.ZipFile, table: sa.Table
) -> int:
    n_rows = 0
    with archive.open(f"{table.name}.jsonl") as member:
        for rows in _batches(member, table):
            kept = _not_erased(connection, table, rows)
            database.insert_new(connection, table, kept)
            n_rows += len(kept)
    return n_rows


def _batches(member: IO[bytes], table: sa.Table) -> Iterator[list[dict[str, Any]]]:
    binary, rows = _binary(table), []
    for line in member:
        record = json.loads(line)
        for name in binary & record.keys():
            record[name] = base64.b64decode(record[name])
        rows.append(record)
        if len(rows) == _BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _not_erased(
    connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows but for those of users who were erased after the row was made."""
    made = _MADE.get(table.name)
    if made is None:
        return rows
    kept = []
    for tenant in sorted({row["tenant"] for row in rows}):
        mine = [row for row in rows if row["tenant"] == tenant]
        user_of = _USER_OF.get(table.name, "user_id")
        names = list({row[user_of] for row in mine if row[user_of] is not None})
        times = erased_at(connection, tenant, names)
        late = [row for row in mine if row[made] >= times.get(row[user_of], float("-inf"))]
        # Of the very moment of the erasure: events are told by their ids, the rest goes.
        if table is events:
            gone = erased_among(connection, tenant, late)
        else:
            gone, late = set(), [row for row in late if row[made] != times.get(row[user_of])]
        kept += [row for row in late if row.get("event_id") not in gone]
    return kept


_COUNTED = ("n_events", "n_impressions", "n_erased")
_MADE = {"events": "received", "impressions": "time", "answers": "made", "users": "changed"}
_USER_OF = {"users": "id"}


def _recount(connection: sa.Connection) -> None:
    """Make the tenants' counters fit what is there."""
    for name, table in (
        ("n_events", events),
        ("n_impressions", impressions),
        ("n_erased", erased_users),
    ):
        of_tenant = table.c.tenant == tenants.c.tenant
        number = sa.select(sa.func.count()).where(of_tenant).scalar_subquery()
        connection.execute(sa.update(tenants).values({name: number}))


def _go_on_from(database: Database, connection: sa.Connection, before: Sequence[Any]) -> None:
    """Numbers given before the restore are not given again: others may still hold them."""
    rows = [{**row, **dict.fromkeys(_COUNTED, 0), "strategy": None} for row in before]
    database.insert_new(connection, tenants, rows)
    for row in before:
        for column in (tenants.c.last_seq, tenants.c.last_number):
            lower = (tenants.c.tenant == row["tenant"]) & (column < row[column.name])
            connection.execute(sa.update(tenants).where(lower).values({column: row[column.name]}))
