"""Poisoning by the way that a service's log goes: lists, events, joins, learner, guard."""

from dataclasses import replace

import numpy as np
import pytest

from steerec.contracts import Event, Query
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.online import TuningConfig
from steerec.store import open_store
from steerec.store.log import LoggedEvent
from test_online import BEGAN, CONFIG, TUNING, by_content, live_over, visits

PLAIN = LiveConfig(default=ScenarioConfig(temperature=1.0))  # tuning as it comes
ROWS = TuningConfig().guard.user_day_rows


@pytest.fixture
def store(tmp_path):
    made = open_store(f"sqlite:///{tmp_path}/log.db")
    yield made
    made.close()


def asks(store, live, user, name, *, now, clicks=0, **query):
    """One list, and a click on each of its first items; how many."""
    served = live.recommend(Query(user, **{"n": 10, **query}), request_id=name, now=now)
    store.shown.append("shop", served.impression)
    wanted = [choice.item_id for choice in served.slate.items][:clicks]
    events = [
        LoggedEvent(f"{name}-{item}", Event(user, item, "click", timestamp=now + 0.5), name)
        for item in wanted
    ]
    if events:
        store.log.append("shop", events, now=now + 0.5)
    return len(events)


def others(live):
    """What distances are measured on."""
    return live.online._learning._references()


def test_one_persons_requests_do_not_decide_what_the_distance_is_measured_on(store):
    """Requests whose two items every θ scores alike would let any θ through."""
    tuning = replace(TUNING, reference=20, guard=replace(TUNING.guard, most_nats=0.002))
    live = live_over(store, replace(CONFIG, tuning=tuning))
    now = visits(store, live, 60, clicks=by_content)
    live.tune(now=now + 4_000)
    online = live.online
    honest = others(live)
    assert honest.kl(online.epoch.theta, online.promoted.theta) == pytest.approx(0.002, rel=0.01)
    items = tuple(str(item) for item in live.model.data.item_ids[-2:])
    for at in range(22):
        asks(store, live, "flooder", f"flood{at}", now=now + at, n=2, candidates=items)
    live.tune(now=now + 8_000)
    assert honest.kl(online.epoch.theta, online.promoted.theta) <= 0.0025


@pytest.mark.parametrize("most", [ROWS, 1e6])
def test_what_a_person_does_beyond_a_days_rows_teaches_nothing(tmp_path, most):
    """Twice as much as counts, within a minute; the second half clicked, or not."""

    def burst(clicked):
        store = open_store(f"sqlite:///{tmp_path}/{clicked}.db")
        guard = replace(PLAIN.tuning.guard, user_day_rows=most)
        live = live_over(store, replace(PLAIN, tuning=replace(PLAIN.tuning, guard=guard)))
        for at in range(40):
            many = 10 if at < 20 or clicked else 0
            asks(store, live, "evil", f"r{at}", now=BEGAN + at, clicks=many)
        live.tune(now=BEGAN + 4_000)
        store.close()
        return live

    quiet, loud = burst(False), burst(True)
    same = np.array_equal(quiet.online.epoch.theta, loud.online.epoch.theta)
    assert same == (most == ROWS)
    watched = loud.online.watch.live.n + loud.online.watch.control.n
    assert watched == (20 if most == ROWS else 40)
