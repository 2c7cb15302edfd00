"""A slate as it is served, against what is logged of it."""

import numpy as np
import pytest

from engine_worlds import model, recommender, world
from steerec.contracts import Query
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy, explained, replay, serve, unit_vectors

NOW = world().now
DRAWS = [
    SamplerConfig(),
    SamplerConfig(temperature=1.0),
    SamplerConfig(temperature=0.7, diversity=1.0),
]


def served(draw, request_id="r1", n=6, theta=None):
    policy = Policy(draw=draw, theta=theta, version=3)
    return serve(
        recommender(), Query("u0001", n=n, now=NOW), policy, request_id=request_id, now=NOW
    )


def vectors_of(shown):
    data = model().data
    return unit_vectors(data.vectors, [data.item_index[i] for i in shown.pool])


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_the_log_replays_the_slate_with_its_propensities(draw):
    made = served(draw)
    again = replay(made.impression, n=6, vectors=vectors_of(made.impression))
    assert [made.impression.pool[p] for p in again.places] == list(made.impression.items)
    np.testing.assert_array_equal(again.propensity, made.impression.propensity)
    longer = replay(made.impression, n=9, vectors=vectors_of(made.impression))
    np.testing.assert_array_equal(longer.places[:6], again.places)


def test_without_exploration_it_is_the_recommenders_list():
    plain = recommender().recommend(Query("u0001", n=6, now=NOW))
    assert [c.item_id for c in served(DRAWS[0]).slate.items] == [c.item_id for c in plain.items]


def test_what_is_explained_adds_up_to_the_score_that_was_drawn_from():
    shown = served(DRAWS[1]).impression
    worth = (shown.scores.astype(np.float64) * shown.w).sum(axis=1)
    for told in explained(shown):
        at = shown.pool.index(told["item_id"])
        assert told["score"] == pytest.approx(worth[at])
        assert sum(told["sources"].values()) == pytest.approx(worth[at])
        assert told["rank_in_pool"] == 1 + (worth > worth[at]).sum()


def test_another_theta_answers_in_place_of_the_models():
    theta = np.zeros_like(model().strategy.theta)
    theta[0, 0] = 1.0  # the first head alone
    made = served(DRAWS[0], theta=theta)
    model().strategy.heads[0]
    assert made.impression.w[:-1].tolist() == [1.0] + [0.0] * (len(theta) - 1)
    told = [c.score for c in made.slate.items]
    assert told == sorted(told, reverse=True)
    assert all(set(c.sources) == set(model().strategy.heads) for c in made.slate.items)
    seen = set(model().data.item_ids[~model().unseen])  # others get the weights of the unseen
    rest = [c.sources[n] for c in made.slate.items if c.item_id in seen for n in c.sources]
    assert np.count_nonzero(rest) <= len(made.slate.items)
    assert made.slate.strategy_version == made.impression.version == 3
