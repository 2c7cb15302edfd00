"""Items and users as the caller describes them, with their changes in order."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import sqlalchemy as sa

from steerec.errors import DataError
from steerec.store.database import Database, count, in_chunks
from steerec.store.schema import items, users
from steerec.store.values import check_id, check_number, from_json, to_json

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One item or user.

    Attributes:
        attributes: JSON object of the caller.
        hidden: never shown while it is true.
        published, expires: Unix seconds between which it may be shown; None: no bound.
        stock: how many there are; 0: none to sell, None: not counted.
        seq: place of its last change; 0 before it is stored.
        changed: Unix seconds of its last change.
        deleted: true only in `changes`, where all else is then empty.
        added: Unix seconds when it was first written; None: nobody knows.
    """

    id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    hidden: bool = False
    published: float | None = None
    expires: float | None = None
    stock: int | None = None
    seq: int = 0
    changed: float = 0.0
    deleted: bool = False
    added: float | None = None


_OURS = ("seq", "changed", "deleted", "added")
_GIVEN = tuple(f.name for f in fields(Entry) if f.name not in _OURS)


class Catalogue:
    """The items, or the users, of each tenant."""

    def __init__(self, database: Database, table: sa.Table) -> None:
        self._database = database
        self._table = table

    @classmethod
    def of_items(cls, database: Database) -> "Catalogue":
        """The catalogue of items."""
        return cls(database, items)

    @classmethod
    def of_users(cls, database: Database) -> "Catalogue":
        """The users and what is known of them."""
        return cls(database, users)

    def upsert(self, tenant: str, entries: Sequence[Entry], *, now: float) -> int:
        """Insert or overwrite; all or none. Of equal ids the last counts.

        Returns:
            The seq of the last change.
        Raises:
            DataError: if an entry cannot be stored as it is.
            StorageError: if the database failed.
        """
        rows = {entry.id: self._to_row(tenant, entry, now) for entry in entries}
        return self._put_rows(tenant, rows)

    def add(self, tenant: str, entries: Sequence[Entry], *, now: float, dated: bool = True) -> int:
        """Insert those whose ids are new; deleted ones stay deleted. Returns how many were new.

        Args:
            dated: whether they are first seen now; else since nobody knows when.
        Raises:
            DataError, StorageError: as `upsert`.
        """
        t = self._table
        rows = {entry.id: self._to_row(tenant, entry, now) for entry in entries}
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            for chunk in in_chunks(list(rows)):
                there = sa.select(t.c.id).where(t.c.tenant == tenant, t.c.id.in_(chunk))
                for entry_id in connection.execute(there).scalars().all():
                    del rows[entry_id]
            if not dated:
                rows = {i: {**row, "added": None} for i, row in rows.items()}
            if rows:
                self._put(connection, tenant, list(rows.values()))
        return len(rows)

    def patch(
        self, tenant: str, entry_id: str, changes: Mapping[str, Any], *, now: float
    ) -> Entry | None:
        """Change some fields; `attributes` are merged by key, None removes a key.

        Returns:
            The entry as it is now; None if there is none with this id.
        Raises:
            DataError: if a field is unknown or a value cannot be stored.
        """
        unknown = set(changes) - set(_GIVEN[1:])
        if unknown:
            raise DataError(f"unknown fields {sorted(unknown)}: expected some of {_GIVEN[1:]}")
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            entry = self._get(connection, tenant, [entry_id]).get(entry_id)
            if entry is None:
                return None
            changed = replace(entry, **{**changes, **_merged(entry, changes)}, changed=now)
            seq = self._put(connection, tenant, [self._to_row(tenant, changed, now)])
        return replace(changed, seq=seq)

    def get(self, tenant: str, ids: Iterable[str]) -> dict[str, Entry]:
        """Those of the entries that exist, by id."""
        with self._database.read() as connection:
            return self._get(connection, tenant, list(dict.fromkeys(ids)))

    def delete(self, tenant: str, ids: Iterable[str], *, now: float) -> int:
        """Delete entries; unknown ids are passed over. Returns how many there were."""
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            there = self._get(connection, tenant, list(dict.fromkeys(ids)))
            gone = [Entry(entry_id, deleted=True) for entry_id in there]
            self._put(connection, tenant, [self._to_row(tenant, entry, now) for entry in gone])
        return len(there)

    def count(self, tenant: str) -> int:
        """How many entries there are."""
        t = self._table
        wanted = sa.select(sa.func.count()).where(t.c.tenant == tenant, sa.not_(t.c.deleted))
        with self._database.read() as connection:
            return connection.execute(wanted).scalar_one()

    def page(self, tenant: str, *, after: str = "", limit: int = _BATCH) -> list[Entry]:
        """At most `limit` entries in the order of ids, from the first one above `after`."""
        t = self._table
        wanted = (
            sa.select(t)
            .where(t.c.tenant == tenant, t.c.id > after, sa.not_(t.c.deleted))
            .order_by(t.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]

    def iterate(self, tenant: str, *, batch: int = _BATCH) -> Iterator[Entry]:
        """All entries in the order of ids, a batch in memory at a time."""
        after = ""
        while found := self.page(tenant, after=after, limit=batch):
            yield from found
            after = found[-1].id

    def changes(self, tenant: str, *, after: int = 0, limit: int = _BATCH) -> list[Entry]:
        """Entries changed or deleted since seq `after`, each once as it is now, in order of seq.

        A deletion is reported until retention drops it.
        """
        t = self._table
        wanted = (
            sa.select(t).where(t.c.tenant == tenant, t.c.seq > after).order_by(t.c.seq).limit(limit)
        )
        with self._database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]

    def export_jsonl(self, tenant: str) -> Iterator[str]:
        """One line per entry, as `import_jsonl` reads them."""
        for entry in self.iterate(tenant):
            record = {name: getattr(entry, name) for name in _GIVEN}
            said = {k: v for k, v in record.items() if v is not None and v is not False and v != ()}
            yield to_json(said, "entry")

    def import_jsonl(
        self,
        tenant: str,
        lines: Iterable[str],
        *,
        now: float,
        check: Callable[[Entry], None] = lambda _: None,
    ) -> int:
        """Upsert one entry per line, a thousand per transaction; returns how many lines.

        Args:
            check: raises DataError for an entry that is not to be stored.
        Raises:
            DataError: naming the first line that is wrong; whole thousands before it are stored.
        """
        n_lines = 0
        waiting: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = self._row_of_line(tenant, line, number, now, check)
                waiting[row["id"]] = row
                n_lines += 1
                if n_lines % _BATCH == 0:
                    self._put_rows(tenant, waiting)
                    waiting = {}
        if waiting:
            self._put_rows(tenant, waiting)
        return n_lines

    def _put_rows(self, tenant: str, rows: Mapping[str, dict[str, Any]]) -> int:
        with self._database.write() as connection:
            return self._put(connection, tenant, list(rows.values()))

    def _row_of_line(
        self, tenant: str, line: str, number: int, now: float, check: Callable[[Entry], None]
    ) -> dict[str, Any]:
        try:
            entry = _parse(line)
            row = self._to_row(tenant, entry, now)
            check(entry)
            return row
        except json.JSONDecodeError as e:
            what = f"character {e.pos + 1} is no JSON, {e.msg}: write one whole object a line"
            raise DataError(f"line {number} is no entry: {what}") from e
        except (ValueError, TypeError, RecursionError, DataError) as e:
            raise DataError(f"line {number} is no entry: {e}") from e

    def _get(self, connection: sa.Connection, tenant: str, ids: Sequence[str]) -> dict[str, Entry]:
        t = self._table
        found = {}
        for chunk in in_chunks(ids):
            wanted = sa.select(t).where(
                t.c.tenant == tenant, t.c.id.in_(chunk), sa.not_(t.c.deleted)
            )
            found.update({row.id: _from_row(row) for row in connection.execute(wanted)})
        return found

    def _put(self, connection: sa.Connection, tenant: str, rows: Sequence[dict[str, Any]]) -> int:
        seq: int = self._database.lock_tenant(connection, tenant).last_seq
        for number, row in enumerate(rows, start=seq + 1):
            row["seq"] = number
        self._database.upsert(connection, self._table, rows, stays=("added",))
        count(connection, tenant, last_seq=len(rows))
        return seq + len(rows)

    def _to_row(self, tenant: str, entry: Entry, now: float) -> dict[str, Any]:
        return {
            "tenant": tenant,
            "id": check_id(entry.id, "id"),
            "attributes": to_json(_mapping(entry.attributes), f"attributes of {entry.id!r}"),
            "labels": to_json([check_id(x, "label") for x in entry.labels], "labels"),
            "hidden": bool(entry.hidden),
            "published": check_number(entry.published, "published"),
            "expires": check_number(entry.expires, "expires"),
            "stock": _check_stock(entry.stock),
            "deleted": entry.deleted,
            "changed": now,
            "seq": 0,
            "added": now,
        }


