"""Routes of a person's rights: everything that is held of them, and its erasure."""

import asyncio

from steerec.service.calls import Call
from steerec.service.schemas import ErasedOut, RecordsOut


async def get_user_data(call: Call) -> RecordsOut:
    """Every record held of a user."""
    store, name, user_id = call.tenant.store, call.tenant.name, call.path["user_id"]
    records = await asyncio.to_thread(lambda: list(store.persons.export(name, user_id)))
    return RecordsOut(records=[dict(record) for record in records])


async def delete_user_data(call: Call) -> ErasedOut:
    """Erase a user from all stores and from live state; their events cannot be sent again.

    The answer says of each head whether what it learnt of them is undone exactly, or at the next
    fit.
    """
    store, name, user_id = call.tenant.store, call.tenant.name, call.path["user_id"]
    heads = call.tenant.live.forget(user_id)
    erased = await asyncio.to_thread(store.persons.erase, name, user_id, now=call.now)
    return ErasedOut(
        events=erased.events,
        impressions=erased.impressions,
        answers=erased.answers,
        users=erased.users,
        heads=heads,
    )
