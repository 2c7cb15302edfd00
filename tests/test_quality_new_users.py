"""The benchmarks of new users and of two domains hide what they say they hide."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from steerec.data.tables import Tables
from worlds import shop

QUALITY = Path(__file__).parent.parent / "benchmarks" / "quality"


@pytest.fixture
def quality(monkeypatch):
    """Import a module of the benchmark, which is no package."""
    monkeypatch.syspath_prepend(str(QUALITY))
    return importlib.import_module


def test_each_step_is_foretold_from_the_events_before_it_of_users_held_out(quality):
    steps = quality("steps")
    data = shop(n_users=60).data
    users = steps.held_out_users(data)
    assert 0 < users.sum() < 30
    cases, step = steps.step_cases(data, users)
    assert set(cases.user_idx.tolist()) == set(np.flatnonzero(users).tolist())
    assert cases.lengths().tolist() == step.tolist()
    for case in range(len(cases)):
        events = data.history(int(cases.user_idx[case])).item_idx
        assert cases.targets[case] == events[step[case]]


def test_each_user_is_held_out_once_and_the_fifths_are_measured_together(quality):
    steps = quality("steps")
    data = shop(n_users=60).data
    users = [steps.held_out_users(data, fold) for fold in range(steps.HELD_OUT)]
    assert np.sum(users, axis=0).tolist() == [1] * data.n_users
    one, two = np.arange(2), np.arange(3)
    parts = [
        steps.Foretold({"ease": a, "als": a}, a, a, {"ease": a, "als": a}, 1.0) for a in (one, two)
    ]
    parts[1] = replace(parts[1], ranks={"ease": two}, weights={"ease": two})
    both = steps.Foretold.together(parts)
    assert both.ranks["ease"].tolist() == both.users.tolist() == [0, 1, 0, 1, 2]
    assert list(both.ranks) == list(both.weights) == ["ease"]
    assert both.fit_s == 2.0


def test_a_step_tells_what_the_best_of_the_others_has_over_the_blend(quality):
    steps = quality("steps")
    ranks = {"blend": np.array([1.0, 99.0]), "ease": np.array([2.0, 1.0])}
    found = steps.measured(ranks, np.arange(2), np.ones(2, bool), seed=0)
    assert found["requests"] == 2
    assert found["models"]["blend"]["ndcg@10"] == 0.5
    assert found["models"]["blend"]["hr@10"] == 0.5
    gain = (1 / np.log2(3) + 1) / 2 - 0.5
    assert found["minus_blend"]["ease"]["difference"] == pytest.approx(gain)


def two_shops():
    rows = {
        "beauty": [("a", "x"), ("a", "y"), ("b", "x"), ("c", "y")],
        "sports": [("a", "x"), ("a", "z"), ("b", "z"), ("b", "w"), ("d", "x"), ("d", "w")],
    }
    for events in rows.values():
        frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row")
        frame = frame.with_columns(event=pl.lit("review"), seq=pl.int_range(pl.len()))
        items = frame.select("item_id").unique().sort("item_id").with_columns(title=pl.lit("t"))
        yield Tables(frame, items)


def test_two_domains_share_users_and_no_items_and_the_source_comes_first(quality):
    cross = quality("cross_domain")
    both = cross.domains(*two_shops())
    assert both.data.user_ids.tolist() == list("abcd")
    assert both.data.n_items == 5
    assert both.shared.tolist() == [True, True, False, False]
    names = [both.data.item_ids[i] for i in both.data.history(0).item_idx]
    assert names == ["0:x", "0:y", "1:x", "1:z"]


def test_strangers_have_nothing_of_the_target_domain_and_sharers_all_but_the_last(quality):
    cross = quality("cross_domain")
    both = cross.domains(*two_shops())
    strangers = np.array([False, True, False, False])
    train, cases = cross.split_of(cross.Domains(both.data, both.is_target, both.shared, strangers))
    name = both.data.item_ids
    shared, strange = cases["shared"], cases["strangers"]
    assert [name[i] for i in shared.history(0).item_idx] == ["0:x", "0:y", "1:x"]
    assert name[shared.targets[0]] == "1:z"
    assert [name[i] for i in strange.history(0).item_idx] == ["0:x"]
    assert name[strange.targets[0]] == "1:w"
    assert [name[i] for i in train.history(1).item_idx] == ["0:x"]
    assert train.n_events == both.data.n_events - 1 - 2
    own = cross.without_source(shared, both.is_target)
    assert [name[i] for i in own.history(0).item_idx] == ["1:x"]
    assert own.targets.tolist() == shared.targets.tolist()
