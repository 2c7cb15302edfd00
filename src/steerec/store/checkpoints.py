"""Named positions in the log with what was made of the events up to there."""

from dataclasses import dataclass

import sqlalchemy as sa

from steerec.store.database import Database
from steerec.store.schema import checkpoints
from steerec.store.values import check_id


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after all rows up to `seq`; `time` is Unix seconds of its making."""

    seq: int
    body: bytes
    time: float


class Checkpoints:
    """The newest checkpoint of each name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, tenant: str, name: str, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint in place of the earlier one of this name."""
        row = {
            "tenant": check_id(tenant, "tenant"),
            "name": check_id(name, "checkpoint"),
            "seq": checkpoint.seq,
            "body": checkpoint.body,
            "time": checkpoint.time,
        }
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            self._database.upsert(connection, checkpoints, [row])

    def get(self, tenant: str, name: str) -> Checkpoint | None:
        """The checkpoint of this name; None if there is none."""
        t = checkpoints
        wanted = sa.select(t).where(t.c.tenant == tenant, t.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(wanted).first()
        return None if row is None else Checkpoint(row.seq, bytes(row.body), row.time)

    def delete(self, tenant: str, name: str) -> None:
        """Drop a checkpoint, if it is there."""
        t = checkpoints
        with self._database.write() as connection:
            connection.execute(sa.delete(t).where(t.c.tenant == tenant, t.c.name == name))
