"""User neighbours: what people took around the stretch of events most like this user's newest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import (
    blank,
    check_query,
    check_stretches,
    emptied,
    largest,
    recency_rows,
    stretch_ages,
    stretches,
)
from steerec.heads.linear import add_products, asked_with, blank_unknown, entries

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class UserKnnConfig:
    """Settings of `UserKnn`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {
        "last": 30,
        "decay": 0.9,
        "length": 4,
        "step": 2,
        "half_life_days": 45.0,
    }

    neighbours: int = 200  # most similar stretches that have a say
    decay: float = 0.7  # weight of an event of the query against the one after it
    last: int = 10  # newest events or baskets asked with
    length: int = 10  # events or baskets in a neighbour's stretch; 0: the whole history
    step: int = 5  # events or baskets between two stretches' starts, a divisor of `length`
    half_life_days: float | None = None  # a stretch so much older says half as much; none: alike
    rarity: float = 0.5  # exponent of the idf that makes shared rare items count more: 0 not
    popularity: float = 0.2  # exponent that lowers popular items in the answer: 0 not at all

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_query("user_knn", decay=self.decay, last=self.last)
        check_stretches("user_knn", length=self.length, step=self.step)
        if self.half_life_days is not None and self.half_life_days <= 0:
            raise ConfigError(f"user_knn: half_life_days={self.half_life_days}, expected above 0")
        if self.neighbours < 1 or min(self.popularity, self.rarity) < 0:
            raise ConfigError(
                f"user_knn: neighbours={self.neighbours}, rarity={self.rarity}, "
                f"popularity={self.popularity}: expected at least 1, 0 and 0"
            )


