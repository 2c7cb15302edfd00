"""Routes of events: durable first, then live, then acknowledged."""

from collections.abc import Sequence
from uuid import uuid4

from steerec.contracts import Event
from steerec.service.calls import Call
from steerec.service.schemas import EventIn, EventOut, EventsIn, EventsOut, MergeIn
from steerec.store.log import Appended, LoggedEvent, Outcome


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
    user_id = call.path["user_id"]
    earlier = call.tenant.store.log.of_user(call.tenant.name, body.session_id)
    moved = [
        LoggedEvent(
            f"{one.event_id}>{user_id}"[:256],
            Event(
                user_id,
                one.event.item_id,
                one.event.event,
                one.event.value,
                one.event.timestamp if one.event.timestamp is not None else one.received,
                one.event.basket,
            ),
            one.request_id,
            one.context,
        )
        for one in earlier
    ]
    return await accept(call, moved)


def logged(event: EventIn) -> LoggedEvent:
    """An event of the wire as the log has it; one without an id gets one of its own."""
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
    """Append to the durable log, then take in what is new."""
    tenant = call.tenant
    told = await tenant.store.log.append_async(tenant.name, batch, now=call.now)
    fresh = [
        LoggedEvent(
            one.event_id, one.event, one.request_id, one.context, seq=was.seq, received=call.now
        )
        for one, was in zip(batch, told, strict=True)
        if was.outcome is Outcome.NEW
    ]
    tenant.live.take(fresh, now=call.now)
    return EventsOut(
        accepted=len(fresh),
        events=[_out(one.event_id, was) for one, was in zip(batch, told, strict=True)],
    )


def _out(event_id: str, was: Appended) -> EventOut:
    return EventOut(event_id=event_id, outcome=was.outcome.value, seq=was.seq)
