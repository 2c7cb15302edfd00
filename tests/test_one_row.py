"""The short way of a request, one user at a time, gives what the way of many users gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from steerec.contracts import History
from steerec.heads.histories import Rows, recency_rows
from steerec.heads.linear import ask, column, entries
from steerec.heads.user_knn import UserKnn, UserKnnConfig
from worlds import shop

N_ITEMS = 6
NO_TIME = np.array([np.nan])
EVENTS = st.tuples(
    st.integers(-1, N_ITEMS + 1), st.sampled_from([-1.0, 1.0, 3.0]), st.sampled_from([-1, 4, 5])
)


def history(events):
    """A history of (item, weight, basket)."""
    made = History.of([])
    for item, weight, basket in events:
        made = made.append(item, weight=weight, basket=basket)
    return made


@settings(deadline=None)
@given(
    events=st.lists(EVENTS, max_size=8),
    decay=st.sampled_from([0.5, 1.0]),
    known=st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS),
)
def test_one_user_makes_the_row_that_several_make(events, decay, known):
    one, other = history(events), History.of([0, 1])
    given = {"decay": decay, "last": 4, "known": np.array(known)}
    alone = recency_rows([one], N_ITEMS, **given)
    together = recency_rows([one, other], N_ITEMS, **given)
    np.testing.assert_allclose(
        alone.matrix().toarray()[0], together.matrix().toarray()[0], atol=1e-6
    )
    assert np.diff(alone.indptr)[0] == np.diff(together.indptr)[0]
    assert (np.diff(alone.indices) > 0).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("items", [None, np.array([4, 70, 199], np.int32)])
def test_one_row_asks_the_weights_as_a_product_of_matrices_does(share, items):
    rng = np.random.default_rng(0)
    weights = sparse.random(200, 200, share, "csr", np.float32, rng)
    rows = Rows(
        np.array([0, 4], np.int32),
        np.array([3, 50, 60, 150], np.int32),
        np.array([1.0, 0.5, -2.0, 0.1], np.float32),
        200,
    )
    expected = (rows.matrix() @ weights).toarray()
    expected = expected if items is None else expected[:, items]
    np.testing.assert_allclose(ask(rows, weights, items), expected, atol=1e-6)
    np.testing.assert_allclose(ask(rows, weights.toarray(), items), expected, atol=1e-6)
    nobody = Rows(np.zeros(2, np.int32), rows.indices[:0], rows.data[:0], 200)
    assert not ask(nobody, weights, items).any()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.9])
def test_entries_and_columns_are_those_of_the_matrix(share):
    weights = sparse.random(100, 100, share, "csr", np.float32, np.random.default_rng(1))
    rows = np.array([7, 0, 7, 99], np.int32)
    columns, values, sizes = entries(weights, rows)
    rebuilt = np.zeros((4, 100), np.float32)
    rebuilt[np.repeat(np.arange(4), sizes), columns] = values
    np.testing.assert_array_equal(rebuilt, weights.toarray()[rows])
    for item in (0, 50, 99):
        np.testing.assert_array_equal(column(weights, rows, item), weights.toarray()[rows, item])


@pytest.mark.parametrize("neighbours", [2, 9, 500])
def test_user_neighbours_are_those_of_a_full_sort(neighbours):
    """Every stretch's cosine in plain NumPy; ties at the edge go to the earlier stretch."""
    data = shop(n_users=30, n_items=48).data
    config = UserKnnConfig(neighbours=neighbours, popularity=0.0)
    head = UserKnn.fit(data, config, np.random.default_rng(0))
    rows = head.rows.toarray()
    rarity = np.log1p(len(rows) / np.maximum(rows.sum(axis=0), 1)) ** config.rarity
    scaled = rows * rarity
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    for user in range(6):
        query = np.zeros(data.n_items)
        newest = data.history(user).item_idx[::-1]
        steps = recency_rows([data.history(user)], data.n_items, decay=0.7, last=10)
        query[steps.indices] = steps.data
        assert newest[0] in steps.indices
        asked = query * rarity
        alike = scaled @ (asked / np.linalg.norm(asked))
        alike[head.owner == user] = 0.0
        chosen = np.argsort(-alike.round(6), kind="stable")[:neighbours]
        expected = alike[chosen] @ rows[chosen]
        expected[rows.sum(axis=0) == 0] = np.nan
        found = head.score([data.history(user)], None, NO_TIME)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
