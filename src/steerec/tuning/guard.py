"""What keeps tuning safe: distance to the promoted strategy, limits, and the control arm's say."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from steerec.errors import ConfigError
from steerec.tuning.observed import Doubles
from steerec.tuning.sequences import Interval, MeanSequence, difference

logger = logging.getLogger(__name__)
DAY_S = 86_400.0
MOST_USERS = 500_000  # whose day is kept in mind; the burst limit holds beside
_CLOSED = -1e30


def _limits() -> dict[str, tuple[float, float]]:
    return {"temperature": (0.02, 0.6)}


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Settings of the guard."""

    most_nats: float = 0.5  # KL(live ‖ promoted) of one draw at a temperature of 1 nat
    control_share: float = 0.05  # of users who get the promoted strategy
    alpha: float = 0.05  # of the confidence sequence between the arms
    most_reward: float = 10.0  # of one slate; what is above counts as this
    user_day_rows: float = 200.0  # shown items of one user that are learnt from in a day
    burst_ratio: float = 4.0  # a minute's rows, in mean minutes, before they weigh less
    burst_rows: float = 1_000.0  # rows a minute may always bring
    dials: Mapping[str, tuple[float, float]] = field(default_factory=_limits)  # lowest, highest
    dial_step: float = 0.25  # most a dial moves from the promoted value, in parts of its range

    def __post_init__(self) -> None:
        if not (0 < self.control_share < 1 and 0 < self.alpha < 1):
            raise ConfigError("guard: control_share and alpha must lie between 0 and 1")
        if min(self.most_nats, self.most_reward, self.user_day_rows, self.burst_rows) <= 0:
            raise ConfigError("guard: most_nats, most_reward and the rows must be above 0")
        if self.burst_ratio < 1 or not 0 <= self.dial_step <= 1:
            raise ConfigError("guard: burst_ratio from 1, dial_step within [0, 1]")


@dataclass(frozen=True, eq=False)
class Reference:
    """Requests that distances are measured on.

    Scores are log-probabilities, so that a temperature of 1 nat draws as they say. The sampler's
    own, lower one would make much of differences that mean little.

    Attributes:
        z: (n, n_pool, n_heads) float32 calibrated scores, 0 where `open` is false.
        phi: (n, n_features).
        open: (n, n_pool), items that may be shown.
        extra: (n, n_pool) nats beside wᵀz, the same under any θ.
    """

    z: NDArray[np.float32]
    phi: Doubles
    open: NDArray[np.bool_]
    extra: Doubles | float = 0.0

    def scores(self, theta: Doubles) -> Doubles:
        """(n, n_pool): wᵀz and what stands beside; closed items far below all others."""
        w = self.phi @ theta.T
        found = np.matmul(self.z, w[:, :, None])[:, :, 0] + self.extra
        return np.where(self.open, found, _CLOSED)

    def as_spread(self, theta: Doubles, promoted: Doubles) -> Doubles:
        """Θ of a length at which its scores lie as far apart as the promoted one's.

        A θ has no length of its own, since γ stands before it; as far apart as they were, scores
        explore at a temperature as the promoted ones do, whichever heads lead.
        """
        wanted, has = self._spread(promoted), self._spread(theta)
        return theta * (wanted / has) if has > 0 and wanted > 0 else theta

    def _spread(self, theta: Doubles) -> float:
        """Standard deviation of wᵀz among a request's items, root mean square over requests."""
        scores = np.matmul(self.z, (self.phi @ theta.T)[:, :, None])[:, :, 0]
        n = np.maximum(self.open.sum(axis=1, keepdims=True), 1)
        mean = np.where(self.open, scores, 0.0).sum(axis=1, keepdims=True) / n
        return float(np.sqrt((np.where(self.open, scores - mean, 0.0) ** 2 / n).sum(axis=1).mean()))

    def kl(self, live: Doubles, promoted: Doubles) -> float:
        """KL(live ‖ promoted) in nats at the first position, mean over the requests."""
        return _kl(self.scores(live), self.scores(promoted))


def _kl(live: Doubles, promoted: Doubles) -> float:
    """Mean over rows of the KL of two softmaxes."""
    total = special.logsumexp(live, axis=1, keepdims=True)
    apart = (np.exp(live - total) * (live - promoted)).sum(axis=1)
    return float((apart - total[:, 0] + special.logsumexp(promoted, axis=1)).mean())


def hold(
    theta: Doubles, promoted: Doubles, reference: Reference, most_nats: float
) -> tuple[Doubles, float]:
    """Θ drawn back towards the promoted one until its distance is allowed, and that distance.

    The distance grows along the segment, so that bisection finds the one place.
    """
    if not np.isfinite(theta).all():
        logger.warning("theta not finite: the promoted one is kept")
        return promoted.copy(), 0.0
    start, end = reference.scores(promoted), reference.scores(theta)
    nats = _kl(end, start)
    if nats <= most_nats:
        return theta, nats
    turn = end - start
    low, high = 0.0, 1.0
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        inside = _kl(start + middle * turn, start) <= most_nats
        low, high = (middle, high) if inside else (low, middle)
    return promoted + low * (theta - promoted), _kl(start + low * turn, start)


