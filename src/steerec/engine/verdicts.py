"""What an experiment has shown so far, read from the log of slates and reactions."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steerec.engine.logged import rewarded, rows_after
from steerec.engine.offline import MOST_SLATES, slates_of
from steerec.engine.strategies import from_json
from steerec.engine.tally import Tally, columns_of_phi
from steerec.engine.trials import Arm, Plan, metric_config, plan_of
from steerec.store import Store
from steerec.store.experiments import Planned
from steerec.tuning.experiments import (
    Comparison,
    Preference,
    Split,
    check_split,
    compare,
    cuped,
    preference,
)
from steerec.tuning.joining import Joiner
from steerec.tuning.ope.gate import Decision, gate
from steerec.tuning.ope.softmax import softmax_policy
from steerec.tuning.reward import DAY_S, RewardConfig
from steerec.tuning.sequences import Interval, asymptotic

BEFORE_S = 28 * DAY_S  # of a user's past that foretells the metric
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

    state: str = "running"
    arms: tuple[ArmResult, ...] = ()
    split: Split | None = None
    foretold: float = 0.0
    comparisons: tuple[Comparison, ...] = ()
    preference: Preference | None = None
    shadows: tuple[ShadowResult, ...] = ()
    conclusion: str = ""
    better: str | None = None


@dataclass(frozen=True)
class Case:
    """An experiment and the log that speaks of it; `now` is Unix seconds."""

    store: Store
    tenant: str
    planned: Planned
    reward: RewardConfig
    now: float

    @property
    def plan(self) -> Plan:
        """What was planned."""
        return plan_of(self.planned.plan)

    @property
    def ended(self) -> float:
        """Unix seconds from when slates do not count."""
        ends = (self.planned.stopped, self.plan.ends)
        return min((t for t in ends if t is not None), default=np.inf)

    @property
    def state(self) -> str:
        """See Verdict."""
        if self.planned.stopped is not None:
            return "stopped"
        return "over" if self.now >= self.ended else "running"

    @property
    def metric(self) -> RewardConfig:
        """What a shown item counts."""
        return metric_config(self.reward, self.plan.metric)


def verdict(case: Case) -> Verdict:
    """Read the log from 28 days before the experiment began; all of it, at each call.

    Users who were erased are not in the log, and so in nothing here.
    """
    plan, tally = case.plan, _tallied(case)
    shadows = tuple(_shadow(case, arm, tally) for arm in plan.shadows)
    if not plan.shown:
        words = "shadows only: nobody saw them, nothing is concluded"
        return Verdict(case.state, shadows=shadows, conclusion=words)
    judge = _preferred if plan.kind == "interleave" else _compared
    return replace(judge(plan, tally), state=case.state, shadows=shadows)


def _tallied(case: Case) -> Tally:
    store, tenant, began = case.store, case.tenant, case.planned.started
    columns = columns_of_phi(store, tenant)
    tally = Tally(case.plan, (began, case.ended), Joiner(case.metric), columns)
    first = store.shown.first_seq(tenant, since=began - BEFORE_S)
    for rows, _ in rows_after(store, tenant, first - 1) if first else ():
        for row in rows:
            tally.take(row)
    tally.settle(tally.joiner.close(case.now))
    return tally


def _compared(plan: Plan, tally: Tally) -> Verdict:
    experiment = plan.split()
    users = list(tally.during["all"])
    arm, metric, foretold = _rows(tally, "all")
    counts = {name: int((arm == name).sum()) for name in experiment.arms}
    split = check_split(counts, experiment)
    parts = sorted((p for p in tally.during if p != "all"), key=lambda p: -len(tally.during[p]))
    comparisons = compare(experiment, arm, metric)
    for part in sorted(parts[:MOST_PARTS]):
        own = _rows(tally, part)
        n_parts = len(parts[:MOST_PARTS])
        comparisons += compare(experiment, own[0], own[1], part=part, n_parts=n_parts)
    arms = [
        ArmResult(
            name,
            counts[name],
            sum(tally.during["all"][u].slates for u in users if tally.arm_of[u] == name),
            _mean(metric[arm == name], plan.alpha),
        )
        for name in experiment.arms
    ]
    better, words = _concluded(plan, split, comparisons)
    return Verdict(
        arms=tuple(arms),
        split=split,
        foretold=foretold,
        comparisons=tuple(comparisons),
        conclusion=words,
        better=better,
    )


def _rows(tally: Tally, part: str) -> tuple[NDArray[np.str_], NDArray[np.float64], float]:
    """Arm and metric of each user with a settled slate, and what their past took away of it."""
    told = tally.during[part]
    users = [user for user in told if told[user].slates]
    arm = np.array([tally.arm_of[user] for user in users], np.str_)
    metric = np.array([told[user].mean for user in users], np.float64)
    past = [tally.before[u].mean if u in tally.before else np.nan for u in users]
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


def _preferred(plan: Plan, tally: Tally) -> Verdict:
    sums = [told for told in tally.during["all"].values() if told.slates]
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
    return Verdict(arms=arms, preference=found, conclusion=words, better=better)


def _shadow(case: Case, arm: Arm, tally: Tally) -> ShadowResult:
    told = np.array(tally.overlaps.get(f"{case.planned.name}/{arm.name}", [])).reshape(-1, 2)
    means = told.mean(axis=0).tolist() if len(told) else [np.nan, np.nan]
    return ShadowResult(arm.name, len(told), means[0], means[1], _estimate(case, arm))


def _estimate(case: Case, arm: Arm) -> Decision | None:
    """What the arm's list would have earned beyond what was shown, on the experiment's slates."""
    strategies, tenant, plan = case.store.strategies, case.tenant, case.plan
    version = arm.version
    stored = strategies.current(tenant) if version is None else strategies.get(tenant, version)
    if stored is None:
        return None
    strategy = from_json(stored.strategy, stored.version)
    began, now = case.planned.started, case.now
    found = rewarded(case.store, tenant, case.metric, newest=MOST_SLATES, since=began, now=now)
    slates, _ = slates_of(
        [
            (one, won)
            for one, won in found
            if one.time < case.ended and plan.scenario in (None, one.scenario)
        ],
        strategy,
    )
    if slates is None:
        return None
    assert slates.log.scores is not None, "they are made with scores"
    scores = slates.scores(strategy.theta)
    if (own := arm.dials.get("temperature", 0.0)) > 0:
        scores = scores * (slates.temperature / own)[:, None]
    before = softmax_policy(slates.log, slates.log.scores)
    return gate(
        slates.log, before, softmax_policy(slates.log, scores), rng=np.random.default_rng(0)
    )
