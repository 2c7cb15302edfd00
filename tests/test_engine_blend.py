"""The fit of θ finds what made the choices, and few candidates stand for a whole catalogue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from steerec.engine.blend import (
    FEW_EVENTS,
    BlendConfig,
    Candidates,
    Examples,
    descend,
    fit_theta,
    fit_weights,
    pick_candidates,
    towards_best,
    with_newcomers,
)
from steerec.engine.phi import NO_HISTORY, UNSEEN_ITEM
from steerec.errors import ConfigError, DataError

TRUE = np.array([[1.0, 0.5], [0.0, -0.8], [0.6, 0.0]])  # (heads, features)


def choices(n_cases, n_items, seed=0, theta=TRUE):
    """Cases whose target is drawn from the softmax of θ itself."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_cases, n_items, len(theta))).astype(np.float32)
    phi = np.ones((n_cases, 2))
    phi[:, 1] = rng.choice([-1.0, 1.0], n_cases)
    scores = np.einsum("cwh,ch->cw", z, phi @ theta.T) + rng.gumbel(size=(n_cases, n_items))
    target = np.zeros((n_cases, n_items), np.float32)
    target[np.arange(n_cases), scores.argmax(axis=1)] = 1.0
    seen = np.zeros((n_cases, n_items), bool)
    return Candidates(z, np.zeros((n_cases, n_items), np.float32), target, seen, phi)


def slow_loss(flat, candidates, config):
    """The penalised loss, case by case and target by target, in double precision."""
    n_heads, n_features = candidates.z.shape[2], candidates.phi.shape[1]
    theta = flat.reshape(n_heads, n_features)
    even = np.zeros_like(theta)
    even[:, 0] = 1 / n_heads
    pull = np.full_like(theta, config.l2)
    pull[:, 0] = config.l2_bias
    total = 0.5 * float((pull * (theta - even) ** 2).sum())
    for case, (z, log_weight, target, phi) in enumerate(
        zip(candidates.z, candidates.log_weight, candidates.target, candidates.phi, strict=True)
    ):
        scores = z.astype(float) @ (theta @ phi) + log_weight
        for item in np.flatnonzero(candidates.own[case]) if candidates.own is not None else ():
            scores[item] += z[item].astype(float) @ (theta @ candidates.phi_own[case])
        others = np.exp(scores[target == 0]).sum()
        for at in np.flatnonzero(target):
            total -= target[at] * (scores[at] - np.log(np.exp(scores[at]) + others))
    return total


def test_known_weights_are_recovered():
    config = BlendConfig(l2=0.5, l2_bias=0.5)
    np.testing.assert_allclose(fit_theta(choices(4_000, 40), config), TRUE, atol=0.09)


def with_some_own(candidates, seed):
    """A third of the items are their user's own; two more features, 0 but for those."""
    rng = np.random.default_rng(seed)
    wide = np.concatenate([candidates.phi, np.zeros_like(candidates.phi)], axis=1)
    own = rng.random(candidates.target.shape) < 1 / 3
    return replace(candidates, phi=wide, own=own, phi_own=np.roll(wide, 2, axis=1))


def test_weights_of_items_of_ones_own_are_recovered_beside_those_of_all():
    theirs, mine = TRUE, np.array([[-0.7, 0.0], [0.9, 0.4], [0.0, -0.5]])
    plain = choices(4_000, 40)
    candidates = with_some_own(plain, seed=1)
    scores = np.einsum("cwh,ch->cw", plain.z, plain.phi @ theirs.T)
    more = np.einsum("cwh,ch->cw", plain.z, plain.phi @ mine.T)
    drawn = np.random.default_rng(2).gumbel(size=scores.shape)
    best = (scores + candidates.own * more + drawn).argmax(axis=1)
    candidates.target[:] = 0.0
    candidates.target[np.arange(len(best)), best] = 1.0
    found = fit_theta(candidates, BlendConfig(l2=0.5, l2_bias=0.5))
    np.testing.assert_allclose(found, np.concatenate([theirs, mine], axis=1), atol=0.13)


