"""In a large catalogue a head brings in what is near the history, and looks at nothing else."""

from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest

from steerec.contracts import About, History
from steerec.heads import content, ease, lags, load_head
from worlds import shop

LINEAR = ("transitions", "autoregressive", "ease", "item_knn")


@cache
def world():
    return shop(n_users=100, n_items=72)


@pytest.fixture
def sparse_fit(monkeypatch):
    """Fits a head as if the catalogue were too large for dense weights."""
    for module in (lags, ease, content):
        monkeypatch.setattr(module, "DENSE_ITEMS", 10)

    def fit(name):
        cls = load_head(name)
        config = getattr(import_module(cls.__module__), f"{cls.__name__}Config")()
        return cls.fit(world().data, config, np.random.default_rng(0))

    return fit


def scores(head, history):
    return head.score([history], None, np.array([world().now]))[0]


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_near_holds_the_best_of_the_whole_catalogue(name, sparse_fit):
    head = sparse_fit(name)
    for user in range(5):
        history = world().data.history(user).last(3)
        near = head.near(history)
        assert 5 < len(near) < head.n_items
        assert (np.diff(near) > 0).all()
        score = scores(head, history)
        found = head.retrieve(history, 5, world().now)
        np.testing.assert_allclose(score[found], np.sort(score[~np.isnan(score)])[::-1][:5])


@pytest.mark.parametrize("name", [*LINEAR, "content"])
def test_nothing_is_near_an_empty_history(name, sparse_fit):
    head = sparse_fit(name)
    assert len(head.near(History.of([]))) == 0
    assert len(head.retrieve(History.of([]), 5, world().now)) == 0
    assert len(head.retrieve(History.of([-1, 10**6]), 5, world().now)) == 0


def test_content_looks_at_items_that_share_words(sparse_fit):
    head = sparse_fit("content")
    history = History.of([3])
    near = head.near(history)
    np.testing.assert_array_equal(near, np.sort(head.lexical.alike[[3]].indices))
    found = head.retrieve(history, 5, world().now)
    assert np.isin(found, near).all()
    assert (np.diff(scores(head, history)[found]) <= 1e-6).all()


def test_content_looks_at_everything_for_what_a_user_says(sparse_fit):
    head = sparse_fit("content")
    about = About(("kettle",), np.ones(1, np.float32), np.zeros((1, 0), np.float32))
    assert head.near(replace(History.of([3]), about=about)) is None
    assert head.near(History.of([3])) is not None


def test_an_event_counted_live_is_near_at_once(sparse_fit):
    head = sparse_fit("transitions")
    state = History.of([0, 5])
    strange = int(np.setdiff1d(np.arange(72), head.near(state.last(1)))[0])
    head.observe(state, History.of([strange]))
    assert strange in head.near(state.last(1))


@pytest.mark.parametrize("name", ["transitions", "autoregressive", "ease", "content"])
def test_in_a_small_catalogue_everything_is_looked_at(name):
    cls = load_head(name)
    config = getattr(import_module(cls.__module__), f"{cls.__name__}Config")()
    head = cls.fit(world().data, config, np.random.default_rng(0))
    assert head.near(world().data.history(0)) is None
