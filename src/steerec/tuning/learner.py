"""The Bayesian logistic learner: adds what workers gathered and publishes epochs of θ."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace

import numpy as np
from scipy import linalg

from steerec.errors import ConfigError, DataError
from steerec.tuning.arrays import read_arrays, write_arrays
from steerec.tuning.design import Design
from steerec.tuning.drift import Drift, DriftConfig
from steerec.tuning.observed import Doubles, Epoch, Observed
from steerec.tuning.prior import GAMMAS, Prior
from steerec.tuning.sums import Statistics, Sums

logger = logging.getLogger(__name__)
MOST_INTERCEPT = 12.0
Bound = Callable[[Doubles], Doubles]  # θ → the nearest θ that the guard lets pass


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of the learner."""

    memory_rows: float = 200_000.0  # shown items after which an old one weighs 1/e
    drift_keep: float = 0.1  # share of what was learnt that outlives an alarm of drift
    drift_memory_rows: float = 10_000.0  # as memory_rows, for a while after an alarm
    half_life_days: float = 60.0  # time after which what was learnt weighs half, whatever comes
    publish_every_s: float = 1.0  # an epoch at most so often
    most_move: float = 8.0  # largest ‖γθ − its prior‖, in lengths of the prior
    position_rows: float = 30.0  # rows that the prior of b_position stands for
    drift: DriftConfig = field(default_factory=DriftConfig)  # the alarm that forgets faster

    def __post_init__(self) -> None:
        for name in ("memory_rows", "drift_memory_rows", "half_life_days", "position_rows"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"learner: {name}={getattr(self, name)}: expected above 0")
        if min(self.publish_every_s, self.most_move, self.drift_keep) < 0:
            raise ConfigError(
                "learner: publish_every_s, most_move and drift_keep must not be below 0"
            )


