"""Factorisation: the fold-in against the normal equations written out, and its explanations."""

import numpy as np
import pytest

from steerec.contracts import History
from steerec.errors import ConfigError
from steerec.heads.als import Als, AlsConfig
from steerec.heads.histories import decayed
from worlds import shop

NO_TIME = np.array([np.nan])
SMALL = AlsConfig(factors=8, iterations=3, length=6, step=6, threads=1)


@pytest.fixture(scope="module")
def world():
    return shop(n_users=40, n_items=48)


@pytest.fixture(scope="module")
def head(world):
    return Als.fit(world.data, SMALL, np.random.default_rng(5))


def test_fold_in_solves_the_weighted_normal_equations(world, head):
    history = world.data.history(3).append(7, weight=-1.0)
    items, faded = decayed(history, decay=SMALL.decay, last=SMALL.last)
    y = head.factors.astype(np.float64)
    left, right = SMALL.l2 * np.eye(8), np.zeros(8)
    for factor in y:  # every item is a missing preference of confidence 1 …
        left += np.outer(factor, factor)
    confidence = np.zeros(len(y))
    for item, weight in zip(items, faded, strict=True):
        confidence[item] += SMALL.alpha * weight  # … and the history's items add to it
    for item in range(len(y)):
        left += abs(confidence[item]) * np.outer(y[item], y[item])
        right += confidence[item] * y[item]
    expected = y @ np.linalg.solve(left, right)
    found = head.score([history], None, NO_TIME)[0]
    np.testing.assert_allclose(found[head.known], expected[head.known], rtol=1e-3, atol=1e-5)


def test_a_folded_in_user_needs_no_row_of_their_own(world, head):
    history = world.data.history(3)
    stranger = History(history.item_idx, history.weight, history.time, history.basket, -1)
    np.testing.assert_array_equal(
        head.score([history], None, NO_TIME), head.score([stranger], None, NO_TIME)
    )


def test_shares_of_the_events_add_up_to_the_score(world, head):
    history = world.data.history(4)
    scores = head.score([history], None, NO_TIME)[0]
    for item in np.flatnonzero(head.known)[:10]:
        shares = head.because(history, int(item))
        assert len(shares) == len(history)
        np.testing.assert_allclose(shares.sum(), scores[item], rtol=1e-3, atol=1e-5)


def test_events_outside_the_catalogue_have_no_share(head):
    shares = head.because(History.of([999, -1, 0]), 6)
    np.testing.assert_array_equal(shares[:2], 0)
    assert shares[2] != 0


def test_items_without_events_score_nan(world, head):
    found = head.score([world.data.history(0)], None, NO_TIME)[0]
    np.testing.assert_array_equal(np.isnan(found), world.data.counts() == 0)


def test_liking_an_item_lifts_it_and_disliking_it_sinks_it(world, head):
    item = int(np.flatnonzero(head.known)[4])
    base = History.of(np.flatnonzero(head.known)[[9, 13]])
    histories = [base.append(item, weight=w) for w in (1.0, -1.0)]
    liked, disliked = head.score(histories, np.array([item], np.int32), np.full(2, np.nan))[:, 0]
    plain = head.score([base], np.array([item], np.int32), NO_TIME)[0, 0]
    assert liked > plain > disliked


def test_another_seed_gives_other_factors(world, head):
    other = Als.fit(world.data, SMALL, np.random.default_rng(6))
    assert np.abs(other.factors - head.factors).max() > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"factors": 0}, {"l2": 0.0}, {"alpha": -1.0}, {"decay": 2.0}, {"length": 7}]
)
def test_als_refuses_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="als"):
        AlsConfig(**wrong)
