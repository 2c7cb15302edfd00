"""Heads that take a person back out: against a fit without them, on data of every shape."""

import logging

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.data.dataset import build_dataset
from steerec.heads.downdate import Held
from steerec.heads.ease import Ease, EaseConfig
from steerec.heads.item_knn import ItemKnn, ItemKnnConfig
from steerec.heads.user_knn import UserKnn, UserKnnConfig

RNG = np.random.default_rng(0)
N_ITEMS = 9

persons = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=12), min_size=2, max_size=8
)
few = settings(max_examples=25, deadline=None, derandomize=True)


def made(rows):
    """A dataset of users with these items in order."""
    events = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u, items in enumerate(rows) for _ in items],
            "item_id": [f"i{item}" for items in rows for item in items],
            "timestamp": [float(n) for items in rows for n in range(len(items))],
        }
    )
    catalogue = pl.DataFrame({"item_id": [f"i{n}" for n in range(N_ITEMS)]})
    return build_dataset(events, catalogue)


def without(data, user):
    return data.take(data.user_idx != user)


@few
@given(rows=persons, l2=st.floats(3.0, 500.0))
def test_ease_forgets_as_if_solved_again(rows, l2):
    data, config = made(rows), EaseConfig(l2=l2)
    head = Ease.fit(data, config, RNG)
    if not head.forget(0, data.history(0)):
        assert len(set(rows[0])) / l2 > 1  # a user of m items leaves λ / (λ + m) at the least
        return
    again = Ease.fit(without(data, 0), config, RNG)
    np.testing.assert_allclose(head.weights, again.weights, atol=1e-6)
    np.testing.assert_array_equal(head.known, again.known)
    np.testing.assert_allclose(head.held.diagonal, again.held.diagonal, rtol=1e-5)
    np.testing.assert_array_equal(head.held.takers, again.held.takers)


def test_the_downdate_is_the_inverse_without_the_row():
    """Against the inverse of the smaller Gram matrix, in 64 bits."""
    x = (np.random.default_rng(1).random((40, 6)) < 0.4).astype(float)
    full, less = (np.linalg.inv(one.T @ one + 5 * np.eye(6)) for one in (x, x[1:]))
    start = (-full / np.diag(full)) * (1 - np.eye(6))
    held = Held(np.diag(full).copy(), x.sum(axis=0).astype(int))
    after, weights = held.without(np.flatnonzero(x[0]).astype(np.int32), start.astype(np.float32))
    np.testing.assert_allclose(after.diagonal, np.diag(less), rtol=1e-6)
    expected = (-less / np.diag(less)) * (1 - np.eye(6))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_ease_waits_for_the_fit_where_rounding_would_show(caplog):
    data = made([[0, 1, 2, 3, 4, 5], [6, 7]])
    head = Ease.fit(data, EaseConfig(l2=0.1), RNG)  # leaves 0.1 / 6.1
    before, held = head.weights.copy(), head.held
    with caplog.at_level(logging.WARNING, "steerec.heads.downdate"):
        assert not head.forget(0, data.history(0))
    assert "forgotten=0 items=6 left=0.0164" in caplog.text
    np.testing.assert_array_equal(head.weights, before)
    assert head.held is held
    assert head.known[0]


def test_ease_that_was_solved_locally_waits_for_the_fit():
    data = made([[0, 1, 2], [2, 3]])
    head = Ease.fit(data, EaseConfig(exact_items=1), RNG)
    assert not head.forget(0, data.history(0))


def test_ease_of_an_older_snapshot_waits_for_the_fit(tmp_path):
    data = made([[0, 1, 2], [2, 3]])
    Ease.fit(data, EaseConfig(), RNG).save(tmp_path)
    (tmp_path / "held.npz").unlink()
    assert not Ease.load(tmp_path).forget(0, data.history(0))


@few
@given(rows=persons, neighbours=st.integers(1, 4), popularity=st.sampled_from([0.0, 0.4]))
def test_item_neighbours_are_those_of_a_fit_without_the_user(rows, neighbours, popularity):
    """To the bit, with few neighbours kept: who was too weak before may come in."""
    config = ItemKnnConfig(neighbours=neighbours, popularity=popularity, length=4, step=2)
    data = made(rows)
    head = ItemKnn.fit(data, config, RNG)
    assert head.forget(0, data.history(0))
    again = ItemKnn.fit(without(data, 0), config, RNG)
    np.testing.assert_array_equal(head.similarity.toarray(), again.similarity.toarray())
    np.testing.assert_array_equal(head.known, again.known)


def test_item_neighbours_of_an_older_snapshot_wait_for_the_fit(tmp_path):
    data = made([[0, 1, 2], [2, 3]])
    ItemKnn.fit(data, ItemKnnConfig(), RNG).save(tmp_path)
    (tmp_path / "rows.npz").unlink()
    assert not ItemKnn.load(tmp_path).forget(0, data.history(0))


@pytest.mark.parametrize(("newest", "exact"), [(0, False), (2, True)])
def test_user_neighbours_with_ages_are_exact_where_somebody_else_is_as_new(newest, exact):
    """User 0 has an event at time 3; ages are told from the newest event of all."""
    data = made([[0, 1, 2, 3], [1, 2], [2, 3, *[4] * newest]])
    config = UserKnnConfig(half_life_days=1e-5, length=0)
    head = UserKnn.fit(data, config, RNG)
    assert head.forget(0, data.history(0)) == exact
    states = [head.start(data.history(1))]
    found, again = (
        one.score(states, None, np.zeros(1))
        for one in (head, UserKnn.fit(without(data, 0), config, RNG))
    )
    assert np.isnan(found[0, 0])
    if exact:
        np.testing.assert_allclose(found, again, rtol=1e-6)
