"""Repeat: the user's own items, by how often, how lately and in what rhythm they came back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.data.distinct import distinct
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.linear import best_first
from steerec.heads.standing import latest, standings

DAY_S = 86_400.0
N_FEATURES = 15  # of a user and an own item; those of the item alone follow
USERS_AT_ONCE = 64  # in the fit; bounds memory


@dataclass(frozen=True, kw_only=True)
class RepeatConfig:
    """Settings of `Repeat`."""

    l2: float = 5.0  # pull of the weights towards 0
    rounds: int = 20  # Newton steps at the most
    max_rows: int = 300_000  # most (step, own item) pairs learnt from, the newest first
    newest_steps: int = 8  # steps of each user that are learnt from, the newest
    least: float = 0.001  # share of repeated events below which the head stays silent
    shrink: float = 20.0  # pseudo-counts behind an item's own rate of return
    half_lives_days: tuple[float, ...] = (14.0, 60.0)  # windows of how well an item goes of late

    def __post_init__(self) -> None:
        if not self.half_lives_days or min(self.half_lives_days) <= 0:
            raise ConfigError(f"repeat: half_lives_days={self.half_lives_days}, expected > 0")
        if min(self.l2, self.shrink) <= 0 or min(self.rounds, self.max_rows) < 1:
            raise ConfigError(
                "repeat: expected l2 and shrink above 0, rounds and max_rows of at least 1"
            )


@dataclass
class Repeat(HistoryHead):
    """Scores only items of the user's history: log-odds that the next step holds the item.

    Where people never take an item twice it is silent (all NaN).

    A logistic regression on counts, recency and rhythm of (user, item), on the user's share of
    repeats, on the item's own rate of return, and on how well it goes of late with everybody: what
    is no longer sold or out of season does not come back.

    Attributes:
        weights: (N_FEATURES + n_item_features,) float64; all 0 where nothing repeats.
        items: (n_items, n_item_features) float64: log-odds that a taken item is taken again,
            shrunk; then how it stands in each window and of all times, see heads.standing.

    Source: features after Hu et al. 2020, Modeling personalized item frequency information for
        next-basket recommendation, section 4, and Jeunen's and others' recency-to-gap ratio.
    """

    name: ClassVar[str] = "repeat"
    config: RepeatConfig
    weights: NDArray[np.float64]
    items: NDArray[np.float64]

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.items)

    @classmethod
    def fit(cls, data: Dataset, config: RepeatConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        if not (data.weight > 0).any():
            raise DataError("repeat: no event weighs above 0, expected at least one")
        returns = _rates_of_return(data, config.shrink)[:, None]
        items = np.concatenate([returns, latest(data, config.half_lives_days)], axis=1)
        silent = cls(config, np.zeros(N_FEATURES + items.shape[1]), items)
        pairs = data.user_idx.astype(np.int64) * data.n_items + data.item_idx
        if len(distinct(pairs)) > (1 - config.least) * len(pairs):
            return silent
        own, times, y = _lessons(data, config, rng)
        if not y.any():  # nothing was ever taken twice
            return silent
        stood = standings(data, config.half_lives_days, own.items, times)
        x = np.concatenate([own.features, returns[own.items], stood], axis=1)
        return cls(config, _logistic(x, y, config), items)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items that are not in the user's history."""
        scores = np.full((len(states), self.n_items), np.nan, np.float32)
        if self.weights.any():
            own = _own(states, now, self.n_items)
            worth = own.features @ self.weights[:N_FEATURES]
            scores[own.row, own.items] = worth + self._worth[own.items]
        return scores if items is None else scores[:, items]

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        out.fill(np.nan)
        if not self._repeats:
            return True
        own, scores = self._own_scores(state, now)
        if items is None:
            out[own] = scores
            return True
        at = np.minimum(np.searchsorted(items, own), len(items) - 1)
        named = items[at] == own
        out[at[named]] = scores[named]
        return True

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        if not self._repeats:
            return state.item_idx[:0]
        return best_first(kernels.finding.largest(*self._own_scores(state, now), n))

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        same = (state.item_idx == items[:, None]) & (state.weight > 0)
        return np.asarray(same, np.float32)

    def _own_scores(self, state: History, now: float) -> tuple[Indices, Floats]:
        return kernels.repeating.own_scores(
            state.item_idx,
            state.weight,
            state.time,
            state.basket,
            now,
            self._worth,
            self.weights[:N_FEATURES],
        )

    @cached_property
    def _worth(self) -> NDArray[np.float64]:
        """(n_items,): what the features of each item alone add."""
        return np.asarray(self.items @ self.weights[N_FEATURES:])

    @cached_property
    def _repeats(self) -> bool:
        return bool(self.weights.any())

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head: the earlier times the user took the same item."""
        same = (state.item_idx == item_idx) & (state.weight > 0)
        return np.asarray(same, np.float32)

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        np.savez(folder / "weights.npz", weights=self.weights, items=self.items)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        told = json.loads((folder / "config.json").read_text())
        config = RepeatConfig(**{**told, "half_lives_days": tuple(told["half_lives_days"])})
        with np.load(folder / "weights.npz", allow_pickle=False) as stored:
            return cls(config, stored["weights"], stored["items"])


@dataclass(frozen=True)
class _Own:
    """The own items of several users: (n,) row of the user, (n,) items and (n, N_FEATURES)."""

    row: NDArray[np.int64]
    items: Indices
    features: NDArray[np.float64]


def _lessons(
    data: Dataset, config: RepeatConfig, rng: np.random.Generator
) -> tuple[_Own, Times, NDArray[np.float64]]:
    """Each (step, own item), the step's time, and whether it held the item.

    Whole users in random order; the rows of `_Own` are steps numbered anew for each few of them.
    """
    order, n_items = rng.permutation(data.n_users), data.n_items
    parts, when, labels, total = [_nothing()], [np.empty(0)], [np.empty(0)], 0
    for start in range(0, data.n_users, USERS_AT_ONCE):
        lessons = [
            _newest_steps(data.history(int(u)), config) for u in order[start:][:USERS_AT_ONCE]
        ]
        flat = [lesson for of_user in lessons for lesson in of_user]
        times = np.array([time for _, _, time in flat])
        own = _own([past for past, _, _ in flat], times, n_items)
        taken = np.repeat(np.arange(len(flat)), [len(items) for _, items, _ in flat]) * n_items
        taken += np.concatenate([np.empty(0, np.int32), *(items for _, items, _ in flat)])
        stop = np.cumsum(np.bincount(own.row, minlength=len(flat)))
        ends = np.cumsum([len(of_user) for of_user in lessons]) - 1  # last step of each user
        upto = total + np.where(ends >= 0, stop[ends], 0)
        enough = int(np.searchsorted(upto, config.max_rows))  # the first user who fills it
        cut = len(own.row) if enough == len(upto) else int(upto[enough] - total)
        parts.append(_Own(own.row[:cut], own.items[:cut], own.features[:cut]))
        when.append(times[own.row[:cut]])
        labels.append(np.isin(own.row * n_items + own.items, taken)[:cut].astype(np.float64))
        total += cut
        if enough < len(upto):
            break
    return _joined(parts), np.concatenate(when), np.concatenate(labels)


def _nothing() -> _Own:
    return _Own(np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, N_FEATURES)))


def _joined(parts: Sequence[_Own]) -> _Own:
    return _Own(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.features for part in parts]),
    )


def _newest_steps(history: History, config: RepeatConfig) -> list[tuple[History, Indices, float]]:
    """(past, items of the step, its time) for the newest steps of a history."""
    opens = np.flatnonzero(_opens(history.basket))
    stops = np.append(opens[1:], len(history))
    return [
        (history.slice(0, start), history.item_idx[start:stop], float(history.time[start]))
        for start, stop in zip(opens.tolist(), stops.tolist(), strict=False)
        if start > 0
    ][-config.newest_steps :]


def _opens(basket: Indices) -> NDArray[np.bool_]:
    """(n,): which events open a step; a basket is one step, else an event is."""
    opens = np.ones(len(basket), bool)
    opens[1:] = (basket[1:] != basket[:-1]) | (basket[1:] < 0)
    return opens


def _own(histories: Sequence[History], now: Times, n_items: int) -> _Own:
    """The own items of each user, rising, as the user's clock shows `now`."""
    taken = _Taken.of(histories, n_items)
    if len(taken.items) == 0:
        return _nothing()
    key = taken.row * n_items + taken.items
    order = np.argsort(key, kind="stable")  # each pair's events side by side, oldest first
    fresh = np.ones(len(order), bool)
    fresh[1:] = key[order[1:]] != key[order[:-1]]
    first = np.flatnonzero(fresh)
    pair = np.empty(len(order), np.int64)
    pair[order] = np.cumsum(fresh) - 1
    count = np.diff(np.append(first, len(order))).astype(np.float64)
    oldest, newest = order[first], order[np.append(first[1:], len(order)) - 1]
    row, n_steps = taken.row[oldest], taken.n_steps[taken.row]
    recent = np.bincount(pair, 0.8 ** (n_steps - 1 - taken.step))  # decayed frequency
    n_taken, n_own = np.bincount(taken.row), np.maximum(np.bincount(row), 1)
    features = _features(
        count=count,
        since=taken.n_steps[row] - taken.step[newest],
        span=taken.n_steps[row] - taken.step[oldest],
        recent=np.asarray(recent, np.float64),
        days=(now[row] - taken.time[newest]) / DAY_S,
        n_steps=taken.n_steps[row],
        each=(n_taken / n_own)[row],
    )
    return _Own(row, taken.items[oldest], features)


