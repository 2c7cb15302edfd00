"""θ carried over to a new model: reference requests score as they did with the old one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices
from steerec.engine.model import Model

REQUESTS = 1_000
NEWCOMERS = 0.1  # share of the reference requests without a history
ITEMS = 2_000  # items compared at most: half the most popular, half drawn
TOP = 40  # of a request, by the old scores and by the new; and as many drawn
PULL = 1e-3  # towards the new fit's own θ, as a share of the mean squared feature
AT_ONCE = 100  # requests scored together

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Carried:
    """θ for the new model.

    Attributes:
        r2: share of the old scores' variance within requests that the new ones have.
    """

    theta: Weights
    requests: int
    r2: float


@dataclass(frozen=True)
class _Requests:
    """The same requests to both models.

    Attributes:
        items: (2, n) int32, indices of the compared items in the old and the new catalogue.
        placements: scenario and device of each.
    """

    old: list[History]
    new: list[History]
    items: Indices
    placements: list[tuple[str | None, str | None]]
    now: float


def carry_over(
    before: Model,
    theta: Weights,
    after: Model,
    rng: np.random.Generator,
    *,
    n_requests: int = REQUESTS,
) -> Carried:
    """Fit θ of `after` by least squares so that requests score as `before` did with `theta`.

    Only differences within a request count, since the sampler sees no others. What no request
    tells, such as the weights of items without events, stays as `after` was fitted.

    Args:
        theta: (n_heads, n_features) of the strategy in force, for `before`.
    """
    asked = _requests(before, after, n_requests, rng)
    own = after.strategy.theta
    size = own.size
    gram, moment, total = np.zeros((size, size)), np.zeros(size), 0.0
    for phi, z, wanted in _examples((before, theta), after, asked, rng):
        gram += np.kron(np.outer(phi, phi), z.T @ z)
        moment += np.outer(phi, z.T @ wanted).ravel()
        total += float(wanted @ wanted)
    start = own.T.ravel()  # features outside, heads inside, as kron has them
    pull = PULL * np.trace(gram) / size + 1e-9
    step = np.linalg.solve(gram + pull * np.eye(size), moment - gram @ start)
    found = start + step
    lost = total - 2 * moment @ found + found @ gram @ found
    fitted: Weights = found.reshape(own.T.shape).T
    return Carried(fitted, len(asked.new), float(1 - lost / total) if total else 1.0)


def _examples(
    old: tuple[Model, Weights], after: Model, asked: _Requests, rng: np.random.Generator
) -> Iterator[tuple[Weights, Weights, Weights]]:
    """For each request: φ (n_features,), z (n, n_heads) and old scores (n,), both centred."""
    before, theta = old
    for start in range(0, len(asked.new), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        phi_old, z_old = _seen_by(before, asked, asked.old, asked.items[0], part)
        phi_new, z_new = _seen_by(after, asked, asked.new, asked.items[1], part)
        scores = np.einsum("cf,hf,hcn->cn", phi_old, theta, z_old, optimize=True)
        own = np.einsum("cf,hf,hcn->cn", phi_new, after.strategy.theta, z_new, optimize=True)
        for row in range(len(scores)):
            chosen = _compared(scores[row], own[row], rng)
            z = z_new[:, row, chosen].T.astype(np.float64)
            wanted = scores[row, chosen]
            yield phi_new[row], z - z.mean(axis=0), wanted - wanted.mean()


def _seen_by(
    model: Model, asked: _Requests, histories: Sequence[History], items: Indices, part: slice
) -> tuple[Weights, Floats]:
    """φ (n, n_features) and z (n_heads, n, n_items) of these requests."""
    chosen = histories[part]
    now = np.full(len(chosen), asked.now)
    rows = [
        model.phi([history], now[:1], scenario=scenario, device=device)[0]
        for history, (scenario, device) in zip(chosen, asked.placements[part], strict=True)
    ]
    return np.stack(rows), model.scores(chosen, items, now)[1]


def _compared(old: Weights, new: Weights, rng: np.random.Generator) -> NDArray[np.int64]:
    top = min(TOP, len(old))
    drawn = rng.integers(0, len(old), top)
    return np.unique(
        np.concatenate([np.argsort(-old)[:top], np.argsort(-new)[:top], drawn])
    ).astype(np.int64)


def _requests(before: Model, after: Model, n: int, rng: np.random.Generator) -> _Requests:
    data = after.data
    active = np.flatnonzero(np.diff(data.starts) > 0)
    users = rng.choice(active, min(n, len(active)), replace=False)
    new = [data.history(int(u)).last(1_000) for u in users]
    for row in range(int(len(users) * NEWCOMERS)):
        new[row] = History.of([])
    place = np.array([before.data.item_index.get(i, -1) for i in data.item_ids], np.int32)
    rows = [before.data.user_index.get(data.user_ids[u], -1) for u in users]
    old = [_in_old(history, place, row) for history, row in zip(new, rows, strict=True)]
    both = np.flatnonzero((place >= 0) & ~after.unseen)
    both = both[~before.unseen[place[both]]]  # there other weights made their scores
    items = _sample(both, data.counts(), rng)
    phi = after.phi.config
    placements = list(product((None, *phi.scenarios), (None, *phi.devices)))
    return _Requests(
        old=old,
        new=new,
        items=np.stack([place[items], items]).astype(np.int32),
        placements=[placements[i % len(placements)] for i in range(len(new))],
        now=float(data.time.max()) if data.has_times else float("nan"),
    )


def _in_old(history: History, place: Indices, user_idx: int) -> History:
    """The history in the old catalogue's indices, without items that it lacks."""
    known = place[history.item_idx] >= 0
    return replace(
        history,
        item_idx=place[history.item_idx[known]],
        weight=history.weight[known],
        time=history.time[known],
        basket=history.basket[known],
        user_idx=user_idx if len(history) else -1,
    )


def _sample(
    items: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    if len(items) <= ITEMS:
        return items
    popular = items[np.argsort(-counts[items], kind="stable")[: ITEMS // 2]]
    drawn = rng.choice(items, ITEMS // 2, replace=False)
    return np.union1d(popular, drawn)
