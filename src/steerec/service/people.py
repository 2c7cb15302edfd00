"""Routes of a person's rights: everything that is held of them, and its erasure."""

import asyncio

from steerec.engine.held import held_of
from steerec.service.calls import Call
from steerec.service.events import MERGED_FROM
from steerec.service.schemas import ErasedOut, RecordsOut
from steerec.store import Store

EXACT = "exact"


async def get_user_data(call: Call) -> RecordsOut:
    """Every record held of a user: in the store, and in the data that the model was fitted on."""
    live, name, user_id = call.tenant.live, call.tenant.name, call.path["user_id"]
    stored = live.store.persons.export
    records = await asyncio.to_thread(lambda: [*stored(name, user_id), *held_of(live, user_id)])
    return RecordsOut(records=[dict(record) for record in records])


async def delete_user_data(call: Call) -> ErasedOut:
    """Erase a user from all stores and from live state; their events cannot be sent again.

    Sessions that were merged into the user go with them.

    The answer says of each head whether what it learnt of them is undone exactly, or at the next
    fit.
    """
    store, name, user_id = call.tenant.store, call.tenant.name, call.path["user_id"]
    sessions = await asyncio.to_thread(_sessions_of, store, name, user_id)
    told = [await _erase(call, one) for one in (*sessions, user_id)]
    return ErasedOut(
        events=sum(one.events for one in told),
        impressions=sum(one.impressions for one in told),
        answers=sum(one.answers for one in told),
        users=sum(one.users for one in told),
        heads={
            head: next((one.heads[head] for one in told if one.heads[head] != EXACT), EXACT)
            for head in told[-1].heads
        },
    )


async def _erase(call: Call, user_id: str) -> ErasedOut:
    """Out of the store first: what comes in meanwhile is told by its place before or after."""
    store, live, name = call.tenant.store, call.tenant.live, call.tenant.name
    gone = await asyncio.to_thread(store.persons.erase, name, user_id, now=call.now)
    heads = await asyncio.to_thread(live.forget, user_id, seq=gone.seq)
    return ErasedOut(
        events=gone.events,
        impressions=gone.impressions,
        answers=gone.answers,
        users=gone.users,
        heads=heads,
    )


def _sessions_of(store: Store, tenant: str, user_id: str) -> list[str]:
    """The sessions in which the user was anonymous until they logged in."""
    found = {
        str(one.context[MERGED_FROM])
        for one in store.log.of_user(tenant, user_id)
        if one.context and MERGED_FROM in one.context
    }
    return sorted(found - {user_id})
