"""The blend: head weights w = θφ, fitted so that held-out targets come out on top."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from steerec.contracts import Floats
from steerec.engine.phi import NO_HISTORY, UNSEEN_ITEM
from steerec.errors import ConfigError, DataError

TOP_HALF = 10.0  # place at which a target's share is half that of one at the top
TOP_ROUNDS = 2
TOP = 10  # places that what known items lose is measured on
FEW_EVENTS = ("length~1", "length~2", "length~5", "length~10")  # what users set aside stand for
LEAST_NATS = 0.03  # a case, below which all heads gain too little over the best one
LOWEST = 12.0  # nats below the fitted ones at which items never seen are as good as hidden


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Settings of the fit of θ."""

    max_cases: int = 4_000  # most held-out cases used, first steps of users set aside not counted
    top: int = 150  # candidates of a case taken from the top of the even blend
    top_head: int = 15  # and from the top of each head
    drawn: int = 150  # and drawn from the rest, standing for all of it
    top_unseen: int = 50  # and from the top of the items that count as never seen
    unseen_share: float = 0.1  # items that count as never seen, where the catalogue has such
    unseen_loss: float = 0.02  # share of their NDCG@10 that known items may lose to those
    l2_bias: float = 1.0  # pull of the common weights towards an even blend
    l2: float = 20.0  # pull of what context changes towards 0

    def __post_init__(self) -> None:
        if min(self.max_cases, self.top, self.top_head, self.drawn, self.top_unseen) < 1:
            raise ConfigError("blend: max_cases, top…, top_unseen and drawn must be at least 1")
        if not 0 <= self.unseen_share < 1:
            raise ConfigError(f"blend: unseen_share={self.unseen_share}: expected in [0, 1)")
        if not 0 < self.unseen_loss <= 1:
            raise ConfigError(f"blend: unseen_loss={self.unseen_loss}: expected in (0, 1]")
        if min(self.l2, self.l2_bias) <= 0:
            raise ConfigError("blend: l2 and l2_bias must be above 0")


@dataclass(frozen=True)
class Candidates:
    """What the fit of θ reads, padded to one width.

    Attributes:
        z: (n_cases, width, n_heads) float32.
        log_weight: (n_cases, width) float32: 0, log of how many items one stands for, or -inf.
        target: (n_cases, width) float32, shares of the targets, summing to 1 in a row.
        unseen: (n_cases, width) bool, items that count as never seen.
        phi: (n_cases, n_features) float64.
        own: (n_cases, width) bool, items that their user had before; None: not told apart.
        phi_own: (n_cases, n_features) what such items have beside φ.
    """

    z: Floats
    log_weight: Floats
    target: Floats
    unseen: NDArray[np.bool_]
    phi: NDArray[np.float64]
    own: NDArray[np.bool_] | None = None
    phi_own: NDArray[np.float64] | None = None

    def take(self, rows: slice | NDArray[np.bool_]) -> "Candidates":
        """Some of the cases."""
        return Candidates(
            self.z[rows],
            self.log_weight[rows],
            self.target[rows],
            self.unseen[rows],
            self.phi[rows],
            None if self.own is None else self.own[rows],
            None if self.phi_own is None else self.phi_own[rows],
        )

    def scores(self, theta: NDArray[np.float64]) -> Floats:
        """(n_cases, width) float32: Σ w z under this θ."""
        w = (self.phi @ theta.T).astype(np.float32)
        found: Floats = np.matmul(self.z, w[:, :, None])[:, :, 0]
        if self.own is not None and self.phi_own is not None:
            more = (self.phi_own @ theta.T).astype(np.float32)
            found += self.own * np.matmul(self.z, more[:, :, None])[:, :, 0]
        return found

    def slope(self, by_score: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n_heads, n_features): of a sum over `scores`, given its slope (n_cases, width) there."""
        by_w = np.matmul(by_score[:, None, :], self.z)[:, 0]
        found = by_w.T.astype(np.float64) @ self.phi
        if self.own is not None and self.phi_own is not None:
            by_more = np.matmul((by_score * self.own)[:, None, :], self.z)[:, 0]
            found += by_more.T.astype(np.float64) @ self.phi_own
        return np.asarray(found)


@dataclass(frozen=True)
class Examples:
    """All that the weights are fitted on.

    Attributes:
        heads: names, in the order of z; `features` those of φ's columns.
        held_out: cases that the heads have not learnt from.
        newcomers: cases without history.
        crowd: how many items without events there are for one that counts as never seen.
        aside: whether short histories are those of users set aside, and so of few people.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    held_out: Candidates
    newcomers: Candidates
    crowd: float = 1.0
    aside: bool = False

    def without(self, name: str) -> "Examples":
        """The same cases, as if there were no such head; the candidates stay the same."""
        column = self.heads.index(name)

        def rest(of: Candidates) -> Candidates:
            return replace(of, z=np.delete(of.z, column, axis=2))

        heads = self.heads[:column] + self.heads[column + 1 :]
        held_out, newcomers = rest(self.held_out), rest(self.newcomers)
        return replace(self, heads=heads, held_out=held_out, newcomers=newcomers)


