"""Strategy versions: numbered for ever, one in force, every move kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from steerec.errors import DataError
from steerec.store.database import Database, count
from steerec.store.schema import promotions, strategies, tenants
from steerec.store.values import check_id, from_json, to_json


@dataclass(frozen=True, slots=True)
class StrategyVersion:
    """A strategy as it was proposed; never changed once stored.

    Attributes:
        strategy: the whole value as JSON.
        author: who made it: a person, the offline tuner, an instruction.
        diff: what differs from the first parent.
        parents: versions it was made from; none for the first.
        data_hash: content hash of the data it was fitted on.
        estimates: what it was expected to bring, with intervals.
        made: Unix seconds.
        version: its number from 1; 0 before it is stored.
    """

    strategy: Mapping[str, Any]
    author: str
    made: float
    parents: tuple[int, ...] = ()
    diff: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str | None = None
    estimates: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version put in force; a rollback is one to an earlier version."""

    seq: int
    version: int
    author: str
    reason: str
    time: float


class Strategies:
    """The strategy versions of each tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, proposed: StrategyVersion) -> StrategyVersion:
        """Store a version under the next number; it is not in force yet.

        Raises:
            DataError: if it cannot be stored as it is, or names a parent that does not exist.
        """
        row = _to_row(tenant, proposed)
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            newest = sa.select(sa.func.max(strategies.c.version))
            found = connection.execute(newest.where(strategies.c.tenant == tenant)).scalar()
            row["version"] = (found or 0) + 1
            if any(not 1 <= parent < row["version"] for parent in proposed.parents):
                raise DataError(f"parents are {proposed.parents}, versions end at {found or 0}")
            connection.execute(sa.insert(strategies), row)
        return replace(proposed, version=row["version"])

    def promote(
        self,
        tenant: str,
        version: int,
        *,
        author: str,
        now: float,
        reason: str = "",
        instead_of: int | None = None,
    ) -> Promotion:
        """Put a version in force.

        Args:
            instead_of: the version the caller believes is in force; None: whichever is.
        Raises:
            DataError: if there is no such version, or another than `instead_of` is in force.
        """
        check_id(author, "author")
        with self._database.write() as connection:
            counters = self._database.lock_tenant(connection, tenant)
            if _get(connection, tenant, version) is None:
                raise DataError(f"strategy version {version} does not exist: name one of history")
            if instead_of is not None and counters.strategy != instead_of:
                raise DataError(
                    f"version {counters.strategy} is in force, not {instead_of}: "
                    "look at it, then promote again"
                )
            done = Promotion(counters.last_seq + 1, version, author, reason, now)
            row = {name: getattr(done, name) for name in Promotion.__slots__}
            connection.execute(sa.insert(promotions), {"tenant": tenant, **row})
            moved = sa.update(tenants).where(tenants.c.tenant == tenant)
            connection.execute(moved.values(strategy=version))
            count(connection, tenant, last_seq=1)
        return done

    def current(self, tenant: str) -> StrategyVersion | None:
        """The version in force; None before the first promotion."""
        with self._database.read() as connection:
            pointer = sa.select(tenants.c.strategy).where(tenants.c.tenant == tenant)
            version = connection.execute(pointer).scalar()
            return None if version is None else _get(connection, tenant, version)

    def get(self, tenant: str, version: int) -> StrategyVersion | None:
        """One version; None if there is none of this number."""
        with self._database.read() as connection:
            return _get(connection, tenant, version)

    def history(
        self, tenant: str, *, before: int | None = None, limit: int = 100
    ) -> list[StrategyVersion]:
        """Versions below `before`, newest first."""
        t = strategies
        wanted = sa.select(t).where(t.c.tenant == tenant)
        if before is not None:
            wanted = wanted.where(t.c.version < before)
        with self._database.read() as connection:
            rows = connection.execute(wanted.order_by(t.c.version.desc()).limit(limit))
            return [_from_row(row) for row in rows]

    def promotions(self, tenant: str, *, limit: int = 100) -> list[Promotion]:
        """What was put in force and when, newest first."""
        t = promotions
        wanted = sa.select(t).where(t.c.tenant == tenant).order_by(t.c.seq.desc()).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        return [Promotion(r.seq, r.version, r.author, r.reason, r.time) for r in rows]


def _get(connection: sa.Connection, tenant: str, version: int) -> StrategyVersion | None:
    t = strategies
    row = connection.execute(
        sa.select(t).where(t.c.tenant == tenant, t.c.version == version)
    ).first()
    return None if row is None else _from_row(row)


def _to_row(tenant: str, given: StrategyVersion) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "version": 0,
        "made": given.made,
        "author": check_id(given.author, "author"),
        "parents": to_json(list(given.parents), "parents"),
        "strategy": to_json(dict(given.strategy), "strategy"),
        "diff": to_json(dict(given.diff), "diff"),
        "data_hash": given.data_hash,
        "estimates": to_json(dict(given.estimates), "estimates"),
    }


def _from_row(row: sa.Row[Any]) -> StrategyVersion:
    parents: Sequence[int] = from_json(row.parents)
    return StrategyVersion(
        strategy=from_json(row.strategy),
        author=row.author,
        made=row.made,
        parents=tuple(parents),
        diff=from_json(row.diff),
        data_hash=row.data_hash,
        estimates=from_json(row.estimates),
        version=row.version,
    )
