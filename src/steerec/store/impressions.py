"""What was shown, with all that is needed to explain, replay and learn from it."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from steerec.contracts import Floats
from steerec.errors import DataError
from steerec.store.arrays import check_packable, pack, unpack
from steerec.store.database import Database, count, in_chunks
from steerec.store.group import GroupWriter
from steerec.store.numbers import ItemNumbers
from steerec.store.schema import answers, impressions
from steerec.store.values import check_id, check_number, check_optional_id, from_json, to_json

NEWEST = 2_000  # pages remembered until they are read, some 10 kB each
_NO_SCORES: NDArray[np.float16] = np.empty((0, 0), np.float16)
_NONE_KNOWN: Mapping[int, "Impression"] = {}
_NO_FLOATS: Floats = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Impression:
    """One page of a slate as it was served. Arrays come back with the dtype they were given.

    Attributes:
        start: place of the page's first item in the slate; later pages may leave `pool` empty.
        time: Unix seconds.
        version, epoch: the strategy's.
        seed: of the sampler, a signed 64-bit number.
        items: what was shown, in order.
        propensity: (n_items,) float32, conditional on the items above.
        pool: the P the items were drawn from.
        scores: (n_pool, n_heads) float16 or float32, calibrated. A sampler whose draws must be
            replayed uses the rounded numbers itself.
        w: (n_heads,) weights; phi: (n_features,) context.
        more: JSON facts, such as temperature, session, rules applied.
        seq: place in the tenant's order; 0 before it is stored.
    """

    request_id: str
    time: float
    items: tuple[str, ...]
    propensity: Floats
    user_id: str | None = None
    start: int = 0
    scenario: str | None = None
    version: int = 0
    epoch: int = 0
    arm: str | None = None
    seed: int = 0
    pool: tuple[str, ...] = ()
    scores: NDArray[Any] = field(default_factory=lambda: _NO_SCORES)
    w: NDArray[Any] = field(default_factory=lambda: _NO_FLOATS)
    phi: NDArray[Any] = field(default_factory=lambda: _NO_FLOATS)
    more: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer kept under an idempotency key, so that a retry gets the same one.

    Attributes:
        asked: digest of the request; other content under the same key is the caller's error.
        answer: the bytes to send again.
    """

    key: str
    request_id: str
    asked: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class _Served:
    impression: dict[str, Any]
    items: tuple[str, ...]
    pool: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]  # packed by the writer, whose thread waits for the disk
    answer: dict[str, Any] | None


