"""What each worker gathers of the rows it sees; sums of different workers add up."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import linalg, special

from steerec.tuning.arrays import read_arrays, write_arrays
from steerec.tuning.design import Design
from steerec.tuning.observed import Doubles, Epoch, Observed

LEAST_CURVATURE = 1e-3  # of p(1 − p): a sure and wrong model must not leap


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What one worker gathered at one epoch; additive.

    Attributes:
        epoch: at whose β the curvature and the gradient were taken.
        number: of the worker's statistics, rising by 1; one seen before is not added again.
        curvature: (size, size) Σ ωp(1−p)xxᵀ.
        linear: (size,) Σ ω(y−p)x, plus curvature·β of the epoch: a quadratic around any β.
        rows: Σ ω.
        refused: rows that could not be learnt from.
    """

    epoch: int
    worker: str
    number: int
    curvature: Doubles
    linear: Doubles
    rows: float
    refused: int = 0

    def is_sound(self, size: int) -> bool:
        """Whether these are finite sums of this size."""
        return (
            self.curvature.shape == (size, size)
            and self.linear.shape == (size,)
            and bool(np.isfinite(self.curvature).all())
            and bool(np.isfinite(self.linear).all() and np.isfinite(self.rows))
        )

    def to_bytes(self) -> bytes:
        """For another process; numbers stay as they are to the last bit."""
        return write_arrays({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """See to_bytes.

        Raises:
            DataError: if these are no statistics.
        """
        return cls(**read_arrays(body, cls.__dataclass_fields__))


class Sums:
    """What one worker gathers between two epochs."""

    def __init__(self, design: Design, epoch: Epoch, *, worker: str, number: int = 0) -> None:
        self._design = design
        self._worker = worker
        self._number = number
        self.epoch = epoch
        self._clear()

    def _clear(self) -> None:
        size = self._design.size
        self._curvature = np.zeros((size, size), order="F")
        self._gradient = np.zeros(size)
        self._rows = 0.0
        self._refused = 0

    def observe(self, observed: Observed) -> None:
        """Add rows. O(size²) each."""
        rows = observed.sound()
        self._refused += len(observed) - len(rows)
        if len(rows) == 0:
            return
        x, log_odds = self._design.rows(rows, self.epoch)
        p = special.expit(log_odds)
        spread = np.maximum(p * (1 - p), LEAST_CURVATURE)
        scaled = x * np.sqrt(rows.weight * spread)[:, None]
        self._curvature = linalg.blas.dsyrk(
            1.0, scaled.T, beta=1.0, c=self._curvature, lower=1, overwrite_c=1
        )
        self._gradient += (rows.weight * (rows.reward - p)) @ x
        self._rows += float(rows.weight.sum())

    def amend(self, observed: Observed) -> None:
        """Add late differences of reward to rows that were observed before."""
        rows = observed.sound(most_reward=2.0)
        self._refused += len(observed) - len(rows)
        if len(rows):
            x, _ = self._design.rows(rows, self.epoch)
            self._gradient += (rows.weight * rows.reward) @ x

    def take(self) -> Statistics:
        """What was gathered since the last call; it is forgotten here."""
        self._number += 1
        curvature = np.tril(self._curvature) + np.tril(self._curvature, -1).T
        found = Statistics(
            self.epoch.number,
            self._worker,
            self._number,
            curvature,
            self._gradient + curvature @ self._design.pack(self.epoch),
            self._rows,
            self._refused,
        )
        self._clear()
        return found

    def adopt(self, epoch: Epoch) -> Statistics | None:
        """Go on from a new epoch; what was gathered at the one before, None if nothing."""
        left = self.take() if self._rows or self._refused or self._gradient.any() else None
        self.epoch = epoch
        return left
