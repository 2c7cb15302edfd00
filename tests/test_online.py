"""Online tuning over the log: clicks move the head weights, a restart loses and doubles nothing."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine_worlds import model, own
from steerec.contracts import Event, Query
from steerec.engine.held import held_of
from steerec.engine.live import Live
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.online import CONTROL, LIVE, Online, TuningConfig
from steerec.engine.strategies import ensure_promoted, follow_current, from_json
from steerec.store import open_store
from steerec.store.epochs import Cut
from steerec.store.log import LoggedEvent
from steerec.tuning.exploration import ExplorationConfig, lost_share
from steerec.tuning.guard import GuardConfig, Watch
from steerec.tuning.learner import LearnerConfig

SURE = LearnerConfig(trust=1.0)  # these people answer each slate anew
TUNING = TuningConfig(
    precision=5.0, learner=SURE, guard=GuardConfig(most_nats=1.0, user_day_rows=1e6)
)
CONFIG = LiveConfig(default=ScenarioConfig(temperature=1.0), tuning=TUNING)
BEGAN = 2e9


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    yield store
    store.close()


def live_over(store, config=CONFIG, now=BEGAN):
    live = Live("shop", store, own(), config, now=now)
    ensure_promoted(live, store, now=now)
    return live


def visits(store, live, n, *, now=BEGAN, first=0, clicks=None):
    """People who click what one head speaks for; the log alone is told."""
    rng = np.random.default_rng(first)
    users = live.model.data.user_ids
    for at in range(first, first + n):
        now += 2.0
        user = str(users[rng.integers(len(users))])
        served = live.recommend(Query(user, n=5), request_id=f"r{at}", now=now)
        store.shown.append("shop", served.impression)
        liked = [c.item_id for c in served.slate.items if clicks is None or clicks(c)]
        events = [
            LoggedEvent(f"e{at}-{item}", Event(user, item, "click", timestamp=now + 0.5), f"r{at}")
            for item in liked
        ]
        if events:
            store.log.append("shop", events, now=now + 1)
    return now


def by_content(choice):
    return choice.sources.get("content", 0.0) > 0.05


def weight(live, store, name):
    """The mean weight of a head over the requests so far, live less promoted."""
    phi = np.mean([shown.phi for shown in store.shown.iterate("shop")], axis=0)
    row = live.model.strategy.heads.index(name)
    return float((live.online.epoch.theta - live.online.promoted.theta)[row] @ phi)


def test_clicks_on_what_one_head_favours_raise_its_weight(store):
    live = live_over(store)
    for part in range(6):
        now = visits(store, live, 40, now=BEGAN + 100 * part, first=40 * part, clicks=by_content)
        live.tune(now=now)
    assert live.online.epoch.number > 0
    assert weight(live, store, "content") > 0.1
    assert live.online.counts["impressions"] == 240
    assert np.isfinite(live.online.epoch.theta).all()


def test_a_slate_tells_the_epoch_it_was_made_with(store):
    live = live_over(store)
    now = visits(store, live, 60, clicks=by_content)
    live.tune(now=now + 4_000)
    served = live.recommend(Query("someone", n=3), request_id="late", now=now + 4_001)
    assert live.online.epoch.number == 1
    assert served.slate.epoch == (1 if served.slate.arm == LIVE else 0)
    assert served.impression.epoch == served.slate.epoch


def test_after_a_restart_tuning_goes_on_and_counts_nothing_twice(store):
    live = live_over(store)
    now = visits(store, live, 60, clicks=by_content)
    live.tune(now=now)
    live.online.keep(now)
    again = live_over(store, now=now)
    assert np.array_equal(again.online.epoch.theta, live.online.epoch.theta)
    now = visits(store, live, 20, now=now, first=60, clicks=by_content)
    for one in (live, again):
        one.tune(now=now + 4_000)
    assert again.online.counts == live.online.counts
    assert again.online.counts["learnt"] == 80


def test_a_purchase_after_the_restart_still_reaches_a_slate_shown_before(store):
    live = live_over(store)
    now = visits(store, live, 3, clicks=lambda choice: False)
    shown = store.shown.get("shop", "r2")[0]
    live.tune(now=now + 4_000)
    live.online.keep(now + 4_000)
    bought = Event(shown.user_id, shown.items[0], "purchase", timestamp=now + 4_100)
    store.log.append("shop", [LoggedEvent("late", bought, "r2")], now=now + 4_100)
    again = live_over(store, now=now + 4_200)
    again.tune(now=now + 4_200)
    assert again.online.counts["late"] == 1


def test_a_damaged_checkpoint_starts_from_the_promoted_strategy(store):
    live = live_over(store)
    live.tune(now=visits(store, live, 20))
    live.online.keep(BEGAN + 100)
    kept = store.checkpoints.get("shop", "tuner")
    store.checkpoints.put("shop", "tuner", replace(kept, body=kept.body[:-50]))
    again = live_over(store, now=BEGAN + 200)
    assert again.online.epoch.number == 0
    assert np.array_equal(again.online.epoch.theta, again.online.promoted.theta)


def test_the_control_arm_is_a_fixed_share_on_the_promoted_strategy(store):
    live = live_over(store)
    live.tune(now=visits(store, live, 40, clicks=by_content) + 4_000)
    given = {f"u{i}": live.online.given(f"u{i}") for i in range(2_000)}
    control = [user for user, one in given.items() if one.arm == CONTROL]
    assert 60 < len(control) < 140  # 5 % of 2,000
    promoted = live.online.promoted.theta
    assert all(np.array_equal(given[user].theta, promoted) for user in control)
    assert all(live.online.given(user).arm == CONTROL for user in control)


def test_visitors_of_whom_nothing_is_known_are_in_both_arms(store):
    live = live_over(store)
    arms = [live.online.given(None, request_id=f"r{i}").arm for i in range(2_000)]
    assert 60 < arms.count(CONTROL) < 140  # 5 % of 2,000
    for at in (arms.index(CONTROL), arms.index(LIVE)):
        served = live.recommend(Query(n=1), request_id=f"r{at}", now=BEGAN)
        assert served.slate.arm == served.impression.arm == arms[at]


def frozen_after(store, live, n):
    """The time at which the guard goes back, while some of these visits' slates are open."""
    now = visits(store, live, n, clicks=by_content)
    live.tune(now=now)
    watch, guard = Watch(), TUNING.guard
    for _ in range(3_000):
        watch = watch.after("live", 0.0, guard).after("control", 5.0, guard)
    live.online._learning.watch = watch
    now = visits(store, live, 1, now=now, first=n)
    live.tune(now=now)
    return now


