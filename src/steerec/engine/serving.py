"""A slate as it is served: drawn by the sampler, with all that is needed to replay it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices, Query, Slate
from steerec.engine.interleave import draw_both
from steerec.engine.recommender import Recommender, Scored
from steerec.engine.sampler import Drawn, SamplerConfig, draw, seed_of
from steerec.store.impressions import Impression

EXTRA = "beside"  # a column beside the heads: nats that the strategy adds to the item itself


@dataclass(frozen=True)
class Policy:
    """Which strategy answers, and how the slate is drawn.

    Attributes:
        theta: (n_heads, n_features) in place of the model's; None: the model's.
        turn: what becomes of the head weights, such as a person's own part; None: nothing.
        version, epoch, arm: told with the slate.
        other: a second strategy, whose list is mixed with this one's; without diversity.
        shadows: name → a policy whose list is worked out and logged, and not shown.
        told: facts that are logged with the slate.
    """

    draw: SamplerConfig
    theta: NDArray[np.float64] | None = None
    turn: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    version: int = 0
    epoch: int = 0
    arm: str = "live"
    other: "Policy | None" = None
    shadows: Mapping[str, "Policy"] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


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
    mixed = policy.other is not None  # then also what only the other list wants is scored
    scored = recommender.score(query, narrow=not mixed, theta=policy.theta, turn=policy.turn)
    pool = _pool(recommender, scored, policy, query.n)
    z = _logged(scored, pool)
    w = np.append(scored.weights, 1.0).astype(np.float32)
    data = recommender.model.data
    items = scored.items[pool]
    ids = tuple(data.item_ids[items].tolist())
    race = _Race(z, query.n, seed_of(request_id), data.vectors, items)
    others = {
        name: _weights(scored, one, recommender)
        for name, one in {**policy.shadows, "": policy.other}.items()
        if one is not None
    }
    drawn, more = _drawn(race, policy, w, others, ids)
    slate = Slate(
        request_id=request_id,
        strategy_version=policy.version,
        items=recommender.choices(scored, pool[drawn.places], drawn.propensity),
        skipped=scored.skipped,
        left_out=scored.left_out,
        epoch=policy.epoch,
        arm=policy.arm,
    )
    made = (drawn, ids, z, w)
    shown = _impression(query, policy, scored, slate, made, more, now=now, seed=race.seed)
    return Served(slate, shown)


def replay(shown: Impression, *, n: int, vectors: Floats | None = None) -> Drawn:
    """Draw the slate of a logged impression again, of `n` items; places are in its pool.

    Args:
        vectors: (n_pool, d) of unit length, needed where the scenario wants diversity.
    """
    config = SamplerConfig(temperature=shown.more["temperature"], diversity=shown.more["diversity"])
    if "w_other" in shown.more:
        both = (shown.w, np.array(shown.more["w_other"], np.float32))
        return _mixed(shown.scores, both, config, n=n, seed=shown.seed)[0]
    return draw(
        _worth(shown.scores, shown.w),
        n=n,
        temperature=config.temperature,
        seed=shown.seed,
        vectors=vectors,
        diversity=config.diversity,
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


def _drawn(
    race: "_Race",
    policy: Policy,
    w: Floats,
    others: Mapping[str, Floats],
    ids: tuple[str, ...],
) -> tuple[Drawn, dict[str, Any]]:
    """The list, and what else is logged with it.

    Args:
        others: weights of the shadows by name, and under "" of the strategy that is mixed in.
    """
    more = dict(policy.told)
    if policy.shadows:
        more["shadows"] = {
            name: [ids[at] for at in race.drawn(others[name], one.draw).places]
            for name, one in policy.shadows.items()
        }
    if policy.other is None:
        return race.drawn(w, policy.draw), more
    drawn, teams = _mixed(race.z, (w, others[""]), policy.draw, n=race.n, seed=race.seed)
    return drawn, {**more, "teams": teams, "w_other": others[""].tolist()}


def _pool(recommender: Recommender, scored: Scored, policy: Policy, n: int) -> NDArray[Any]:
    """Places in `scored.items`, rising; with those that the other strategy would take."""
    if policy.other is None:
        return recommender.chosen(scored, n)
    pool = recommender.shortlist(scored, n)
    w = _weights(scored, policy.other, recommender)[:-1].astype(np.float64)
    theirs = replace(scored, weights=w, blend=w @ scored.z + scored.extra)
    return np.union1d(pool, recommender.shortlist(theirs, n))


def _weights(scored: Scored, policy: Policy, recommender: Recommender) -> Floats:
    """(n_heads + 1,) of another policy for this request, as they are logged."""
    strategy = recommender.model.strategy
    w = (strategy.theta if policy.theta is None else policy.theta) @ scored.phi
    w = w if policy.turn is None else policy.turn(w)
    rows = [strategy.heads.index(name) for name in scored.names]
    return np.append(w[rows], 1.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Race:
    """What every list for one request is drawn from; equal noise, whatever the weights."""

    z: NDArray[np.float16]
    n: int
    seed: int
    vectors: Floats | None
    items: Indices

    def drawn(self, w: Floats, config: SamplerConfig) -> Drawn:
        """The list by these weights."""
        return draw(
            _worth(self.z, w),
            n=self.n,
            temperature=config.temperature,
            seed=self.seed,
            vectors=None if config.diversity == 0 else unit_vectors(self.vectors, self.items),
            diversity=config.diversity,
        )


def _mixed(
    z: NDArray[Any], both: tuple[Floats, Floats], config: SamplerConfig, *, n: int, seed: int
) -> tuple[Drawn, str]:
    """A list of both weights' lists, and the team of each place."""
    one, other = (_worth(z, w) for w in both)
    return draw_both((one, other), n=n, temperature=config.temperature, seed=seed)


def _logged(scored: Scored, pool: NDArray[Any]) -> NDArray[np.float16]:
    """(n_pool, n_heads + 1) z and the extra nats, rounded as they are logged and drawn from."""
    z = np.empty((len(pool), len(scored.z) + 1), np.float16)
    z[:, :-1] = scored.z[:, pool].T
    z[:, -1] = scored.extra[pool].astype(np.float32)
    return z


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
    told: Mapping[str, Any],
    *,
    now: float,
    seed: int,
) -> Impression:
    drawn, pool, z, w = made
    more: dict[str, Any] = {
        "heads": [*scored.names, EXTRA],
        "temperature": policy.draw.temperature,
        "diversity": policy.draw.diversity,
        "n": query.n,
    }
    said = {"session": list(query.session[-20:]), "device": query.device, "place": query.place}
    more |= {name: value for name, value in said.items() if value}
    more |= told
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
        seed=seed,
        pool=pool,
        scores=z,
        w=w,
        phi=scored.phi.astype(np.float32),
        more=more,
    )
