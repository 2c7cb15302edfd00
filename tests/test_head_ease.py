"""EASE, all at once and locally, against its definition; memory foretold against memory taken."""

import logging
import tracemalloc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.errors import ConfigError, DataError
from steerec.heads import ease
from steerec.heads.ease import Ease, EaseConfig, exact_bytes, local_bytes
from steerec.heads.local import count_entries, solve_columns

L2 = 2.0
AT_ONCE = EaseConfig(l2=L2)
LOCALLY = EaseConfig(l2=L2, exact_items=1, core_items=4, neighbours=50)
NOW = np.array([np.nan])


def random_set(*, n_users, n_items, each, seed=0):
    """Users of `each` random events; items of low number are far more popular."""
    rng = np.random.default_rng(seed)
    item = (n_items * rng.random(n_users * each) ** 2).astype(int)
    events = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in np.repeat(np.arange(n_users), each)],
            "item_id": [f"i{i}" for i in item],
        }
    )
    return build_dataset(events, pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)]}))


def dense_set():
    """12 items of which every two share a user."""
    return random_set(n_users=80, n_items=12, each=7)


def fit(data, config):
    return Ease.fit(data, config, np.random.default_rng(0))


def by_definition(data, l2):
    """B = I - P diag(1 / diag P), P = (XᵀX + λI)⁻¹, in float64."""
    seen = data.matrix().toarray().astype(np.float64)
    p = np.linalg.inv(seen.T @ seen + l2 * np.eye(data.n_items))
    return np.eye(data.n_items) - p / np.diag(p)


def column_by_definition(gram, j, neighbours):
    """One ridge regression on the strongest neighbours; ties by index."""
    gain = gram[:, j] ** 2 / np.diag(gram)
    among = [i for i in np.argsort(-gain, kind="stable") if i != j and gram[i, j] > 0]
    among = np.sort(among[:neighbours]).astype(int)
    weights = np.zeros(len(gram))
    weights[among] = np.linalg.solve(gram[np.ix_(among, among)], gram[among, j])
    return weights


def dense(weights):
    return weights.toarray() if sparse.issparse(weights) else weights


def test_all_at_once_the_weights_are_those_of_eq_8():
    data = dense_set()
    np.testing.assert_allclose(fit(data, AT_ONCE).weights, by_definition(data, L2), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_each_column_is_the_regression_on_its_strongest_neighbours(seed, n, neighbours, first):
    rng = np.random.default_rng(seed)
    seen = (rng.random((15, n)) < 0.3).astype(np.float64)
    # uneven weights: no two gains are equal, so that the choice is the same in either order
    gram = seen.T @ (seen * rng.random((15, 1))) + np.diag(rng.uniform(0.5, 1.5, n))
    first = min(first, n - 1)
    columns, left = solve_columns(
        sparse.csr_matrix(gram.astype(np.float32)), neighbours, first=first
    )
    assert columns.shape == (n, n - first)
    for j in range(first, n):
        expected = column_by_definition(gram, j, neighbours)
        np.testing.assert_allclose(columns.toarray()[:, j - first], expected, atol=1e-4)
        assert left[j - first] == pytest.approx(gram[j, j] - gram[j] @ expected, abs=1e-4)


def test_locally_with_all_items_as_neighbours_is_all_at_once():
    data = dense_set()
    found, exact = dense(fit(data, LOCALLY).weights), by_definition(data, L2)
    core = np.argsort(-data.counts(), kind="stable")[: LOCALLY.core_items]
    rest = np.setdiff1d(np.arange(data.n_items), core)
    np.testing.assert_allclose(found[:, rest], exact[:, rest], atol=1e-4)
    # the core is solved without the rest: what both ways say of its items is alike, not equal
    assert np.corrcoef(found[:, core].ravel(), exact[:, core].ravel())[0, 1] > 0.9


def test_a_core_of_all_items_is_all_at_once():
    data = dense_set()
    config = replace(LOCALLY, core_items=100)
    np.testing.assert_allclose(
        dense(fit(data, config).weights), fit(data, AT_ONCE).weights, atol=1e-6
    )


def test_an_item_that_nobody_shares_has_no_weights_and_a_score():
    events = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "z"]})
    data = build_dataset(events)
    head = fit(data, EaseConfig(exact_items=1, core_items=1))
    alone = data.item_index["z"]
    scores = head.score([History.of([data.item_index["x"]])], None, NOW)[0]
    assert scores[alone] == 0.0
    assert scores[data.item_index["y"]] > 0


