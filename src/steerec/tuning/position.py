"""How much less a place is clicked for being further down, estimated from the log."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from steerec.errors import DataError
from steerec.tuning.observed import Doubles

ROUNDS = 30


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """Settings of the estimate."""

    n_positions: int = 10
    power: float = 0.7  # of the prior: place k gets 1/k^power of the first place's clicks
    prior_rows: float = 50.0  # shown items at a place that the prior stands for
    enough_random: int = 2_000  # with so many randomly placed rows the others are not read


@dataclass(frozen=True, slots=True, eq=False)
class PositionBias:
    """Log-odds of each place against the first, and how sure they are.

    Attributes:
        log_odds: (n_positions,), 0 at the first; they need not fall.
        sd: (n_positions,) standard deviations.
        slope: of the score, the γ of the model.
        intercept: log-odds of a score of 0 at the first place.
    """

    log_odds: Doubles
    sd: Doubles
    slope: float
    intercept: float


def position_bias(
    position: NDArray[np.int64],
    reward: Doubles,
    score: Doubles,
    *,
    randomised: NDArray[np.bool_] | None = None,
    config: PositionConfig | None = None,
) -> PositionBias:
    """Estimate place effects by logistic regression on place and score.

    Items stand high because they score high; rows whose place was drawn at random are free of
    that, and are used alone where there are enough, for what the score misses.

    Args:
        position: (n,) from 1; places beyond the last share it.
        reward: (n,) within [0, 1].
        score: (n,) wᵀz.
        randomised: (n,) rows of the share whose order was shuffled.
    Raises:
        DataError: if there are no rows, or a number is not finite.
    Source: Wang et al. 2018 (regression over the same position model, here in log-odds).
    """
    config = config or PositionConfig()
    if len(position) == 0 or not np.isfinite(np.stack([reward, score])).all():
        raise DataError(f"position bias: {len(position)} rows; expected some, all finite")
    if randomised is not None and int(randomised.sum()) >= config.enough_random:
        position, reward, score = position[randomised], reward[randomised], score[randomised]
    k = config.n_positions
    place = np.minimum(position, k) - 1
    rate = float(np.clip(reward.mean(), 1e-4, 1 - 1e-4))
    prior = _prior(rate, config)
    precision = np.full(k + 2, 1e-3)
    precision[:k] = config.prior_rows * rate * (1 - rate)
    precision[0] = 1e6  # the first place is the reference
    precision[k + 1] = 1.0
    mean = np.concatenate([prior, [0.0, 1.0]])
    beta = mean.copy()
    beta[k] = special.logit(rate)
    for _ in range(ROUNDS):
        p = special.expit(beta[place] + beta[k] + beta[k + 1] * score)
        hessian, gradient = _sums(place, p * (1 - p), score, k), _slope(place, reward - p, score, k)
        step = np.linalg.solve(hessian + np.diag(precision), gradient - precision * (beta - mean))
        beta += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    sd = np.sqrt(np.diag(np.linalg.inv(hessian + np.diag(precision))))
    return PositionBias(beta[:k] - beta[0], sd[:k], float(beta[k + 1]), float(beta[k]))


def _prior(rate: float, config: PositionConfig) -> Doubles:
    """Log-odds of 1/k^power against the first place, whose rate is such that the mean is `rate`."""
    shares = np.arange(1, config.n_positions + 1) ** -config.power
    clicked = np.minimum(rate / shares.mean() * shares, 0.99)
    return np.asarray(special.logit(clicked) - special.logit(clicked[0]), np.float64)


def _slope(place: NDArray[np.int64], residual: Doubles, score: Doubles, k: int) -> Doubles:
    return np.concatenate(
        [np.bincount(place, residual, k), [residual.sum()], [float(residual @ score)]]
    )


def _sums(place: NDArray[np.int64], spread: Doubles, score: Doubles, k: int) -> Doubles:
    """Σ spread·xxᵀ for x = (one-hot place, 1, score), without making x."""
    found = np.zeros((k + 2, k + 2))
    at = np.bincount(place, spread, k)
    scored = np.bincount(place, spread * score, k)
    found[:k, :k] = np.diag(at)
    found[:k, k] = found[k, :k] = at
    found[:k, k + 1] = found[k + 1, :k] = scored
    found[k, k], found[k, k + 1] = at.sum(), scored.sum()
    found[k + 1, k] = scored.sum()
    found[k + 1, k + 1] = float(spread @ score**2)
    return found
