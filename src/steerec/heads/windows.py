"""Histories cut into windows and packed into batches, as networks of next items read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import History, Indices, Times
from steerec.data.dataset import Dataset

MOST_OF_A_BASKET = 20  # items of one basket that are foretold together, drawn anew each epoch


@dataclass(frozen=True)
class Track:
    """The events of one user that a network reads, oldest first.

    Attributes:
        item: (n,) int32.
        time: (n,) float64 Unix seconds, NaN where unknown.
        basket: (n,) int32, -1 where there are none.
        user_idx: row of the user.
    """

    item: Indices
    time: Times
    basket: Indices
    user_idx: int

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def of(cls, history: History, n_items: int) -> "Track":
        """Events that speak for an item the network knows: weight above 0, inside the catalogue."""
        good = (history.weight > 0) & (history.item_idx >= 0) & (history.item_idx < n_items)
        if good.all():
            return cls(history.item_idx, history.time, history.basket, history.user_idx)
        return cls(
            history.item_idx[good], history.time[good], history.basket[good], history.user_idx
        )

    def last(self, n: int) -> "Track":
        """The newest `n` events."""
        return self if n >= len(self) else self.slice(len(self) - n, len(self))

    def join(self, later: "Track") -> "Track":
        """This track with the events of `later` at its end."""
        return Track(
            np.concatenate([self.item, later.item]),
            np.concatenate([self.time, later.time]),
            np.concatenate([self.basket, later.basket]),
            self.user_idx,
        )

    def slice(self, start: int, stop: int) -> "Track":
        """Events `start` to `stop`, views and no copies."""
        cut = np.s_[start:stop]
        return Track(self.item[cut], self.time[cut], self.basket[cut], self.user_idx)


@dataclass(frozen=True)
class Batch:
    """Windows of equal width, and what is to be foretold from which of their places.

    Attributes:
        item: (B, T) int64, `n_items` where a window has no event (after its end).
        time: (B, T) float64, the window's last time after its end; NaN where unknown.
        row, place: (M,) int64, the window and the position that foretell a target.
        target: (M,) int64 items.
        target_time: (M,) float64, when the target came.
        user: (B,) int64 row of the user of each window.
    """

    item: NDArray[np.int64]
    time: Times
    row: NDArray[np.int64]
    place: NDArray[np.int64]
    target: NDArray[np.int64]
    target_time: Times
    user: NDArray[np.int64]


@dataclass(frozen=True)
class _Window:
    """Inputs `start` to `stop` of a track; targets follow the inputs from `fresh` on."""

    track: int
    start: int
    stop: int
    fresh: int


def tracks(data: Dataset) -> list[Track]:
    """One track a user with at least two events of positive weight."""
    found = [Track.of(data.history(u), data.n_items) for u in range(data.n_users)]
    return [track for track in found if len(track) >= 2]


def training_batches(
    of: Sequence[Track], n_items: int, *, length: int, tokens: int, rng: np.random.Generator
) -> list[Batch]:
    """One epoch: every event but each track's first is a target once, from what came before it.

    Long tracks are cut at random places, anew each epoch; a window reaches back `length` events
    wherever there are so many, so that what is foretold in it has a past.

    Args:
        length: events in a window at most.
        tokens: events in a batch at most, with the padding of its shorter windows.
    """
    windows = [w for i, track in enumerate(of) for w in _cut(i, len(track), length, rng)]
    widths = np.array([w.stop - w.start for w in windows])
    # Near in length, but not the same neighbours each epoch.
    order = np.argsort(widths * rng.uniform(0.9, 1.1, len(widths)), kind="stable")
    groups = list(_groups(widths[order], tokens))
    rng.shuffle(groups)
    return [_pack([windows[i] for i in order[a:b]], of, n_items, rng) for a, b in groups]


def query_batches(
    of: Sequence[Track], n_items: int, *, length: int, tokens: int
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """The newest `length` events of each track: positions in `of`, and their batch without targets.

    Tracks without events are left out.
    """
    widths = np.array([min(len(track), length) for track in of])
    order = np.argsort(widths, kind="stable")
    order = order[widths[order] > 0]
    for a, b in _groups(widths[order], tokens):
        chosen = order[a:b]
        windows = [_Window(i, len(of[i]) - widths[i], len(of[i]), len(of[i])) for i in chosen]
        yield chosen, _padded(windows, of, n_items)


def _cut(track: int, n: int, length: int, rng: np.random.Generator) -> Iterator[_Window]:
    """Windows over inputs 0 to n - 2 such that each input foretells in exactly one of them."""
    stop = n - 1
    if stop <= length:
        yield _Window(track, 0, stop, 0)
        return
    share = int(rng.integers(length // 2, length + 1))  # targets of the newest window
    while stop > 0:
        fresh = max(stop - share, 0)
        yield _Window(track, max(stop - length, 0), stop, fresh)
        stop, share = fresh, length


def _groups(widths: NDArray[np.int64], tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of the sorted windows such that width x number stays within `tokens`."""
    start = 0
    for i in range(len(widths) + 1):
        full = i < len(widths) and widths[start : i + 1].max() * (i + 1 - start) > tokens
        if i == len(widths) or (full and i > start):
            if i > start:
                yield start, i
            start = i


