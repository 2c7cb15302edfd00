"""Reliability: of the items that were given a chance of p to be next, how many were."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices

STEPS = 2  # bins a power of ten
LOWEST = -7  # power of ten below which all chances share one bin
N_BINS = -LOWEST * STEPS
LEAST_HITS = 10  # a bin with fewer says little, and is left out of the mean error

Values = NDArray[np.float64]


def _zeros() -> Values:
    return np.zeros(N_BINS)


@dataclass
class Reliability:
    """Chances given and hits found, in bins of the chance.

    Attributes:
        items: (n_bins,) how many pairs of a request and an item fell into each bin.
        given: (n_bins,) sum of their chances: how many hits were foretold.
        hits: (n_bins,) how many there were; the targets of one request share 1.
    """

    items: Values = field(default_factory=_zeros)
    given: Values = field(default_factory=_zeros)
    hits: Values = field(default_factory=_zeros)

    def add(self, log_p: Floats, targets: Indices, row: NDArray[np.integer]) -> None:
        """Count some requests.

        Args:
            log_p: (n_requests, n_items) log of each item's chance; -inf where it is not ranked.
            targets: (n_targets,) the items that were next; `row` the request of each.
        """
        ranked = np.isfinite(log_p)
        steps = np.floor(np.maximum(log_p, LOWEST * np.log(10)) * (STEPS / np.log(10)))
        place = np.clip(steps.astype(np.int64) + N_BINS, 0, N_BINS - 1)
        self.items += np.bincount(place[ranked], minlength=N_BINS)
        self.given += np.bincount(place[ranked], np.exp(log_p[ranked]), N_BINS)
        share = 1 / np.bincount(row, minlength=len(log_p))[row]
        found = ranked[row, targets]
        at = place[row, targets]
        self.hits += np.bincount(at[found], share[found], N_BINS)

    @property
    def error_nats(self) -> float | None:
        """Mean distance of log(hits / foretold) from 0 over the hits; None: too few hits."""
        told = self.hits >= LEAST_HITS
        if not told.any():
            return None
        off = np.abs(np.log(self.hits[told] / np.maximum(self.given[told], 1e-12)))
        return float(off @ self.hits[told] / self.hits[told].sum())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, bins without items left out."""
        bins = [
            {"items": int(n), "given": float(p), "hits": float(hit)}
            for n, p, hit in zip(self.items, self.given, self.hits, strict=True)
            if n
        ]
        return {"error_nats": self.error_nats, "bins": bins}
