"""Weighted matrix factorisation; users are folded in exactly from any history."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import (
    Rows,
    blank,
    check_query,
    check_stretches,
    decayed,
    recency_rows,
    stretches,
)
from steerec.heads.linear import asked_with, blank_unknown


@dataclass(frozen=True, kw_only=True)
class AlsConfig:
    """Settings of `Als`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {
        "alpha": 1.0,
        "decay": 0.9,
        "length": 0,
        "factors": 128,
    }

    factors: int = 64  # numbers per item
    l2: float = 1.0  # regularisation
    alpha: float = 20.0  # confidence of an event over that of a missing one
    iterations: int = 6  # rounds of alternating least squares
    decay: float = 0.6  # confidence of an event of the query against the one after it
    last: int = 20  # newest events asked with
    length: int = 20  # a stretch of so many events trains as one user; 0: the whole history
    step: int = 20  # events between two stretches' starts, a divisor of `length`
    threads: int = 2  # processor cores used by the fit

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_query("als", decay=self.decay, last=self.last)
        check_stretches("als", length=self.length, step=self.step)
        if min(self.factors, self.iterations, self.threads) < 1:
            raise ConfigError(
                f"als: factors={self.factors}, iterations={self.iterations}, "
                f"threads={self.threads}: each must be at least 1"
            )
        if min(self.l2, self.alpha) <= 0:
            raise ConfigError(f"als: l2={self.l2}, alpha={self.alpha}: both must be above 0")


@dataclass
class Als(HistoryHead):
    """Scores by item factors and a user vector solved from the newest events at request time.

    Attributes:
        factors: (n_items, config.factors) float32, zero rows for items without events.
        known: (n_items,) bool, items that had an event at fit time; others score NaN.
    """

    name: ClassVar[str] = "als"
    steady: ClassVar[bool] = True
    config: AlsConfig
    factors: Floats
    known: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """What every fold-in shares: YᵀY + l2 I."""
        self.n_items = len(self.factors)
        y = self.factors.astype(np.float64)
        self._gram = y.T @ y + self.config.l2 * np.eye(y.shape[1])
        spread = np.linalg.solve(self._gram, y.T).T  # Y G⁻¹
        self._spread = np.ascontiguousarray(spread, np.float32)

    @classmethod
    def fit(cls, data: Dataset, config: AlsConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if no event has a positive weight.
        """
        from implicit.als import AlternatingLeastSquares  # half a second: only who fits pays it

        rows, _ = stretches(data, length=config.length, step=config.step)
        with threadpool_limits(1, "blas"):  # implicit brings its own threads
            model = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.l2,
                alpha=config.alpha,
                iterations=config.iterations,
                num_threads=config.threads,
                random_state=int(rng.integers(2**31)),
            )
            model.fit(rows, show_progress=False)
        known = np.bincount(rows.indices, minlength=data.n_items) > 0
        factors = np.where(known[:, None], model.item_factors, 0.0).astype(np.float32)
        return cls(config, factors, known)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: item factors times the folded-in user."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        users = np.stack(
            [self._fold_in(query, row) for row in range(len(states))] or [np.empty(0, np.float32)]
        )
        known = self.known if items is None else self.known[items]
        scores = users @ (self.factors if items is None else self.factors[items]).T
        scores[:, ~known] = np.nan
        return blank(scores, query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        if len(rows) > self.factors.shape[1]:
            return False
        user = kernels.solving.fold_in(rows, sums, c.alpha, self.factors, self._spread)
        np.dot(self.factors if items is None else self.factors[items], user, out=out)
        blank_unknown(out, self.known, items, asked=len(rows) > 0)
        return True

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head: each event's share of the score, exact (the score is their sum).

        Source: Hu, Koren and Volinsky 2008, section 5.
        """
        asked, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        row = recency_rows([state], self.n_items, decay=self.config.decay, last=self.config.last)
        solved = np.linalg.solve(self._system(row.indices, row.data), self.factors[item_idx])
        inside = (asked >= 0) & (asked < self.n_items)
        shares = np.zeros(len(asked), np.float32)
        shares[inside] = self.config.alpha * faded[inside] * (self.factors[asked[inside]] @ solved)
        return np.concatenate([np.zeros(len(state) - len(asked), np.float32), shares])

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "als.json").write_text(json.dumps(asdict(self.config)), "utf-8")
        np.savez(folder / "als.npz", factors=self.factors, known=self.known)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = AlsConfig(**json.loads((folder / "als.json").read_text("utf-8")))
        with np.load(folder / "als.npz", allow_pickle=False) as arrays:
            return cls(config, arrays["factors"], arrays["known"])

    def _fold_in(self, query: Rows, row: int) -> Floats:
        """(factors,) the user vector that the newest events ask for.

        Solved in the m newest items instead of the factors: with G = YᵀY + l2 I, confidences D
        and wishes b of the m rows Y of those items, (G + YᵀDY)⁻¹ Yᵀb = G⁻¹Yᵀ (I + D Y G⁻¹ Yᵀ)⁻¹ b.

        A disliked item has preference -1 with the same confidence, so it turns the vector away.

        Source: Hu, Koren and Volinsky 2008, eq. 4, with confidences that fade with age.
        """
        cut = np.s_[query.indptr[row] : query.indptr[row + 1]]
        items, weights = query.indices[cut], query.data[cut]
        wanted = self.config.alpha * weights
        if len(items) > self.factors.shape[1]:
            system = self._system(items, weights).astype(np.float32)
            return np.linalg.solve(system, wanted @ self.factors[items])
        spread = self._spread[items]
        inner = np.abs(wanted)[:, None] * (self.factors[items] @ spread.T)
        inner[np.diag_indices(len(items))] += 1.0
        solved: Floats = np.linalg.solve(inner, wanted) @ spread
        return solved

    def _system(self, items: Indices, weights: Floats) -> NDArray[np.float64]:
        y = self.factors[items]
        return self._gram + (y * (self.config.alpha * np.abs(weights))[:, None]).T @ y
