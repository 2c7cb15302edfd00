"""Splits without leakage: what may be learnt from, and which steps are to be foretold."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import History, Indices, Times
from steerec.data.counted import counted
from steerec.data.dataset import Dataset
from steerec.errors import DataError

_ELSE = 'use --protocol loo, or to train holdout = "last" under [fit] in the settings'


@dataclass(frozen=True)
class Cases:
    """Steps to be foretold, each from the user's events before it.

    Attributes:
        data: all events; the history of case c is the user's events from the first to `stop[c]`.
        user_idx: (n_cases,) int32.
        stop: (n_cases,) int64, position in `data` where the history ends.
        targets: (n_targets,) int32, the items that came next; `offsets` tells whose they are.
        offsets: (n_cases + 1,) int64: targets of case c are `targets[offsets[c]:offsets[c + 1]]`.
        now: (n_cases,) float64, Unix seconds of the request, NaN where it may not be known.
    """

    data: Dataset
    user_idx: Indices
    stop: NDArray[np.int64]
    targets: Indices
    offsets: NDArray[np.int64]
    now: Times

    def __len__(self) -> int:
        return len(self.user_idx)

    def history(self, case: int) -> History:
        """The events before the step, oldest first (views, no copies)."""
        user = int(self.user_idx[case])
        return self.data.events(int(self.data.starts[user]), int(self.stop[case]), user)

    def histories(self, start: int = 0, stop: int | None = None) -> list[History]:
        """The histories of cases `start` to `stop`."""
        return [self.history(c) for c in range(start, len(self) if stop is None else stop)]

    def lengths(self) -> NDArray[np.int64]:
        """(n_cases,): number of events in each history."""
        return np.asarray(self.stop - self.data.starts[self.user_idx])

    def take(self, chosen: NDArray[np.int64]) -> "Cases":
        """Only the cases at these positions."""
        sizes = np.diff(self.offsets)[chosen]
        parts = [self.targets[self.offsets[c] : self.offsets[c + 1]] for c in chosen]
        return replace(
            self,
            user_idx=self.user_idx[chosen],
            stop=self.stop[chosen],
            targets=np.concatenate(parts) if parts else np.empty(0, np.int32),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            now=self.now[chosen],
        )

    def asking_for(self, items: NDArray[np.bool_]) -> "Cases":
        """The same cases, of whose targets only those among these items are left.

        Args:
            items: (n_items,) which.
        """
        keep = items[self.targets]
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return replace(self, targets=self.targets[keep], offsets=offsets)


@dataclass(frozen=True)
class Split:
    """Events to learn from, and the cases that come after them."""

    train: Dataset
    cases: Cases


def k_core(data: Dataset, k: int) -> Dataset:
    """Drop users and items with fewer than `k` events, repeatedly."""
    while True:
        users = np.bincount(data.user_idx, minlength=data.n_users)
        items = np.bincount(data.item_idx, minlength=data.n_items)
        keep = (users[data.user_idx] >= k) & (items[data.item_idx] >= k)
        if keep.all():
            return data
        data = data.take(keep)


def without_repeats_in_a_row(data: Dataset) -> Dataset:
    """Drop an event whose item is the one of the same user's event before it."""
    same = (data.item_idx[1:] == data.item_idx[:-1]) & (data.user_idx[1:] == data.user_idx[:-1])
    return data.take(np.concatenate([[True], ~same]) if data.n_events else np.ones(0, bool))


def blind(data: Dataset) -> Dataset:
    """The same events in the same order, without their times."""
    return replace(data, time=np.full(data.n_events, np.nan))


def single_targets(data: Dataset, positions: NDArray[np.int64]) -> Cases:
    """One case for each event at `positions`, foretold from the user's events before it."""
    return Cases(
        data=data,
        user_idx=data.user_idx[positions],
        stop=positions,
        targets=data.item_idx[positions],
        offsets=np.arange(len(positions) + 1),
        now=data.time[positions],
    )


def leave_last_out(data: Dataset) -> Split:
    """The last event of each user with at least two is the case; all others train.

    Raises:
        DataError: if no user has two events.
    """
    counts = np.diff(data.starts)
    last = data.starts[1:][counts >= 2] - 1
    if len(last) == 0:
        raise DataError("no user has two events: nothing can be foretold and compared")
    keep = np.ones(data.n_events, bool)
    keep[last] = False
    return Split(data.take(keep), single_targets(data, last))


def withhold(split: Split, items: NDArray[np.bool_]) -> Split:
    """The split as if these items had never been seen: no event of theirs, but as targets.

    Args:
        items: (n_items,) which.
    """
    cases, train = split.cases, split.train
    keep = ~items[cases.data.item_idx]
    stop = np.concatenate([[0], np.cumsum(keep)])[cases.stop]
    shorter = replace(cases, data=cases.data.take(keep), stop=stop)
    return Split(train.take(~items[train.item_idx]), shorter)


def split_by_time(data: Dataset, quantile: float) -> Split:
    """Events up to the quantile of the times (linear) train; later events are cases.

    A later event is a case if its item occurs in training and its user has an earlier event.

    Raises:
        DataError: if times are missing, or no event is left to train on or to foretell.
    """
    if not data.has_times:
        raise DataError(f"a split by time needs a time for every event: {_ELSE}")
    split = _split_at(data, float(np.quantile(data.time, quantile)))
    if len(split.cases) == 0:
        raise DataError(
            f"after the first {quantile:.0%} of the time line no event has a known item and user: "
            f"all may lie at one time; {_ELSE}"
        )
    return split


