"""What was learnt, forgotten at several rates at once; the newest rows choose the rate."""

from collections.abc import Callable

import numpy as np

from steerec.tuning.observed import Doubles


class Memories:
    """Sums of all statistics so far, once for each rate of forgetting.

    Rows that come are foretold by each before they are added; the one that foretold the newest best
    is used, a shorter one only where it is better by a margin. In a steady world the longest wins,
    after a turn a short one, and no alarm is needed that may ring too late, or for nothing.

    Attributes:
        rows: shown items after which an old one weighs 1/e, of each.
        curvature: (n, size, size).
        linear: (n, size).
        told: (n,) log-likelihood of the newest rows, foretold, in nats.
        used: which of them is.
    Source: after Raftery, Kárný, Ettler 2010 (dynamic model averaging), choosing instead of mixing.
    """

    def __init__(
        self, rows: tuple[float, ...], size: int, *, judged_rows: float, margin: float = 0.0
    ) -> None:
        self.rows = rows
        self._judged_rows, self._margin = judged_rows, margin
        self._longest = int(np.argmax(rows))
        self.curvature = np.zeros((len(rows), size, size))
        self.linear = np.zeros((len(rows), size))
        self.told = np.zeros(len(rows))
        self.used = self._longest

    def judge(
        self,
        curvature: Doubles,
        linear: Doubles,
        *,
        rows: float,
        mean: Callable[[Doubles, Doubles], Doubles],
    ) -> None:
        """Hear how well each foretold some rows, before they are added.

        Args:
            curvature, linear: of the new rows, (size, size) and (size,).
            rows: how many these are.
            mean: sums → what they say β is (size,).
        """
        self.told *= np.exp(-rows / self._judged_rows)
        for k in range(len(self.rows)):
            beta = mean(self.curvature[k], self.linear[k])
            self.told[k] += linear @ beta - 0.5 * beta @ curvature @ beta
        best = int(np.argmax(self.told))
        surely = self.told[best] > self.told[self._longest] + self._margin
        self.used = best if surely else self._longest

    def add(self, curvature: Doubles, linear: Doubles, *, rows: float, keep: float) -> None:
        """Forget, by rows and by the share `keep` of what is left, then add."""
        left = keep * np.exp(-rows / np.array(self.rows))
        self.curvature *= left[:, None, None]
        self.linear *= left[:, None]
        self.curvature += curvature
        self.linear += linear
