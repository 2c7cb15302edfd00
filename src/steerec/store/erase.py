"""What is held of one person: hand it out, and take it out for good."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from steerec.store.catalogue import Catalogue
from steerec.store.database import count
from steerec.store.impressions import Impressions
from steerec.store.log import EventLog
from steerec.store.schema import (
    answers,
    erased_events,
    erased_users,
    events,
    impressions,
    users,
)
from steerec.store.tombstones import digest
from steerec.store.values import check_id


@dataclass(frozen=True, slots=True)
class Erased:
    """The proof: rows taken out of each table; `seq` is the erasure's place in the order."""

    seq: int
    time: float
    events: int
    impressions: int
    answers: int
    users: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """That somebody was erased, as others learn it; compare with `digest_of_user`."""

    seq: int
    digest: bytes
    time: float


class Persons:
    """Export and erasure of a user across all tables."""

    def __init__(self, log: EventLog, users: Catalogue, shown: Impressions) -> None:
        self._database = log.database
        self._log = log
        self._users = users
        self._shown = shown

    def export(self, tenant: str, user_id: str) -> Iterator[Mapping[str, Any]]:
        """Every record held of a user, each with its `kind`; plain values fit for JSON."""
        for entry in self._users.get(tenant, [user_id]).values():
            yield {"kind": "user", **asdict(entry)}
        for logged in self._log.of_user(tenant, user_id):
            yield {"kind": "event", **asdict(logged)}
        for impression in self._shown.of_user(tenant, user_id):
            yield {"kind": "impression", **_plain(asdict(impression))}
        wanted = sa.select(answers).where(*_of_user(answers, tenant, user_id))
        with self._database.read() as connection:
            rows = connection.execute(wanted.order_by(answers.c.made)).all()
        for row in rows:
            answer = bytes(row.answer).decode("utf-8", "replace")
            yield {"kind": "answer", "key": row.key, "made": row.made, "answer": answer}

    def erase(self, tenant: str, user_id: str, *, now: float) -> Erased:
        """Delete all rows of a user and leave a tombstone, in one transaction.

        Their events are refused when sent again, and left out of what is restored. Checkpoints
        are the caller's own bytes: rebuild them after this. The rows are gone when this returns;
        stray copies in unused parts of the file's pages go with `Database.rewrite`.

        Raises:
            StorageError: if the database failed; nothing was erased.
        """
        check_id(user_id, "user_id")
        with self._database.write() as connection:
            counters = self._database.lock_tenant(connection, tenant)
            self._database.overwrite_deleted(connection)
            self._bury(connection, tenant, user_id, counters.last_seq + 1, now)
            gone = {
                table.name: connection.execute(
                    sa.delete(table).where(*_of_user(table, tenant, user_id))
                ).rowcount
                for table in (events, impressions, answers, users)
            }
            count(
                connection,
                tenant,
                last_seq=1,
                n_erased=1,
                n_events=-gone["events"],
                n_impressions=-gone["impressions"],
            )
        self._shown.forget(tenant, user_id)
        self._database.shrink()
        return Erased(counters.last_seq + 1, now, **gone)

    def erasures(self, tenant: str, *, after: int = 0, limit: int = 1_000) -> list[Erasure]:
        """Erasures since seq `after`, in order, so that other processes follow."""
        t = erased_users
        wanted = (
            sa.select(t).where(t.c.tenant == tenant, t.c.seq > after).order_by(t.c.seq).limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        return [Erasure(row.seq, bytes(row.digest), row.time) for row in rows]

    def _bury(
        self, connection: sa.Connection, tenant: str, user_id: str, seq: int, now: float
    ) -> None:
        row = {
            "tenant": tenant,
            "digest": digest_of_user(tenant, user_id),
            "seq": seq,
            "time": now,
        }
        self._database.upsert(connection, erased_users, [row])
        ids = connection.execute(
            sa.select(events.c.event_id).where(*_of_user(events, tenant, user_id))
        ).scalars()
        rows = [{"tenant": tenant, "digest": digest(tenant, "event", i)} for i in ids]
        self._database.insert_new(connection, erased_events, rows)


def digest_of_user(tenant: str, user_id: str) -> bytes:
    """What stands for a user in `erasures`."""
    return digest(tenant, "user", user_id)


def _of_user(table: sa.Table, tenant: str, user_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    user = table.c.id if table is users else table.c.user_id
    return table.c.tenant == tenant, user == user_id


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists."""
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in record.items()}
