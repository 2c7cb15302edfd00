"""Figures of a risk score, each with weights, so that a bootstrap only changes the weights."""

import numpy as np

BINS = 10


class Ranked:
    """Scores in falling order, ties together.

    score: (n,); bad: (n,) 0 or 1. Figures take weights (n,), how often each row counts.
    """

    def __init__(self, score, bad):
        self.order = np.argsort(-score, kind="stable")
        self.score, self.bad = score[self.order], bad[self.order].astype(float)
        self.last = np.append(np.flatnonzero(np.diff(self.score)), len(score) - 1)
        self.bin = np.minimum(np.arange(len(score)) * BINS // len(score), BINS - 1)

    def curve(self, weight):
        """False and true positive rates after each score, from (0, 0); NaN with one class."""
        w = weight[self.order]
        bad = np.append(0.0, np.cumsum(w * self.bad)[self.last])
        good = np.append(0.0, np.cumsum(w * (1 - self.bad))[self.last])
        if bad[-1] <= 0 or good[-1] <= 0:
            return np.full((2, len(bad)), np.nan)
        return good / good[-1], bad / bad[-1]

    def separation(self, weight):
        """AUC, KS, and recall at 5 % false positives (Hand 2009 for KS and AUC in credit)."""
        false, true = self.curve(weight)
        auc = float((np.diff(false) * (true[1:] + true[:-1])).sum() / 2)
        at = float(np.interp(0.05, false, true)) if np.isfinite(auc) else np.nan
        return {"auc": auc, "ks": float((true - false).max()), "recall_5fpr": at}

    def calibration(self, p, weight):
        """Mean |foretold - came| over ten bins of the score, and the log loss of p (n,)."""
        w, p = weight[self.order], np.clip(p[self.order], 1e-6, 1 - 1e-6)
        size = np.bincount(self.bin, w, BINS)
        gap = np.bincount(self.bin, w * (p - self.bad), BINS)
        nats = -(self.bad * np.log(p) + (1 - self.bad) * np.log1p(-p))
        return {"ece": float(np.abs(gap).sum() / size.sum()), "log_loss": float(w @ nats / w.sum())}


def of_reviews(reviewed, bad, loss, *, weight, review_cost):
    """Precision, recall, money missed and cost of a case, given who was reviewed (n,) bool.

    A reviewed case costs the review and nothing more; a bad one not reviewed costs its loss.
    """
    hit, lost = weight * bad * reviewed, weight * bad * loss
    n, all_bad, looked = weight.sum(), (weight * bad).sum(), (weight * reviewed).sum()
    missed = (lost * ~reviewed).sum()
    return {
        "precision": share(hit.sum(), looked),
        "recall": share(hit.sum(), all_bad),
        "missed": share(missed, n),
        "reviewed": share(looked, n),
        "cost": share(missed + review_cost * looked, n),
    }


def share(part, whole):
    return float(part / whole) if whole > 0 else np.nan


def top(score, share_reviewed):
    """(n,) bool: the highest scores, as many as the budget has reviews; NaN come last."""
    n = round(share_reviewed * len(score))
    chosen = np.zeros(len(score), bool)
    chosen[np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:n]] = True
    return chosen


def percentiles(draws, level=0.95):
    known = np.asarray(draws)[np.isfinite(draws)]
    if len(known) == 0:
        return [np.nan, np.nan]
    return [float(q) for q in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]
