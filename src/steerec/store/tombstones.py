"""What is kept of an erased user: digests that tell a replay or a restored row, and no more.

A digest is SHA-256 cut to 16 bytes. Who guesses an id can confirm that it was erased; nothing else
can be read out of it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from steerec.store.database import in_chunks
from steerec.store.schema import erased_events, erased_users


def digest(tenant: str, kind: str, name: str) -> bytes:
    """16 bytes that stand for a user or event id of a tenant."""
    return hashlib.sha256("\0".join((tenant, kind, name)).encode()).digest()[:16]


def erased_at(connection: sa.Connection, tenant: str, user_ids: Sequence[str]) -> dict[str, float]:
    """user_id → Unix seconds of the erasure, for those of the users that were erased."""
    ids = {digest(tenant, "user", user_id): user_id for user_id in user_ids}
    found = {}
    for chunk in in_chunks(list(ids)):
        wanted = sa.select(erased_users.c.digest, erased_users.c.time).where(
            erased_users.c.tenant == tenant, erased_users.c.digest.in_(chunk)
        )
        found.update({ids[bytes(key)]: time for key, time in connection.execute(wanted)})
    return found


def erased_among(
    connection: sa.Connection, tenant: str, rows: Sequence[dict[str, Any]]
) -> set[str]:
    """Ids of those event rows that belong to an erasure.

    Their id was erased, or they are of an erased user and claim a time before the erasure.
    """
    ids = {digest(tenant, "event", row["event_id"]): row["event_id"] for row in rows}
    found: set[str] = set()
    for chunk in in_chunks(list(ids)):
        wanted = sa.select(erased_events.c.digest).where(
            erased_events.c.tenant == tenant, erased_events.c.digest.in_(chunk)
        )
        found.update(ids[bytes(key)] for key in connection.execute(wanted).scalars())
    times = erased_at(connection, tenant, list({row["user_id"] for row in rows}))
    for row in rows:
        claimed = row["timestamp"]
        if claimed is not None and claimed <= times.get(row["user_id"], float("-inf")):
            found.add(row["event_id"])
    return found