class Impressions:
    """Appends and reads the slates of a tenant; safe to use from many threads."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer
        self._numbers = ItemNumbers(database)
        self._on_the_way: set[tuple[str, str]] = set()  # tenant and request of rows that may wait
        self._newest: OrderedDict[tuple[str, str, int], Impression] = OrderedDict()  # of this one's
        self._door = Lock()  # guards the newest

    def append(
        self, tenant: str, impression: Impression, *, answer: Answer | None = None
    ) -> Answer | None:
        """Store a page; returns when it is on disk.

        Returns:
            The answer that is kept under the same key, if there is one: then nothing was stored,
            and the caller sends that. Else None. A page stored already is passed over.
        Raises:
            DataError: if it cannot be stored as it is.
            QueueFullError: if too much waits already.
            StorageError: if the database failed; nothing was stored.
        """
        return self.submit(tenant, impression, answer=answer).result()[0]

    async def append_async(
        self, tenant: str, impression: Impression, *, answer: Answer | None = None
    ) -> Answer | None:
        """See append; leaves the event loop free while the disk works."""
        return (await asyncio.wrap_future(self.submit(tenant, impression, answer=answer)))[0]

    def submit(
        self,
        tenant: str,
        impression: Impression,
        *,
        answer: Answer | None = None,
        may_wait: bool = False,
    ) -> Future[Sequence[Answer | None]]:
        """See append; returns at once, the future has one answer.

        Args:
            may_wait: nobody waits for it: it is written with others, some tenths of a second later
                at most. `get` finds it all the same.
        """
        check_id(tenant, "tenant")
        row = _served(tenant, impression, answer)
        self._remember(tenant, impression)
        done = self._writer.submit(self._write, tenant, [row], may_wait=may_wait)
        if may_wait:
            place = tenant, impression.request_id
            self._on_the_way.add(place)
            done.add_done_callback(lambda _: self._on_the_way.discard(place))
        return done

    def answered(self, tenant: str, key: str) -> Answer | None:
        """The answer kept under an idempotency key."""
        with self._database.read() as connection:
            return _answers(connection, tenant, [key]).get(key)

    def get(self, tenant: str, request_id: str) -> list[Impression]:
        """The pages of a slate in order; empty if it is unknown."""
        if (tenant, request_id) in self._on_the_way:
            self._writer.flush(tenant)
        t = impressions
        wanted = (
            sa.select(t)
            .where(t.c.tenant == tenant, t.c.request_id == request_id)
            .order_by(t.c.start)
        )
        return self._read(tenant, wanted)

    def read(self, tenant: str, *, after: int = 0, limit: int = 500) -> list[Impression]:
        """At most `limit` pages with a seq above `after`, in order."""
        t, known = impressions, dict[int, Impression]()

        def of_next(*columns: Any) -> sa.Select[Any]:
            chosen = sa.select(*columns).where(t.c.tenant == tenant, t.c.seq > after)
            return chosen.order_by(t.c.seq).limit(limit)

        if self._newest:  # most often all are remembered: what is large need not be read
            with self._database.read() as connection:
                rows = connection.execute(of_next(*_NAMED)).all()
            known = self._remembered(tenant, rows)
            if len(known) == len(rows):
                return list(known.values())
        return self._read(tenant, of_next(t), known)

    def iterate(self, tenant: str, *, after: int = 0, batch: int = 500) -> Iterator[Impression]:
        """All pages above `after` in order, a batch in memory at a time."""
        while found := self.read(tenant, after=after, limit=batch):
            yield from found
            after = found[-1].seq

    def first_seq(self, tenant: str, *, since: float) -> int:
        """Place of the first page shown at `since` (Unix seconds) or later; 0: there is none."""
        t = impressions
        wanted = sa.select(sa.func.min(t.c.seq)).where(t.c.tenant == tenant, t.c.time >= since)
        with self._database.read() as connection:
            return connection.execute(wanted).scalar() or 0

    def of_user(self, tenant: str, user_id: str) -> list[Impression]:
        """All pages a user was shown, oldest first."""
        t = impressions
        wanted = sa.select(t).where(t.c.tenant == tenant, t.c.user_id == user_id)
        return self._read(tenant, wanted.order_by(t.c.seq))

    def forget(self, tenant: str, user_id: str) -> None:
        """Drop what memory holds of a user's pages; the rows are not touched."""
        with self._door:
            own = [p for p, shown in self._newest.items() if shown.user_id == user_id]
            for place in own:
                if place[0] == tenant:
                    del self._newest[place]

    def forget_all(self) -> None:
        """Drop what memory holds, after a restore, or an erasure by another process."""
        self._numbers.clear()
        with self._door:
            self._newest.clear()

    def _read(
        self, tenant: str, wanted: sa.Select[Any], known: Mapping[int, Impression] = _NONE_KNOWN
    ) -> list[Impression]:
        """Args: known: pages that are remembered, by seq."""
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
            ids = [() if row.seq in known else unpack(row.ids) for row in rows]
            numbers = {n for both in ids for part in both for n in part.tolist()}
            names = self._numbers.names(connection, tenant, numbers)
        return [
            known.get(row.seq) or _from_row(row, both, names)
            for row, both in zip(rows, ids, strict=True)
        ]

    def _remember(self, tenant: str, shown: Impression) -> None:
        """Keep one that is being written: the learner reads it a second later."""
        with self._door:
            self._newest[tenant, shown.request_id, shown.start] = shown
            while len(self._newest) > NEWEST:
                self._newest.popitem(last=False)

    def _remembered(self, tenant: str, rows: Sequence[sa.Row[Any]]) -> dict[int, Impression]:
        """What was written here of late, of these rows, by seq; each is given out once."""
        found = {}
        with self._door:
            for row in rows if self._newest else ():
                place = tenant, row.request_id, row.start
                if (shown := self._newest.pop(place, None)) is not None and _is(shown, row):
                    found[row.seq] = replace(shown, seq=row.seq)
        return found

    def _write(
        self, connection: sa.Connection, tenant: str, rows: Sequence[_Served]
    ) -> list[Answer | None]:
        seq = self._database.lock_tenant(connection, tenant).last_seq
        keys = [row.answer["key"] for row in rows if row.answer]
        kept = _answers(connection, tenant, keys)
        stored = _stored(connection, tenant, rows)
        fresh, replies, found = [], [], []
        for row in rows:
            earlier = kept.get(row.answer["key"]) if row.answer else None
            found.append(earlier)
            if earlier is not None:
                continue
            if row.answer:
                replies.append(row.answer)
                kept[row.answer["key"]] = _to_answer(row.answer)
            if _page(row.impression) not in stored:
                stored.add(_page(row.impression))
                fresh.append(row)
        ids = self._packed_ids(connection, tenant, fresh)
        pages = [
            {**row.impression, "seq": place, "ids": packed, "body": pack(row.arrays)}
            for place, (row, packed) in enumerate(zip(fresh, ids, strict=True), start=seq + 1)
        ]
        if pages:
            self._database.insert(connection, impressions, pages)
            count(connection, tenant, last_seq=len(pages), n_impressions=len(pages))
        if replies:
            connection.execute(sa.insert(answers), replies)
        return found

    def _packed_ids(
        self, connection: sa.Connection, tenant: str, rows: Sequence[_Served]
    ) -> list[bytes]:
        """The numbers of each row's items and pool; new ids get one."""
        try:
            known = self._numbers.known(tenant)
            return [_pack_ids(row, known) for row in rows]
        except KeyError:  # seldom: the recent ones are known
            ids = set[str]().union(*(ids for row in rows for ids in (row.items, row.pool)))
            numbers = self._numbers.of(connection, tenant, ids)
            return [_pack_ids(row, numbers) for row in rows]


