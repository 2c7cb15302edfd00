"""Offline tuning to its end: what the log cannot decide is shown to a few, and they decide."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steerec.engine import experiments
from steerec.engine.offline import AUTHOR, Tuned, stored, tune
from steerec.engine.online import TuningConfig
from steerec.engine.strategies import from_json, speaks_of
from steerec.engine.trials import Arm, Plan
from steerec.engine.verdicts import Case, Verdict, verdict
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.experiments import Planned
from steerec.tuning.ope.gate import GateConfig
from steerec.tuning.reward import DAY_S

log = logging.getLogger(__name__)

RAMP = "ramp of version "  # the experiment's name, and the number
AS_IT_IS, PROPOSED = "as it is", "proposed"
DAYS = 14.0  # after which a ramp that shows nothing is over


@dataclass(frozen=True)
class Run:
    """What a run of offline tuning came to.

    Attributes:
        tuned: what the log said; None: a ramp is under way, and nothing else is tried.
        ramp: the experiment that is under way after it; None: there is none.
        promoted: the version put in force; None: the one before stays.
        why: one line on what was decided.
    """

    tuned: Tuned | None
    ramp: str | None
    promoted: int | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = self.tuned
        return {
            "slates": 0 if told is None else told.slates,
            "left_out": 0 if told is None else told.left_out,
            "why": self.why,
            "promoted": self.promoted,
            "ramp": self.ramp,
            "tried": []
            if told is None
            else [{"proposal": name, **asdict(decision)} for name, decision in told.tried],
        }


def tune_or_ramp(
    store: Store,
    tenant: str,
    config: TuningConfig,
    *,
    now: float,
    rng: np.random.Generator,
    gate_config: GateConfig | None = None,
) -> Run:
    """Tune on the log; where it is too thin, show the proposal to a share of the users.

    A ramp is an experiment like any other. The next run reads it: a proposal that is better for
    sure is promoted, one that is worse, or that shows nothing in 14 days, is given up.

    Raises:
        DataError: if the tenant has no strategy yet.
    """
    for planned in store.experiments.list(tenant, running=True):
        if planned.author == AUTHOR and planned.name.startswith(RAMP):
            return _judge(store, tenant, planned, config, now)
    found = tune(store, tenant, config, now=now, rng=rng, gate_config=gate_config)
    if found.version is not None:
        return Run(found, None, found.version.version, found.why)
    if found.asks is None or not config.ramps:
        return Run(found, None, None, found.why)
    return _begin(store, tenant, found, config, now)


def _begin(store: Store, tenant: str, found: Tuned, config: TuningConfig, now: float) -> Run:
    assert found.asks is not None, "it was asked before"
    version = stored(store, tenant, found.asks, now=now)
    share = found.asks.decision.share
    plan = Plan(
        name=f"{RAMP}{version.version}",
        arms=(Arm(AS_IT_IS, 1 - share), Arm(PROPOSED, share, version=version.version)),
        ends=now + DAYS * DAY_S,
    )
    try:
        experiments.start(store, tenant, plan, config.reward, author=AUTHOR, now=now)
    except DataError as e:
        return Run(found, None, None, f"{found.why}; no ramp: {e}")
    log.info("tenant=%s ramp=%d share=%.2f", tenant, version.version, share)
    words = (
        f"{found.why}; a ramp begins: {share:.0%} of the users are shown version {version.version}"
    )
    return Run(found, plan.name, None, words)


def _judge(store: Store, tenant: str, planned: Planned, config: TuningConfig, now: float) -> Run:
    """What the users of a ramp say by now."""
    case = Case(store, tenant, planned, config.reward, now)
    said = verdict(case)
    version = next(arm.version for arm in case.plan.arms if arm.name == PROPOSED)
    assert version is not None, "a ramp shows a version"
    current, proposed = store.strategies.current(tenant), store.strategies.get(tenant, version)
    if (
        current is None
        or proposed is None
        or not speaks_of(proposed, from_json(current.strategy, current.version))
    ):
        return _give_up(store, tenant, planned, "it was made for another model", now)
    if current.version not in proposed.parents:
        return _give_up(store, tenant, planned, "another version is in force since", now)
    if said.better == PROPOSED:
        store.experiments.stop(tenant, planned.name, now=now, reason=said.conclusion[:500])
        moved = store.strategies.promote(
            tenant,
            version,
            author=AUTHOR,
            now=now,
            reason=said.conclusion[:500],
            instead_of=current.version,
        )
        return Run(None, None, moved.version, f"{planned.name}: promoted: {said.conclusion}")
    if worse := _worse(said):
        return _give_up(store, tenant, planned, worse, now)
    if case.state == "over":
        return _give_up(store, tenant, planned, said.conclusion, now)
    return Run(None, planned.name, None, f"{planned.name} goes on: {said.conclusion}")


def _worse(said: Verdict) -> str:
    """In words that the proposal is worse for sure, of however few users; "" where it is not."""
    for one in said.comparisons:
        if one.slice == "all" and one.difference.high < 0:
            apart = one.difference
            return (
                f"worse by {-apart.mean:.4g} [{-apart.high:.4g}, {-apart.low:.4g}] a slate, "
                f"{one.n[0]} users were shown it and {one.n[1]} were not"
            )
    return ""


def _give_up(store: Store, tenant: str, planned: Planned, why: str, now: float) -> Run:
    store.experiments.stop(tenant, planned.name, now=now, reason=why[:500])
    return Run(None, None, None, f"{planned.name} is over, the present strategy stays: {why}")
