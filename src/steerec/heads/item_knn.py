"""Item neighbours: items that people take near each other, asked with the newest events."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import (
    blank,
    check_query,
    check_stretches,
    decayed,
    emptied,
    recency_rows,
    stretches,
    strongest,
)
from steerec.heads.linear import (
    add_products,
    ask,
    asked_with,
    blank_unknown,
    column,
    find_near,
    neighbours,
    spoken,
)

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
    kin: int = 5  # look-alikes by which an item without events is scored; 0: it is not
    alike: float = 8.0  # by which power of e likeness of text counts among them
    lent: int = 300  # most similarities that such an item has from them

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_query("item_knn", decay=self.decay, last=self.last)
        check_stretches("item_knn", length=self.length, step=self.step)
        if min(self.neighbours, self.lent) < 1:
            raise ConfigError(
                f"item_knn: neighbours={self.neighbours}, lent={self.lent}: "
                "expected at least 1 each"
            )
        if min(self.kin, self.alike) < 0:
            raise ConfigError(f"item_knn: kin={self.kin}, alike={self.alike}: none may be negative")
        if min(self.shrink, self.asker, self.popularity) < 0:
            raise ConfigError(
                f"item_knn: shrink={self.shrink}, asker={self.asker}, "
                f"popularity={self.popularity}: none may be negative"
            )


@dataclass
class ItemKnn(HistoryHead):
    """Scores an item by its similarity to the user's newest events, the newest strongest.

    An item without events can be told its look-alikes among the others, see `with_kin`.

    Attributes:
        similarity: (n_items, n_items) float32, row = item asked with, its top neighbours only;
            columns of items without events are lent by their kin.
        known: (n_items,) bool, items that had an event at fit time; others without kin score NaN.
        kin: (n_items, n_items) float32, row = item without events, what each look-alike counts,
            1 in all; None: nobody was told any.
        rows: (n_stretches, n_items) float32 of ones, what was counted; None: fitted before they
            were kept, and then nothing can be forgotten exactly.
        owner: (n_stretches,) int32, the user of each stretch.
    """

    name: ClassVar[str] = "item_knn"
    steady: ClassVar[bool] = True
    config: ItemKnnConfig
    similarity: sparse.csr_matrix
    known: NDArray[np.bool_]
    rows: sparse.csr_matrix | None = None
    owner: Indices | None = None
    kin: sparse.csr_matrix | None = None

    def __post_init__(self) -> None:
        """The size of the catalogue, and which of its items can be scored."""
        self.n_items = len(self.known)
        self._told = self.known
        if self.kin is not None:
            self._told = self.known | (np.diff(self.kin.indptr) > 0)

    @classmethod
    def fit(cls, data: Dataset, config: ItemKnnConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if no event has a positive weight.
        """
        rows, owner = stretches(data, length=config.length, step=config.step)
        counts = np.bincount(rows.indices, minlength=data.n_items)
        by_item, every = rows.T.tocsr(), np.arange(data.n_items)
        block = max(1, BLOCK_ENTRIES // data.n_items)
        parts = [
            strongest(
                _similarity(by_item[some] @ rows, every[some], counts, config), config.neighbours
            )
            for some in (slice(start, start + block) for start in range(0, data.n_items, block))
        ]
        return cls(config, sparse.vstack(parts, format="csr"), counts > 0, rows, owner)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: decayed sums of similarities; 0 means no neighbour of the query."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        scores = ask(query, self.similarity, items)
        scores[:, ~(self._told if items is None else self._told[items])] = np.nan
        return blank(scores, query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        out.fill(0.0)
        add_products(rows, sums, self.similarity, items, room, out)
        blank_unknown(out, self._told, items, asked=len(rows) > 0)
        return True

    def near(self, state: History) -> Indices | None:
        """See HistoryHead."""
        return neighbours(state, self.similarity)

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        c = self.config
        return spoken(state, self.similarity, items, room, decay=c.decay, last=c.last)

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        if len(rows) == 0:
            return rows
        return find_near(state, [(rows, sums, self.similarity)], self._told, room, n)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        asked, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        inside = (asked >= 0) & (asked < self.n_items)
        shares = np.zeros(len(asked), np.float32)
        shares[inside] = faded[inside] * column(self.similarity, asked[inside], item_idx)
        return np.concatenate([np.zeros(len(state) - len(asked), np.float32), shares])

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: only the user's items, and what stands beside them, are weighed anew.

        Exact, but where items are without events afterwards that others were kin of, or that
        would have kin of their own.
        """
        if self.rows is None or self.owner is None:
            return False
        own = self.owner == user_idx
        items = np.unique(self.rows[own].indices)
        self.rows = emptied(self.rows, own)
        counts = np.bincount(self.rows.indices, minlength=self.n_items)
        n_known, self.known = np.count_nonzero(self.known), counts > 0
        self.similarity = self.similarity @ _only(self.known)
        self.similarity = self._beside(items, self.rows[:, items].T.tocsr() @ self.rows, counts)
        if self.kin is not None:
            self.similarity = self.similarity + self._lent(self.similarity, self.kin)
        self.__post_init__()
        return self.kin is None or bool(np.count_nonzero(self.known) == n_known)

    def with_kin(self, kin: sparse.csr_matrix) -> Self:
        """The same where items without events are scored as their look-alikes are.

        Args:
            kin: (n, n) as the attribute, of a catalogue of at least as many items; rows of items
                with events have no part, and empty ones change nothing.
        """
        n, before = kin.shape[0], self.n_items
        known = np.pad(self.known, (0, n - before))
        kin = (_only(~known) @ kin @ _only(known)).tocsr()
        kin.eliminate_zeros()
        told = np.diff(kin.indptr) > 0
        similarity = _larger(self.similarity, (n, n))
        lent = self._lent(similarity, kin)
        if told[:before].any():
            similarity = (similarity @ _only(~told) + lent).tocsr()
        else:  # they stand at the end, where they can be put without moving all others
            old = _larger(self.similarity, (n, before))
            similarity = sparse.hstack([old, lent[:, before:]], format="csr")
        return replace(
            self,
            similarity=similarity,
            known=known,
            rows=None if self.rows is None else _larger(self.rows, (self.rows.shape[0], n)),
            kin=kin if self.kin is None else _only(~told) @ _larger(self.kin, (n, n)) + kin,
        )

    def _lent(self, base: sparse.csr_matrix, kin: sparse.csr_matrix) -> sparse.csr_matrix:
        """(n_items, n_items): the columns that items without events get from their kin.

        Args:
            base: the similarities that are lent.
        """
        told, named = np.flatnonzero(np.diff(kin.indptr)), np.unique(kin.indices)
        lent = (kin[told][:, named] @ _columns(base, named).T).tocsr()
        lent = _scatter(told, kin.shape[0]) @ strongest(lent, self.config.lent)
        columns: sparse.csr_matrix = lent.T.tocsr()
        return columns

    def _beside(
        self, items: Indices, together: sparse.csr_matrix, counts: NDArray[np.int64]
    ) -> sparse.csr_matrix:
        """The similarities after the counts (len(items), n_items) of some items have become fewer.

        In other rows these items can only rise, so whatever was too weak there stays so.
        """
        config, n = self.config, self.n_items
        across = together.T.tocsr()
        across = sparse.csr_matrix((across.data, items[across.indices], across.indptr), (n, n))
        of_others = _only(~_marked(items, n))
        risen = of_others @ _similarity(across, np.arange(n), counts, config)
        anew = _scatter(items, n) @ _similarity(together, items, counts, config)
        beside = np.union1d(items, np.flatnonzero(np.diff(risen.indptr)))
        whole = (of_others @ self.similarity @ of_others + risen + anew).tocsr()
        kept = _only(~_marked(beside, n)) @ self.similarity
        return (kept + _scatter(beside, n) @ strongest(whole[beside], config.neighbours)).tocsr()

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "item_knn.json").write_text(json.dumps(asdict(self.config)), "utf-8")
        sparse.save_npz(folder / "similarity.npz", self.similarity)
        np.save(folder / "known.npy", self.known, allow_pickle=False)
        if self.rows is not None and self.owner is not None:
            sparse.save_npz(folder / "rows.npz", self.rows, compressed=False)
            np.save(folder / "owner.npy", self.owner, allow_pickle=False)
        if self.kin is not None:
            sparse.save_npz(folder / "kin.npz", self.kin)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = ItemKnnConfig(**json.loads((folder / "item_knn.json").read_text("utf-8")))
        similarity = sparse.load_npz(folder / "similarity.npz")
        known = np.load(folder / "known.npy", allow_pickle=False)
        kin = sparse.load_npz(stored) if (stored := folder / "kin.npz").exists() else None
        if not (folder / "rows.npz").exists():
            return cls(config, similarity, known, kin=kin)
        rows = sparse.load_npz(folder / "rows.npz")
        return cls(config, similarity, known, rows, np.load(folder / "owner.npy"), kin)


def _larger(matrix: sparse.csr_matrix, shape: tuple[int, int]) -> sparse.csr_matrix:
    """The same with empty rows and columns at the ends; shares memory with it."""
    more = shape[0] - matrix.shape[0]
    indptr = np.pad(matrix.indptr, (0, more), mode="edge")
    return sparse.csr_matrix((matrix.data, matrix.indices, indptr), shape=shape)


def _columns(matrix: sparse.csr_matrix, columns: Indices) -> sparse.csr_matrix:
    """These columns alone, which rise; SciPy's own picking takes several times as long."""
    place = np.full(matrix.shape[1], -1, np.int32)
    place[columns] = np.arange(len(columns), dtype=np.int32)
    found = place[matrix.indices]
    kept = found >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return sparse.csr_matrix(
        (matrix.data[kept], found[kept], before[matrix.indptr]),
        shape=(matrix.shape[0], len(columns)),
    )


def _marked(items: Indices, n: int) -> NDArray[np.bool_]:
    """(n,), true at these items."""
    marked = np.zeros(n, bool)
    marked[items] = True
    return marked


def _only(rows: NDArray[np.bool_]) -> sparse.csr_matrix:
    """(n, n): times a matrix, only these rows of it."""
    return sparse.diags(rows.astype(np.float32)).tocsr()


def _scatter(items: NDArray[np.integer], n: int) -> sparse.csr_matrix:
    """(n, len(items)): times a matrix of their rows, each at its item."""
    ones = np.ones(len(items), np.float32)
    return sparse.csr_matrix((ones, (items, np.arange(len(items)))), shape=(n, len(items)))


def _similarity(
    together: sparse.csr_matrix,
    items: NDArray[np.integer],
    counts: NDArray[np.int64],
    config: ItemKnnConfig,
) -> sparse.csr_matrix:
    """(len(items), n_items) similarities of these items from their counts together with all.

    together(i, j) / ((count_i + shrink) ** asker (count_j + shrink) ** popularity): both
    exponents 1/2 give the cosine, 1 and 0 the conditional probability.
    Source: Deshpande and Karypis 2004, eq. 3 to 5.
    """
    together = together.tocsr()
    asked = np.repeat(items, np.diff(together.indptr))
    softened = (counts + config.shrink).astype(np.float64)
    below = softened[asked] ** config.asker * softened[together.indices] ** config.popularity
    together.data = (together.data / below).astype(np.float32)
    together.data[together.indices == asked] = 0.0  # an item is not its own neighbour
    return together