def _is(shown: Impression, row: sa.Row[Any]) -> bool:
    """Whether a row is this very page: one sent again under the same name was not stored."""
    return (shown.time, shown.seed, shown.user_id) == (row.time, row.seed, row.user_id)


def _page(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["request_id"], row["start"]


def _stored(
    connection: sa.Connection, tenant: str, rows: Sequence[_Served]
) -> set[tuple[str, int]]:
    """Which of the pages are stored already."""
    found: set[tuple[str, int]] = set()
    for chunk in in_chunks([row.impression["request_id"] for row in rows]):
        asked = {"tenant": tenant, "ids": chunk}
        found.update((request_id, start) for request_id, start in connection.execute(_PAGES, asked))
    return found


_NAMED = tuple(impressions.c[n] for n in ("seq", "request_id", "start", "time", "seed", "user_id"))

# Built once: building a statement costs as much as running it.
_PAGES = sa.select(impressions.c.request_id, impressions.c.start).where(
    impressions.c.tenant == sa.bindparam("tenant"),
    impressions.c.request_id.in_(sa.bindparam("ids", expanding=True)),
)


def _answers(connection: sa.Connection, tenant: str, keys: Sequence[str]) -> dict[str, Answer]:
    found = {}
    for chunk in in_chunks(keys):
        wanted = sa.select(answers).where(answers.c.tenant == tenant, answers.c.key.in_(chunk))
        rows = connection.execute(wanted).mappings()
        found.update({row["key"]: _to_answer(row) for row in rows})
    return found


def _to_answer(row: Mapping[str, Any] | sa.RowMapping) -> Answer:
    return Answer(row["key"], row["request_id"], bytes(row["asked"]), bytes(row["answer"]))


def _served(tenant: str, shown: Impression, answer: Answer | None) -> _Served:
    _check(shown)
    row = {
        "tenant": tenant,
        "request_id": check_id(shown.request_id, "request_id"),
        "start": shown.start,
        "user_id": check_optional_id(shown.user_id, "user_id"),
        "time": check_number(shown.time, "time"),
        "scenario": check_optional_id(shown.scenario, "scenario"),
        "version": shown.version,
        "epoch": shown.epoch,
        "arm": check_optional_id(shown.arm, "arm"),
        "seed": shown.seed,
        "more": to_json(dict(shown.more), "more") if shown.more else None,
    }
    kept = None if answer is None else _to_kept(answer, row)
    arrays = shown.propensity, shown.scores, shown.w, shown.phi
    check_packable(arrays)
    return _Served(row, shown.items, shown.pool, arrays, kept)


def _to_kept(answer: Answer, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tenant": row["tenant"],
        "key": check_id(answer.key, "idempotency key"),
        "request_id": row["request_id"],
        "user_id": row["user_id"],
        "asked": answer.asked,
        "answer": answer.answer,
        "made": row["time"],
    }


def _check(shown: Impression) -> None:
    if shown.propensity.shape != (len(shown.items),):
        raise DataError(
            f"propensity has shape {shown.propensity.shape}, expected one number for each of "
            f"{len(shown.items)} items"
        )
    if shown.scores.ndim != 2 or len(shown.scores) != len(shown.pool):
        raise DataError(
            f"scores have shape {shown.scores.shape}, expected a row for each of "
            f"{len(shown.pool)} items of the pool"
        )
    for name in ("start", "version", "epoch"):
        if not 0 <= getattr(shown, name) < 2**31:
            raise DataError(f"{name} is {getattr(shown, name)}: expected 0 or more, below 2^31")
    if not -(2**63) <= shown.seed < 2**63:
        raise DataError(f"seed is {shown.seed}: expected a signed number of 64 bits")


def _pack_ids(row: _Served, numbers: Mapping[str, int]) -> bytes:
    number = numbers.__getitem__
    items = np.fromiter(map(number, row.items), np.int32, len(row.items))
    return pack([items, np.fromiter(map(number, row.pool), np.int32, len(row.pool))])


def _from_row(
    row: sa.Row[Any], ids: Sequence[NDArray[Any]], names: Mapping[int, str]
) -> Impression:
    items, pool = ids
    propensity, scores, w, phi = unpack(row.body)
    return Impression(
        request_id=row.request_id,
        time=row.time,
        items=tuple(names[n] for n in items.tolist()),
        propensity=propensity,
        user_id=row.user_id,
        start=row.start,
        scenario=row.scenario,
        version=row.version,
        epoch=row.epoch,
        arm=row.arm,
        seed=row.seed,
        pool=tuple(names[n] for n in pool.tolist()),
        scores=scores,
        w=w,
        phi=phi,
        more=from_json(row.more) if row.more else {},
        seq=row.seq,
    )
