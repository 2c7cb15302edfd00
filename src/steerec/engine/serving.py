"""A slate as it is served: drawn by the sampler, with all that is needed to replay it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Query, Slate
from steerec.engine.recommender import Recommender, Scored
from steerec.engine.sampler import Drawn, SamplerConfig, draw, seed_of
from steerec.store.impressions import Impression

EXTRA = "unseen_items"  # a column beside the heads: nats that the strategy adds to the item itself


@dataclass(frozen=True)
class Policy:
    """Which strategy answers, and how the slate is drawn.

    Attributes:
        theta: (n_heads, n_features) in place of the model's; None: the model's.
        turn: what becomes of the head weights, such as a person's own part; None: nothing.
        version, epoch, arm: told with the slate.
    """

    draw: SamplerConfig
    theta: NDArray[np.float64] | None = None
    turn: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    version: int = 0
    epoch: int = 0
    arm: str = "live"


@dataclass(frozen=True)
class Served:
    """A slate and its impression, which replays to the same slate."""

    slate: Slate
    impression: Impression


def serve(
    recommender: Recommender,
    query: Query,
    policy: Policy,
    *,
    request_id: str,
    now: float,
) -> Served:
    """Draw a slate of at most `query.n` items.

    Args:
        now: Unix seconds, when it is shown.
    Raises:
        ValueError, DataError: as Recommender.recommend.
    """
    scored = recommender.score(query, narrow=True, theta=policy.theta, turn=policy.turn)
    pool = np.sort(recommender.shortlist(scored, query.n))
    z = _logged(scored, pool)
    w = np.append(scored.weights, 1.0).astype(np.float32)
    seed = seed_of(request_id)
    data = recommender.model.data
    items = scored.items[pool]
    drawn = draw(
        _worth(z, w),
        n=query.n,
        temperature=policy.draw.temperature,
        seed=seed,
        vectors=None if policy.draw.diversity == 0 else unit_vectors(data.vectors, items),
        diversity=policy.draw.diversity,
    )
    choices = recommender.choices(scored, pool[drawn.places])
    slate = Slate(
        request_id=request_id,
        strategy_version=policy.version,
        items=tuple(
            replace(choice, propensity=float(p))
            for choice, p in zip(choices, drawn.propensity, strict=True)
        ),
        skipped=scored.skipped,
        left_out=scored.left_out,
        epoch=policy.epoch,
        arm=policy.arm,
    )
    made = (drawn, tuple(data.item_ids[items].tolist()), z, w)
    return Served(slate, _impression(query, policy, scored, slate, made, now=now))


def replay(shown: Impression, *, n: int, vectors: Floats | None = None) -> Drawn:
    """Draw the slate of a logged impression again, of `n` items; places are in its pool.

    Args:
        vectors: (n_pool, d) of unit length, needed where the scenario wants diversity.
    """
    return draw(
        _worth(shown.scores, shown.w),
        n=n,
        temperature=shown.more["temperature"],
        seed=shown.seed,
        vectors=vectors,
        diversity=shown.more["diversity"],
    )


def explained(shown: Impression, page: Impression | None = None) -> list[dict[str, Any]]:
    """What each shown item was made from: its score by head, and its rank in the pool.

    Args:
        shown: the first page, which has the pool.
        page: a later one, whose items are told; None: the first.
    """
    page = page or shown
    worth = _worth(shown.scores, shown.w)
    place = {item: at for at, item in enumerate(shown.pool)}
    rank = np.empty(len(worth), int)
    rank[np.argsort(-worth, kind="stable")] = np.arange(1, len(worth) + 1)
    names = shown.more["heads"]
    told = []
    for position, item in enumerate(page.items, page.start + 1):
        at = place[item]
        shares = shown.scores[at].astype(np.float64) * shown.w
        told.append(
            {
                "item_id": item,
                "position": position,
                "score": float(worth[at]),
                "rank_in_pool": int(rank[at]),
                "propensity": float(page.propensity[position - page.start - 1]),
                "sources": dict(zip(names, shares.tolist(), strict=True)),
            }
        )
    return told


def unit_vectors(vectors: Floats | None, items: Sequence[int] | NDArray[Any]) -> Floats:
    """(n, d) of these items, of unit length or zero; d = 1, all zero, without vectors."""
    if vectors is None:
        return np.zeros((len(items), 1), np.float32)
    chosen = vectors[items]
    length = np.linalg.norm(chosen, axis=1, keepdims=True)
    unit: Floats = np.divide(chosen, length, out=np.zeros_like(chosen), where=length > 0)
    return unit


def _logged(scored: Scored, pool: NDArray[Any]) -> NDArray[np.float16]:
    """(n_pool, n_heads + 1) z and the extra nats, rounded as they are logged and drawn from."""
    both = np.vstack([scored.z[:, pool], scored.extra[pool][None].astype(np.float32)])
    return np.ascontiguousarray(both.T.astype(np.float16))


def _worth(z: NDArray[Any], w: NDArray[Any]) -> NDArray[np.float64]:
    """(n_pool,) from what is logged, the same when it is replayed."""
    worth: NDArray[np.float64] = (z.astype(np.float64) * w.astype(np.float64)).sum(axis=1)
    return worth


def _impression(
    query: Query,
    policy: Policy,
    scored: Scored,
    slate: Slate,
    made: tuple[Drawn, tuple[str, ...], NDArray[np.float16], Floats],
    *,
    now: float,
) -> Impression:
    drawn, pool, z, w = made
    more: dict[str, Any] = {
        "heads": [*scored.names, EXTRA],
        "temperature": policy.draw.temperature,
        "diversity": policy.draw.diversity,
        "n": query.n,
    }
    if query.session:
        more["session"] = list(query.session[-20:])
    if query.device:
        more["device"] = query.device
    return Impression(
        request_id=slate.request_id,
        time=now,
        items=tuple(c.item_id for c in slate.items),
        propensity=drawn.propensity,
        user_id=query.user_id,
        scenario=query.scenario,
        version=policy.version,
        epoch=policy.epoch,
        arm=policy.arm,
        seed=seed_of(slate.request_id),
        pool=pool,
        scores=z,
        w=w,
        phi=scored.phi.astype(np.float32),
        more=more,
    )
