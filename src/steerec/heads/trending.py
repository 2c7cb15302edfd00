"""Trending: popularity in several windows, mixed as the latest events show, live.

People without history have a mixture of their own, with what others took first: a first step is
not like a later one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room

DAY_S = 86_400.0
RESCALE = 40.0  # half-lives after which the growing counts are brought back to 1


@dataclass(frozen=True, kw_only=True)
class TrendingConfig:
    """Settings of `Trending`."""

    half_lives_days: tuple[float, ...] = (1.0, 7.0, 30.0, 365.0)  # one window each, with times
    newest: tuple[int, ...] = (1, 5, 20)  # without times: each user's newest n events
    first: tuple[int, ...] = (1, 5)  # each user's first n events, for people without history
    held_out: float = 0.1  # newest share of the events that decides how the windows mix
    rounds: int = 50  # EM rounds for the mixture

    def __post_init__(self) -> None:
        if not self.half_lives_days or min(self.half_lives_days) <= 0:
            raise ConfigError(f"trending: half_lives_days={self.half_lives_days}, expected > 0")
        if not self.newest or min((*self.newest, *self.first)) < 1:
            raise ConfigError(
                f"trending: newest={self.newest}, first={self.first}, expected at least 1 each"
            )
        if not 0 < self.held_out < 1 or self.rounds < 1:
            raise ConfigError("trending: expected 0 < held_out < 1 and rounds of at least 1")


@dataclass
class Trending(HistoryHead):
    """Scores an item by its share in a mixture of windows, alike for all users with a history.

    A window's counts are kept as if all events were counted at `clock`: an event at time t adds
    2^((t - clock) / half-life), so nothing has to be aged when time goes on.

    Attributes:
        counts: (n_windows, n_items) float64; the last window counts all events alike.
        mix: (n_windows,) float64, sums to 1.
        firsts: (n_first, n_items) float64, of each user's first n events.
        first_mix: (n_windows + n_first,) float64, sums to 1, for people without history.
        clock: Unix seconds the counts refer to, NaN where the data has no times.
    """

    name: ClassVar[str] = "trending"
    counts_live: ClassVar[bool] = True
    config: TrendingConfig
    counts: NDArray[np.float64]
    mix: NDArray[np.float64]
    firsts: NDArray[np.float64]
    first_mix: NDArray[np.float64]
    clock: float
    _row: Floats | None = field(default=None, init=False, repr=False)
    _totals: NDArray[np.float64] | None = field(default=None, init=False, repr=False)

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return int(self.counts.shape[1])

    @classmethod
    def fit(cls, data: Dataset, config: TrendingConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        if not (data.weight > 0).any():
            raise DataError("trending: no event weighs above 0, expected at least one")
        if data.has_times:
            clock = float(data.time.max())
            cut = float(np.quantile(data.time, 1 - config.held_out))
            early, late = data.time <= cut, data.time > cut
            past = _timed(data, early, cut, config)
            counts = _timed(data, np.ones(data.n_events, bool), clock, config)
        else:
            clock = float("nan")
            from_end = data.starts[data.user_idx + 1] - 1 - np.arange(data.n_events)
            early, late = from_end > 0, from_end == 0
            past = _placed(data, early, from_end - 1, config)
            counts = _placed(data, np.ones(data.n_events, bool), from_end, config)
        late &= data.weight > 0
        mix = _mixture(past, np.bincount(data.item_idx[late], minlength=data.n_items), config)
        firsts = _firsts(data, np.ones(data.n_events, bool), config)
        return cls(config, counts, mix, firsts, _first_mixture(data, mix, config), clock)

    def observe(self, state: History, event: History) -> None:
        """See Head: the event counts in every window."""
        rows = event.item_idx.tolist(), event.weight.tolist(), event.time.tolist()
        for item_idx, weight, time in zip(*rows, strict=True):
            self.count(state, item_idx, weight, time)

    def count(self, before: History, item_idx: int, weight: float, time: float) -> None:
        """See Counts."""
        if weight <= 0 or not 0 <= item_idx < self.n_items:
            return
        self._row, n_before = None, len(before)
        for first, n in zip(self.firsts, self.config.first, strict=True):
            if n_before < n:
                first[item_idx] += 1.0
        self._count(item_idx, time)

    def _count(self, item_idx: int, time: float) -> None:
        """One event; plain numbers, since arrays of a few windows take longer."""
        age_s = time - self.clock
        if isnan(age_s):
            self._add(item_idx, [1.0] * len(self.counts))
            return
        half_lives = [days * DAY_S for days in self.config.half_lives_days]
        ages = (min(max(age_s / half_life, -RESCALE), RESCALE) for half_life in half_lives)
        self._add(item_idx, [*(2.0**age for age in ages), 1.0])  # the last one: of all times
        if age_s > RESCALE / 2 * min(half_lives):
            for row, half_life in zip(self.counts, half_lives, strict=False):
                row *= 2.0 ** max(-age_s / half_life, -1000)
            self.clock, self._totals = time, None

    def _add(self, item_idx: int, more: Sequence[float]) -> None:
        """Add to the item's count in each window."""
        self.counts[:, item_idx] += more
        if self._totals is not None:
            self._totals += more

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: counts are right at once, but how the windows mix waits for the next fit."""
        self._row = self._totals = None
        liked = np.flatnonzero(history.weight > 0)
        items = history.item_idx[liked]
        for first, n in zip(self.firsts, self.config.first, strict=True):
            np.subtract.at(first, items[liked < n], 1.0)
        for row, weight in zip(self.counts, self._weights(history)[:, liked], strict=True):
            np.subtract.at(row, items, weight)
        np.maximum(self.counts, 0.0, out=self.counts)
        self.counts[:, self.counts[-1] < 0.5] = 0.0  # what is left there is rounding
        return False

    def _weights(self, history: History) -> NDArray[np.float64]:
        """(n_windows, n_events): what each event of a user counts in each window."""
        n = len(history)
        if isnan(self.clock):
            newest = np.arange(n) >= n - np.array(self.config.newest)[:, None]
            return np.vstack([newest, np.ones(n)])
        half_lives = DAY_S * np.array(self.config.half_lives_days)[:, None]
        aged = 2.0 ** np.maximum((history.time - self.clock) / half_lives, -1000.0)
        return np.vstack([aged, np.ones(n)])

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: log of the item's share; NaN for items without any event."""
        new = np.array([len(state) == 0 for state in states])
        n = self.n_items if items is None else len(items)
        scores = np.empty((len(states), n), np.float32)
        if not new.all():
            scores[~new] = _log_share(self.counts, self.mix, items)
        if new.any():
            both = np.concatenate([self.counts, self.firsts])
            scores[new] = _log_share(both, self.first_mix, items)
        return scores

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        if len(state) == 0:
            return False
        if (row := self._row) is None:  # the same for all until another event is counted
            if items is not None:
                if self._totals is None:
                    self._totals = self.counts.sum(axis=1)
                parts = self.mix / np.maximum(self._totals, 1e-300)
                kernels.solving.log_share_of(self.counts, parts, items, out)
                return True
            row = np.empty(self.n_items, np.float32)
            kernels.solving.log_share(self.counts, self.mix, row)
            self._row = row
        out[:] = row if items is None else row[items]
        return True

    def grown(self, data: Dataset) -> Self:
        """See Head: new items begin without events, and are counted from now on."""
        more = ((0, 0), (0, data.n_items - self.n_items))
        return replace(self, counts=np.pad(self.counts, more), firsts=np.pad(self.firsts, more))

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {
            "config": asdict(self.config),
            "clock": None if np.isnan(self.clock) else self.clock,
        }
        (folder / "config.json").write_text(json.dumps(about))
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez(folder / "counts.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about: dict[str, Any] = json.loads((folder / "config.json").read_text())
        for name in ("half_lives_days", "newest", "first"):
            about["config"][name] = tuple(about["config"][name])
        with np.load(folder / "counts.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
        clock = float("nan") if about["clock"] is None else float(about["clock"])
        return cls(config=TrendingConfig(**about["config"]), clock=clock, **arrays)


_ARRAYS = ("counts", "mix", "firsts", "first_mix")


def _log_share(
    counts: NDArray[np.float64], mix: NDArray[np.float64], items: Indices | None
) -> Floats:
    """(n,) float32 log of each item's share in the mixture of the windows, NaN where it is 0."""
    picked = counts if items is None else counts[:, items]
    share = mix @ (picked / np.maximum(counts.sum(axis=1), 1e-300)[:, None])
    with np.errstate(divide="ignore"):
        return np.where(share > 0, np.log(share), np.nan).astype(np.float32)


def _firsts(data: Dataset, keep: NDArray[np.bool_], config: TrendingConfig) -> NDArray[np.float64]:
    """(n_first, n_items): each user's first n events, of those to keep."""
    keep = keep & (data.weight > 0)
    place = np.arange(data.n_events) - data.starts[data.user_idx]
    rows = [
        np.bincount(data.item_idx[keep & (place < n)], minlength=data.n_items) for n in config.first
    ]
    return np.array(rows, np.float64).reshape(len(rows), data.n_items)


def _first_mixture(
    data: Dataset, mix: NDArray[np.float64], config: TrendingConfig
) -> NDArray[np.float64]:
    """(n_windows + n_first,) weights that best foretell first events of users not counted.

    With times those who came last, else every second user; `mix` where nobody is left to count.
    """
    first = data.starts[:-1][np.diff(data.starts) > 0]
    if data.has_times:
        cut = float(np.quantile(data.time, 1 - config.held_out))
        early = data.time <= cut
        past = _timed(data, early, cut, config)
        told = first[data.time[first] > cut]
    else:
        early = data.user_idx % 2 == 0
        from_end = data.starts[data.user_idx + 1] - 1 - np.arange(data.n_events)
        past = _placed(data, early, from_end, config)
        told = first[data.user_idx[first] % 2 == 1]
    told = told[data.weight[told] > 0]
    both = np.concatenate([past, _firsts(data, early, config)])
    late = np.bincount(data.item_idx[told], minlength=data.n_items)
    if not (late * both.sum(axis=0)).any():
        return np.concatenate([mix, np.zeros(len(config.first))])
    return _mixture(both, late, config)


def _timed(
    data: Dataset, keep: NDArray[np.bool_], clock: float, config: TrendingConfig
) -> NDArray[np.float64]:
    """(n_windows, n_items): events aged to `clock`, and all alike in the last row."""
    keep = keep & (data.weight > 0)
    items, age = data.item_idx[keep], clock - data.time[keep]
    rows = [
        np.bincount(items, 2.0 ** np.maximum(-age / (days * DAY_S), -1000), data.n_items)
        for days in config.half_lives_days
    ]
    return np.stack([*rows, np.bincount(items, minlength=data.n_items)]).astype(np.float64)


def _placed(
    data: Dataset,
    keep: NDArray[np.bool_],
    from_end: NDArray[np.int64],
    config: TrendingConfig,
) -> NDArray[np.float64]:
    """(n_windows, n_items): each user's newest events, and all alike in the last row."""
    keep = keep & (data.weight > 0)
    rows = [
        np.bincount(data.item_idx[keep & (from_end < n)], minlength=data.n_items)
        for n in config.newest
    ]
    rows.append(np.bincount(data.item_idx[keep], minlength=data.n_items))
    return np.stack(rows).astype(np.float64)


def _mixture(
    past: NDArray[np.float64], late: NDArray[np.int64], config: TrendingConfig
) -> NDArray[np.float64]:
    """(n_windows,) weights under which the windows best foretell the late events, by EM.

    Source: Dempster, Laird and Rubin 1977, section 4.3 (mixtures).
    """
    n_windows = len(past)
    share = past / np.maximum(past.sum(axis=1, keepdims=True), 1e-300)
    mix = np.full(n_windows, 1 / n_windows)
    seen = (late > 0) & (share.sum(axis=0) > 0)
    if not seen.any():
        return mix
    for _ in range(config.rounds):
        joint = mix[:, None] * share[:, seen]
        mix = (joint / joint.sum(axis=0)) @ late[seen]
        mix /= mix.sum()
    return mix
