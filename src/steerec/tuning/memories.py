"""What was learnt, forgotten at several rates at once; how well each foretells says how much."""

from collections.abc import Callable

import numpy as np

from steerec.tuning.observed import Doubles

_LEAST = 1e-300  # a share that rounding has made 0


class Memories:
    """Sums of all statistics so far, once for each rate of forgetting, each believed by a share.

    Rows that come are foretold by each before they are added, and the shares of belief move by how
    likely each held them. In a steady world the longest come to lead, after a turn a short one does
    within some hundred rows, and no alarm is needed that may ring too late, or for nothing. What
    is learnt is the mean of what they say, since noise in one is not noise in all.

    Attributes:
        rows: shown items after which an old one weighs 1/e, of each.
        curvature: (n, size, size).
        linear: (n, size).
        shares: (n,) of belief, summing to 1.
    Source: dynamic model averaging (Raftery, Kárný, Ettler 2010), the shares by Fixed-Share
        (Herbster, Warmuth 1998), which keeps each ready to lead.
    """

    def __init__(self, rows: tuple[float, ...], size: int, *, judged_rows: float) -> None:
        self.rows = rows
        self._judged_rows = judged_rows
        self.curvature = np.zeros((len(rows), size, size))
        self.linear = np.zeros((len(rows), size))
        self.shares = np.full(len(rows), 1 / len(rows))

    @property
    def used(self) -> int:
        """Which is believed most; the longest of equals."""
        best = np.flatnonzero(self.shares == self.shares.max())
        return int(max(best, key=lambda one: self.rows[one]))

    def told(self, mean: Callable[[Doubles, Doubles], Doubles]) -> Doubles:
        """(n, size) of what each says β is. O(n·size³).

        Args:
            mean: sums → what they say β is (size,).
        """
        return np.stack([mean(a, b) for a, b in zip(self.curvature, self.linear, strict=True)])

    def judge(self, curvature: Doubles, linear: Doubles, *, rows: float, told: Doubles) -> None:
        """Hear how well each foretold some rows, before they are added.

        Args:
            curvature, linear: of the new rows, (size, size) and (size,).
            rows: how many these are.
            told: (n, size), what each said β is.
        """
        likelihood = told @ linear - 0.5 * np.einsum("ni,ni->n", told @ curvature, told)
        # In logs: what all but one hold for impossible must leave that one, however small it was.
        logs = np.log(np.maximum(self.shares, _LEAST)) + likelihood
        shares = np.exp(logs - logs.max())
        even = 1 - np.exp(-rows / self._judged_rows)
        self.shares = (1 - even) * shares / shares.sum() + even / len(shares)

    def add(self, curvature: Doubles, linear: Doubles, *, rows: float, keep: float) -> None:
        """Forget, by rows and by the share `keep` of what is left, then add."""
        left = keep * np.exp(-rows / np.array(self.rows))
        self.curvature *= left[:, None, None]
        self.linear *= left[:, None]
        self.curvature += curvature
        self.linear += linear
