"""Transactions hour by hour under a review budget, where a label comes only when somebody looked.

Who is reviewed tells at once. Who is not: a fraud comes out when the customer complains, `delay_s`
later; silence until then is taken for honest. So each way of scoring chooses what it learns from.
"""

from dataclasses import dataclass

import numpy as np
from figures import top
from scipy.special import expit, logit
from tuned import Heads, share_bad

from steerec.tuning.threshold import choose_threshold

HOUR_S = 3_600.0


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The reviewers."""

    budget: float  # share of an hour's transactions that is reviewed
    delay_s: float = 24 * HOUR_S  # until the label of what was not reviewed is known
    settled_s: float = 12 * HOUR_S  # history whose labels are all known at the start
    refit_s: float = 6 * HOUR_S  # for the ways that fit again


class Ledger:
    """Who was reviewed, and which labels are known when."""

    def __init__(self, cases, desk):
        self.cases, self.desk = cases, desk
        self.p = np.full(len(cases), np.nan)
        self.reviewed = np.zeros(len(cases), bool)
        self.told_at = cases.time + desk.delay_s
        self.told_at[cases.time < desk.settled_s] = 0.0

    def known(self, now, *, since=-np.inf):
        """Rows whose label came after `since` and up to `now`."""
        return np.flatnonzero((self.told_at <= now) & (self.told_at > since))

    def review(self, hour_rows, p, now):
        """The most likely frauds of an hour are looked at when it ends, at `now`."""
        self.p[hour_rows] = p
        chosen = hour_rows[top(p, self.desk.budget)]
        self.reviewed[chosen] = True
        self.told_at[chosen] = now
        return chosen


class PlainScore:
    """A scikit-learn model by itself."""

    def __init__(self, make, *, again):
        self.make, self.again = make, again

    def fit(self, known, rng):
        self.model, self.rate = self.make().fit(known, rng), known.outcome.mean()

    def probability(self, cases):
        p = expit(self.model.score(cases))
        return np.where(np.isnan(p), self.rate, p)

    def learn(self, cases, now):
        """What came is fitted on."""

    def tell(self):
        return {}


class TunedScore:
    """steerec's loop on the same labels."""

    def __init__(self, makers, *, again, learning=True):
        self.makers, self.again, self.learning = makers, again, learning
        self.rate, self.blend = None, None

    def fit(self, known, rng):
        self.rate = self.rate or share_bad(known.outcome)
        self.heads = Heads(self.makers, known, known, rng, base=logit(self.rate))
        if self.blend is None or self.learning:
            self.blend = self.heads.blend(known, known.time, self.rate)

    def probability(self, cases):
        return self.blend.probability(self.heads.z(cases), cases)

    def learn(self, cases, now):
        """By the present scorers, which have not seen these outcomes."""
        if self.learning and len(cases):
            self.blend.learn(self.heads.z(cases), cases, np.full(len(cases), now))

    def tell(self):
        return self.blend.tell()


def run(way, cases, desk, rng):
    """Decide hour by hour after the settled history; returns the Ledger."""
    ledger, now, fitted = Ledger(cases, desk), desk.settled_s, -np.inf
    while now < cases.time.max():
        if fitted == -np.inf or (way.again and now - fitted >= desk.refit_s):
            way.fit(cases[ledger.known(now)], rng)
            fitted = now
        hour = np.flatnonzero((cases.time >= now) & (cases.time < now + HOUR_S))
        if len(hour):
            ledger.review(hour, way.probability(cases[hour].hidden), now + HOUR_S)
        came = ledger.known(now + HOUR_S, since=max(now, 0.0))
        now += HOUR_S
        way.learn(cases[came], now)
    return ledger


def decided(ledger):
    """Rows that were decided on, after the settled history."""
    return np.flatnonzero(np.isfinite(ledger.p))


def by_cost(ledger, review_cost, *, most=1.0):
    """(n,) whom a threshold on p x amount would have had reviewed, chosen anew each hour.

    It reads only labels known at the hour, of cases that were decided on; before there are any, a
    review is worth it where the foretold loss is above its cost.
    """
    worth = ledger.p * ledger.cases.loss
    lost = ledger.cases.outcome * ledger.cases.loss
    found, value = np.zeros(len(worth), bool), review_cost
    hours = (ledger.cases.time // HOUR_S).astype(int)
    for hour in np.unique(hours[np.isfinite(ledger.p)]):
        told = np.isfinite(worth) & (ledger.told_at <= hour * HOUR_S)
        if told.any():
            chosen = choose_threshold(
                worth[told], lost[told], review_cost=review_cost, most_share=most
            )
            value = chosen.value
        now = np.isfinite(worth) & (hours == hour)
        found[now] = worth[now] >= value
    return found
