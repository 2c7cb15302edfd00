"""Item neighbours: items that people take near each other, asked with the newest events."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError
from steerec.heads.contract import HistoryHead
from steerec.heads.histories import (
    blank,
    check_query,
    check_stretches,
    decayed,
    recency_rows,
    stretches,
    strongest,
)
from steerec.heads.linear import ask, column, neighbours

BLOCK_ENTRIES = 16_000_000  # most co-occurrence counts held at once; bounds memory in the fit


@dataclass(frozen=True, kw_only=True)
class ItemKnnConfig:
    """Settings of `ItemKnn`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {"decay": 0.9, "length": 1, "step": 1}

    neighbours: int = 300  # most similar items kept for each item
    decay: float = 0.6  # weight of an event of the query against the one after it
    last: int = 50  # newest events asked with
    length: int = 20  # events within which two items count as taken together; 0: any distance
    step: int = 10  # a divisor of `length`; smaller: finer fading with distance, slower fit
    shrink: float = 10.0  # counts added below: mistrust of items seen rarely
    asker: float = 0.6  # exponent of the count of the item asked with
    popularity: float = 0.4  # exponent of the candidate's count: 0 favours popular, 1 rare items

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_query("item_knn", decay=self.decay, last=self.last)
        check_stretches("item_knn", length=self.length, step=self.step)
        if self.neighbours < 1:
            raise ConfigError(f"item_knn: neighbours={self.neighbours}, expected at least 1")
        if min(self.shrink, self.asker, self.popularity) < 0:
            raise ConfigError(
                f"item_knn: shrink={self.shrink}, asker={self.asker}, "
                f"popularity={self.popularity}: none may be negative"
            )


@dataclass
class ItemKnn(HistoryHead):
    """Scores an item by its similarity to the user's newest events, the newest strongest.

    Attributes:
        similarity: (n_items, n_items) float32, row = item asked with, its top neighbours only.
        known: (n_items,) bool, items that had an event at fit time; others score NaN.
    """

    name: ClassVar[str] = "item_knn"
    config: ItemKnnConfig
    similarity: sparse.csr_matrix
    known: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """The size of the catalogue."""
        self.n_items = len(self.known)

    @classmethod
    def fit(cls, data: Dataset, config: ItemKnnConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if no event has a positive weight.
        """
        rows, _ = stretches(data, length=config.length, step=config.step)
        counts = np.bincount(rows.indices, minlength=data.n_items)
        by_item = rows.T.tocsr()
        block = max(1, BLOCK_ENTRIES // data.n_items)
        parts = [
            _similarity(by_item[start : start + block] @ rows, start, counts, config)
            for start in range(0, data.n_items, block)
        ]
        return cls(config, sparse.vstack(parts, format="csr"), counts > 0)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: decayed sums of similarities; 0 means no neighbour of the query."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        scores = ask(query, self.similarity, items)
        scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        return blank(scores, query)

    def near(self, state: History) -> Indices | None:
        """See HistoryHead."""
        return neighbours(state, self.similarity)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        asked, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        inside = (asked >= 0) & (asked < self.n_items)
        shares = np.zeros(len(asked), np.float32)
        shares[inside] = faded[inside] * column(self.similarity, asked[inside], item_idx)
        return np.concatenate([np.zeros(len(state) - len(asked), np.float32), shares])

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "item_knn.json").write_text(json.dumps(asdict(self.config)), "utf-8")
        sparse.save_npz(folder / "similarity.npz", self.similarity)
        np.save(folder / "known.npy", self.known, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = ItemKnnConfig(**json.loads((folder / "item_knn.json").read_text("utf-8")))
        similarity = sparse.load_npz(folder / "similarity.npz")
        return cls(config, similarity, np.load(folder / "known.npy", allow_pickle=False))


def _similarity(
    together: sparse.csr_matrix, start: int, counts: NDArray[np.int64], config: ItemKnnConfig
) -> sparse.csr_matrix:
    """The strongest similarities of items `start`, `start + 1`, … from their counts together.

    together(i, j) / ((count_i + shrink) ** asker (count_j + shrink) ** popularity): both
    exponents 1/2 give the cosine, 1 and 0 the conditional probability.
    Source: Deshpande and Karypis 2004, eq. 3 to 5.
    """
    together = together.tocsr()
    asked = start + np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    softened = (counts + config.shrink).astype(np.float64)
    below = softened[asked] ** config.asker * softened[together.indices] ** config.popularity
    together.data = (together.data / below).astype(np.float32)
    together.data[together.indices == asked] = 0.0  # an item is not its own neighbour
    return strongest(together, config.neighbours)
