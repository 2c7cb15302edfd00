"""Factors of ratings: the posterior against the conditional normal, EM against a known truth."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from steerec.contracts import Event, History
from steerec.data.dataset import build_dataset
from steerec.engine.panel import Panel
from steerec.engine.people import People
from steerec.errors import ConfigError, DataError
from steerec.heads.ratings import Ratings, RatingsConfig

NO_TIME = np.array([np.nan])
N_ITEMS, N_FACTORS = 14, 2
SMALL = RatingsConfig(factors=3, rounds=10, shrink=5.0)


def truth(seed=3):
    """Means, loadings and noise of a small catalogue."""
    rng = np.random.default_rng(seed)
    return rng.uniform(2, 4, N_ITEMS), rng.standard_normal((N_ITEMS, N_FACTORS)), 0.3


def rated(n_users=300, share=0.6, seed=4):
    """Ratings of a world of two tastes, and all that its users would give."""
    mean, loadings, noise = truth()
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal((n_users, N_FACTORS))
    all_of = mean + tastes @ loadings.T + np.sqrt(noise) * rng.standard_normal((n_users, N_ITEMS))
    user, item = np.nonzero(rng.random(all_of.shape) < share)
    events = pl.DataFrame(
        {
            "user_id": [f"u{u:03d}" for u in user],
            "item_id": [f"i{i:02d}" for i in item],
            "event": "rating",
            "value": all_of[user, item],
        }
    )
    items = pl.DataFrame({"item_id": [f"i{i:02d}" for i in range(N_ITEMS + 1)]})  # one unrated
    return build_dataset(events, items), all_of


@pytest.fixture(scope="module")
def world():
    return rated()


@pytest.fixture(scope="module")
def head(world):
    return Ratings.fit(world[0], SMALL, np.random.default_rng(0))


def told(pairs):
    """A history of these ratings; NaN: an event without one."""
    history = History.of([item for item, _ in pairs])
    return replace(history, rating=np.array([r for _, r in pairs], np.float32))


def score(head, history):
    return head.score([head.start(history)], None, NO_TIME)[0]


def test_the_score_is_the_conditional_mean_of_a_normal_distribution(head):
    """All ratings of a user as one normal vector, conditioned by the textbook's formula."""
    given = [(2, 4.5), (7, 1.0), (11, 3.0)]
    at, values = [item for item, _ in given], np.array([value for _, value in given])
    w = head.loadings[:N_ITEMS]
    covariance = w @ w.T + np.diag(head.noise[:N_ITEMS])
    inner = np.linalg.inv(covariance[np.ix_(at, at)])
    mean = head.mean[:N_ITEMS]
    expected = mean + (w @ w[at].T) @ inner @ (values - mean[at])  # of the taste, without noise
    np.testing.assert_allclose(score(head, told(given))[:N_ITEMS], expected, rtol=1e-5)


def test_ratings_kept_back_are_foretold_almost_as_well_as_the_noise_allows(head):
    """Of people never seen: 10 ratings told, 4 foretold."""
    _, all_of = rated(n_users=400, share=1.0, seed=9)
    mean, loadings, noise = truth()
    error, best, plain = [], [], []
    for row in all_of[:200]:
        found = score(head, told(list(enumerate(row[:10]))))[10:N_ITEMS]
        system = loadings[:10].T @ loadings[:10] / noise + np.eye(N_FACTORS)
        taste = np.linalg.solve(system, loadings[:10].T @ (row[:10] - mean[:10]) / noise)
        error.append(row[10:] - found)
        best.append(row[10:] - mean[10:] - loadings[10:] @ taste)
        plain.append(row[10:] - mean[10:])
    error, best, plain = (np.sqrt(np.mean(np.square(e))) for e in (error, best, plain))
    assert best <= error < best * 1.1 < 0.7 * plain


def test_more_rounds_make_the_ratings_likelier(world):
    def per_rating(rounds):
        head = Ratings.fit(world[0], replace(SMALL, rounds=rounds), np.random.default_rng(0))
        covariance = head.loadings @ head.loadings.T + np.diag(head.noise)
        total = 0.0
        for user in range(world[0].n_users):
            history = world[0].history(user)
            at = history.item_idx
            inner = covariance[np.ix_(at, at)]
            off = history.rating - head.mean[at]
            total -= np.linalg.slogdet(inner)[1] + off @ np.linalg.solve(inner, off)
        return total / world[0].n_events

    assert per_rating(1) < per_rating(3) < per_rating(10)


