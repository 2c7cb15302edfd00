"""Off-policy estimates against worlds small enough to add up every slate."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.errors import DataError
from steerec.tuning.ope.choice import (
    automatic,
    bounds,
    candidates,
    difference,
    least_error,
    slope,
)
from steerec.tuning.ope.estimators import (
    ESTIMATORS,
    Estimate,
    Evidence,
    effective_slates,
    estimate,
    prepare,
    read,
    tamed,
)
from steerec.tuning.ope.gate import GateConfig, decide, gate
from steerec.tuning.ope.interval import bernstein, interval, standard_error
from steerec.tuning.ope.log import SlateLog, TargetPolicy
from steerec.tuning.ope.model import Foretold, foretell
from steerec.tuning.ope.softmax import conditional, softmax_policy

POOL, PLACES = 4, 3
SLATES = np.array(list(permutations(range(POOL), PLACES)))  # all 24
LOGGING = np.array([0.5, 0.0, -0.5, 1.0])
TARGET = np.array([-0.5, 1.0, 0.3, 0.0])
LIKED = np.array([0.2, 0.9, 0.5, 0.4])
PLACE = np.array([1.0, 0.6, 0.4])
CLUSTER = np.array([0, 1, 1, 0])


def plain(scores, slate):
    """Probability of each item given those above it, by the definition."""
    left, found = list(range(POOL)), []
    for item in slate:
        found.append(np.exp(scores[item]) / sum(np.exp(scores[i]) for i in left))
        left.remove(item)
    return np.array(found)


def chances(scores):
    """(24,): probability of every slate."""
    return np.array([plain(scores, slate).prod() for slate in SLATES])


def marginal(scores, label):
    """(24, 3): probability that an item with the same label stands at that place."""
    p = chances(scores)
    stands = label[SLATES]
    return np.array([[p[stands[:, j] == stands[i, j]].sum() for j in range(3)] for i in range(24)])


def additive(slate):
    """Reward of item and place."""
    return LIKED[slate] * PLACE


def cascading(slate):
    """Each item also earns less below one of its own cluster."""
    c = CLUSTER[slate]
    seen = np.array([False, c[1] == c[0], c[2] in c[:2]])
    return additive(slate) * np.where(seen, 0.5, 1.0)


def wholly(slate):
    """A reward that depends on the items below as well."""
    return additive(slate) * (1 + 0.5 * (slate[-1] == 1))


def every_slate(reward):
    """A log with each of the 24 slates once."""
    n = len(SLATES)
    return SlateLog(
        shown=SLATES,
        propensity=np.array([plain(LOGGING, s) for s in SLATES]),
        reward=np.array([reward(s) for s in SLATES]),
        z=np.zeros((n, POOL, 1), np.float32),
        phi=np.ones((n, 1)),
        scores=np.tile(LOGGING, (n, 1)),
        cluster=np.tile(CLUSTER, (n, 1)),
    )


def exact_policy(scores):
    """A policy with nothing left to draws: direct expectations over all slates."""
    drawn = np.tile(SLATES, (24, 1, 1))
    return TargetPolicy(
        np.array([plain(scores, s) for s in SLATES]),
        drawn,
        marginal(scores, np.arange(POOL)),
        marginal(scores, CLUSTER),
    )


def expected(name, reward, *, foretold=LIKED, **kwargs):
    """Exact expectation of an estimator: its terms over all slates, weighed by their chance.

    The direct part is put in exactly too, as draws here stand with equal weight.
    """
    log = every_slate(reward)
    table = Foretold(np.tile(foretold, (24, 1)), np.tile(PLACE, (24, 1)))
    evidence = Evidence(log, table, exact_policy(LOGGING))
    reading = read(evidence, exact_policy(TARGET))
    direct = chances(TARGET) @ (foretold[SLATES] * PLACE).sum(axis=1)
    reading = replace(reading, direct=np.full(24, direct))
    return float(chances(LOGGING) @ estimate(name, evidence, reading, **kwargs).terms)


def truth(reward):
    return float(chances(TARGET) @ np.array([reward(s).sum() for s in SLATES]))


def test_the_tiny_world_is_a_world():
    assert chances(LOGGING).sum() == pytest.approx(1)
    np.testing.assert_allclose(
        conditional(np.tile(TARGET, (24, 1)), SLATES)[5], plain(TARGET, SLATES[5])
    )


UNBIASED = {
    additive: ("ips", "dr", "cascade_dr", "mips", "place_dr"),
    cascading: ("ips", "dr", "cascade_dr"),
    wholly: ("ips", "dr"),
}


@pytest.mark.parametrize(
    ("reward", "name"), [(reward, name) for reward, names in UNBIASED.items() for name in names]
)
@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_expectation_over_all_slates_is_the_truth_whatever_the_model_says(reward, name, wrong):
    found = expected(name, reward, foretold=LIKED * (1 - wrong))
    assert found == pytest.approx(truth(reward), abs=1e-9)


def test_weights_by_place_are_biased_where_rewards_depend_on_items_above():
    assert abs(expected("mips", cascading) - truth(cascading)) > 0.01


def test_weights_by_prefix_are_biased_where_rewards_depend_on_items_below():
    assert abs(expected("cascade_dr", wholly, foretold=0 * LIKED) - truth(wholly)) > 0.005


def test_clusters_give_the_truth_where_the_reward_depends_on_the_cluster_alone():
    by_cluster = np.array([0.2, 0.7])[CLUSTER]
    reward = lambda slate: by_cluster[slate] * PLACE  # noqa: E731
    assert expected("mips_cluster", reward) == pytest.approx(truth(reward), abs=1e-9)
    assert expected("cluster_dr", reward, foretold=by_cluster / 3) == pytest.approx(truth(reward))


def test_the_direct_method_with_a_true_model_is_the_truth():
    assert expected("dm", additive) == pytest.approx(truth(additive), abs=1e-9)


@pytest.mark.parametrize("name", ["switch_dr", "dros", "place_dros"])
def test_taming_at_infinity_changes_nothing_and_near_zero_leaves_the_model(name):
    wrong = LIKED * 0.5
    assert expected(name, additive, foretold=wrong) == pytest.approx(truth(additive), abs=1e-9)
    assert expected(name, additive, foretold=wrong, parameter=1e-9) == pytest.approx(
        expected("dm", additive, foretold=wrong), abs=1e-6
    )


def test_tamed_weights_by_hand():
    w = np.array([[0.5, 2.0, 4.0]])
    np.testing.assert_allclose(tamed(w, "switch", 2.0), [[0.5, 2.0, 0.0]])
    np.testing.assert_allclose(tamed(w, "shrink", 4.0), [[2 / 4.25, 1.0, 0.8]])
    np.testing.assert_allclose(tamed(w, "none", 1.0), w)


def test_probability_at_a_place_is_right_on_average_and_never_zero():
    log = every_slate(additive)
    found = softmax_policy(log, np.tile(TARGET, (24, 1)), draws=1_500)
    np.testing.assert_allclose(found.place, marginal(TARGET, np.arange(POOL)), rtol=0.08)
    np.testing.assert_allclose(found.cluster, marginal(TARGET, CLUSTER), rtol=0.08)
    assert (softmax_policy(log, np.tile(8 * TARGET, (24, 1)), draws=1).place > 0).all()


def test_drawn_slates_come_as_often_as_their_chance():
    log = every_slate(additive)
    drawn = softmax_policy(log, np.tile(TARGET, (24, 1)), draws=1_000).drawn.reshape(-1, PLACES)
    code = drawn @ [16, 4, 1]
    often = np.array([(code == s @ [16, 4, 1]).mean() for s in SLATES])
    np.testing.assert_allclose(often, chances(TARGET), atol=0.005)


def test_conditionals_survive_a_first_item_with_nearly_all_the_mass():
    scores = np.array([[900.0, 0.0, 1.0, 2.0], [40.0, 0.0, 1.0, 2.0]])
    shown = np.array([[0, 3, 2], [0, 3, -1]])
    e = np.exp([0.0, 1.0, 2.0])
    second, third = e[2] / e.sum(), e[1] / (e[0] + e[1])
    np.testing.assert_allclose(
        conditional(scores, shown), [[1.0, second, third], [1.0, second, 1.0]], rtol=1e-9
    )


# A larger world, drawn.


def world(n, *, seed=0, shift=1.0, pool=12, k=4, reward=None):
    """Clicks on drawn slates by σ of three heads, and two policies on the log."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, pool, 3)).astype(np.float32)
    w = np.array([0.6, 0.3, 0.0])
    logging, proposed = z @ w, z @ (w + shift * np.array([0.2, 0.3, 0.3]))
    keys = logging + rng.gumbel(size=logging.shape)
    shown = np.argsort(-keys, axis=1)[:, :k]
    wanted = 1 / (1 + np.exp(1.5 - z @ np.array([0.3, 0.8, 0.4])))
    chance = np.take_along_axis(wanted, shown, axis=1) / np.arange(1, k + 1) ** 0.7
    clicks = (
        (rng.random(shown.shape) < chance) * 1.0 if reward is None else np.full(shown.shape, reward)
    )
    log = SlateLog(
        shown=shown,
        propensity=conditional(logging, shown),
        reward=clicks,
        z=z,
        phi=np.ones((n, 1)),
        scores=logging,
        cluster=(z[:, :, 0] > 0).astype(int),
        unit=np.arange(n) // 2,
    )
    drawn = softmax_policy(log, proposed, draws=16, seed=9).drawn
    ex = np.arange(1, k + 1) ** -0.7
    values = (np.take_along_axis(wanted[:, None], drawn, axis=2) * ex).sum(axis=2)
    return log, proposed, float(values.mean())


