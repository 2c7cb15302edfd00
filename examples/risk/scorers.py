"""The heads of a risk score. Each: `fit(cases, rng)`, then `score(cases)`, NaN where it cannot say.

Scores are log-odds of a bad outcome as the model sees them; the loop calibrates them.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from clients import is_late, named
from scipy.special import log_expit, logit, logsumexp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.heads.two_tower import TwoTower, TwoTowerConfig

MONTH = 30 * 86_400.0


class Linear:
    """Logistic regression on scaled features; unknown ones at their median, and said so."""

    def __init__(self):
        self.model = make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True),
            StandardScaler(),
            LogisticRegression(C=0.1, max_iter=500),
        )

    def fit(self, cases, rng):
        self.told = told_columns(cases)
        self.one_class = cases.one_class
        if not self.one_class:
            self.model.fit(cases.x[:, self.told], cases.outcome)
        return self

    def score(self, cases):
        if self.one_class:
            return np.full(len(cases), np.nan)
        p = self.model.predict_proba(cases.x[:, self.told])[:, 1]
        return logit(np.clip(p, 1e-9, 1 - 1e-9))


class Tree(Linear):
    """Histogram gradient boosting; reads NaN as it is."""

    def __init__(self):
        self.model = HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.08, random_state=0
        )


@dataclass
class Unlike:
    """How unlike the usual a case is, without any label: of use before labels come."""

    most_columns: int = 40

    def fit(self, cases, rng):
        self.told = told_columns(cases)[: self.most_columns]
        self.fill = np.nanmedian(cases.x[:, self.told], axis=0)
        even = QuantileTransformer(n_quantiles=min(200, len(cases)), output_distribution="normal")
        x = even.fit_transform(self.filled(cases))
        self.even, self.inverse = even, np.linalg.inv(np.cov(x.T) + 0.1 * np.eye(x.shape[1]))
        return self

    def filled(self, cases):
        x = cases.x[:, self.told]
        return np.where(np.isfinite(x), x, self.fill)

    def score(self, cases):
        x = self.even.transform(self.filled(cases))
        return np.log(np.einsum("ni,ij,nj->n", x, self.inverse, x) + 1e-9)


def told_columns(cases):
    """Columns with at least two values: the others teach nothing, and some models refuse them."""
    low, high = np.full((2, cases.x.shape[1]), np.nan)
    some = np.isfinite(cases.x).any(axis=0)
    if len(cases):
        low[some], high[some] = (
            np.nanmin(cases.x[:, some], axis=0),
            np.nanmax(cases.x[:, some], axis=0),
        )
    return np.flatnonzero(some & (high > low))


class TwoTowers:
    """steerec's own head: what a client did is an event, and next month's behaviour is foretold.

    The user's tower reads the months so far and the profile, the other tower the behaviour's
    parts (status, use, payment). The risk is the share of the foretold that is two months late.
    """

    def __init__(self, profile, *, epochs=3, least=200):
        self.profile, self.epochs, self.least = profile, epochs, least

    def fit(self, cases, rng):
        newest = cases[cases.time == cases.time.max()]
        codes = np.column_stack([newest.trail, newest.after])
        self.head = None
        if len(newest) < self.least or cases.one_class:
            return self
        data = self.dataset(newest.unit, codes)
        config = TwoTowerConfig(
            epochs=self.epochs, text_dims=0, width=32, hidden=32, length=codes.shape[1], threads=1
        )
        self.head = TwoTower.fit(data, config, rng)
        self.place = data.item_index
        self.bad = np.array([is_late(int(item)) for item in data.item_ids])
        self.row = self.head.segments.table(self.profile)  # who belongs where, all clients
        return self

    def dataset(self, unit, codes):
        """The trails as events, the codes as items, the profile as the users' table."""
        row, month = np.nonzero(codes >= 0)
        ids = self.profile["user_id"].to_numpy()[unit]
        events = pl.DataFrame(
            {
                "user_id": ids[row],
                "item_id": codes[row, month].astype(str),
                "event": ["month"] * len(row),
                "timestamp": month * MONTH,
            }
        )
        items = pl.DataFrame({"item_id": events["item_id"].unique().sort()})
        parts = [named(int(code)) for code in items["item_id"]]
        items = items.with_columns(categories=pl.Series(parts))
        return build_dataset(events, items, self.profile[np.sort(unit).tolist()])

    def score(self, cases):
        if self.head is None or not self.bad.any():
            return np.full(len(cases), np.nan)
        states = [
            self.state(unit, trail) for unit, trail in zip(cases.unit, cases.trail, strict=True)
        ]
        logits = self.head.score(states, None, np.zeros(len(states)))
        logits = np.where(np.isnan(logits), -30.0, logits)
        share = log_expit(logits)
        late = logsumexp(share[:, self.bad], axis=1)
        return late - logsumexp(share[:, ~self.bad], axis=1)

    def state(self, unit, trail):
        items = [self.place[str(c)] for c in trail if c >= 0 and str(c) in self.place]
        n = len(items)
        one = History(
            np.array(items, np.int32), np.ones(n, np.float32), np.zeros(n), np.full(n, -1, np.int32)
        )
        found = self.head.start(one)
        found.segments = tuple(self.row[unit].indices.tolist())
        return found
