"""Routes of events: durable first, then live, then acknowledged."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from uuid import uuid4

from steerec.contracts import Event
from steerec.service.calls import Call
from steerec.service.problems import refused
from steerec.service.schemas import EventIn, EventOut, EventsIn, EventsOut, MergeIn
from steerec.service.tenants import Tenant
from steerec.store.catalogue import Entry
from steerec.store.log import Appended, LoggedEvent, Outcome
from steerec.store.values import check_id

MOST_AT_ONCE = 100  # events taken in without leaving the event loop
MERGED_FROM = "merged_from"  # in the context of an event: the session in which it happened


async def post_events(call: Call) -> EventsOut:
    """Store one event or many, and let them count on the next lists.

    The answer comes when all are on disk and taken in. Send an `event_id` with each: sent again
    under the same id it counts once (`replay`), other content under a known id is a `conflict`
    and changes nothing. 429 with `Retry-After` means that nothing was taken: send it again.
    """
    body: EventIn | EventsIn = call.body
    given = body.events if isinstance(body, EventsIn) else [body]
    return await accept(call, [logged(event) for event in given])


async def post_merge(call: Call) -> EventsOut:
    """Give a user what they did while they were anonymous, when they log in.

    The events stay in the log under the session's id too; merging twice counts them once.
    """
    body: MergeIn = call.body
    user_id, session_id = call.path["user_id"], check_id(body.session_id, "session_id")
    if session_id == user_id:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"session_id and the user are both {user_id!r}: expected the id used before the login",
        )
    earlier = await asyncio.to_thread(call.tenant.store.log.of_user, call.tenant.name, session_id)
    moved = [
        _moved(one, session_id, user_id)
        for one in earlier
        if (one.context or {}).get(MERGED_FROM) != user_id  # it came from there
    ]
    return await accept(call, moved)


def _moved(one: LoggedEvent, session_id: str, user_id: str) -> LoggedEvent:
    """The event as one of another user, always under the same id."""
    name = hashlib.sha256("\0".join((one.event_id, session_id, user_id)).encode()).hexdigest()
    time = one.event.timestamp if one.event.timestamp is not None else one.received
    return LoggedEvent(
        f"merged-{name[:32]}",
        replace(one.event, user_id=user_id, timestamp=time),
        one.request_id,
        {**(one.context or {}), MERGED_FROM: session_id},
    )


def logged(event: EventIn) -> LoggedEvent:
    """An event of the wire as the log has it; one without an id gets one of its own.

    Raises:
        Problem: 422 if it claims to come from a merge: whom it names would be erased with its user.
    """
    if event.context and MERGED_FROM in event.context:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"context has {MERGED_FROM!r}, which only a merge sets: give it another name",
        )
    return LoggedEvent(
        event.event_id or uuid4().hex,
        Event(
            event.user_id,
            event.item_id,
            event.event,
            event.value,
            event.timestamp,
            event.basket,
        ),
        event.request_id,
        event.context,
    )


async def accept(call: Call, batch: Sequence[LoggedEvent]) -> EventsOut:
    """Append to the durable log, then take in what is new.

    Raises:
        Problem: 422 if an item is unknown and may not be created.
    """
    return await take_in(call.tenant, batch, now=call.now)


async def take_in(tenant: Tenant, batch: Sequence[LoggedEvent], *, now: float) -> EventsOut:
    """The same for events that come by other ways than calls."""
    items = {one.event.item_id for one in batch}
    known = tenant.live.knows(items)
    if not known:
        await asyncio.to_thread(_create, tenant, items, now)
    began = time.perf_counter()
    told = await tenant.store.log.append_async(tenant.name, batch, now=now)
    durable = time.perf_counter()
    tenant.telemetry.stage("store", durable - began)
    # One that is there already may not have been taken in when it was: a failure came between.
    stored = [
        replace(one, seq=was.seq, received=now)
        for one, was in zip(batch, told, strict=True)
        if was.outcome in (Outcome.NEW, Outcome.REPLAY)
    ]
    if known and len(stored) <= MOST_AT_ONCE:
        tenant.live.take(stored, now=now)
    else:  # which takes a while, all the more if texts are encoded
        await asyncio.to_thread(_learn, tenant, stored, now)
    tenant.telemetry.stage("learn", time.perf_counter() - durable)
    for outcome, n in Counter(was.outcome.value for was in told).items():
        tenant.telemetry.events.labels(tenant.name, outcome).inc(n)
    return EventsOut(
        accepted=sum(was.outcome is Outcome.NEW for was in told),
        events=[_out(one.event_id, was) for one, was in zip(batch, told, strict=True)],
    )


def _learn(tenant: Tenant, stored: Sequence[LoggedEvent], now: float) -> None:
    """Take in events, their new items all together first: one by one each makes a catalogue."""
    if not tenant.live.knows({one.event.item_id for one in stored}):
        tenant.live.follow_items(now=now)
    tenant.live.take(stored, now=now)


def _create(tenant: Tenant, item_ids: set[str], now: float) -> None:
    """Write those of the items that were never written; what was deleted stays so."""
    items = tenant.store.items
    if tenant.live.config.create_items:
        new = [Entry(item_id) for item_id in sorted(item_ids)]
        items.add(tenant.name, new, now=now)
        return
    missing = item_ids - tenant.live.model.data.item_index.keys()
    missing -= items.get(tenant.name, missing).keys()
    if missing:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"no item has the id {min(missing)!r} ({len(missing)} are unknown): write items before "
            "their events, or set service.create_items",
        )


def _out(event_id: str, was: Appended) -> EventOut:
    return EventOut(event_id=event_id, outcome=was.outcome.value, seq=was.seq)