class Learner:
    """Adds the workers' statistics in a fixed order and publishes epochs. One at a time."""

    def __init__(
        self, design: Design, prior: Prior, config: LearnerConfig, *, now: float, first: int = 0
    ) -> None:
        if prior.theta.shape != (design.n_heads, design.n_features):
            raise ValueError(
                f"theta {prior.theta.shape}, expected {(design.n_heads, design.n_features)}"
            )
        self.design, self.prior, self.config = design, prior, config
        self.base = prior.epoch(design, now)
        self.epoch = replace(self.base, number=first)
        self._precision = prior.matrix(design, position_rows=config.position_rows)
        self._mean = design.pack(self.base)
        self._curvature = np.zeros((design.size, design.size))
        self._linear = np.zeros(design.size)
        self._fresh = (np.zeros_like(self._curvature), np.zeros_like(self._linear))
        self._sums = np.zeros(4)  # rows, promised, excess, variance since the last epoch
        self._first = first  # epochs before are of other heads
        self._last: dict[str, int] = {}
        self.drift = Drift()
        self.counts = {"rows": 0.0, "refused": 0, "repeated": 0, "stale": 0, "alarms": 0}

    def add(self, found: Sequence[Statistics]) -> None:
        """Add statistics, by worker and number whatever the order given.

        A number seen before, or of an epoch before the last restart, is counted and left out.
        """
        for one in sorted(found, key=lambda s: (s.worker, s.number)):
            if one.number <= self._last.get(one.worker, 0):
                self.counts["repeated"] += 1
                continue
            self._last[one.worker] = one.number
            self.counts["refused"] += one.refused
            if one.epoch < self._first or not one.is_sound(self.design.size):
                self.counts["stale"] += 1
                logger.warning("statistics left out worker=%s epoch=%d", one.worker, one.epoch)
                continue
            self._fresh[0][:] += one.curvature
            self._fresh[1][:] += one.linear
            self._sums += (one.rows, one.promised, one.excess, one.variance)
            self.counts["rows"] += one.rows

    def last_number(self, worker: str) -> int:
        """Number of the newest statistics of a worker that were added; 0: none."""
        return self._last.get(worker, 0)

    def due(self, now: float) -> bool:
        """Whether enough time has passed and something was learnt; a clock set back passes too."""
        waited = now - self.epoch.made
        learnt = bool(self._sums[0] > 0 or self._fresh[1].any())
        return learnt and not 0 <= waited < self.config.publish_every_s

    def publish(self, now: float, *, bound: Bound | None = None) -> Epoch:
        """The next epoch if one is due, else the present one. O(size³).

        Args:
            bound: the guard's; what it holds back stays in the statistics.
        """
        if not self.due(now):
            return self.epoch
        self._forget(now)
        epoch = self.learnt(now)
        if bound is not None:
            epoch = replace(epoch, theta=bound(epoch.theta))
        self.epoch = epoch
        return epoch

    def learnt(self, now: float) -> Epoch:
        """What all statistics of published epochs say, before the guard; for offline proposals."""
        beta = self._within(self.mean())
        base = replace(self.base, gamma=self._gamma(beta))
        return self.design.unpack(beta, base, number=self.epoch.number + 1, made=now)

    def mean(self) -> Doubles:
        """(size,) of the posterior, without limits."""
        factor = linalg.cho_factor(self._precision + self._curvature, lower=True)
        step = linalg.cho_solve(factor, self._linear - self._curvature @ self._mean)
        return np.asarray(self._mean + step, np.float64)

    def posterior_precision(self) -> Doubles:
        """(size, size), as of the last epoch."""
        return self._precision + self._curvature

    def restart(self, prior: Prior, now: float, *, keep: float = 0.0) -> Epoch:
        """Go on from a newly promoted strategy, or back to the present one.

        Args:
            keep: share of what was learnt that stays, 0 after heads were fitted anew.
        """
        fresh = Learner(self.design, prior, self.config, now=now, first=self.epoch.number + 1)
        fresh._curvature = keep * (self._curvature + self._fresh[0])
        fresh._linear = keep * (self._linear + self._fresh[1])
        fresh._last, fresh.counts = self._last, self.counts
        fresh._first = self._first if keep else fresh._first
        self.__dict__.update(fresh.__dict__)
        return self.epoch

    def _forget(self, now: float) -> None:
        rows, promised, excess, variance = self._sums.tolist()
        drift = self.drift.after(
            promised, excess=excess, variance=variance, rows=rows, config=self.config.drift
        )
        alarm = drift.rows_left > self.drift.rows_left
        if alarm:
            self.counts["alarms"] += 1
            logger.warning("drift epoch=%d rows=%.0f", self.epoch.number, self.counts["rows"])
        self.drift = drift
        memory = self.config.drift_memory_rows if drift.raised else self.config.memory_rows
        # A clock that jumps, or a long silence, takes off no more than a day's forgetting.
        days = min(max(now - self.epoch.made, 0.0) / 86_400.0, 1.0)
        keep = self.config.drift_keep if alarm else np.exp(-rows / memory)
        keep *= 0.5 ** (days / self.config.half_life_days)
        self._curvature = keep * self._curvature + self._fresh[0]
        self._linear = keep * self._linear + self._fresh[1]
        self._fresh = (np.zeros_like(self._curvature), np.zeros_like(self._linear))
        self._sums = np.zeros(4)

    def _within(self, beta: Doubles) -> Doubles:
        """β with each part cut to its limits."""
        d, beta = self.design, beta.copy()
        move = beta[d.theta] - self._mean[d.theta]
        most = self.config.most_move * max(float(np.linalg.norm(self._mean[d.theta])), 1e-3)
        beta[d.theta] = self._mean[d.theta] + move * min(
            1.0, most / max(float(np.linalg.norm(move)), 1e-12)
        )
        rest = np.s_[d.n_theta :]
        beta[rest] = np.clip(beta[rest], -MOST_INTERCEPT, MOST_INTERCEPT)
        return beta

    def _gamma(self, beta: Doubles) -> float:
        """γ that gives θ the promoted one's spread of scores on what was shown."""
        u, start = beta[self.design.theta], self._mean[self.design.theta]
        seen = self._curvature[self.design.theta, self.design.theta]
        spread = seen + 1e-6 * (1 + np.trace(seen)) * np.eye(len(u))
        before = float(start @ spread @ start)
        if before <= 0:
            return self.base.gamma
        ratio = np.sqrt(max(float(u @ spread @ u), 0.0) / before)
        return float(np.clip(self.base.gamma * ratio, *GAMMAS))

    def state(self) -> bytes:
        """A checkpoint: all that `from_state` needs beside the prior and the settings."""
        workers = list(self._last)
        return write_arrays(
            {
                "curvature": self._curvature,
                "linear": self._linear,
                "fresh_curvature": self._fresh[0],
                "fresh_linear": self._fresh[1],
                "sums": self._sums,
                "theta": self.epoch.theta,
                "gamma": self.epoch.gamma,
                "beta": self.design.pack(self.epoch),
                "first": self._first,
                "made": self.epoch.made,
                "number": self.epoch.number,
                "workers": np.array(workers, np.str_),
                "last": np.array([self._last[w] for w in workers], np.int64),
                "drift": np.array(astuple(self.drift)),
                "counts": np.array(list(self.counts.values()), np.float64),
            }
        )

    @classmethod
    def from_state(
        cls, body: bytes, design: Design, prior: Prior, config: LearnerConfig
    ) -> "Learner":
        """The learner as `state` left it; statistics added before are not added again.

        Raises:
            DataError: if the bytes are damaged, or of another design.
        """
        kept = read_arrays(body, _STATE)
        size = design.size
        shapes = (kept["curvature"].shape, kept["theta"].shape, kept["beta"].shape)
        if shapes != ((size, size), prior.theta.shape, (size,)):
            raise DataError(f"tuning: a checkpoint of shapes {shapes}, expected {size} numbers")
        found = cls(design, prior, config, now=kept["made"], first=kept["number"])
        found._curvature, found._linear = kept["curvature"], kept["linear"]
        found._fresh = (kept["fresh_curvature"], kept["fresh_linear"])
        found._sums = kept["sums"]
        found._first = kept["first"]
        base = replace(found.base, gamma=kept["gamma"])
        epoch = design.unpack(kept["beta"], base, number=kept["number"], made=kept["made"])
        found.epoch = replace(epoch, theta=kept["theta"])
        found._last = dict(zip(kept["workers"].tolist(), kept["last"].tolist(), strict=True))
        found.drift = Drift(*kept["drift"].tolist())
        found.counts = dict(zip(found.counts, kept["counts"].tolist(), strict=True))
        return found


