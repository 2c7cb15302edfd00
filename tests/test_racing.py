"""Compiled races over many pools say what the plain ones do, however slates and pools look."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec import kernels
from steerec.tuning.ope import softmax
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import conditional, softmax_policy


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    kernels.load()
    yield
    kernels._LOADED.clear()  # tests of other files answer as they do alone


def slates(rng, n, pool, k, *, clusters):
    """Lists of up to k places from pools with gaps, and the scores they were drawn by."""
    scores = rng.normal(0, rng.choice([0.3, 3.0, 30.0]), (n, pool))
    scores[:, 1:][rng.random((n, pool - 1)) < 0.2] = -np.inf
    shown = np.full((n, k), -1)
    for row in range(n):
        may = np.flatnonzero(np.isfinite(scores[row]))
        drawn = rng.permutation(may)[: rng.integers(1, k + 1)]
        shown[row, : len(drawn)] = drawn
    return SlateLog(
        shown=shown,
        propensity=np.where(shown >= 0, np.maximum(conditional(scores, shown), 1e-9), np.nan),
        reward=np.zeros((n, k)),
        z=np.zeros((n, pool, 1), np.float32),
        phi=np.ones((n, 1)),
        scores=scores,
        cluster=rng.integers(0, 4, (n, pool)) if clusters else None,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pool=st.integers(2, 30),
    k=st.integers(1, 10),
    clusters=st.booleans(),
)
def test_a_policy_is_read_the_same(seed, pool, k, clusters):
    rng = np.random.default_rng(seed)
    log = slates(rng, 20, pool, k, clusters=clusters)
    target = np.where(np.isneginf(log.scores), log.scores, rng.normal(size=log.scores.shape))
    fast = softmax_policy(log, np.asfortranarray(target), seed=seed)  # as some callers have it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "loaded", lambda: False)
        slow = softmax_policy(log, target, seed=seed)
    assert np.array_equal(fast.drawn, slow.drawn)
    np.testing.assert_allclose(fast.place, slow.place, rtol=1e-12)
    assert (fast.cluster is None) == (slow.cluster is None) == (not clusters)
    if clusters:
        np.testing.assert_allclose(fast.cluster, slow.cluster, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(1, 12))
def test_the_first_are_the_least_in_order_and_nothing_stands_for_those_that_cannot_come(seed, n, k):
    rng = np.random.default_rng(seed)
    keys = rng.choice([np.inf, *rng.normal(size=6)], (5, n)).astype(np.float32)  # with ties
    found = kernels.racing.first(keys, k)
    for row, places in zip(keys, found, strict=True):
        order = np.argsort(row, kind="stable")
        expected = [p for p in order if np.isfinite(row[p])][:k]
        assert places.tolist() == expected + [-1] * (k - len(expected))
