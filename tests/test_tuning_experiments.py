"""Experiments, interleaving and shadow; temperature within a budget."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from steerec.errors import ConfigError
from steerec.tuning.experiments import (
    Experiment,
    check_split,
    compare,
    cuped,
    preference,
    shadow,
    stable_share,
    team_draft,
)
from steerec.tuning.exploration import ExplorationConfig, lost_share, temperature

HALVES = Experiment("spring", {"control": 0.5, "bold": 0.3, "mild": 0.2}, "clicks_per_user")


# Arms


def test_users_fall_into_arms_by_share_and_stay_there():
    counts = Counter(HALVES.arm(f"user{i}") for i in range(20_000))
    for arm, share in HALVES.arms.items():
        assert counts[arm] / 20_000 == pytest.approx(share, abs=0.012)
    assert HALVES.arm("user7") == Experiment("spring", HALVES.arms, "other").arm("user7")


def test_the_arm_of_one_experiment_says_nothing_of_another():
    both = Counter(
        (stable_share("a", f"u{i}") < 0.5, stable_share("b", f"u{i}") < 0.5) for i in range(8_000)
    )
    assert max(both.values()) - min(both.values()) < 260


@pytest.mark.parametrize("arms", [{"a": 1.0}, {"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 0.0}])
def test_shares_that_do_not_sum_to_one_are_refused(arms):
    with pytest.raises(ConfigError, match="expected to sum to 1"):
        Experiment("x", arms, "clicks")


def test_a_broken_split_is_seen_and_a_sound_one_is_not():
    sound = check_split({"control": 5_020, "bold": 2_990, "mild": 1_990}, HALVES)
    assert sound.sound
    assert sound.p > 0.5
    broken = check_split({"control": 5_400, "bold": 2_700, "mild": 1_900}, HALVES)
    assert not broken.sound
    assert broken.p < 1e-6
    assert check_split({}, HALVES).sound
    with pytest.raises(ValueError, match="arms"):
        check_split({"other": 1}, HALVES)


# Results


def test_cuped_keeps_the_mean_and_takes_away_what_the_past_foretold():
    rng = np.random.default_rng(0)
    before = rng.normal(size=4_000)
    metric = 2.0 + 0.9 * before + rng.normal(size=4_000) * np.sqrt(1 - 0.81)
    before[:100] = np.nan
    found = cuped(metric, before)
    assert found.mean() == pytest.approx(metric.mean())
    assert found[100:].var() / metric[100:].var() == pytest.approx(1 - 0.81, abs=0.02)
    np.testing.assert_array_equal(found[:100], metric[:100])
    np.testing.assert_array_equal(cuped(metric, np.full(4_000, np.nan)), metric)


def test_arms_are_compared_with_the_first_for_all_and_by_slice():
    rng = np.random.default_rng(1)
    arm = rng.choice(["control", "bold", "mild"], 6_000, p=[0.5, 0.3, 0.2])
    new = rng.random(6_000) < 0.5
    metric = rng.normal(size=6_000) + 0.4 * ((arm == "bold") & new)
    told = compare(HALVES, arm, metric)
    told += compare(HALVES, arm[new], metric[new], part="new", n_parts=1)
    found = {(c.arm, c.slice): c for c in told}
    assert set(found) == {(a, s) for a in ("bold", "mild") for s in ("all", "new")}
    assert found["bold", "new"].difference.mean == pytest.approx(0.4, abs=0.1)
    assert found["bold", "new"].decided
    assert found["bold", "all"].decided
    assert not found["mild", "all"].decided
    assert found["bold", "all"].n == (int((arm == "bold").sum()), int((arm == "control").sum()))


def test_arms_without_a_difference_are_seldom_told_apart_at_any_look():
    rng, wrong = np.random.default_rng(2), 0
    two = Experiment("two", {"a": 0.9, "b": 0.1}, "clicks")
    for _ in range(150):
        arm = np.where(rng.random(2_000) < 0.9, "a", "b")
        metric = rng.exponential(size=2_000)
        looks = range(200, 2_001, 200)
        wrong += any(compare(two, arm[:n], metric[:n])[0].decided for n in looks)
    assert wrong / 150 <= 0.07


def test_an_arm_with_nobody_is_undecided():
    (found,) = compare(Experiment("x", {"a": 0.5, "b": 0.5}, "c"), np.array(["a"] * 9), np.ones(9))
    assert not found.decided
    assert found.n == (0, 9)


# Interleaving and shadow


@settings(max_examples=50, deadline=None)
@given(st.permutations(list("abcdefgh")), st.permutations(list("efghijkl")), st.integers(0, 99))
def test_an_interleaved_list_takes_each_teams_best_in_turn(a, b, seed):
    found = team_draft(a, b, n=8, first=np.random.default_rng(seed).random(8) < 0.5)
    assert len(set(found.items)) == 8
    for upto in range(0, 9, 2):
        assert found.team[:upto].count("a") == upto // 2
    for i, (item, team) in enumerate(zip(found.items, found.team, strict=True)):
        left = [x for x in (a if team == "a" else b) if x not in found.items[:i]]
        assert item == left[0]


def test_lists_that_end_are_drawn_as_far_as_they_go():
    assert team_draft(["x"], ["x"], n=5, first=[True] * 5).items == ("x",)
    found = team_draft(["x"], ["x", "y"], n=5, first=[True, False, True])
    assert (found.items, found.team) == (("x", "y"), ("a", "b"))


def test_a_longer_draft_goes_on_where_a_shorter_one_ended():
    first = np.random.default_rng(0).random(8) < 0.5
    long = team_draft("abcdefgh", "hgfedcba", n=8, first=first)
    for n in range(1, 8):
        assert team_draft("abcdefgh", "hgfedcba", n=n, first=first).items == long.items[:n]


def test_equal_rankings_tie_on_average():
    rng, total = np.random.default_rng(3), 0
    for _ in range(2_000):
        found = team_draft("abcd", "abcd", n=4, first=rng.random(4) < 0.5)
        total += 1 if found.team[0] == "a" else -1
    assert abs(total) < 180


def test_the_preferred_team_is_found_by_signs_and_by_an_interval():
    a = np.array([1.0] * 10 + [0.0] * 40 + [2.0] * 5)
    b = np.array([0.0] * 10 + [1.0] * 40 + [2.0] * 5)
    found = preference(a, b)
    assert (found.a, found.b, found.ties) == (10, 40, 5)
    assert found.difference.mean == pytest.approx(30 / 55)
    assert found.anytime_p < 0.01
    nobody = preference(np.zeros(0), np.zeros(0))
    assert (nobody.ties, nobody.anytime_p, nobody.difference.low) == (0, 1.0, -np.inf)


def test_the_sign_test_may_be_looked_at_after_each_user():
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(200):
        won = rng.random(400) < 0.5
        looks = range(20, 401, 20)
        wrong += any(preference(won[:n] * 1.0, ~won[:n] * 1.0).anytime_p < 0.05 for n in looks)
    assert wrong / 200 <= 0.07


def test_a_shadow_list_is_compared_with_the_one_shown():
    found = shadow(["a", "b", "c", "d"], ["a", "c", "x", "b"])
    assert found.overlap == 0.75
    assert found.new == ("x",)
    weights = 0.9 ** np.arange(4)
    by_hand = weights @ np.array([1, 1 / 2, 2 / 3, 3 / 4]) / weights.sum()
    assert found.rank_overlap == pytest.approx(by_hand)
    assert shadow([], []).overlap == 1.0


# Exploration


def reference(seed=5):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(40, 25)) * 1.5
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    return scores, special.expit(scores - 2.0)


def test_the_temperature_spends_the_budget_of_the_scenario():
    scores, reward = reference()
    config = ExplorationConfig(budget=0.05, scenarios={"checkout": 0.01})
    found = temperature(scores, reward, scenario=None, config=config)
    assert lost_share(scores, reward, found) == pytest.approx(0.05, abs=1e-4)
    careful = temperature(scores, reward, scenario="checkout", config=config)
    assert lost_share(scores, reward, careful) == pytest.approx(0.01, abs=1e-4)
    free = ExplorationConfig(budget=0.99)
    assert temperature(scores, reward, scenario=None, config=free) == free.highest
    none = ExplorationConfig(budget=0.0)
    assert temperature(scores, reward, scenario=None, config=none) == pytest.approx(none.lowest)


def test_the_loss_is_as_by_hand_and_excluded_items_have_no_part_in_it():
    scores = np.array([[1.0, 0.0, -np.inf]])
    reward = np.array([[0.4, 0.2, 9.0]])
    p = 1 / (1 + np.exp(-2.0))
    assert lost_share(scores, reward, 0.5) == pytest.approx(1 - (p * 0.4 + (1 - p) * 0.2) / 0.4)


def test_a_whole_list_loses_less_than_its_first_place():
    scores, reward = reference(6)
    rng = np.random.default_rng(7)
    discount = np.arange(1, 11) ** -0.7
    best = -np.sort(-np.where(np.isfinite(scores), reward, 0.0), axis=1)[:, :10] @ discount
    drawn = 0.0
    for _ in range(200):
        noisy = scores / 0.5 + rng.gumbel(size=scores.shape)
        order = np.argsort(-noisy, axis=1)[:, :10]
        drawn += (np.take_along_axis(reward, order, axis=1) @ discount).sum() / 200
    assert 0 < 1 - drawn / best.sum() < lost_share(scores, reward, 0.5)


def test_a_request_without_an_item_that_may_be_shown_is_an_error():
    with pytest.raises(ValueError, match="needs an item"):
        temperature(
            np.full((1, 3), -np.inf), np.ones((1, 3)), scenario=None, config=ExplorationConfig()
        )
    with pytest.raises(ConfigError, match="in \\[0, 1\\)"):
        ExplorationConfig(budget=1.0)