def _padded(windows: Sequence[_Window], of: Sequence[Track], n_items: int) -> Batch:
    width = max(w.stop - w.start for w in windows)
    item = np.full((len(windows), width), n_items, np.int64)
    time = np.empty((len(windows), width))
    for row, w in enumerate(windows):
        n, track = w.stop - w.start, of[w.track]
        item[row, :n] = track.item[w.start : w.stop]
        time[row, :n] = track.time[w.start : w.stop]
        time[row, n:] = track.time[w.stop - 1]
    nothing = np.empty(0, np.int64)
    user = np.array([of[w.track].user_idx for w in windows], np.int64)
    return Batch(item, time, nothing, nothing, nothing, np.empty(0), user)


def _pack(
    windows: Sequence[_Window], of: Sequence[Track], n_items: int, rng: np.random.Generator
) -> Batch:
    batch = _padded(windows, of, n_items)
    parts = [_targets(row, w, of[w.track], rng) for row, w in enumerate(windows)]
    row, place = (np.concatenate([p[i] for p in parts]) for i in range(2))
    track = [of[w.track] for w in windows]
    target = np.concatenate([t.item[p[2]] for t, p in zip(track, parts, strict=True)])
    when = np.concatenate([t.time[p[2]] for t, p in zip(track, parts, strict=True)])
    return Batch(batch.item, batch.time, row, place, target.astype(np.int64), when, batch.user)


def _targets(
    row: int, w: _Window, track: Track, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, places in the window, and positions of the targets in the track."""
    at = np.arange(w.fresh + 1, w.stop + 1)
    if len(at) == 0 or track.basket[at[0]] < 0:
        return np.full(len(at), row), at - 1 - w.start, at
    return _basket_targets(row, w, track, rng)


def _basket_targets(
    row: int, w: _Window, track: Track, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """From the last event of each basket: the items of the next one."""
    edges = np.flatnonzero(track.basket[1:] != track.basket[:-1]) + 1  # where baskets start
    ends = np.append(edges, len(track))[1:]  # none where all is one basket
    place, at = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start, end in zip(edges, ends, strict=True):
        if not w.fresh < start <= w.stop:
            continue
        chosen = np.arange(start, end)
        if len(chosen) > MOST_OF_A_BASKET:
            chosen = rng.choice(chosen, MOST_OF_A_BASKET, replace=False)
        at.append(chosen)
        place.append(np.full(len(chosen), start - 1 - w.start))
    joined = np.concatenate(at)
    return np.full(len(joined), row), np.concatenate(place), joined
