"""The pool: which items are scored at all, and which of them may come into a list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices
from steerec.data.dataset import Dataset
from steerec.engine.fused import FusedConfig
from steerec.errors import ConfigError
from steerec.heads.contract import best

if TYPE_CHECKING:  # the model is fitted by these settings
    from steerec.engine.panel import Panel, States

Allowed = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Settings of the pool.

    Attributes:
        own: heads asked for candidates of their own beside the fused matrix: those that know
            neighbours of single items, which few numbers for each item cannot hold.
    """

    full_catalogue: int = 10_000  # up to so many allowed items, every head scores all of them
    pool_limit: int = 500  # candidates scored by all heads above that, at most
    fresh: int = 50  # of them the newest, and as many of the most popular
    from_fused: int = 200  # of them from the fused matrix
    own: tuple[str, ...] = (
        "repeat",
        "transitions",
        "autoregressive",
        "ease",
        "item_knn",
        "content",
    )
    per_head: int = 100  # candidates each of these heads brings in, at most
    top: int = 200  # items of the final pool: the best of the blend,
    top_head: int = 5  # and the best of each head
    fused: FusedConfig = field(default_factory=FusedConfig)  # settings of the fused matrix

    def __post_init__(self) -> None:
        if min(self.full_catalogue, self.per_head, self.pool_limit, self.top) < 1:
            raise ConfigError(
                "pool: full_catalogue, per_head, pool_limit and top must be at least 1"
            )
        if min(self.fresh, self.top_head, self.from_fused) < 0 or self.fresh > self.pool_limit / 2:
            raise ConfigError(
                f"pool: fresh={self.fresh}, from_fused={self.from_fused}, top_head={self.top_head}"
                f": expected at least 0, and 2 x fresh within pool_limit={self.pool_limit}"
            )


