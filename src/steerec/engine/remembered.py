"""Scores that only their user's own events can change, kept until these or the heads change."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from steerec.contracts import Floats, Indices

Rows = Mapping[str, Floats]  # head → (n,) scores
NOTHING: Rows = {}


@dataclass(frozen=True, slots=True)
class Said:
    """What steady heads said of these items to a user in these states.

    Attributes:
        states: held, so that no others can be taken for them.
        items: (n,); None: the whole catalogue.
        compiled: whether by compiled loops, whose last digits are others.
        names: of the heads.
        raw: (n_heads, n) scores, in an array that nobody else has.
    """

    states: Any
    items: Indices | None
    compiled: bool
    names: tuple[str, ...]
    raw: Floats


@dataclass
class Remembered:
    """What steady heads said to those who asked lately, in a bounded memory; for many threads.

    States are made anew as soon as their user does something, so what is kept for the same states
    is what the heads would say again, as long as these are the same: else it is to be cleared.

    Attributes:
        most_bytes: of scores; 0: nothing is kept.
        n_bytes: as there are now.
        hits, misses: requests of users whose states are held, by whether their scores were there.
        era: how often it was cleared.
    """

    most_bytes: int = 0
    hits: int = 0
    misses: int = 0
    n_bytes: int = 0
    era: int = 0
    _kept: OrderedDict[int, Said] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def rows(self, states: Any, items: Indices | None, *, compiled: bool) -> Rows:
        """What was said of just these items; empty: nothing is kept of it."""
        with self._lock:
            said = self._kept.get(id(states))
            if (
                said is None
                or said.states is not states
                or said.compiled != compiled
                or not _same(said.items, items)
            ):
                self.misses += 1
                return NOTHING
            self._kept.move_to_end(id(states))
            self.hits += 1
        return dict(zip(said.names, said.raw, strict=True))

    def keep(self, said: Said, *, era: int) -> None:
        """Keep what was said; who asked longest ago makes room.

        Args:
            era: as it was before the heads were asked; what they said in another is not kept.
        """
        with self._lock:
            self._drop(id(said.states))
            if era != self.era or not 0 < said.raw.nbytes <= self.most_bytes:
                return
            self._kept[id(said.states)] = said
            self.n_bytes += said.raw.nbytes
            while self.n_bytes > self.most_bytes:
                self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all: a head says something else from now on, or a person is to be forgotten."""
        with self._lock:
            self._kept.clear()
            self.n_bytes = 0
            self.era += 1

    def afresh(self) -> "Remembered":
        """An empty one for other heads, which goes on counting; this one may still be in use."""
        return Remembered(self.most_bytes, self.hits, self.misses)

    def _drop(self, key: int) -> None:
        if (said := self._kept.pop(key, None)) is not None:
            self.n_bytes -= said.raw.nbytes


def _same(one: Indices | None, other: Indices | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
