"""Generated slates whose clicks follow the learner's own model with a known θ."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from steerec.tuning.design import Design
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Observed
from steerec.tuning.prior import Prior

HEADS, FEATURES, PLACES = 3, 2, 5
DESIGN = Design(HEADS, FEATURES, (0, 1), PLACES)
TRUTH = np.array([[1.2, 0.5], [0.1, 0.6], [0.4, -0.9]])
EVEN = np.array([[0.5, 0.0]] * HEADS)
INDEPENDENT = {
    "trust": 1.0,
    "surer": 16.0,
    "evidence_steps": 1,
    "memories": (8e3, 4e4, 2e5),
    "judged_rows": 2_000.0,
}


@dataclass
class LogisticWorld:
    """Draws slates of `PLACES` items; P(click) = σ(θ-score − 1.5 − .7 log k)."""

    rng: np.random.Generator
    theta: np.ndarray = None

    def __post_init__(self):
        self.theta = TRUTH if self.theta is None else self.theta

    def slate(self, served=None):
        """Items at random, or the best of four times as many by a θ that is served."""
        phi = np.array([1.0, self.rng.random()])
        z = self.rng.normal(0.0, 1.2, (PLACES * (1 if served is None else 4), HEADS))
        if served is not None:
            z = z[np.argsort(-z @ (served @ phi))[:PLACES]]
        log_odds = z @ (self.theta @ phi) - 1.5 - 0.7 * np.log(np.arange(1, PLACES + 1))
        return Observed.slate(z, phi, (self.rng.random(PLACES) < special.expit(log_odds)) * 1.0)

    def slates(self, n):
        return [self.slate() for _ in range(n)]


def learner(precision=10.0, **settings):
    prior = Prior(EVEN, precision, rate=0.2, gamma=1.0)  # as these worlds are made
    # These rows are as independent as the likelihood says: all they tell is believed.
    config = LearnerConfig(**{**INDEPENDENT, **settings})
    return Learner(DESIGN, prior, config, now=0.0)


def tuner(precision=10.0, **settings):
    return OnlineTuner(learner(precision, **settings))


def teach(tuner, slates, *, start=0.0, every=10):
    """Observe slates, one a tenth of a second, publishing every `every`."""
    now = start
    for i, slate in enumerate(slates, 1):
        tuner.observe(slate)
        now += 2.0 / every
        if i % every == 0:
            tuner.publish(now)
    return now


def live(tuner, world, n, *, start=0.0, every=20):
    """The same with slates chosen by the tuner's own θ."""
    for i in range(1, n + 1):
        tuner.observe(world.slate(tuner.epoch.theta))
        if i % every == 0:
            tuner.publish(start + 2.0 * i / every)
    return start + 2.0 * n / every


def cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