@dataclass
class Pool:
    """Chooses what is scored.

    Attributes:
        met: when each item was seen beside the model's events, as `published` takes it; another
            array as soon as it changes. None: nobody knows.
    """

    panel: "Panel"
    config: PoolConfig
    met: Callable[[], NDArray[np.float64]] | None = None
    _dated: tuple[NDArray[np.float64] | None, Indices] | None = None

    def candidates(
        self, history: History, states: "States", allowed: Allowed, n: int, now: float
    ) -> Indices | None:
        """Items to score, rising; None: the whole catalogue.

        Above `full_catalogue` allowed items: the newest and the most popular, those of the fused
        matrix, and in turns those of the heads in `own`; of a model without the matrix, in turns
        those of all heads.
        """
        if len(allowed) <= self.config.full_catalogue:
            return None
        if np.count_nonzero(allowed) <= self.config.full_catalogue:
            return np.flatnonzero(allowed).astype(np.int32)
        limit = max(self.config.pool_limit, n)
        fused = self._fused(history, allowed, limit)
        asked = {name: states[name] for name in self.sources if name in states}
        found = list(self.panel.retrieve(asked, self.config.per_head, now).values())
        fresh, sure = self.config.fresh, self.config.from_fused
        order = (
            _first(self.popular, allowed, fresh),
            _first(self.newest, allowed, fresh),
            fused[:sure],
            in_turns(found),
            fused[sure:],
            _first(self.popular, allowed, limit),
        )
        return np.sort(self._first_of(np.concatenate(order), allowed, limit))

    def _first_of(self, order: Indices, allowed: Allowed, n: int) -> Indices:
        """The first `n` different allowed items of an order; below 0 there is none."""
        if self.panel.is_compiled:
            marks = self.panel.room.marks(len(allowed))
            return kernels.finding.first_of(order, allowed, n, marks)
        told = order[order >= 0]
        different = list(dict.fromkeys(told[allowed[told]].tolist()))
        return np.array(different[:n], np.int32)

    def estimate(
        self, raw: Mapping[str, Floats], histories: Sequence[History], allowed: Allowed
    ) -> Allowed:
        """(n_histories, n_items): what `candidates` comes to, for many histories at once.

        Each head in `own` gets an equal share of the places, instead of turns that skip what is
        there already: rather fewer items than a request would score.

        Args:
            raw: head → (n_histories, n_items) scores.
            allowed: (n_histories, n_items).
        """
        pool = np.zeros(allowed.shape, bool)
        names = [name for name in self.sources if name in raw]
        fresh = self.config.fresh
        room = self.config.pool_limit
        if (matrix := self.panel.model.fused) is not None:
            room -= 2 * fresh + self.config.from_fused
            for order in (self.popular, self.newest):
                pool[:, order[:fresh]] = True
            _mark(pool, np.where(allowed, matrix.scores(histories), np.nan), self.config.from_fused)
        for name in names:
            _mark(pool, np.where(allowed, raw[name], np.nan), room // len(names))
        return pool & allowed

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The heads that are asked for candidates of their own."""
        heads = self.panel.model.heads
        if self.panel.model.fused is None:
            return tuple(heads)
        return tuple(name for name in heads if name in self.config.own)

    def _fused(self, history: History, allowed: Allowed, n: int) -> Indices:
        """Items of the fused matrix, best first."""
        matrix = self.panel.model.fused
        if matrix is None:
            return np.empty(0, np.int32)
        if self.panel.is_compiled and matrix.n_items == len(allowed):
            return matrix.find(history, n, allowed)
        return matrix.search(history, n, allowed)

    def shortlist(self, blend: NDArray[np.float64], z: Floats, allowed: Allowed, n: int) -> Indices:
        """Places of the final pool in the scored items, best of the blend first.

        Args:
            blend: (n_scored,), equal where they agree to 1e-6.
            z: (n_heads, n_scored).
            n: length of the list asked for.
        """
        ranked = np.where(allowed, np.round(blend, 6), np.nan)
        first = best(ranked, max(self.config.top, n))
        if self.config.top_head == 0 or len(first) == int(allowed.sum()):
            return first
        least = min(self.config.top_head, z.shape[1])
        tops = np.argpartition(np.where(allowed, -z, np.inf), least - 1, axis=1)[:, :least]
        besides = allowed.copy()
        besides[first] = False
        more = np.unique(tops[besides[tops]])
        order = np.argsort(-ranked[more], kind="stable")
        return np.concatenate([first, more[order].astype(np.int32)])

    def chosen(self, blend: NDArray[np.float64], z: Floats, allowed: Allowed, n: int) -> Indices:
        """The places of `shortlist`, rising, by compiled loops."""
        return kernels.ranking.pool(
            blend, z, allowed, max(self.config.top, n), self.config.top_head
        )

    @cached_property
    def popular(self) -> Indices:
        """All items, those with the most events first."""
        counts = self.panel.model.data.counts()
        return np.argsort(-counts, kind="stable").astype(np.int32)

    @property
    def newest(self) -> Indices:
        """Items with a publishing time, else with one when they were first seen, newest first."""
        met = None if self.met is None else self.met()
        if self._dated is None or self._dated[0] is not met:
            data = self.panel.model.data
            since = published(data, met=None if met is None else met[: data.n_items])
            known = np.flatnonzero(~np.isnan(since))
            order = known[np.argsort(-since[known], kind="stable")].astype(np.int32)
            self._dated = met, order
        return self._dated[1]


def in_turns(found: Sequence[Indices]) -> Indices:
    """The first of each, then the second of each, and so on; -1 where one has no more."""
    width = max(map(len, found), default=0)
    padded = np.full((len(found), width), -1, np.int32)
    for row, items in zip(padded, found, strict=True):
        row[: len(items)] = items
    return padded.T.ravel()


def _first(order: Indices, allowed: Allowed, n: int) -> Indices:
    """The first `n` of the order that are allowed; its beginning nearly always has them."""
    for part in (order[: 4 * n], order):
        found = part[allowed[part]]
        if len(found) >= n:
            break
    return found[:n]


def _mark(pool: Allowed, scores: Floats, n: int) -> None:
    """Set the `n` best of each row, in place; NaN is never among them."""
    if n == 0:
        return
    low = np.where(np.isnan(scores), -np.inf, scores)
    first = np.argpartition(-low, min(n, low.shape[1]) - 1, axis=1)[:, :n]
    told = np.take_along_axis(low, first, axis=1) > -np.inf
    rows = np.broadcast_to(np.arange(len(pool))[:, None], first.shape)
    pool[rows[told], first[told]] = True


def first_events(data: Dataset) -> NDArray[np.float64]:
    """(n_items,) Unix seconds of each item's first event; NaN without one."""
    first = np.full(data.n_items, np.nan)
    np.fmin.at(first, data.item_idx, data.time)
    return first


def published(data: Dataset, *, met: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(n_items,) Unix seconds of publishing, else of the item's first event; NaN where unknown.

    Args:
        met: (n_items,) when each was seen beside these events, NaN where it was not.
    """
    first = first_events(data) if met is None else np.fmin(met, first_events(data))
    if "published" not in data.items.columns or not data.items["published"].dtype.is_numeric():
        return first
    told = data.items["published"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.where(np.isnan(told), first, told)
