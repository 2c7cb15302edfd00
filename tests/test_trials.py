"""Experiments on live traffic: arms, what they show, what they teach the tuner, and the verdict."""

from collections import Counter
from dataclasses import asdict, replace

import msgspec
import numpy as np
import pytest

from steerec.contracts import Event, Query
from steerec.engine.experiments import follow_experiments, start
from steerec.engine.interleave import draw_both
from steerec.engine.logged import rewarded
from steerec.engine.offline import slates_of
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy, replay
from steerec.engine.strategies import from_json
from steerec.engine.trials import Arm, Plan, applied, plan_of
from steerec.engine.verdicts import Case, verdict
from steerec.errors import ConfigError, DataError
from steerec.store import open_store
from steerec.store.log import LoggedEvent
from test_online import BEGAN, CONFIG, TUNING, live_over

STILL = replace(CONFIG, tuning=replace(TUNING, on=False))
REWARD = TUNING.reward
HALVES = (Arm("as it is", 0.5), Arm("bold", 0.5, weights={"content.bias": 3.0}))


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    yield store
    store.close()


def begun(store, plan, config=STILL, now=BEGAN):
    """A live engine with an experiment under way."""
    live = live_over(store, config, now=now)
    start(store, "shop", plan, REWARD, author="ann", now=now)
    follow_experiments(live, store)
    return live


def ask(live, user, at, now=BEGAN, **query):
    return live.recommend(Query(user, n=5, **query), request_id=f"r{at}", now=now)


def arm_of(live, user, scenario=None):
    """The arm that would answer, without a list."""
    given = live.online.given(user)
    policy = Policy(SamplerConfig(temperature=1.0), given.theta, epoch=given.epoch, arm=given.arm)
    query = Query(user, scenario=scenario)
    return applied(live.trials, policy, query, request_id="r", now=BEGAN)


def visit(store, live, users, clicks, *, now=BEGAN + 10, name="r"):
    """Each user asks once and clicks the items that `clicks` says; the log is told."""
    events = []
    for at, user in enumerate(users):
        served = live.recommend(Query(user, n=5), request_id=f"{name}{at}", now=now + at)
        store.shown.append("shop", served.impression)
        for item in clicks(user, served):
            event = Event(user, item, "click", timestamp=now + at + 0.1)
            events.append(LoggedEvent(f"{name}{at}-{item}", event, f"{name}{at}"))
    if events:
        store.log.append("shop", events, now=now + len(users))
    return now + len(users)


def told(store, plan, now, config=REWARD):
    found = verdict(Case(store, "shop", store.experiments.get("shop", plan.name), config, now))
    msgspec.json.encode(asdict(found))  # as it goes over HTTP
    return found


# Arms


def test_an_arm_with_other_weights_is_a_version_of_its_own(store):
    live = begun(store, Plan("spring", HALVES))
    made = store.strategies.get("shop", 2)
    assert (made.author, made.parents) == ("experiment spring", (1,))
    assert made.diff["weights"]["content.bias"][1] == 3.0
    assert store.strategies.current("shop").version == 1
    arms = {u: ask(live, f"u{u}", u).slate for u in range(40)}
    bold = {u: one for u, one in arms.items() if one.arm == "spring/bold"}
    assert 8 < len(bold) < 32
    assert {one.strategy_version for one in bold.values()} == {2}
    assert {one.arm for one in arms.values()} == {"spring/bold", "live"}
    column = live.model.strategy.features.index("bias")
    row = live.model.strategy.heads.index("content")
    shown = ask(live, f"u{min(bold)}", 999).impression
    theta = np.array(made.strategy["theta"])
    assert theta[row, column] == 3.0
    np.testing.assert_allclose(shown.w[:-1], theta @ shown.phi, rtol=1e-5)
    assert shown.more["experiment_arm"] == "bold"


def test_a_user_has_the_same_arm_after_a_restart_and_in_every_process(store):
    live = begun(store, Plan("spring", HALVES))
    other = live_over(store, STILL)
    follow_experiments(other, store)
    for user in range(40):
        assert ask(live, f"u{user}", user).slate == ask(other, f"u{user}", user).slate


def test_only_the_scenario_and_the_share_of_users_that_were_planned_take_part(store):
    live = begun(store, Plan("spring", HALVES, scenario="home", traffic=0.5))
    users = [f"u{u}" for u in range(200)]
    for wanted, most in (("home", 130), ("cart", 0), (None, 0)):
        inside = sum("experiment" in arm_of(live, u, wanted).told for u in users)
        assert inside <= most
        assert (inside > 70) == (most > 0)
    assert "experiment" not in ask(live, None, 0, scenario="home").impression.more


