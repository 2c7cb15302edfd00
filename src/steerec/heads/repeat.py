"""Repeat: the user's own items, by how often, how lately and in what rhythm they came back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead

DAY_S = 86_400.0
N_FEATURES = 16


@dataclass(frozen=True, kw_only=True)
class RepeatConfig:
    """Settings of `Repeat`."""

    l2: float = 5.0  # pull of the weights towards 0
    rounds: int = 20  # Newton steps at the most
    max_rows: int = 300_000  # most (step, own item) pairs learnt from, the newest first
    newest_steps: int = 8  # steps of each user that are learnt from, the newest
    least: float = 0.001  # share of repeated events below which the head stays silent
    shrink: float = 20.0  # pseudo-counts behind an item's own rate of return

    def __post_init__(self) -> None:
        if min(self.l2, self.shrink) <= 0 or min(self.rounds, self.max_rows) < 1:
            raise ConfigError(
                "repeat: expected l2 and shrink above 0, rounds and max_rows of at least 1"
            )


@dataclass
class Repeat(HistoryHead):
    """Scores only items of the user's history: log-odds that the next step holds the item.

    Where people never take an item twice it is silent (all NaN).

    A logistic regression on counts, recency and rhythm of (user, item), on the item's own rate of
    return and the user's share of repeats.

    Attributes:
        weights: (N_FEATURES,) float64; all 0 where nothing repeats.
        returns: (n_items,) float64, log-odds that a taken item is taken again, shrunk.

    Source: features after Hu et al. 2020, Modeling personalized item frequency information for
        next-basket recommendation, section 4, and Jeunen's and others' recency-to-gap ratio.
    """

    name: ClassVar[str] = "repeat"
    config: RepeatConfig
    weights: NDArray[np.float64]
    returns: NDArray[np.float64]

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.returns)

    @classmethod
    def fit(cls, data: Dataset, config: RepeatConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        if not (data.weight > 0).any():
            raise DataError("repeat: no event weighs above 0, expected at least one")
        returns = _rates_of_return(data, config.shrink)
        pairs = data.user_idx.astype(np.int64) * data.n_items + data.item_idx
        if len(np.unique(pairs)) > (1 - config.least) * len(pairs):
            return cls(config, np.zeros(N_FEATURES), returns)
        blocks, labels, total = [], [], 0
        for user_idx in rng.permutation(data.n_users):
            for past, step_items, time in _newest_steps(data.history(int(user_idx)), config):
                own = _own(past, time, returns)
                blocks.append(own.features)
                labels.append(np.isin(own.items, step_items))
                total += len(own.items)
            if total >= config.max_rows:
                break
        if not any(label.any() for label in labels):  # nothing was ever taken twice
            return cls(config, np.zeros(N_FEATURES), returns)
        x = np.concatenate(blocks)
        y = np.concatenate(labels).astype(np.float64)
        return cls(config, _logistic(x, y, config), returns)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items that are not in the user's history."""
        scores = np.full((len(states), self.n_items), np.nan, np.float32)
        for row, state in enumerate(states if self.weights.any() else ()):
            own = _own(state, float(now[row]), self.returns)
            scores[row, own.items] = own.features @ self.weights
        return scores if items is None else scores[:, items]

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head: the earlier times the user took the same item."""
        same = (state.item_idx == item_idx) & (state.weight > 0)
        return np.asarray(same, np.float32)

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        np.savez(folder / "weights.npz", weights=self.weights, returns=self.returns)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = RepeatConfig(**json.loads((folder / "config.json").read_text()))
        with np.load(folder / "weights.npz", allow_pickle=False) as stored:
            return cls(config, stored["weights"], stored["returns"])


@dataclass(frozen=True)
class _Own:
    """A user's own items and what is known of each: (n,) items and (n, N_FEATURES)."""

    items: Indices
    features: NDArray[np.float64]


