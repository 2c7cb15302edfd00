"""What is scored in a catalogue too big to be scored as a whole."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engine_worlds import model, world
from steerec.contracts import Event, Query
from steerec.engine.fused import FusedConfig
from steerec.engine.model import FitConfig, fit
from steerec.engine.panel import Panel
from steerec.engine.pool import Pool, PoolConfig
from steerec.engine.recommender import Recommender
from steerec.engine.snapshot import load_snapshot, save_snapshot
from steerec.errors import ConfigError

HEADS = ("trending", "transitions", "als")
SMALL = PoolConfig(
    full_catalogue=20,
    pool_limit=24,
    fresh=2,
    from_fused=12,
    own=("transitions",),
    per_head=8,
    fused=FusedConfig(dims=16, lessons=120, keep=12),
)


@cache
def fitted():
    """A model whose catalogue of 60 counts as big."""
    settings = {"als": {"factors": 8, "iterations": 3, "threads": 1}}
    config = FitConfig(heads=HEADS, settings=settings, pool=SMALL)
    return fit(world().data, config, np.random.default_rng(0))


def asked(config=SMALL, **changes):
    return Recommender(replace(fitted(), **changes), np.random.default_rng(0), config)


def ids(slate):
    return [choice.item_id for choice in slate.items]


def candidates(pool, user=3, *, allowed=None, n=5):
    history = world().data.history(user)
    allowed = np.ones(world().data.n_items, bool) if allowed is None else allowed
    return pool.candidates(history, pool.panel.start(history), allowed, n, world().now)


def test_a_big_catalogue_gets_a_matrix_and_a_small_one_none():
    assert fitted().fused.n_items == world().data.n_items
    assert fitted().seconds["fused"] > 0
    assert model().fused is None


def test_a_pool_of_two_fifths_holds_most_of_the_best_ten():
    whole = asked(PoolConfig())
    shared = [
        len({*ids(whole.recommend(Query(u)))} & {*ids(asked().recommend(Query(u)))})
        for u in world().data.user_ids[:40].tolist()
    ]
    assert np.mean(shared) > 8.5  # any 24 of 60 hold 4 of them


def test_candidates_are_the_freshest_the_fused_and_the_neighbours():
    pool = Pool(Panel(fitted()), SMALL)
    found = candidates(pool)
    assert (np.diff(found) > 0).all()
    assert len(found) == SMALL.pool_limit
    history = world().data.history(3)
    everything = np.ones(world().data.n_items, bool)
    own = fitted().heads["transitions"].retrieve(history, 4, world().now)
    for sure in (
        pool.popular[:2],
        pool.newest[:2],
        fitted().fused.search(history, 12, everything),
        own,
    ):
        assert np.isin(sure, found).all()


def test_only_allowed_items_are_candidates():
    allowed = np.ones(world().data.n_items, bool)
    allowed[::2] = False
    found = candidates(Pool(Panel(fitted()), SMALL), allowed=allowed)
    assert allowed[found].all()
    assert len(found) == SMALL.pool_limit


def test_a_longer_list_asks_for_more_candidates():
    assert len(candidates(Pool(Panel(fitted()), SMALL), n=40)) == 40


def test_only_heads_that_know_neighbours_are_asked_for_their_own():
    assert Pool(Panel(fitted()), SMALL).sources == ("transitions",)


def test_without_the_matrix_every_head_is_asked():
    assert Pool(Panel(replace(fitted(), fused=None)), SMALL).sources == HEADS
    assert len(ids(asked(fused=None).recommend(Query("u0003")))) == 10


def test_a_click_brings_in_what_lies_near_it():
    recommender = asked()
    cluster = world().cluster
    for item in np.flatnonzero(cluster == 4)[:4]:
        recommender.learn(Event("stranger", world().data.item_ids[item], timestamp=world().now))
    shown = [world().data.item_index[i] for i in ids(recommender.recommend(Query("stranger")))]
    assert (cluster[shown] == 4).mean() >= 0.4  # a sixth of the catalogue


def test_the_estimate_of_many_is_like_the_candidates_of_each():
    pool, n_items = Pool(Panel(fitted()), SMALL), world().data.n_items
    histories = [world().data.history(user) for user in range(12)]
    raw, _, _ = fitted().scores(histories, None, np.full(12, world().now))
    allowed = np.ones((12, n_items), bool)
    allowed[:, 7] = False
    told = pool.estimate(raw, histories, allowed)
    assert not told[:, 7].any()
    assert told.sum(axis=1).max() <= SMALL.pool_limit
    for row in range(12):
        found = candidates(pool, row, allowed=allowed[row])
        estimated = np.flatnonzero(told[row])
        assert np.isin(estimated, found).mean() > 0.9
    without = Pool(Panel(replace(fitted(), fused=None)), SMALL)
    assert without.estimate(raw, histories, allowed).sum(axis=1).max() <= SMALL.pool_limit


def test_the_estimate_without_a_matrix_is_the_best_of_each_head():
    rng = np.random.default_rng(3)
    raw = {name: rng.normal(size=(4, 60)).astype(np.float32) for name in HEADS}
    raw["als"][:, 5:] = np.nan  # knows 5 items only
    pool = Pool(Panel(replace(fitted(), fused=None)), SMALL)
    found = pool.estimate(raw, [], np.ones((4, 60), bool))
    for row in range(4):
        expected = set()
        for scores in raw.values():
            known = [i for i in range(60) if not np.isnan(scores[row, i])]
            expected |= set(sorted(known, key=lambda i: -scores[row, i])[:8])
        assert set(np.flatnonzero(found[row]).tolist()) == expected


def test_a_snapshot_keeps_the_matrix(tmp_path):
    save_snapshot(fitted(), tmp_path / "shop")
    again = load_snapshot(tmp_path / "shop")
    np.testing.assert_array_equal(again.fused.codes, fitted().fused.codes)
    first = Recommender(again, np.random.default_rng(0), SMALL).recommend(Query("u0003"))
    assert ids(first) == ids(asked().recommend(Query("u0003")))


@pytest.mark.parametrize("wrong", [{"from_fused": -1}, {"per_head": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="pool"):
        PoolConfig(**wrong)
