"""One user's row taken back out of a closed form, without solving it again."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices

log = logging.getLogger(__name__)

BLOCK = 64_000_000  # bytes for the rows that are computed at once
# Of a user's row, what others do not explain: below it, weights of float32 would not stay right to
# 1e-6. A user of m items leaves λ / (λ + m) at the least.
LEAST_LEFT = 0.1


@dataclass(frozen=True)
class Held:
    """What tells P = (XᵀX + λI)⁻¹ of weights B = -P / diag(P), and which items have no users left.

    Attributes:
        diagonal: (n_items,) float64 diag(P), 1 / λ of items without users.
        takers: (n_items,) int64 users of each item.
    """

    diagonal: NDArray[np.float64]
    takers: NDArray[np.int64]

    def without(self, own: Indices, weights: Floats) -> tuple["Held", Floats] | None:
        """The same and its weights without a user of these items; None if rounding would show.

        P becomes P + u uᵀ / (1 - xᵀu), x being the user's row of ones and u = Px. Cost n_items².

        Source: Sherman and Morrison 1950, Adjustment of an inverse matrix.
        """
        u = -(weights[:, own] @ self.diagonal[own])
        u[own] += self.diagonal[own]  # weights have no diagonal
        left = 1 - float(u[own].sum())
        if left < LEAST_LEFT:
            log.warning("forgotten=0 items=%d left=%.3g least=%g", len(own), left, LEAST_LEFT)
            return None
        after = self.diagonal + u**2 / left
        takers = self.takers.copy()
        takers[own] -= 1
        return Held(after, takers), _moved(weights, self.diagonal / after, u, u / (left * after))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `np.savez` wrote of its fields."""
        with np.load(file, allow_pickle=False) as stored:
            return cls(**stored)


def _moved(
    weights: Floats, scale: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> Floats:
    """(n, n) float32: weights @ diag(scale) - u vᵀ without its diagonal, some rows at a time."""
    moved = np.empty_like(weights)
    step = max(1, BLOCK // (16 * len(weights)))
    for start in range(0, len(weights), step):
        some = slice(start, start + step)
        moved[some] = weights[some] * scale - np.outer(u[some], v)
    moved[np.diag_indices(len(moved))] = 0.0
    return moved
