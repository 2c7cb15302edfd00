"""The learner: its sums against slow obvious ones, workers, checkpoints, bad input, drift."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from steerec.errors import ConfigError, DataError
from steerec.tuning.design import Design, choose_columns, softmax_precision
from steerec.tuning.evidence import likelier, log_evidence
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.memories import Memories
from steerec.tuning.observed import Observed
from steerec.tuning.personal import Offset
from steerec.tuning.prior import Prior
from steerec.tuning.rivals import Ftrl, Sgd, Thompson, squarecb
from steerec.tuning.sums import Statistics, Sums
from tuning_worlds import (
    DESIGN,
    EVEN,
    FEATURES,
    HEADS,
    INDEPENDENT,
    PLACES,
    TRUTH,
    LogisticWorld,
    cosine,
    learner,
    live,
    teach,
    tuner,
)

PRIOR = Prior(EVEN, 10.0, rate=0.2, gamma=1.0)
CONFIG = LearnerConfig(surer=1.0, evidence_steps=0, trust=1.0)


@pytest.fixture
def world():
    return LogisticWorld(np.random.default_rng(0))


# The row x and the sums


def test_x_is_the_gradient_of_the_log_odds(world):
    rows = Observed.together(world.slates(3)).sound()
    epoch = replace(PRIOR.epoch(DESIGN, 0.0), gamma=0.7)
    beta, step = DESIGN.pack(epoch), 1e-6
    x, log_odds = DESIGN.rows(rows, epoch)
    np.testing.assert_allclose(log_odds, epoch.log_odds(rows))
    for i in range(DESIGN.size):
        ahead, back = beta.copy(), beta.copy()
        ahead[i] += step
        back[i] -= step
        up = DESIGN.unpack(ahead, epoch, number=1, made=0.0).log_odds(rows)
        down = DESIGN.unpack(back, epoch, number=1, made=0.0).log_odds(rows)
        np.testing.assert_allclose(x[:, i], (up - down) / (2 * step), atol=1e-7)


def test_sums_are_those_of_one_row_after_the_other(world):
    sums = Sums(DESIGN, PRIOR.epoch(DESIGN, 0.0), worker="a")
    rows = replace(Observed.together(world.slates(4)), weight=np.linspace(0.1, 1.0, 4 * PLACES))
    sums.observe(rows)
    found = sums.take()
    curvature, gradient = np.zeros((DESIGN.size, DESIGN.size)), np.zeros(DESIGN.size)
    x, log_odds = DESIGN.rows(rows, sums.epoch)
    for row, eta, y, weight in zip(x, log_odds, rows.reward, rows.weight, strict=True):
        p = 1 / (1 + np.exp(-eta))
        curvature += weight * p * (1 - p) * np.outer(row, row)
        gradient += weight * (y - p) * row
    np.testing.assert_allclose(found.curvature, curvature, atol=1e-12)
    linear = gradient + curvature @ DESIGN.pack(sums.epoch)
    np.testing.assert_allclose(found.linear, linear, atol=1e-12)
    assert found.rows == pytest.approx(rows.weight.sum())


def test_one_row_of_one_head_moves_theta_as_computed_by_hand():
    design = Design(1, 1, (0,), 1)
    one = Learner(design, Prior(np.array([[1.0]]), 4.0, rate=0.5, gamma=1.0), CONFIG, now=0.0)
    sums = Sums(design, one.epoch, worker="a")
    sums.observe(Observed.slate(np.array([[2.0]]), np.ones(1), np.ones(1)))
    one.add([sums.take()])
    p = 1 / (1 + np.exp(-2.0))
    x = np.array([2.0, 1.0, 1.0])  # u, place 1, context
    length = 1 / (1 / 4.001 + 0.5**2)  # variances of θ and of γ add up
    precision = np.diag([length, 30 * 0.25, 0.05])
    step = np.linalg.solve(precision + p * (1 - p) * np.outer(x, x), (1 - p) * x)
    epoch = one.publish(2.0)
    assert epoch.gamma * epoch.theta[0, 0] == pytest.approx(1.0 + step[0], rel=1e-12)
    assert epoch.theta[0, 0] == pytest.approx(1.0)  # of one head only γ can change


def test_four_workers_reach_the_theta_of_one_to_1e_9(world):
    slates = world.slates(200)
    alone, shared = learner(), learner()
    one = Sums(DESIGN, alone.epoch, worker="0")
    four = [Sums(DESIGN, shared.epoch, worker=str(w)) for w in range(4)]
    for i, slate in enumerate(slates, 1):
        one.observe(slate)
        four[i % 4].observe(slate)
        if i % 25 == 0:
            alone.add([one.take()])
            shared.add([worker.take() for worker in four[::-1]])
            one.adopt(alone.publish(float(i)))
            epoch = shared.publish(float(i))
            assert all(worker.adopt(epoch) is None for worker in four)
    assert alone.epoch.number == shared.epoch.number == 8
    np.testing.assert_allclose(shared.epoch.theta, alone.epoch.theta, atol=1e-9, rtol=0)


def test_order_of_arrival_within_a_round_does_not_change_a_bit(world):
    thetas = []
    sent = []
    for worker in "abc":
        sums = Sums(DESIGN, PRIOR.epoch(DESIGN, 0.0), worker=worker)
        sums.observe(world.slate())
        sent.append(Statistics.from_bytes(sums.take().to_bytes()))
    for order in ((0, 1, 2), (2, 0, 1)):
        found = learner()
        found.add([sent[i] for i in order])
        thetas.append(found.publish(5.0).theta.tobytes())
    assert thetas[0] == thetas[1]


def test_a_known_theta_is_recovered(world):
    found = tuner()
    assert cosine(EVEN, TRUTH) < 0.75
    teach(found, world.slates(2_000))
    epoch = found.epoch
    assert cosine(epoch.theta, TRUTH) > 0.97
    np.testing.assert_allclose(epoch.gamma * epoch.theta, TRUTH, atol=0.35)
    level = epoch.b_position + epoch.b_context[0]
    np.testing.assert_allclose(level, -1.5 - 0.7 * np.log(np.arange(1, 6)), atol=0.45)


def test_as_services_have_it_it_turns_to_the_truth(world):
    """By the defaults: a loose prior, a fifth of what rows tell believed, a γ of .3 at first."""
    design = Design(HEADS, FEATURES, (0, 1), PLACES)
    found = OnlineTuner(Learner(design, Prior(EVEN, rate=0.2), LearnerConfig(), now=0.0))
    teach(found, world.slates(1_000))
    assert cosine(found.epoch.theta, TRUTH) > 0.85
    teach(found, world.slates(3_000), start=1e4)
    assert cosine(found.epoch.theta, TRUTH) > 0.93


def test_what_a_place_is_worth_is_told_from_what_stood_there():
    """Lists drawn by their scores with chance, clicked for what the scores do not know too."""
    rng, bias = np.random.default_rng(4), np.array([0.0, -0.5, -0.8, -0.7, -1.2])
    config = LearnerConfig(**INDEPENDENT)
    design = Design(1, 1, (0,), PLACES)
    prior = Prior(np.ones((1, 1)), 10.0, rate=0.3)
    found = OnlineTuner(Learner(design, prior, config, now=0.0))
    slates = []
    for _ in range(6_000):
        z = rng.normal(size=(PLACES, 1))
        z = z[np.argsort(-(z[:, 0] + rng.gumbel(size=PLACES)))]
        log_odds = -1.0 + z[:, 0] + 0.5 * rng.normal(size=PLACES) + bias
        clicks = (rng.random(PLACES) < special.expit(log_odds)) * 1.0
        slates.append(Observed.slate(z, np.ones(1), clicks))
    teach(found, slates, every=200)
    places = found.epoch.b_position - found.epoch.b_position[0]
    assert np.abs(places - bias).max() < 0.15
    assert places[3] > places[2] - 0.05  # not forced to fall
    rare = Prior(np.ones((1, 1)), 10.0, rate=0.01).epoch(design, 0.0)  # before the first click
    np.testing.assert_allclose(rare.b_position, -0.7 * np.log(np.arange(1, 6)), atol=0.1)


def test_columns_that_are_not_learnt_keep_the_offline_weights(world):
    design = Design(HEADS, FEATURES, (0,), PLACES)
    theta = np.array([[0.5, 0.3]] * HEADS)
    found = OnlineTuner(Learner(design, Prior(theta, 10.0), CONFIG, now=0.0))
    teach(found, world.slates(20))
    assert (found.epoch.theta[:, 1] == 0.3).all()
    assert np.abs(found.epoch.theta[:, 0] - 0.5).max() > 0.01


def test_bias_and_scenarios_are_chosen_before_tastes():
    names = ["bias", "length~0", "taste0", "scenario=home", "day_sin"]
    assert choose_columns(names, 8, n_positions=10, most=10 + 9 * 3) == (0, 1, 3)
    assert choose_columns(names, 8, n_positions=10) == (0, 1, 2, 3, 4)
    with pytest.raises(ConfigError, match="300 heads"):
        choose_columns(names, 300, n_positions=10)


def test_the_offline_precision_is_the_second_derivative_of_the_softmax_loss():
    rng = np.random.default_rng(1)
    z, phi = rng.normal(size=(4, 6, HEADS)), rng.random((4, FEATURES))
    log_weight = np.zeros((4, 6))
    log_weight[0, 3:] = -np.inf

    def loss(flat):
        w = phi @ flat.reshape(HEADS, FEATURES).T
        return special.logsumexp(np.einsum("cwh,ch->cw", z, w) + log_weight, axis=1).sum()

    at, step = TRUTH.ravel(), 1e-4
    eye = np.eye(at.size) * step
    slow = [
        [
            (loss(at + a + b) - loss(at + a - b) - loss(at - a + b) + loss(at - a - b))
            / (4 * step**2)
            for a in eye
        ]
        for b in eye
    ]
    found = softmax_precision(DESIGN, TRUTH, z, phi, log_weight)
    np.testing.assert_allclose(found, slow, atol=1e-5)


# Epochs, late rewards, checkpoints


def test_an_epoch_comes_once_a_second_at_most_and_only_with_news(world):
    found = tuner()
    assert found.publish(9.0).number == 0
    found.observe(world.slate())
    assert found.publish(10.0).number == 1
    found.observe(world.slate())
    assert found.publish(10.9).number == 1
    assert found.publish(11.0).number == 2
    assert found.publish(12.5).number == 2


def test_a_clock_set_back_stops_nothing(world):
    found = tuner()
    teach(found, world.slates(10), start=1e9)
    found.observe(world.slate())
    assert found.publish(5.0).number == 2


def test_a_late_reward_counts_as_if_it_had_come_at_once(world):
    slate = world.slate()
    none, click = np.zeros(PLACES), np.eye(PLACES)[1]
    late, at_once = tuner(), tuner()
    late.observe(replace(slate, reward=none))
    late.amend(replace(slate, reward=click))
    at_once.observe(replace(slate, reward=click))
    np.testing.assert_allclose(late.publish(2.0).theta, at_once.publish(2.0).theta, atol=1e-12)


def test_a_learner_that_takes_over_counts_nothing_twice(world):
    slates = world.slates(60)
    unbroken, first = learner(), learner()
    sums = Sums(DESIGN, first.epoch, worker="a")
    sent = []
    for i, slate in enumerate(slates, 1):
        sums.observe(slate)
        if i % 20 == 0:
            sent.append(sums.take())
            unbroken.add(sent[-1:])
            sums.adopt(unbroken.publish(float(i)))
    first.add(sent[:1])
    first.publish(20.0)
    first.add(sent[1:2])  # added, not yet published, and then killed
    second = Learner.from_state(first.state(), DESIGN, PRIOR, first.config)
    second.publish(40.0)
    second.add(sent)  # the worker sends all again
    second.publish(60.0)
    assert second.counts["repeated"] == 2
    assert second.counts["rows"] == 60 * PLACES
    assert second.epoch.number == unbroken.epoch.number == 3
    np.testing.assert_array_equal(second.epoch.theta, unbroken.epoch.theta)


def test_a_checkpoint_does_not_grow(world):
    found = tuner()
    teach(found, world.slates(20))
    early = len(found.state())
    teach(found, world.slates(200), start=100.0)
    assert len(found.state()) == early


def test_a_damaged_checkpoint_is_refused(world):
    found = tuner()
    teach(found, world.slates(10))
    body = found.state()
    for damaged in (b"", body[:100], b"x" * 500):
        with pytest.raises(DataError, match="start from the prior"):
            Learner.from_state(damaged, DESIGN, PRIOR, CONFIG)
    kept = dict(np.load(io.BytesIO(body)))
    kept["linear"][0] = np.nan
    edited = io.BytesIO()
    np.savez(edited, **kept)
    with pytest.raises(DataError, match="linear holds numbers that are not finite"):
        Learner.from_state(edited.getvalue(), DESIGN, PRIOR, CONFIG)
    other = Design(HEADS, FEATURES, (0,), PLACES)
    with pytest.raises(DataError, match="of shapes"):
        Learner.from_state(body, other, PRIOR, CONFIG)


def test_a_return_forgets_and_refuses_what_was_gathered_before(world):
    found = learner()
    sums = Sums(DESIGN, found.epoch, worker="a")
    sums.observe(world.slate())
    old = sums.take()
    epoch = found.restart(PRIOR, 5.0)
    assert epoch.number == 1
    np.testing.assert_array_equal(epoch.theta, EVEN)
    found.add([old])
    assert found.counts["stale"] == 1
    assert found.publish(9.0) is epoch


def test_a_promotion_can_keep_what_was_learnt(world):
    found = tuner()
    teach(found, world.slates(200))
    before = found.epoch.theta
    found.restart(Prior(before, 10.0, rate=0.2), 500.0, keep=1.0)
    found.observe(world.slate())
    assert cosine(found.publish(600.0).theta, before) > 0.98


def test_what_the_guard_holds_back_is_not_published(world):
    found = OnlineTuner(learner(), bound=lambda theta: 0.5 * theta + 0.5 * EVEN)
    free = tuner()
    slates = world.slates(10)
    teach(found, slates)
    teach(free, slates)
    np.testing.assert_allclose(found.epoch.theta, (free.epoch.theta + EVEN) / 2)
    np.testing.assert_allclose(free.learner.learnt(9.0).theta, free.epoch.theta)


# Bad input


def test_rows_with_numbers_that_are_not_finite_are_left_out_and_counted(world):
    good = world.slate()
    z, reward = good.z.copy(), good.reward.copy()
    z[0, 0], reward[1] = np.inf, np.nan
    place = good.position.copy()
    place[2] = 0
    found, other = tuner(), tuner()
    found.observe(replace(good, z=z, reward=reward, position=place))
    other.observe(Observed(*(v[3:] for v in (good.z, good.phi, good.position, good.reward))))
    np.testing.assert_array_equal(found.publish(2.0).theta, other.publish(2.0).theta)
    assert found.learner.counts["refused"] == 3


@pytest.mark.parametrize("reward", [1.0, 0.0, -1.0])
def test_rewards_that_are_all_alike_leave_theta_finite_and_in_bounds(world, reward):
    found = tuner(memories=(5_000.0,))
    for slate in world.slates(400):
        slate = replace(slate, reward=np.full(PLACES, reward))
        found.observe(slate)
        found.publish(found.epoch.made + 1.0)
    epoch = found.epoch
    assert np.isfinite(epoch.theta).all()
    assert np.linalg.norm(epoch.gamma * epoch.theta - EVEN) <= 8 * np.linalg.norm(EVEN) + 1e-9
    assert 0.05 <= epoch.gamma <= 20
    p = epoch.click(world.slate())
    # Dislikes alone have no likeliest θ: only the bounds hold it.
    assert reward < 0 or ((p > 0.9).all() if reward == 1 else (p < 0.1).all())


def test_a_week_without_feedback_changes_nothing_and_a_leap_of_the_clock_little(world):
    found = tuner()
    now = teach(found, world.slates(500))
    before = found.epoch
    assert found.publish(now + 7 * 86_400.0) is before
    found.observe(world.slate())
    after = found.publish(now + 3e9)
    assert np.abs(after.theta - before.theta).max() < 0.1


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, (2, HEADS), elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays(np.float64, (2,), elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays(np.float64, (2,), elements=st.floats(allow_nan=True, allow_infinity=True)),
)
def test_theta_stays_finite_whatever_is_observed(z, phi, reward):
    found = tuner()
    found.observe(Observed.slate(z, phi, reward))
    found.amend(Observed.slate(z, phi, reward))
    epoch = found.publish(2.0)
    assert np.isfinite(epoch.theta).all()
    assert np.isfinite(epoch.b_position).all()


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="rows differ: z 2, phi 1"):
        Observed(np.zeros((2, 1)), np.zeros((1, 1)), np.ones(2), np.zeros(2))


def test_a_prior_that_is_no_precision_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Prior(np.array([[np.nan]]))
    with pytest.raises(np.linalg.LinAlgError):
        Prior(EVEN, -np.eye(DESIGN.n_theta)).matrix(DESIGN, position_rows=10.0)


# Drift


def test_a_turned_world_is_met_with_a_shorter_memory_and_a_steady_one_is_not():
    found = tuner(memories=(1_000.0, 100_000.0), judged_rows=500.0)
    now = live(found, LogisticWorld(np.random.default_rng(3)), 800)
    kept = found.learner.memories
    assert kept.rows[kept.used] == 100_000.0
    turned = LogisticWorld(np.random.default_rng(4), -TRUTH)
    live(found, turned, 200, start=now)
    assert kept.rows[kept.used] == 1_000.0
    assert found.learner.counts["turns"] >= 1


def test_a_choice_of_memories_makes_the_turn_faster():
    thetas = {}
    for name, memories in (("chosen", (1_000.0, 1e6)), ("one", (1e6,))):
        found = tuner(memories=memories, judged_rows=500.0)
        now = live(found, LogisticWorld(np.random.default_rng(5)), 800)
        turned = LogisticWorld(np.random.default_rng(6), TRUTH[::-1])
        live(found, turned, 400, start=now)
        thetas[name] = cosine(found.epoch.theta, TRUTH[::-1])
    assert thetas["chosen"] > 0.85
    assert thetas["chosen"] > thetas["one"] + 0.03


def test_memories_forget_and_are_judged_as_by_hand():
    kept = Memories((10.0, 1e9), 1, judged_rows=5.0)
    assert kept.used == 1
    kept.add(np.array([[4.0]]), np.array([2.0]), rows=1.0, keep=1.0)
    kept.add(np.array([[1.0]]), np.array([3.0]), rows=10.0, keep=0.5)
    np.testing.assert_allclose(kept.curvature[:, 0, 0], [4 * 0.5 * np.exp(-1) + 1, 3.0])
    np.testing.assert_allclose(kept.linear[:, 0], [2 * 0.5 * np.exp(-1) + 3, 4.0])

    told = kept.told(lambda curvature, linear: linear / curvature[0])
    betas = kept.linear[:, 0] / kept.curvature[:, 0, 0]
    np.testing.assert_allclose(told[:, 0], betas)
    kept.judge(np.array([[2.0]]), np.array([6.0]), rows=5.0, told=told)
    likely = np.exp(6 * betas - betas**2)
    shares = np.exp(-1) * likely / likely.sum() + (1 - np.exp(-1)) / 2
    np.testing.assert_allclose(kept.shares, shares)
    assert kept.used == 0  # new rows say 3, the short memory 1.9, the long one 1.3


def test_one_memory_at_least_is_believed_whatever_comes():
    kept = Memories((10.0, 1e9), 1, judged_rows=5.0)
    told = np.array([[-1_000.0], [1_000.0]])
    for says in (2.0, -2.0, 2.0):  # late rewards: nothing new was shown, so no share is levelled
        kept.judge(np.zeros((1, 1)), np.array([says]), rows=0.0, told=told)
        np.testing.assert_allclose(kept.shares.sum(), 1.0)
        assert kept.shares[kept.used] > 0.99
        assert kept.used == int(says > 0)


def test_what_is_learnt_is_what_memories_say_as_far_as_each_is_believed(world):
    found = learner(memories=(50.0, 1e6), evidence_steps=0)
    teach(OnlineTuner(found), world.slates(40))
    alone = []
    for k in range(2):
        curvature, linear = found.memories.curvature[k], found.memories.linear[k]
        precision = found.posterior_precision() - np.einsum(
            "n,nij->ij", found.memories.shares, found.memories.curvature
        )
        start = DESIGN.pack(found.base)
        moved = np.linalg.solve(precision + curvature, linear - curvature @ start)
        alone.append(start + moved)
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    np.testing.assert_allclose(found.mean(), found.memories.shares @ alone, atol=1e-9)


# How sure the prior is


def test_the_evidence_is_the_likelihood_with_beta_summed_out():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 3))
    curvature, gradient = root.T @ root, rng.normal(size=3)
    precision = np.diag([2.0, 3.0, 4.0])
    drawn = rng.normal(size=(400_000, 3)) / np.sqrt(np.diag(precision))
    told = drawn @ gradient - 0.5 * np.einsum("ni,ij,nj->n", drawn, curvature, drawn)
    found = log_evidence(precision, curvature, gradient)
    assert found == pytest.approx(np.log(np.exp(told).mean()), abs=0.02)


def test_the_prior_gets_sure_where_it_was_right_and_loose_where_it_was_wrong():
    """The bias column is off by one for every head, the other columns are right."""

    def build(scales):
        return np.diag(np.repeat(scales, 4) * 10.0)

    rng = np.random.default_rng(1)
    x = rng.normal(size=(2_000, 8))
    wrong = np.concatenate([np.full(4, 1.0), np.zeros(4)])
    y = x @ wrong + rng.normal(size=2_000)
    scales = np.full(2, 16.0)
    for _ in range(20):
        scales = likelier(scales, build, x.T @ x, x.T @ y)
    assert scales[0] <= 0.25  # the precision of numbers of size 1 is 1, ten were given
    assert scales[1] >= 4.0


def test_theta_that_was_right_hardly_moves():
    """A loose prior takes chance for news; the evidence says how little there is."""
    moved = {}
    for steps in (0, 1):
        found = tuner(evidence_steps=steps, surer=1.0)
        live(found, LogisticWorld(np.random.default_rng(7), EVEN), 600)
        theta = found.epoch.theta
        moved[steps] = 1 - cosine(theta, EVEN)
    assert moved[1] < 0.5 * moved[0]


# Personal offsets


def test_a_persons_offset_turns_towards_their_own_taste_and_stays_short(world):
    epoch = replace(PRIOR.epoch(DESIGN, 0.0), b_context=np.array([-1.5, 0.0]))
    own = LogisticWorld(np.random.default_rng(7), EVEN + np.array([[1.0, 0], [-1.0, 0], [0, 0]]))
    offset = Offset.none(HEADS)
    lengths = []
    for slate in own.slates(60):
        offset = offset.after(slate, epoch)
        lengths.append(np.linalg.norm(offset.value))
    w = np.array([0.5, 0.5, 0.5])
    added = offset.within(w)
    assert added[0] > 0.05 > -0.05 > added[1]
    assert np.linalg.norm(added) <= 0.25 * np.linalg.norm(w) + 1e-12
    assert lengths[0] < 0.7 * max(lengths)
    assert (offset.within(np.zeros(HEADS)) == 0).all()


def test_twenty_lists_of_ten_are_half_believed():
    design = Design(1, 1, (0,), 1)
    epoch = Prior(np.array([[4.0]]), rate=0.5, gamma=1.0).epoch(design, 0.0)
    # Foretold at .5; .51 is what an offset of .4 would make of z = .1.
    row = Observed(
        np.array([[0.1]]), np.ones((1, 1)), np.ones(1), np.array([0.51]), extra=np.array([-0.4])
    )
    offset = Offset.none(1)
    for _ in range(200):
        offset = offset.after(row, epoch)
    assert offset.value[0] == pytest.approx(0.2, rel=0.05)
    assert offset.rows == pytest.approx(400 * (1 - np.exp(-0.5)), rel=0.05)  # old ones fade


# Rivals


@pytest.mark.parametrize("name", ["ours", "thompson", "sgd", "ftrl"])
def test_every_tuner_comes_closer_to_the_truth(name):
    rng = np.random.default_rng(8)
    found = {
        "ours": tuner(),
        "thompson": Thompson(tuner(), rng),
        "sgd": Sgd(DESIGN, PRIOR, now=0.0, rate=0.1),
        "ftrl": Ftrl(DESIGN, PRIOR, now=0.0),
    }[name]
    teach(found, LogisticWorld(rng).slates(800))
    assert cosine(found.epoch.theta, TRUTH) > 0.85
    assert found.publish(1e6).theta.shape == TRUTH.shape


def test_thompson_draws_once_an_epoch(world):
    found = Thompson(tuner(), np.random.default_rng(9))
    found.observe(world.slate())
    first = found.publish(2.0)
    assert found.publish(2.5) is first
    assert np.abs(first.theta - EVEN).max() > 0.05  # a wide posterior after one slate


def test_squarecb_draws_the_best_most_often_and_never_what_may_not_be_shown():
    p = squarecb(np.array([0.5, 0.3, -np.inf, 0.5]), learning_rate=10.0)
    np.testing.assert_allclose(p, [1 - 1 / 5 - 1 / 3, 1 / 5, 0.0, 1 / 3])
    with pytest.raises(ValueError, match="no item"):
        squarecb(np.array([-np.inf]), learning_rate=1.0)