def test_after_its_end_and_when_stopped_everybody_gets_what_is_in_force(store):
    live = begun(store, Plan("spring", HALVES, ends=BEGAN + 100))
    users = [f"u{u}" for u in range(30)]
    assert any(ask(live, u, 0, now=BEGAN + 99).slate.arm != "live" for u in users)
    assert all(ask(live, u, 0, now=BEGAN + 100).slate.arm == "live" for u in users)
    store.experiments.stop("shop", "spring", now=BEGAN + 50)
    follow_experiments(live, store)
    assert all(ask(live, u, 0, now=BEGAN + 60).slate.arm == "live" for u in users)


def test_of_two_experiments_a_user_is_in_the_older_one(store):
    live = begun(store, Plan("one", HALVES, traffic=0.5))
    start(store, "shop", Plan("two", HALVES), REWARD, author="ann", now=BEGAN + 1)
    follow_experiments(live, store)
    names = [arm_of(live, f"u{u}").told["experiment"] for u in range(200)]
    assert 70 < names.count("one") < 130
    assert names.count("one") + names.count("two") == 200


def test_dials_of_an_arm_change_how_the_list_is_drawn(store):
    arms = (Arm("as it is", 0.5), Arm("sure", 0.5, dials={"temperature": 0.0}))
    live = begun(store, Plan("dials", arms))
    for user in range(30):
        served = ask(live, f"u{user}", user)
        sure = served.slate.arm == "dials/sure"
        assert served.impression.more["temperature"] == (0.0 if sure else 1.0)
        assert (served.impression.propensity == 1).all() == sure


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (lambda: Plan("x", (Arm("a", 0.5), Arm("b", 0.6))), "expected to sum to 1"),
        (lambda: Plan("x", (Arm("a", 0.5), Arm("a", 0.5))), "different names"),
        (lambda: Plan("x", (Arm("a", 1.0),)), "expected to sum to 1"),
        (lambda: Plan("a/b", HALVES), "without a slash"),
        (lambda: Plan("x", HALVES, traffic=0.0), "traffic=0.0"),
        (lambda: Plan("x", (*HALVES, Arm("c", 0.5)), kind="interleave"), "exactly two arms"),
        (lambda: Arm("a", 0.5, dials={"size": 1.0}), "dials"),
        (lambda: Arm("a", 0.5, dials={"temperature": -1.0}), "temperature"),
        (lambda: plan_of({"name": "x", "arms": "none"}), "Expected `array`"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan, what):
    with pytest.raises(ConfigError, match=what):
        plan()


@pytest.mark.parametrize(
    ("plan", "error", "what"),
    [
        (Plan("x", HALVES, metric="joy"), ConfigError, "metric 'joy'.*click"),
        (Plan("x", HALVES, ends=BEGAN - 1), ConfigError, "is over"),
        (Plan("x", (Arm("a", 0.5), Arm("b", 0.5, version=9))), DataError, "version 9"),
        (
            Plan("x", (Arm("a", 0.5), Arm("b", 0.5, weights={"joy.bias": 1.0}))),
            DataError,
            "HEAD.FEATURE",
        ),
        (
            Plan("x", (Arm("a", 0.5), Arm("b", 0.5, weights={"trending.unseen_item": 1.0}))),
            DataError,
            "would change no list",
        ),
        (Plan("taken", HALVES), DataError, "exists already"),
    ],
)
def test_an_experiment_that_cannot_start_leaves_nothing_behind(store, plan, error, what):
    begun(store, Plan("taken", HALVES))
    before = len(store.strategies.history("shop"))
    with pytest.raises(error, match=what):
        start(store, "shop", plan, REWARD, author="ann", now=BEGAN)
    assert len(store.strategies.history("shop")) == before
    assert [one.name for one in store.experiments.list("shop")] == ["taken"]


# Beside the tuner


def test_the_control_arm_goes_on_among_those_who_get_what_is_in_force(store):
    config = replace(CONFIG, tuning=TUNING)
    live = begun(store, Plan("spring", HALVES), config)
    arms = [arm_of(live, f"u{u}").arm for u in range(1_000)]
    assert 400 < arms.count("spring/bold") < 600
    assert 10 < arms.count("control") < 45  # 5 % of the other half
    assert arms.count("live") + arms.count("control") + arms.count("spring/bold") == 1_000


def test_slates_of_all_arms_teach_and_only_the_tuners_own_are_compared(store):
    config = replace(CONFIG, tuning=TUNING)
    live = begun(store, Plan("spring", HALVES), config)
    users = [f"u{u}" for u in range(80)]
    now = visit(store, live, users, lambda user, served: [served.slate.items[0].item_id])
    live.tune(now=now + 4_000)
    own = sum(shown.arm in ("live", "control") for shown in store.shown.read("shop"))
    assert live.online.counts["learnt"] == 80
    assert live.online.watch.live.n + live.online.watch.control.n == own < 80


# The verdict