@pytest.fixture(scope="module")
def ready():
    log, proposed, value = world(4_000)
    evidence = prepare(log, np.random.default_rng(1))
    return evidence, read(evidence, softmax_policy(log, proposed)), value


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_comes_near_the_truth_of_a_drawn_world(ready, name):
    evidence, reading, value = ready
    found = estimate(name, evidence, reading, parameter=1_000.0)
    assert found.value == pytest.approx(found.terms.mean())
    assert abs(found.value - value) < 0.08 * value + 4 * standard_error(found.terms)


def test_automatic_choice_is_near_the_truth_and_tighter_than_whole_slates(ready):
    evidence, reading, value = ready
    found = automatic(evidence, reading)
    assert abs(found.value - value) < 0.06 * value
    whole = estimate("ips", evidence, reading)
    assert standard_error(found.terms) < 0.7 * standard_error(whole.terms)


def test_a_normalised_estimate_lies_within_what_a_slate_can_earn(ready):
    evidence, reading, _ = ready
    for name in ("snips", "rips", "place_snips"):
        assert 0 <= estimate(name, evidence, reading).value <= evidence.log.shown.shape[1]


def test_the_logging_policy_itself_weighs_one_everywhere(ready):
    evidence, _, _ = ready
    reading = read(evidence, softmax_policy(evidence.log, evidence.log.scores))
    for kind in ("slate", "prefix", "place", "cluster"):
        np.testing.assert_allclose(reading.weights[kind], 1.0, rtol=1e-9)
    mean = evidence.log.reward.sum(axis=1).mean()
    assert estimate("snips", evidence, reading).value == pytest.approx(mean)
    assert estimate("ips", evidence, reading).ess == pytest.approx(len(evidence.log))


