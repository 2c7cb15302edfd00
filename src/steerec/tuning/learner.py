"""The Bayesian logistic learner: workers gather sums, one adds them and publishes epochs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from scipy import linalg, special

from steerec.errors import ConfigError, DataError
from steerec.tuning.arrays import read_arrays, write_arrays
from steerec.tuning.design import Design
from steerec.tuning.drift import Drift, DriftConfig
from steerec.tuning.observed import MOST_LOG_ODDS, Doubles, Epoch, Observed

logger = logging.getLogger(__name__)
LEAST_CURVATURE = 1e-3  # of p(1 − p): a sure and wrong model must not leap
EPOCHS_KEPT = 16  # workers may lag behind by as many
GAMMAS = (0.05, 20.0)
MOST_INTERCEPT = 12.0
Bound = Callable[[Doubles], Doubles]  # θ → the nearest θ that the guard lets pass


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of the learner."""

    memory_rows: float = 200_000.0  # shown items after which an old one weighs 1/e
    drift_memory_rows: float = 10_000.0  # the same while drift is suspected
    half_life_days: float = 60.0  # time after which what was learnt weighs half, whatever comes
    publish_every_s: float = 1.0
    most_move: float = 8.0  # largest ‖θ − promoted θ‖, in lengths of the promoted θ
    position_rows: float = 30.0  # rows that the prior of b_position stands for
    drift: DriftConfig = field(default_factory=DriftConfig)

    def __post_init__(self) -> None:
        for name in ("memory_rows", "drift_memory_rows", "half_life_days", "position_rows"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"learner: {name}={getattr(self, name)}: expected above 0")
        if self.publish_every_s < 0 or self.most_move < 0:
            raise ConfigError("learner: publish_every_s and most_move must not be below 0")


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed before the first click.

    Attributes:
        theta: (n_heads, n_features), the promoted strategy's.
        precision: of the learnt columns of θ, in nats⁻²: one number, or (n_theta, n_theta).
        rate: reward expected of an average item at the first place.
        position_power: an item at place k gets 1/k^power of the first place's clicks.
    Raises:
        ValueError: if a number is not finite or out of its range.
    """

    theta: Doubles
    precision: float | Doubles = 100.0
    rate: float = 0.1
    gamma: float = 1.0
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

    def matrix(self, design: Design, config: LearnerConfig) -> Doubles:
        """(size, size) precision of β."""
        loose = np.ones(design.size)  # log γ and b_context: a standard deviation of 1
        loose[design.context.start] = 0.05  # the intercept's
        loose[design.position] = config.position_rows * self.rate * (1 - self.rate)
        found = np.diag(loose)
        given = np.asarray(self.precision, np.float64)
        if given.ndim == 0:
            given = np.eye(design.n_theta) * given
        found[design.theta, design.theta] = given + 1e-3 * np.eye(design.n_theta)
        linalg.cholesky(found)  # a prior that is no precision shows here, not at the first click
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What one worker gathered at one epoch; additive.

    Attributes:
        epoch: at whose β the curvature and the gradient were taken.
        number: of the worker's statistics, rising by 1; one seen before is not added again.
        curvature: (size, size) Σ ωp(1−p)xxᵀ, lower triangle.
        gradient: (size,) Σ ω(y−p)x.
        rows: Σ ω.
        excess, variance: sums for the drift alarm.
        refused: rows that could not be learnt from.
    """

    epoch: int
    worker: str
    number: int
    curvature: Doubles
    gradient: Doubles
    rows: float
    excess: float
    variance: float
    refused: int = 0

    def to_bytes(self) -> bytes:
        """For another process; numbers stay as they are to the last bit."""
        return write_arrays({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """See to_bytes.

        Raises:
            DataError: if these are no statistics.
        """
        return cls(**read_arrays(body, cls.__dataclass_fields__))


class Sums:
    """What one worker gathers between two epochs."""

    def __init__(self, design: Design, epoch: Epoch, *, worker: str, number: int = 0) -> None:
        self._design = design
        self._worker = worker
        self._number = number
        self.epoch = epoch
        self._clear()

    def _clear(self) -> None:
        size = self._design.size
        self._curvature = np.zeros((size, size), order="F")
        self._gradient = np.zeros(size)
        self._rows = self._excess = self._variance = 0.0
        self._refused = 0

    def observe(self, observed: Observed) -> None:
        """Add rows. O(size²) each."""
        rows = observed.sound()
        self._refused += len(observed) - len(rows)
        if len(rows) == 0:
            return
        x, log_odds = self._design.rows(rows, self.epoch)
        p = special.expit(log_odds)
        spread = np.maximum(p * (1 - p), LEAST_CURVATURE)
        scaled = x * np.sqrt(rows.weight * spread)[:, None]
        self._curvature = linalg.blas.dsyrk(
            1.0, scaled.T, beta=1.0, c=self._curvature, lower=1, overwrite_c=1
        )
        self._gradient += (rows.weight * (rows.reward - p)) @ x
        told = np.clip(log_odds, -MOST_LOG_ODDS, MOST_LOG_ODDS)
        self._rows += float(rows.weight.sum())
        self._excess += float(rows.weight @ ((p - rows.reward) * told))
        self._variance += float(rows.weight**2 @ (p * (1 - p) * told**2))

    def amend(self, observed: Observed) -> None:
        """Add late differences of reward to rows that were observed before."""
        rows = observed.sound(most_reward=2.0)
        self._refused += len(observed) - len(rows)
        if len(rows):
            x, _ = self._design.rows(rows, self.epoch)
            self._gradient += (rows.weight * rows.reward) @ x

    def take(self) -> Statistics:
        """What was gathered since the last call; it is forgotten here."""
        self._number += 1
        found = Statistics(
            self.epoch.number,
            self._worker,
            self._number,
            np.tril(self._curvature),
            self._gradient,
            self._rows,
            self._excess,
            self._variance,
            self._refused,
        )
        self._clear()
        return found

    def adopt(self, epoch: Epoch) -> Statistics | None:
        """Go on from a new epoch; what was gathered at the one before, None if nothing."""
        left = self.take() if self._rows or self._refused or self._gradient.any() else None
        self.epoch = epoch
        return left


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
        self._precision = prior.matrix(design, config)
        self._mean = design.pack(self.base)
        self._curvature = np.zeros((design.size, design.size))
        self._linear = np.zeros(design.size)  # Σ gradient + curvature·β of its epoch
        self._fresh = (np.zeros_like(self._curvature), np.zeros_like(self._linear))
        self._sums = np.zeros(3)  # rows, excess, variance since the last epoch
        self._betas = {first: self._mean}
        self._last: dict[str, int] = {}
        self.drift = Drift()
        self.counts = {"rows": 0.0, "refused": 0, "repeated": 0, "stale": 0, "alarms": 0}

    def add(self, found: Sequence[Statistics]) -> None:
        """Add statistics, by worker and number whatever the order given.

        A number seen before, or of an epoch that is no longer kept, is counted and left out.
        """
        for one in sorted(found, key=lambda s: (s.worker, s.number)):
            if one.number <= self._last.get(one.worker, 0):
                self.counts["repeated"] += 1
                continue
            self._last[one.worker] = one.number
            beta = self._betas.get(one.epoch)
            self.counts["refused"] += one.refused
            if beta is None or not _finite(one, self.design.size):
                self.counts["stale"] += 1
                logger.warning("statistics left out worker=%s epoch=%d", one.worker, one.epoch)
                continue
            curvature = one.curvature + np.tril(one.curvature, -1).T
            fresh, linear = self._fresh
            fresh += curvature
            linear += one.gradient + curvature @ beta
            self._sums += (one.rows, one.excess, one.variance)
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
        mean = self.mean()
        epoch = self.design.unpack(
            self._within(mean), self.base, number=self.epoch.number + 1, made=now
        )
        if bound is not None:
            epoch = replace(epoch, theta=bound(epoch.theta))
        self.epoch = epoch
        self._betas[epoch.number] = self.design.pack(epoch)
        self._betas = dict(list(self._betas.items())[-EPOCHS_KEPT:])
        return epoch

    def mean(self) -> Doubles:
        """(size,) of the posterior: what was published, before limits."""
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
        fresh._betas = {**self._betas, **fresh._betas} if keep else fresh._betas
        self.__dict__.update(fresh.__dict__)
        return self.epoch

    def _forget(self, now: float) -> None:
        rows, excess, variance = self._sums.tolist()
        drift = self.drift.after(
            excess=excess, variance=variance, rows=rows, config=self.config.drift
        )
        if drift.rows_left > self.drift.rows_left:
            self.counts["alarms"] += 1
            logger.warning("drift epoch=%d rows=%.0f", self.epoch.number, self.counts["rows"])
        self.drift = drift
        memory = self.config.drift_memory_rows if drift.raised else self.config.memory_rows
        # A clock that jumps, or a long silence, takes off no more than a day's forgetting.
        days = min(max(now - self.epoch.made, 0.0) / 86_400.0, 1.0)
        keep = np.exp(-rows / memory) * 0.5 ** (days / self.config.half_life_days)
        self._curvature = keep * self._curvature + self._fresh[0]
        self._linear = keep * self._linear + self._fresh[1]
        self._fresh = (np.zeros_like(self._curvature), np.zeros_like(self._linear))
        self._sums = np.zeros(3)

    def _within(self, beta: Doubles) -> Doubles:
        """β with each part cut to its limits."""
        d, beta = self.design, beta.copy()
        move = beta[d.theta] - self._mean[d.theta]
        most = self.config.most_move * max(float(np.linalg.norm(self._mean[d.theta])), 1e-3)
        beta[d.theta] = self._mean[d.theta] + move * min(
            1.0, most / max(float(np.linalg.norm(move)), 1e-12)
        )
        beta[d.n_theta] = np.clip(beta[d.n_theta], *np.log(GAMMAS))
        rest = np.s_[d.n_theta + 1 :]
        beta[rest] = np.clip(beta[rest], -MOST_INTERCEPT, MOST_INTERCEPT)
        return beta

    def state(self) -> bytes:
        """A checkpoint: all that `from_state` needs beside the prior and the settings."""
        workers, epochs = list(self._last), list(self._betas)
        return write_arrays(
            {
                "curvature": self._curvature,
                "linear": self._linear,
                "fresh_curvature": self._fresh[0],
                "fresh_linear": self._fresh[1],
                "sums": self._sums,
                "theta": self.epoch.theta,
                "beta": np.stack([self._betas[e] for e in epochs]),
                "epochs": np.array(epochs),
                "made": self.epoch.made,
                "number": self.epoch.number,
                "workers": np.array(workers, np.str_),
                "last": np.array([self._last[w] for w in workers], np.int64),
                "drift": np.array([self.drift.level, self.drift.rows_left]),
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
        shapes = (kept["curvature"].shape, kept["theta"].shape, kept["beta"].shape[1:])
        if shapes != ((size, size), prior.theta.shape, (size,)):
            raise DataError(f"tuning: a checkpoint of shapes {shapes}, expected {size} numbers")
        found = cls(design, prior, config, now=kept["made"], first=kept["number"])
        found._curvature, found._linear = kept["curvature"], kept["linear"]
        found._fresh = (kept["fresh_curvature"], kept["fresh_linear"])
        found._sums = kept["sums"]
        found._betas = dict(zip(kept["epochs"].tolist(), kept["beta"], strict=True))
        epoch = design.unpack(
            found._betas[kept["number"]], found.base, number=kept["number"], made=kept["made"]
        )
        found.epoch = replace(epoch, theta=kept["theta"])
        found._last = dict(zip(kept["workers"].tolist(), kept["last"].tolist(), strict=True))
        found.drift = Drift(*kept["drift"].tolist())
        found.counts = dict(zip(found.counts, kept["counts"].tolist(), strict=True))
        return found


_STATE = (
    *("curvature", "linear", "fresh_curvature", "fresh_linear", "sums", "theta", "beta"),
    *("epochs", "made", "number", "workers", "last", "drift", "counts"),
)


def _finite(found: Statistics, size: int) -> bool:
    numbers = (found.rows, found.excess, found.variance)
    return (
        found.curvature.shape == (size, size)
        and bool(np.isfinite(found.curvature).all())
        and bool(np.isfinite(found.gradient).all() and np.isfinite(numbers).all())
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
