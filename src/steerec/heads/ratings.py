"""Factors of explicit ratings: what somebody would give each item, by what they gave others."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead

Doubles = NDArray[np.float64]

BLOCK = 8_192  # people or items whose systems are solved at once
OWN, OTHERS = 0.4, 0.06  # first loadings, in standard deviations of a rating: of all items alike
LIKED = 1.0  # an event without a rating stands for a rating so many standard deviations above


@dataclass(frozen=True, kw_only=True)
class RatingsConfig:
    """Settings of `Ratings`."""

    factors: int = 12  # numbers per item beside its mean
    rounds: int = 15  # of expectation and maximisation
    shrink: float = 50.0  # ratings of a mean item that each item's numbers are mixed with
    unrated: float = 0.5  # what an event without a rating tells against a rating; 0: nothing
    last: int = 500  # newest events asked with

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.factors, self.rounds, self.last) < 1:
            raise ConfigError(
                f"ratings: factors={self.factors}, rounds={self.rounds}, last={self.last}: each "
                "must be at least 1"
            )
        if not 0 < self.shrink < np.inf or not 0 <= self.unrated <= 1:
            raise ConfigError(
                f"ratings: shrink={self.shrink}, unrated={self.unrated}: expected above 0, and "
                "from 0 to 1"
            )


@dataclass(frozen=True)
class Ratings(HistoryHead):
    """Scores an item by the rating expected of the user, given the ratings they told.

    A rating is r = mean + loadings · z + noise with z ~ N(0, I) for each user; given what is told,
    z is normal again, in closed form.

    Attributes:
        mean: (n_items,) float64, NaN for items without a rating.
        loadings: (n_items, config.factors) float64.
        noise: (n_items,) float64, variance of what the factors leave.
        spread: standard deviation of all ratings.

    Source: factor analysis by EM, Rubin and Thayer 1982, with entries missing as in Tipping and
        Bishop 1999, Probabilistic Principal Component Analysis, section 3.3.
    """

    name: ClassVar[str] = "ratings"
    steady: ClassVar[bool] = True
    config: RatingsConfig
    mean: Doubles
    loadings: Doubles
    noise: Doubles
    spread: float

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.mean)

    @classmethod
    def fit(cls, data: Dataset, config: RatingsConfig, rng: np.random.Generator) -> Self:
        """See Head. Cost: rounds x (ratings x factors² + users x factors³).

        Raises:
            DataError: if there are no ratings, or all are alike.
        """
        told = _told(data)
        spread = float(told.data.std())
        if spread == 0:
            raise DataError(f"ratings: all ratings are {told.data[0]:g}: they tell no taste")
        seen = np.bincount(told.indices, minlength=data.n_items) > 0
        kept = told[:, seen].tocsr()
        fitted = _em(kept, spread, config, rng)
        whole = np.full((data.n_items, fitted.shape[1]), np.nan)
        whole[seen] = fitted
        return cls(config, whole[:, 0], whole[:, 1:-1], whole[:, -1], spread)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items nobody rated, and for users who told no rating of another."""
        n = self.n_items if items is None else len(items)
        scores = np.full((len(states), n), np.nan, np.float32)
        cut = np.s_[:] if items is None else items
        row, item, above, trust = self._heard(states)
        asked, starts = np.unique(row, return_index=True)
        if len(asked) == 0:
            return scores
        w = self.loadings[item]
        weighed = w * (trust / self.noise[item])[:, None]
        system = np.empty((len(asked), w.shape[1], w.shape[1]))
        for number, (start, stop) in enumerate(pairwise([*starts.tolist(), len(row)])):
            system[number] = weighed[start:stop].T @ w[start:stop]
        system += np.eye(w.shape[1])
        right = np.add.reduceat(above[:, None] * weighed, starts)
        taste = np.linalg.solve(system, right[:, :, None])[:, :, 0]
        scores[asked] = self.mean[cut] + taste @ self.loadings[cut].T
        return scores

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {"config": asdict(self.config), "spread": self.spread}
        (folder / "ratings.json").write_text(json.dumps(about), "utf-8")
        np.savez(folder / "ratings.npz", mean=self.mean, loadings=self.loadings, noise=self.noise)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / "ratings.json").read_text("utf-8"))
        with np.load(folder / "ratings.npz", allow_pickle=False) as arrays:
            mean, loadings, noise = (arrays[name] for name in ("mean", "loadings", "noise"))
        return cls(RatingsConfig(**about["config"]), mean, loadings, noise, about["spread"])

    def _heard(self, states: Sequence[History]) -> tuple[Indices, Indices, Doubles, Doubles]:
        """Who told of which items, ratings above the items' means, and how far to trust each.

        Sorted by state, then item; nothing of who told no rating. The newest rating of an item
        counts; of an item without one, the newest event, as one above or below the mean.
        """
        rows = [row for row, state in enumerate(states) if state.rating is not None]
        some = [states[row].last(self.config.last) for row in rows]
        row = np.repeat(np.array(rows, np.int32), [len(state) for state in some])
        item = _joined([state.item_idx for state in some], np.int32)
        weight = _joined([state.weight for state in some], np.float32)
        rating = _joined([state.rating for state in some], np.float32)
        rated = np.isfinite(rating)
        usable = (item >= 0) & (item < self.n_items)
        usable &= rated | ((weight != 0) & (self.config.unrated > 0))
        usable[usable] = np.isfinite(self.mean[item[usable]])
        usable &= np.bincount(row[usable & rated], minlength=len(states))[row] > 0
        at = np.flatnonzero(usable)
        at = at[np.lexsort((rated[at], item[at], row[at]))]  # stable: the newest comes last
        last = np.ones(len(at), bool)
        last[:-1] = (row[at[1:]] != row[at[:-1]]) | (item[at[1:]] != item[at[:-1]])
        at = at[last]
        given = rating[at].astype(np.float64) - self.mean[item[at]]
        guessed = LIKED * self.spread * np.sign(weight[at])
        above = np.where(rated[at], given, guessed)
        return row[at], item[at], above, np.where(rated[at], 1.0, self.config.unrated)