def test_people_without_a_rating_and_sets_without_ratings_are_not_spoken_of(world, head):
    silent = [History.of([]), History.of([1, 2]), told([(3, np.nan)]), told([(N_ITEMS, 5.0)])]
    assert np.isnan(head.score(silent, None, np.full(4, np.nan))).all()
    data = world[0]
    with pytest.raises(DataError, match="no event has a rating"):
        Ratings.fit(replace(data, value=np.full(data.n_events, np.nan, np.float32)), SMALL, None)
    with pytest.raises(DataError, match="all ratings are 3"):
        Ratings.fit(replace(data, value=np.full(data.n_events, 3, np.float32)), SMALL, None)


def test_an_item_that_nobody_rated_scores_nan_and_tells_nothing(head):
    found = score(head, told([(1, 4.0)]))
    assert np.isnan(found[N_ITEMS])
    assert np.isfinite(found[:N_ITEMS]).all()
    strange = [(1, 4.0), (N_ITEMS, 5.0), (-1, 1.0), (999, 1.0)]
    np.testing.assert_array_equal(score(head, told(strange)), found)


def test_the_newest_rating_of_an_item_counts(head):
    np.testing.assert_array_equal(
        score(head, told([(1, 1.0), (2, 3.0), (1, 5.0)])), score(head, told([(2, 3.0), (1, 5.0)]))
    )


def test_a_visit_after_a_rating_leaves_the_rating(head):
    np.testing.assert_array_equal(
        score(head, told([(1, 1.0), (2, 3.0), (1, np.nan)])),
        score(head, told([(1, 1.0), (2, 3.0)])),
    )


def test_an_event_without_a_rating_speaks_softly_for_its_item(head):
    base = [(2, 3.0)]
    plain = score(head, told(base))[5]
    clicked = score(head, told([*base, (5, np.nan)]))[5]
    full = score(head, told([*base, (5, float(head.mean[5]) + head.spread)]))[5]
    assert plain < clicked < full
    deaf = replace(head, config=replace(head.config, unrated=0.0))
    assert score(deaf, told([*base, (5, np.nan)]))[5] == plain


def test_low_ratings_are_read_as_such(head):
    high, low = (score(head, told([(5, value)]))[5] for value in (4.5, 1.0))
    assert low < head.mean[5] < high


def test_a_value_is_a_rating_only_where_the_kind_says_so(world):
    data, _ = world
    assert data.rating is not None
    np.testing.assert_array_equal(data.history(0).rating, data.value[: data.starts[1]])
    bought = replace(data, kinds=("purchase",))  # the value is how many
    assert bought.rating is None
    assert bought.history(0).rating is None


def test_ratings_stay_with_their_events():
    history = told([(1, 2.0), (2, np.nan)])
    np.testing.assert_array_equal(history.last(1).rating, [np.nan])
    longer = history.then(History.of([4])).append(5, rating=1.0)
    np.testing.assert_array_equal(longer.rating, [2.0, np.nan, np.nan, 1.0])
    assert History.of([1]).append(2).rating is None
    np.testing.assert_array_equal(History.of([1]).append(2, rating=3).rating, [np.nan, 3.0])


class Nothing:
    """What people need of a model."""

    def __init__(self, data):
        self.data, self.heads = data, {}


def test_live_ratings_reach_histories_in_order_of_time(world):
    data, _ = world
    people = People(Panel(Nothing(data)))
    for item, kind, value, time in (
        (0, "view", 9.0, 1.0),
        (1, "rating", 4.0, 5.0),
        (2, "purchase", 2.0, 6.0),
        (3, "rating", None, 7.0),
        (4, "dislike", 1.0, 3.0),  # late
    ):
        people.learn([(Event("new", f"i{item:02d}", kind, value, time), item)])
    found = people.history("new")
    assert found.item_idx.tolist() == [0, 4, 1, 2, 3]
    np.testing.assert_array_equal(found.rating, [np.nan, 1.0, 4.0, np.nan, np.nan])
    people.learn([(Event("u000", "i05", "view", None, 9.0), 5)])  # a user of the fitted data
    np.testing.assert_array_equal(people.history("u000").rating[:-1], data.history(0).rating)
    assert np.isnan(people.history("u000").rating[-1])
    people.unlearn("new", np.array([1], np.int32), [])
    np.testing.assert_array_equal(people.history("new").rating, [np.nan, 1.0, np.nan, np.nan])


def test_settings_out_of_range_are_refused():
    for wrong in ({"factors": 0}, {"rounds": 0}, {"shrink": 0.0}, {"unrated": 1.5}, {"last": 0}):
        with pytest.raises(ConfigError, match="ratings"):
            RatingsConfig(**wrong)