@dataclass
class UserKnn(HistoryHead):
    """Scores an item by the stretches of other users' histories that are like the query.

    Attributes:
        rows: (n_stretches, n_items) float32 of ones.
        owner: (n_stretches,) int32, the user of each stretch, -1 once forgotten.
        worth: (n_stretches,) float32, what a stretch's word counts by its age.
    """

    name: ClassVar[str] = "user_knn"
    steady: ClassVar[bool] = True
    config: UserKnnConfig
    rows: sparse.csr_matrix
    owner: Indices
    worth: Floats

    def __post_init__(self) -> None:
        """Weigh the stretches; all numbers follow from `rows`, so forgetting is exact."""
        self.n_items = self.rows.shape[1]
        counts = np.bincount(self.rows.indices, minlength=self.n_items)
        n_stretches = max(1, int((np.diff(self.rows.indptr) > 0).sum()))
        self._known = counts > 0
        idf = np.log1p(n_stretches / np.maximum(counts, 1))
        self._idf = (idf**self.config.rarity).astype(np.float32)
        lowered = np.maximum(counts, 1).astype(np.float32) ** np.float32(-self.config.popularity)
        self._by_owner = np.argsort(self.owner, kind="stable")
        users = np.arange(int(self.owner.max(initial=-1)) + 2)
        self._starts = np.searchsorted(self.owner[self._by_owner], users)
        self._by_item = _unit(_scaled(self.rows, self._idf)).T.tocsr()
        self._answers = (sparse.diags(self.worth) @ _scaled(self.rows, lowered)).tocsr()

    @classmethod
    def fit(cls, data: Dataset, config: UserKnnConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if no event has a positive weight.
        """
        rows, owner = stretches(data, length=config.length, step=config.step)
        worth = np.ones(len(owner), np.float32)
        if config.half_life_days is not None:
            age = stretch_ages(data, length=config.length, step=config.step)
            worth = (2.0 ** (-age / (config.half_life_days * DAY_S))).astype(np.float32)
        return cls(config, rows, owner, worth)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: similarity-weighted sums over the neighbours, the user's own left out."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self._known)
        asked = query.scaled(self._idf)
        scores = np.zeros((len(states), self.n_items), np.float32)
        for row, state in enumerate(states):
            cut = np.s_[query.indptr[row] : query.indptr[row + 1]]
            near, alike = self._near(asked.indices[cut], asked.data[cut], state.user_idx)
            columns, values, sizes = entries(self._answers, near)
            scores[row] = np.bincount(columns, values * np.repeat(alike, sizes), self.n_items)
        scores[:, ~self._known] = np.nan
        return blank(scores if items is None else scores[:, items], query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        c, rows = self.config, self._by_item
        asked, sums = asked_with(state, decay=c.decay, last=c.last, known=self._known)
        near, alike = kernels.solving.nearest(
            asked,
            (sums * self._idf[asked]).astype(np.float32),
            rows.indptr,
            rows.indices,
            rows.data,
            self._own(state.user_idx),
            len(self.owner),
            c.neighbours,
        )
        out.fill(0.0)
        add_products(near, alike, self._answers, items, room, out)
        blank_unknown(out, self._known, items, asked=len(asked) > 0)
        return True

    def _near(self, items: Indices, weights: Floats, user_idx: int) -> tuple[Indices, Floats]:
        """The stretches most like a query, rising, and how much; none of the user's own."""
        length = np.sqrt(np.square(weights).sum(dtype=np.float32))
        unit = (weights / max(float(length), 1e-12)).astype(np.float32)
        columns, values, sizes = entries(self._by_item, items)
        columns = columns.astype(np.intp)  # once: each use as an index would do it anew
        alike = np.zeros(len(self.owner), np.float32)
        np.add.at(alike, columns, values * np.repeat(unit, sizes))
        alike[self._own(user_idx)] = 0.0
        told = np.abs(alike[columns])
        most = self.config.neighbours * len(items)  # a stretch stands there once for each item
        if len(told) > most:
            may = np.flatnonzero(told >= np.partition(told, len(told) - most)[-most])
            columns, told = columns[may], told[may]
        near, first = np.unique(columns, return_index=True)
        kept = np.sort(largest(told[first], near, self.config.neighbours))
        kept = kept[told[first[kept]] > 0]
        return near[kept], alike[near[kept]]

    def _own(self, user_idx: int) -> NDArray[np.int64]:
        """The stretches of one user, none for a user never seen."""
        if not 0 <= user_idx < len(self._starts) - 1:
            return self._by_owner[:0]
        return self._by_owner[slice(*self._starts[user_idx : user_idx + 2].tolist())]

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: empties the user's stretches and weighs the rest anew (all of them).

        Exact, but where age counts and nobody else is known to be as new: all ages were told from
        the newest event.
        """
        own = self.owner == user_idx
        told = self.worth[~own & (np.diff(self.rows.indptr) > 0)]
        self.rows = emptied(self.rows, own)
        self.owner = np.where(own, np.int32(-1), self.owner)
        self.__post_init__()
        return self.config.half_life_days is None or bool(np.any(told == 1.0))

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "user_knn.json").write_text(json.dumps(asdict(self.config)), "utf-8")
        sparse.save_npz(folder / "rows.npz", self.rows)
        np.save(folder / "owner.npy", self.owner, allow_pickle=False)
        np.save(folder / "worth.npy", self.worth, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = UserKnnConfig(**json.loads((folder / "user_knn.json").read_text("utf-8")))
        rows = sparse.load_npz(folder / "rows.npz")
        owner = np.load(folder / "owner.npy", allow_pickle=False)
        return cls(config, rows, owner, np.load(folder / "worth.npy", allow_pickle=False))


def _scaled(rows: sparse.csr_matrix, by_item: Floats) -> sparse.csr_matrix:
    scaled = rows.copy()
    scaled.data = scaled.data * by_item[scaled.indices]
    return scaled


def _unit(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of length 1; empty rows stay empty."""
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    unit = rows.copy()
    unit.data = unit.data / np.repeat(np.maximum(length, 1e-12), np.diff(rows.indptr))
    unit.data = unit.data.astype(np.float32)
    return unit
