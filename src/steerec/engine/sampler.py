"""The sampler: draws a slate from the pool place by place, and knows how likely each place was.

One unit exponential x_i per item decides everything: item i arrives at time x_i / rate_i with
rate_i = exp(score_i / temperature), and the first to arrive takes the place. While scores stay as
they are, the order of arrival is the whole slate at once (the Gumbel-top-k trick, -log x being
Gumbel noise). When a place changes scores or forbids items, what is left of each x after the last
arrival is again a unit exponential, so the race goes on with the new rates and the same noise.

Source: Kool, van Hoof and Welling 2019, Stochastic beams and where to find them, section 2;
Carbonell and Goldstein 1998, The use of MMR, for the diversity gain.
"""

import hashlib
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, Indices
from steerec.engine.limits import Limits
from steerec.engine.noise import exponentials
from steerec.engine.walk import (
    TIE_DIGITS,
    Policy,
    Scores,
    Walk,
    first_of,
    is_temperature,
    what_temperature,
)
from steerec.errors import ConfigError
from steerec.kernels import loaded

_TINY = 1e-300  # what rounding may leave of an exponential, so that its logarithm exists


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the sampler, for each scenario its own."""

    temperature: float = 0.0  # in nats: 0 shows the best list, 1 draws items by their lift
    diversity: float = 0.0  # nats an item loses that is the same as one above it

    def __post_init__(self) -> None:
        if not is_temperature(self.temperature):
            raise ConfigError(f"sampler: {what_temperature(self.temperature)}")
        if not 0 <= self.diversity < np.inf:
            raise ConfigError(f"sampler: diversity={self.diversity}: expected at least 0")


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A slate as it was drawn.

    Attributes:
        places: (k,) indices in the pool, top of the slate first.
        propensity: (k,) probability of each item at its place, given the items above.
        log_probability: logarithm of the probability of the whole slate, in nats.
    """

    places: Indices
    propensity: Floats
    log_probability: float