def in_bold(user):
    return plan_arm(user) == "bold"


def plan_arm(user):
    return Plan("spring", HALVES).split().arm(user)


def test_the_better_arm_is_found_and_its_figures_are_those_of_the_log(store):
    plan = Plan("spring", HALVES, metric="click", least_users=50)
    live = begun(store, plan)
    users = [f"u{u}" for u in range(150)]

    def clicks(user, served):
        n = (2 if in_bold(user) else 1) if int(user[1:]) % 3 else 0
        return [choice.item_id for choice in served.slate.items[:n]]

    now = visit(store, live, users, clicks)
    found = told(store, plan, now + 4_000)
    by_hand = {
        arm: [
            ((2 if arm == "bold" else 1) if int(u[1:]) % 3 else 0)
            for u in users
            if plan_arm(u) == arm
        ]
        for arm in ("as it is", "bold")
    }
    for arm in found.arms:
        assert arm.users == arm.slates == len(by_hand[arm.arm])
        assert arm.mean.mean == pytest.approx(np.mean(by_hand[arm.arm]))
        assert arm.mean.low < arm.mean.mean < arm.mean.high
    everyone = found.comparisons[0]
    wanted = np.mean(by_hand["bold"]) - np.mean(by_hand["as it is"])
    assert everyone.difference.mean == pytest.approx(wanted)
    assert everyone.decided
    assert found.better == "bold"
    assert "bold is better than as it is" in found.conclusion
    assert found.split.sound
    assert found.state == "running"
    assert {c.slice for c in found.comparisons} == {"all", "history: none"}


def test_before_the_planned_number_of_users_nothing_is_concluded(store):
    plan = Plan("spring", HALVES, metric="click", least_users=1_000)
    live = begun(store, plan)
    users = [f"u{u}" for u in range(100)]
    now = visit(store, live, users, lambda u, s: [s.slate.items[0].item_id] if in_bold(u) else [])
    found = told(store, plan, now + 4_000)
    assert found.better is None
    assert found.conclusion.startswith("too early")


def test_a_broken_split_is_told_and_nothing_is_concluded(store):
    plan = Plan("spring", HALVES, metric="click", least_users=10)
    live = begun(store, plan)
    # One arm's requests get lost: three of four users of "as it is" are never logged.
    users = [u for u in (f"u{u}" for u in range(240)) if in_bold(u) or int(u[1:]) % 4 == 0]
    now = visit(store, live, users, lambda u, s: [s.slate.items[0].item_id] if in_bold(u) else [])
    found = told(store, plan, now + 4_000)
    assert not found.split.sound
    assert found.better is None
    assert "the split is broken" in found.conclusion


def test_the_past_of_users_makes_the_interval_narrower(store):
    plan = Plan("spring", HALVES, metric="click")
    live = live_over(store, STILL)
    users = [f"u{u}" for u in range(80)]
    keen = {u: int(u[1:]) % 4 for u in users}

    def clicks(user, served):
        return [choice.item_id for choice in served.slate.items[: keen[user]]]

    now = visit(store, live, users, clicks, name="before") + 4_000
    start(store, "shop", plan, REWARD, author="ann", now=now)
    follow_experiments(live, store)
    now = visit(store, live, users, clicks, now=now + 1)
    found = told(store, plan, now + 4_000)
    assert found.foretold > 0.99
    low, high = found.comparisons[0].difference.low, found.comparisons[0].difference.high
    assert high - low < 0.1
    assert found.better is None


def test_an_erased_user_is_in_no_result(store):
    plan = Plan("spring", HALVES, metric="click")
    live = begun(store, plan)
    users = [f"u{u}" for u in range(40)]
    now = visit(store, live, users, lambda u, s: [s.slate.items[0].item_id])
    store.persons.erase("shop", "u7", now=now)
    found = told(store, plan, now + 4_000)
    assert sum(arm.users for arm in found.arms) == 39


def test_slates_shown_after_the_stop_do_not_count(store):
    plan = Plan("spring", HALVES, metric="click")
    live = begun(store, plan)
    now = visit(store, live, [f"u{u}" for u in range(20)], lambda u, s: [])
    store.experiments.stop("shop", "spring", now=now, reason="seen enough")
    later = visit(store, live, [f"v{u}" for u in range(20)], lambda u, s: [], now=now, name="s")
    found = told(store, plan, later + 4_000)
    assert found.state == "stopped"
    assert sum(arm.users for arm in found.arms) == 20


# Interleaving


def both_worth(shown):
    """(n_pool,) of both teams, as logged."""
    z = shown.scores.astype(np.float64)
    return z @ shown.w.astype(np.float64), z @ np.array(shown.more["w_other"])


