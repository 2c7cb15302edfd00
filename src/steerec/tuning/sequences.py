"""Confidence sequences: intervals that hold at every time at once, so anyone may look any time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, lgamma, log, sqrt

from scipy import optimize, special

OPTIMAL_AT = 500.0  # observations at which the interval is made tightest


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean or difference with its interval; (-inf, inf) before the first observation."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MeanSequence:
    """Running mean of bounded observations with an empirical-Bernstein confidence sequence.

    It covers the average of the conditional means so far, so that means may change with time.
    Observations must not depend on each other given the past: feed one number per visit, or per
    user where the same users come back often.

    Attributes:
        total: sum of observations, each from 0 to 1 after scaling.
        spread: Σ (x − x̂)², x̂ being the mean of the observations before.
    Source: Howard, Ramdas, McAuliffe, Sekhon 2021, theorem 4 with the gamma-exponential mixture
        of proposition 9.
    """

    n: int = 0
    total: float = 0.0
    spread: float = 0.0

    def after(self, x: float) -> "MeanSequence":
        """With one more observation.

        Raises:
            ValueError: if it is not within [0, 1].
        """
        if not 0 <= x <= 1:
            raise ValueError(f"observation {x}: expected within [0, 1]; scale it")
        foretold = (self.total + 0.5) / (self.n + 1)
        return MeanSequence(self.n + 1, self.total + x, self.spread + (x - foretold) ** 2)

    def interval(self, alpha: float) -> Interval:
        """The mean so far; misses at any time with probability `alpha` at most, both sides."""
        if self.n == 0:
            return Interval(0.5, -inf, inf)
        mean = self.total / self.n
        half = boundary(self.spread, alpha / 2) / self.n
        return Interval(mean, max(mean - half, 0.0), min(mean + half, 1.0))


def difference(a: MeanSequence, b: MeanSequence, *, alpha: float = 0.05) -> Interval:
    """Mean of `a` less that of `b`, at every time at once, by sharing `alpha` between the two."""
    if not a.n or not b.n:
        return Interval(0.0, -inf, inf)
    one, other = a.interval(alpha / 2), b.interval(alpha / 2)
    return Interval(one.mean - other.mean, one.low - other.high, one.high - other.low)


def boundary(v: float, alpha: float) -> float:
    """How far a sum may ever stray at variance `v`, in the range of one observation (1)."""
    rho, told = _rho(alpha), log(1 / alpha)
    high = 2.0 * sqrt((v + rho) * told) + 2.0 * told + 1.0
    while _log_mixture(high, v, rho) < told:
        high *= 2
    return float(optimize.brentq(lambda s: _log_mixture(s, v, rho) - told, 0.0, high))


@lru_cache(maxsize=64)
def _rho(alpha: float) -> float:
    """Where the boundary is tightest: for a variance of .1 (a click now and then) so often."""
    wide = 2 * log(1 / (2 * alpha))
    return 0.1 * OPTIMAL_AT / (wide + log(1 + wide))


def _log_mixture(s: float, v: float, rho: float) -> float:
    """Logarithm of the mixed supermartingale at sum `s` and variance `v`, for a range of 1."""
    found = rho * log(rho) - lgamma(rho) - log(float(special.gammainc(rho, rho)))
    found += lgamma(v + rho) + log(float(special.gammainc(v + rho, s + v + rho)))
    return found - (v + rho) * log(s + v + rho) + s + v


def asymptotic(n: int, mean: float, variance: float, *, alpha: float = 0.05) -> Interval:
    """A confidence sequence for means of unbounded numbers; holds as `n` grows.

    Args:
        variance: of one observation.
    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, theorem 2.2, tightest at
        OPTIMAL_AT observations.
    """
    if n < 2:
        return Interval(mean, -inf, inf)
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / OPTIMAL_AT
    t = n * rho2 + 1
    half = sqrt(variance) * sqrt(2 * t / (n * n * rho2) * log(sqrt(t) / alpha))
    return Interval(mean, mean - half, mean + half)


def e_ratio(counts: Sequence[int], shares: Sequence[float], *, strength: float = 1_000.0) -> float:
    """Evidence at any time that counts do not come in these shares; 1/e_ratio is a p-value.

    Args:
        strength: how close to the shares the alternative is, in counts.
    Source: Lindon and Malek 2022, eq. 7 (multinomial against a Dirichlet mixture).
    """
    found = lgamma(strength) - lgamma(strength + sum(counts))
    for count, share in zip(counts, shares, strict=True):
        found += lgamma(strength * share + count) - lgamma(strength * share) - count * log(share)
    return exp(min(found, 700.0))
