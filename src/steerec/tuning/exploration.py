"""How much to explore: the temperature that costs no more expected reward than allowed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from steerec.errors import ConfigError
from steerec.tuning.observed import Doubles


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig:
    """Settings of exploration."""

    budget: float = 0.0  # share of expected reward it may cost; 0: temperatures stay as set
    scenarios: Mapping[str, float] = field(default_factory=dict)  # budgets of their own
    lowest: float = 0.02  # temperature; some is always kept, so that logs can be replayed
    highest: float = 1.0  # temperature

    def __post_init__(self) -> None:
        if not all(0 <= share < 1 for share in (self.budget, *self.scenarios.values())):
            raise ConfigError("exploration: budgets are shares of the reward, in [0, 1)")
        if not 0 < self.lowest <= self.highest:
            raise ConfigError("exploration: expected 0 < lowest <= highest")

    def of(self, scenario: str | None) -> float:
        """The budget of a scenario."""
        return self.scenarios.get(scenario or "", self.budget)


def lost_share(scores: Doubles, reward: Doubles, temperature: float) -> float:
    """Share of expected reward lost at the first position against always taking the best score.

    Where scores and rewards rise together it grows with temperature; a whole list loses less, as
    what gives way at the top comes further down.

    Args:
        scores: (n, n_pool), -inf for items that may not be shown: they are never explored.
        reward: (n, n_pool) expected reward of each item.
    """
    open_ = np.isfinite(scores)
    p = special.softmax(np.where(open_, scores / temperature, -np.inf), axis=1)
    best = np.take_along_axis(reward, np.argmax(scores, axis=1)[:, None], axis=1).sum()
    return float(1 - np.where(open_, p * reward, 0.0).sum() / max(float(best), 1e-12))


def temperature(
    scores: Doubles, reward: Doubles, *, scenario: str | None, config: ExplorationConfig
) -> float:
    """The highest temperature within the budget of the scenario, on reference requests.

    Args:
        scores, reward: see lost_share.
    Raises:
        ValueError: if a request has no item that may be shown.
    """
    if scores.size == 0 or not np.isfinite(scores).any(axis=1).all():
        raise ValueError("exploration: each reference request needs an item that may be shown")
    budget = config.of(scenario)
    low, high = np.log(config.lowest), np.log(config.highest)
    if lost_share(scores, reward, config.highest) <= budget:
        return config.highest
    for _ in range(40):
        middle = (low + high) / 2
        within = lost_share(scores, reward, float(np.exp(middle))) <= budget
        low, high = (middle, high) if within else (low, middle)
    return float(np.exp(low))
