"""Foretelling a protocol's cases one after the other, and what is collected on the way."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from steerec.contracts import Floats, Indices
from steerec.data.dataset import Dataset
from steerec.data.split import Cases
from steerec.engine.model import Model, Progress, batches, rankable
from steerec.engine.panel import Panel
from steerec.engine.pool import Pool, PoolConfig
from steerec.evaluation.protocols import DAY_S, RECENT_DAYS, Task, recent_counts
from steerec.evaluation.ranks import ranks_of, top_lists
from steerec.evaluation.reliability import Reliability
from steerec.heads.contract import unwatched

Values = NDArray[np.float64]
LISTED_CASES = 5_000  # cases whose lists are kept for coverage, novelty and diversity
CHECKED_CASES = 2_000  # cases on which chances are compared with what came
LIVE_BATCH = 128  # cases foretold before their events are learnt: never later than the truth
GROWN = 0.25  # events learnt since the last fit, over those of that fit: then a new one is due
WARM_ONLY = "blend_warm_only"  # the blend where cold items are never ranked


@dataclass
class Tally:
    """What is collected case by case.

    Attributes:
        rank: model → one array a batch, (n_targets,) ranks.
        lists: model → one array a batch, (n_listed, 10) item indices.
        among_cold: model → one array a batch, ranks of the cold targets among the cold items.
        without: head → one array a batch, ranks by the blend without it.
        reliability: the blend and each head → the chances given and what came.
        update_s: seconds of each live update of all heads.
        refits: of each new fit: the case before which it came, its events, and its seconds.
    """

    rank: dict[str, list[Values]] = field(default_factory=dict)
    lists: dict[str, list[Indices]] = field(default_factory=dict)
    among_cold: dict[str, list[Values]] = field(default_factory=dict)
    without: dict[str, list[Values]] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)
    update_s: list[float] = field(default_factory=list)
    refits: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Beside:
    """What is measured beside the model itself, and how it is made anew.

    Attributes:
        pool: which items serving would score; where not all, the loss is measured too.
        less: head → the model without it.
        anew: fits on the events so far, whenever they have grown by a quarter; None: never.
    """

    pool: PoolConfig = field(default_factory=PoolConfig)
    less: Mapping[str, Model] = field(default_factory=dict)
    anew: Callable[[Dataset], Model] | None = None


def foretell(
    task: Task,
    model: Model,
    rng: np.random.Generator,
    *,
    beside: Beside | None = None,
    progress: Progress | None = None,
) -> Tally:
    """Score all cases in order; on a live track learn each batch's events after it."""
    beside, tell = beside or Beside(), progress or unwatched
    cases, tally = task.split.cases, Tally()
    served = Pool(Panel(model), beside.pool)
    baselines = _Baselines.of(task)
    listed = _some(len(cases), LISTED_CASES, rng)
    checked = _some(len(cases), CHECKED_CASES, rng.spawn(1)[0])
    feed = Feed(task, model) if task.live else None
    for start, stop in _ranges(cases, model, live=task.live):
        if feed and beside.anew and feed.has_grown:
            model, feed = _fitted_anew(task, feed, beside.anew, tally, start)
            served = Pool(Panel(model), beside.pool)
        tell("foretell", start, len(cases))
        histories, now = cases.histories(start, stop), cases.now[start:stop]
        raw, z, blend = model.scores(histories, None, now)
        asked = _Asked.of(task, start, stop)
        scores = {"blend": blend, **raw, **baselines.scores(start, stop)}
        _tally_lists(tally, asked, scores, listed)
        if model.data.n_items > served.config.full_catalogue:
            outside = ~served.estimate(raw, histories, ~asked.skip)
            pooled = replace(asked, skip=outside).ranks(blend)
            tally.rank.setdefault("blend_pooled", []).append(pooled)
        if task.cold is not None:
            _tally_cold(tally, scores, asked.targets, asked.skip, task.cold)
        for name, other in beside.less.items():
            ranks = asked.ranks(other.blended(z, histories, None, now))
            tally.without.setdefault(name, []).append(ranks)
        _tally_chances(tally, asked, dict(zip(model.heads, z, strict=True)), blend, checked)
        if feed:
            tally.update_s += feed.learn_until(stop)
    tally.lists["__cases__"] = [np.flatnonzero(listed).astype(np.int32)]
    tell("foretell", len(cases), len(cases))
    return tally


