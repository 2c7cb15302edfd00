"""EASE: item-to-item regression in closed form, asked with the newest events strongest."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy import linalg, sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset, liked
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.downdate import Held
from steerec.heads.histories import blank, decayed, recency_rows
from steerec.heads.lags import DENSE_ITEMS, keep_strongest
from steerec.heads.linear import (
    Weights,
    add_products,
    ask,
    asked_with,
    blank_unknown,
    column,
    find_near,
    load_weights,
    neighbours,
    save_weights,
    spoken,
)
from steerec.heads.local import count_entries, solve_columns
from steerec.heads.packed import packed

log = logging.getLogger(__name__)

BLOCK = 64_000_000  # bytes for the rows that are made or sorted at once


@dataclass(frozen=True, kw_only=True)
class EaseConfig:
    """Settings of `Ease`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {"decay": 0.9, "last": 100, "l2": 100.0}

    l2: float = 300.0  # λ: pull of all weights towards 0
    decay: float = 1.0  # weight of an event of the query against the one after it; 1: all alike
    last: int = 500  # newest events asked with
    per_row: int = 1_000  # weights kept for each item above 6,000 items
    exact_items: int = 30_000  # up to here all weights are solved at once; above, locally
    memory_gb: float = 8.0  # most memory a fit may take; where all at once needs more, locally
    core_items: int = 4_000  # locally: the most seen items, still solved at once
    neighbours: int = 100  # locally: items on which each other item is regressed

    def __post_init__(self) -> None:
        if self.l2 <= 0 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"ease: l2={self.l2}, decay={self.decay}: expected l2 > 0 and 0 < decay <= 1"
            )
        if min(self.last, self.per_row, self.exact_items, self.core_items, self.neighbours) < 1:
            raise ConfigError(
                "ease: last, per_row, exact_items, core_items and neighbours must be at least 1"
            )
        if self.memory_gb <= 0:
            raise ConfigError(f"ease: memory_gb={self.memory_gb}, expected above 0")


