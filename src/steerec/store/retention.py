"""Limits of size and age: the oldest rows go, a bounded number in each call."""

from dataclasses import dataclass, field

import sqlalchemy as sa

from steerec.store.database import Database, count
from steerec.store.schema import answers, events, impressions, items, tenants, users

_DAY_S = 86_400.0
_PAGES = 2_000  # given back to the disk in one call, 8 MB


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """What is kept of each tenant; None: without limit.

    Attributes:
        events, impressions: rows.
        events_days, impressions_days: age by the time of arrival. An event that is sent again
            after its row has gone counts as new: keep events longer than any sender retries.
        answers_hours: how long an idempotency key is good.
        deletions_days: how long a deleted item or user is reported in `changes`.
    """

    events: int | None = 50_000_000
    events_days: float | None = 730.0
    impressions: int | None = 5_000_000
    impressions_days: float | None = 90.0
    answers_hours: float = 24.0
    deletions_days: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more")


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Rows deleted by one call; `more`: another call would find some."""

    tables: dict[str, int] = field(default_factory=dict)
    more: bool = False


def trim(
    database: Database, tenant: str, config: RetentionConfig, *, now: float, at_most: int = 10_000
) -> Trimmed:
    """Delete what is over the limits, oldest first, at most `at_most` rows of each table.

    Call it again while `more` is true: between two calls others get to write.

    Raises:
        StorageError: if the database failed.
    """
    days = _DAY_S
    with database.write() as connection:
        counters = database.lock_tenant(connection, tenant)
        trimmed = _Trimming(connection, tenant, at_most)
        gone = {
            "events": trimmed.log(
                events.c.received,
                excess=_excess(counters.n_events, config.events),
                before=_before(now, config.events_days, days),
            ),
            "impressions": trimmed.log(
                impressions.c.time,
                excess=_excess(counters.n_impressions, config.impressions),
                before=_before(now, config.impressions_days, days),
            ),
            "answers": trimmed.old(
                answers.c.made, answers.c.key, now - config.answers_hours * 3600
            ),
            "items": trimmed.deleted(items, now - config.deletions_days * days),
            "users": trimmed.deleted(users, now - config.deletions_days * days),
        }
        if gone["events"] or gone["impressions"]:
            count(
                connection,
                tenant,
                n_events=-gone["events"],
                n_impressions=-gone["impressions"],
            )
    if any(gone.values()):
        database.shrink(_PAGES)
    return Trimmed(gone, more=max(gone.values()) >= at_most)


def all_tenants(database: Database) -> list[str]:
    """Every tenant that has ever written, by name."""
    with database.read() as connection:
        rows = connection.execute(sa.select(tenants.c.tenant).order_by(tenants.c.tenant))
        return list(rows.scalars())


@dataclass(frozen=True, slots=True)
class _Trimming:
    connection: sa.Connection
    tenant: str
    at_most: int

    def log(self, time: sa.Column[float], *, excess: int, before: float) -> int:
        """Delete the oldest rows by seq, up to the first that may stay: no hole is left."""
        table = time.table
        oldest = (
            sa.select(table.c.seq, time)
            .where(table.c.tenant == self.tenant)
            .order_by(table.c.seq)
            .limit(self.at_most)
        )
        n_gone, last = 0, 0
        for seq, at in self.connection.execute(oldest):
            if n_gone >= excess and at >= before:
                break
            n_gone, last = n_gone + 1, seq
        if n_gone:
            gone = sa.delete(table).where(table.c.tenant == self.tenant, table.c.seq <= last)
            self.connection.execute(gone)
        return n_gone

    def old(self, time: sa.Column[float], key: sa.Column[str], before: float) -> int:
        """Delete rows made before a time."""
        return self._drop(key, time < before)

    def deleted(self, table: sa.Table, before: float) -> int:
        """Forget deletions made before a time."""
        return self._drop(table.c.id, table.c.deleted & (table.c.changed < before))

    def _drop(self, key: sa.Column[str], over: sa.ColumnElement[bool]) -> int:
        table = key.table
        mine = table.c.tenant == self.tenant
        some = sa.select(key).where(mine, over).limit(self.at_most)
        return self.connection.execute(sa.delete(table).where(mine, key.in_(some))).rowcount


def _excess(n_rows: int, limit: int | None) -> int:
    return 0 if limit is None else max(0, n_rows - limit)


def _before(now: float, age: float | None, unit_s: float) -> float:
    return float("-inf") if age is None else now - age * unit_s