def test_where_the_live_arm_is_worse_the_promoted_strategy_comes_back(store):
    live = live_over(store)
    now = frozen_after(store, live, 40)
    assert live.online.frozen is not None
    assert "worse" in live.online.frozen.reason
    given = live.online.given("u1")
    assert np.array_equal(given.theta, live.online.promoted.theta)
    assert given.epoch == 0
    assert store.strategies.promotions("shop")[0].author == "guard"
    live.tune(now=now + 25 * 3_600)
    assert live.online.frozen is None


def test_slates_of_before_a_return_have_no_say_in_whether_what_came_after_is_worse(store):
    live = live_over(store)
    now = frozen_after(store, live, 40)
    until = live.online.frozen.until
    live.tune(now=visits(store, live, 10, now=now, first=41) + 4_000)  # all slates are closed
    assert live.online.counts["learnt"] == 51
    assert live.online.watch == Watch()
    assert (live.online.frozen.until, live.online.counts["returns"]) == (until, 1)
    now = visits(store, live, 1, now=until - 10.0, first=51)
    live.tune(now=until)
    live.online.keep(until)
    again = live_over(store, now=until)
    now = visits(store, live, 5, now=until, first=52)
    for one in (live, again):
        one.tune(now=now + 4_000)
        assert one.online.watch.live.n + one.online.watch.control.n == 5