def hold_dials(
    dials: Mapping[str, float], promoted: Mapping[str, float], config: GuardConfig
) -> dict[str, float]:
    """The dials cut to their limits and to a step from the promoted ones.

    A dial without limits, or that is no finite number, stays as promoted.
    """
    held = dict(promoted)
    for name, (low, high) in config.dials.items():
        wanted, start = dials.get(name, np.nan), promoted.get(name)
        if start is None or not np.isfinite(wanted):
            continue
        step = config.dial_step * (high - low)
        held[name] = float(np.clip(np.clip(wanted, start - step, start + step), low, high))
    return held


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the live arm may go on, and why.

    Attributes:
        go: False: freeze tuning and return to the promoted strategy.
        difference: mean reward of a slate, live less control.
        reason: one line with the figures.
    """

    go: bool
    difference: Interval
    reason: str


@dataclass(frozen=True, slots=True)
class Watch:
    """Rewards of slates of the live arm and of the control arm, since the last return."""

    live: MeanSequence = field(default_factory=MeanSequence)
    control: MeanSequence = field(default_factory=MeanSequence)

    def after(self, arm: str, reward: float, config: GuardConfig) -> "Watch":
        """With the reward of one more slate; what is no number, or of another arm, is left out."""
        if arm not in ("live", "control") or not np.isfinite(reward):
            logger.warning("reward left out arm=%s reward=%s", arm, reward)
            return self
        # Negative rewards are rare beside clicks: half a range below 0 keeps them in.
        x = float(np.clip(reward / config.most_reward, -0.5, 1.0) + 0.5) / 1.5
        if arm == "live":
            return Watch(self.live.after(x), self.control)
        return Watch(self.live, self.control.after(x))

    def verdict(self, config: GuardConfig) -> Verdict:
        """Freeze as soon as the live arm is worse for sure; valid however often it is asked."""
        scale = 1.5 * config.most_reward
        found = difference(self.live, self.control, alpha=config.alpha)
        apart = Interval(scale * found.mean, scale * found.low, scale * found.high)
        facts = (
            f"live - control = {apart.mean:.4f} [{apart.low:.4f}, {apart.high:.4f}] a slate, "
            f"{self.live.n} live and {self.control.n} control slates"
        )
        if apart.high < 0:
            return Verdict(
                go=False, difference=apart, reason=f"worse than the promoted strategy: {facts}"
            )
        return Verdict(go=True, difference=apart, reason=f"not shown to be worse: {facts}")


class Allowance:
    """How much each row may weigh, so that no user and no burst steers alone. One per worker.

    Of several workers each has its own: give each the share of rows that falls to it.
    """

    def __init__(self, config: GuardConfig, *, workers: int = 1) -> None:
        self._user_rows = config.user_day_rows / workers
        self._burst_rows = config.burst_rows / workers
        self._burst_ratio = config.burst_ratio
        self._day = self._minute = -1
        self._used: dict[str, float] = {}
        self._in_minute = 0.0
        self._mean_minute = 0.0
        self.held_back = 0.0

    def weights(self, users: Sequence[str | None], now: float) -> Doubles:
        """(n,) in [0, 1]: 1, less once the user's day or the minute is full.

        Rows without a user share one allowance of a hundred users.
        """
        self._turn(now)
        found = np.empty(len(users))
        for i, user in enumerate(users):
            most = self._user_rows * (100.0 if user is None else 1.0)
            name = "" if user is None else f"u{user}"
            used = self._used.get(name, 0.0)
            found[i] = min(1.0, max(most - used, 0.0))
            self._used[name] = used + found[i]
        while len(self._used) > MOST_USERS:
            del self._used[next(iter(self._used))]
        room = max(self._burst_rows, self._burst_ratio * self._mean_minute) - self._in_minute
        wanted = float(found.sum())
        if wanted > room:
            found *= max(room, 0.0) / wanted
        self._in_minute += float(found.sum())
        self.held_back += len(users) - float(found.sum())
        return found

    def state(self) -> dict[str, Any]:
        """What is used up so far, for `restore`."""
        return {
            "day": self._day,
            "minute": self._minute,
            "used": {user: float(n) for user, n in self._used.items()},
            "in_minute": float(self._in_minute),
            "mean_minute": float(self._mean_minute),
            "held_back": float(self.held_back),
        }

    def restore(self, told: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._day, self._minute = int(told["day"]), int(told["minute"])
        self._used = {str(user): float(n) for user, n in told["used"].items()}
        self._in_minute = float(told["in_minute"])
        self._mean_minute = float(told["mean_minute"])
        self.held_back = float(told.get("held_back", 0.0))

    def _turn(self, now: float) -> None:
        """A new day or minute; a clock set back starts one too, and loses only the count so far."""
        day, minute = int(now // DAY_S), int(now // 60)
        if day != self._day:
            self._day = day
            self._used.clear()
        if minute != self._minute:
            gone = minute - self._minute if 0 <= self._minute < minute else 1
            # An hour's mean; minutes without any row count too.
            self._mean_minute += (self._in_minute - self._mean_minute) / 60
            self._mean_minute *= (59 / 60) ** min(gone - 1, 10_000)
            self._minute, self._in_minute = minute, 0.0
