"""The Bayesian logistic learner: adds what workers gathered and publishes epochs of θ."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from steerec.errors import ConfigError, DataError
from steerec.tuning.arrays import read_arrays, write_arrays
from steerec.tuning.design import Design
from steerec.tuning.evidence import likelier
from steerec.tuning.memories import Memories
from steerec.tuning.observed import Doubles, Epoch, Observed
from steerec.tuning.prior import GAMMAS, Prior
from steerec.tuning.sums import Statistics, Sums

logger = logging.getLogger(__name__)
MOST_INTERCEPT = 12.0
Bound = Callable[[Doubles], Doubles]  # θ → the nearest θ that the guard lets pass


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of the learner."""

    trust: float = 0.2  # of what a shown item tells; those of one item or user tell much the same
    memories: tuple[float, ...] = (300.0, 1e3, 1e4, 2e5)  # shown items until an old one weighs 1/e
    judged_rows: float = 10_000.0  # the newest shown items, which say how far each is believed
    surer: float = 0.04  # how sure the prior of θ is at the start, in parts of what it was given
    evidence_steps: int = 0  # of the search for how sure it should be, an epoch; 0: as at the start
    half_life_days: float = 60.0  # time after which what was learnt weighs half, whatever comes
    publish_every_s: float = 1.0  # an epoch at most so often
    most_move: float = 8.0  # largest ‖γθ − its prior‖, in lengths of the prior
    position_rows: float = 30.0  # rows that the prior of b_position stands for

    def __post_init__(self) -> None:
        for name in ("judged_rows", "surer", "half_life_days", "position_rows"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"learner: {name}={getattr(self, name)}: expected above 0")
        if not self.memories or not all(0 < rows < np.inf for rows in self.memories):
            raise ConfigError(
                f"learner: memories={self.memories}: expected at least one number of shown items, "
                "each above 0"
            )
        if min(self.publish_every_s, self.most_move, self.evidence_steps) < 0:
            raise ConfigError(
                "learner: publish_every_s, most_move and evidence_steps must not be below 0"
            )
        if not 0 < self.trust <= 1:
            raise ConfigError(f"learner: trust={self.trust}: expected above 0, at most 1")


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
        self.scales = np.full(2, config.surer)  # of θ's precision: the bias column, all others
        self._precision = self._built(self.scales)
        self._mean = design.pack(self.base)
        self.memories = Memories(config.memories, design.size, judged_rows=config.judged_rows)
        self._told: Doubles | None = None  # what each memory says; None: not worked out yet
        self._fresh = (np.zeros((design.size, design.size)), np.zeros(design.size))
        self._rows = 0.0  # since the last epoch
        self._first = first  # epochs before are of other heads
        self._last: dict[str, int] = {}
        self.counts = {"rows": 0.0, "refused": 0, "repeated": 0, "stale": 0, "turns": 0}

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
            self._fresh[0][:] += self.config.trust * one.curvature
            self._fresh[1][:] += self.config.trust * one.linear
            self._rows += one.rows
            self.counts["rows"] += one.rows

    def last_number(self, worker: str) -> int:
        """Number of the newest statistics of a worker that were added; 0: none."""
        return self._last.get(worker, 0)

    def due(self, now: float) -> bool:
        """Whether enough time has passed and something was learnt; a clock set back passes too."""
        waited = now - self.epoch.made
        learnt = bool(self._rows > 0 or self._fresh[1].any())
        return learnt and not 0 <= waited < self.config.publish_every_s

    def publish(self, now: float, *, bound: Bound | None = None) -> Epoch:
        """The next epoch if one is due, else the present one. O(size³).

        Args:
            bound: the guard's; what it holds back stays in the statistics.
        """
        if not self.due(now):
            return self.epoch
        self._take_in(now)
        for _ in range(self.config.evidence_steps):
            if not self._ask_evidence():
                break
        self._told = None
        epoch = self.learnt(now)
        if bound is not None:
            epoch = replace(epoch, theta=bound(epoch.theta), learnt=epoch.theta)
        self.epoch = epoch
        return epoch

    def learnt(self, now: float) -> Epoch:
        """What all statistics of published epochs say, before the guard; for offline proposals."""
        beta = self._within(self.mean())
        base = replace(self.base, gamma=self._gamma(beta))
        return self.design.unpack(beta, base, number=self.epoch.number + 1, made=now)

    def mean(self) -> Doubles:
        """(size,) of the posterior, without limits: of all memories, as far as each is believed."""
        if self._told is None:
            self._told = self.memories.told(self._mean_of)
        return np.asarray(self.memories.shares @ self._told, np.float64)

    @property
    def _believed(self) -> tuple[Doubles, Doubles]:
        """Curvature and linear part of all memories, as far as each is believed."""
        kept = self.memories
        curvature = np.einsum("n,nij->ij", kept.shares, kept.curvature)
        return np.asarray(curvature, np.float64), np.asarray(kept.shares @ kept.linear, np.float64)

    def _mean_of(self, curvature: Doubles, linear: Doubles) -> Doubles:
        factor = linalg.cho_factor(self._precision + curvature, lower=True)
        step = linalg.cho_solve(factor, linear - curvature @ self._mean)
        return np.asarray(self._mean + step, np.float64)

    def _built(self, scales: Doubles) -> Doubles:
        """The prior's precision, that of θ times the scale of its column."""
        beyond_bias = np.arange(self.design.n_theta) % len(self.design.columns) > 0
        return self.prior.matrix(
            self.design,
            position_rows=self.config.position_rows,
            scale=scales[beyond_bias.astype(np.int64)],
        )

    def _ask_evidence(self) -> bool:
        """A step of how sure the prior is; whether it moved."""
        curvature, linear = self._believed
        gradient = linear - curvature @ self._mean
        before = self.scales
        self.scales = likelier(before, self._built, curvature, gradient)
        self._precision = self._built(self.scales)
        return bool((self.scales != before).any())

    def posterior_precision(self) -> Doubles:
        """(size, size), as of the last epoch."""
        return self._precision + self._believed[0]

    def restart(self, prior: Prior, now: float, *, keep: float = 0.0) -> Epoch:
        """Go on from a newly promoted strategy, or back to the present one.

        Args:
            keep: share of what was learnt that stays, 0 after heads were fitted anew.
        """
        fresh = Learner(self.design, prior, self.config, now=now, first=self.epoch.number + 1)
        fresh.memories.curvature = keep * (self.memories.curvature + self._fresh[0])
        fresh.memories.linear = keep * (self.memories.linear + self._fresh[1])
        if keep:
            fresh.memories.shares = self.memories.shares
            fresh.scales, fresh._precision = self.scales, fresh._built(self.scales)
        fresh._last, fresh.counts = self._last, self.counts
        fresh._first = self._first if keep else fresh._first
        self.__dict__.update(fresh.__dict__)
        return self.epoch

    def _take_in(self, now: float) -> None:
        """Judge all memories by what is new, and add it to them."""
        curvature, linear = self._fresh
        kept, before = self.memories, self.memories.used
        told = kept.told(self._mean_of) if self._told is None else self._told
        kept.judge(curvature, linear, rows=self._rows, told=told)
        if kept.rows[kept.used] < kept.rows[before]:
            self.counts["turns"] += 1
            facts = (kept.rows[kept.used], self.epoch.number, self.counts["rows"])
            logger.info("forgets faster memory_rows=%.0f epoch=%d rows=%.0f", *facts)
        # A clock that jumps, or a long silence, takes off no more than a day's forgetting.
        days = min(max(now - self.epoch.made, 0.0) / 86_400.0, 1.0)
        keep = 0.5 ** (days / self.config.half_life_days)
        kept.add(curvature, linear, rows=self._rows, keep=keep)
        self._fresh = (np.zeros_like(curvature), np.zeros_like(linear))
        self._rows = 0.0

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
        seen = self._believed[0][self.design.theta, self.design.theta]
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
                "curvature": self.memories.curvature,
                "linear": self.memories.linear,
                "shares": self.memories.shares,
                "scales": self.scales,
                "fresh_curvature": self._fresh[0],
                "fresh_linear": self._fresh[1],
                "rows": self._rows,
                "theta": self.epoch.theta,
                "gamma": self.epoch.gamma,
                "beta": self.design.pack(self.epoch),
                "first": self._first,
                "made": self.epoch.made,
                "number": self.epoch.number,
                "workers": np.array(workers, np.str_),
                "last": np.array([self._last[w] for w in workers], np.int64),
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
        if shapes != ((len(config.memories), size, size), prior.theta.shape, (size,)):
            raise DataError(f"tuning: a checkpoint of shapes {shapes}, expected {size} numbers")
        found = cls(design, prior, config, now=kept["made"], first=kept["number"])
        found.memories.curvature, found.memories.linear = kept["curvature"], kept["linear"]
        found.memories.shares = kept["shares"]
        found.scales, found._precision = kept["scales"], found._built(kept["scales"])
        found._fresh = (kept["fresh_curvature"], kept["fresh_linear"])
        found._rows = float(kept["rows"])
        found._first = kept["first"]
        base = replace(found.base, gamma=kept["gamma"])
        epoch = design.unpack(kept["beta"], base, number=kept["number"], made=kept["made"])
        found.epoch = replace(epoch, theta=kept["theta"], learnt=epoch.theta)
        found._last = dict(zip(kept["workers"].tolist(), kept["last"].tolist(), strict=True))
        found.counts = dict(zip(found.counts, kept["counts"].tolist(), strict=True))
        return found


_STATE = (
    *("curvature", "linear", "shares", "scales", "fresh_curvature", "fresh_linear", "rows"),
    *("theta", "gamma", "beta", "first", "made", "number", "workers", "last", "counts"),
)


def theta_of(body: bytes) -> Doubles:
    """(n_heads, n_features): the θ in a checkpoint that `Learner.state` made.

    Raises:
        DataError: if the bytes are damaged.
    """
    return np.asarray(read_arrays(body, _STATE)["theta"], np.float64)


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
