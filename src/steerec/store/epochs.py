"""Where in a tenant's order the online tuner's epochs are cut: whoever is first says so for all."""

from dataclasses import dataclass

import sqlalchemy as sa

from steerec.store.database import Database
from steerec.store.schema import epochs


@dataclass(frozen=True, slots=True)
class Cut:
    """An epoch is made of all rows up to `seq`, as if at `time` (Unix seconds).

    Attributes:
        number: from 1, without gaps.
        version: the promoted strategy that the epoch stands on.
    """

    number: int
    seq: int
    time: float
    version: int


class Epochs:
    """The cuts of each tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, cut: Cut) -> bool:
        """Keep a cut if its number is the next one; False: somebody was first."""
        t = epochs
        newest = sa.select(sa.func.max(t.c.number)).where(t.c.tenant == tenant)
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            if (connection.execute(newest).scalar() or 0) != cut.number - 1:
                return False
            row = {name: getattr(cut, name) for name in Cut.__slots__}
            connection.execute(sa.insert(t), {"tenant": tenant, **row})
        return True

    def read(self, tenant: str, *, after: int = 0, limit: int = 1_000) -> list[Cut]:
        """Cuts with a number above `after`, in order."""
        t = epochs
        wanted = sa.select(t).where(t.c.tenant == tenant, t.c.number > after)
        with self._database.read() as connection:
            rows = connection.execute(wanted.order_by(t.c.number).limit(limit)).all()
        return [Cut(row.number, row.seq, row.time, row.version) for row in rows]

    def trim(self, tenant: str, *, before: int) -> None:
        """Drop cuts with a number below `before`; the newest always stays."""
        t = epochs
        newest = sa.select(sa.func.max(t.c.number)).where(t.c.tenant == tenant).scalar_subquery()
        gone = sa.delete(t).where(t.c.tenant == tenant, t.c.number < before, t.c.number < newest)
        with self._database.write() as connection:
            connection.execute(gone)
