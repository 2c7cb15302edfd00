"""Who comes next: a fixed schedule, or people who return sooner when they saw what they want."""

import heapq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Indices, Times
from steerec.simulation.chance import LEAVE, RETURN, uniform

DAY_S = 86_400.0
SOON_DAYS = 7.0  # a return within this time counts as one


@dataclass(frozen=True)
class Visit:
    """Some visits that come next, of different visitors.

    Attributes:
        visitor: (n,) int32.
        number: (n,) int32, 0 for a visitor's first visit.
        time: (n,) float64, seconds since the start; NaN in a world without clock.
    """

    visitor: Indices
    number: Indices
    time: Times

    def __len__(self) -> int:
        return len(self.visitor)


class Visits(Protocol):
    """The stream of visits of one run; it holds where the run is."""

    def next(self, most: int) -> Visit:
        """At most `most` visits, no visitor twice; empty when nobody comes any more."""
        ...

    def tell(self, visit: Visit, clicks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Hear how many clicks each slate got; which visitors return soon."""
        ...


@dataclass
class Schedule:
    """A fixed number of visits of everybody in an order drawn once, whatever is shown.

    Attributes:
        order: (n_visits,) int32, visitors.
    """

    order: Indices
    at: int = 0
    count: dict[int, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, n_visitors: int, each: int, seed: int) -> "Schedule":
        """`each` visits of everybody, mixed."""
        rng = np.random.default_rng([seed, n_visitors, each])
        everybody = np.repeat(np.arange(n_visitors, dtype=np.int32), each)
        return cls(rng.permutation(everybody))

    def next(self, most: int) -> Visit:
        """See Visits: ends before a visitor would come twice."""
        some = self.order[self.at : self.at + most]
        _, first = np.unique(some, return_index=True)
        again = np.setdiff1d(np.arange(len(some)), first)
        some = some[: again[0]] if len(again) else some
        self.at += len(some)
        number = np.array([self.count.get(int(v), 0) for v in some], np.int32)
        for visitor in some.tolist():
            self.count[visitor] = self.count.get(visitor, 0) + 1
        return Visit(some, number, np.full(len(some), np.nan))

    def tell(self, visit: Visit, clicks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """See Visits: nobody stays away for what was shown."""
        each = len(self.order) // (int(self.order.max()) + 1)
        return np.asarray(visit.number + 1 < each)


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How people come back.

    Attributes:
        gap_days: mean time to the next visit of somebody who clicked nothing.
        sooner: by how much one click shortens the gap, as a factor's logarithm.
        leave: probability to leave after a slate without a click.
        stay: by how much one click lowers it, as a factor's logarithm.
        away_days: mean time until somebody who left looks in again.
    """

    gap_days: float = 8.0
    sooner: float = 0.35
    leave: float = 0.30
    stay: float = 0.60
    away_days: float = 60.0


@dataclass
class Returning:
    """People with habits; those who see what they want return sooner, others may leave.

    Attributes:
        due: heap of (time in seconds, visitor), each visitor at most once.
        count: (n_visitors,) visits so far.
    """

    habits: Habits
    seed: int
    due: list[tuple[float, int]]
    count: Indices

    @classmethod
    def begin(cls, first_s: Times, habits: Habits, seed: int) -> "Returning":
        """From the times of everybody's first visit."""
        due = [(float(at), visitor) for visitor, at in enumerate(first_s)]
        heapq.heapify(due)
        return cls(habits, seed, due, np.zeros(len(first_s), np.int32))

    def next(self, most: int) -> Visit:
        """See Visits: the earliest due."""
        came = [heapq.heappop(self.due) for _ in range(min(most, len(self.due)))]
        visitor = np.array([v for _, v in came], np.int32)
        number = self.count[visitor]
        self.count[visitor] += 1
        return Visit(visitor, number, np.array([at for at, _ in came]))

    def tell(self, visit: Visit, clicks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """See Visits."""
        habits, names = self.habits, (visit.visitor, visit.number)
        left = uniform(self.seed, LEAVE, *names) < habits.leave * np.exp(-habits.stay * clicks)
        mean = np.where(left, habits.away_days, habits.gap_days * np.exp(-habits.sooner * clicks))
        gap_days = -np.log(uniform(self.seed, RETURN, *names)) * mean
        for visitor, at in zip(visit.visitor, visit.time + gap_days * DAY_S, strict=True):
            heapq.heappush(self.due, (float(at), int(visitor)))
        return np.asarray(gap_days <= SOON_DAYS)
