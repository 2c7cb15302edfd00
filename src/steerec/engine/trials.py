"""Experiments on live traffic: what is planned, who is in which arm, and what that arm shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from steerec.contracts import Query, Strategy
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy
from steerec.errors import ConfigError
from steerec.tuning.experiments import Experiment, stable_share
from steerec.tuning.reward import Outcome, RewardConfig

REWARD = "reward"
DIALS = ("temperature", "diversity")
MOST_NAME = 64
INTERLEAVED = "both"  # in place of an arm, where lists are made of both


@dataclass(frozen=True)
class Arm:
    """What one arm shows.

    Attributes:
        share: of the experiment's users; of a shadow, of the calls that it is worked out for.
        version: a stored strategy; None: what is in force, with all that the tuner does to it.
        weights: "head.feature" → weight, over the version (None: the promoted one).
        dials: `temperature`, `diversity`, in place of the scenario's.
        shadow: whether its list is worked out and logged, and never shown.
    """

    name: str
    share: float
    version: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    dials: Mapping[str, float] = field(default_factory=dict)
    shadow: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name, "arm")
        if not set(self.dials) <= set(DIALS):
            raise ConfigError(f"arm {self.name}: dials {sorted(self.dials)}, expected {DIALS}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"arm {self.name}: share={self.share}: expected above 0, at most 1")
        SamplerConfig(**dict(self.dials))

    @property
    def follows(self) -> bool:
        """Whether its users get what they would get without the experiment."""
        return self.version is None and not self.dials


@dataclass(frozen=True)
class Plan:
    """An experiment, written down before the first user is in it.

    Attributes:
        arms: the first is what others are compared with.
        metric: `reward` or a kind of event; its mean a slate, of each user, decides.
        kind: `split` users, or `interleave` two arms in each list.
        scenario: the only placement it is about; None: all.
        traffic: share of the users who take part.
        ends: Unix seconds; None: when it is stopped.
        least_users: in each arm, before anything is concluded.
        alpha: of all comparisons together.
    """

    name: str
    arms: tuple[Arm, ...]
    metric: str = REWARD
    kind: Literal["split", "interleave"] = "split"
    scenario: str | None = None
    traffic: float = 1.0
    ends: float | None = None
    least_users: int = 100
    alpha: float = 0.05

    def __post_init__(self) -> None:
        _check_name(self.name, "experiment")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ConfigError(f"experiment {self.name}: arms {names}, expected different names")
        if not 0 < self.traffic <= 1 or self.least_users < 2:
            raise ConfigError(
                f"experiment {self.name}: traffic={self.traffic}, least_users={self.least_users}: "
                "expected a share above 0, and at least 2"
            )
        if self.kind == "interleave" and (len(self.shown) != 2 or any(a.dials for a in self.shown)):
            raise ConfigError(
                f"experiment {self.name}: to interleave needs exactly two arms without dials"
            )
        if self.shown or not self.shadows:
            self.split()

    @property
    def shown(self) -> tuple[Arm, ...]:
        """Arms that people see."""
        return tuple(arm for arm in self.arms if not arm.shadow)

    @property
    def shadows(self) -> tuple[Arm, ...]:
        """Arms that nobody sees."""
        return tuple(arm for arm in self.arms if arm.shadow)

    def split(self) -> Experiment:
        """Who is in which arm.

        Raises:
            ConfigError: if the shares do not sum to 1.
        """
        shares = {arm.name: arm.share for arm in self.shown}
        return Experiment(self.name, shares, self.metric, self.alpha)


@dataclass(frozen=True, eq=False)
class Trial:
    """An experiment that is under way, as this process serves it.

    Attributes:
        strategies: arm → its own strategy; arms without one follow what is in force.
    """

    plan: Plan
    strategies: Mapping[str, Strategy]

    def fits(self, own: Strategy) -> bool:
        """Whether all its arms weigh what a model's own strategy weighs."""
        return all(
            (one.heads, one.features) == (own.heads, own.features)
            for one in self.strategies.values()
        )

    def holds(self, query: Query, *, now: float) -> bool:
        """Whether a request belongs to it; those without a user belong to none."""
        plan = self.plan
        if query.user_id is None or (plan.ends is not None and now >= plan.ends):
            return False
        if plan.scenario is not None and query.scenario != plan.scenario:
            return False
        return stable_share(f"{plan.name}/traffic", query.user_id) < plan.traffic


def plan_of(told: Mapping[str, Any]) -> Plan:
    """A plan out of JSON.

    Raises:
        ConfigError: if it is none.
    """
    try:
        return msgspec.convert(dict(told), Plan)
    except msgspec.ValidationError as e:
        raise ConfigError(f"experiment: {e}") from e


def metric_config(config: RewardConfig, metric: str) -> RewardConfig:
    """What one shown item counts under a metric; constraints have no part in it.

    Raises:
        ConfigError: if no kind of event is called so.
    """
    if metric == REWARD:
        return replace(config, constraints=())
    found = config.outcomes.get(metric)
    if found is None:
        known = ", ".join([REWARD, *config.outcomes])
        raise ConfigError(f"metric {metric!r}: expected one of {known}")
    once = Outcome(1.0, found.window_s, found.zero, found.full)
    return replace(config, outcomes={metric: once}, scenarios={}, constraints=())


def applied(
    trials: Sequence[Trial], policy: Policy, query: Query, *, request_id: str, now: float
) -> Policy:
    """The policy for a request: that of its arm, or as it was.

    A user of several experiments is in the oldest; shadows of all are worked out.
    """
    mine = [trial for trial in trials if trial.holds(query, now=now)]
    shown = next((trial for trial in mine if trial.plan.shown), None)
    if shown is not None:
        policy = _shown(shown, policy, query)
    shadows = {
        f"{trial.plan.name}/{arm.name}": _own(trial, arm, policy)
        for trial in mine
        for arm in trial.plan.shadows
        if stable_share(f"{trial.plan.name}/{arm.name}", request_id) < arm.share
    }
    return replace(policy, shadows=shadows) if shadows else policy


# Inside


def _shown(trial: Trial, policy: Policy, query: Query) -> Policy:
    plan, user_id = trial.plan, query.user_id
    assert user_id is not None, "a trial holds users only"
    if plan.kind == "interleave":
        first, second = plan.shown
        told = {"experiment": plan.name, "experiment_arm": INTERLEAVED}
        one, other = (_own(trial, arm, policy) for arm in (first, second))
        draw = replace(policy.draw, diversity=0.0)  # one team's gain would hang on the other's
        label = f"{plan.name}/{INTERLEAVED}"
        return replace(one, draw=draw, other=other, arm=label, told=told)
    name = plan.split().arm(user_id)
    arm = next(arm for arm in plan.shown if arm.name == name)
    return replace(_own(trial, arm, policy), told={"experiment": plan.name, "experiment_arm": name})


def _own(trial: Trial, arm: Arm, policy: Policy) -> Policy:
    """What an arm shows in place of this."""
    if arm.follows:
        return policy
    label = f"{trial.plan.name}/{arm.name}"
    draw = replace(policy.draw, **dict(arm.dials))
    own = trial.strategies.get(arm.name)
    if own is None:
        return replace(policy, draw=draw, arm=label)
    return replace(
        policy, draw=draw, theta=own.theta, turn=None, version=own.version, epoch=0, arm=label
    )


def _check_name(name: str, what: str) -> None:
    if not 0 < len(name) <= MOST_NAME or "/" in name or not name.isprintable():
        raise ConfigError(
            f"{what} {name[:80]!r}: expected a name of 1 to {MOST_NAME} characters without a slash"
        )