def _joined(parts: list[Any], kind: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _told(data: Dataset) -> sparse.csr_matrix:
    """(n_users, n_items) float64: each user's newest rating of each item.

    Raises:
        DataError: if there is none.
    """
    if data.rating is None:
        raise DataError("ratings: no event has a rating, expected a value with some")
    at = np.flatnonzero(np.isfinite(data.rating))[::-1]  # the newest of a pair comes first
    pair = data.user_idx[at].astype(np.int64) * data.n_items + data.item_idx[at]
    _, first = np.unique(pair, return_index=True)
    at = at[first]  # by user, then by item
    starts = np.searchsorted(data.user_idx[at], np.arange(data.n_users + 1))
    value = data.rating[at].astype(np.float64)
    shape = (data.n_users, data.n_items)
    told = sparse.csr_matrix((value, data.item_idx[at], starts), shape=shape)
    return told[np.diff(starts) > 0]


def _em(
    told: sparse.csr_matrix, spread: float, config: RatingsConfig, rng: np.random.Generator
) -> Doubles:
    """(n_items, 2 + factors): mean, loadings and noise of each item."""
    n_items = told.shape[1]
    counts = np.bincount(told.indices, minlength=n_items).astype(np.float64)
    centre = told.data.mean()
    total = np.bincount(told.indices, told.data - centre, n_items)
    weights = np.empty((n_items, 1 + config.factors))
    weights[:, 0] = centre + total / (counts + config.shrink)
    weights[:, 1] = OWN * spread  # some people give more stars to everything
    weights[:, 2:] = OTHERS * spread * rng.standard_normal((n_items, config.factors - 1))
    noise = np.full(n_items, 0.6 * spread**2)
    for _ in range(config.rounds):
        sums = _expected(told, weights, noise)
        weights, noise = _likeliest(sums, weights, noise, counts, config.shrink)
    return np.column_stack([weights, noise])


@dataclass(frozen=True)
class _Sums:
    """What a round needs of the users' tastes, with t = (1, z).

    Attributes:
        second: (n_items, n_pairs) Σ E[t tᵀ] over those who rated the item, upper triangle.
        first: (n_items, 1 + factors) Σ r E[t].
        square: (n_items,) Σ r².
    """

    second: Doubles
    first: Doubles
    square: Doubles


def _expected(told: sparse.csr_matrix, weights: Doubles, noise: Doubles) -> _Sums:
    """The E step: everybody's taste given their ratings, summed by item."""
    n_items, width = weights.shape
    pairs = np.triu_indices(width)
    w = weights[:, 1:]
    a, b = np.triu_indices(width - 1)
    table = w[:, a] * w[:, b] / noise[:, None]
    pull, less = w / noise[:, None], weights[:, :1] * w / noise[:, None]
    second, first = np.zeros((n_items, len(pairs[0]))), np.zeros((n_items, width))
    for start in range(0, told.shape[0], BLOCK):
        some = told[start : start + BLOCK]
        there = some.copy()
        there.data = np.ones_like(some.data)
        covariance = np.linalg.inv(_square(there @ table, width - 1) + np.eye(width - 1))
        right = some @ pull - there @ less
        t = np.ones((len(right), width))
        t[:, 1:] = np.einsum("uij,uj->ui", covariance, right)
        moments = t[:, pairs[0]] * t[:, pairs[1]]
        inner = (pairs[0] > 0) & (pairs[1] > 0)
        moments[:, inner] += covariance[:, a, b]
        second += there.T @ moments
        first += some.T @ t
    square = np.bincount(told.indices, told.data**2, n_items)
    return _Sums(second, first, np.asarray(square, np.float64))


def _likeliest(
    sums: _Sums, weights: Doubles, noise: Doubles, counts: Doubles, shrink: float
) -> tuple[Doubles, Doubles]:
    """The M step: items regressed on tastes, mixed with `shrink` ratings of a mean item."""
    width = weights.shape[1]
    share = counts / counts.sum()
    typical, left = share @ weights, float(share @ noise)
    made, residual = np.empty_like(weights), np.empty_like(noise)
    for start in range(0, len(weights), BLOCK):
        cut = np.s_[start : start + BLOCK]
        system, right = _square(sums.second[cut], width), sums.first[cut]
        wanted = (right + shrink * typical)[:, :, None]
        made[cut] = np.linalg.solve(system + shrink * np.eye(width), wanted)[:, :, 0]
        explained = np.einsum("ni,nij,nj->n", made[cut], system, made[cut])
        residual[cut] = sums.square[cut] - 2 * (made[cut] * right).sum(axis=1) + explained
    return made, (residual + shrink * left) / (counts + shrink)


def _square(upper: Doubles, width: int) -> Doubles:
    """(n, width, width) symmetric matrices from their upper triangles (n, n_pairs)."""
    place = np.empty((width, width), np.int64)
    a, b = np.triu_indices(width)
    place[a, b] = place[b, a] = np.arange(len(a))
    return np.asarray(upper[:, place])
