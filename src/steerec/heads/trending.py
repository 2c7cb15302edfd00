"""Trending: popularity in several windows, mixed as the latest events show, live.

People with little or no history have mixtures of their own, with what others took after as little:
first steps are not like later ones.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
from steerec.heads.histories import place_among

DAY_S = 86_400.0
RESCALE = 40.0  # half-lives after which the growing counts are brought back to 1
LEAST_TOLD = 100  # events of a stretch of users' starts from which its mixture can be told


@dataclass(frozen=True, kw_only=True)
class TrendingConfig:
    """Settings of `Trending`."""

    half_lives_days: tuple[float, ...] = (1.0, 7.0, 30.0, 365.0)  # one window each, with times
    newest: tuple[int, ...] = (1, 5, 20)  # without times: each user's newest n events
    first: tuple[int, ...] = (1, 2, 4, 8, 16)  # a user's start is cut after so many events
    held_out: float = 0.1  # newest share of the events that decides how the windows mix
    rounds: int = 50  # EM rounds for the mixture

    def __post_init__(self) -> None:
        if not self.half_lives_days or min(self.half_lives_days) <= 0:
            raise ConfigError(f"trending: half_lives_days={self.half_lives_days}, expected > 0")
        if not self.newest or min((*self.newest, *self.first)) < 1:
            raise ConfigError(
                f"trending: newest={self.newest}, first={self.first}, expected at least 1 each"
            )
        if list(self.first) != sorted(set(self.first)):
            raise ConfigError(f"trending: first={self.first}, expected rising numbers")
        if not 0 < self.held_out < 1 or self.rounds < 1:
            raise ConfigError("trending: expected 0 < held_out < 1 and rounds of at least 1")


@dataclass
class Trending(HistoryHead):
    """Scores an item by its share in a mixture of windows, alike for all users but beginners.

    A window's counts are kept as if all events were counted at `clock`: an event at time t adds
    2^((t - clock) / half-life), so nothing has to be aged when time goes on.

    Attributes:
        table: (n_windows + n_stretches, n_items) float64, `counts` and below them `firsts`.
        mix: (n_windows,) float64, sums to 1.
        first_mix: (n_stretches, n_windows + n_stretches) float64, whose rows sum to 1: the mixture
            for people whose next event lies in the stretch.
        clock: Unix seconds the counts refer to, NaN where the data has no times.
    """

    name: ClassVar[str] = "trending"
    counts_live: ClassVar[bool] = True
    config: TrendingConfig
    table: NDArray[np.float64]
    mix: NDArray[np.float64]
    first_mix: NDArray[np.float64]
    clock: float
    _rows: dict[int, Floats] = field(default_factory=dict, init=False, repr=False)
    _totals: NDArray[np.float64] | None = field(default=None, init=False, repr=False)

    @property
    def counts(self) -> NDArray[np.float64]:
        """(n_windows, n_items), a view; the last window counts all events alike."""
        return self.table[: len(self.mix)]

    @property
    def firsts(self) -> NDArray[np.float64]:
        """(n_stretches, n_items), a view: events of each stretch of users' starts."""
        return self.table[len(self.mix) :]

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return int(self.table.shape[1])

    @classmethod
    def fit(cls, data: Dataset, config: TrendingConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        if not (data.weight > 0).any():
            raise DataError("trending: no event weighs above 0, expected at least one")
        everything = np.ones(data.n_events, bool)
        if data.has_times:
            clock = float(data.time.max())
            counts = _timed(data, everything, clock, config)
        else:
            clock = float("nan")
            from_end = data.starts[data.user_idx + 1] - 1 - np.arange(data.n_events)
            counts = _placed(data, everything, from_end, config)
        early, past = next(_pasts(data, config))
        late = data.item_idx[~early & (data.weight > 0)]
        mix = _mixture(past, np.bincount(late, minlength=data.n_items), config)
        table = np.concatenate([counts, _firsts(data, everything, config)])
        return cls(config, table, mix, _first_mixtures(data, mix, config), clock)

    def observe(self, state: History, event: History) -> None:
        """See Head: the event counts in every window."""
        rows = event.item_idx.tolist(), event.weight.tolist(), event.time.tolist()
        for item_idx, weight, time in zip(*rows, strict=True):
            self.count(state, item_idx, weight, time)

    def count(self, before: History, item_idx: int, weight: float, time: float) -> None:
        """See Counts."""
        place = place_among(before, time)
        if place < len(before):
            self._make_room(before, place)
        if weight <= 0 or not 0 <= item_idx < self.n_items:
            return
        self._rows.clear()
        self._count_first(place, item_idx, 1.0)
        self._count(item_idx, time)

    def _make_room(self, before: History, place: int) -> None:
        """Move on what came before but happened later, where it leaves its stretch by that."""
        self._rows.clear()  # few such events come, and few of these leave their stretch
        for end in self.config.first:
            if place < end <= len(before):
                item_idx = int(before.item_idx[end - 1])
                if before.weight[end - 1] > 0 and 0 <= item_idx < self.n_items:
                    self._count_first(end - 1, item_idx, -1.0)
                    self._count_first(end, item_idx, 1.0)

    def _count_first(self, place: int, item_idx: int, more: float) -> None:
        """One event more or less after so many of a user's start."""
        if (stretch := bisect_right(self.config.first, place)) < len(self.firsts):
            self.firsts[stretch, item_idx] += more
            if self._totals is not None:
                self._totals[len(self.mix) + stretch] += more

    def _stretch(self, history: History) -> int:
        """Which stretch of a user's start the event after this history lies in, or how many."""
        return bisect_right(self.config.first, len(history))

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
            self._totals[: len(self.mix)] += more

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: counts are right at once, but how the windows mix waits for the next fit."""
        self._rows.clear()
        self._totals = None
        liked = np.flatnonzero(history.weight > 0)
        items = history.item_idx[liked]
        stretch = np.searchsorted(self.config.first, liked, side="right")
        early = stretch < len(self.firsts)
        np.subtract.at(self.firsts, (stretch[early], items[early]), 1.0)
        for row, weight in zip(self.counts, self._weights(history)[:, liked], strict=True):
            np.subtract.at(row, items, weight)
        np.maximum(self.table, 0.0, out=self.table)
        counts = self.counts
        counts[:, counts[-1] < 0.5] = 0.0  # what is left there is rounding
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
        stretch = np.array([self._stretch(state) for state in states], int)
        n = self.n_items if items is None else len(items)
        scores = np.empty((len(states), n), np.float32)
        for number in np.unique(stretch):
            table, mix = self._mixed(int(number))
            scores[stretch == number] = _log_share(table, mix, items)
        return scores

    def _mixed(self, stretch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The windows that count in a stretch of users' starts, or beyond them, and their mixture.

        Snapshots of before had a mixture of the first stretch alone.
        """
        if stretch < len(self.first_mix):
            return self.table, self.first_mix[stretch]
        return self.counts, self.mix

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        stretch = self._stretch(state)
        if (row := self._rows.get(stretch)) is None:  # the same until another event is counted
            table, mix = self._mixed(stretch)
            if items is not None:
                if self._totals is None:
                    self._totals = self.table.sum(axis=1)
                parts = mix / np.maximum(self._totals[: len(mix)], 1e-300)
                kernels.solving.log_share_of(table, parts, items, out)
                return True
            row = np.empty(self.n_items, np.float32)
            kernels.solving.log_share(table, mix, row)
            self._rows[stretch] = row
        out[:] = row if items is None else row[items]
        return True

    def grown(self, data: Dataset) -> Self:
        """See Head: new items begin without events, and are counted from now on."""
        more = ((0, 0), (0, data.n_items - self.n_items))
        return replace(self, table=np.pad(self.table, more))

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
            table = np.concatenate([stored["counts"], stored["firsts"]])
            mix, first_mix = stored["mix"], np.atleast_2d(stored["first_mix"])
        clock = float("nan") if about["clock"] is None else float(about["clock"])
        return cls(TrendingConfig(**about["config"]), table, mix, first_mix, clock)


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
    """(n_stretches, n_items): events to keep in each stretch of users' starts."""
    stretch = _stretches(data, config)
    keep = keep & (data.weight > 0)
    rows = [
        np.bincount(data.item_idx[keep & (stretch == number)], minlength=data.n_items)
        for number in range(len(config.first))
    ]
    return np.array(rows, np.float64).reshape(len(rows), data.n_items)


def _stretches(data: Dataset, config: TrendingConfig) -> NDArray[np.int64]:
    """(n_events,): the stretch of its user's start that an event lies in."""
    place = np.arange(data.n_events) - data.starts[data.user_idx]
    return np.searchsorted(config.first, place, side="right")


def _first_mixtures(
    data: Dataset, mix: NDArray[np.float64], config: TrendingConfig
) -> NDArray[np.float64]:
    """(n_stretches, n_windows + n_stretches) weights that best foretell events of each stretch.

    They are fitted on the newest events as `mix` is; on those of every second user where too few
    of the newest lie in a stretch; and are `mix` where even these are too few.
    """
    stretch, told = _stretches(data, config), data.weight > 0
    samples = []
    for early, windows in _pasts(data, config):
        both = np.concatenate([windows, _firsts(data, early, config)])
        samples.append((both, told & ~early & (both.sum(axis=0) > 0)[data.item_idx]))
    mixtures = np.zeros((len(config.first), len(mix) + len(config.first)))
    mixtures[:, : len(mix)] = mix
    for number in range(len(config.first)):
        # A user's only event is a first one like any other.
        for both, seen in samples[-1:] if number == 0 else samples:
            late = data.item_idx[seen & (stretch == number)]
            if len(late) >= LEAST_TOLD:
                mixtures[number] = _mixture(both, np.bincount(late, minlength=data.n_items), config)
                break
    return mixtures


def _pasts(
    data: Dataset, config: TrendingConfig
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Events to count, and the windows over them, so that the others can be foretold."""
    if data.has_times:
        cut = float(np.quantile(data.time, 1 - config.held_out))
        early = data.time <= cut
        yield early, _timed(data, early, cut, config)
        return
    from_end = data.starts[data.user_idx + 1] - 1 - np.arange(data.n_events)
    yield from_end > 0, _placed(data, from_end > 0, from_end - 1, config)
    early = data.user_idx % 2 == 0
    yield early, _placed(data, early, from_end, config)


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