def pick_candidates(
    z: Floats,
    ranked: NDArray[np.bool_],
    target: NDArray[np.bool_],
    unseen: NDArray[np.bool_],
    config: BlendConfig,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Choose for each case the items that decide its softmax.

    Args:
        z: (n_heads, n_cases, n_items) float32.
        ranked: (n_cases, n_items), items that may be shown.
        target: (n_cases, n_items), the targets.
        unseen: (n_items,), items that count as never seen.

    Returns:
        z, log_weight, target and unseen of the chosen items, as in Candidates, and the items.
    """
    n_heads, n_cases, n_items = z.shape
    even = np.where(ranked, z.mean(axis=0), -np.inf)
    parts = [_top(even, config.top)]
    parts += [_top(np.where(ranked, z[h], -np.inf), config.top_head) for h in range(n_heads)]
    if unseen.any():
        parts.append(_top(np.where(unseen, even, -np.inf), config.top_unseen))
    width = max(int(target.sum(axis=1).max()), 1)
    parts.append(np.argpartition(~target, width - 1, axis=1)[:, :width])
    sure = np.concatenate(parts, axis=1)
    drawn = rng.integers(0, n_items, (n_cases, config.drawn))
    chosen = np.concatenate([sure, drawn], axis=1)
    order = np.argsort(chosen, axis=1, kind="stable")  # stable: a sure one stands before drawn ones
    chosen = np.take_along_axis(chosen, order, axis=1)
    is_drawn = order >= sure.shape[1]
    again = np.zeros(chosen.shape, bool)
    again[:, 1:] = chosen[:, 1:] == chosen[:, :-1]
    rows = np.arange(n_cases)[:, None]
    use = ranked[rows, chosen] & ~again
    rest = ranked.sum(axis=1) - (use & ~is_drawn).sum(axis=1)
    stands_for = np.maximum(rest, 1) / np.maximum((use & is_drawn).sum(axis=1), 1)
    log_weight = np.where(is_drawn, np.log(stands_for)[:, None], 0.0)
    share = (target[rows, chosen] & use).astype(np.float32)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1.0)
    picked = np.ascontiguousarray(np.moveaxis(z[:, rows, chosen], 0, 2))
    log_weight = np.where(use, log_weight, -np.inf).astype(np.float32)
    return picked, log_weight, share, unseen[chosen], chosen


def fit_weights(examples: Examples, config: BlendConfig) -> tuple[NDArray[np.float64], float]:
    """θ (n_heads, n_features), and the nats that an item without events gets beside it."""
    features, newcomers = examples.features, of_seen(examples.newcomers)
    theta = fit_theta(held_out := of_seen(examples.held_out), config)
    if examples.aside:
        theta = towards_best(theta, held_out, features, config)
    theta = with_newcomers(theta, features.index(NO_HISTORY), newcomers, config)
    column, crowd = features.index(UNSEEN_ITEM), examples.crowd
    return with_unseen(theta, column, examples.held_out, config, crowd=crowd)


def fit_theta(candidates: Candidates, config: BlendConfig) -> NDArray[np.float64]:
    """θ (n_heads, n_features) minimising the mean softmax cross-entropy; convex.

    Of several targets each is set against all items that are not targets, and they share the
    case's weight of 1, those near the top of the list more (three convex fits in a row).

    Source: multinomial logit, McFadden 1974; importance weights for the drawn part, Bengio and
        Senécal 2008.
    """
    theta = descend(candidates, config)
    if (np.count_nonzero(candidates.target, axis=1) <= 1).all():
        return theta
    for _ in range(TOP_ROUNDS):
        theta = descend(_top_heavy(candidates, theta), config)
    return theta


def _top_heavy(candidates: Candidates, theta: NDArray[np.float64]) -> Candidates:
    """The same cases with the share of each target growing towards the top of the present list.

    A basket holds items that no list of ten could have held; they should not steer the ten.
    """
    scores = candidates.scores(theta)
    scores[np.isneginf(candidates.log_weight)] = -np.inf
    rank = np.argsort(np.argsort(-scores, axis=1), axis=1)
    nearness: Floats = (1 / (1 + rank / TOP_HALF)).astype(np.float32)
    share = candidates.target * nearness
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
    return replace(candidates, target=share)


# NumPy's product once flagged an invalid value over finite numbers; the end is checked instead.
@np.errstate(invalid="ignore")
def descend(candidates: Candidates, config: BlendConfig) -> NDArray[np.float64]:
    """θ (n_heads, n_features) at the minimum of the loss for these shares of the targets.

    Raises:
        DataError: if it is no number.
    """
    told = candidates.take(candidates.target.sum(axis=1) > 0)
    log_weight, target = told.log_weight, told.target
    n_heads, n_features = told.z.shape[2], told.phi.shape[1]
    even = np.zeros((n_heads, n_features))
    even[:, 0] = 1 / n_heads
    if len(target) == 0:
        return even
    pull = np.full((n_heads, n_features), config.l2)
    pull[:, 0] = config.l2_bias
    hit = target > 0
    wanted = told.slope(target)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(n_heads, n_features)
        scores = told.scores(theta) + log_weight
        top = scores.max(axis=1, keepdims=True)
        mass = np.exp(scores - top)
        others = np.where(hit, 0.0, mass)
        rest = others.sum(axis=1, keepdims=True)  # the targets of a case do not compete
        both = np.where(hit, mass + rest, 1.0)
        p = target * (mass / both)  # 0 off the targets
        p += others * (target / both).sum(axis=1, keepdims=True)
        value = (target * np.log(both)).sum() + top.sum() - (theta * wanted).sum()
        gradient = told.slope(p) - wanted
        off = theta - even
        return float(value) + 0.5 * float((pull * off**2).sum()), (gradient + pull * off).ravel()

    found = optimize.minimize(
        loss, even.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 150, "ftol": 1e-7}
    )
    if not (np.isfinite(found.fun) and np.isfinite(found.x).all()):
        raise DataError("the weights of the blend are no numbers: a head's scores are not, either")
    return np.asarray(found.x, np.float64).reshape(n_heads, n_features)


def losses(candidates: Candidates, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_told,) cross-entropy in nats of each case that has a target, as `descend` sums it."""
    told = candidates.take(candidates.target.sum(axis=1) > 0)
    target, scores = told.target, told.scores(theta) + told.log_weight
    top = scores.max(axis=1, keepdims=True)
    mass = np.exp(scores - top)
    rest = np.where(target > 0, 0.0, mass).sum(axis=1, keepdims=True)
    share = np.where(target > 0, mass / (mass + rest), 1.0)
    return np.asarray(-(target * np.log(np.maximum(share, 1e-30))).sum(axis=1))


def with_newcomers(
    theta: NDArray[np.float64], column: int, candidates: Candidates, config: BlendConfig
) -> NDArray[np.float64]:
    """θ with weights of their own for users without history; for all others it stays as it is.

    Held-out cases have a history, and beside the other heads popularity may weigh below 0: right
    for them, and the reverse of what a newcomer needs, for whom it is all there is.

    Args:
        column: the feature that is 1 for an empty history, else 0.
        candidates: cases without history.
    """
    alone = replace(candidates, phi=np.ones((len(candidates.z), 1)), own=None)
    theta = theta.copy()
    theta[:, column] = fit_theta(alone, config)[:, 0] - theta[:, 0]
    return theta


def towards_best(
    theta: NDArray[np.float64], candidates: Candidates, features: Sequence[str], config: BlendConfig
) -> NDArray[np.float64]:
    """θ (n_heads, n_features) drawn, at few events, towards the one head that is best alone there.

    So many weights of so few people gain half a nat each by chance, and small gains come from the
    tail of the catalogue and cost the top of the list. At each knot the share of that one head
    is the square of what may be gained for nothing over what is gained, at most 1.

    Source: what is gained by chance, Wilks 1938.
    """
    columns = [features.index(name) for name in FEW_EVENTS]
    cases = candidates.take(
        candidates.phi[:, columns].any(axis=1) & (candidates.target.sum(axis=1) > 0)
    )
    hats, by_all, n_heads = cases.phi[:, columns], losses(cases, theta), len(theta)
    at = np.column_stack([np.ones(len(hats)), hats])
    alone = [replace(cases, z=cases.z[:, :, [head]], phi=at) for head in range(n_heads)]
    weights = [fit_theta(one, config) for one in alone]
    by_one = np.array([losses(*pair) for pair in zip(alone, weights, strict=True)])
    best = (by_one @ hats).argmin(axis=0)
    theta = theta.copy()
    for number, (column, head) in enumerate(zip(columns, best, strict=True)):
        near = hats[:, number]
        if not near.any():
            continue
        gained = float((by_one[head] - by_all) @ near)
        for_nothing = (n_heads - 1) / 2 + LEAST_NATS * near.sum()
        share = min(1.0, for_nothing / max(gained, 1e-9)) ** 2
        wanted = -theta[:, 0]
        wanted[head] += weights[head][0, 0] + weights[head][0, 1 + number]
        theta[:, column] += share * (wanted - theta[:, column])
    return theta


def of_seen(candidates: Candidates) -> Candidates:
    """The same cases without the items that count as never seen."""
    target = np.where(candidates.unseen, 0.0, candidates.target)
    target /= np.maximum(target.sum(axis=1, keepdims=True), 1e-9)
    log_weight = np.where(candidates.unseen, -np.inf, candidates.log_weight)
    return replace(
        candidates, target=target.astype(np.float32), log_weight=log_weight.astype(np.float32)
    )


def with_unseen(
    theta: NDArray[np.float64],
    column: int,
    candidates: Candidates,
    config: BlendConfig,
    *,
    crowd: float = 1.0,
) -> tuple[NDArray[np.float64], float]:
    """θ with what it adds for items never seen, and the nats such an item gets beside.

    For all other items θ stays as it is. Heads that learn from events alone are silent on such an
    item, so that those that read its text must say more, and its score be of the size of others'.
    The nats are lowered where known items would lose more than `unseen_loss` to such items, of
    which there may be more than there are here.

    Args:
        column: the feature that is 1 for an item never seen.
        candidates: cases some of whose targets count as never seen; heads must not have
            learnt from events of such items.
        crowd: how many items without events there are for one that counts as never seen.
    """
    if not (candidates.target * candidates.unseen).any():
        return theta, 0.0
    known = candidates.scores(theta)
    z = np.concatenate([candidates.z, np.ones((*known.shape, 1), np.float32)], axis=2)
    z *= candidates.unseen[:, :, None]
    alone = np.ones((len(z), 1))
    log_weight = candidates.log_weight + known
    new = replace(candidates, z=z, log_weight=log_weight, phi=alone, own=None)
    more = descend(new, config)[:, 0]
    more[~z.any(axis=(0, 1))] = 0.0
    theta = theta.copy()
    theta[:, column] = more[:-1]
    without_nats = known + np.where(candidates.unseen, candidates.z @ more[:-1], 0.0)
    in_crowd = candidates.log_weight + np.where(candidates.unseen, np.float32(np.log(crowd)), 0)
    crowded = replace(candidates, log_weight=in_crowd)
    return theta, _bounded(float(more[-1]), without_nats, crowded, config.unseen_loss)


def _bounded(
    nats: float, scores: NDArray[np.floating], candidates: Candidates, most: float
) -> float:
    """The nats of items never seen, lowered until known targets lose no more than `most`.

    Args:
        scores: (n_cases, width) of the blend but for the nats.
        most: share of the NDCG@10 that known targets would have if no such item were shown.
    """
    alone = of_seen(candidates)
    best = _mean_ndcg(scores, alone.log_weight, alone.target)

    def loses_more(nats: float) -> bool:
        raised = scores + np.where(candidates.unseen, nats, 0.0)
        return _mean_ndcg(raised, candidates.log_weight, alone.target) < (1 - most) * best

    if not loses_more(nats):
        return nats
    low, high = nats - LOWEST, nats
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if loses_more(middle) else (middle, high)
    return low


def _mean_ndcg(scores: NDArray[np.floating], log_weight: Floats, target: Floats) -> float:
    """NDCG@10 of single targets, summed over their shares; a drawn item stands for many."""
    found = 0.0
    for column in range(int(np.count_nonzero(target, axis=1).max(initial=0))):
        at = np.argsort(-target, axis=1, kind="stable")[:, column][:, None]
        share = np.take_along_axis(target, at, axis=1)[:, 0]
        above = scores > np.take_along_axis(scores, at, axis=1)
        place = 1 + (np.exp(log_weight) * above).sum(axis=1)
        found += float((share * np.where(place <= TOP, 1 / np.log2(1 + place), 0.0)).sum())
    return found


def _top(scores: Floats, n: int) -> NDArray[np.int64]:
    n = min(n, scores.shape[1])
    return np.argpartition(-scores, n - 1, axis=1)[:, :n]