def _fitted_anew(
    task: Task, feed: "Feed", anew: Callable[[Dataset], Model], tally: Tally, case: int
) -> tuple[Model, "Feed"]:
    """The model of all events so far, and what feeds it from here on."""
    began, so_far = time.perf_counter(), feed.so_far
    model = anew(task.split.cases.data.take(so_far))
    seconds = time.perf_counter() - began
    tally.refits.append({"case": case, "events": int(so_far.sum()), "seconds": seconds})
    return model, Feed(task, model, so_far)


def _some(n_cases: int, most: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n_cases,): which of them are drawn."""
    drawn = np.zeros(n_cases, bool)
    drawn[rng.choice(n_cases, min(most, n_cases), replace=False)] = True
    return drawn


@dataclass(frozen=True)
class _Asked:
    """A range of the cases.

    Attributes:
        skip: (stop - start, n_items) items that are not ranked.
        targets: (n_targets,) of all these cases; `row` the case of each, from 0.
    """

    start: int
    stop: int
    skip: NDArray[np.bool_]
    targets: Indices
    row: NDArray[np.int64]

    @classmethod
    def of(cls, task: Task, start: int, stop: int) -> "_Asked":
        cases = task.split.cases
        sizes = np.diff(cases.offsets[start : stop + 1])
        return cls(
            start,
            stop,
            ~rankable(cases, start, stop, repeats=task.repeats),
            cases.targets[cases.offsets[start] : cases.offsets[stop]],
            np.repeat(np.arange(stop - start), sizes),
        )

    def ranks(self, scores: Floats) -> Values:
        """(n_targets,) places of the targets."""
        return ranks_of(scores, self.targets, row=self.row, skip=self.skip)


def _tally_chances(
    tally: Tally,
    asked: _Asked,
    z: Mapping[str, Floats],
    blend: Floats,
    checked: NDArray[np.bool_],
) -> None:
    """What chance each item was given to be next, by the blend's softmax and by each head's z."""
    cases = np.flatnonzero(checked[asked.start : asked.stop])
    told = np.isin(asked.row, cases)
    row, targets = np.searchsorted(cases, asked.row[told]), asked.targets[told]
    skip = asked.skip[cases]
    even = np.log(np.maximum((~skip).sum(axis=1, keepdims=True), 1))
    scores = np.where(skip, -np.inf, blend[cases])
    chances = {"blend": scores - logsumexp(scores, axis=1, keepdims=True)}
    chances |= {name: np.where(skip, -np.inf, one[cases] - even) for name, one in z.items()}
    for name, log_p in chances.items():
        tally.reliability.setdefault(name, Reliability()).add(log_p, targets, row)


def _tally_lists(
    tally: Tally, asked: _Asked, scores: Mapping[str, Floats], listed: NDArray[np.bool_]
) -> None:
    """The ranks of all targets, and the lists of some cases."""
    here = listed[asked.start : asked.stop]
    for name, table in scores.items():
        tally.rank.setdefault(name, []).append(asked.ranks(table))
        lists = top_lists(table[here], skip=asked.skip[here])
        tally.lists.setdefault(name, []).append(lists)


def _tally_cold(
    tally: Tally,
    scores: Mapping[str, Floats],
    targets: Indices,
    skip: NDArray[np.bool_],
    cold: NDArray[np.bool_],
) -> None:
    """Cold targets among cold items, and the blend's ranks where no cold item is ranked."""
    rows = np.flatnonzero(cold[targets])
    for name, table in scores.items():
        found = ranks_of(table, targets[rows], row=rows, skip=skip | ~cold)
        tally.among_cold.setdefault(name, []).append(found)
    warm_only = ranks_of(scores["blend"], targets, skip=skip | cold)
    tally.rank.setdefault(WARM_ONLY, []).append(warm_only)