def test_more_items_than_the_limit_are_solved_locally_and_it_says_so(caplog):
    caplog.set_level(logging.INFO)
    at_once = fit(dense_set(), replace(AT_ONCE, exact_items=12))
    assert "solved=at_once items=12" in caplog.text
    locally = fit(dense_set(), replace(AT_ONCE, exact_items=11))
    assert "solved=locally items=12" in caplog.text
    assert not sparse.issparse(at_once.weights)
    assert sparse.issparse(locally.weights)


def test_where_all_at_once_needs_too_much_memory_it_is_solved_locally(caplog):
    data = random_set(n_users=300, n_items=3_000, each=4)
    seen = data.matrix()
    kept = np.flatnonzero(data.counts()).astype(np.int32)
    config = EaseConfig(core_items=50)
    between = (exact_bytes(seen, kept, config) + local_bytes(seen, kept, config)) / 2e9
    fit(data, replace(config, memory_gb=between))
    assert "solved=locally" in caplog.text


def test_too_little_memory_for_either_way_names_the_setting():
    with pytest.raises(DataError, match=r"memory_gb=1e-06: raise it"):
        fit(dense_set(), EaseConfig(memory_gb=1e-6))


@pytest.mark.parametrize(
    ("foretell", "config"),
    [
        (exact_bytes, EaseConfig(per_row=200)),
        (local_bytes, EaseConfig(per_row=200, exact_items=1, core_items=300, neighbours=30)),
        (local_bytes, EaseConfig(per_row=200, exact_items=1, core_items=700, neighbours=10)),
    ],
)
def test_memory_foretold_is_within_30_percent_of_memory_taken(foretell, config, monkeypatch):
    monkeypatch.setattr(ease, "DENSE_ITEMS", 1_000)  # as in a big catalogue, without its cost
    monkeypatch.setattr(ease, "BLOCK", 1_000_000)
    data = random_set(n_users=1_500, n_items=1_500, each=12)
    kept = np.flatnonzero(data.counts()).astype(np.int32)
    foretold = foretell(data.matrix(), kept, config)
    tracemalloc.start()
    fit(data, config)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.7 < foretold / taken < 1.3


def test_entries_are_foretold_from_some_rows():
    seen = random_set(n_users=2_000, n_items=5_000, each=10).matrix()
    seen = seen[:, np.argsort(-np.asarray(seen.sum(axis=0)).ravel(), kind="stable")].tocsr()
    seen = seen[:, np.asarray(seen.sum(axis=0)).ravel() > 0]
    sizes = np.diff((seen.T.tocsr() @ seen).indptr)
    entries, most_20 = count_entries(seen, 20)
    assert entries == pytest.approx(sizes.sum(), rel=0.03)
    assert most_20 == pytest.approx(np.minimum(sizes, 20).sum(), rel=0.03)


def test_solved_locally_because_adds_up_to_the_score_and_survives_saving(tmp_path):
    head = fit(dense_set(), LOCALLY)
    history = History.of([3, 7, 1])
    item = 9
    score = head.score([history], None, NOW)[0, item]
    assert head.because(history, item).sum() == pytest.approx(score, abs=1e-6)
    head.save(tmp_path)
    again = Ease.load(tmp_path)
    np.testing.assert_array_equal(
        again.score([history], None, NOW), head.score([history], None, NOW)
    )
    assert again.config == head.config


@pytest.mark.parametrize(
    "wrong",
    [{"l2": 0.0}, {"decay": 0.0}, {"exact_items": 0}, {"neighbours": 0}, {"memory_gb": 0.0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="ease"):
        EaseConfig(**wrong)
