"""Users set aside whole stand for newcomers: nothing is learnt of them, their start is foretold."""

from dataclasses import replace

import numpy as np
import polars as pl

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.data.split import Split, leave_last_out
from steerec.engine.blend import BlendConfig
from steerec.engine.lessons import Aids
from steerec.engine.model import FitConfig, fit
from steerec.engine.newcomers import (
    LATER,
    LEAST_FIRST,
    MOST_SHARE,
    SHORT,
    STEPS,
    TASTE_FROM,
    first_steps,
    joined,
    set_users_aside,
)
from steerec.heads.trending import Trending, TrendingConfig


def people(n_users, n_events, *, n_items=40, first=None, at=0, seed=0):
    """Users with `n_events` events each at random; the `at`-th one at `first` where given."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{u:03d}", f"i{first if first is not None and e == at else rng.integers(n_items)}")
        for u in range(n_users)
        for e in range(n_events)
    ]
    return build_dataset(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))


def aside(data, seed=0):
    return set_users_aside(leave_last_out(data), np.random.default_rng(seed), repeats=False)


def test_nothing_is_learnt_from_users_set_aside_and_their_first_steps_are_cases():
    data = people(100, 25)
    split = aside(data)
    gone = np.flatnonzero(np.diff(split.train.starts) == 0)
    assert len(gone) == MOST_SHARE * 100
    short = split.cases.take(np.flatnonzero(split.cases.lengths() <= SHORT))
    assert set(short.user_idx.tolist()) == set(gone.tolist())
    assert sorted(short.lengths().tolist()) == sorted(list(STEPS) * len(gone))
    for case in range(len(short)):
        events = data.history(int(short.user_idx[case])).item_idx
        step = len(short.history(case))
        assert short.targets[short.offsets[case]] == events[step]
        np.testing.assert_array_equal(short.history(case).item_idx, events[:step])
    assert len(split.cases) == 100 + len(short)  # nobody's last event is lost


def test_first_steps_stand_beside_the_cases_that_the_weights_are_fitted_on():
    kept = []
    blend = BlendConfig(max_cases=60)
    config = FitConfig(heads=("trending",), holdout="last", repeats=False, blend=blend)
    aids = Aids(learnt_from=kept.append)
    made = fit(people(100, 25), config, np.random.default_rng(0), aids=aids)
    phi, names = kept[0].held_out.phi, kept[0].features
    long = phi[:, names.index("length~20")] + phi[:, names.index("length~50")] == 1.0
    assert long.sum() == 60
    assert len(phi) == 60 + len(STEPS) * MOST_SHARE * 100
    assert kept[0].aside
    assert made.phi.taste_from == TASTE_FROM


def test_where_short_histories_are_common_nobody_is_set_aside():
    data = people(100, 6)
    split = leave_last_out(data)
    assert set_users_aside(split, np.random.default_rng(0), repeats=False) is split
    kept = []
    config = FitConfig(heads=("trending",), holdout="last", repeats=False)
    made = fit(data, config, np.random.default_rng(0), aids=Aids(learnt_from=kept.append))
    assert not kept[0].aside
    assert made.phi.taste_from == 1


def test_where_people_come_back_to_things_some_are_set_aside_however_short_histories_are():
    lengths = [10] * 200 + [25] * 40
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{rng.integers(40)}") for u, n in enumerate(lengths) for _ in range(n)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    split = leave_last_out(build_dataset(events))
    assert set_users_aside(split, np.random.default_rng(0), repeats=False) is split
    found = set_users_aside(split, np.random.default_rng(0), repeats=True)
    gone = np.setdiff1d(split.train.user_idx, found.train.user_idx)
    assert len(gone) == MOST_SHARE * 40
    steps = [step for step in (*STEPS, *LATER) if step < 25]  # of 25 events each
    assert len(found.cases) == len(split.cases) + len(gone) * len(steps)
    added = found.cases.take(np.arange(len(split.cases), len(found.cases)))
    assert sorted(added.lengths().tolist()) == sorted(steps * len(gone))
    assert set(added.user_idx.tolist()) == set(gone.tolist())
    few = leave_last_out(people(100, 6))  # none of whom has all the steps
    assert set_users_aside(few, np.random.default_rng(0), repeats=True) is few


def test_targets_that_only_users_set_aside_took_are_no_cases():
    data = people(60, 25, n_items=4_000)
    split = aside(data)
    known = set(split.train.item_idx.tolist())
    short = split.cases.take(np.flatnonzero(split.cases.lengths() <= SHORT))
    assert len(short) < MOST_SHARE * 60 * len(STEPS)
    assert set(short.targets.tolist()) <= known


def test_first_steps_are_those_of_users_whom_training_does_not_know():
    data = people(2 * LEAST_FIRST, 12)
    train = data.take(data.user_idx >= LEAST_FIRST)
    split = Split(train, leave_last_out(data).cases)
    firsts = first_steps(split)
    assert firsts.user_idx.tolist() == list(range(LEAST_FIRST))
    assert firsts.lengths().tolist() == [0] * LEAST_FIRST
    np.testing.assert_array_equal(firsts.targets, data.item_idx[data.starts[:LEAST_FIRST]])
    assert first_steps(leave_last_out(data)) is None


def test_joined_cases_keep_their_own_targets():
    cases = leave_last_out(people(10, 8)).cases
    one, other = cases.take(np.array([3, 1])), cases.take(np.array([7]))
    both = joined(one, other)
    assert both.user_idx.tolist() == [3, 1, 7]
    assert both.targets.tolist() == [*one.targets, *other.targets]
    assert both.offsets.tolist() == [0, 1, 2, 3]


def test_people_without_history_are_shown_what_others_took_first():
    data = people(200, 40, first=7)
    head = Trending.fit(data, TrendingConfig(), np.random.default_rng(0))
    nobody = data.history(0).slice(0, 0)
    new, old = head.score([nobody, data.history(0)], None, np.full(2, np.nan))
    assert data.item_ids[new.argmax()] == "i7"
    assert np.exp(new.max()) > 0.9
    assert np.exp(old).max() < 0.3
    counted = head.firsts.copy()
    head.observe(nobody, data.history(0).slice(0, 1))
    assert (head.firsts - counted)[0].sum() == 1
    head.observe(data.history(0), data.history(0).slice(0, 1))
    assert (head.firsts - counted).sum() == 1


def test_beginners_are_shown_what_others_took_after_as_few_events(tmp_path):
    data = people(200, 30, first=7, at=1)
    head = Trending.fit(data, TrendingConfig(), np.random.default_rng(0))
    history, now = data.history(9), np.full(4, np.nan)
    short = [history.slice(0, n) for n in (0, 1, 2, 20)]
    scores = head.score(short, None, now)
    second = np.exp(scores[:, data.item_index["i7"]])
    assert second[1] > 0.9
    assert max(second[0], second[2], second[3]) < 0.2
    head.save(tmp_path)
    np.testing.assert_array_equal(Trending.load(tmp_path).score(short, None, now), scores)


def test_steps_that_come_out_of_order_are_counted_where_they_happened():
    data, rng = people(1, 20), np.random.default_rng(0)
    told = replace(History.of(data.item_idx), time=np.arange(20.0))
    config, empty = TrendingConfig(), np.zeros((10, data.n_items))
    head = Trending(config, empty, np.full(5, 0.2), np.full((5, 10), 0.1), 0.0)
    for n, at in enumerate(order := rng.permutation(20)):
        head.observe(told.at(np.sort(order[:n])), told.slice(at, at + 1))
    stretch = np.searchsorted(config.first, np.arange(20), side="right")
    for number, row in enumerate(head.firsts):
        items = data.item_idx[stretch == number]
        assert row.tolist() == np.bincount(items, minlength=data.n_items).tolist()