def test_an_interleaved_list_replays_and_its_propensities_are_those_of_the_teams_turn(store):
    live = begun(store, Plan("mix", HALVES, kind="interleave", metric="click"))
    for user in range(12):
        shown = ask(live, f"u{user}", user).impression
        assert shown.arm == "mix/both"
        assert sorted(shown.more["teams"][:2]) == ["a", "b"]
        again = replay(shown, n=5)
        assert tuple(shown.pool[at] for at in again.places) == shown.items
        np.testing.assert_array_equal(again.propensity, shown.propensity)
        longer = replay(shown, n=9)
        assert longer.places[:5].tolist() == again.places.tolist()
        left = np.ones(len(shown.pool), bool)
        worth = both_worth(shown)
        for place, team, told in zip(
            again.places, shown.more["teams"], shown.propensity, strict=True
        ):
            rate = np.exp(worth["ab".index(team)])
            assert told == pytest.approx(rate[place] / rate[left].sum(), rel=1e-4)
            left[place] = False


def test_propensities_of_mixed_lists_are_their_frequencies():
    one, other = np.log([6.0, 3.0, 1.0]), np.log([1.0, 2.0, 7.0])
    firsts, seconds = Counter(), Counter()
    for seed in range(4_000):
        drawn, teams = draw_both((one, other), n=2, temperature=1.0, seed=seed)
        firsts[teams[0], int(drawn.places[0])] += 1
        if (teams[0], int(drawn.places[0])) == ("a", 2):
            seconds[int(drawn.places[1])] += 1
    of_a = np.array([firsts["a", item] for item in range(3)])
    assert of_a.sum() == pytest.approx(2_000, abs=130)
    np.testing.assert_allclose(of_a / of_a.sum(), [0.6, 0.3, 0.1], atol=0.04)
    # The second place is the other team's, drawn from what is left.
    assert seconds[0] / seconds.total() == pytest.approx(1 / 3, abs=0.13)


def test_clicks_are_credited_to_the_arm_that_brought_the_item(store):
    plan = Plan("mix", HALVES, kind="interleave", metric="click", least_users=40)
    live = begun(store, plan)
    users = [f"u{u}" for u in range(60)]

    def of_bold(user, served):
        teams = served.impression.more["teams"]
        return [
            item for item, team in zip(served.impression.items, teams, strict=True) if team == "b"
        ]

    now = visit(store, live, users, of_bold)
    found = told(store, plan, now + 4_000)
    assert (found.preference.a, found.preference.b, found.preference.ties) == (0, 60, 0)
    assert found.preference.difference.mean == 1.0
    assert found.better == "bold"
    rows = rewarded(store, "shop", REWARD, newest=100, since=0.0, now=now + 4_000)
    current = store.strategies.current("shop")
    slates, left_out = slates_of(rows, from_json(current.strategy, 1))
    assert (slates, left_out) == (None, 60)  # no single softmax drew them


# Shadows


def test_a_shadow_is_logged_and_changes_nothing_that_is_shown(store):
    live, plain = live_over(store, STILL), live_over(store, STILL)
    bold = Arm("bold", 0.5, weights={"content.bias": 3.0}, shadow=True)
    start(store, "shop", Plan("dark", (bold,)), REWARD, author="ann", now=BEGAN)
    follow_experiments(live, store)
    told = 0
    for at in range(40):
        shown, other = (ask(one, f"u{at}", at) for one in (live, plain))
        assert shown.slate == other.slate
        lists = shown.impression.more.get("shadows", {})
        told += len(lists)
        assert set(lists) <= {"dark/bold"}
        assert all(len(ids) == 5 for ids in lists.values())
    assert 8 < told < 32


def test_a_shadow_with_the_same_weights_would_show_the_same(store):
    same = Arm("same", 1.0, version=1, shadow=True)
    plan = Plan("dark", (same,), metric="click")
    live = begun(store, plan)
    now = visit(store, live, [f"u{u}" for u in range(30)], by_place)
    (found,) = told(store, plan, now + 4_000).shadows
    assert (found.slates, found.overlap, found.rank_overlap) == (30, 1.0, 1.0)
    assert found.estimate.estimate == pytest.approx(0.0, abs=1e-9)


def by_place(user, served):
    return [served.slate.items[0].item_id]


def test_a_shadow_that_people_would_like_better_is_estimated_above_what_was_shown(store):
    bold = Arm("bold", 1.0, weights={"content.bias": 3.0}, shadow=True)
    plan = Plan("dark", (bold,), metric="click")
    live = begun(store, plan)
    users = [str(user) for user in live.model.data.user_ids]  # with a history to speak of

    def of_content(user, served):
        return [c.item_id for c in served.slate.items if c.sources.get("content", 0.0) > 0.05]

    now = visit(store, live, users, of_content)
    (found,) = told(store, plan, now + 4_000).shadows
    assert 0 < found.overlap < 1
    assert found.estimate.estimate > 0
