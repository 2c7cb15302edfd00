"""What decides on the next place of a slate, given the items above it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.engine.limits import Limits, Mask

Scores = NDArray[np.float64]

LEAST_TEMPERATURE = 0.001  # colder than this is no exploration: say 0
MOST_TEMPERATURE = 100.0
TIE_DIGITS = 6  # at temperature 0, scores that agree to 1e-6 are equal


@dataclass(frozen=True, eq=False)
class Policy:
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
        """See that the parts fit each other.

        Raises:
            ValueError: if they do not.
        """
        if self.n < 1:
            raise ValueError(f"n={self.n}: expected at least 1")
        if not is_temperature(self.temperature):
            raise ValueError(what_temperature(self.temperature))
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
            return 0.0 if first_of(worth, self.item_idx) == place else -np.inf
        top = worth.max()
        total = np.exp((worth - top) / self.temperature).sum()
        return float((worth[place] - top) / self.temperature - np.log(total))


@dataclass(eq=False)
class Walk:
    """How far a slate has come, place by place.

    Attributes:
        left: (n_pool,) not shown, and not pinned.
        waiting: the pins to come, place → index in the pool.
        closest: (n_pool,) greatest cosine with an item above, at least 0.
        counts: (n_groups,) of the limits, with all pins.
    """

    policy: Policy
    left: Mask
    waiting: dict[int, int]
    closest: Floats
    counts: NDArray[np.int64]

    @classmethod
    def start(cls, policy: Policy) -> "Walk":
        """Nothing shown yet; the pins wait for their places."""
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


def first_of(worth: Scores, item_idx: Indices | None) -> int:
    """The best place, ties by item."""
    rounded = np.round(worth, TIE_DIGITS)
    if item_idx is None:
        return int(np.argmax(rounded))
    ties = np.flatnonzero(rounded == rounded.max())
    return int(ties[np.argmin(item_idx[ties])])


def is_temperature(value: float) -> bool:
    """Whether the sampler takes it."""
    return value == 0 or LEAST_TEMPERATURE <= value <= MOST_TEMPERATURE


def what_temperature(value: float) -> str:
    """The complaint about one that it does not take."""
    return (
        f"temperature={value}: expected 0 for no exploration, or "
        f"{LEAST_TEMPERATURE} to {MOST_TEMPERATURE:g}"
    )
