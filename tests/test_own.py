"""Items that a user had before are told apart, and have what the strategy gives them beside."""

from dataclasses import replace

import numpy as np
import pytest

from engine_worlds import model, own, world
from steerec.contracts import Event, History, Query
from steerec.engine.own import had_before
from steerec.engine.recommender import Recommender

USER = "u0004"


def test_items_of_the_history_are_flagged_and_those_the_catalogue_has_not_are_passed_over():
    history = History.of(np.array([3, 1, 3, -1, 99], np.int32))
    assert np.flatnonzero(had_before(history, 5)).tolist() == [1, 3]
    assert not had_before(History.of([]), 5).any()


def lifted(nats, of=model):
    """This model with more weight on every head for items of one's own."""
    strategy = of().strategy
    theta = strategy.theta.copy()
    theta[:, strategy.features.index("own:bias")] += nats
    return replace(of(), strategy=replace(strategy, theta=theta))


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_beside_move_items_of_ones_own_alone_and_by_just_so_much(compiled):
    """Served scores of both strategies differ by Σ z where the user had the item, and by 0 else."""
    had = {world().data.item_ids[i] for i in world().data.history(4).item_idx}
    plain, more = (Recommender(m, compiled=compiled) for m in (model(), lifted(0.7)))
    query = Query(USER, n=40, now=world().now)
    before, after = ({c.item_id: c for c in r.recommend(query).items} for r in (plain, more))
    both = before.keys() & after.keys()
    assert len(both & had) >= 3
    assert len(both - had) >= 3
    for item in both:
        scored = plain.score(query)
        z = scored.z[:, list(scored.items).index(world().data.item_index[item])].sum()
        gain = 0.7 * z if item in had else 0.0
        assert after[item].score - before[item].score == pytest.approx(gain, abs=1e-4)


def test_an_item_is_ones_own_from_the_next_list_on():
    r = Recommender(lifted(5.0, own))
    query = Query(USER, n=60, now=world().now)
    listed = [c.item_id for c in r.recommend(query).items]
    had = {world().data.item_ids[i] for i in world().data.history(4).item_idx}
    new = next(item for item in listed[::-1] if item not in had)
    r.learn(Event(USER, new, "purchase", timestamp=world().now))
    scored = r.score(query)
    at = list(scored.items).index(world().data.item_index[new])
    assert scored.extra[at] == pytest.approx(
        (model().strategy.theta @ model().phi.of_own(scored.phi) + 5.0) @ scored.z[:, at], rel=1e-5
    )
