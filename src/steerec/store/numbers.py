"""Lasting numbers for item ids, so that a pool of 200 items is 200 small numbers."""

import threading
from collections import defaultdict
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from steerec.store.database import Database, count, in_chunks
from steerec.store.schema import item_numbers
from steerec.store.values import check_id

_MOST_KEPT = 500_000  # ids in memory, about 100 MB at worst


class ItemNumbers:
    """Gives each item id of a tenant a number once and for ever; remembers the recent ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        # By tenant; only what was read from committed rows.
        self._known: dict[str, dict[str, int]] = defaultdict(dict)
        self._named: dict[str, dict[int, str]] = defaultdict(dict)
        self._n_known = 0

    def known(self, tenant: str) -> Mapping[str, int]:
        """item_id → number, of the recent ones."""
        with self._lock:
            return self._known[tenant]  # never loses an id: `clear` puts another in its place

    def of(self, connection: sa.Connection, tenant: str, ids: set[str]) -> Mapping[str, int]:
        """item_id → number, of these and perhaps more; new ids get one.

        The caller holds the tenant's lock.

        Raises:
            DataError: if a new id cannot be one.
        """
        with self._lock:
            known = self._known[tenant]
            unknown = sorted(check_id(i, "item_id") for i in ids.difference(known))
            if not unknown:
                return known
            found = {item_id: known[item_id] for item_id in ids if item_id in known}
        t = item_numbers
        stored: dict[str, int] = {}
        for chunk in in_chunks(unknown):
            wanted = sa.select(t.c.item_id, t.c.number).where(
                t.c.tenant == tenant, t.c.item_id.in_(chunk)
            )
            stored.update(connection.execute(wanted).all())
        self._remember(tenant, stored)
        new = [item_id for item_id in unknown if item_id not in stored]
        return {**found, **stored, **self._add(connection, tenant, new)}

    def names(
        self, connection: sa.Connection, tenant: str, numbers: Collection[int]
    ) -> dict[int, str]:
        """Number → item_id."""
        with self._lock:
            known = self._named[tenant]
            found = {number: known[number] for number in numbers if number in known}
        t = item_numbers
        for chunk in in_chunks([n for n in numbers if n not in found]):
            wanted = sa.select(t.c.number, t.c.item_id).where(
                t.c.tenant == tenant, t.c.number.in_(chunk)
            )
            named = dict(connection.execute(wanted).all())
            self._remember(tenant, {item_id: number for number, item_id in named.items()})
            found.update(named)
        return found

    def clear(self) -> None:
        """Forget what is remembered in memory."""
        with self._lock:
            self._known.clear()
            self._named.clear()
            self._n_known = 0

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
        if self._n_known + len(numbers) > _MOST_KEPT:
            self.clear()
        with self._lock:
            self._known[tenant].update(numbers)
            self._named[tenant].update({number: item_id for item_id, number in numbers.items()})
            self._n_known += len(numbers)
