"""What reactions are worth: outcomes, their windows, and prices of constraints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from steerec.errors import ConfigError

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kind of reaction is worth.

    Attributes:
        weight: reward of it; a purchase is 1.
        window_s: seconds after the item was shown within which it counts.
        zero, full: a value of `zero` is worth nothing, of `full` the whole weight, in between
            in proportion, below `zero` less than nothing; equal: any value is worth the weight.
    """

    weight: float
    window_s: float = DAY_S
    zero: float = 0.0
    full: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite([self.weight, self.zero, self.full]).all() or not self.window_s > 0:
            raise ConfigError(f"reward: {self}: weight, zero and full finite, window_s above 0")

    def share(self, value: float | None) -> float:
        """Within [-1, 1]: how much of the weight this value is worth; 1 without a scale."""
        if self.full == self.zero:
            return 1.0
        if value is None:
            return 0.0
        return float(np.clip((value - self.zero) / (self.full - self.zero), -1.0, 1.0))


OUTCOMES: Mapping[str, Outcome] = MappingProxyType(
    {
        "click": Outcome(0.2),
        "view": Outcome(0.2),
        "dwell": Outcome(0.2, full=60.0),  # seconds
        "cart": Outcome(0.5),
        "purchase": Outcome(1.0, 7 * DAY_S),
        "rating": Outcome(0.5, 7 * DAY_S, zero=3.0, full=5.0),  # stars; 1 star is -0.5
        "dislike": Outcome(-0.5),
        "skip": Outcome(-0.05),
        "return": Outcome(-0.5, 30 * DAY_S),
    }
)


@dataclass(frozen=True)
class Constraint:
    """A second aim: the mean of Σ measure[kind] a slate shall be at least `floor`.

    A ratio is written the same way: returns per purchase of at most .1 is the measure
    {"purchase": .1, "return": -1} with floor 0.
    """

    name: str
    measure: Mapping[str, float]
    floor: float


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Settings of the reward.

    Attributes:
        outcomes: kind of event → its reward, seconds after showing within which it counts, and
            the values worth nothing and all of it (equal: any value is).
        scenarios: placement → kinds that count otherwise there.
        constraints: second aims: name, measure (kind → share) and floor of its mean a slate.
    """

    outcomes: Mapping[str, Outcome] = field(default_factory=lambda: OUTCOMES)
    scenarios: Mapping[str, Mapping[str, Outcome]] = field(default_factory=dict)
    close_after_s: float = 1_800.0  # an impression closes then, or at the user's next request
    late_s: float = 7 * DAY_S  # how long closed impressions are kept for late reactions
    most_kept: int = 50_000  # impressions in memory, open and closed
    ahead_s: float = 300.0  # how far a reaction's clock may run ahead of ours
    constraints: tuple[Constraint, ...] = ()
    price_step: float = 0.001  # of a constraint's price, a slate and unit below the floor
    most_price: float = 5.0  # of a constraint

    def __post_init__(self) -> None:
        if min(self.close_after_s, self.late_s, self.most_kept, self.price_step) <= 0:
            raise ConfigError(
                "reward: close_after_s, late_s, most_kept and price_step must be above 0"
            )
        if self.ahead_s < 0 or self.most_price < 0:
            raise ConfigError("reward: ahead_s and most_price must not be below 0")
        known = {*self.outcomes, *(kind for more in self.scenarios.values() for kind in more)}
        for constraint in self.constraints:
            if not set(constraint.measure) <= known:
                raise ConfigError(
                    f"reward: constraint {constraint.name} measures "
                    f"{sorted(set(constraint.measure) - known)}, expected outcomes {sorted(known)}"
                )

    def outcome(self, kind: str, scenario: str | None) -> Outcome | None:
        """What a kind counts in a scenario; None: nothing, and it is not even joined."""
        return self.scenarios.get(scenario or "", {}).get(kind) or self.outcomes.get(kind)

    def of(
        self,
        values: Mapping[str, float | None],
        *,
        scenario: str | None = None,
        prices: "Prices | None" = None,
    ) -> float:
        """Reward of one shown item, cut to [-1, 1].

        Args:
            values: kind → value of what the person did with the item, each kind once. A skip
                says nothing beside anything of positive weight.
        """
        parts = {}
        for kind, value in values.items():
            outcome = self.outcome(kind, scenario)
            if outcome is not None:
                parts[kind] = (outcome.weight, outcome.share(value))
        if any(weight * share > 0 for weight, share in parts.values()):
            parts.pop("skip", None)
        price = {} if prices is None else prices.by_kind()
        total = sum((w + price.get(kind, 0.0)) * share for kind, (w, share) in parts.items())
        return float(np.clip(total, -1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Prices:
    """What each constraint costs at present: Lagrange multipliers, moved a little at each slate.

    Source: dual ascent; Agrawal and Devanur 2014, section 3, in its simplest form.
    """

    config: RewardConfig
    values: tuple[float, ...]

    @classmethod
    def start(cls, config: RewardConfig) -> "Prices":
        """All constraints for free."""
        return cls(config, (0.0,) * len(config.constraints))

    def after(self, totals: Mapping[str, float], *, slates: int = 1) -> "Prices":
        """After one closed slate, or after late reactions to one (`slates` = 0).

        Args:
            totals: kind → sum over the slate of each reaction's share; kinds left out are 0.
        """
        moved = []
        for price, constraint in zip(self.values, self.config.constraints, strict=True):
            had = sum(rate * totals.get(kind, 0.0) for kind, rate in constraint.measure.items())
            price += self.config.price_step * (slates * constraint.floor - had)
            moved.append(float(np.clip(price, 0.0, self.config.most_price)))
        return Prices(self.config, tuple(moved))

    def by_kind(self) -> dict[str, float]:
        """What the prices add to each kind's weight."""
        found: dict[str, float] = {}
        for price, constraint in zip(self.values, self.config.constraints, strict=True):
            for kind, rate in constraint.measure.items():
                found[kind] = found.get(kind, 0.0) + price * rate
        return found
