"""From which score on a review pays."""

import numpy as np
import pytest

from steerec.tuning.threshold import Threshold, choose_threshold

SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
LOSS = np.array([100.0, 0.0, 60.0, 0.0, 5.0])


def test_the_threshold_of_least_cost_is_chosen():
    found = choose_threshold(SCORE, LOSS, review_cost=10.0)
    assert found == Threshold(0.7, 0.6, pytest.approx((30 + 5) / 5))


def test_the_budget_limits_the_reviews():
    found = choose_threshold(SCORE, LOSS, review_cost=10.0, most_share=0.4)
    assert (found.value, found.share) == (0.9, 0.2)


def test_no_review_pays_where_it_costs_more_than_it_saves():
    found = choose_threshold(SCORE, LOSS, review_cost=500.0)
    assert found == Threshold(np.inf, 0.0, 33.0)


def test_equal_scores_are_reviewed_together_or_not_at_all():
    found = choose_threshold(np.ones(4), np.array([50.0, 0, 0, 0]), review_cost=10.0)
    assert (found.value, found.share) == (1.0, 1.0)
    found = choose_threshold(np.ones(4), LOSS[:4], review_cost=10.0, most_share=0.5)
    assert found.share == 0.0


def test_it_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    for _ in range(30):
        score, loss = rng.integers(0, 8, 40) / 8, rng.exponential(5, 40) * (rng.random(40) < 0.3)
        most = rng.random()
        slow = [loss.mean()]
        for value in np.unique(score):
            taken = score >= value
            if taken.mean() <= most + 1e-12:
                slow.append(np.where(taken, 2.0, loss).mean())
        found = choose_threshold(score, loss, review_cost=2.0, most_share=most)
        assert found.cost == pytest.approx(min(slow))
        assert np.where(score >= found.value, 2.0, loss).mean() == pytest.approx(found.cost)


def test_rows_without_a_score_or_an_outcome_are_left_out():
    score, loss = np.append(SCORE, [np.nan, 0.99]), np.append(LOSS, [1e6, np.nan])
    assert choose_threshold(score, loss, review_cost=10.0) == choose_threshold(
        SCORE, LOSS, review_cost=10.0
    )


def test_nothing_known_is_an_error_and_so_is_a_share_beyond_one():
    with pytest.raises(ValueError, match="none of 2 past cases"):
        choose_threshold(np.full(2, np.nan), np.ones(2), review_cost=1.0)
    with pytest.raises(ValueError, match="most_share=2"):
        choose_threshold(SCORE, LOSS, review_cost=1.0, most_share=2)
