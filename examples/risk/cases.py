"""A case: somebody to decide on at a moment, what was known then, and what came of it."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Cases:
    """One case a row.

    unit: (n,) number of the client or transaction; fold and bootstrap go by it.
    time: (n,) Unix seconds of the decision.
    x: (n, d) features, NaN where unknown.
    phi: (n, f) context that turns the weights of the scorers, the first column 1.
    loss: (n,) money lost if it goes wrong and nobody looked.
    outcome: (n,) 1 bad, 0 good, NaN not known.
    trail: (n, k) codes of past behaviour, newest last, -1 where there is none.
    after: (n,) code of the behaviour that followed, -1 where not known.
    """

    unit: np.ndarray
    time: np.ndarray
    x: np.ndarray
    phi: np.ndarray
    loss: np.ndarray
    outcome: np.ndarray
    trail: np.ndarray
    after: np.ndarray

    def __len__(self):
        return len(self.unit)

    def __getitem__(self, rows):
        return Cases(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def known(self):
        """(n,) whether the outcome is known."""
        return np.isfinite(self.outcome)

    @cached_property
    def hidden(self):
        """What may be seen when deciding; the same object each time."""
        return replace(self, outcome=np.full(len(self), np.nan), after=np.full(len(self), -1))

    @property
    def one_class(self):
        """Whether there is nothing to tell apart."""
        return len(np.unique(self.outcome[self.known])) < 2

    @classmethod
    def together(cls, parts):
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))
