"""Scorer: raw scores of held-out cases, kept where memory allows, so that none is made twice."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats
from steerec.data.split import Cases
from steerec.heads.contract import Head

T = TypeVar("T")

BATCH = 500  # cases scored at once
HELD_BYTES = 800_000_000  # scores of all heads kept at most; above, they are made again each time


@dataclass(frozen=True)
class Scorer:
    """Scores whole catalogues for some of the cases, head by head."""

    cases: Cases
    heads: Mapping[str, Head]
    _held: dict[str, Floats] = field(default_factory=dict)

    def rows(self, name: str, chosen: NDArray[np.int64]) -> Floats:
        """(n_chosen, n_items) scores of one head for the cases at these positions."""
        n_cases, n_items = len(self.cases), self.cases.data.n_items
        if 4 * n_cases * n_items * len(self.heads) > HELD_BYTES:
            return self._made(name, chosen)
        if name not in self._held:
            held = self._held[name] = np.empty((n_cases, n_items), np.float32)
            for start in range(0, n_cases, BATCH):
                some = np.arange(start, min(start + BATCH, n_cases))
                held[some] = self._made(name, some)
        return self._held[name][chosen]

    def _made(self, name: str, chosen: NDArray[np.int64]) -> Floats:
        head = self.heads[name]
        states = [head.start(self.cases.history(int(case))) for case in chosen]
        return head.score(states, None, self.cases.now[chosen])


def for_each(names: Iterable[str], call: Callable[[str], T]) -> dict[str, T]:
    """Name → what `call` says of it, asked two at a time.

    Where much time goes into what NumPy does on one core, with Python's lock given back. Two: each
    holds a batch of scores, and more cores are better used by the libraries below.
    """
    known = list(names)
    n_threads = min(2, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    with ThreadPoolExecutor(max(n_threads, 1)) as threads:
        return dict(zip(known, threads.map(call, known), strict=True))
