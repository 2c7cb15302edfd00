"""Decisions month by month: what each way of scoring knew, said, and had reviewed."""

from dataclasses import dataclass, field

import numpy as np
from cases import Cases
from figures import top
from scipy.special import expit, logit
from tuned import Heads, share_bad

from steerec.tuning.threshold import choose_threshold

MONTH_S = 28 * 86_400.0
LEAST = 20  # bad and good cases that a month needs to be calibrated on


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be reviewed and what it costs."""

    budget: float  # share of a month's cases that is reviewed
    most: float  # share that may be, where the threshold decides
    review_cost: float


@dataclass(eq=False)
class Decided:
    """One month of one way of scoring: probabilities, and who is reviewed by cost."""

    cases: Cases
    p: np.ndarray
    by_cost: np.ndarray
    threshold: float
    told: dict = field(default_factory=dict)


class Plain:
    """A scikit-learn model by itself, fitted once or again whenever outcomes came."""

    def __init__(self, make, *, again):
        self.make, self.again, self.model, self.rate = make, again, None, 0.0

    def prepare(self, known, newest, rng):
        if self.model is None or self.again:
            self.model, self.rate = self.make().fit(known, rng), known.outcome.mean()

    def decide(self, cases):
        p = expit(self.model.score(cases))
        return np.where(np.isnan(p), self.rate, p)

    def learn(self, cases):
        """What came is fitted on in `prepare`."""

    def tell(self):
        return {}


class Tuned:
    """steerec's loop. `shared` keeps heads that several of these use, by month."""

    def __init__(self, makers, *, again=True, learning=True, shared=None):
        self.makers, self.again, self.learning = makers, again, learning
        self.heads, self.blend, self.z, self.rate = None, None, None, None
        self.shared = {} if shared is None else shared

    def prepare(self, known, newest, rng):
        self.rate = self.rate or share_bad(newest.outcome)
        if self.heads is not None and not self.again:
            return
        self.heads = self.fitted(known, newest, rng)
        if self.blend is None or self.learning:
            self.blend = self.heads.blend(newest, spread(newest), self.rate)

    def fitted(self, known, newest, rng):
        month = known.time.max()
        if month not in self.shared:
            base = logit(self.rate)
            self.shared[month] = Heads(self.makers, known, newest, rng, base=base)
        return self.shared[month]

    def decide(self, cases):
        self.z = self.heads.z(cases)
        return self.blend.probability(self.z, cases)

    def learn(self, cases):
        """From the scores as they were served, when the outcomes come."""
        if self.learning:
            self.blend.learn(self.z, cases, spread(cases))

    def tell(self):
        return self.blend.tell()


def spread(cases):
    """(n,) when the outcomes of a month come: over the next one, client by client."""
    return cases.time + MONTH_S * (1 + np.arange(len(cases)) / max(len(cases), 1))


def run(way, months, policy, rng):
    """Decide every month from the second on, knowing only the outcomes of months before.

    months: list of Cases, in order; outcomes that never came are NaN. Models are fitted on months
    with both outcomes: in others there is nothing to tell apart but the month itself. A month of
    one outcome still teaches the blend its level; one without any changes nothing. Until some
    month has both there is no score to speak of, and the month is left out.
    Returns the Decided of each month.
    """
    found = []
    for number in range(1, len(months)):
        past = [m[m.known] for m in months[:number] if not m.one_class]
        if not past:
            continue
        if not (found and months[number - 1].one_class):
            way.prepare(Cases.together(past), telling(past), rng)
        cases = months[number]
        p = way.decide(cases.hidden)
        value, chosen = by_cost(p * cases.loss, found, cases, policy)
        found.append(Decided(cases, p, chosen, value, way.tell()))
        way.learn(cases)
    return found


def telling(past):
    """The newest month with enough of both outcomes to calibrate on; else all that is known."""
    for month in reversed(past):
        if min((month.outcome > 0).sum(), (month.outcome == 0).sum()) >= LEAST:
            return month
    return Cases.together(past)


def by_cost(worth, found, cases, policy):
    """The threshold on p x loss that cost least in the months decided so far, and who it reviews.

    Before the first outcomes: a review where the foretold loss is above its cost.
    """
    value = policy.review_cost
    past = [(d.p * d.cases.loss, d.cases.outcome * d.cases.loss) for d in found]
    if past and any(np.isfinite(lost).any() for _, lost in past):
        score, lost = (np.concatenate(part) for part in zip(*past, strict=True))
        chosen = choose_threshold(
            score, lost, review_cost=policy.review_cost, most_share=policy.most
        )
        value = chosen.value
    return value, (worth >= value) & top(worth, policy.most)