def seed_of(request_id: str) -> int:
    """The seed of a request: signed 64-bit, the same for the same id."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def draw(
    scores: Scores,
    *,
    n: int,
    temperature: float,
    seed: int,
    item_idx: Indices | None = None,
    vectors: Floats | None = None,
    diversity: float = 0.0,
    limits: Limits | None = None,
) -> Drawn:
    """Draw a slate of at most `n` items; the same arguments draw the same slate.

    Without quotas and pins a longer `n` goes on where a shorter one ended.

    Args:
        scores: (n_pool,) finite, in nats.
        temperature: 0 takes the best at each place, with propensity 1.
        seed: any integer of 64 bits.
        item_idx: (n_pool,) breaks ties at temperature 0; None: the pool's own order does.
        vectors: (n_pool, d) of unit length, or zero where an item has none; for diversity.
        diversity: what an item's score loses by its greatest cosine with an item above.
    Raises:
        ValueError: if an argument is out of range or of another shape.
    """
    policy = Policy(scores, n, temperature, item_idx, vectors, diversity, limits)
    policy.check()
    if not policy.plain:
        return _one_by_one(policy, seed)
    if temperature == 0:
        places = _ranked(scores, item_idx)[:n]
        return Drawn(places.astype(np.int32), np.ones(len(places), np.float32), 0.0)
    if loaded():
        worth = np.ascontiguousarray(scores, np.float64)
        return _drawn(*kernels.drawing.race(worth, temperature, np.uint64(seed & (2**64 - 1)), n))
    logits = scores / temperature
    keys = logits - np.log(exponentials(seed, len(scores)))
    places = np.argsort(-keys, kind="stable")[:n]
    return _drawn(places, _one_plackett_luce(logits, places))


def conditional(
    scores: Scores,
    places: Indices,
    *,
    temperature: float,
    n: int | None = None,
    item_idx: Indices | None = None,
    vectors: Floats | None = None,
    diversity: float = 0.0,
    limits: Limits | None = None,
) -> NDArray[np.float64]:
    """Probability that `draw` gives each place to the item there, given the items above.

    Args:
        places: (k,) indices in the pool of what was shown, top first.
        n: the length that was asked for, on which quotas depend; None: k.
    Returns:
        (k,), 0 where `draw` would never do so.
    Raises:
        ValueError: as `draw`, or if a place is shown twice or is not in the pool.
    """
    n = max(len(places), 1) if n is None else n
    policy = Policy(scores, n, temperature, item_idx, vectors, diversity, limits)
    policy.check()
    _check_places(places[None], len(scores))
    if len(places) > n:
        raise ValueError(f"{len(places)} places shown where n={n} were asked for")
    if policy.plain and temperature > 0:
        logs: NDArray[np.float64] = _plackett_luce(scores[None] / temperature, places[None])[0]
        return np.exp(logs)
    walk = Walk.start(policy)
    p = np.zeros(len(places))
    for at, place in enumerate(places):
        worth = walk.worth(at)
        p[at] = np.exp(policy.log_p(worth, int(place)))
        walk.take(at, int(place))
    return p


def conditional_many(
    scores: Scores, places: NDArray[np.integer], *, temperature: float
) -> NDArray[np.float64]:
    """`conditional` for many slates at once, without diversity and limits.

    Args:
        scores: (n_slates, n_pool), -inf beyond the end of a smaller pool.
        places: (n_slates, k) indices in the pool.
        temperature: above 0.
    Returns:
        (n_slates, k) float64.
    Raises:
        ValueError: if the temperature is 0, a score is NaN, or a place is shown twice.
    """
    if temperature == 0 or not is_temperature(temperature):
        raise ValueError(what_temperature(temperature))
    if scores.ndim != 2 or len(scores) != len(places) or not (scores < np.inf).all():
        raise ValueError(
            f"scores {scores.shape} for slates {places.shape}: expected (n_slates, n_pool) for "
            "(n_slates, k), each score finite, or -inf where there is no item"
        )
    _check_places(places, scores.shape[1])
    p: NDArray[np.float64] = np.exp(_plackett_luce(scores / temperature, places))
    return p


def _one_by_one(policy: Policy, seed: int) -> Drawn:
    """The race with rates that change from place to place."""
    walk = Walk.start(policy)
    left = exponentials(seed, len(policy.scores))
    places: list[int] = []
    logs: list[float] = []
    for at in range(min(policy.n, len(policy.scores))):
        worth = walk.worth(at)
        top = worth.max()
        if top == -np.inf:
            break
        if policy.temperature == 0:
            item, log_p = first_of(worth, policy.item_idx), 0.0
        else:
            log_rates = (worth - top) / policy.temperature
            rates = np.exp(log_rates)
            item = int(np.argmax(log_rates - np.log(left)))
            log_p = float(log_rates[item] - np.log(rates.sum()))
            left = np.maximum(left - rates * (left[item] / rates[item]), _TINY)
        places.append(item)
        logs.append(log_p)
        walk.take(at, item)
    return _drawn(np.array(places, np.int32), np.array(logs))


def _drawn(places: NDArray[np.integer], logs: NDArray[np.float64]) -> Drawn:
    return Drawn(places.astype(np.int32), np.exp(logs).astype(np.float32), float(logs.sum()))


def _plackett_luce(logits: Scores, places: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n_slates, k) log P of each place given those above.

    Sums what is left from the end of the slate upwards: nothing is ever taken away from a sum,
    so no digits are lost where one item has nearly all the mass.
    """
    rows = np.arange(len(places))[:, None]
    shown = logits[rows, places]
    others = logits.copy()
    others[rows, places] = -np.inf
    top = others.max(axis=1, keepdims=True, initial=-1e300)  # of the others, lest all underflow
    with np.errstate(divide="ignore"):  # nothing besides the slate: log 0 is meant
        rest = np.log(np.exp(others - top).sum(axis=1, keepdims=True)) + top
    upwards = np.hstack([rest, shown[:, ::-1]])
    left = np.logaddexp.accumulate(upwards, axis=1)[:, :0:-1]
    return np.where(shown == -np.inf, -np.inf, shown - np.where(left == -np.inf, 0, left))


def _one_plackett_luce(logits: Scores, places: NDArray[np.integer]) -> NDArray[np.float64]:
    """`_plackett_luce` of one slate of finite logits: fewer calls, as each costs a microsecond."""
    others = logits.copy()
    others[places] = -np.inf
    top = max(float(others.max(initial=-1e300)), -1e300)
    mass = float(np.exp(others - top).sum())
    upwards = np.empty(len(places) + 1)
    upwards[0] = log(mass) + top if mass > 0 else -np.inf
    upwards[1:] = logits[places[::-1]]
    left = np.logaddexp.accumulate(upwards)[:0:-1]
    return np.asarray(logits[places] - left, np.float64)


def _ranked(scores: Scores, item_idx: Indices | None) -> NDArray[np.intp]:
    rounded = -np.round(scores, TIE_DIGITS)
    if item_idx is None:
        return np.argsort(rounded, kind="stable")
    return np.lexsort((item_idx, rounded))


def _check_places(places: NDArray[np.integer], n_pool: int) -> None:
    if places.size == 0:
        return
    if places.min() < 0 or places.max() >= n_pool:
        raise ValueError(f"places {places.min()} to {places.max()} for a pool of {n_pool}")
    if (np.diff(np.sort(places, axis=1), axis=1) == 0).any():
        raise ValueError("places: an item is shown twice in one slate")