def test_without_scores_of_the_pool_only_logged_propensities_are_used():
    log, proposed, _ = world(200)
    evidence = prepare(replace(log, scores=None), np.random.default_rng(0))
    reading = read(evidence, softmax_policy(log, proposed))
    assert set(reading.weights) == {"none", "slate", "prefix"}
    with pytest.raises(DataError, match="needs place probabilities"):
        estimate("mips", evidence, reading)
    assert not {one.name for one in candidates(evidence, reading)} & {"mips", "place_dr"}
    assert automatic(evidence, reading).name in ("dros", "switch_dr", "dm")


def test_no_slate_is_scored_by_a_model_that_saw_its_user():
    log, _, _ = world(60)
    spoilt = log.reward.copy()
    spoilt[0:2] = 1 - spoilt[0:2]  # both slates of the first user
    first, second = (
        foretell(replace(log, reward=r), np.random.default_rng(3)) for r in (log.reward, spoilt)
    )
    np.testing.assert_array_equal(first.item[:2], second.item[:2])
    assert np.abs(first.item - second.item).max() > 0


def test_the_reward_model_finds_places_and_heads():
    log, _, _ = world(6_000, k=4)
    found = foretell(log, np.random.default_rng(0))
    np.testing.assert_allclose(found.place[0], np.arange(1, 5) ** -0.7, atol=0.06)
    wanted = 1 / (1 + np.exp(1.5 - log.z @ np.array([0.3, 0.8, 0.4])))
    assert np.abs(found.item - wanted).mean() < 0.03