@pytest.mark.parametrize(("targets", "own"), [(1, False), (3, False), (1, True), (3, True)])
def test_the_fit_is_the_minimum_of_the_slow_obvious_loss(targets, own):
    candidates = choices(60, 12)
    if own:
        candidates = with_some_own(candidates, seed=3)
    for row, target in enumerate(candidates.target):
        more = (target.argmax() + np.arange(targets) * 2) % 12
        candidates.target[row] = 0.0
        candidates.target[row, more] = 1.0 / targets
    candidates.log_weight[:, :4] = np.log(3.0)
    candidates.log_weight[::5, -1] = np.where(candidates.target[::5, -1] > 0, 0.0, -np.inf)
    config = BlendConfig(l2=2.0, l2_bias=1.0)
    found = descend(candidates, config).ravel()
    zeros = np.zeros(len(found))
    slow = optimize.minimize(slow_loss, zeros, (candidates, config), method="BFGS", tol=1e-6)
    np.testing.assert_allclose(found, slow.x, atol=5e-3)
    assert slow_loss(found, candidates, config) == pytest.approx(slow.fun, rel=1e-5)
    slope = optimize.approx_fprime(found, slow_loss, 1e-6, candidates, config)
    start = optimize.approx_fprime(zeros, slow_loss, 1e-6, candidates, config)
    assert np.abs(slope).max() < 0.02 * np.abs(start).max()


def test_few_weighted_candidates_find_the_theta_of_the_full_softmax():
    full = choices(1_500, 300, seed=1)
    config = BlendConfig(top=20, top_head=5, drawn=30)
    z = np.moveaxis(full.z, 2, 0)
    ranked = np.ones(full.target.shape, bool)
    picked = pick_candidates(
        z,
        ranked,
        full.target > 0,
        np.zeros(ranked.shape[1], bool),
        config,
        np.random.default_rng(0),
    )
    assert picked[0].shape[1] < 70
    few = fit_theta(Candidates(*picked[:4], full.phi), config)
    np.testing.assert_allclose(few, fit_theta(full, config), atol=0.05)
    unweighted = Candidates(picked[0], np.minimum(picked[1], 0.0), *picked[2:4], full.phi)
    assert np.abs(fit_theta(unweighted, config) - fit_theta(full, config)).max() > 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n_items=st.integers(2, 60), n_targets=st.integers(1, 3))
def test_candidates_stand_for_exactly_the_ranked_items(seed, n_items, n_targets):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, 6, n_items)).astype(np.float32)
    ranked = rng.random((6, n_items)) < 0.7
    ranked[:, 0] = True
    target = np.zeros((6, n_items), bool)
    for row in target:
        row[rng.choice(n_items, min(n_targets, n_items), replace=False)] = True
    config = BlendConfig(top=5, top_head=2, drawn=10)
    unseen = rng.random(n_items) < 0.3
    _, log_weight, share, _, _ = pick_candidates(z, ranked, target, unseen, config, rng)
    stands_for = np.exp(log_weight.astype(float)).sum(axis=1)
    drawn = (log_weight > 0).any(axis=1)
    np.testing.assert_allclose(stands_for[drawn], ranked.sum(axis=1)[drawn], rtol=1e-5)
    assert (stands_for <= ranked.sum(axis=1) + 1e-3).all()
    told = (target & ranked).any(axis=1)
    np.testing.assert_allclose(share.sum(axis=1), told.astype(float), atol=1e-6)
    np.testing.assert_array_equal((share > 0).sum(axis=1), (target & ranked).sum(axis=1))


def test_without_any_target_all_heads_weigh_the_same():
    candidates = choices(5, 4)
    candidates.target[:] = 0.0
    expected = np.array([[1 / 3, 0.0]] * 3)
    np.testing.assert_array_equal(fit_theta(candidates, BlendConfig()), expected)


def test_newcomers_get_the_weights_of_their_own_cases_and_nobody_else_changes():
    config = BlendConfig(l2=0.5, l2_bias=0.5)
    theta = np.hstack([TRUE, np.zeros((3, 1))])  # the third feature: no history
    alone = np.array([[-0.5, 0.0], [1.0, 0.0], [0.0, 0.0]])
    cold = choices(4_000, 30, seed=2, theta=alone)
    found = with_newcomers(theta, 2, cold, config)
    np.testing.assert_array_equal(found[:, :2], TRUE)
    np.testing.assert_allclose(found @ [1.0, 0.0, 1.0], alone[:, 0], atol=0.09)
    assert (theta[:, 2] == 0).all()