_STATE = (
    *("curvature", "linear", "fresh_curvature", "fresh_linear", "sums", "theta", "gamma", "beta"),
    *("first", "made", "number", "workers", "last", "drift", "counts"),
)


class OnlineTuner:
    """A worker and the learner in one process."""

    def __init__(self, learner: Learner, *, bound: Bound | None = None) -> None:
        self.learner = learner
        self._bound = bound
        number = learner.last_number("local")
        self._sums = Sums(learner.design, learner.epoch, worker="local", number=number)

    @property
    def epoch(self) -> Epoch:
        """The epoch in force."""
        return self.learner.epoch

    def observe(self, observed: Observed) -> None:
        """Take in rows; at most 1 ms each."""
        self._sums.observe(observed)

    def amend(self, observed: Observed) -> None:
        """Add late differences of reward to rows observed before."""
        self._sums.amend(observed)

    def publish(self, now: float) -> Epoch:
        """The epoch to serve from `now` on."""
        before = self.learner.epoch
        if not 0 <= now - before.made < self.learner.config.publish_every_s:
            self.learner.add([self._sums.take()])
        epoch = self.learner.publish(now, bound=self._bound)
        if epoch is not before:
            self._sums.adopt(epoch)
        return epoch

    def restart(self, prior: Prior, now: float, *, keep: float = 0.0) -> Epoch:
        """Go on from a newly promoted strategy, or back to the present one; see Learner."""
        self.learner.add([self._sums.take()])
        self._sums.adopt(self.learner.restart(prior, now, keep=keep))
        return self.learner.epoch

    def state(self) -> bytes:
        """A checkpoint with all rows observed so far, for `Learner.from_state`."""
        self.learner.add([self._sums.take()])
        return self.learner.state()
