"""Experiments from the first to the last: started, followed by every process, stopped."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from steerec.contracts import OWN
from steerec.engine.live import Live
from steerec.engine.offline import AUTHOR
from steerec.engine.phi import UNSEEN_ITEM
from steerec.engine.strategies import difference, from_json
from steerec.engine.trials import Arm, Plan, Trial, metric_config, plan_of
from steerec.errors import ConfigError, DataError
from steerec.store import Store
from steerec.store.experiments import Planned
from steerec.store.strategies import StrategyVersion
from steerec.tuning.reward import RewardConfig

log = logging.getLogger(__name__)


def start(
    store: Store, tenant: str, plan: Plan, config: RewardConfig, *, author: str, now: float
) -> Planned:
    """Keep an experiment; processes assign users to it within a second.

    Weights given with an arm become a version of their own, so that every arm can be told,
    compared and promoted later.

    Raises:
        ConfigError: if the metric is unknown, or it ends before it begins.
        DataError: if the name is taken, or a version or weight does not exist.
    """
    metric_config(config, plan.metric)
    if plan.ends is not None and plan.ends <= now:
        raise ConfigError(f"experiment {plan.name}: ends={plan.ends:.0f} is over, now {now:.0f}")
    if store.experiments.get(tenant, plan.name) is not None:
        raise DataError(
            f"experiment {plan.name!r} exists already: results are kept, choose another name"
        )
    current = store.strategies.current(tenant)
    if current is None:
        raise DataError(f"tenant {tenant!r} has no strategy yet: serve a model first")
    made = [_version_of(store, tenant, plan.name, arm, current, now) for arm in plan.arms]
    arms = [
        arm
        if version is None
        else replace(arm, version=store.strategies.add(tenant, version).version, weights={})
        for arm, version in zip(plan.arms, made, strict=True)
    ]
    planned = Planned(plan.name, asdict(replace(plan, arms=tuple(arms))), author, now)
    store.experiments.start(tenant, planned)
    log.info("tenant=%s experiment=%s started=1 author=%s", tenant, plan.name, author)
    return planned


def ahead_of(store: Store, tenant: str, plan: Plan, *, now: float) -> list[str]:
    """Names of the experiments under way whose users a new one of this plan would not get."""
    found = []
    for planned in store.experiments.list(tenant, running=True):
        told = plan_of(planned.plan)
        meets = None in (told.scenario, plan.scenario) or told.scenario == plan.scenario
        over = told.ends is not None and told.ends <= now
        if planned.author != AUTHOR and told.shown and meets and not over:
            found.append(planned.name)
    return found


def follow_experiments(live: Live, store: Store) -> None:
    """Serve the experiments that are under way, the oldest first, ramps of tuning after all others.

    One whose arms the serving model cannot show waits: its users get what is in force.
    """
    trials = []
    running = store.experiments.list(live.tenant, running=True)
    # A ramp is of all users: whoever plans an experiment would wait two weeks for it to end.
    for planned in sorted(running, key=lambda one: one.author == AUTHOR):
        trial = _trial(planned, store, live.tenant)
        if trial.fits(live.model.strategy):
            trials.append(trial)
        elif any(one.plan.name == planned.name for one in live.trials):
            log.warning("tenant=%s experiment=%s waits_for_model=1", live.tenant, planned.name)
    live.trials = tuple(trials)


def _trial(planned: Planned, store: Store, tenant: str) -> Trial:
    plan, own = plan_of(planned.plan), {}
    for arm in plan.arms:
        stored = None if arm.version is None else store.strategies.get(tenant, arm.version)
        if stored is not None:
            own[arm.name] = from_json(stored.strategy, stored.version)
    return Trial(plan, own)


def _version_of(
    store: Store, tenant: str, name: str, arm: Arm, current: StrategyVersion, now: float
) -> StrategyVersion | None:
    """An arm's weights as a version, not stored yet; None: it has none of its own."""
    base = current if arm.version is None else store.strategies.get(tenant, arm.version)
    if base is None:
        raise DataError(
            f"arm {arm.name}: no strategy has version {arm.version}: see `steerec strategy list`"
        )
    from_json(base.strategy, base.version)  # one edited by hand is refused here
    if any(base.strategy[axis] != current.strategy[axis] for axis in ("heads", "features")):
        raise DataError(
            f"arm {arm.name}: version {arm.version} weighs other heads or features than the one in "
            "force: choose a version of the model that serves"
        )
    if not arm.weights:
        return None
    told = _weighted(base.strategy, arm)
    return StrategyVersion(
        strategy=told,
        author=f"experiment {name}",
        made=now,
        parents=(base.version,),
        diff=difference(base.strategy, told),
        data_hash=base.data_hash,
    )


def _weighted(base: Mapping[str, Any], arm: Arm) -> dict[str, Any]:
    theta = np.array(base["theta"], np.float64)
    heads, features = list(base["heads"]), list(base["features"])
    for place, weight in arm.weights.items():
        head, _, feature = place.partition(".")
        if head not in heads or feature not in features or not np.isfinite(weight):
            raise DataError(
                f"arm {arm.name}: weight {place}={weight}: expected HEAD.FEATURE of heads "
                f"{heads} and features {features}, and a finite number"
            )
        if feature == UNSEEN_ITEM or feature.startswith(OWN):
            raise DataError(
                f"arm {arm.name}: weight {place}={weight}: what items without events, or of one's "
                "own, get beside is that of the strategy in force in every arm, so this would "
                "change no list: choose a feature of the request, such as bias"
            )
        theta[heads.index(head), features.index(feature)] = weight
    return {**base, "theta": theta.tolist()}
