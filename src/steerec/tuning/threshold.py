"""From which score on a case is worth a review, by what past cases came to cost."""

import logging
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Cases that score at least `value` are reviewed.

    Attributes:
        value: inf: no review pays.
        share: of the past cases that it would have had reviewed.
        cost: of a past case, mean, with it.
    """

    value: float
    share: float
    cost: float


def choose_threshold(
    score: NDArray[np.floating],
    loss: NDArray[np.floating],
    *,
    review_cost: float,
    most_share: float = 1.0,
) -> Threshold:
    """The threshold that would have cost least on past cases, within a budget of reviews.

    Cost of a case: `review_cost` if it is reviewed, else its loss. Cases of the same score are
    reviewed together or not at all; of equal costs the fewest reviews win.

    Args:
        score: (n,) as served, by models that had not seen the outcome.
        loss: (n,) what each came to lose, 0 where nothing happened; rows that are not finite in
            either are left out.
        most_share: of the cases that may be reviewed.
    Raises:
        ValueError: if no row is left, or a setting is out of its range.
    """
    if not 0 <= most_share <= 1 or not 0 <= review_cost < inf:
        raise ValueError(f"threshold: most_share={most_share} in [0, 1], cost={review_cost} >= 0")
    known = np.isfinite(score) & np.isfinite(loss)
    n = int(known.sum())
    if n == 0:
        raise ValueError(f"threshold: none of {len(score)} past cases has a score and a loss")
    if n < len(score):
        logger.warning("threshold rows_left_out=%d of=%d", len(score) - n, len(score))
    order = np.argsort(-score[known], kind="stable")
    ranked, lost = score[known][order], loss[known][order]
    last = np.append(np.flatnonzero(np.diff(ranked)), n - 1)  # of each run of equal scores
    reviewed = np.append(0, last + 1)
    saved = np.append(0.0, np.cumsum(lost)[last])
    cost = lost.sum() - saved + review_cost * reviewed
    cost[reviewed > most_share * n + 1e-9] = inf
    best = int(np.argmin(cost))
    value = float(ranked[reviewed[best] - 1]) if best else inf
    return Threshold(value, float(reviewed[best] / n), float(cost[best] / n))