def test_an_erased_person_has_no_weights_of_their_own(store):
    live = live_over(store)
    now = visits(store, live, 60, clicks=by_content)
    live.tune(now=now + 4_000)
    known = next(u for u in map(str, live.model.data.user_ids) if live.online.given(u).offset)
    (own,) = (one for one in held_of(live, known) if one["kind"] == "own_weights")
    assert list(own["weights"].values()) == live.online.given(known).offset.value.tolist()
    live.online.forget(known)
    assert live.online.given(known).offset is None
    assert not any(one["kind"] == "own_weights" for one in held_of(live, known))


def test_an_own_offset_is_at_most_a_quarter_of_the_weights(store):
    live = live_over(store)
    live.tune(now=visits(store, live, 80, clicks=by_content) + 4_000)
    for user in map(str, live.model.data.user_ids):
        given = live.online.given(user)
        if given.offset is None:
            continue
        w = given.theta[:, 0]
        moved = np.linalg.norm(given.turned(w) - w)
        assert moved <= 0.25 * np.linalg.norm(w) + 1e-9


@pytest.mark.parametrize(
    ("budget", "limits", "step", "expected"),
    [
        (0.0, (0.02, 3.0), 1.0, (1.0, 1.0)),  # no budget: as the scenario says
        (0.9, (0.02, 3.0), 1.0, (1.0, 3.0)),
        (0.001, (0.02, 3.0), 1.0, (0.02, 0.5)),
        (0.001, (0.0, 2.0), 0.1, (0.8, 0.8)),  # a tenth of the range below what was set
        (0.001, (0.6, 2.0), 1.0, (0.6, 0.6)),  # the lowest that the guard allows
    ],
)
def test_exploration_keeps_to_its_budget_and_to_the_guards_limits(
    store, budget, limits, step, expected
):
    exploration = ExplorationConfig(budget=budget, lowest=0.01, highest=3.0)
    guard = replace(TUNING.guard, dials={"temperature": limits}, dial_step=step)
    tuning = replace(TUNING, exploration=exploration, guard=guard)
    live = live_over(store, replace(CONFIG, tuning=tuning))
    live.online.follow(visits(store, live, 40, clicks=by_content) + 1)
    served = live.recommend(Query("u1", n=5), request_id="then", now=BEGAN + 200)
    assert expected[0] <= served.impression.more["temperature"] <= expected[1]


def test_exploring_costs_no_more_than_the_budget_of_the_scenario(store):
    """Against the best list, on requests that the temperature was not found on."""
    budgets, open_dial = {"home": 0.1, "cart": 0.02}, {"temperature": (0.001, 5.0)}
    exploration = ExplorationConfig(scenarios=budgets, lowest=0.001, highest=5.0)
    guard = replace(TUNING.guard, dials=open_dial, dial_step=1.0)
    tuning = replace(TUNING, exploration=exploration, guard=guard)
    warmth = 2.0  # of the scenarios, far above what the budgets allow
    config = replace(CONFIG, default=ScenarioConfig(temperature=warmth), tuning=tuning)
    live = live_over(store, config)
    people = np.random.default_rng(0).permutation(live.model.data.user_ids).astype(str).tolist()

    def ask(user, scenario, now):
        query = Query(user, n=5, scenario=scenario)
        served = live.recommend(query, request_id=f"{user}-{scenario}", now=now)
        store.shown.append("shop", served.impression)
        return served.impression

    for at, user in enumerate(people[:80]):
        ask(user, "home" if at % 2 else "cart", BEGAN + at)
    live.online.follow(BEGAN + 100)
    epoch, spent = live.online.epoch, {}
    for scenario in budgets:
        shown = [ask(user, scenario, BEGAN + 200) for user in people[80:]]
        scores = np.stack([one.scores.astype(float) @ one.w for one in shown])
        context = np.array([epoch.b_context @ one.phi for one in shown])
        log_odds = epoch.gamma * scores + epoch.b_position[0] + context[:, None]
        reward = 1 / (1 + np.exp(-log_odds))
        warm = shown[0].more["temperature"]
        spent[scenario] = lost_share(scores, reward, warm)
        assert lost_share(scores, reward, warmth) > 2 * budgets[scenario]  # as it was set
    assert {name: pytest.approx(share, rel=0.25) for name, share in budgets.items()} == spent