def at_few_events(theta, n_cases, *, knot):
    """Cases at one of the knots of few events, chosen by these weights, and a θ fitted on them."""
    features = ("bias", *FEW_EVENTS)
    cases = choices(n_cases, 60, seed=4, theta=np.array(theta)[:, None] * [1.0, 0.0])
    phi = np.zeros((n_cases, len(features)))
    phi[:, 0] = phi[:, features.index(knot)] = 1.0
    cases = replace(cases, phi=phi)
    config = BlendConfig(l2=1.0)
    fitted = fit_theta(cases, config)
    return fitted, towards_best(fitted, cases, features, config), features.index(knot)


def test_where_heads_add_nothing_to_the_best_one_it_speaks_alone_at_few_events():
    fitted, drawn, column = at_few_events([0.0, 0.9, 0.0], 150, knot="length~2")
    weights = drawn[:, 0] + drawn[:, column]
    assert np.abs((fitted[:, 0] + fitted[:, column])[[0, 2]]).max() > 0.01
    np.testing.assert_allclose(weights[[0, 2]], 0.0, atol=1e-12)
    assert weights[1] == pytest.approx(0.9, abs=0.15)
    others = np.arange(drawn.shape[1]) != column
    np.testing.assert_array_equal(drawn[:, others], fitted[:, others])


def test_heads_that_add_much_to_the_best_one_keep_their_say_at_few_events():
    fitted, drawn, column = at_few_events([0.8, 0.9, 0.7], 600, knot="length~5")
    moved = np.abs(drawn - fitted)
    assert 0.0 < moved[:, column].max() < 0.06
    assert moved.sum() == moved[:, column].sum()


def test_settings_out_of_range_are_refused():
    for wrong in ({"max_cases": 0}, {"drawn": 0}, {"l2": 0.0}, {"l2_bias": -1.0}):
        with pytest.raises(ConfigError, match="blend"):
            BlendConfig(**wrong)


def test_targets_out_of_reach_do_not_steer_the_list():
    """Head 0 puts one target first; head 1 lifts ten others from the end to the middle."""
    n_cases, width = 200, 120
    z = np.random.default_rng(5).normal(0, 0.1, (n_cases, width, 2)).astype(np.float32)
    target = np.zeros((n_cases, width), np.float32)
    target[:, 0] = target[:, 100:110] = 1 / 11
    z[:, 0, 0] += 1.5
    z[:, 0, 1] -= 0.3
    z[:, 40:110, 1] += 0.6
    candidates = Candidates(
        z,
        np.zeros((n_cases, width), np.float32),
        target,
        np.zeros((n_cases, width), bool),
        np.ones((n_cases, 1)),
    )
    alike = descend(candidates, BlendConfig())[:, 0]
    top_heavy = fit_theta(candidates, BlendConfig())[:, 0]
    assert top_heavy[0] - top_heavy[1] > alike[0] - alike[1] + 0.1


def test_weights_without_a_head_are_those_of_examples_that_never_had_it():
    cases, config = choices(300, 30), BlendConfig()
    names = ("bias", NO_HISTORY, UNSEEN_ITEM)
    cases = replace(cases, phi=np.ones((300, 1)) * [1.0, 0.0, 0.0])
    examples = Examples(("a", "b", "c"), names, cases, cases)
    less = examples.without("b")
    assert less.heads == ("a", "c")
    never = replace(cases, z=cases.z[:, :, [0, 2]])
    theta, nats = fit_weights(less, config)
    expected, _ = fit_weights(Examples(("a", "c"), names, never, never), config)
    np.testing.assert_allclose(theta, expected, atol=1e-3)  # sums in another order
    assert (theta.shape, nats) == ((2, 3), 0.0)
    assert examples.held_out.z.shape[2] == 3


def test_scores_that_are_no_numbers_are_told():
    cases = choices(20, 5)
    z = cases.z.copy()
    z[3, 2, 1] = np.nan
    with pytest.raises(DataError, match="weights of the blend are no numbers"):
        descend(replace(cases, z=z), BlendConfig())
