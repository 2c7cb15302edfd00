"""Online tuning over the log: clicks move the head weights, a restart loses and doubles nothing."""

from dataclasses import replace

import numpy as np
import pytest

from engine_worlds import model, own
from steerec.contracts import Event, Query
from steerec.engine.live import Live, LiveConfig, ScenarioConfig
from steerec.engine.online import CONTROL, LIVE, Online, TuningConfig
from steerec.engine.strategies import ensure_promoted, from_json
from steerec.store import open_store
from steerec.store.log import LoggedEvent
from steerec.tuning.guard import GuardConfig, Watch

TUNING = TuningConfig(precision=5.0, guard=GuardConfig(most_nats=1.0, user_day_rows=1e6))
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


def weight(live, name):
    """The mean weight of a head over all lengths of history, live less promoted."""
    row = live.model.strategy.heads.index(name)
    return float((live.online.epoch.theta - live.online.promoted.theta)[row, 0])


def test_clicks_on_what_one_head_favours_raise_its_weight(store):
    live = live_over(store)
    for part in range(6):
        now = visits(store, live, 40, now=BEGAN + 100 * part, first=40 * part, clicks=by_content)
        live.tune(now=now)
    assert live.online.epoch.number > 0
    assert weight(live, "content") > 0.02
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


def test_where_the_live_arm_is_worse_the_promoted_strategy_comes_back(store):
    live = live_over(store)
    now = visits(store, live, 40, clicks=by_content)
    live.tune(now=now)
    watch, guard = Watch(), TUNING.guard
    for _ in range(3_000):
        watch = watch.after("live", 0.0, guard).after("control", 5.0, guard)
    live.online._watch = watch
    live.tune(now=now + 10)
    assert live.online.frozen is not None
    assert "worse" in live.online.frozen.reason
    given = live.online.given("u1")
    assert np.array_equal(given.theta, live.online.promoted.theta)
    assert given.epoch == 0
    assert store.strategies.promotions("shop")[0].author == "guard"
    live.tune(now=now + 25 * 3_600)
    assert live.online.frozen is None


def test_an_erased_person_has_no_weights_of_their_own(store):
    live = live_over(store)
    now = visits(store, live, 60, clicks=by_content)
    live.tune(now=now + 4_000)
    known = next(u for u in map(str, live.model.data.user_ids) if live.online.given(u).offset)
    live.online.forget(known)
    assert live.online.given(known).offset is None


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
