"""Transitions: what people take after an item, counted over several steps, directed, live."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import chain
from math import nan
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import Rows, blank, decayed, place_among, recency_rows
from steerec.heads.lags import Steps, Weighing, count_pairs, count_within
from steerec.heads.linear import (
    NEWEST,
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
from steerec.kernels import loaded

ROUNDING = 1e-5  # what is left of a count by rounding; the least a pair weighs is above it
MERGE = 50_000  # live pairs held apart before they are merged into the counts


@dataclass(frozen=True, kw_only=True)
class TransitionsConfig:
    """Settings of `Transitions`."""

    fade: float = 0.7  # weight of a pair against one that is a step nearer
    steps: int = 20  # steps between two events that still count as a pair
    same_basket: float = 0.3  # weight of two items of one basket, in both directions
    shrink: float = 10.0  # counts added below: mistrust of items seen rarely
    decay: float = 0.7  # weight of an event of the query against the one after it
    last: int = 30  # newest events asked with

    def __post_init__(self) -> None:
        if not (0 < self.fade < 1 and 0 < self.decay <= 1):
            raise ConfigError(
                f"transitions: fade={self.fade}, decay={self.decay}: expected 0 < fade < 1 and "
                "0 < decay <= 1"
            )
        if min(self.steps, self.last) < 1 or min(self.shrink, self.same_basket) < 0:
            raise ConfigError(
                "transitions: steps and last must be at least 1, shrink and same_basket at least 0"
            )


@dataclass
class Transitions(HistoryHead):
    """Scores an item by how often it followed the user's newest events.

    Attributes:
        counts: (n_items, n_items) float32, row = earlier item, faded by steps between.
        out: (n_items,) float64, row sums of `counts`.
        known: (n_items,) bool, items that had an event.
        seen: (n_items,) int64, events of each item; None: fitted before they were kept, and then
            nothing can be forgotten exactly.
        _live: earlier item → later item → weight counted since the last merge, where `counts`
            are sparse; dense ones are added to at once.

    Source: Markov chains over decayed gaps, as the sequential rules of Ludewig and Jannach 2018,
        Evaluation of session-based recommendation algorithms, section 3.
    """

    name: ClassVar[str] = "transitions"
    counts_live: ClassVar[bool] = True
    config: TransitionsConfig
    counts: Weights
    out: np.ndarray
    known: np.ndarray
    seen: np.ndarray | None = None
    _live: dict[int, dict[int, float]] = field(default_factory=dict)
    _n_live: int = 0  # pairs in it, as they were counted

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.known)

    @classmethod
    def fit(cls, data: Dataset, config: TransitionsConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        steps = Steps.of(data)
        if len(steps.item) == 0:
            raise DataError("transitions: no event weighs above 0, expected at least one")
        counts = _counted(steps, data.n_items, config)
        seen = np.bincount(steps.item, minlength=data.n_items)
        out = np.asarray(counts.sum(axis=1), np.float64).ravel()
        return cls(config, counts, out, seen > 0, seen)

    def observe(self, state: History, event: History) -> None:
        """See Head: counts the pairs of the new event with the newest liked ones before it."""
        for later, weight in zip(event.item_idx.tolist(), event.weight.tolist(), strict=True):
            self.count(state, later, weight, nan)

    def count(self, before: History, item_idx: int, weight: float, time: float) -> None:
        """See Counts."""
        place, counted = place_among(before, time), 0 <= item_idx < self.n_items
        if weight <= 0 or (not counted and place == len(before)):
            return
        if counted:
            self.known[item_idx] = True
            if self.seen is not None:
                self.seen[item_idx] += 1
        fading = _fading(self.config)
        if place == len(before) and isinstance(self.counts, np.ndarray) and loaded():
            events = before.item_idx, before.weight
            kernels.solving.count_after(*events, item_idx, fading, self.counts, self.out)
            return
        items, liked = before.item_idx, before.weight > 0
        earlier = items[:place][liked[:place]][::-1][: self.config.steps]
        later = items[place:][liked[place:]][: self.config.steps]
        self._add(earlier, np.full(len(earlier), item_idx), fading[1 : len(earlier) + 1])
        if len(later):  # it came late: what stands on both sides of it is a step further apart
            self._add(np.full(len(later), item_idx), later, fading[1 : len(later) + 1])
            apart = np.add.outer(np.arange(len(earlier)), np.arange(len(later))).ravel() + 1
            far = np.append(fading, 0.0)[np.minimum(apart + 1, len(fading))]
            near = np.append(fading, 0.0)[np.minimum(apart, len(fading))]
            rows, columns = np.repeat(earlier, len(later)), np.tile(later, len(earlier))
            self._add(rows, columns, (far - near).astype(np.float32))

    def _add(self, earlier: Indices, later: Indices, more: Floats) -> None:
        """Add to the counts of these pairs; items that came after the fit are passed over."""
        inside = (earlier >= 0) & (earlier < self.n_items) & (later >= 0) & (later < self.n_items)
        inside &= more != 0
        rows, columns, more = earlier[inside], later[inside], more[inside]
        np.add.at(self.out, rows, more.astype(np.float64))
        if not sparse.issparse(self.counts):
            np.add.at(self.counts, (rows, columns), more)
            return
        pairs = zip(rows.tolist(), columns.tolist(), more.tolist(), strict=True)
        for row, column_idx, weight in pairs:
            live = self._live.setdefault(row, {})
            live[column_idx] = live.get(column_idx, 0.0) + weight
        self._n_live += len(rows)
        if self._n_live >= MERGE and self._n_live >= self.counts.nnz // 10:  # it copies them all
            self._merge()

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: roughly the chance to follow; NaN for items and users without events."""
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self.known)
        told = query.data / (self.out[query.indices] + c.shrink)
        asked = replace(query, data=told.astype(np.float32))
        scores = ask(asked, self.counts, items)
        if self._live:
            live = self._live_scores(asked)
            scores = scores + (live if items is None else live[:, items])
        scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        return blank(scores, query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        sums = (sums / (self.out[rows] + c.shrink)).astype(np.float32)
        out.fill(0.0)
        if not add_products(rows, sums, self.counts, items, room, out):
            return False
        if self._live:
            self._add_live(rows, sums, items, out)
        blank_unknown(out, self.known, items, asked=len(rows) > 0)
        return True

    def _add_live(self, rows: Indices, sums: Floats, items: Indices | None, out: Floats) -> None:
        """Add `sums @` what was counted live of these rows."""
        for row, weight in zip(rows.tolist(), sums.tolist(), strict=True):
            if not (live := self._live.get(row)):
                continue
            later = np.fromiter(live, np.int32, len(live))
            told = weight * np.fromiter(live.values(), np.float32, len(live))
            if items is None:
                out[later] += told
                continue
            at = np.minimum(np.searchsorted(items, later), len(items) - 1)
            named = items[at] == later
            out[at[named]] += told[named]

    def near(self, state: History) -> Indices | None:
        """See HistoryHead: what was counted live with the rest."""
        found = neighbours(state, self.counts)
        if found is None or not self._live:
            return found
        rows = (self._live.get(item, {}) for item in set(state.item_idx[-NEWEST:].tolist()))
        live = sorted({later for row in rows for later in row})
        return np.union1d(found, np.array(live, np.int32))

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        c = self.config
        said = spoken(state, self.counts, items, room, decay=c.decay, last=c.last)
        asked = state.item_idx[len(state) - said.shape[1] :]
        return np.asarray(said / (self.out.take(asked, mode="clip") + c.shrink), np.float32)

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        if isinstance(self.counts, np.ndarray):
            return None
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self.known)
        if len(rows) == 0:
            return rows
        sums = (sums / (self.out[rows] + c.shrink)).astype(np.float32)
        part = rows, sums, self.counts
        return find_near(state, [part], self.known, room, n, self._live_of(rows, sums))

    def _live_of(self, rows: Indices, sums: Floats) -> tuple[Indices, Floats] | None:
        """Items that were counted live after these, and `sums @` what was counted."""
        told = [
            (live, s)
            for row, s in zip(rows.tolist(), sums, strict=True)
            if (live := self._live.get(row))
        ]
        if not told:
            return None
        items = np.concatenate([np.fromiter(live, np.int32, len(live)) for live, _ in told])
        more = [s * np.fromiter(live.values(), np.float32, len(live)) for live, s in told]
        return items, np.concatenate(more).astype(np.float32)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        items, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        spoke = np.zeros(len(state), np.float32)
        share = column(self.counts, items, item_idx) / (self.out[items] + self.config.shrink)
        spoke[len(state) - len(items) :] = faded * share
        return spoke

    def _live_scores(self, asked: Rows) -> Floats:
        """(n_queries, n_items): asked @ what was counted live."""
        scores = np.zeros((len(asked.indptr) - 1, self.n_items), np.float32)
        of = np.repeat(np.arange(len(scores)), np.diff(asked.indptr))
        for row, item, weight in zip(of, asked.indices.tolist(), asked.data, strict=True):
            if live := self._live.get(item):
                later = np.fromiter(live, np.int32, len(live))
                scores[row, later] += weight * np.fromiter(live.values(), np.float32, len(live))
        return scores

    def _merge(self) -> None:
        """Add the live pairs to the counts."""
        if self._live:
            sizes = [len(row) for row in self._live.values()]
            rows = np.repeat(np.fromiter(self._live, np.int32, len(sizes)), sizes)
            columns = np.fromiter(chain.from_iterable(self._live.values()), np.int32, sum(sizes))
            weights = np.array([w for row in self._live.values() for w in row.values()], np.float32)
            shape = (self.n_items, self.n_items)
            self.counts = self.counts + sparse.coo_matrix((weights, (rows, columns)), shape).tocsr()
        self._live, self._n_live = {}, 0

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: exact for events that were there at the fit."""
        if self.seen is None:
            return False
        steps = Steps.of_history(history)
        items, place = np.unique(steps.item, return_inverse=True)
        own = replace(steps, item=place.astype(np.int32))
        self._merge()
        self._take_out(items, _counted(own, len(items), self.config))
        self.out[items] = np.asarray(self.counts[items].sum(axis=1), np.float64).ravel()
        self.seen[items] -= np.bincount(place, minlength=len(items))
        self.known = self.seen > 0
        return True

    def _take_out(self, items: Indices, less: Weights) -> None:
        """Subtract counts (n, n) of these items."""
        theirs: Floats = less.toarray() if sparse.issparse(less) else less
        if not sparse.issparse(self.counts):
            left = self.counts[np.ix_(items, items)] - theirs
            self.counts[np.ix_(items, items)] = np.where(left < ROUNDING, 0.0, left)
            return
        row, col = np.repeat(items, len(items)), np.tile(items, len(items))
        shape = self.counts.shape
        self.counts = (self.counts - sparse.coo_matrix((theirs.ravel(), (row, col)), shape)).tocsr()
        self.counts.data[self.counts.data < ROUNDING] = 0.0
        self.counts.eliminate_zeros()

    def save(self, folder: Path) -> None:
        """See Head: live counts are merged first."""
        self._merge()
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        arrays: dict[str, Any] = {"out": self.out, "known": self.known}
        if self.seen is not None:
            arrays["seen"] = self.seen
        np.savez(folder / "items.npz", **arrays)
        save_weights(self.counts, folder / "counts.npz")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = TransitionsConfig(**json.loads((folder / "config.json").read_text()))
        with np.load(folder / "items.npz", allow_pickle=False) as stored:
            out, known = stored["out"], stored["known"]
            seen = stored.get("seen")
        return cls(config, load_weights(folder / "counts.npz"), out, known, seen)


def _counted(steps: Steps, n_items: int, config: TransitionsConfig) -> Weights:
    """(n_items, n_items) counts of pairs, row = earlier item."""
    faded = _fading(config)
    # a big basket says less of each pair
    bulk: Floats = (1 / np.sqrt(steps.size)).astype(np.float32)
    counts = count_pairs(steps, n_items, {"all": Weighing(faded, bulk, bulk)})["all"]
    if config.same_basket and (steps.size > 1).any():
        within = count_within(steps, n_items, faded[0] * bulk**2)
        counts = counts + (within.toarray() if isinstance(counts, np.ndarray) else within)
    return counts


@lru_cache(maxsize=8)
def _fading(config: TransitionsConfig) -> Floats:
    """(steps + 1,), read-only: weight of a pair by steps apart; 0 apart is one basket."""
    faded: Floats = (config.fade ** np.arange(-1.0, config.steps)).astype(np.float32)
    faded[0] = config.same_basket
    faded.setflags(write=False)
    return faded
