"""Slates drawn place by place, and how likely they were."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.engine.limits import Limits
from steerec.engine.sampler import (
    Drawn,
    SamplerConfig,
    conditional,
    conditional_many,
    draw,
    seed_of,
)
from steerec.errors import ConfigError


def scores_of(n, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, n)


def unit_vectors(n, d=4, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def limits_of(*groups, n_pool, pinned=None):
    """Groups as (members, least, most)."""
    member = np.zeros((len(groups), n_pool), bool)
    for row, (members, _, _) in enumerate(groups):
        member[row, list(members)] = True
    return Limits(
        member,
        np.array([most for *_, most in groups], np.int64),
        np.array([least for _, least, _ in groups], np.int64),
        pinned or {},
    )


def settings_of(name, n_pool):
    """Policies that the tests of all of them share."""
    brands = np.arange(n_pool) % 2
    quota = limits_of(([0, 1], 1, 2), ([2, 3, 4], 0, 1), n_pool=n_pool)
    pinned = limits_of(([0, 1], 0, 1), n_pool=n_pool, pinned={1: 4})
    vectors = unit_vectors(n_pool)
    return {
        "plain": {},
        "caps": {"limits": Limits.per_value(brands, 2)},
        "quota": {"limits": quota},
        "pinned": {"limits": pinned},
        "diversity": {"vectors": vectors, "diversity": 1.5},
        "all": {"vectors": vectors, "diversity": 1.5, "limits": quota},
    }[name]


POLICIES = ("plain", "caps", "quota", "pinned", "diversity", "all")
AS_LIMITS = {"caps": [({0, 2, 4}, 0, 2), ({1, 3}, 0, 2)]}
AS_LIMITS["quota"] = AS_LIMITS["all"] = [({0, 1}, 1, 2), ({2, 3, 4}, 0, 1)]
AS_LIMITS["pinned"] = [({0, 1}, 0, 1)]
PINS = {"pinned": {1: 4}}


def obvious(scores, above, name, *, n, temperature):
    """P of each item for the next place, said as plainly as possible."""
    pins = PINS.get(name, {})
    if len(above) in pins:
        return {pins[len(above)]: 1.0}
    ahead = {item for place, item in pins.items() if place >= len(above)}
    groups = AS_LIMITS.get(name, [])
    shown = [*above, *ahead]

    def capped(item):
        return any(item in g and len(g & {*shown}) >= most for g, _, most in groups)

    free = [i for i in range(len(scores)) if i not in shown and not capped(i)]
    missing = [g for g, least, _ in groups if len(g & {*shown}) < least]  # one quota here, of one
    if missing and n - len(shown) <= 1 and any(i in missing[0] for i in free):
        free = [i for i in free if i in missing[0]]
    lost = dict.fromkeys(free, 0.0)
    if name in ("diversity", "all"):
        vectors = unit_vectors(len(scores)).astype(float)
        lost = {i: 1.5 * max([0.0, *(vectors[i] @ vectors[j] for j in above)]) for i in free}
    mass = {i: np.exp((scores[i] - lost[i]) / temperature) for i in free}
    return {i: m / sum(mass.values()) for i, m in mass.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_each_place_is_as_likely_as_the_obvious_version_says(name):
    scores = scores_of(5)
    given_ = settings_of(name, 5)
    for slate in permutations(range(5), 3):
        expected = [
            obvious(scores, slate[:at], name, n=3, temperature=0.7).get(slate[at], 0.0)
            for at in range(3)
        ]
        if 0.0 in expected:  # beyond the first impossible place nothing is asked
            expected = expected[: expected.index(0.0) + 1]
        got = conditional(scores, np.array(slate), temperature=0.7, **given_)
        np.testing.assert_allclose(got[: len(expected)], expected, rtol=1e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_all_slates_together_have_probability_one(name):
    scores = scores_of(5, seed=1)
    given_ = settings_of(name, 5)
    total = sum(
        conditional(scores, np.array(slate), n=3, temperature=0.5, **given_).prod()
        for slate in permutations(range(5), 3)
    )
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_slates_come_as_often_as_their_probability_says(name):
    n_draws = 2_000
    scores = scores_of(5, seed=2)
    given_ = settings_of(name, 5)
    counts = {}
    for seed in range(n_draws):
        slate = tuple(draw(scores, n=3, temperature=0.8, seed=seed, **given_).places.tolist())
        counts[slate] = counts.get(slate, 0) + 1
    off = 0.0
    n_possible = 0
    for slate in permutations(range(5), 3):
        p = conditional(scores, np.array(slate), temperature=0.8, **given_).prod()
        if p == 0:
            assert slate not in counts
            continue
        n_possible += 1
        off += (counts.get(slate, 0) - n_draws * p) ** 2 / (n_draws * p)
    freedom = n_possible - 1
    assert off < freedom + 4 * np.sqrt(2 * freedom)  # χ², four standard deviations


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_drawn_tells_its_own_probability_and_replays_bit_for_bit(name):
    scores = scores_of(5, seed=3)
    given_ = settings_of(name, 5)
    for seed in range(50):
        first = draw(scores, n=3, temperature=0.6, seed=seed, **given_)
        again = draw(scores.copy(), n=3, temperature=0.6, seed=seed, **given_)
        assert first.places.tobytes() == again.places.tobytes()
        assert first.propensity.tobytes() == again.propensity.tobytes()
        assert first.log_probability == again.log_probability
        p = conditional(scores, first.places, temperature=0.6, n=3, **given_)
        np.testing.assert_allclose(first.propensity, p, rtol=1e-6)
        assert first.log_probability == pytest.approx(np.log(p).sum(), abs=1e-9)
        assert first.places.dtype == np.int32
        assert first.propensity.dtype == np.float32


def one_by_one(scores, *, n, temperature, seed):
    """Rules that forbid nothing send the draw place by place, through the slow race."""
    idle = limits_of((range(len(scores)), 0, n), n_pool=len(scores))
    return draw(scores, n=n, temperature=temperature, seed=seed, limits=idle)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.sampled_from([0.001, 0.05, 1.0, 100.0]),
    st.integers(-(2**63), 2**63 - 1),
)
def test_the_slate_at_once_is_the_one_drawn_place_by_place(n_pool, n, temperature, seed):
    scores = scores_of(n_pool, seed=n_pool, scale=3.0)
    fast = draw(scores, n=n, temperature=temperature, seed=seed)
    slow = one_by_one(scores, n=n, temperature=temperature, seed=seed)
    np.testing.assert_array_equal(fast.places, slow.places)
    np.testing.assert_allclose(fast.propensity, slow.propensity, rtol=1e-5)
    assert len(set(fast.places.tolist())) == min(n, n_pool)


def test_a_longer_slate_goes_on_where_a_shorter_one_ended():
    scores = scores_of(30)
    for given_ in ({}, {"vectors": unit_vectors(30), "diversity": 1.0}):
        short = draw(scores, n=5, temperature=1.0, seed=9, **given_)
        long = draw(scores, n=20, temperature=1.0, seed=9, **given_)
        np.testing.assert_array_equal(long.places[:5], short.places)
        np.testing.assert_array_equal(long.propensity[:5], short.propensity)


def test_without_temperature_the_best_come_first_and_surely():
    drawn = draw(np.array([0.1, 3.0, 2.0, -1.0]), n=3, temperature=0.0, seed=1)
    assert drawn.places.tolist() == [1, 2, 0]
    assert drawn.propensity.tolist() == [1.0, 1.0, 1.0]
    assert drawn.log_probability == 0.0
    p = conditional(np.array([0.1, 3.0, 2.0]), np.array([1, 0]), temperature=0.0)
    assert p.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("diversity", [0.0, 1e-9])
def test_scores_that_agree_to_a_millionth_are_ordered_by_item(diversity):
    scores = np.array([1.0, 1.0 + 4e-7, 2.0, 1.0 - 4e-7])
    how = {"vectors": np.zeros((4, 2), np.float32), "diversity": diversity}
    drawn = draw(scores, n=4, temperature=0.0, seed=0, **how)
    assert drawn.places.tolist() == [2, 0, 1, 3]
    items = np.array([9, 8, 7, 6], np.int32)
    drawn = draw(scores, n=4, temperature=0.0, seed=0, item_idx=items, **how)
    assert drawn.places.tolist() == [2, 3, 1, 0]


def test_diversity_puts_another_kind_between_twins():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    scores = np.array([1.0, 0.9, 0.5, 0.1])
    drawn = draw(scores, n=4, temperature=0.0, seed=0, vectors=vectors, diversity=0.5)
    assert drawn.places.tolist() == [0, 2, 1, 3]  # 0.9 - 0.5 < 0.5; no vector is like nothing


def test_caps_leave_room_for_others_and_a_slate_may_end_early():
    limits = Limits.per_value(np.array([7, 7, 7, 8, -1]), 1)
    drawn = draw(np.arange(5, 0, -1.0), n=4, temperature=0.0, seed=0, limits=limits)
    assert drawn.places.tolist() == [0, 3, 4]
    assert len(drawn.propensity) == 3


def test_a_quota_is_met_at_the_last_moment():
    limits = limits_of(([3, 4], 2, 2), n_pool=6)
    drawn = draw(np.arange(6, 0, -1.0), n=4, temperature=0.0, seed=0, limits=limits)
    assert drawn.places.tolist() == [0, 1, 3, 4]


def test_a_quota_without_items_changes_nothing():
    limits = limits_of(([], 2, 2), n_pool=4)
    drawn = draw(np.arange(4, 0, -1.0), n=3, temperature=0.0, seed=0, limits=limits)
    assert drawn.places.tolist() == [0, 1, 2]


def test_a_pin_has_its_place_counts_in_its_group_and_is_certain():
    limits = limits_of(([0, 3], 0, 1), n_pool=4, pinned={1: 3})
    drawn = draw(np.array([4.0, 3.0, 2.0, 1.0]), n=3, temperature=0.5, seed=5, limits=limits)
    assert drawn.places[1] == 3
    assert drawn.propensity[1] == 1.0
    assert 0 not in drawn.places


def test_a_pin_moves_up_where_nothing_else_may_come():
    limits = limits_of(([0, 1], 0, 1), n_pool=3, pinned={2: 2})
    drawn = draw(np.array([3.0, 2.0, 1.0]), n=3, temperature=0.0, seed=0, limits=limits)
    assert drawn.places.tolist() == [0, 2]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_caps_hold_and_separate_quotas_are_met_whatever_is_drawn(data):
    n_pool = data.draw(st.integers(1, 12))
    codes = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=n_pool, max_size=n_pool)))
    n = data.draw(st.integers(1, n_pool))
    most = np.array(data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4)))
    least = np.minimum(most, data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)))
    groups = codes == np.arange(4)[:, None]
    limits = Limits(groups, most, least)
    temperature = data.draw(st.sampled_from([0.0, 1.0]))
    slate = draw(scores_of(n_pool), n=n, temperature=temperature, seed=1, limits=limits).places
    counts = groups[:, slate].sum(axis=1)
    assert (counts <= most).all()
    wanted = np.minimum(least, groups.sum(axis=1))
    if wanted.sum() <= n:
        assert (counts >= wanted).all()
    may = np.minimum(groups.sum(axis=1), most).sum() + (codes < 0).sum()
    assert len(slate) == min(n, may)


def test_overlapping_quotas_are_met_by_items_of_both():
    limits = limits_of(([2, 3], 1, 9), ([3, 4], 1, 9), n_pool=5)
    drawn = draw(np.arange(5, 0, -1.0), n=1, temperature=0.0, seed=0, limits=limits)
    assert drawn.places.tolist() == [3]


def test_many_slates_at_once_are_as_one_by_one():
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(30, 12))
    places = np.array([rng.permutation(12)[:5] for _ in range(30)])
    many = conditional_many(scores, places, temperature=0.3)
    for row in range(30):
        one = conditional(scores[row], places[row], temperature=0.3)
        np.testing.assert_allclose(many[row], one, rtol=1e-12)


def test_a_pool_may_be_shorter_in_a_batch():
    scores = np.array([[1.0, 0.0, -np.inf], [1.0, 0.0, 0.0]])
    p = conditional_many(scores, np.array([[1, 0], [1, 0]]), temperature=1.0)
    e = np.e
    np.testing.assert_allclose(p, [[1 / (1 + e), 1.0], [1 / (2 + e), e / (1 + e)]])


def test_hopeless_items_keep_their_digits():
    scores = np.array([0.0, -500.0, -501.0])  # a difference of masses would be 0 / 0
    p = conditional(scores, np.array([0, 1, 2]), temperature=0.5)
    np.testing.assert_allclose(p, [1.0, 1 / (1 + np.exp(-2)), 1.0], rtol=1e-12)
    p = conditional(scores, np.array([0, 1]), temperature=0.5)
    np.testing.assert_allclose(p, [1.0, 1 / (1 + np.exp(-2))], rtol=1e-12)


def test_the_noise_never_changes_between_versions():
    raw = np.random.Philox(key=2**64 - 3).random_raw(8)
    np.testing.assert_array_equal(
        draw(np.zeros(8), n=8, temperature=1.0, seed=-3).places, np.argsort(raw)[::-1]
    )
    drawn = draw(np.zeros(10), n=10, temperature=1.0, seed=seed_of("a-request"))
    assert drawn.places.tolist() == [9, 0, 1, 4, 3, 7, 6, 2, 8, 5]
    assert drawn.propensity == pytest.approx(1 / np.arange(10, 0, -1))


def test_an_empty_pool_gives_an_empty_slate():
    none = np.empty(0)
    for temperature in (0.0, 1.0):
        for limits in (None, limits_of(n_pool=0)):
            drawn = draw(none, n=3, temperature=temperature, seed=0, limits=limits)
            assert isinstance(drawn, Drawn)
            assert len(drawn.places) == len(drawn.propensity) == 0
            assert drawn.log_probability == 0.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 0}, "n=0: expected at least 1"),
        ({"temperature": 1e-9}, "temperature=1e-09: expected 0 for no exploration"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"scores": np.array([1.0, np.nan])}, "all finite"),
        ({"scores": np.zeros((2, 2))}, r"expected \(n_pool,\)"),
        ({"diversity": 1.0}, "expected 2 vectors"),
        ({"diversity": float("inf")}, "diversity=inf"),
        ({"item_idx": np.zeros(3, np.int32)}, "item_idx: 3 for a pool of 2"),
        ({"limits": limits_of(([0], 0, 1), n_pool=3)}, r"limits: groups \(1, 3\)"),
        ({"limits": limits_of(([0], 2, 1), n_pool=2)}, "least is above most"),
        ({"limits": limits_of(n_pool=2, pinned={0: 2})}, "expected items of 2"),
        ({"limits": limits_of(n_pool=2, pinned={0: 1, 1: 1})}, "each once"),
        ({"limits": limits_of(n_pool=2, pinned={-1: 1})}, "places count from 0"),
    ],
)
def test_wrong_arguments_are_told(change, told):
    given_ = {"scores": np.zeros(2), "n": 1, "temperature": 1.0, "seed": 0} | change
    scores = given_.pop("scores")
    with pytest.raises(ValueError, match=told):
        draw(scores, **given_)


def test_impossible_slates_are_told():
    scores = np.zeros(3)
    with pytest.raises(ValueError, match="shown twice"):
        conditional(scores, np.array([1, 1]), temperature=1.0)
    with pytest.raises(ValueError, match="pool of 3"):
        conditional(scores, np.array([3]), temperature=1.0)
    with pytest.raises(ValueError, match="n=1 were asked for"):
        conditional(scores, np.array([0, 1]), n=1, temperature=1.0)
    with pytest.raises(ValueError, match="temperature=0"):
        conditional_many(scores[None], np.array([[0]]), temperature=0)
    with pytest.raises(ValueError, match="where there is no item"):
        conditional_many(scores[None] * np.nan, np.array([[0]]), temperature=1)


def test_settings_out_of_range_are_told():
    assert SamplerConfig() == SamplerConfig(temperature=0.0, diversity=0.0)
    with pytest.raises(ConfigError, match="temperature=1000"):
        SamplerConfig(temperature=1000)
    with pytest.raises(ConfigError, match="diversity=-1"):
        SamplerConfig(diversity=-1)