def test_mass_the_log_never_shows_is_told():
    log, proposed, _ = world(300)
    barred = log.scores.copy()
    favourite = proposed.argmax(axis=1)
    shown = (log.shown == favourite[:, None]).any(axis=1)
    barred[np.arange(300), favourite] = np.where(shown, barred[np.arange(300), favourite], -np.inf)
    evidence = prepare(replace(log, scores=barred), np.random.default_rng(0))
    policy = softmax_policy(log, proposed + 20 * (np.arange(12) == favourite[:, None]))
    assert read(evidence, policy).unsupported == pytest.approx((~shown).mean() / 4, abs=0.01)


def test_effective_slates_by_hand():
    log, _, _ = world(4, k=2)
    w = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert effective_slates(w, log) == pytest.approx(2.0)
    assert effective_slates(np.zeros((4, 2)), log) == 0.0


# Degenerate logs.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": 0.0}, "not in \\(0, 1\\].* in slate 1 at place 3"),
        ({"propensity": np.nan}, "not in \\(0, 1\\]"),
        ({"propensity": 1.5}, "not in \\(0, 1\\]"),
        ({"reward": np.nan}, "rewards are not finite"),
        ({"reward": np.inf}, "rewards are not finite"),
        ({"shown": 99}, "in a pool of 12"),
    ],
)
def test_a_damaged_log_says_what_is_wrong(change, message):
    log, _, _ = world(5)
    name, value = next(iter(change.items()))
    array = getattr(log, name).copy()
    array[1, 2] = value
    with pytest.raises(DataError, match=message):
        replace(log, **{name: array})


def test_wrong_shapes_are_named():
    log, proposed, _ = world(5)
    with pytest.raises(DataError, match=r"reward has shape \(5, 3\), expected \(5, 4\)"):
        replace(log, reward=log.reward[:, :3])
    with pytest.raises(DataError, match="phi"):
        replace(log, phi=log.phi[:3])
    with pytest.raises(DataError, match="as the log's pools"):
        softmax_policy(log, proposed[:, :3])
    with pytest.raises(DataError, match="NaN"):
        softmax_policy(log, np.full_like(proposed, np.nan))
    with pytest.raises(DataError, match="no item that may be shown"):
        softmax_policy(log, np.full_like(proposed, -np.inf))
    evidence, policy = prepare(log, np.random.default_rng(0)), softmax_policy(log, proposed)
    with pytest.raises(DataError, match="not within"):
        read(evidence, replace(policy, conditional=policy.conditional + 1))
    with pytest.raises(DataError, match="drawn has shape"):
        read(evidence, replace(policy, drawn=policy.drawn[:, 0]))


def test_an_empty_log_cannot_be_prepared():
    log, _, _ = world(2)
    empty = SlateLog(*(getattr(log, n)[:0] for n in ("shown", "propensity", "reward", "z", "phi")))
    with pytest.raises(DataError, match="no slates"):
        prepare(empty, np.random.default_rng(0))


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_everywhere_are_worth_that_much(reward):
    log, proposed, _ = world(50, reward=reward)
    evidence = prepare(log, np.random.default_rng(0))
    reading = read(evidence, softmax_policy(log, proposed))
    for name in ("dm", "snips", "dr", "rips", "place_dr", "cascade_dr"):
        assert estimate(name, evidence, reading).value == pytest.approx(4 * reward)