def _merged(entry: Entry, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The merged attributes, if the changes speak of them."""
    if "attributes" not in changes:
        return {}
    merged = {**entry.attributes, **_mapping(changes["attributes"])}
    return {"attributes": {key: value for key, value in merged.items() if value is not None}}


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DataError(f"attributes are {value!r:.60}: expected an object of named values")
    return dict(value)


def _check_stock(stock: object) -> int | None:
    if stock is None:
        return None
    if not isinstance(stock, int) or isinstance(stock, bool) or not -(2**63) <= stock < 2**63:
        raise DataError(f"stock is {stock!r:.60}: expected a whole number")
    return stock


def _parse(line: str) -> Entry:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise DataError(f"{line!r:.60}: expected an object")
    unknown = sorted(set(record) - set(_GIVEN))
    if unknown or "id" not in record:
        what = f"has fields {unknown!r:.200} that are not known" if unknown else "has no id"
        own = "; facts of your own go into attributes" if unknown else ""
        raise DataError(f"{what}: expected id and some of {', '.join(_GIVEN[1:])}{own}")
    labels, hidden = record.get("labels", []), record.get("hidden", False)
    if not isinstance(labels, list):
        raise DataError(f"labels are {labels!r:.60}: expected a list of texts")
    if not isinstance(hidden, bool):
        raise DataError(f"hidden is {hidden!r:.60}: expected true or false")
    return Entry(**{**record, "labels": tuple(labels)})


def _from_row(row: sa.Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        attributes=from_json(row.attributes),
        labels=tuple(from_json(row.labels)),
        hidden=row.hidden,
        published=row.published,
        expires=row.expires,
        stock=row.stock,
        seq=row.seq,
        changed=row.changed,
        deleted=row.deleted,
        added=row.added,
    )