def _steps(history: History) -> NDArray[np.int64]:
    """(n,): number of each event's step, from 0; a basket is one step, else an event."""
    fresh = np.ones(len(history), bool)
    fresh[1:] = (history.basket[1:] != history.basket[:-1]) | (history.basket[1:] < 0)
    return np.asarray(np.cumsum(fresh) - 1)


def _newest_steps(history: History, config: RepeatConfig) -> list[tuple[History, Indices, float]]:
    """(past, items of the step, its time) for the newest steps of a history."""
    steps = _steps(history)
    if len(steps) == 0:
        return []
    found = []
    for step in range(max(1, int(steps[-1]) + 1 - config.newest_steps), int(steps[-1]) + 1):
        start, stop = np.searchsorted(steps, [step, step + 1])
        past = history.slice(0, int(start))
        found.append((past, history.item_idx[start:stop], float(history.time[start])))
    return found


def _own(history: History, now: float, returns: NDArray[np.float64]) -> _Own:
    known = (history.weight > 0) & (history.item_idx >= 0) & (history.item_idx < len(returns))
    if not known.any():
        return _Own(np.empty(0, np.int32), np.empty((0, N_FEATURES)))
    items, steps, times = history.item_idx[known], _steps(history)[known], history.time[known]
    n_steps = float(steps[-1]) + 1
    unique, first, inverse = np.unique(items, return_index=True, return_inverse=True)
    count = np.bincount(inverse).astype(np.float64)
    newest = len(items) - 1 - np.unique(items[::-1], return_index=True)[1]
    since = n_steps - steps[newest]  # 1: in the newest step
    span = (n_steps - steps[first]).astype(np.float64)  # steps since it was first taken
    gap = np.where(count > 1, (steps[newest] - steps[first]) / np.maximum(count - 1, 1), 0.0)
    rhythm = np.where(gap > 0, np.log((since + 0.5) / (gap + 0.5)), 0.0)
    days = (now - times[newest]) / DAY_S
    days = np.where(np.isnan(days), 0.0, np.log1p(np.maximum(days, 0.0)))
    log_count, log_since = np.log(count), np.log(since)
    recent = np.bincount(inverse, 0.8 ** (n_steps - 1 - steps))  # decayed frequency
    features = np.stack(
        [
            np.ones(len(unique)),
            log_count,
            log_count**2,
            log_since,
            log_since**2,
            np.log(count / span + 0.02),
            np.log(count / n_steps + 0.02),
            np.log(recent + 0.02),
            rhythm,
            rhythm**2,
            (count == 1).astype(np.float64),
            (since == 1).astype(np.float64),
            days,
            np.full(len(unique), np.log(n_steps)),
            np.full(len(unique), np.log(len(items) / len(unique))),
            returns[unique],
        ],
        axis=1,
    )
    return _Own(unique.astype(np.int32), features)


def _rates_of_return(data: Dataset, shrink: float) -> NDArray[np.float64]:
    """(n_items,): log-odds that an item once taken is taken again by the same user."""
    liked = data.weight > 0
    pair = data.user_idx[liked].astype(np.int64) * data.n_items + data.item_idx[liked]
    pairs, times = np.unique(pair, return_counts=True)
    item = pairs % data.n_items
    takers = np.bincount(item, minlength=data.n_items)
    again = np.bincount(item, times > 1, data.n_items)
    mean = np.clip(again.sum() / max(takers.sum(), 1), 1e-4, 1 - 1e-4)
    rate = (again + shrink * mean) / (takers + shrink)
    return np.asarray(np.log(rate / (1 - rate)), np.float64)


def _logistic(
    x: NDArray[np.float64], y: NDArray[np.float64], config: RepeatConfig
) -> NDArray[np.float64]:
    """(n_features,) weights of a ridge logistic regression, by Newton's method."""
    weights = np.zeros(x.shape[1])
    ridge = np.full(x.shape[1], config.l2)
    for _ in range(config.rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) + ridge * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights
