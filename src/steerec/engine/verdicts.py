"""What an experiment has shown so far, read from the log of slates and reactions."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steerec.engine.logged import Row, as_shown, reaction_of, rewarded, rows_after
from steerec.engine.offline import MOST_SLATES, slates_of
from steerec.engine.phi import LENGTHS, NO_HISTORY
from steerec.engine.strategies import from_json
from steerec.engine.trials import Arm, Plan, metric_config, plan_of
from steerec.store import Store
from steerec.store.experiments import Planned
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.experiments import (
    Comparison,
    Preference,
    Split,
    check_split,
    compare,
    cuped,
    preference,
    shadow,
)
from steerec.tuning.joining import Joiner, Outcomes
from steerec.tuning.ope.gate import Decision, GateConfig, gate
from steerec.tuning.ope.softmax import softmax_policy
from steerec.tuning.reward import DAY_S, RewardConfig
from steerec.tuning.sequences import Interval, asymptotic

BEFORE_S = 28 * DAY_S  # of a user's past that foretells the metric
SHORT = 10  # events of a short history, at most
MOST_PARTS = 12  # slices told, those with the most users


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm: its users, their slates, and the metric's mean with an interval for every look."""

    arm: str
    users: int
    slates: int
    mean: Interval


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """An arm that nobody saw.

    Attributes:
        slates: that it was worked out for.
        overlap, rank_overlap: with what was shown, means.
        estimate: what it would have earned beyond what was shown, by the log; None: no slate
            was drawn with chance.
    """

    arm: str
    slates: int
    overlap: float
    rank_overlap: float
    estimate: Decision | None


@dataclass(frozen=True)
class Verdict:
    """What is known by now.

    Attributes:
        state: `running`, `over` (its end has come) or `stopped`.
        split: None without arms that split users.
        foretold: share of the metric's variance that the users' past took away.
        comparisons: each arm against the first, for all users, then by slice.
        conclusion: in words; why nothing is concluded, where nothing is.
        better: the arm that is better than the first for sure, by the pre-registered metric.
    """

    state: str
    arms: tuple[ArmResult, ...] = ()
    split: Split | None = None
    foretold: float = 0.0
    comparisons: tuple[Comparison, ...] = ()
    preference: Preference | None = None
    shadows: tuple[ShadowResult, ...] = ()
    conclusion: str = ""
    better: str | None = None


def verdict(
    store: Store, tenant: str, planned: Planned, config: RewardConfig, *, now: float
) -> Verdict:
    """Read the log from 28 days before the experiment began; takes a second or so per 10,000 rows.

    Users who were erased are not in the log, and so in nothing here.
    """
    plan = plan_of(planned.plan)
    ended = min((t for t in (planned.stopped, plan.ends) if t is not None), default=np.inf)
    state = "stopped" if planned.stopped is not None else "over" if now >= ended else "running"
    metric = metric_config(config, plan.metric)
    reader = _Reader(plan, (planned.started, ended), Joiner(metric), _columns(store, tenant))
    first = store.shown.first_seq(tenant, since=planned.started - BEFORE_S)
    for rows, _ in rows_after(store, tenant, first - 1) if first else ():
        for row in rows:
            reader.take(row)
    reader.settle(reader.joiner.close(now))
    shadows = tuple(
        _shadow(store, tenant, planned, arm, reader, metric, now) for arm in plan.shadows
    )
    if plan.kind == "interleave":
        return _preferred(plan, reader, state, shadows)
    return (
        _compared(plan, reader, state, shadows)
        if plan.shown
        else Verdict(
            state, shadows=shadows, conclusion="shadows only: nobody saw them, nothing is concluded"
        )
    )


# Reading


@dataclass(slots=True)
class _Sum:
    """Of one user: slates, and the metric over them, of both teams where there are two."""

    slates: int = 0
    a: float = 0.0
    b: float = 0.0

    @property
    def mean(self) -> float:
        return self.a / max(self.slates, 1)


@dataclass(frozen=True, slots=True)
class _Page:
    """What a first page counts for; `arm` None: it was before the experiment."""

    user_id: str
    arm: str | None
    teams: str
    parts: tuple[str, ...]


@dataclass
class _Reader:
    plan: Plan
    span: tuple[float, float]
    joiner: Joiner
    columns: Mapping[int, tuple[str, ...]]
    before: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    during: dict[str, dict[str, _Sum]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(_Sum))
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
            parts = (page.arm is None and [self.before]) or [
                self.during[part] for part in ("all", *page.parts)
            ]
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
        return tuple(parts)


def _add(told: _Sum, page: _Page, reward: NDArray[np.float64], *, fresh: bool) -> None:
    told.slates += fresh
    if not page.teams:
        told.a += float(reward.sum())
        return
    for team, won in zip(page.teams, reward.tolist(), strict=False):
        if team == "a":
            told.a += won
        else:
            told.b += won


def _columns(store: Store, tenant: str) -> dict[int, tuple[str, ...]]:
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


# Concluding


def _compared(
    plan: Plan, reader: _Reader, state: str, shadows: tuple[ShadowResult, ...]
) -> Verdict:
    experiment = plan.split()
    users = list(reader.during["all"])
    arm, metric, foretold = _rows(reader, "all")
    counts = {name: int((arm == name).sum()) for name in experiment.arms}
    split = check_split(counts, experiment)
    parts = sorted((p for p in reader.during if p != "all"), key=lambda p: -len(reader.during[p]))
    comparisons = compare(experiment, arm, metric)
    for part in sorted(parts[:MOST_PARTS]):
        own = _rows(reader, part)
        n_parts = len(parts[:MOST_PARTS])
        comparisons += compare(experiment, own[0], own[1], part=part, n_parts=n_parts)
    arms = [
        ArmResult(
            name,
            counts[name],
            sum(reader.during["all"][u].slates for u in users if reader.arm_of[u] == name),
            _mean(metric[arm == name], plan.alpha),
        )
        for name in experiment.arms
    ]
    better, words = _concluded(plan, split, comparisons)
    return Verdict(
        state,
        tuple(arms),
        split,
        foretold,
        tuple(comparisons),
        shadows=shadows,
        conclusion=words,
        better=better,
    )


def _rows(reader: _Reader, part: str) -> tuple[NDArray[np.str_], NDArray[np.float64], float]:
    """Arm and metric of each user with a settled slate, and what their past took away of it."""
    told = reader.during[part]
    users = [user for user in told if told[user].slates]
    arm = np.array([reader.arm_of[user] for user in users], np.str_)
    metric = np.array([told[user].mean for user in users], np.float64)
    past = [reader.before[u].mean if u in reader.before else np.nan for u in users]
    found = cuped(metric, np.array(past, np.float64))
    variance = float(metric.var()) if len(metric) else 0.0
    foretold = 1 - float(found.var()) / variance if variance > 0 else 0.0
    return arm, found, foretold


def _mean(values: NDArray[np.float64], alpha: float) -> Interval:
    if len(values) < 2:
        return Interval(float(values.mean()) if len(values) else 0.0, -np.inf, np.inf)
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    return asymptotic(len(values), mean, variance, alpha=alpha)


def _concluded(plan: Plan, split: Split, comparisons: list[Comparison]) -> tuple[str | None, str]:
    """The arm to prefer, and why, or why not."""
    first = plan.shown[0].name
    if not split.sound:
        told = ", ".join(f"{arm} {n}" for arm, n in split.counts.items())
        return None, (
            f"nothing is concluded: the split is broken ({told} users, p = {split.anytime_p:.1g}): "
            "find out why some users are missing from an arm before believing any figure"
        )
    least = min(split.counts.values())
    if least < plan.least_users:
        return None, f"too early: {least} users in the smallest arm, {plan.least_users} are needed"
    decided = [c for c in comparisons if c.slice == "all" and c.decided]
    if not decided:
        return None, f"no arm differs from {first} for sure"
    words = "; ".join(
        f"{c.arm} is {'better' if c.difference.low > 0 else 'worse'} than {first} by "
        f"{abs(c.difference.mean):.4g} [{c.difference.low:.4g}, {c.difference.high:.4g}] a slate"
        for c in decided
    )
    best = max(decided, key=lambda c: c.difference.mean)
    return (best.arm if best.difference.low > 0 else None), words


def _preferred(
    plan: Plan, reader: _Reader, state: str, shadows: tuple[ShadowResult, ...]
) -> Verdict:
    sums = [told for told in reader.during["all"].values() if told.slates]
    credit = [np.array([getattr(told, team) for told in sums], np.float64) for team in "ab"]
    found = preference(*credit, alpha=plan.alpha)
    first, second = (arm.name for arm in plan.shown)
    slates = sum(told.slates for told in sums)
    arms = tuple(
        ArmResult(
            name,
            len(sums),
            slates,
            _mean(won / np.array([told.slates for told in sums]), plan.alpha),
        )
        for name, won in zip((first, second), credit, strict=True)
    )
    better = None
    if len(sums) < plan.least_users:
        words = f"too early: {len(sums)} users, {plan.least_users} are needed"
    elif found.anytime_p >= plan.alpha:
        words = f"neither of {first} and {second} is preferred for sure"
    else:
        better = first if found.a > found.b else second
        words = (
            f"{better} is preferred: {found.a} users to {first}, {found.b} to {second}, "
            f"p = {found.anytime_p:.2g}"
        )
    return Verdict(state, arms, preference=found, shadows=shadows, conclusion=words, better=better)


def _shadow(
    store: Store,
    tenant: str,
    planned: Planned,
    arm: Arm,
    reader: _Reader,
    metric: RewardConfig,
    now: float,
) -> ShadowResult:
    told = np.array(reader.overlaps.get(f"{planned.name}/{arm.name}", [])).reshape(-1, 2)
    means = told.mean(axis=0).tolist() if len(told) else [np.nan, np.nan]
    estimate = _estimate(store, tenant, planned, arm, metric, now)
    return ShadowResult(arm.name, len(told), means[0], means[1], estimate)


def _estimate(
    store: Store,
    tenant: str,
    planned: Planned,
    arm: Arm,
    metric: RewardConfig,
    now: float,
) -> Decision | None:
    """What the arm's list would have earned beyond what was shown, on the experiment's slates."""
    current = store.strategies.current(tenant)
    own = None if arm.version is None else store.strategies.get(tenant, arm.version)
    stored = own or current
    if stored is None:
        return None
    strategy = from_json(stored.strategy, stored.version)
    found = rewarded(store, tenant, metric, newest=MOST_SLATES, since=planned.started, now=now)
    scenario = planned.plan["scenario"]
    found = [(one, won) for one, won in found if scenario in (None, one.scenario)]
    slates, _ = slates_of(found, strategy)
    if slates is None:
        return None
    assert slates.log.scores is not None, "they are made with scores"
    before = softmax_policy(slates.log, slates.log.scores)
    temperature = arm.dials.get("temperature")
    scores = slates.scores(strategy.theta)
    if temperature:
        scores = scores * (slates.temperature / temperature)[:, None]
    after = softmax_policy(slates.log, scores)
    return gate(slates.log, before, after, rng=np.random.default_rng(0), config=GateConfig())
