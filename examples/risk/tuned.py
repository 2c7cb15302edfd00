"""The loop: cross-fitted scorers, calibrated out of fold, blended by steerec's online learner."""

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from steerec.tuning.design import Design
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import MOST_Z, Observed
from steerec.tuning.prior import Prior

FOLDS = 3
BATCH = 500  # outcomes learnt from at once
# Clients hang together less than what is shown to one person: each outcome is believed.
ALONE = LearnerConfig(memories=(1e3, 8e3, 4e4, 2e5), trust=1.0)
WIDTH = 4.0  # precision of the even blend that it starts from: weights are sure to about half


class CrossFitted:
    """A scorer fitted once for each fold on the units outside it.

    A unit that was in the fit is scored by the model that has not seen it, whenever that is; one
    that was not, by all models. So scores to calibrate on and scores to decide by are alike.
    """

    def __init__(self, make, known, rng, *, folds=FOLDS):
        self.folds, self.seen = folds, set(known.unit.tolist())
        fold = known.unit % folds
        self.models = [make().fit(known[fold != k], rng) for k in range(folds)]

    def score(self, cases):
        fold = np.array([u % self.folds if u in self.seen else -1 for u in cases.unit.tolist()])
        found = np.full(len(cases), np.nan)
        for k, model in enumerate(self.models):
            rows = fold == k
            if rows.any():
                found[rows] = model.score(cases[rows])
        new = fold < 0
        if new.any():
            found[new] = np.mean([model.score(cases[new]) for model in self.models], axis=0)
        return found


def calibration(scores, outcome, *, base=None):
    """The map from a score to z: log of bad over good at this score, less `base` (that of all).

    Two numbers, so that some tens of bad cases are enough, and the order of the scores stays.
    Nothing to compare (no score, outcomes of one kind, a score that falls with the risk) gives the
    map to 0: it says nothing.
    Source: Platt 1999, with a weak prior instead of smoothed labels.
    """
    told = np.isfinite(scores) & np.isfinite(outcome)
    s, bad = scores[told], outcome[told] > 0
    if len(s) == 0 or bad.all() or not bad.any() or np.ptp(s) == 0:
        return np.zeros_like
    middle, scale = s.mean(), s.std()
    line = LogisticRegression(C=10.0).fit(((s - middle) / scale)[:, None], bad)
    slope, start = float(line.coef_[0, 0]), float(line.intercept_[0])
    if slope <= 0:
        return np.zeros_like
    start -= logit(bad.mean()) if base is None else base
    return lambda s: np.nan_to_num(
        np.clip(start + slope * (s - middle) / scale, -MOST_Z, MOST_Z), nan=0.0
    )


def share_bad(outcome):
    """Of the known outcomes, kept off 0 and 1."""
    return float(np.clip(np.nanmean(outcome), 0.001, 0.999))


class Heads:
    """The scorers of one moment, with their curves.

    known: all cases whose outcome is known, of which `newest` are calibrated on, out of fold.
    base: log-odds that z is told beside; the same for all heads that a blend will see, for the
        share of bad cases among those known moves with who was reviewed.
    """

    def __init__(self, makers, known, newest, rng, *, base=None):
        self.fitted = [CrossFitted(make, known, rng) for make in makers.values()]
        self.out_of_fold = [head.score(newest) for head in self.fitted]
        self.curves = [calibration(s, newest.outcome, base=base) for s in self.out_of_fold]
        self.last = (None, None)

    def blend(self, newest, arrived, rate):
        """A blend of these scorers, from even weights on; what was learnt of others is let go.

        Their curves already hold the present level: a blend that kept its own would count it twice.
        """
        found = TunedBlend(len(self.fitted), newest.phi.shape[1], rate=rate, now=arrived.min())
        found.learn(self.calibrated(self.out_of_fold), newest, arrived)
        return found

    def z(self, cases):
        """(n, heads) calibrated log-odds; 0 where a head cannot say."""
        return self.calibrated(self.scores(cases))

    def scores(self, cases):
        """Of each head, as it gives them; the last answer is kept, for several ways may ask."""
        if self.last[0] is not cases:
            self.last = (cases, [head.score(cases) for head in self.fitted])
        return self.last[1]

    def calibrated(self, scores):
        return np.column_stack([c(s) for c, s in zip(self.curves, scores, strict=True)])


class TunedBlend:
    """p = σ(γ·(θφ)·z + b + c·φ), with steerec's Bayesian learner on what came of each case."""

    def __init__(self, n_heads, n_features, *, rate, now, config=None):
        theta = np.zeros((n_heads, n_features))
        theta[:, 0] = 1 / n_heads
        prior = Prior(theta, WIDTH, rate=rate, position_power=0.0)
        design = Design(n_heads, n_features, tuple(range(n_features)), n_positions=1)
        self.tuner = OnlineTuner(Learner(design, prior, config or ALONE, now=float(now)))

    @property
    def theta(self):
        return self.tuner.epoch.theta

    def tell(self):
        """Weights of the heads by context, and the length they are used at."""
        epoch = self.tuner.epoch
        return {"theta": np.round(epoch.theta, 3).tolist(), "gamma": round(epoch.gamma, 3)}

    def probability(self, z, cases):
        """(n,) of a bad outcome, by the epoch in force."""
        return self.tuner.epoch.click(rows(z, cases, np.zeros(len(z))))

    def learn(self, z, cases, arrived):
        """Take in outcomes at the times (n,) they arrive; unknown ones are left out."""
        order = np.argsort(arrived, kind="stable")
        order = order[cases.known[order]]
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            self.tuner.observe(rows(z[batch], cases[batch], cases.outcome[batch]))
            self.tuner.publish(float(arrived[batch[-1]]))


def rows(z, cases, reward):
    """The cases as the learner reads them: everybody is shown, at the first place."""
    return Observed(z, cases.phi, np.ones(len(z), int), reward)
