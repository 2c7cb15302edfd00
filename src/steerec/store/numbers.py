"""Lasting numbers for item ids, so that a pool of 200 items is 200 small numbers."""

import threading
from collections.abc import Collection

import sqlalchemy as sa

from steerec.store.database import Database, count, in_chunks
from steerec.store.schema import item_numbers

_MOST_KEPT = 500_000  # ids in memory, about 100 MB at worst


class ItemNumbers:
    """Gives each item id of a tenant a number once and for ever; remembers the recent ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], int] = {}  # only what was read from committed rows
        self._named: dict[tuple[str, int], str] = {}

    def of(self, connection: sa.Connection, tenant: str, ids: Collection[str]) -> dict[str, int]:
        """item_id → number; new ids get one. The caller holds the tenant's lock."""
        with self._lock:
            found = {i: n for i in ids if (n := self._known.get((tenant, i))) is not None}
        unknown = sorted(set(ids) - set(found))
        t = item_numbers
        stored: dict[str, int] = {}
        for chunk in in_chunks(unknown):
            wanted = sa.select(t.c.item_id, t.c.number).where(
                t.c.tenant == tenant, t.c.item_id.in_(chunk)
            )
            stored.update(connection.execute(wanted).tuples().all())
        self._remember(tenant, stored)
        new = [item_id for item_id in unknown if item_id not in stored]
        return {**found, **stored, **self._add(connection, tenant, new)}

    def names(
        self, connection: sa.Connection, tenant: str, numbers: Collection[int]
    ) -> dict[int, str]:
        """Number → item_id."""
        with self._lock:
            found = {n: i for n in numbers if (i := self._named.get((tenant, n))) is not None}
        t = item_numbers
        for chunk in in_chunks([n for n in numbers if n not in found]):
            wanted = sa.select(t.c.number, t.c.item_id).where(
                t.c.tenant == tenant, t.c.number.in_(chunk)
            )
            named = dict(connection.execute(wanted).tuples().all())
            self._remember(tenant, {item_id: number for number, item_id in named.items()})
            found.update(named)
        return found

    def clear(self) -> None:
        """Forget what is remembered in memory."""
        with self._lock:
            self._known.clear()
            self._named.clear()

    def _add(self, connection: sa.Connection, tenant: str, ids: list[str]) -> dict[str, int]:
        if not ids:
            return {}
        last = self._database.lock_tenant(connection, tenant).last_number
        numbers = {item_id: last + i for i, item_id in enumerate(ids, start=1)}
        rows = [{"tenant": tenant, "number": n, "item_id": i} for i, n in numbers.items()]
        connection.execute(sa.insert(item_numbers), rows)
        count(connection, tenant, last_number=len(ids))
        # Not remembered yet: the transaction may still fail.
        return numbers

    def _remember(self, tenant: str, numbers: dict[str, int]) -> None:
        with self._lock:
            if len(self._known) + len(numbers) > _MOST_KEPT:
                self._known.clear()
                self._named.clear()
            self._known.update({(tenant, item_id): n for item_id, n in numbers.items()})
            self._named.update({(tenant, n): item_id for item_id, n in numbers.items()})