def test_lists_that_end_early_count_only_the_places_they_have():
    log, _, _ = world(2_000)
    shown, propensity = log.shown.copy(), log.propensity.copy()
    shown[::2, 2:], propensity[::2, 2:] = -1, np.nan
    cut = replace(log, shown=shown, propensity=propensity)
    evidence = prepare(cut, np.random.default_rng(0))
    reading = read(evidence, softmax_policy(cut, cut.scores))
    mean = cut.gained.sum(axis=1).mean()
    for name in ("ips", "snips", "rips", "place_snips", "cascade_dr"):
        assert estimate(name, evidence, reading).value == pytest.approx(mean, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 12),
    scale=st.floats(0, 300),
    reward=st.floats(-50, 50),
    seed=st.integers(0, 99),
)
def test_every_estimate_and_interval_is_finite(n, scale, reward, seed):
    log, proposed, _ = world(n, seed=seed)
    log = replace(log, reward=log.reward * reward)
    evidence = prepare(log, np.random.default_rng(0))
    reading = read(evidence, softmax_policy(log, proposed * scale, draws=2))
    for name in ESTIMATORS:
        found = estimate(name, evidence, reading, parameter=10.0)
        assert np.isfinite(found.terms).all()
        assert np.isfinite([found.value, found.ess, found.unsupported]).all()
        low, high = interval(found.terms, unit=log.unit)
        assert low <= high


def test_unknown_names_and_parameters_are_refused(ready):
    evidence, reading, _ = ready
    with pytest.raises(ValueError, match="no estimator 'magic'"):
        estimate("magic", evidence, reading)
    with pytest.raises(ValueError, match="expected above 0"):
        estimate("dros", evidence, reading, parameter=0.0)
    with pytest.raises(ValueError, match="folds is 1"):
        foretell(evidence.log, np.random.default_rng(0), folds=1)


# Choice, intervals, gate.


