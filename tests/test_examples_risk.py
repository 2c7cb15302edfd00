"""The risk recipe of examples/risk and the threshold it uses, on small generated data."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

RISK = Path(__file__).parent.parent / "examples" / "risk"
MODULES = ("cases", "clients", "figures", "generated", "hourly", "monthly", "scorers", "tuned")


@pytest.fixture(scope="module")
def risk():
    """The recipe's modules, as the recipe itself imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RISK))
        yield {name: __import__(name) for name in MODULES}


@pytest.fixture(scope="module")
def months(risk):
    clients = risk["generated"].some_clients(n=400)
    return [clients.cases(month) for month in range(clients.months)]


def quick(risk):
    """Scorers that fit in a moment."""
    tree = partial(few_trees, risk["scorers"].Tree)
    return {"linear": risk["scorers"].Linear, "tree": tree}


def few_trees(make):
    found = make()
    found.model.set_params(max_iter=8)
    return found


POLICY = {"budget": 0.1, "most": 0.3, "review_cost": 2_000.0}


def run(risk, months, way=None):
    way = way or risk["monthly"].Tuned(quick(risk))
    policy = risk["monthly"].Policy(**POLICY)
    return way, risk["monthly"].run(way, months, policy, np.random.default_rng(0))


def auc(risk, month):
    ranked = risk["figures"].Ranked(month.p, month.cases.outcome)
    return ranked.separation(np.ones(len(month.p)))["auc"]


@pytest.fixture(scope="module")
def usual(risk, months):
    """The loop on the months as they are."""
    return run(risk, months)


# Figures


def test_figures_are_those_computed_by_hand(risk):
    ranked = risk["figures"].Ranked(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]))
    found = ranked.separation(np.ones(4))
    assert found["auc"] == 0.75  # of four pairs of bad and good, three are in order
    assert found["ks"] == 0.5
    assert found["recall_5fpr"] == pytest.approx(0.5)  # half of the bad stand above every good one
    p = np.array([0.8, 0.4, 0.6, 0.2])
    assert ranked.calibration(p, np.ones(4))["ece"] == pytest.approx(
        0.3
    )  # .2 + .4 + .4 + .2, each case a bin


def test_auc_counts_ties_as_half_and_weights_as_copies(risk):
    rng = np.random.default_rng(1)
    score, bad = rng.integers(0, 6, 60).astype(float), rng.integers(0, 2, 60)
    count = rng.integers(0, 3, 60)
    score_, bad_ = np.repeat(score, count), np.repeat(bad, count)
    above = score_[bad_ == 1][:, None] - score_[bad_ == 0][None]
    slow = ((above > 0) + 0.5 * (above == 0)).mean()
    found = risk["figures"].Ranked(score, bad).separation(count.astype(float))
    assert found["auc"] == pytest.approx(slow)


def test_one_class_has_no_auc(risk):
    found = risk["figures"].Ranked(np.arange(3.0), np.zeros(3)).separation(np.ones(3))
    assert all(np.isnan(value) for value in found.values())


def test_reviews_save_the_loss_and_cost_themselves(risk):
    bad, loss = np.array([1.0, 1.0, 0.0]), np.array([100.0, 40.0, 900.0])
    found = risk["figures"].of_reviews(
        np.array([True, False, True]), bad, loss, weight=np.ones(3), review_cost=5.0
    )
    assert found["precision"] == found["recall"] == 0.5
    assert found["missed"] == pytest.approx(40 / 3)
    assert found["cost"] == pytest.approx(50 / 3)


# What is known when


