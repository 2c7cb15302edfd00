"""Lists that are nobody's own: popular, latest, similar, found by words."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Choice, Floats, History, Indices, Query
from steerec.engine.live import Live
from steerec.engine.pool import published
from steerec.engine.rules import Catalogue
from steerec.engine.serving import explained
from steerec.heads.content import Content
from steerec.heads.contract import best
from steerec.heads.trending import Trending
from steerec.store.impressions import Impression

Listed = list[tuple[str, float]]


def popular(live: Live, n: int, *, condition: str | None, now: float) -> Listed:
    """What has the largest share of events of late; items without events come last, unranked."""
    head = live.model.heads.get("trending")

    def share(items: Indices) -> Floats:
        if not isinstance(head, Trending):
            counts = live.model.data.counts().astype(np.float32)
            return np.log(np.maximum(counts[items], 0.1))
        known = items[items < head.n_items]
        found = np.full(len(items), np.nan, np.float32)
        nobody = [head.start(History.of([0]))]
        found[: len(known)] = head.score(nobody, known, np.array([now]))[0]
        return found

    return _listed(live, share, n, condition=condition, now=now)


def latest(live: Live, n: int, *, condition: str | None, now: float) -> Listed:
    """The newest by time of publishing, else of being first written or of the first event.

    Items of which none of them is known are out.
    """
    data = live.model.data
    since = published(data, met=live.first_met()[: data.n_items])
    return _listed(live, lambda items: since[items], n, condition=condition, now=now)


def similar_items(live: Live, item_id: str, n: int, *, condition: str | None, now: float) -> Listed:
    """Items like this one that may be shown now, best first.

    Raises:
        UnknownItemError: if the catalogue does not hold the item.
        DataError: if no head compares items.
    """
    may = _may(live, condition, now)
    index = live.model.data.item_index
    most = max(1, min(live.model.data.n_items, 4 * n + 50))
    found = live.recommender.similar(item_id, most)
    return [(i, score) for i, score in found if may[index[i]]][:n]


def search(live: Live, words: str, n: int) -> list[str]:
    """Ids of items whose texts have these words, best first; hidden ones too."""
    head = live.model.heads.get("content")
    if not isinstance(head, Content) or head.lexical is None:
        return []
    found, _ = head.lexical.search(words, n)
    return [str(live.model.data.item_ids[i]) for i in found]


def parts_of(first: Impression, page: Impression) -> tuple[Choice, ...]:
    """The items of a later page as choices; their reasons were not kept, only their parts."""
    told = explained(first, page)
    return tuple(
        Choice(
            item_id=part["item_id"],
            score=part["score"],
            position=part["position"],
            sources=part["sources"],
            reason="Next in this list.",
            propensity=part["propensity"],
        )
        for part in told
    )


def _listed(
    live: Live,
    score: Callable[[Indices], NDArray[Any]],
    n: int,
    *,
    condition: str | None,
    now: float,
) -> Listed:
    items = np.flatnonzero(_may(live, condition, now)).astype(np.int32)
    scores = score(items)
    ids = live.model.data.item_ids
    return [(str(ids[items[at]]), float(scores[at])) for at in best(scores, n)]


def _may(live: Live, condition: str | None, now: float) -> NDArray[np.bool_]:
    """(n_items,): what may be shown to anybody."""
    catalogue = Catalogue(live.model.data)
    allowed = catalogue.allowed(Query(condition=condition), History.of([]), repeats=True)
    return allowed & live.available(now)
