"""What heads that train learn in each round: as fresh beside the counting heads as they will be."""

from dataclasses import replace

import numpy as np
import pytest

from steerec.data.split import leave_last_out
from steerec.engine.lessons import SHORT, trained_on
from steerec.engine.model import FitConfig, fit
from worlds import shop

BRIEF = {"gru": {"epochs": 2, "length": 12, "threads": 1, "width": 16}}


def some_held_out(events_each):
    """Data, and what counting heads learn from: last events are held out."""
    data = shop(n_users=40, n_items=48, events_each=events_each).data
    return data, leave_last_out(data).train


@pytest.mark.parametrize(("events_each", "short"), [(9, True), (40, False)])
def test_a_network_goes_on_with_last_events_where_histories_are_short(events_each, short):
    data, first = some_held_out(events_each)
    assert (data.n_users > SHORT * data.n_events) == short
    lessons = trained_on(data, first, last=True, withheld=False, config=FitConfig())
    assert lessons.first is first
    assert lessons.rest is (data if short else None)


@pytest.mark.parametrize(("events_each", "short"), [(9, True), (40, False)])
def test_one_that_may_not_learn_last_events_is_as_far_behind_in_both_rounds(events_each, short):
    data, first = some_held_out(events_each)
    config = FitConfig(withhold_last=True)
    known = leave_last_out(data).train
    before = leave_last_out(known).train if short else known
    lessons = trained_on(data, first, last=True, withheld=False, config=config)
    assert lessons.first.content_hash == before.content_hash
    assert (lessons.rest is not None) == short
    gone = np.arange(data.n_items) % 10 == 0
    fewer = first.take(~gone[first.item_idx])
    lessons = trained_on(data, fewer, last=True, withheld=True, config=config)
    assert not gone[lessons.first.item_idx].any()
    assert lessons.rest.content_hash == known.content_hash


def test_a_stretch_of_time_that_was_held_out_is_learnt_afterwards_unless_told_otherwise():
    data, first = some_held_out(9)
    given = {"last": False, "withheld": False}
    assert trained_on(data, first, **given, config=FitConfig()).rest is data
    for refit in ("never", "full"):
        found = trained_on(data, first, **given, config=FitConfig(refit=refit))
        assert (found.first, found.rest) == (first, None)


def test_a_fit_lets_the_network_go_on_where_histories_are_short():
    data = shop(n_users=60, n_items=48, events_each=9).data
    data = replace(data, basket=np.full_like(data.basket, -1)).compact()  # every item has events
    for withhold_last in (False, True):
        config = FitConfig(
            heads=("trending", "gru"), settings=BRIEF, holdout="last", withhold_last=withhold_last
        )
        curve = fit(data, config, np.random.default_rng(0)).heads["gru"].curve
        assert [e.get("continued", False) for e in curve] == [False, False, True]