def test_no_decision_reads_what_comes_later(risk):
    clients = risk["generated"].some_clients(n=200)
    later = [np.array(getattr(clients, n)) for n in ("status", "bill", "payment")]
    for table in later:
        table[:, 3:] = 7.0
    changed = replace(clients, status=later[0], bill=later[1], payment=later[2])
    for month in range(3):
        one, other = clients.cases(month).hidden, changed.cases(month).hidden
        for name in ("x", "phi", "loss", "trail", "outcome", "after"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_outcome_is_two_months_late_in_the_month_after(risk):
    clients = risk["generated"].some_clients(n=50)
    np.testing.assert_array_equal(clients.cases(1).outcome, clients.status[:, 2] >= 2)
    np.testing.assert_array_equal(clients.cases(5).outcome, clients.defaulted)


def test_the_first_decisions_do_not_depend_on_later_outcomes(risk, months, usual):
    found = usual[1]
    turned = [*months[:2], *(replace(m, outcome=1 - m.outcome) for m in months[2:4])]
    _, other = run(risk, turned)
    np.testing.assert_array_equal(found[0].p, other[0].p)
    np.testing.assert_array_equal(found[1].p, other[1].p)
    assert np.abs(found[2].p - other[2].p).max() > 0.1


def test_a_unit_is_never_scored_by_a_model_that_saw_it(risk, months):
    class Memory:
        def fit(self, cases, rng):
            self.seen = set(cases.unit.tolist())
            return self

        def score(self, cases):
            return np.array([float(u in self.seen) for u in cases.unit.tolist()])

    known = months[0][np.arange(90)]
    head = risk["tuned"].CrossFitted(Memory, known, np.random.default_rng(0))
    assert head.score(known).max() == 0.0
    assert len({u for model in head.models for u in model.seen}) == 90


def test_reviewed_labels_come_at_once_and_others_late(risk):
    cases = risk["generated"].some_transactions(n=300)
    desk = risk["hourly"].Desk(budget=0.2, delay_s=10 * 3_600.0)
    ledger = risk["hourly"].Ledger(cases, desk)
    hour = np.flatnonzero((cases.time >= 43_200) & (cases.time < 46_800))
    chosen = ledger.review(hour, np.arange(len(hour), dtype=float), 46_800.0)
    assert len(chosen) == round(0.2 * len(hour))
    assert chosen.tolist() == hour[::-1][: len(chosen)].tolist()
    came = set(ledger.known(46_800.0, since=43_200.0).tolist())
    assert came == set(chosen.tolist())
    rest = np.setdiff1d(hour, chosen)
    np.testing.assert_array_equal(ledger.told_at[rest], cases.time[rest] + 36_000.0)


# The loop


def test_the_tuned_blend_learns_which_head_to_trust(risk):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6_000, 2))
    bad = (rng.random(6_000) < 1 / (1 + np.exp(2 - 1.5 * z[:, 0]))).astype(float)
    time = np.arange(6_000) * 60.0
    some = np.zeros((6_000, 1))
    cases = risk["cases"].Cases(
        np.arange(6_000),
        time,
        some,
        some + 1.0,
        time,
        bad,
        some.astype(int),
        some[:, 0].astype(int),
    )
    blend = risk["tuned"].TunedBlend(2, 1, rate=0.2, now=0.0)
    before = blend.probability(z, cases)
    blend.learn(z[:4_000], cases[:4_000], time[:4_000])
    after = blend.probability(z, cases)[4_000:]
    weight = blend.tuner.epoch.gamma * blend.theta[:, 0]
    assert weight == pytest.approx([1.5, 0.0], abs=0.15)
    truth = 1 / (1 + np.exp(2 - 1.5 * z[4_000:, 0]))
    nats = [-np.log(np.where(bad[4_000:], p, 1 - p)).mean() for p in (before[4_000:], after, truth)]
    assert nats[1] < nats[2] + 0.01 < nats[0] - 0.03
    assert after.mean() == pytest.approx(bad[4_000:].mean(), abs=0.03)


def test_calibrated_scores_are_log_odds_beside_those_of_all(risk):
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    bad = (rng.random(20_000) < 1 / (1 + np.exp(-(x - 2)))).astype(float)
    curve = risk["tuned"].calibration(5 * x + 3, bad)  # any rising score gives the same z
    base = np.log(bad.mean() / (1 - bad.mean()))
    asked = np.array([-0.5, 0.5, 1.5])
    assert curve(5 * asked + 3) == pytest.approx(asked - 2 - base, abs=0.25)
    assert curve(np.array([np.nan])) == 0.0


def test_some_tens_of_bad_cases_are_enough_to_keep_the_order_of_the_scores(risk):
    rng = np.random.default_rng(0)
    bad = np.arange(300) < 30
    score = rng.normal(size=300) + 2 * bad
    z = risk["tuned"].calibration(score, bad.astype(float))(score)
    np.testing.assert_array_equal(np.argsort(z), np.argsort(score))
    assert z[bad].mean() > 1.0


def test_a_score_that_falls_with_the_risk_says_nothing(risk):
    bad = np.arange(300) < 30
    score = np.arange(300.0)
    assert not risk["tuned"].calibration(score, bad.astype(float))(score).any()


