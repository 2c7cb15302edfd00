"""The durable log: events in the order of their acceptance, each once."""

import asyncio
import enum
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from steerec.contracts import Event
from steerec.store.database import Database, count, in_chunks
from steerec.store.group import GroupWriter
from steerec.store.schema import events, tenants
from steerec.store.tombstones import erased_among
from steerec.store.values import check_id, check_number, from_json, to_json

Key = tuple[str, str | None, str | None]  # a user; an item or all; a kind of event or all

_CONTENT = ("user_id", "item_id", "event", "value", "timestamp", "basket", "request_id", "context")


class Outcome(enum.Enum):
    """What became of an event that was handed in."""

    NEW = "new"
    REPLAY = "replay"  # the same content is there already
    CONFLICT = "conflict"  # its id is taken by other content; nothing was changed
    ERASED = "erased"  # it belonged to a user who was erased; not stored


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event with its id; `seq` and `received` are the log's and 0 before it is stored.

    Attributes:
        request_id: the slate it answers.
        context: free JSON facts, such as device or position.
        received: Unix seconds; `event.timestamp` is what the sender claims.
    """

    event_id: str
    event: Event
    request_id: str | None = None
    context: dict[str, Any] | None = None
    seq: int = 0
    received: float = 0.0


@dataclass(frozen=True, slots=True)
class Appended:
    """An event's outcome, and its place in the log (0 if it was erased)."""

    outcome: Outcome
    seq: int


class EventLog:
    """Appends and reads events of a tenant; safe to use from many threads."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self.database = database
        self._writer = writer

    def append(
        self, tenant: str, batch: Sequence[LoggedEvent], *, now: float
    ) -> Sequence[Appended]:
        """Store events; returns when they are on disk, with what became of each.

        Raises:
            DataError: if an event cannot be stored as it is; none of the batch was.
            QueueFullError: if too much waits already; none of the batch was taken.
            StorageError: if the database failed; nothing is acknowledged, send the batch again.
        """
        return self.submit(tenant, batch, now=now).result()

    async def append_async(
        self, tenant: str, batch: Sequence[LoggedEvent], *, now: float
    ) -> Sequence[Appended]:
        """See append; leaves the event loop free while the disk works."""
        return await asyncio.wrap_future(self.submit(tenant, batch, now=now))

    def submit(
        self, tenant: str, batch: Sequence[LoggedEvent], *, now: float
    ) -> Future[Sequence[Appended]]:
        """See append; returns at once, the future is set when the events are on disk."""
        check_id(tenant, "tenant")
        rows = [_to_row(tenant, logged, now) for logged in batch]
        if not rows:
            empty: Future[Sequence[Appended]] = Future()
            empty.set_result([])
            return empty
        return self._writer.submit(self._write, tenant, rows)

    def retract(self, tenant: str, keys: Sequence[Key]) -> int:
        """Delete events, as if they had never come; how many there were.

        Unlike those of an erased user they may be sent again.

        Raises:
            StorageError: if the database failed; nothing was deleted.
        """
        n_gone = 0
        with self.database.write() as connection:
            self.database.lock_tenant(connection, tenant)
            for user_id, item_id, kind in dict.fromkeys(keys):
                named = [events.c.tenant == tenant, events.c.user_id == user_id]
                named += [events.c.item_id == item_id] if item_id is not None else []
                named += [events.c.event == kind] if kind is not None else []
                n_gone += connection.execute(sa.delete(events).where(*named)).rowcount
            count(connection, tenant, n_events=-n_gone)
        return n_gone

    def read(self, tenant: str, *, after: int = 0, limit: int = 1_000) -> list[LoggedEvent]:
        """At most `limit` events with a seq above `after`, in order."""
        wanted = (
            sa.select(events)
            .where(events.c.tenant == tenant, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self.database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]

    def iterate(self, tenant: str, *, after: int = 0, batch: int = 5_000) -> Iterator[LoggedEvent]:
        """All events above `after` in order, a batch in memory at a time."""
        while found := self.read(tenant, after=after, limit=batch):
            yield from found
            after = found[-1].seq

    def of_user(self, tenant: str, user_id: str, *, limit: int | None = None) -> list[LoggedEvent]:
        """A user's newest `limit` events (None: all), oldest first."""
        wanted = (
            sa.select(events)
            .where(events.c.tenant == tenant, events.c.user_id == user_id)
            .order_by(events.c.seq.desc())
            .limit(limit)
        )
        with self.database.read() as connection:
            found = [_from_row(row) for row in connection.execute(wanted)]
        return found[::-1]

    def of_user_after(self, tenant: str, user_id: str, after: int) -> list[LoggedEvent]:
        """A user's events with a seq above `after`, in order; of a file, from one thread only.

        It nearly always finds none, which takes some microseconds.
        """
        if self.database.path and not self.database.glance(_ANY_AFTER, (tenant, user_id, after)):
            return []
        wanted = (
            sa.select(events)
            .where(events.c.tenant == tenant, events.c.user_id == user_id, events.c.seq > after)
            .order_by(events.c.seq)
        )
        with self.database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]

    def count(self, tenant: str, *, after: int = 0) -> int:
        """How many events have a seq above `after`."""
        wanted = sa.select(sa.func.count()).where(events.c.tenant == tenant, events.c.seq > after)
        with self.database.read() as connection:
            return int(connection.execute(wanted).scalar_one())

    def last_seq(self, tenant: str) -> int:
        """The newest place given to any row of the tenant; 0 before the first."""
        wanted = sa.select(tenants.c.last_seq).where(tenants.c.tenant == tenant)
        with self.database.read() as connection:
            return connection.execute(wanted).scalar() or 0

    def _write(
        self, connection: sa.Connection, tenant: str, rows: Sequence[dict[str, Any]]
    ) -> list[Appended]:
        counters = self.database.lock_tenant(connection, tenant)
        ids = list({row["event_id"] for row in rows})
        known = _known(connection, tenant, ids)
        erased = erased_among(connection, tenant, rows) if counters.n_erased else set()
        seq = counters.last_seq
        fresh, answers = [], []
        for row in rows:
            taken = known.get(row["event_id"])
            if taken is not None:
                same = all(taken[name] == row[name] for name in _CONTENT)
                outcome = Outcome.REPLAY if same else Outcome.CONFLICT
                answers.append(Appended(outcome, taken["seq"]))
            elif row["event_id"] in erased:
                answers.append(Appended(Outcome.ERASED, 0))
            else:
                seq += 1
                row["seq"] = seq
                known[row["event_id"]] = row
                fresh.append(row)
                answers.append(Appended(Outcome.NEW, seq))
        if fresh:
            self.database.insert(connection, events, fresh)
            count(connection, tenant, last_seq=len(fresh), n_events=len(fresh))
        return answers


