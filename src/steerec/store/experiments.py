"""Experiments as they were planned: never changed once started, stopped once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from steerec.errors import DataError
from steerec.store.database import Database
from steerec.store.schema import experiments
from steerec.store.values import check_id, from_json, to_json


@dataclass(frozen=True, slots=True)
class Planned:
    """An experiment as the store keeps it.

    Attributes:
        plan: all that was decided before it began, as JSON.
        author: who started it.
        started, stopped: Unix seconds; None: nobody has stopped it.
        reason: why it was stopped.
    """

    name: str
    plan: Mapping[str, Any]
    author: str
    started: float
    stopped: float | None = None
    reason: str | None = None


class Experiments:
    """The experiments of each tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, tenant: str, planned: Planned) -> None:
        """Keep a new experiment.

        Raises:
            DataError: if the name is taken, or it cannot be stored as it is.
        """
        row = {
            "tenant": check_id(tenant, "tenant"),
            "name": check_id(planned.name, "experiment"),
            "plan": to_json(dict(planned.plan), "plan"),
            "author": check_id(planned.author, "author"),
            "started": planned.started,
        }
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            if _found(connection, tenant, planned.name):
                raise DataError(
                    f"experiment {planned.name!r} exists already: results are kept for ever, "
                    "choose another name"
                )
            connection.execute(sa.insert(experiments), row)

    def stop(self, tenant: str, name: str, *, now: float, reason: str = "") -> Planned:
        """End an experiment; one that was stopped before stays as it was.

        Raises:
            DataError: if there is none of this name.
        """
        t = experiments
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            open_one = (t.c.tenant == tenant, t.c.name == name, t.c.stopped.is_(None))
            connection.execute(sa.update(t).where(*open_one).values(stopped=now, reason=reason))
            found = _found(connection, tenant, name)
        if not found:
            raise DataError(f"no experiment is called {name!r}: list them for their names")
        return found[0]

    def get(self, tenant: str, name: str) -> Planned | None:
        """The experiment of this name; None if there is none."""
        with self._database.read() as connection:
            found = _found(connection, tenant, name)
        return found[0] if found else None

    def list(self, tenant: str, *, running: bool = False) -> list[Planned]:
        """All, or those that nobody has stopped, the oldest first."""
        t = experiments
        wanted = sa.select(t).where(t.c.tenant == tenant).order_by(t.c.started, t.c.name)
        if running:
            wanted = wanted.where(t.c.stopped.is_(None))
        with self._database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]


def _found(connection: sa.Connection, tenant: str, name: str) -> list[Planned]:
    t = experiments
    wanted = sa.select(t).where(t.c.tenant == tenant, t.c.name == name)
    return [_from_row(row) for row in connection.execute(wanted)]


def _from_row(row: sa.Row[Any]) -> Planned:
    plan = from_json(row.plan)
    return Planned(row.name, plan, row.author, row.started, row.stopped, row.reason)
