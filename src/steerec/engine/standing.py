"""What strategy versions brought since they were put in force, beside what was expected of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steerec.engine.learning import CONTROL, LIVE
from steerec.engine.logged import rewarded
from steerec.engine.offline import MOST_SLATES, READ_DAYS
from steerec.store import Store
from steerec.store.strategies import StrategyVersion
from steerec.tuning.reward import DAY_S, RewardConfig
from steerec.tuning.sequences import Interval, asymptotic

ALPHA = 0.05
NOTHING = Interval(0.0, -np.inf, np.inf)


@dataclass(frozen=True, slots=True)
class Earned:
    """Reward a slate, mean over users, with an interval for every look."""

    slates: int
    users: int
    mean: Interval


@dataclass(frozen=True)
class Standing:
    """What one version earned.

    Attributes:
        arms: `control` was shown the version as promoted, `live` with all that the tuner did to it.
        tuned: live less control, side by side; None: one of them is missing.
        over_parent: control less that of the version before, one after the other in time; None: one
            of them is missing.
        estimated: what was foretold of `over_parent` when it was made, with its interval.
    """

    version: int
    arms: Mapping[str, Earned] = field(default_factory=dict)
    tuned: Interval | None = None
    over_parent: Interval | None = None
    estimated: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; bounds that are not known are None."""
        return {
            "version": self.version,
            "arms": {
                arm: {"slates": one.slates, "users": one.users, **plain(one.mean)}
                for arm, one in self.arms.items()
            },
            **{
                name: None if getattr(self, name) is None else plain(getattr(self, name))
                for name in ("tuned", "over_parent", "estimated")
            },
        }


def standings(
    store: Store,
    tenant: str,
    versions: Sequence[StrategyVersion],
    config: RewardConfig,
    *,
    now: float,
) -> list[Standing]:
    """What these versions earned by the newest slates of the log, in their order.

    Slates count when they are settled; those of erased people and of experiments are in nothing.
    """
    by_arm: dict[tuple[int, str], dict[str, list[float]]] = {}
    since = now - READ_DAYS * DAY_S
    for shown, won in rewarded(store, tenant, config, newest=MOST_SLATES, since=since, now=now):
        if shown.arm in (LIVE, CONTROL):
            users = by_arm.setdefault((shown.version, str(shown.arm)), {})
            users.setdefault(shown.user_id or shown.request_id, []).append(float(won.sum()))
    earned = {key: _earned(users) for key, users in by_arm.items()}
    return [_standing(one, earned) for one in versions]


def _standing(one: StrategyVersion, earned: Mapping[tuple[int, str], Earned]) -> Standing:
    arms = {
        arm: earned[one.version, arm] for arm in (CONTROL, LIVE) if (one.version, arm) in earned
    }
    control = arms.get(CONTROL)
    before = earned.get((one.parents[0], CONTROL)) if one.parents else None
    told = one.estimates if "estimate" in one.estimates else None
    return Standing(
        one.version,
        arms,
        _less(arms.get(LIVE), control),
        _less(control, before),
        None if told is None else Interval(float(told["estimate"]), *map(float, told["interval"])),
    )


def _earned(users: Mapping[str, Sequence[float]]) -> Earned:
    means = np.array([np.mean(slates) for slates in users.values()])
    spread = float(means.var(ddof=1)) if len(means) > 1 else 0.0
    interval = asymptotic(len(means), float(means.mean()), spread, alpha=ALPHA)
    return Earned(sum(map(len, users.values())), len(users), interval)


def _less(one: Earned | None, other: Earned | None) -> Interval | None:
    """The difference of two means of different slates; intervals add up by their squares."""
    if one is None or other is None:
        return None
    mean = one.mean.mean - other.mean.mean
    half = float(np.hypot(one.mean.high - one.mean.mean, other.mean.high - other.mean.mean))
    return Interval(mean, mean - half, mean + half)


def plain(interval: Interval) -> dict[str, Any]:
    """A mean and its bounds, None where they are not finite."""
    bounds = (interval.low, interval.high)
    return {"mean": interval.mean, "ci": list(bounds) if np.isfinite(bounds).all() else None}


def told(interval: Interval) -> str:
    """In words."""
    if not np.isfinite((interval.low, interval.high)).all():
        return f"{interval.mean:+.4f} (too few users for an interval)"
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