def _known(connection: sa.Connection, tenant: str, ids: Sequence[str]) -> dict[str, Any]:
    """event_id → its row, for those that are stored."""
    found = {}
    for chunk in in_chunks(ids):
        rows = connection.execute(_BY_ID, {"tenant": tenant, "ids": chunk}).mappings()
        found.update({row["event_id"]: row for row in rows})
    return found


_ANY_AFTER = "SELECT 1 FROM events WHERE tenant = ? AND user_id = ? AND seq > ? LIMIT 1"
_BY_ID = sa.select(*(events.c[name] for name in ("seq", "event_id", *_CONTENT))).where(
    events.c.tenant == sa.bindparam("tenant"),
    events.c.event_id.in_(sa.bindparam("ids", expanding=True)),
)


def _to_row(tenant: str, logged: LoggedEvent, now: float) -> dict[str, Any]:
    event = logged.event
    optional = {"basket": event.basket, "request_id": logged.request_id}
    return {
        "tenant": tenant,
        "seq": 0,
        "event_id": check_id(logged.event_id, "event_id"),
        "user_id": check_id(event.user_id, "user_id"),
        "item_id": check_id(event.item_id, "item_id"),
        "event": check_id(event.event, "event"),
        "value": check_number(event.value, "value"),
        "timestamp": check_number(event.timestamp, "timestamp"),
        **{k: None if v is None else check_id(v, k) for k, v in optional.items()},
        "context": to_json(logged.context, "context") if logged.context else None,
        "received": now,
    }


def _from_row(row: sa.Row[Any]) -> LoggedEvent:
    event = Event(row.user_id, row.item_id, row.event, row.value, row.timestamp, row.basket)
    context = from_json(row.context) if row.context else None
    return LoggedEvent(row.event_id, event, row.request_id, context, row.seq, row.received)
