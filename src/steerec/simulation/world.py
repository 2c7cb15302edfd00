"""A world: visitors, what they would click, and the log that heads may learn from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices
from steerec.data.dataset import Dataset
from steerec.simulation.chance import CLICK, uniform
from steerec.simulation.visits import Visit, Visits

DRIFT_AT = 0.5  # share of the run after which tastes are others
POSITION_POWER = 0.7


def examined(n: int) -> NDArray[np.float64]:
    """(n,): probability that each place of a list is looked at, 1/position^0.7."""
    return np.asarray(1.0 / np.arange(1, n + 1) ** POSITION_POWER)


@dataclass(frozen=True)
class World:
    """Answers slates with clicks from a truth that no tuner sees.

    Attributes:
        name: jester, films or shop.
        data: the log that heads are fitted on; its catalogue holds items that arrive later.
        starts: each visitor's history before the first visit.
        truth: before and after the drift, each (n_visitors, n_items) float32, P(click | examined).
        hidden: (n_visitors, n_items), what is never shown to a visitor.
        arrives: (n_items,) float64, share of the run after which an item may be shown.
        forgets: whether an item that was shown without a click may be shown to the visitor again.
        visits: the stream of visits for a seed.
        start_s: Unix seconds at which the run begins; NaN where the log has no times.
    """

    name: str
    data: Dataset
    starts: tuple[History, ...]
    truth: tuple[Floats, Floats]
    hidden: NDArray[np.bool_]
    arrives: NDArray[np.float64]
    forgets: bool
    visits: Callable[[int], Visits]
    start_s: float = float("nan")

    @property
    def n_visitors(self) -> int:
        """How many people may come."""
        return len(self.starts)

    def interest(self, progress: float) -> Floats:
        """(n_visitors, n_items): P(click | examined) at this share of the run."""
        return self.truth[int(progress >= DRIFT_AT)]

    def clicks(
        self, visit: Visit, items: Indices, *, progress: float, seed: int
    ) -> NDArray[np.bool_]:
        """(n_visits, n_places): which shown items get a click; -1 stands for an empty place.

        Whether somebody clicks depends on visitor, visit and item by the same luck for whatever
        policy showed it; only the place matters beside.
        """
        likely = self.expected(visit, items, progress=progress)
        luck = uniform(seed, CLICK, visit.visitor[:, None], visit.number[:, None], items + 1)
        return np.asarray(luck < likely)

    def expected(self, visit: Visit, items: Indices, *, progress: float) -> NDArray[np.float64]:
        """(n_visits, n_places): probability of a click on each shown item; 0 for -1."""
        wanted = self.interest(progress)[visit.visitor[:, None], items]
        return np.asarray(np.where(items >= 0, wanted * examined(items.shape[1]), 0.0))
