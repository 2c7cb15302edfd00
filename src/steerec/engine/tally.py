"""Counts the slates of an experiment and their rewards, by user and by slice."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steerec.engine.logged import Row, as_shown, reaction_of
from steerec.engine.phi import LENGTHS, NO_HISTORY
from steerec.engine.trials import Plan
from steerec.store import Store
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.experiments import shadow
from steerec.tuning.joining import Joiner, Outcomes

SHORT = 10  # events of a short history, at most


@dataclass(slots=True)
class Sum:
    """Of one user: slates, and the metric over them, of both teams where there are two."""

    slates: int = 0
    a: float = 0.0
    b: float = 0.0

    @property
    def mean(self) -> float:
        """The metric a slate."""
        return self.a / max(self.slates, 1)


@dataclass(frozen=True, slots=True)
class _Page:
    """What a first page counts for; `arm` None: it was before the experiment."""

    user_id: str
    arm: str | None
    teams: str
    parts: tuple[str, ...]


@dataclass
class Tally:
    """Counts an experiment's slates and what came of them, row after row of the log.

    Attributes:
        span: Unix seconds from when to when slates count.
        columns: version → names of φ.
        before: user → their slates before the experiment.
        during: "all", or a slice → user → their slates in it.
        overlaps: shadow → overlap with each list shown, plain and rank-biased.
    """

    plan: Plan
    span: tuple[float, float]
    joiner: Joiner
    columns: Mapping[int, tuple[str, ...]]
    before: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    during: dict[str, dict[str, Sum]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Sum))
    )
    arm_of: dict[str, str] = field(default_factory=dict)
    overlaps: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _pages: OrderedDict[str, _Page] = field(default_factory=OrderedDict)

    def take(self, row: Row) -> None:
        """One row of the log, in order."""
        if isinstance(row, LoggedEvent):
            late = self.joiner.react(reaction_of(row), row.received)
            self.settle([] if late is None else [late])
            return
        self.settle(self.joiner.show(as_shown(row), row.time))
        if row.start == 0:
            self._look(row)
        while len(self._pages) > self.joiner.config.most_kept:
            self._pages.popitem(last=False)

    def settle(self, found: Iterable[Outcomes]) -> None:
        """Count what came of pages, or by how much it changed."""
        for outcomes in found:
            page = self._pages.get(outcomes.shown.request_id)
            if page is None or (page.teams and outcomes.shown.start):
                continue
            fresh = not outcomes.late and outcomes.shown.start == 0
            parts = [self.before]
            if page.arm is not None:
                parts = [self.during[part] for part in ("all", *page.parts)]
            for part in parts:
                _add(part[page.user_id], page, outcomes.reward, fresh=fresh)

    def _look(self, row: Impression) -> None:
        began, ended = self.span
        for name, ids in row.more.get("shadows", {}).items():
            if name.partition("/")[0] == self.plan.name:
                told = shadow(row.items, ids)
                self.overlaps[name].append((told.overlap, told.rank_overlap))
        mine = row.more.get("experiment") == self.plan.name and began <= row.time < ended
        if row.user_id is None or (row.time >= began and not mine):
            return
        arm = str(row.more["experiment_arm"]) if mine else None
        if arm is not None and self.arm_of.setdefault(row.user_id, arm) != arm:
            return  # a user merged with another: the first arm stays
        teams = str(row.more.get("teams", "")) if mine else ""
        page = _Page(row.user_id, arm, teams, self._parts(row) if mine else ())
        self._pages[row.request_id] = page

    def _parts(self, row: Impression) -> tuple[str, ...]:
        parts = [f"history: {told}" for told in _history(row, self.columns)]
        if row.scenario is not None and self.plan.scenario is None:
            parts.append(f"scenario: {row.scenario}")
        if "device" in row.more:
            parts.append(f"device: {row.more['device']}")
        if "place" in row.more:
            parts.append(f"place: {row.more['place']}")
        return tuple(parts)


def _add(told: Sum, page: _Page, reward: NDArray[np.float64], *, fresh: bool) -> None:
    told.slates += fresh
    if not page.teams:
        told.a += float(reward.sum())
        return
    for team, won in zip(page.teams, reward.tolist(), strict=False):
        if team == "a":
            told.a += won
        else:
            told.b += won


def columns_of_phi(store: Store, tenant: str) -> dict[int, tuple[str, ...]]:
    """Version → names of φ."""
    history = store.strategies.history(tenant)
    return {v.version: tuple(v.strategy.get("features", ())) for v in history}


def _history(row: Impression, columns: Mapping[int, tuple[str, ...]]) -> list[str]:
    """How long the user's history was: none, short or long; empty where φ does not tell."""
    names = columns.get(row.version, ())
    if len(names) != len(row.phi) or NO_HISTORY not in names:
        return []
    phi = dict(zip(names, row.phi.tolist(), strict=True))
    if phi[NO_HISTORY] > 1 - 1e-6:
        return ["none"]
    above = sum(phi.get(f"length~{n}", 0.0) for n in LENGTHS if n > SHORT)
    return ["long" if above > 1e-6 else "short"]