def test_requests_that_name_no_scenario_have_the_budget_of_default(store):
    exploration = ExplorationConfig(budget=0.9, scenarios={"default": 0.001}, lowest=0.01)
    guard = replace(TUNING.guard, dials={"temperature": (0.02, 3.0)}, dial_step=1.0)
    config = replace(CONFIG, tuning=replace(TUNING, exploration=exploration, guard=guard))
    live = live_over(store, config)
    live.online.follow(visits(store, live, 40, clicks=by_content) + 1)
    asked = (Query("u1", n=5), Query("u1", n=5, scenario="default"))
    served = [live.recommend(one, request_id="then", now=BEGAN + 200) for one in asked]
    warm, named = (one.impression.more["temperature"] for one in served)
    assert warm == named < 0.5


def test_what_a_full_day_holds_back_is_counted_over_a_restart(store):
    guard = replace(TUNING.guard, user_day_rows=7.0)
    config = replace(CONFIG, tuning=replace(TUNING, guard=guard))
    live, now = live_over(store, config), BEGAN
    for at in range(3):
        now += 2.0
        served = live.recommend(Query("ann", n=5), request_id=f"r{at}", now=now)
        store.shown.append("shop", served.impression)
    live.tune(now=now + 4_000)
    live.online.keep(now + 4_000)
    assert live.online.held_back == live_over(store, config, now + 4_000).online.held_back == 8.0


def test_where_nothing_is_to_be_explored_no_budget_makes_it(store):
    tuning = replace(TUNING, exploration=ExplorationConfig(budget=0.5))
    still = replace(CONFIG, default=ScenarioConfig(temperature=0.0), tuning=tuning)
    live = live_over(store, still)
    live.online.follow(visits(store, live, 30, clicks=by_content) + 1)
    served = live.recommend(Query("u1", n=5), request_id="then", now=BEGAN + 200)
    assert served.impression.more["temperature"] == 0.0


def test_switched_off_the_strategy_stays_as_promoted(store):
    config = replace(CONFIG, tuning=replace(TUNING, on=False))
    live = live_over(store, config)
    assert live.tune(now=visits(store, live, 20, clicks=by_content) + 4_000) == 0
    assert live.online.epoch.number == 0
    assert live.online.given("u1").arm == LIVE


def test_a_new_promoted_strategy_restarts_the_epochs(store):
    live = live_over(store)
    live.tune(now=visits(store, live, 40, clicks=by_content) + 4_000)
    current = store.strategies.current("shop")
    other = replace(from_json(current.strategy, 2), theta=2 * model().strategy.theta)
    live.follow_strategy(other)
    assert np.array_equal(live.online.promoted.theta, other.theta)
    assert np.array_equal(live.online.given("u-live-7").theta, other.theta)


def test_events_of_slates_nobody_was_shown_teach_nothing(store):
    live = live_over(store)
    item = str(live.model.data.item_ids[0])
    events = [
        LoggedEvent(f"x{i}", Event("ann", item, "click", timestamp=BEGAN + i), "no-such-slate")
        for i in range(20)
    ]
    store.log.append("shop", events, now=BEGAN + 30)
    live.tune(now=BEGAN + 5_000)
    assert live.online.counts["learnt"] == 0
    assert isinstance(live.online, Online)
    assert np.array_equal(live.online.epoch.theta, live.online.promoted.theta)


# Several processes