def _ranges(cases: Cases, model: Model, *, live: bool) -> Iterator[tuple[int, int]]:
    if not live:
        yield from batches(len(cases), model.data.n_items * (2 * len(model.heads) + 4))
        return
    for start in range(0, len(cases), LIVE_BATCH):
        yield start, min(start + LIVE_BATCH, len(cases))


class Feed:
    """Gives the heads the events after training, in order of time, as the cases go by.

    Args:
        fitted: (n_events,) those that the heads were fitted on; None: those of training.
    """

    def __init__(self, task: Task, model: Model, fitted: NDArray[np.bool_] | None = None) -> None:
        self._cases, self._heads = task.split.cases, model.heads
        data = self._cases.data
        trained = np.isin(data.row, task.split.train.row) if fitted is None else fitted
        order = data.by_time()
        self._fitted, self._order = trained, order[~trained[order]]
        self._place = np.empty(data.n_events, np.int64)
        self._place[order] = np.arange(data.n_events)
        self._next = 0

    @property
    def so_far(self) -> NDArray[np.bool_]:
        """(n_events,): those fitted on, and those learnt since."""
        known = self._fitted.copy()
        known[self._order[: self._next]] = True
        return known

    @property
    def has_grown(self) -> bool:
        """Whether enough was learnt since the fit for a new one."""
        return bool(self._next >= GROWN * np.count_nonzero(self._fitted))

    def learn_until(self, case: int) -> list[float]:
        """Observe all events up to that of the case before this one; seconds of each."""
        data, took = self._cases.data, []
        last = self._place[self._cases.stop[case - 1]]
        while self._next < len(self._order) and self._place[self._order[self._next]] <= last:
            position = int(self._order[self._next])
            self._next += 1
            user = int(data.user_idx[position])
            history = data.history(user)
            at = position - int(data.starts[user])
            state, event = history.slice(max(0, at - 500), at), history.slice(at, at + 1)
            began = time.perf_counter()
            for head in self._heads.values():
                head.observe(state, event)
            took.append(time.perf_counter() - began)
        return took


@dataclass(frozen=True)
class _Baselines:
    """Popularity of all time and of late, the same list for everybody at one moment.

    Attributes:
        clock, items: times in order and items of the events so far, for `stream`; else None.
    """

    task: Task
    everything: NDArray[np.int64]
    recent: NDArray[np.int64]
    clock: Values | None
    items: Indices | None

    @classmethod
    def of(cls, task: Task) -> "_Baselines":
        train, data = task.split.train, task.split.cases.data
        counts = np.bincount(train.item_idx, minlength=train.n_items)
        if task.protocol != "stream":
            return cls(task, counts, recent_counts(task), None, None)
        order = data.by_time()
        return cls(task, counts, counts, data.time[order], data.item_idx[order])

    def scores(self, start: int, stop: int) -> dict[str, Floats]:
        n = stop - start
        if self.clock is None or self.items is None:
            return {
                "popularity": np.tile(self.everything.astype(np.float32), (n, 1)),
                "recent_popularity": np.tile(self.recent.astype(np.float32), (n, 1)),
            }
        now = self.task.split.cases.now[start]  # of the batch's first: never later than the truth
        upto = np.searchsorted(self.clock, now)
        since = np.searchsorted(self.clock, now - RECENT_DAYS * DAY_S)
        n_items = len(self.everything)
        always = np.bincount(self.items[:upto], minlength=n_items).astype(np.float32)
        late = np.bincount(self.items[since:upto], minlength=n_items).astype(np.float32)
        return {"popularity": np.tile(always, (n, 1)), "recent_popularity": np.tile(late, (n, 1))}
