"""Other ways to tune θ, simple and honest, to compare the learner with."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, special

from steerec.tuning.design import Design
from steerec.tuning.learner import OnlineTuner
from steerec.tuning.observed import Doubles, Epoch, Observed
from steerec.tuning.prior import Prior


class Thompson:
    """Our learner, with θ drawn from its posterior anew at each epoch.

    Source: Chapelle and Li 2011, algorithm 3, with the full covariance.
    """

    def __init__(self, tuner: OnlineTuner, rng: np.random.Generator, *, width: float = 1.0) -> None:
        self._tuner, self._rng, self._width = tuner, rng, width
        self.epoch = tuner.epoch

    def observe(self, observed: Observed) -> None:
        """Take in rows."""
        self._tuner.observe(observed)

    def publish(self, now: float) -> Epoch:
        """A draw around the epoch; the same until the next."""
        epoch = self._tuner.publish(now)
        if epoch.number != self.epoch.number:
            design = self._tuner.learner.design
            root = linalg.cholesky(self._tuner.learner.posterior_precision(), lower=True)
            noise = linalg.solve_triangular(
                root, self._rng.standard_normal(design.size), lower=True, trans=1
            )
            beta = design.pack(epoch)
            beta[design.theta] += self._width * noise[design.theta]
            drawn = design.unpack(beta, epoch, number=epoch.number, made=now)
            self.epoch = replace(drawn, theta=drawn.theta)
        return self.epoch


class Sgd:
    """The paper's θ ← θ − α∇L(θ), one step a call of `observe`.

    Attributes:
        rate: α, of the mean gradient of the rows.
    """

    def __init__(self, design: Design, prior: Prior, *, now: float, rate: float = 0.05) -> None:
        self._design, self._rate = design, rate
        self.epoch = prior.epoch(design, now)

    def observe(self, observed: Observed) -> None:
        """Step at once."""
        gradient = _gradient(self._design, observed, self.epoch)
        if gradient is None:
            return
        beta = self._design.pack(self.epoch) + self._rate * gradient
        self.epoch = self._design.unpack(
            beta, self.epoch, number=self.epoch.number + 1, made=self.epoch.made
        )

    def publish(self, now: float) -> Epoch:
        """What it has come to."""
        return replace(self.epoch, made=now)


@dataclass(frozen=True, kw_only=True)
class FtrlConfig:
    """Settings of FTRL-proximal."""

    rate: float = 0.1  # α
    start: float = 1.0  # β, keeps the first steps small
    l1: float = 0.0
    l2: float = 1.0


class Ftrl:
    """Follow the regularised leader, with a rate of its own for each number.

    Source: McMahan et al. 2013, algorithm 1, around the prior instead of 0.
    """

    def __init__(
        self, design: Design, prior: Prior, config: FtrlConfig | None = None, *, now: float
    ) -> None:
        self._design, self._config = design, config or FtrlConfig()
        self.epoch = prior.epoch(design, now)
        self._start = design.pack(self.epoch)
        self._z = np.zeros(design.size)
        self._squares = np.zeros(design.size)

    def observe(self, observed: Observed) -> None:
        """Step at once."""
        found = _gradient(self._design, observed, self.epoch)
        if found is None:
            return
        c, gradient = self._config, -found
        more = np.sqrt(self._squares + gradient**2)
        off = self._design.pack(self.epoch) - self._start
        self._z += gradient - (more - np.sqrt(self._squares)) / c.rate * off
        self._squares += gradient**2
        shrunk = np.sign(self._z) * np.maximum(np.abs(self._z) - c.l1, 0.0)
        off = -shrunk / ((c.start + np.sqrt(self._squares)) / c.rate + c.l2)
        self.epoch = self._design.unpack(
            self._start + off, self.epoch, number=self.epoch.number + 1, made=self.epoch.made
        )

    def publish(self, now: float) -> Epoch:
        """What it has come to."""
        return replace(self.epoch, made=now)


def squarecb(reward: Doubles, *, learning_rate: float) -> Doubles:
    """Probabilities (n,) of drawing each item at one position, from foretold rewards (n,).

    -inf for an item that may not be shown: it gets 0. Use with any tuner's `Epoch.click`.

    Source: Foster and Rakhlin 2020, algorithm 1 (SquareCB).
    """
    open_ = np.isfinite(reward)
    if not open_.any():
        raise ValueError("squarecb: no item may be shown")
    best = int(np.argmax(reward))
    gap = np.where(open_, reward[best] - np.where(open_, reward, 0.0), 0.0)
    found = np.where(open_, 1.0 / (open_.sum() + learning_rate * gap), 0.0)
    found[best] = 0.0
    found[best] = 1.0 - found.sum()
    return np.asarray(found, np.float64)


def _gradient(design: Design, observed: Observed, epoch: Epoch) -> Doubles | None:
    """(size,): mean gradient of the log-likelihood, of a length of 10 at most; None: no rows."""
    rows = observed.sound()
    if len(rows) == 0:
        return None
    x, log_odds = design.rows(rows, epoch)
    found = (rows.weight * (rows.reward - special.expit(log_odds))) @ x / len(rows)
    return np.asarray(found * min(1.0, 10.0 / max(float(np.linalg.norm(found)), 1e-12)))