def ticks(store, followers, n, *, now, first, seen=None):
    """Slates and clicks, and in between each follower looks at a time of its own.

    Args:
        seen: number of an epoch → its θ, the same in whichever process.
    """
    rng, seen = np.random.default_rng(first), {} if seen is None else seen
    for at in range(n):
        asker = followers[rng.integers(len(followers))]
        now = visits(store, asker, 4, now=now, first=first + 4 * at, clicks=by_content)
        for one in rng.permutation(len(followers))[: rng.integers(1, len(followers) + 1)]:
            followers[one].tune(now=now + rng.normal(0.0, 0.3))  # clocks are not quite one
            epoch = followers[one].online.epoch
            same = seen.setdefault(epoch.number, epoch.theta)
            assert np.abs(epoch.theta - same).max() <= 1e-9
    return now


def caught_up(followers, now):
    """All followers at the same cut."""
    for one in followers:
        one.tune(now=now)
    for one in followers:
        one.online._reach_all()
    assert len({one.online._cut for one in followers}) == 1


def check_alike(one, other):
    assert one.online.epoch.number == other.online.epoch.number
    assert np.abs(one.online.epoch.theta - other.online.epoch.theta).max() <= 1e-9
    assert one.online.epoch.gamma == pytest.approx(other.online.epoch.gamma, abs=1e-9)
    assert one.online.counts == other.online.counts
    for user in map(str, one.model.data.user_ids[:30]):
        offsets = [live.online.given(user).offset for live in (one, other)]
        if offsets[0] is not None:
            assert np.abs(offsets[0].value - offsets[1].value).max() <= 1e-9


def test_four_processes_and_one_come_to_the_same_theta(postgres_url):
    """One is killed without a word and another takes its place; nothing is counted twice."""
    # So few rows a user and day that what was used up must be known to all.
    tight = replace(CONFIG, tuning=replace(TUNING, guard=replace(TUNING.guard, user_day_rows=4.0)))
    stores = [open_store(postgres_url) for _ in range(6)]
    followers = [live_over(one, tight) for one in stores[:4]]
    now = ticks(stores[0], followers, 8, now=BEGAN, first=0)
    followers[1].online.keep(now)
    now = ticks(stores[0], followers, 4, now=now, first=100)
    del followers[1]  # which wrote the checkpoint, and not what it did since
    followers.append(live_over(stores[4], tight, now=now))
    now = ticks(stores[0], followers, 8, now=now, first=200)
    caught_up(followers, now + 4_000)
    for other in followers[1:]:
        check_alike(followers[0], other)
    assert followers[0].online.epoch.number > 5
    assert followers[0].online.counts["learnt"] == 80
    assert weight(followers[0], stores[0], "content") > 1e-4
    stores[0].checkpoints.delete("shop", "tuner")
    alone = live_over(stores[5], tight, now=now)  # reads the whole log by the same cuts, by itself
    check_alike(followers[0], alone)
    for one in stores:
        one.close()


def test_slates_of_all_processes_with_one_number_were_made_by_one_theta(postgres_url):
    config = replace(CONFIG, tuning=replace(TUNING, personal=False))
    stores = [open_store(postgres_url) for _ in range(3)]
    followers = [live_over(one, config) for one in stores]
    seen = {}
    ticks(stores[0], followers, 12, now=BEGAN, first=0, seen=seen)
    shown = [one for one in stores[0].shown.read("shop") if one.arm == LIVE and one.epoch > 0]
    assert len({one.epoch for one in shown}) > 2
    for one in shown:
        np.testing.assert_allclose(one.w[:-1], seen[one.epoch] @ one.phi, atol=1e-4)
    for one in stores:
        one.close()


