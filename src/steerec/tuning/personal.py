"""What one person's reactions add to the shared head weights, small and shrunk."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from steerec.tuning.observed import Doubles, Epoch, Observed

SHRINK_ROWS = 200.0  # shown items (20 lists of ten) after which half of what they say is believed
MOST_SHARE = 0.25  # of ‖w‖
FORGET_ROWS = 400.0  # shown items after which an old one weighs 1/e


@dataclass(frozen=True, slots=True, eq=False)
class Offset:
    """Part of one user's state; erased with them, and not used in the control arm.

    Attributes:
        value: (n_heads,) added to w; `within` cuts it to the length that w allows.
        curvature: (n_heads,) what was learnt from, per head.
        rows: how many shown items, old ones counting less.
    """

    value: Doubles
    curvature: Doubles
    rows: float = 0.0

    @classmethod
    def none(cls, n_heads: int) -> "Offset":
        """Of a person never seen."""
        return cls(np.zeros(n_heads), np.zeros(n_heads))

    def after(self, observed: Observed, epoch: Epoch) -> "Offset":
        """The offset after rows of this person, taken on what w and the offset leave unsaid.

        Each row's curvature is split among the heads in proportion to |z|, which bounds the true
        one from above: heads that agree do not each take the whole of the residual.

        Source: separable surrogates, De Pierro 1995, section III.
        """
        rows = observed.sound()
        if len(rows) == 0:
            return self
        x = epoch.gamma * rows.z
        w = np.linalg.norm(rows.phi.mean(axis=0) @ epoch.theta.T)
        value = _cut(self.value, float(w))
        p = special.expit(epoch.log_odds(rows) + x @ value)
        keep = float(np.exp(-rows.weight.sum() / FORGET_ROWS))
        spread = rows.weight * np.maximum(p * (1 - p), 1e-3)
        told = spread @ (np.abs(x) * np.abs(x).sum(axis=1, keepdims=True))
        curvature = keep * self.curvature + told
        n = keep * self.rows + float(rows.weight.sum())
        shrunk = curvature * (1 + SHRINK_ROWS / max(n, 1e-9))
        value = value + (rows.weight * (rows.reward - p)) @ x / np.maximum(shrunk, 1e-9)
        return Offset(_cut(value, float(w)), curvature, n)

    def within(self, w: Doubles) -> Doubles:
        """(n_heads,) to add to these head weights: at most a quarter of their length."""
        return _cut(self.value, float(np.linalg.norm(w)))


def _cut(value: Doubles, length: float) -> Doubles:
    most, norm = MOST_SHARE * length, float(np.linalg.norm(value))
    return value if norm <= most else value * (most / norm)
