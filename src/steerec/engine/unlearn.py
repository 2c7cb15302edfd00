"""Events that were deleted from the log stop to count in a live engine."""

from collections.abc import Collection
from dataclasses import replace

from steerec.contracts import Event
from steerec.engine.live import Live
from steerec.store.log import LoggedEvent


def unlearn(live: Live, user_id: str, item_ids: Collection[str] | None = None) -> None:
    """Make a user's history what the log still holds of these items; None: of none.

    What the heads counted of all users together stays until the next fit, and so does what other
    processes have taken in.
    """
    if item_ids is None:
        live.recommender.forget(user_id)
        return
    stored = live.store.log.of_user(live.tenant, user_id)
    kept = [_timed(one) for one in stored if one.event.item_id in item_ids]
    live.recommender.unlearn(user_id, item_ids, kept)


def _timed(logged: LoggedEvent) -> Event:
    """The event with its time: it happened when it came, at the latest."""
    claimed = logged.event.timestamp
    time = logged.received if claimed is None else min(claimed, logged.received)
    return replace(logged.event, timestamp=time)
