"""What a request leaves out early could not have come into its list."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine_worlds import model, recommender, world
from steerec.contracts import Query
from steerec.engine import recommender as module
from steerec.engine.calibrate import Curve, Curves
from steerec.engine.narrow import contenders

RNG = np.random.default_rng(0)


def curves(n, rng):
    """Rising curves with steps, slopes and one that says nothing."""
    made = [Curve(1.0, np.zeros(1), np.zeros(1))]
    for _ in range(n - 1):
        x = np.cumsum(rng.exponential(0.2, int(rng.integers(1, 30)))) - 1.0
        z = np.cumsum(rng.exponential(0.3, len(x))) - 3.0
        made.append(Curve(float(rng.exponential(0.1)) + 1e-3, x, z))
    return Curves(tuple(made))


def scores(n_heads, n_items, rng):
    """Of every size, with zeros, ties and unknown ones."""
    found = rng.normal(size=(n_heads, n_items)) * 10.0 ** rng.integers(-4, 3, (n_heads, 1))
    found[rng.random(found.shape) < 0.2] = np.nan
    found[rng.random(found.shape) < 0.2] = 0.0
    return found.astype(np.float32)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1_000))
@example(seed=237)  # a last slope so steep that the rounding of its knot shows
def test_curves_asked_together_say_what_each_says_alone(seed):
    rng = np.random.default_rng(seed)
    together, raw = curves(4, rng), scores(4, 50, rng)
    z = together(raw)
    for row, curve in enumerate(together.curves):
        np.testing.assert_allclose(z[row], curve(raw[row]), atol=2e-6)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1_000))
def test_bounds_hold_what_they_bound_and_are_near(seed):
    rng = np.random.default_rng(seed)
    together, raw = curves(3, rng), scores(3, 200, rng)
    weights = rng.normal(size=3)
    exact = weights @ together(raw)
    least, greatest = together.bounds(raw, weights)
    assert (least <= exact).all()
    assert (exact <= greatest).all()
    unknown = np.isnan(raw).all(axis=0)
    np.testing.assert_allclose(greatest[unknown] - least[unknown], 2e-4 * abs(weights).sum(), 1e-3)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1_000), n=st.sampled_from([1, 7, 60]))
def test_the_best_of_the_blend_and_of_each_head_are_among_the_contenders(seed, n):
    rng = np.random.default_rng(seed)
    together, raw = curves(3, rng), scores(3, 300, rng)
    weights, allowed, sure = rng.normal(size=3), rng.random(300) < 0.8, rng.random(300) < 0.05
    found = contenders(raw, together, weights, allowed, sure=sure, n=n, each=2)
    assert (np.diff(found) > 0).all()
    assert allowed[found].all()
    assert set(np.flatnonzero(allowed & sure)) <= set(found)
    blend = np.where(allowed & ~sure, np.round(weights @ together(raw), 6), -np.inf)
    best = np.argsort(-blend, kind="stable")[:n]
    assert set(best[np.isfinite(blend[best])]) <= set(found)
    known = np.where(allowed, raw, np.nan)
    for row in known:
        order = np.argsort(-row)  # unknown ones last
        first, second, third = row[order[:3]]
        if first > second > third:
            assert set(order[:2]) <= set(found)


def test_few_contenders_are_left_of_many_items():
    raw, allowed = scores(9, 5_000, RNG), np.ones(5_000, bool)
    found = contenders(raw, curves(9, RNG), np.full(9, 0.3), allowed, sure=~allowed, n=200, each=5)
    assert len(found) < 1_000


@pytest.mark.parametrize("query", [{}, {"n": 3}, {"filter": {"categories": frozenset({"tea"})}}])
def test_lists_are_the_same_without_narrowing(query, monkeypatch):
    users = [*world().data.user_ids[:8], None]
    narrowed, whole = [], []
    for found, worth in ((narrowed, 0), (whole, 10**9)):
        monkeypatch.setattr(module, "WORTH_NARROWING", worth)
        r = recommender()
        r.pool = type(r.pool)(top=5, top_head=2)
        found += [r.recommend(Query(user, now=world().now, **query)) for user in users]
    for one, other in zip(narrowed, whole, strict=True):
        assert [c.item_id for c in one.items] == [c.item_id for c in other.items]
        assert [c.reason for c in one.items] == [c.reason for c in other.items]
        for a, b in zip(one.items, other.items, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-6)
            assert a.sources == pytest.approx(b.sources, abs=1e-6)
    assert set(model().heads) == set(narrowed[0].items[0].sources)