def test_z_keeps_its_meaning_when_more_of_the_known_are_bad(risk):
    """Reviews bring bad cases first: the same score, seen among them, is as risky as before."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=100_000)
    bad = (rng.random(100_000) < 1 / (1 + np.exp(3 - x))).astype(float)
    told = x > 1
    all_, looked_at = (
        risk["tuned"].calibration(x[rows], bad[rows], base=-2.0)(np.array([1.5, 2.5]))
        for rows in (np.ones(100_000, bool), told)
    )
    assert all_ == pytest.approx([0.5, 1.5], abs=0.15)
    assert looked_at == pytest.approx(all_, abs=0.15)


def test_the_loop_beats_chance_and_keeps_to_its_budget(risk, usual):
    way, found = usual
    assert len(found) == 5
    for month in found:
        assert auc(risk, month) > 0.75
        assert month.by_cost.mean() <= POLICY["most"]
    assert np.isfinite(way.blend.theta).all()


def test_the_two_towers_foretell_who_will_be_late(risk):
    clients = risk["generated"].some_clients(n=300)
    months = [clients.cases(month) for month in range(3)]
    known = risk["cases"].Cases.together(months[:2])
    tower = risk["scorers"].TwoTowers(clients.profile, epochs=2)
    score = tower.fit(known, np.random.default_rng(0)).score(months[2].hidden)
    found = risk["figures"].Ranked(score, months[2].outcome).separation(np.ones(300))
    assert found["auc"] > 0.7


def test_fraud_is_found_under_the_budget_from_the_labels_reviews_bring(risk):
    cases = risk["generated"].some_transactions(n=1_000, hours=72)
    desk = risk["hourly"].Desk(budget=0.1, settled_s=86_400.0)
    way = risk["hourly"].TunedScore(quick(risk), again=False)
    ledger = risk["hourly"].run(way, cases, desk, np.random.default_rng(0))
    rows = risk["hourly"].decided(ledger)
    assert ledger.reviewed.sum() <= 0.1 * len(rows) + 24  # rounded once an hour
    assert not ledger.reviewed[cases.time < desk.settled_s].any()
    assert cases.outcome[ledger.reviewed].mean() > 2 * cases.outcome[rows].mean()


# Bad input


def test_a_month_of_one_class_is_learnt_from_and_takes_no_head_away(risk, months, usual):
    calm = [*months[:2], replace(months[2], outcome=np.zeros(400)), *months[3:5]]
    _, found = run(risk, calm)
    assert found[2].p.mean() < usual[1][2].p.mean()
    assert auc(risk, found[2]) > 0.75
    assert auc(risk, found[3]) > 0.75


def test_a_level_that_rose_and_fell_again_is_followed_and_not_counted_twice(risk, months):
    rng = np.random.default_rng(0)
    worse = np.maximum(months[2].outcome, rng.random(400) < 0.5)
    _, found = run(risk, [*months[:2], replace(months[2], outcome=worse), *months[3:5]])
    assert found[1].p.mean() == pytest.approx(months[1].outcome.mean(), abs=0.05)
    assert found[2].p.mean() == pytest.approx(worse.mean(), abs=0.05)
    assert found[3].p.mean() == pytest.approx(months[3].outcome.mean(), abs=0.05)


def test_no_score_is_given_until_both_outcomes_are_known(risk, months):
    calm = [replace(months[0], outcome=np.zeros(400)), *months[1:4]]
    _, found = run(risk, calm)
    assert len(found) == 2


def test_a_month_without_outcomes_changes_nothing(risk, months):
    missing = replace(months[2], outcome=np.full(400, np.nan))
    _, found = run(risk, [*months[:2], missing, months[3]])
    assert found[2].told == found[1].told
    assert np.isfinite(found[2].p).all()


def test_features_that_are_missing_are_scored_all_the_same(risk, months):
    rng = np.random.default_rng(0)
    holes = [replace(m, x=np.where(rng.random(m.x.shape) < 0.3, np.nan, m.x)) for m in months[:3]]
    holes[2].x[:50] = np.nan
    for way in (None, risk["monthly"].Plain(risk["scorers"].Linear, again=True)):
        _, found = run(risk, holes, way)
        assert np.isfinite(found[-1].p).all()


def test_a_head_that_cannot_say_leaves_the_blend_to_the_others(risk, months):
    class Silent:
        def fit(self, cases, rng):
            return self

        def score(self, cases):
            return np.full(len(cases), np.nan)

    way = risk["monthly"].Tuned({**quick(risk), "silent": Silent})
    _, found = run(risk, months[:4], way)
    assert np.isfinite(found[-1].p).all()
    assert auc(risk, found[-1]) > 0.75