def test_of_processes_that_cut_at_once_one_is_first(store_url):
    stores = [open_store(store_url) for _ in range(4)]
    start = threading.Barrier(4)

    def cut(at):
        start.wait(20.0)
        return stores[at].epochs.add("shop", Cut(1, at, BEGAN + at, 1))

    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(cut, range(4)))
    assert first.count(True) == 1
    assert stores[0].epochs.read("shop") == [
        Cut(1, first.index(True), BEGAN + first.index(True), 1)
    ]
    assert not stores[0].epochs.add("shop", Cut(3, 0, BEGAN, 1))
    for one in stores:
        one.close()


def test_old_cuts_are_dropped_and_who_lags_goes_on_from_the_checkpoint(store):
    ahead, behind = live_over(store), live_over(store)
    now = visits(store, ahead, 20, clicks=by_content)
    for step in range(5):
        now = visits(store, ahead, 4, now=now, first=20 + 4 * step, clicks=by_content)
        ahead.tune(now=now)
    ahead.online.keep(now)
    store.epochs.trim("shop", before=ahead.online._cut.number)
    behind.tune(now=now + 0.1)
    caught_up([ahead, behind], now + 4_000)
    check_alike(ahead, behind)


def test_a_promotion_restarts_the_epochs_of_all_at_the_same_cut(store):
    one, other = live_over(store), live_over(store)
    now = ticks(store, [one, other], 4, now=BEGAN, first=0)
    stored = store.strategies.current("shop")
    told = {**stored.strategy, "theta": (2 * model().strategy.theta).tolist()}
    store.strategies.add("shop", replace(stored, strategy=told, version=0))
    store.strategies.promote("shop", 2, author="ann", now=now)
    follow_current(one, store)
    assert np.array_equal(one.online.given("u-live-7").theta, 2 * model().strategy.theta)
    now = ticks(store, [one, other], 2, now=now, first=100)  # the other hears of it by a cut
    follow_current(other, store)
    now = ticks(store, [one, other], 4, now=now, first=200)
    caught_up([one, other], now + 4_000)
    check_alike(one, other)
    assert one.online._learning.strategy.version == 2


class Follower:
    """A process of its own that looks at the log when told to, until it is killed."""

    CODE = (
        "import json, sys\n"
        "from steerec.store import open_store\n"
        "from test_online import live_over\n"
        "live = live_over(open_store(sys.argv[1]), now=float(sys.argv[2]))\n"
        "for line in sys.stdin:\n"
        "    live.tune(now=float(line))\n"
        "    epoch = live.online.epoch\n"
        "    told = [epoch.number, epoch.theta.tolist(), live.online.counts]\n"
        "    print(json.dumps(told), flush=True)\n"
    )

    def __init__(self, url, now):
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, url, str(now)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )

    def look(self, now):
        self.process.stdin.write(f"{now}\n".encode())
        self.process.stdin.flush()

    def told(self):
        return json.loads(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=30.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_killed_in_the_middle_of_an_epoch_are_missed_by_nobody(postgres_url):
    store = open_store(postgres_url)
    asker, now = live_over(store), BEGAN  # shows lists, and looks at the log at the end only
    processes = [Follower(postgres_url, now) for _ in range(4)]
    try:
        for at in range(9):
            now = visits(store, asker, 6, now=now, first=6 * at, clicks=by_content)
            for one in processes:
                one.look(now + 1)
            if at in (2, 5):  # whoever is about to make the epoch, or has just made it
                processes.pop(0).kill()
                processes.append(Follower(postgres_url, now))
                processes[-1].look(now + 1)
            for one in processes:
                one.told()
        for _ in range(2):  # the second time all have reached what the first time brought
            for one in processes:
                one.look(now + 4_000)
            told = [one.told() for one in processes]
        asker.tune(now=now + 4_000)
        epoch = asker.online.epoch
        for number, theta, counts in told:
            assert number == epoch.number
            assert np.abs(np.array(theta) - epoch.theta).max() <= 1e-9
            assert counts == asker.online.counts
        assert asker.online.counts["learnt"] == 54
        assert epoch.number > 5
    finally:
        for one in processes:
            one.kill()
        store.close()