@dataclass(frozen=True)
class _Taken:
    """Events of positive weight of several users, one after the other.

    Attributes:
        row, items, time: (n,) whose it is, what and when.
        step: (n,) number of the event's step among the user's, from 0.
        n_steps: (n_users,) float64, steps up to the newest of these events.
    """

    row: NDArray[np.int64]
    items: Indices
    time: Times
    step: NDArray[np.int64]
    n_steps: NDArray[np.float64]

    @classmethod
    def of(cls, histories: Sequence[History], n_items: int) -> Self:
        items = np.concatenate([np.empty(0, np.int32), *(h.item_idx for h in histories)])
        basket = np.concatenate([np.empty(0, np.int32), *(h.basket for h in histories)])
        weight = np.concatenate([np.empty(0, np.float32), *(h.weight for h in histories)])
        time = np.concatenate([np.empty(0), *(h.time for h in histories)])
        sizes = np.array([len(h) for h in histories], np.int64)
        row = np.repeat(np.arange(len(histories)), sizes)
        starts = (np.cumsum(sizes) - sizes)[sizes > 0]
        opens = _opens(basket)
        opens[starts] = True
        number = np.cumsum(opens)
        step = number - np.repeat(number[starts], sizes[sizes > 0])
        known = np.flatnonzero((weight > 0) & (items >= 0) & (items < n_items))
        row, step = row[known], step[known]
        n_steps = np.zeros(len(histories))
        n_steps[row] = step + 1  # of the last event, which is the user's newest
        return cls(row, items[known], time[known], step, n_steps)


def _features(
    *,
    count: NDArray[np.float64],
    since: NDArray[np.float64],
    span: NDArray[np.float64],
    recent: NDArray[np.float64],
    days: NDArray[np.float64],
    n_steps: NDArray[np.float64],
    each: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, N_FEATURES) of pairs of a user and an own item.

    Args:
        since, span: steps since the item's newest and oldest event; 1 in the newest step.
        each: events of the user for each own item.
    """
    gap = np.where(count > 1, (span - since) / np.maximum(count - 1, 1), 0.0)
    rhythm = np.where(gap > 0, np.log((since + 0.5) / (gap + 0.5)), 0.0)
    days = np.where(np.isnan(days), 0.0, np.log1p(np.maximum(days, 0.0)))
    log_count, log_since = np.log(count), np.log(since)
    columns = (
        np.ones(len(count)),
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
        np.log(n_steps),
        np.log(each),
    )
    return np.stack(columns, axis=1)


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
