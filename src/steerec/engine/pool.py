"""The pool: which items are scored at all, and which of them may come into a list."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.data.dataset import Dataset
from steerec.engine.panel import Panel, States
from steerec.errors import ConfigError
from steerec.heads.contract import best


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Settings of the pool."""

    full_catalogue: int = 10_000  # up to so many allowed items, every head scores all of them
    per_head: int = 100  # candidates each head brings in above that
    pool_limit: int = 500  # candidates scored by all heads above that, at most
    fresh: int = 50  # of them the newest, and as many of the most popular
    top: int = 200  # items of the final pool: the best of the blend,
    top_head: int = 5  # and the best of each head

    def __post_init__(self) -> None:
        if min(self.full_catalogue, self.per_head, self.pool_limit, self.top) < 1:
            raise ConfigError(
                "pool: full_catalogue, per_head, pool_limit and top must be at least 1"
            )
        if min(self.fresh, self.top_head) < 0 or 2 * self.fresh > self.pool_limit:
            raise ConfigError(
                f"pool: fresh={self.fresh}, top_head={self.top_head}: expected at least 0, and "
                f"2 x fresh within pool_limit={self.pool_limit}"
            )


@dataclass
class Pool:
    """Chooses what is scored."""

    panel: Panel
    config: PoolConfig

    def candidates(
        self, states: States, allowed: NDArray[np.bool_], n: int, now: float
    ) -> Indices | None:
        """Items to score, rising; None: the whole catalogue.

        Above `full_catalogue` allowed items: each head's own, the newest and the most popular.
        """
        if len(allowed) <= self.config.full_catalogue:
            return None
        possible = np.flatnonzero(allowed).astype(np.int32)
        if len(possible) <= self.config.full_catalogue:
            return possible
        retrieved = self.panel.retrieve(states, self.config.per_head, now).values()
        turns = chain.from_iterable(zip_longest(*(found.tolist() for found in retrieved)))
        brought = list(dict.fromkeys(i for i in turns if i is not None and allowed[i]))
        limit = max(self.config.pool_limit, n)
        popular = self.popular[allowed[self.popular]]
        newest = self.newest[allowed[self.newest]]
        fresh = self.config.fresh
        sure = [*popular[:fresh].tolist(), *newest[:fresh].tolist()]
        chosen = dict.fromkeys([*sure, *brought, *popular[:limit].tolist()])
        return np.sort(np.array(list(chosen)[:limit], np.int32))

    def shortlist(
        self, blend: NDArray[np.float64], z: Floats, allowed: NDArray[np.bool_], n: int
    ) -> Indices:
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
        more = np.setdiff1d(tops[allowed[tops]], first)
        order = np.argsort(-ranked[more], kind="stable")
        return np.concatenate([first, more[order].astype(np.int32)])

    @cached_property
    def popular(self) -> Indices:
        """All items, those with the most events first."""
        counts = self.panel.model.data.counts()
        return np.argsort(-counts, kind="stable").astype(np.int32)

    @cached_property
    def newest(self) -> Indices:
        """Items with a publishing time, else with an event, the newest first."""
        since = published(self.panel.model.data)
        known = np.flatnonzero(~np.isnan(since))
        return known[np.argsort(-since[known], kind="stable")].astype(np.int32)


def published(data: Dataset) -> NDArray[np.float64]:
    """(n_items,) Unix seconds of publishing, else of the item's first event; NaN where unknown."""
    first = np.full(data.n_items, np.inf)
    np.minimum.at(first, data.item_idx, np.nan_to_num(data.time, nan=np.inf))
    first[np.isinf(first)] = np.nan
    if "published" not in data.items.columns or not data.items["published"].dtype.is_numeric():
        return first
    told = data.items["published"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.where(np.isnan(told), first, told)