def guess(value, spread, n=400):
    terms = value + spread * np.tile([-1.0, 1.0], n // 2)
    return Estimate(f"{value}±{spread}", float(terms.mean()), terms, float(n), 0.0)


def test_slope_goes_on_while_intervals_agree_and_stops_before_one_that_does_not():
    wide, middle, narrow = guess(1.0, 1.0), guess(1.1, 0.5), guess(2.0, 0.1)
    assert slope([narrow, wide, middle]) is middle
    assert slope([wide, guess(1.05, 0.1)]).value == pytest.approx(1.05)
    assert slope([wide]) is wide


def test_a_biased_estimate_is_taken_only_if_the_spread_it_saves_is_more_than_its_bias():
    first = guess(1.0, 2.0)  # standard error 0.1
    narrow = replace(first, terms=first.terms * 0.5 + 0.52)  # half the spread, 0.02 away
    far = replace(narrow, terms=narrow.terms + 0.3)
    assert least_error([first, far]) is first
    steady = replace(first, terms=np.full(400, 1.0))  # its bias may hide in 2 × 0.1
    assert least_error([first, steady]) is first
    mild = replace(first, terms=1.0 + (first.terms - 1.0) * 0.9)
    assert least_error([first, far, mild]) is mild


def test_estimates_by_place_are_dropped_where_the_log_contradicts_them():
    log, _, _ = world(6_000, shift=0.5)
    same = log.cluster[np.arange(6_000)[:, None], log.shown]
    below = np.cumsum(same, axis=1) - same > 0  # an item of the same cluster stands above
    log = replace(log, reward=2.0 * (below & (same == 1)))
    evidence = prepare(log, np.random.default_rng(0))
    policy = softmax_policy(log, log.scores + 1.0 * log.cluster)
    reading = read(evidence, policy)
    by_place, above = (
        estimate(n, evidence, reading, parameter=6_000) for n in ("place_dros", "dros")
    )
    assert above.ess > 1_000
    assert slope([by_place, above]) is above
    assert automatic(evidence, reading).name in ("dros", "switch_dr", "dm")


def test_bounds_reach_as_far_as_those_of_the_untamed_estimate(ready):
    one, other = guess(1.0, 0.5), guess(1.0, 2.0)
    alone, both = bounds(one), bounds(replace(one, untamed=other.terms))
    assert alone == interval(one.terms)
    assert both == interval(other.terms)
    apart = bounds(replace(one, untamed=guess(3.0, 0.5).terms))
    assert (apart[0], apart[1] - 2.0) == pytest.approx(alone)
    evidence, reading, _ = ready
    plain = [estimate(name, evidence, reading).terms for name in ("rips", "place_snips")]
    assert any(np.array_equal(automatic(evidence, reading).untamed, terms) for terms in plain)


def test_a_difference_keeps_the_smaller_support():
    found = difference(guess(2.0, 1.0), replace(guess(0.5, 1.0), ess=7.0))
    assert (found.value, found.ess, found.terms.std()) == (1.5, 7.0, 0.0)


def test_intervals_by_hand_and_by_user():
    terms = np.tile([-1.0, 1.0], 50)
    low, high = interval(terms)
    half = 1.9842 * np.sqrt(100 / 99) / 10  # t quantile, no skewness
    assert (low, high) == pytest.approx((-half, half), abs=1e-3)
    pairs = interval(np.repeat(terms, 2), unit=np.repeat(np.arange(100), 2))
    assert pairs == pytest.approx((low, high))
    assert interval(np.array([1.0])) == (-np.inf, np.inf)
    assert interval(np.full(9, 2.0)) == (2.0, 2.0)


def test_skewed_terms_stretch_the_interval_to_their_tail():
    terms = np.r_[np.zeros(99), 30.0]
    low, high = interval(terms)
    assert high - terms.mean() > 1.5 * (terms.mean() - low)


def test_the_interval_covers_the_mean_of_skewed_terms():
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(0, 1, (1_000, 200))
    within = np.array([interval(row) for row in drawn])
    mean = np.exp(0.5)
    assert ((within[:, 0] < mean) & (mean < within[:, 1])).mean() > 0.92
    safe = bernstein(np.clip(drawn[0], 0, 50), lowest=0, highest=50)
    assert safe[0] < within[0, 0] < within[0, 1] < safe[1]
    with pytest.raises(ValueError, match="outside"):
        bernstein(drawn[0], lowest=0, highest=1)


def decision(n, *, shift, proposed=None, config=None, seed=0):
    log, better, _ = world(n, seed=seed, shift=shift)
    return gate(
        log,
        softmax_policy(log, log.scores),
        softmax_policy(log, better if proposed is None else proposed(log)),
        rng=np.random.default_rng(0),
        config=config,
    )


def test_a_better_strategy_is_promoted_and_a_worse_one_kept_out():
    good = decision(6_000, shift=1.0)
    assert good.action == "promote"
    assert 0 < good.interval[0] < good.estimate < good.interval[1]
    assert good.share == 1.0
    bad = decision(6_000, shift=-0.5)
    assert (bad.action, bad.share) == ("keep", 0.0)
    assert "not surely better" in bad.why


def test_the_present_strategy_against_itself_is_kept():
    same = decision(2_000, shift=0.0)
    assert same.action == "keep"
    assert same.estimate == pytest.approx(0.0, abs=1e-12)


def test_thin_support_asks_for_a_small_share_of_live_traffic():
    few = decision(500, shift=1.0)
    assert (few.action, few.share) == ("ramp", 0.05)
    assert "1,000 are needed" in few.why
    wild = decision(3_000, shift=0.0, proposed=lambda log: -30 * log.scores)
    assert wild.action == "ramp"
    unseen = decision(
        500,
        shift=0.0,
        proposed=lambda log: -30 * log.scores,
        config=GateConfig(least_slates=0, most_unsupported=0.0),
    )
    assert unseen.action in ("ramp", "keep")


def test_without_impressions_held_out_likelihood_decides():
    rng = np.random.default_rng(0)
    better = gate(None, None, None, rng=rng, held_out=rng.normal(0.2, 1.0, 1_000))
    unsure = gate(None, None, None, rng=rng, held_out=rng.normal(0.0, 1.0, 1_000))
    assert (better.action, unsure.action) == ("promote", "keep")
    assert "no impressions" in better.why
    with pytest.raises(ValueError, match="neither impressions nor held-out"):
        gate(None, None, None, rng=rng)
    with pytest.raises(ValueError, match="not finite"):
        gate(None, None, None, rng=rng, held_out=np.array([np.nan]))


def test_a_gate_needs_both_policies_and_sound_limits(ready):
    evidence, reading, _ = ready
    with pytest.raises(ValueError, match="what both policies would do"):
        gate(evidence.log, None, None, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"level is 1\.5"):
        GateConfig(level=1.5)
    with pytest.raises(ValueError, match="least_slates"):
        GateConfig(least_slates=-1)
    assert decide(evidence, reading, reading).action == "keep"