@dataclass
class Ease(HistoryHead):
    """Scores an item by regressing it on the user's other items, old and new ones alike.

    Alone it is better where old events fade; but most other heads ask what is new, and what lasts
    of a taste is what the blend lacks beside them (docs/log.md).

    Attributes:
        weights: (n_items, n_items) float32, row = item asked with.
        known: (n_items,) bool, items that are modelled.
        held: what forgetting needs; None where weights were left out or solved locally.

    Source: Steck 2019, Embarrassingly Shallow Autoencoders for Sparse Data, eq. 8.
    """

    name: ClassVar[str] = "ease"
    steady: ClassVar[bool] = True
    config: EaseConfig
    weights: Weights
    known: np.ndarray
    held: "Held | None" = None

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.known)

    @classmethod
    def fit(cls, data: Dataset, config: EaseConfig, rng: np.random.Generator) -> Self:
        """See Head. Cost for m items seen: all at once 4 m² bytes, m³ time; locally see `_local`.

        Raises:
            DataError: if no event weighs above 0, or memory_gb is too little for either way.
        """
        seen = data.matrix()
        counts = np.asarray(seen.sum(axis=0)).ravel()
        kept = items_seen(counts, cls.name)
        known = np.zeros(data.n_items, bool)
        known[kept] = True
        if not solved_at_once(seen, kept, config):
            return cls(config, _local(seen, kept, config), known)
        weights, diagonal = _exact(seen, kept, config)
        if sparse.issparse(weights):
            return cls(config, weights, known)
        held = Held(np.full(data.n_items, 1 / config.l2), counts.astype(np.int64))
        held.diagonal[kept] = diagonal
        return cls(config, weights, known, held)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items without events and for users without known items."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        scores = ask(query, self.weights, items)
        scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        return blank(scores, query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        out.fill(0.0)
        done = add_products(rows, sums, self._packed, items, room, out)
        blank_unknown(out, self.known, items, asked=len(rows) > 0)
        return done

    def near(self, state: History) -> Indices | None:
        """See HistoryHead."""
        return neighbours(state, self.weights)

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        c = self.config
        return spoken(state, self._packed, items, room, decay=c.decay, last=c.last)

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        if isinstance(self.weights, np.ndarray):
            return None
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        if len(rows) == 0:
            return rows
        return find_near(state, [(rows, sums, self.weights)], self.known, room, n)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        items, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        spoke = np.zeros(len(state), np.float32)
        spoke[len(state) - len(items) :] = faded * column(self.weights, items, item_idx)
        return spoke

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: exact where all weights are held, but for a user who took very many items."""
        if self.held is None:
            return False
        shape = (1, self.n_items)
        own = liked(history.weight, np.zeros(len(history)), history.item_idx, shape).indices
        told = self.held.without(own, self.weights)
        if told is None:
            return False
        self.held, self.weights = told
        self.__dict__.pop("_packed", None)
        self.known = self.held.takers > 0
        return True

    def prepare(self) -> None:
        """See Prepares."""
        _ = self._packed

    @cached_property
    def _packed(self) -> Weights:
        """The weights as compiled loops read them."""
        return packed(self.weights)

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        np.save(folder / "known.npy", self.known, allow_pickle=False)
        save_weights(self.weights, folder / "weights.npz")
        if self.held is not None:
            np.savez(folder / "held.npz", **asdict(self.held))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = EaseConfig(**json.loads((folder / "config.json").read_text()))
        known = np.load(folder / "known.npy", allow_pickle=False)
        held = Held.load(stored) if (stored := folder / "held.npz").exists() else None
        return cls(config, load_weights(folder / "weights.npz"), known, held)


def items_seen(counts: np.ndarray, head: str) -> Indices:
    """Indices of items with events, in index order.

    Raises:
        DataError: if no item has an event.
    """
    kept = np.flatnonzero(counts > 0)
    if len(kept) == 0:
        raise DataError(f"{head}: no event weighs above 0, expected at least one")
    return kept.astype(np.int32)


def solved_at_once(seen: sparse.csr_matrix, kept: Indices, config: EaseConfig) -> bool:
    """Whether all weights are solved at once; decided, and logged, before memory is spent.

    Raises:
        DataError: if neither way fits into `memory_gb`.
    """
    most = config.memory_gb * 1e9
    at_once = exact_bytes(seen, kept, config)
    if len(kept) <= config.exact_items and at_once <= most:
        log.info("head=ease solved=at_once items=%d memory_mb=%.0f", len(kept), at_once / 1e6)
        return True
    locally = local_bytes(seen, kept, config)
    if locally > most:
        raise DataError(
            f"ease: {len(kept)} items need {at_once / 1e9:.2f} GB solved at once and "
            f"{locally / 1e9:.2f} GB solved locally, memory_gb={config.memory_gb:g}: raise it, or "
            "lower core_items and neighbours"
        )
    log.warning(
        "head=ease solved=locally items=%d memory_mb=%.0f at_once_mb=%.0f exact_items=%d "
        "memory_gb=%g",
        *(len(kept), locally / 1e6, at_once / 1e6, config.exact_items, config.memory_gb),
    )
    return False


def exact_bytes(seen: sparse.csr_matrix, kept: Indices, config: EaseConfig) -> int:
    """Most bytes held while all weights are solved at once."""
    m, n = len(kept), seen.shape[1]
    result = 4 * n**2 if n <= DENSE_ITEMS else 16 * m * min(config.per_row, m)
    return 3 * _size(seen) + 4 * m**2 + max(result, min(BLOCK, 12 * m**2))


def local_bytes(seen: sparse.csr_matrix, kept: Indices, config: EaseConfig) -> int:
    """Most bytes held while weights are solved locally; counts some rows of the gram matrix."""
    entries, outside = count_entries(seen[:, _by_count(seen, kept)].tocsr(), config.neighbours)
    core = min(config.core_items, len(kept))
    inside = core * min(config.per_row, core)
    solving_core = 4 * core**2 + max(16 * inside, min(BLOCK, 12 * core**2))
    solving = 8 * entries + max(solving_core, 12 * inside + 16 * outside)
    joining = 12 * (inside + outside) + 20 * (inside + 2 * outside)
    return 3 * _size(seen) + max(solving, joining)


def _size(rows: sparse.csr_matrix) -> int:
    return int(rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes)


def _by_count(seen: sparse.csr_matrix, kept: Indices) -> Indices:
    """`kept` from most to least seen."""
    counts = np.asarray(seen.sum(axis=0)).ravel()[kept]
    return kept[np.argsort(-counts, kind="stable")]


def _exact(seen: sparse.csr_matrix, kept: Indices, config: EaseConfig) -> tuple[Weights, Floats]:
    """All weights, and diag(P) of the kept items."""
    inner = seen[:, kept].tocsr()
    by_item = inner.T.tocsr()
    gram = _filled(len(kept), lambda some: by_item[some] @ inner)
    gram[np.diag_indices(len(kept))] += np.float32(config.l2)
    weights, diagonal = _regressed(gram)
    return spread(weights, kept, seen.shape[1], config.per_row), diagonal


def _local(seen: sparse.csr_matrix, kept: Indices, config: EaseConfig) -> Weights:
    """Weights between core items solved at once, columns of the others on their neighbourhoods.

    Cost: 8 bytes for each pair of items that some user has both of; time core_items³, and at most
    neighbours³ for each item outside the core.
    """
    order = _by_count(seen, kept)
    inner = seen[:, order].tocsr()
    gram = (inner.T.tocsr() @ inner).tocsr()
    gram.sort_indices()
    gram.setdiag(gram.diagonal() + np.float32(config.l2))
    n_core = min(config.core_items, len(kept))
    inside, inverse_diagonal = _core(gram, n_core, config.per_row)
    columns, left = solve_columns(gram, config.neighbours, first=n_core)
    del gram  # the largest: gone before the weights are put together
    return _joined(inside, columns.tocoo(), left, inverse_diagonal, order, seen.shape[1])


def _core(gram: sparse.csr_matrix, n_core: int, per_row: int) -> tuple[sparse.coo_matrix, Floats]:
    """The strongest weights among the first `n_core` items, and diag(P) of these alone."""
    weights, diagonal = _regressed(_filled(n_core, lambda some: gram[some, :n_core]))
    return _strongest(weights, per_row).tocoo(), diagonal


def _joined(
    inside: sparse.coo_matrix,
    outside: sparse.coo_matrix,
    left: Floats,
    inverse_diagonal: Floats,
    order: Indices,
    n_items: int,
) -> sparse.csr_matrix:
    """One (n_items, n_items) matrix of the core's weights and the columns of the other items.

    What an item j outside the core says of a core item i follows by symmetry of P from what i
    says of j: B_ji = -P_ij / P_ii = B_ij P_jj / P_ii, with P_jj = 1 / left_j.
    """
    n_core = len(inverse_diagonal)
    back = np.flatnonzero(outside.row < n_core)
    core_item, other = outside.row[back], outside.col[back]
    said = outside.data[back] / (left[other] * inverse_diagonal[core_item])
    data = np.concatenate([inside.data, outside.data, said])
    row = order[np.concatenate([inside.row, outside.row, n_core + other])]
    col = order[np.concatenate([inside.col, n_core + outside.col, core_item])]
    return sparse.coo_matrix((data, (row, col)), shape=(n_items, n_items)).tocsr()


def _filled(m: int, rows: Callable[[slice], sparse.csr_matrix]) -> Floats:
    """(m, m) dense, made from sparse rows some at a time."""
    dense = np.empty((m, m), np.float32)
    step = max(1, BLOCK // (12 * m))  # bytes of an entry, sparse and dense
    for start in range(0, m, step):
        some = slice(start, min(start + step, m))
        dense[some] = rows(some).toarray()
    return dense


def _regressed(gram: Floats) -> tuple[Floats, Floats]:
    """Eq. 8, overwriting `gram` (λ on its diagonal): B = -P / diag(P) column by column, diag(P)."""
    weights = inverse(gram)
    diagonal = np.diag(weights).copy()
    weights /= -diagonal
    weights[np.diag_indices(len(weights))] = 0.0
    return weights, diagonal


def inverse(matrix: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix, overwriting it."""
    factor, info = linalg.lapack.spotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
    if info != 0:
        raise DataError(f"matrix is not positive definite (LAPACK info {info}): raise l2")
    lower: Floats
    lower, _ = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    block = 256
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
    small = _strongest(weights, per_row)
    pointers = np.zeros(n_items + 1, np.int64)
    pointers[kept + 1] = np.diff(small.indptr)
    columns = kept[small.indices]  # rising, as `kept` is
    return sparse.csr_matrix((small.data, columns, np.cumsum(pointers)), shape=(n_items, n_items))


def _strongest(weights: Floats, per_row: int) -> sparse.csr_matrix:
    """`keep_strongest` some rows at a time: sorting all at once takes five times the memory."""
    step = max(1, BLOCK // (20 * len(weights)))  # bytes an entry while it is sorted
    parts = [
        keep_strongest(weights[start : start + step], per_row)
        for start in range(0, len(weights), step)
    ]
    return sparse.vstack(parts, format="csr")