def split_after(data: Dataset, moment: float, *, least: int, baskets: bool = False) -> Split:
    """Events up to a moment (Unix seconds) train; later ones are cases, as in `split_by_time`.

    For what goes on from a model that has seen all events up to then, and none of the cases.

    Args:
        baskets: the cases are whole baskets, as in `split_baskets`, if there are enough.
    Raises:
        DataError: if times are missing, or there are fewer than `least` cases.
    """
    if not data.has_times:
        raise DataError(
            "going on from an earlier snapshot needs a time for every event, to hold out cases "
            "that the snapshot has not seen: fit without --from"
        )
    if baskets and len((whole := _split_baskets_at(data, moment)).cases) >= least:
        return whole
    split = _split_at(data, moment)
    if len(split.cases) < least:
        raise DataError(
            f"{counted(len(split.cases), 'event')} after the earlier snapshot's newest, with an "
            f"item known before and a user with a past: expected at least {least} to fit the "
            "calibration and the blend on; wait for more, or fit without --from"
        )
    return split


def _split_at(data: Dataset, moment: float) -> Split:
    early = data.time <= moment
    train = data.take(early)
    known = np.bincount(train.item_idx, minlength=data.n_items) > 0
    first = data.starts[:-1]
    has_past = np.arange(data.n_events) > first[data.user_idx]
    positions = np.flatnonzero(~early & known[data.item_idx] & has_past)
    return Split(train, single_targets(data, positions))


def one_event_a_basket(data: Dataset) -> Dataset:
    """Keep the first event of each (user, item, basket), in order of baskets, then of source."""
    if not data.has_baskets:
        raise DataError("the basket protocol needs a basket (invoice, order) for every event")
    order = np.lexsort((data.row, data.basket, data.user_idx))
    key = np.stack([data.user_idx[order], data.basket[order], data.item_idx[order]])
    _, first = np.unique(key, axis=1, return_index=True)
    return take_at(data, order[np.sort(first)])


def take_at(data: Dataset, positions: NDArray[np.int64]) -> Dataset:
    """The events at these positions, in this order (which must keep users together)."""
    columns = ("user_idx", "item_idx", "kind", "weight", "value", "time", "basket", "row")
    return replace(data, **{name: getattr(data, name)[positions] for name in columns})


def _opens(data: Dataset) -> NDArray[np.bool_]:
    """(n_events,): which events open a basket; users who share a number have one each.

    Where there are no baskets, what a user did at one moment is one.
    """
    opens = np.ones(data.n_events, bool)
    of = data.basket if data.has_baskets else data.time
    opens[1:] = (of[1:] != of[:-1]) | (data.user_idx[1:] != data.user_idx[:-1])
    return opens


def n_baskets(data: Dataset) -> int:
    """Baskets, each of one user; where there are none, moments."""
    return int(np.count_nonzero(_opens(data)))


def _each_once(items: Indices) -> Indices:
    """The items in order of their first place."""
    _, first = np.unique(items, return_index=True)
    return items if len(first) == len(items) else items[np.sort(first)]


def basket_core(data: Dataset, *, item_baskets: int, user_baskets: int) -> Dataset:
    """Drop items in too few baskets and users with too few, repeatedly."""
    while True:
        items = np.bincount(data.item_idx, minlength=data.n_items)
        users = np.bincount(data.user_idx[_opens(data)], minlength=data.n_users)
        keep = (items[data.item_idx] >= item_baskets) & (users[data.user_idx] >= user_baskets)
        if keep.all():
            return data
        data = data.take(keep)


def split_baskets(data: Dataset, quantile: float, *, only_new: bool = False) -> Split:
    """Baskets up to the quantile of their times train; each later one is a case.

    Args:
        data: a basket's events side by side; without baskets, what a user did at one moment is one.
        only_new: leave out of the targets what the user bought before.

    Raises:
        DataError: if no later basket belongs to a user with an earlier one.
    """
    times = np.minimum.reduceat(data.time, np.flatnonzero(_opens(data)))
    split = _split_baskets_at(data, float(np.quantile(times, quantile)), only_new=only_new)
    if len(split.cases) == 0:
        raise DataError(
            "no later basket belongs to a user with an earlier one: give more events, or use "
            "--protocol loo"
        )
    return split


def _split_baskets_at(data: Dataset, moment: float, *, only_new: bool = False) -> Split:
    start = np.flatnonzero(_opens(data))
    stop = np.append(start[1:], data.n_events)
    basket_time = np.minimum.reduceat(data.time, start)
    early = basket_time <= moment
    train = data.take(np.repeat(early, stop - start))
    known = np.bincount(train.item_idx, minlength=data.n_items) > 0
    cases, targets, sizes = [], [], []
    for b in np.flatnonzero(~early):
        first = data.starts[data.user_idx[start[b]]]
        items = data.item_idx[start[b] : stop[b]]
        items = _each_once(items[known[items]])
        if only_new:
            items = items[~np.isin(items, data.item_idx[first : start[b]])]
        if start[b] > first and len(items):
            cases.append(b)
            targets.append(items)
            sizes.append(len(items))
    at = start[np.array(cases, np.int64)]
    return Split(
        train,
        Cases(
            data=data,
            user_idx=data.user_idx[at],
            stop=at,
            targets=np.concatenate([np.empty(0, np.int32), *targets]),
            offsets=np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]),
            now=basket_time[np.array(cases, np.int64)],
        ),
    )
