"""Rewards: what reactions are worth, which shown item they belong to, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.errors import ConfigError
from steerec.tuning.joining import Joiner, Reaction, Shown
from steerec.tuning.reward import Constraint, Outcome, Prices, RewardConfig

T0 = 1_700_000_000.0
CLICKS = RewardConfig(
    outcomes={"click": Outcome(0.25), "purchase": Outcome(1.0), "dislike": Outcome(-0.5)}
)


def page(request="r1", user="ann", items=("a", "b", "c"), time=T0, **more):
    n = len(items)
    return Shown(request, user, items, time, np.ones((n, 2)), np.ones(1), **more)


def click(event="e1", item="b", time=T0 + 10, request="r1", **more):
    told = {"kind": "click", "user_id": "ann", **more}
    return Reaction(event, item_id=item, time=time, request_id=request, **told)


def joined(*reactions, config=CLICKS):
    """Rewards of the page after these reactions, and the joiner."""
    joiner = Joiner(config)
    joiner.show(page(), T0)
    for reaction in reactions:
        joiner.react(reaction, T0 + 100)
    (found,) = joiner.close(T0 + 1_800)
    return found.reward.tolist(), joiner.counts


# What a reaction is worth


def test_values_of_ratings_and_dwell_are_worth_a_share_of_the_weight():
    config = RewardConfig()
    assert config.of({"rating": 5.0}) == 0.5
    assert config.of({"rating": 1.0}) == -0.5
    assert config.of({"rating": 3.0}) == 0.0
    assert config.of({"dwell": 15.0}) == pytest.approx(0.05)
    assert config.of({"dwell": 600.0}) == pytest.approx(0.2)
    assert config.of({"dwell": None}) == 0.0


def test_a_reward_stays_within_one():
    config = RewardConfig()
    assert config.of({"click": None, "cart": None, "purchase": None}) == 1.0
    assert config.of({"dislike": None, "return": None, "rating": 1.0}) == -1.0


def test_a_skip_says_nothing_beside_a_click():
    config = RewardConfig()
    assert config.of({"skip": None}) == -0.05
    assert config.of({"skip": None, "click": None}) == 0.2


def test_a_scenario_has_weights_of_its_own():
    config = RewardConfig(scenarios={"news": {"click": Outcome(1.0)}})
    assert config.of({"click": None}, scenario="news") == 1.0
    assert config.of({"click": None}, scenario="shop") == 0.2


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="window_s above 0"):
        Outcome(1.0, window_s=0.0)
    with pytest.raises(ConfigError, match="finite"):
        Outcome(float("nan"))
    with pytest.raises(ConfigError, match="margin measures \\['margins'\\]"):
        RewardConfig(constraints=(Constraint("margin", {"margins": 1.0}, 0.1),))


# Joining


def test_a_click_is_joined_to_its_place_by_request_id():
    assert joined(click()) == ([0.0, 0.25, 0.0], {"joined": 1})


def test_a_click_without_request_id_goes_to_the_newest_page_that_showed_the_item():
    joiner = Joiner(CLICKS)
    joiner.show(page("r1", items=("a", "b")), T0)
    (closed,) = joiner.show(page("r2", items=("b", "c"), time=T0 + 60), T0 + 60)
    assert closed.reward.tolist() == [0.0, 0.0]
    joiner.react(click(request=None, time=T0 + 90), T0 + 90)
    late = joiner.react(click("e2", item="a", request=None, time=T0 + 95), T0 + 95)
    assert late.shown.request_id == "r1"
    assert late.reward.tolist() == [0.25, 0.0]
    (second,) = joiner.close(T0 + 2_000)
    assert second.reward.tolist() == [0.25, 0.0]


def test_each_kind_counts_once_and_the_newest_value_of_a_rating_wins():
    config = RewardConfig()
    good = click("e1", kind="rating", value=5.0, time=T0 + 50)
    bad = click("e2", kind="rating", value=1.0, time=T0 + 20)
    assert joined(good, bad, config=config)[0] == joined(bad, good, config=config)[0]
    assert joined(good, bad, config=config)[0] == [0.0, 0.5, 0.0]
    assert joined(click("e1"), click("e2"))[0] == [0.0, 0.25, 0.0]


def test_contradictory_reactions_add_up():
    assert joined(click(), click("e2", kind="dislike"))[0] == [0.0, -0.25, 0.0]


@pytest.mark.parametrize(
    ("reaction", "reason"),
    [
        (click(request="other"), "unknown"),
        (click(item="z"), "unknown"),
        (click(user_id="eve"), "unknown"),
        (click(request=None, user_id=None), "unknown"),
        (click(time=T0 + 401), "from_the_future"),
        (click(time=T0 - 61), "unknown"),
        (click(time=float("nan")), "not_finite"),
        (click(value=float("inf")), "not_finite"),
        (click(kind="sneeze"), "kind_not_counted"),
    ],
)
def test_a_reaction_that_cannot_be_used_is_counted_and_changes_nothing(reaction, reason):
    assert joined(reaction) == ([0.0, 0.0, 0.0], {reason: 1})


def test_the_same_event_twice_counts_once():
    rewards, counts = joined(click(), click())
    assert rewards == [0.0, 0.25, 0.0]
    assert counts == {"joined": 1, "repeated": 1}


def test_a_page_closes_at_the_next_request_or_after_half_an_hour():
    joiner = Joiner(CLICKS)
    assert joiner.show(page("r1"), T0) == []
    assert joiner.show(page("x1", user="bob", time=T0 + 5), T0 + 5) == []
    (one,) = joiner.show(page("r2", time=T0 + 9), T0 + 9)
    assert (one.shown.request_id, one.late) == ("r1", False)
    assert joiner.close(T0 + 1_804) == []
    assert [o.shown.request_id for o in joiner.close(T0 + 1_806)] == ["x1"]
    assert [o.shown.request_id for o in joiner.close(T0 + 1_810)] == ["r2"]
    assert joiner.close(T0 + 1_820) == []


def test_a_late_purchase_adds_its_difference_once():
    joiner = Joiner(CLICKS)
    joiner.show(page(start=10), T0)
    joiner.react(click(), T0 + 10)
    (closed,) = joiner.close(T0 + 1_800)
    bought = click("e2", kind="purchase", time=T0 + 5_000)
    late = joiner.react(bought, T0 + 5_000)
    assert late.late
    assert late.reward.tolist() == [0.0, 0.75, 0.0]  # .25 + 1, cut to 1, less the .25 told before
    assert joiner.react(bought, T0 + 5_001) is None
    assert closed.observed().position.tolist() == [11, 12, 13]
    assert joiner.react(click("e3", kind="purchase", time=T0 + 90_000), T0 + 90_000) is None
    assert joiner.counts["too_late"] == 1


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_rewards_add_up_to_the_same_whatever_comes_late(order, closed_after):
    reactions = [
        click(f"e{i}", item="abc"[i % 3], kind=("click", "purchase", "dislike")[i // 2])
        for i in range(6)
    ]
    joiner = Joiner(CLICKS)
    joiner.show(page(), T0)
    total = np.zeros(3)
    for at, i in enumerate([*order, None]):
        if at == closed_after:
            total += joiner.close(T0 + 1_800)[0].reward
        late = joiner.react(reactions[i], T0 + 1_900) if i is not None else None
        total += late.reward if late else 0.0
    at_once = joined(*reactions)[0]
    np.testing.assert_allclose(total, at_once, atol=1e-12)


def test_a_page_shown_twice_or_from_the_future_is_left_out():
    joiner = Joiner(CLICKS)
    joiner.show(page(), T0)
    joiner.show(page(), T0)
    joiner.show(page("r9", time=T0 + 301), T0)
    joiner.show(page("r8", items=()), T0)
    assert len(joiner) == 1
    assert joiner.counts == {"shown_twice": 1, "shown_from_the_future": 1, "shown_unusable": 1}


def test_memory_is_bounded_by_number_and_by_age():
    config = RewardConfig(outcomes=CLICKS.outcomes, most_kept=50, late_s=7_200.0)
    joiner, closed = Joiner(config), 0
    for i in range(1_000):
        closed += len(joiner.show(page(f"r{i}", user=f"u{i % 300}", time=T0 + i), T0 + i))
    assert len(joiner) == 50
    assert closed == 950
    closed += len(joiner.close(T0 + 9_000))
    assert (closed, len(joiner)) == (1_000, 0)
    assert not joiner._pages
    assert not joiner._of_user
    assert not joiner._open


def test_a_clock_set_back_closes_nothing_early_and_a_leap_closes_all():
    joiner = Joiner(CLICKS)
    joiner.show(page(), T0)
    assert joiner.close(T0 - 1e6) == []
    assert len(joiner.close(T0 + 1e4)) == 1
    late = joiner.react(click(), T0 + 20)
    assert late.reward.tolist() == [0.0, 0.25, 0.0]


def test_a_forgotten_user_teaches_nothing_more():
    joiner = Joiner(CLICKS)
    joiner.show(page(), T0)
    joiner.forget("ann")
    assert joiner.close(T0 + 1e4) == []
    assert joiner.react(click(), T0 + 20) is None
    assert joiner.counts == {"unknown": 1}


# Constraints


def test_a_price_rises_while_the_floor_is_missed_and_falls_back_to_nothing():
    returns = Constraint("returns", {"purchase": 0.1, "return": -1.0}, 0.0)
    config = RewardConfig(constraints=(returns,), price_step=0.5, most_price=2.0)
    prices = Prices.start(config)
    prices = prices.after({"purchase": 1.0, "return": 1.0})
    assert prices.values == pytest.approx((0.45,))
    assert prices.by_kind() == pytest.approx({"purchase": 0.045, "return": -0.45})
    assert config.of({"return": None}, prices=prices) == pytest.approx(-0.95)
    assert prices.after({"return": 9.0}).values == (2.0,)
    assert prices.after({"purchase": 20.0}).values == (0.0,)


def test_prices_steer_the_choice_to_the_floor():
    # Item a: 1 click, margin 0; item b: .6 clicks, margin 1; floor .5 of margin a slate.
    outcomes = {"click": Outcome(1.0), "margin": Outcome(0.0, full=1.0)}
    margin = Constraint("margin", {"margin": 1.0}, 0.5)
    config = RewardConfig(outcomes=outcomes, constraints=(margin,), price_step=0.01)
    prices, had = Prices.start(config), []
    for _ in range(2_000):
        price = prices.by_kind()["margin"]
        totals = {"click": 0.6, "margin": 1.0} if 0.6 + price > 1.0 else {"click": 1.0}
        had.append(totals.get("margin", 0.0))
        prices = prices.after(totals)
    assert np.mean(had[500:]) == pytest.approx(0.5, abs=0.02)
    assert prices.values[0] == pytest.approx(0.4, abs=0.02)


def test_late_returns_move_the_price_too():
    returns = Constraint("returns", {"return": -1.0}, -0.1)
    outcomes = {"return": Outcome(-0.5, 30 * 86_400.0)}
    config = RewardConfig(outcomes=outcomes, constraints=(returns,), price_step=0.5)
    joiner = Joiner(config)
    joiner.show(page(), T0)
    joiner.close(T0 + 1_800)
    assert joiner.prices.values == (0.0,)
    late = joiner.react(click(kind="return", time=T0 + 1e5), T0 + 1e5)
    assert late.reward.tolist() == [0.0, -0.5, 0.0]  # at the prices when it was closed
    assert joiner.prices.values == (0.5,)
