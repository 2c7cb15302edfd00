"""Slates of the past, from the log: their next page, and what they were made from."""

from dataclasses import replace

import numpy as np

from steerec.contracts import Floats
from steerec.engine.live import Live
from steerec.engine.serving import explained, replay, unit_vectors
from steerec.store.impressions import Impression


def page(live: Live, request_id: str, *, start: int, n: int, now: float) -> Impression | None:
    """The next page of a slate from its frozen pool; items no longer to be shown are dropped.

    Returns:
        The page, not stored yet; None if the slate is unknown.
    """
    pages = live.store.shown.get(live.tenant, request_id)
    if not pages or not pages[0].pool:
        return None
    first = pages[0]
    drawn = replay(first, n=start + n, vectors=_vectors_of(live, first))
    places = drawn.places[start : start + n]
    may, index = live.available(now), live.model.data.item_index
    rows = [index.get(first.pool[p], -1) for p in places]
    shown = [at for at, item_idx in enumerate(rows) if 0 <= item_idx < len(may) and may[item_idx]]
    return replace(
        first,
        start=start,
        time=now,
        items=tuple(first.pool[places[at]] for at in shown),
        propensity=drawn.propensity[start : start + n][shown],
        pool=(),
        scores=np.empty((0, 0), np.float16),
        seq=0,
    )


def explain(live: Live, request_id: str) -> dict[str, object] | None:
    """What a slate was made from, and whether it comes out the same when drawn again."""
    pages = live.store.shown.get(live.tenant, request_id)
    if not pages:
        return None
    first = pages[0]
    again = replay(first, n=first.more["n"], vectors=_vectors_of(live, first))
    items = [first.pool[p] for p in again.places[first.start :]]
    return {
        "request_id": request_id,
        "user_id": first.user_id,
        "time": first.time,
        "scenario": first.scenario,
        "strategy_version": first.version,
        "epoch": first.epoch,
        "arm": first.arm,
        "temperature": first.more["temperature"],
        "diversity": first.more["diversity"],
        "seed": first.seed,
        "weights": dict(zip(first.more["heads"], first.w.tolist(), strict=True)),
        "context": dict(zip(live.model.phi.names, first.phi.tolist(), strict=False)),
        "pool_size": len(first.pool),
        "items": explained(first),
        "replayed_the_same": items == list(first.items),
    }


def _vectors_of(live: Live, shown: Impression) -> Floats | None:
    if not shown.more["diversity"]:
        return None
    data = live.model.data
    rows = np.array([data.item_index.get(i, -1) for i in shown.pool])
    vectors = unit_vectors(data.vectors, rows)
    vectors[rows < 0] = 0.0  # no longer there
    return vectors
