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

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.engine.limits import Limits, Mask
from steerec.errors import ConfigError

Scores = NDArray[np.float64]

LEAST_TEMPERATURE = 0.001  # colder than this is no exploration: say 0
MOST_TEMPERATURE = 100.0
TIE_DIGITS = 6  # at temperature 0, scores that agree to 1e-6 are equal
_TINY = 1e-300  # what rounding may leave of an exponential, so that its logarithm exists


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the sampler, for each scenario its own."""

    temperature: float = 0.0  # in nats: 0 shows the best list, 1 draws items by their lift
    diversity: float = 0.0  # nats an item loses that is the same as one above it

    def __post_init__(self) -> None:
        if not _is_temperature(self.temperature):
            raise ConfigError(f"sampler: {_what_temperature(self.temperature)}")
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
    policy = _Policy(scores, n, temperature, item_idx, vectors, diversity, limits)
    policy.check()
    if not policy.plain:
        return _one_by_one(policy, seed)
    if temperature == 0:
        places = _ranked(scores, item_idx)[:n]
        return Drawn(places.astype(np.int32), np.ones(len(places), np.float32), 0.0)
    keys = scores / temperature - np.log(_exponentials(seed, len(scores)))
    places = np.argsort(-keys, kind="stable")[:n]
    logs = _plackett_luce(scores[None] / temperature, places[None])[0]
    return _drawn(places, logs)


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
    policy = _Policy(scores, n, temperature, item_idx, vectors, diversity, limits)
    policy.check()
    _check_places(places[None], len(scores))
    if len(places) > n:
        raise ValueError(f"{len(places)} places shown where n={n} were asked for")
    if policy.plain and temperature > 0:
        logs: NDArray[np.float64] = _plackett_luce(scores[None] / temperature, places[None])[0]
        return np.exp(logs)
    walk = _Walk.start(policy)
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
    if temperature == 0 or not _is_temperature(temperature):
        raise ValueError(_what_temperature(temperature))
    if scores.ndim != 2 or len(scores) != len(places) or not (scores < np.inf).all():
        raise ValueError(
            f"scores {scores.shape} for slates {places.shape}: expected (n_slates, n_pool) for "
            "(n_slates, k), each score finite, or -inf where there is no item"
        )
    _check_places(places, scores.shape[1])
    p: NDArray[np.float64] = np.exp(_plackett_luce(scores / temperature, places))
    return p


@dataclass(frozen=True, eq=False)
class _Policy:
    """What decides on the slate, as in `draw`."""

    scores: Scores
    n: int
    temperature: float
    item_idx: Indices | None
    vectors: Floats | None
    diversity: float
    limits: Limits | None

    @property
    def plain(self) -> bool:
        """Whether no place changes what may follow, but for the item that is gone."""
        return self.limits is None and self.diversity == 0

    def check(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n}: expected at least 1")
        if not _is_temperature(self.temperature):
            raise ValueError(_what_temperature(self.temperature))
        if self.scores.ndim != 1 or not np.isfinite(self.scores).all():
            raise ValueError(f"scores {self.scores.shape}: expected (n_pool,), all finite")
        if not 0 <= self.diversity < np.inf:
            raise ValueError(f"diversity={self.diversity}: expected at least 0")
        n_pool = len(self.scores)
        if self.diversity > 0 and (self.vectors is None or len(self.vectors) != n_pool):
            raise ValueError(f"diversity={self.diversity}: expected {n_pool} vectors to compare by")
        if self.item_idx is not None and len(self.item_idx) != n_pool:
            raise ValueError(f"item_idx: {len(self.item_idx)} for a pool of {n_pool}")
        if self.limits is not None:
            self.limits.check(n_pool)

    def log_p(self, worth: Scores, place: int) -> float:
        """Log P(this place is taken next); -inf if it cannot be, or if nothing can."""
        if worth[place] == -np.inf:
            return -np.inf
        if self.temperature == 0:
            return 0.0 if _first(worth, self.item_idx) == place else -np.inf
        top = worth.max()
        total = np.exp((worth - top) / self.temperature).sum()
        return float((worth[place] - top) / self.temperature - np.log(total))


@dataclass(eq=False)
class _Walk:
    """How far a slate has come, place by place.

    Attributes:
        left: (n_pool,) not shown, and not pinned.
        waiting: the pins to come, place → index in the pool.
        closest: (n_pool,) greatest cosine with an item above, at least 0.
        counts: (n_groups,) of the limits, with all pins.
    """

    policy: _Policy
    left: Mask
    waiting: dict[int, int]
    closest: Floats
    counts: NDArray[np.int64]

    @classmethod
    def start(cls, policy: _Policy) -> "_Walk":
        n_pool = len(policy.scores)
        left = np.ones(n_pool, bool)
        waiting: dict[int, int] = {}
        counts = np.zeros(0, np.int64)
        if policy.limits is not None:
            pins = sorted(policy.limits.pinned.items())
            waiting = {place: item for place, item in pins if place < policy.n}
            left[list(waiting.values())] = False
            counts = policy.limits.groups[:, list(waiting.values())].sum(axis=1)
        return cls(policy, left, waiting, np.zeros(n_pool, np.float32), counts)

    def worth(self, at: int) -> Scores:
        """(n_pool,) scores for this place of the slate, -inf where an item may not come."""
        scores = self.policy.scores
        if self.policy.diversity > 0:
            scores = scores - self.policy.diversity * self.closest
        return np.where(self._may(at), scores, -np.inf)

    def take(self, at: int, item: int) -> None:
        """Put the item at this place of the slate."""
        pinned = item in self.waiting.values()
        if pinned:
            self.waiting = {place: pin for place, pin in self.waiting.items() if pin != item}
        self.waiting.pop(at, None)  # shown something else than the pin there
        self.left[item] = False
        if self.policy.diversity > 0 and self.policy.vectors is not None:
            vectors = self.policy.vectors
            np.maximum(self.closest, vectors @ vectors[item], out=self.closest)
        if self.policy.limits is not None and not pinned:
            self.counts = self.counts + self.policy.limits.groups[:, item]

    def _may(self, at: int) -> Mask:
        """(n_pool,) the pin of this place, else what limits leave, else the next pin."""
        limits, pin = self.policy.limits, self.waiting.get(at)
        if limits is None:
            return self.left
        if pin is None:
            free = self.policy.n - at - len(self.waiting)
            may = limits.leave(self.left, self.counts, free)
            if may.any() or not self.waiting:
                return may
            pin = next(iter(self.waiting.values()))
        only = np.zeros(len(self.left), bool)
        only[pin] = True
        return only


def _one_by_one(policy: _Policy, seed: int) -> Drawn:
    """The race with rates that change from place to place."""
    walk = _Walk.start(policy)
    left = _exponentials(seed, len(policy.scores))
    places: list[int] = []
    logs: list[float] = []
    for at in range(min(policy.n, len(policy.scores))):
        worth = walk.worth(at)
        top = worth.max()
        if top == -np.inf:
            break
        if policy.temperature == 0:
            item, log_p = _first(worth, policy.item_idx), 0.0
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
    shown = np.take_along_axis(logits, places, axis=1)
    others = logits.copy()
    np.put_along_axis(others, places, -np.inf, axis=1)
    top = logits.max(axis=1, keepdims=True, initial=-1e300)
    with np.errstate(divide="ignore"):  # nothing besides the slate: log 0 is meant
        rest = np.log(np.exp(others - top).sum(axis=1, keepdims=True)) + top
    upwards = np.concatenate([rest, shown[:, ::-1]], axis=1)
    left = np.logaddexp.accumulate(upwards, axis=1)[:, :0:-1]
    return np.where(shown == -np.inf, -np.inf, shown - np.where(left == -np.inf, 0, left))


def _exponentials(seed: int, n: int) -> NDArray[np.float64]:
    """(n,) unit exponentials, the same for the same seed in every version of NumPy.

    Only the raw numbers of a bit generator are promised to stay, not what distributions make of
    them; a slate must be the same when it is replayed years later.
    """
    raw = np.random.Philox(key=seed & (2**64 - 1)).random_raw(n)
    inside = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # never 0, never 1
    found: NDArray[np.float64] = -np.log(inside)
    return found


def _ranked(scores: Scores, item_idx: Indices | None) -> NDArray[np.intp]:
    rounded = -np.round(scores, TIE_DIGITS)
    if item_idx is None:
        return np.argsort(rounded, kind="stable")
    return np.lexsort((item_idx, rounded))


def _first(worth: Scores, item_idx: Indices | None) -> int:
    """The best place, ties by item."""
    rounded = np.round(worth, TIE_DIGITS)
    if item_idx is None:
        return int(np.argmax(rounded))
    ties = np.flatnonzero(rounded == rounded.max())
    return int(ties[np.argmin(item_idx[ties])])


def _is_temperature(value: float) -> bool:
    return value == 0 or LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE


def _what_temperature(value: float) -> str:
    return (
        f"temperature={value}: expected 0 for no exploration, or "
        f"{LEAST_TEMPERATURE} to {MOST_TEMPERATURE:g}"
    )


def _check_places(places: NDArray[np.integer], n_pool: int) -> None:
    if places.size == 0:
        return
    if places.min() < 0 or places.max() >= n_pool:
        raise ValueError(f"places {places.min()} to {places.max()} for a pool of {n_pool}")
    if (np.diff(np.sort(places, axis=1), axis=1) == 0).any():
        raise ValueError("places: an item is shown twice in one slate")
