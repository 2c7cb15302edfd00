"""EASE: item-to-item regression in closed form, asked with the newest events strongest."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy import linalg, sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead
from steerec.heads.histories import blank, decayed, recency_query
from steerec.heads.lags import DENSE_ITEMS, keep_strongest
from steerec.heads.linear import Weights, ask, column, load_weights, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EaseConfig:
    """Settings of `Ease`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {"decay": 0.9, "l2": 100.0}

    l2: float = 300.0  # λ: pull of all weights towards 0
    decay: float = 0.85  # weight of an event of the query against the one after it
    last: int = 100  # newest events asked with
    max_items: int = 20_000  # most popular items modelled: memory is 8 bytes x max_items²
    per_row: int = 1_000  # weights kept for each item above 6,000 items

    def __post_init__(self) -> None:
        if self.l2 <= 0 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"ease: l2={self.l2}, decay={self.decay}: expected l2 > 0 and 0 < decay <= 1"
            )
        if min(self.last, self.max_items, self.per_row) < 1:
            raise ConfigError("ease: last, max_items and per_row must be at least 1")


@dataclass
class Ease(HistoryHead):
    """Scores an item by regressing it on the user's other items.

    Attributes:
        weights: (n_items, n_items) float32, row = item asked with.
        known: (n_items,) bool, items that are modelled.

    Source: Steck 2019, Embarrassingly Shallow Autoencoders for Sparse Data, eq. 8.
    """

    name: ClassVar[str] = "ease"
    config: EaseConfig
    weights: Weights
    known: np.ndarray

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.known)

    @classmethod
    def fit(cls, data: Dataset, config: EaseConfig, rng: np.random.Generator) -> Self:
        """See Head. Cost: memory 8 m² bytes and time m³ for m modelled items."""
        seen = data.matrix()
        kept = most_seen(np.asarray(seen.sum(axis=0)).ravel(), config.max_items, cls.name)
        known = np.zeros(data.n_items, bool)
        known[kept] = True
        inner = seen[:, kept].tocsr()
        gram = np.asarray((inner.T @ inner).todense(), np.float32)
        gram[np.diag_indices(len(kept))] += np.float32(config.l2)
        weights = inverse(gram)
        weights /= -np.diag(weights)  # eq. 8: B = -P / diag(P), column by column
        weights[np.diag_indices(len(kept))] = 0.0
        return cls(config, spread(weights, kept, data.n_items, config.per_row), known)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items without events and for users without known items."""
        c = self.config
        query = recency_query(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        scores = ask(query, self.weights, items)
        scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        return blank(scores, query)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        items, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        spoke = np.zeros(len(state), np.float32)
        spoke[len(state) - len(items) :] = faded * column(self.weights, items, item_idx)
        return spoke

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        np.save(folder / "known.npy", self.known, allow_pickle=False)
        save_weights(self.weights, folder / "weights.npz")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = EaseConfig(**json.loads((folder / "config.json").read_text()))
        known = np.load(folder / "known.npy", allow_pickle=False)
        return cls(config, load_weights(folder / "weights.npz"), known)


def most_seen(counts: np.ndarray, most: int, head: str) -> Indices:
    """Indices of items with events, in index order, at most the `most` with the highest counts.

    Raises:
        DataError: if no item has an event.
    """
    kept = np.flatnonzero(counts > 0)
    if len(kept) == 0:
        raise DataError(f"{head}: no event weighs above 0, expected at least one")
    if len(kept) > most:
        log.warning("head=%s items=%d modelled=%d reason=max_items", head, len(kept), most)
        kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")[:most]])
    return kept.astype(np.int32)


def inverse(matrix: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, overwriting it."""
    factor, info = linalg.lapack.spotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
    if info != 0:
        raise DataError(f"matrix is not positive definite (LAPACK info {info}): raise l2")
    lower: Floats
    lower, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    block = 2_048
    for start in range(0, len(lower), block):  # mirror in blocks: no second full matrix
        stop = start + block
        corner = np.tril(lower[start:stop, start:stop])
        lower[start:stop, start:stop] = corner + np.tril(corner, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return lower


def spread(weights: Floats, kept: Indices, n_items: int, per_row: int) -> Weights:
    """(m, m) weights of the kept items → (n_items, n_items); sparse where the catalogue is big."""
    if n_items <= DENSE_ITEMS:
        if len(kept) == n_items:
            return np.ascontiguousarray(weights)
        full = np.zeros((n_items, n_items), np.float32)
        full[np.ix_(kept, kept)] = weights
        return full
    small = keep_strongest(weights, per_row).tocoo()
    return sparse.coo_matrix(
        (small.data, (kept[small.row], kept[small.col])), shape=(n_items, n_items)
    ).tocsr()
