"""What every head promises, and the defaults of heads whose state is the history itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset


def unwatched(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Lesson:
    """What a head that trains by epochs may use beside its data.

    Attributes:
        watch: called with what is done, steps done and steps in all.
        folder: where a checkpoint is kept after each epoch and taken up again; None: nowhere.
        previous: a head of the same kind to go on from; None: from the start.
        rows: (n_items,) the item's index in `previous`, -1 where it has none.
    """

    watch: Callable[[str, int, int], None] = unwatched
    folder: Path | None = None
    previous: Any = None
    rows: Indices | None = None


class Head(Protocol):
    """One model of interest. Shared and read-only but for `observe`; a person's part is `state`."""

    name: ClassVar[str]

    @property
    def n_items(self) -> int:
        """Items in the catalogue it was fitted on."""
        ...

    @classmethod
    def fit(cls, data: Dataset, config: Any, rng: np.random.Generator) -> Self:
        """Learn from the events of `data`; return a usable head.

        Raises:
            DataError: if the data cannot teach this head (for example content without vectors).
        """
        ...

    def start(self, history: History) -> Any:
        """The state of a user with these events (possibly none), oldest first."""
        ...

    def update(self, state: Any, event: History) -> Any:
        """The state after the one event in `event`; the given state stays as it was."""
        ...

    def observe(self, state: Any, event: History) -> None:
        """Count one event of a user in `state` (before it) into what all users share, live."""
        ...

    def score(self, states: Sequence[Any], items: Indices | None, now: Times) -> Floats:
        """Score items for each state.

        Args:
            items: (n,) item indices; None: the whole catalogue.
            now: (len(states),) Unix seconds of each request, NaN where times play no part.
        Returns:
            (len(states), n) float32, higher is better, NaN where this head knows nothing.
        """
        ...

    def retrieve(self, state: Any, n: int, now: float) -> Indices:
        """At most `n` items this head would bring forward, best first; empty if it knows none."""
        ...

    def because(self, state: Any, item_idx: int) -> Floats:
        """(n_events_in_history,) how much each event of the history spoke for this item.

        An empty array where the head does not reason from single events.
        """
        ...

    def forget(self, user_idx: int, history: History) -> bool:
        """Take a user's events back out; True if exact, False if it waits for the next refit."""
        ...

    def grown(self, data: Dataset) -> Self:
        """The head for a catalogue with more items at its end.

        One that knows nothing of them stays as it is, with fewer items than the catalogue; user
        states stay good.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the fitted head into an existing folder, no pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


class Room:
    """Zeros to add in, for one request at a time, so that nothing large is made for each."""

    def __init__(self) -> None:
        self._zeros: dict[int, Floats] = {}
        self._marks: dict[int, NDArray[np.bool_]] = {}

    def zeros(self, n: int) -> Floats:
        """(n,) float32, which whoever takes it leaves as zeros again."""
        if n not in self._zeros:
            self._zeros[n] = np.zeros(n, np.float32)
        return self._zeros[n]

    def marks(self, n: int) -> NDArray[np.bool_]:
        """(n,) of False, likewise."""
        if n not in self._marks:
            self._marks[n] = np.zeros(n, bool)
        return self._marks[n]


class Quick(Protocol):
    """A head that answers one user with compiled loops, as `score` would but for rounding."""

    def answer(
        self, state: Any, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """Write (n,) scores to `out`; False: it cannot in this case, ask `score`."""
        ...

    def because_each(self, state: Any, items: Indices, room: Room) -> Floats:
        """(n_items, n) `because` of several items, none named twice, of the newest events.

        A head may have `answer` alone.
        """
        ...

    def find(self, state: Any, n: int, now: float, room: Room) -> Indices | None:
        """`retrieve`; None: it cannot in this case. A head may do without."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A head with something to work out, once, before compiled loops can ask it."""

    def prepare(self) -> None:
        """Work it out now; else the first list waits for it."""
        ...


class Counts(Protocol):
    """A head that counts live, taking an event as plain numbers: many come in a second."""

    def count(self, before: History, item_idx: int, weight: float, time: float) -> None:
        """`observe` of one event, after all of these."""
        ...


class HistoryHead:
    """Defaults for heads whose state is the user's newest events."""

    keep: ClassVar[int] = 1_000  # newest events kept in a state
    counts_live: ClassVar[bool] = False  # whether `observe` changes what is shared
    steady: ClassVar[bool] = False  # whether nothing but state, `forget` and growth moves scores

    def start(self, history: History) -> History:
        """See Head."""
        return history.last(self.keep)

    def update(self, state: History, event: History) -> History:
        """See Head."""
        return state.then(event).last(self.keep)

    def observe(self, state: History, event: History) -> None:
        """See Head: nothing is counted live."""

    def near(self, state: History) -> Indices | None:
        """Items among which `retrieve` looks, rising; None: the whole catalogue."""
        return None

    def retrieve(self, state: History, n: int, now: float) -> Indices:
        """See Head: the best of what is near the history, or else of the whole catalogue."""
        items = self.near(state)
        found = best(self.score([state], items, np.array([now]))[0], n)
        return found if items is None else items[found]

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head."""
        raise NotImplementedError

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head: this head does not reason from single events."""
        return np.empty(0, np.float32)

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: waits for the next refit."""
        return False

    def grown(self, data: Dataset) -> Self:
        """See Head: knows nothing of new items."""
        return self


def best(scores: Floats, n: int) -> Indices:
    """Indices of the `n` largest numbers, largest first, ties by index, NaN left out."""
    known = np.flatnonzero(~np.isnan(scores))
    if n < len(known):
        part = np.argpartition(-scores[known], n - 1)
        edge = scores[known[part[n - 1]]]
        known = known[scores[known] >= edge]  # all ties at the edge, so that index decides
    order = np.argsort(-scores[known], kind="stable")
    return known[order][:n].astype(np.int32)
