"""What is believed before the first click: the promoted strategy, and how surely."""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, special

from steerec.tuning.design import Design
from steerec.tuning.observed import Doubles, Epoch

GAMMAS = (0.05, 20.0)  # within these γ is believed
LOOSE_LENGTH = 0.5  # standard deviation of γ, in parts of itself


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed before the first click.

    Attributes:
        theta: (n_heads, n_features), the promoted strategy's.
        precision: of the learnt columns of θ, in nats⁻²: one number, or (n_theta, n_theta).
        gamma: how much of the scores' nats clicks are expected to show, loosely. Rows foretold with
            one far too large are taken for sure, and what they add leads astray for long.
        rate: reward expected of an average item at the first place.
        position_power: an item at place k gets 1/k^power of the first place's clicks.
    Raises:
        ValueError: if a number is not finite or out of its range.
    """

    theta: Doubles
    precision: float | Doubles = 100.0
    rate: float = 0.1
    gamma: float = 0.3
    position_power: float = 0.7

    def __post_init__(self) -> None:
        if not (np.isfinite(self.theta).all() and np.isfinite(self.precision).all()):
            raise ValueError("prior: theta and precision must be finite")
        if not 0 < self.rate < 1 or not GAMMAS[0] <= self.gamma <= GAMMAS[1]:
            raise ValueError(f"prior: rate={self.rate} in (0, 1), gamma={self.gamma} in {GAMMAS}")

    def epoch(self, design: Design, now: float) -> Epoch:
        """The promoted strategy as epoch 0."""
        shares = np.arange(1, design.n_positions + 1) ** -self.position_power
        first = special.logit(self.rate)
        position = np.asarray(special.logit(self.rate * shares) - first, np.float64)
        context = np.zeros(design.n_features)
        context[design.columns[0]] = first
        return Epoch(0, np.array(self.theta, np.float64), self.gamma, position, context, now)

    def matrix(
        self, design: Design, *, position_rows: float, scale: Doubles | None = None
    ) -> Doubles:
        """(size, size) precision of β: of θ as given, of its length loose.

        u = γθ has the covariance of γθ₀'s direction beside that of θ, so that clicks may soon say
        that all scores tell less, or more, than held-out events did.

        Args:
            scale: (n_theta,) by which the precision of θ is multiplied.
        """
        loose = np.ones(design.size)  # b_context: a standard deviation of 1
        loose[design.context.start] = 0.05  # the intercept's
        loose[design.position] = position_rows * self.rate * (1 - self.rate)
        found = np.diag(loose)
        given = np.asarray(self.precision, np.float64)
        if given.ndim == 0:
            given = np.eye(design.n_theta) * given
        if scale is not None:
            given = given * np.sqrt(np.outer(scale, scale))
        given = given / self.gamma**2 + 1e-3 * np.eye(design.n_theta)
        along = self.gamma * self.theta[:, list(design.columns)].ravel()
        told = given @ along
        given = given - np.outer(told, told) / (1 / LOOSE_LENGTH**2 + along @ told)
        found[design.theta, design.theta] = given
        linalg.cholesky(found)  # a prior that is no precision shows here, not at the first click
        return found
