"""What goes wrong around a service: the disk is full, senders repeat themselves, orders are odd."""

import asyncio
import contextlib
import itertools
import sqlite3
import threading

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service_worlds import Clock, opened, problem
from steerec.engine.live import Live
from steerec.errors import StorageError
from steerec.service.app import ended, keeping_up, tuning
from steerec.service.gate import KEPT_S, STALE_S, Gate
from steerec.service.wakes import Wakes
from steerec.store.catalogue import Entry
from steerec.store.keys import ApiKey

# A full disk


def limited(shop, n_pages):
    """Let the file of SQLite grow to so many pages; a function that lifts the limit."""
    engine = shop.service.store.database.engine

    def limit(connection, _):
        connection.execute(f"PRAGMA max_page_count={n_pages}").close()

    def lift():
        sa.event.remove(engine, "connect", limit)
        engine.dispose()

    sa.event.listen(engine, "connect", limit)
    engine.dispose()
    return lift


def test_a_full_disk_is_told_nothing_acknowledged_is_lost_and_space_heals_it(shop):
    shop.ids("ann", n=5)
    lift, acknowledged, refusals = limited(shop, 150), [], []
    for n in range(300):
        body = {"user_id": "ann", "item_id": "i0001", "event_id": f"e{n}", "context": {}}
        body["context"]["text"] = "x" * 4_000
        answer = shop.post("/api/events", body)
        if answer.status_code == 200:
            acknowledged.append(f"e{n}")
        else:
            refusals.append(answer)
        if len(refusals) == 3:
            break
    for answer in refusals:
        assert "free disk space" in problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    assert "free disk space" in shop.get("/api/health/ready").json()["degraded"][0]
    # Lists are made from memory; items cannot be written, and the answer says so.
    assert len(shop.ids("ann", n=5)) == 5
    assert shop.get("/api/health/live").status_code == 200
    assert "free disk space" in problem(
        shop.post("/api/items", {"id": "x", "attributes": {"text": "x" * 50_000}}), 503
    )
    kept = [one.event_id for one in shop.service.store.log.iterate("default")]
    assert kept == acknowledged
    assert shop.tenant().live.applied["events"] == len(acknowledged)
    lift()
    assert shop.event("ann", "i0001", event_id=f"e{n}", context=body["context"]) == "new"
    shop.settle()
    assert shop.get("/api/health/ready").json()["status"] == "ok"


def test_lists_go_on_while_a_change_waits_for_the_store(shop):
    shop.ids("ann", n=5)
    other = sqlite3.connect(shop.service.store.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # nobody else writes

    async def run():
        patch = asyncio.create_task(shop.acall("PATCH", "/api/items/i0001", json={"stock": 0}))
        while not patch.done():
            await asyncio.sleep(0)
            shown = await shop.acall("GET", "/api/recommend/ann?n=5")
            assert len(shown.json()["items"]) == 5
            if other.in_transaction and shop.clock.now > began + 3:
                assert not patch.done()
                other.execute("ROLLBACK")
            shop.clock.now += 1
        return await patch

    began = shop.clock.now
    changed = shop.loop.run_until_complete(run())
    other.close()
    assert changed.json()["stock"] == 0


def test_items_join_while_tuning_takes_long(shop, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(Live, "tune", lambda self, *, now: stuck.wait(60))
    tenants, live = shop.service.tenants, shop.tenant().live
    wakes = Wakes(tenants, url=None, others=False)

    async def run():
        beside = (tuning(tenants, shop.clock), keeping_up(tenants, shop.clock, wakes))
        tasks = [asyncio.create_task(one()) for one in beside]
        await shop.acall("POST", "/api/items", json={"id": "new"})
        async with asyncio.timeout(30):
            while not live.knows(["new"]):
                await asyncio.sleep(0.01)
        stuck.set()
        await ended(tasks)

    shop.loop.run_until_complete(run())


def test_a_key_is_not_looked_up_for_each_call_while_the_store_is_away():
    class Keys:
        """Keys of a store that is away after the first look."""

        looks = 0

        def check(self, text):
            self.looks += 1
            if self.looks > 1:
                raise StorageError("away")
            return ApiKey("k", "default", ("read",), "", 0.0)

    keys, clock = Keys(), Clock(0.0)
    gate = Gate(keys, clock=clock)

    async def admitted(n):
        return [(await gate.admit("text", "read")).key_id for _ in range(n)]

    assert asyncio.run(admitted(5)) == ["k"] * 5
    assert keys.looks == 1
    clock.now += KEPT_S
    assert asyncio.run(admitted(5)) == ["k"] * 5
    assert keys.looks == 2  # the first of them waited for the store, the others did not
    clock.now += STALE_S
    with pytest.raises(StorageError):
        asyncio.run(admitted(1))


def test_a_list_that_could_not_be_logged_is_counted(shop):
    shop.ids("ann", n=5)
    lift = limited(shop, 1)  # whatever needs another page fails
    for n in range(40):
        shop.ids(f"u{n:04d}", n=50)
    with contextlib.suppress(StorageError):
        shop.flush()
    lift()
    lost = shop.service.counter.telemetry.lost_impressions.labels("default")._value.get()
    shop.flush()
    stored = sum(1 for _ in shop.service.store.shown.iterate("default"))
    assert lost > 0
    assert lost + stored == 41


# Odd questions


def test_more_items_than_there_are_is_all_of_them_once(shop):
    n_items = shop.tenant().live.model.data.n_items
    found = shop.ids("u0001", n=1_000)
    assert len(found) == len(set(found)) <= n_items
    assert len(found) >= n_items - 50  # but for what the user has
    everything = sorted(shop.tenant().live.model.data.item_ids.tolist())
    body = {"user_id": "u0001", "exclude": everything, "n": 10}
    assert shop.post("/api/recommend", body).json()["items"] == []


def test_a_list_is_refused_where_it_could_not_be_logged(shop):
    """Else it would be served, and be missing in the log."""
    body = {"user_id": "ann", "scenario": "a\0b"}
    assert "scenario" in problem(shop.post("/api/recommend", body), 422)
    assert "user_id" in problem(shop.post("/api/recommend", {"user_id": "a\0b"}), 422)
    assert len(shop.ids("ann", scenario="")) == 10  # as without one
    shop.flush()
    assert len(list(shop.service.store.shown.iterate("default"))) == 1


def test_numbers_that_no_database_holds_are_refused(shop):
    for version in (2**63, 10**30):
        problem(shop.post("/api/strategy/rollback", {"version": version}), 422)


NAMES = ["", " ", "*", "^.*$", "place", "item_id", "column_0", "literal", "price", "甲", "a.b", "_"]


def test_attributes_may_have_any_name_and_do_not_keep_others_out(shop):
    """Items are taken in together beside the requests: a bad one there would stop them all."""
    before = shop.tenant().live.model.data.n_items
    for value in ("first", 2.5, [["deep"]], {"a": {}}, None, True, "last"):
        for name in NAMES:
            item = {"id": f"odd-{NAMES.index(name)}", "attributes": {name: value}}
            answer = shop.post("/api/items", item)
            if answer.status_code != 200:  # refused; a store may hold such things of before
                assert "as items have it there" in problem(answer, 422)
                shop.service.store.items.upsert("default", [Entry(**item)], now=shop.clock())
                shop.tenant().wake()
        shop.settle()
    known = {"id": "i0001", "attributes": {n: "x" for n in NAMES if n != "price"}}
    assert shop.post("/api/items", known).status_code == 200
    shop.settle()
    items = shop.tenant().live.model.data.items
    assert len(items) == before + len(NAMES)
    assert items["place"][1] == items[""][1] == "x"
    assert items["item_id"][1] == "i0001"
    assert len(shop.ids("ann", n=5)) == 5


@pytest.mark.parametrize("jump", [-400 * 86_400.0, 400 * 86_400.0])
def test_the_clock_may_jump_under_paging_keys_and_retention(shop, jump):
    """A page that is over is 404 and a key that is known stays so: never a failure."""
    first = shop.get("/api/recommend/ann", params={"n": 3}).json()
    key = {"Idempotency-Key": "k1"}
    kept = shop.post("/api/recommend", {"user_id": "ann"}, headers=key).json()
    shop.clock.now += jump
    page = shop.get("/api/recommend/ann", params={"next": first["next"]})
    assert page.status_code in (200, 404), page.text
    again = shop.post("/api/recommend", {"user_id": "ann"}, headers=key)
    assert again.json() == kept
    problem(shop.post("/api/recommend", {"user_id": "bob"}, headers=key), 409)
    assert shop.event("ann", "i0001") == "new"
    shop.service.store.trim("default", shop.service.settings.service.retention, now=shop.clock())
    assert len(shop.ids("ann", n=5)) == 5
    shop.clock.now -= jump
    shop.settle()
    assert len(shop.ids("ann", n=5)) == 5


# Any order: what is live is what a replay of the log gives


PEOPLE = st.sampled_from(["ann", "bob", "u0003"])
LATE = [-5_000, -300, -200, -100]
NAME = st.integers(0, 30)  # of an event: few, so that many come again or clash
ITEM = st.integers(0, 9)  # from 7 on unknown
ONE = st.tuples(NAME, PEOPLE, ITEM, st.sampled_from([None, *LATE, 0, 90_000]))
# Events of the very same time are kept as they came, which is any way for what comes at once.
AT_ONCE = st.lists(st.tuples(NAME, PEOPLE, ITEM, st.sampled_from(LATE)), min_size=1, max_size=6)


class Arrivals(RuleBasedStateMachine):
    """Events in batches, one after the other and at once, with items and erasures between."""

    shop = None
    tenants = itertools.count()

    @initialize()
    def begin(self):
        self.store = self.shop.service.store
        self.tenant = f"t{next(self.tenants)}"
        self.key = self.store.keys.issue(self.tenant, ["admin"], now=0.0)[0]

    def call(self, method, path, **given):
        return self.shop.acall(method, path, self.key, **given)

    def run(self, *calls):
        async def all_of_them():
            return await asyncio.gather(*calls)

        answers = self.shop.loop.run_until_complete(all_of_them())
        assert [a.status_code for a in answers if a.status_code != 200] == []
        return answers

    def batch(self, events):
        start = self.shop.clock.now
        return {
            "events": [
                {
                    "event_id": f"e{name}",
                    "user_id": user,
                    "item_id": f"i{item:04d}" if item < 7 else f"new{item}",
                    **({} if at is None else {"timestamp": start + at + name / 64}),
                }
                for name, user, item, at in events
            ]
        }

    @rule(batches=st.lists(AT_ONCE, min_size=1, max_size=3))
    def send_at_once(self, batches):
        sent = [self.call("POST", "/api/events", json=self.batch(events)) for events in batches]
        self.run(*sent)

    @rule(events=st.lists(ONE, min_size=1, max_size=4))
    def send_twice(self, events):
        body = self.batch(events)
        self.run(self.call("POST", "/api/events", json=body))
        (answer,) = self.run(self.call("POST", "/api/events", json=body))
        assert answer.json()["accepted"] == 0

    @rule(seconds=st.sampled_from([-100, 1, 3_600]))
    def clock_moves(self, seconds):
        self.shop.clock.now += seconds

    @rule(item=st.integers(0, 9), hidden=st.booleans())
    def write_an_item(self, item, hidden):
        body = {"id": f"i{item:04d}", "hidden": hidden}
        self.run(self.call("POST", "/api/items", json=body))

    @rule(user=PEOPLE)
    def erase(self, user):
        self.run(self.call("DELETE", f"/api/users/{user}/data"))

    @rule()
    def settle(self):
        self.shop.settle(self.tenant)

    @invariant()
    def live_is_what_a_replay_gives(self):
        live = self.shop.tenant(self.tenant).live
        now = self.shop.clock()
        live.follow_items(now=now)
        again = Live(self.tenant, self.store, None, live.config, now=now)
        for user in ("ann", "bob", "u0003"):
            mine, replayed = live.recommender.history(user), again.recommender.history(user)
            assert items_of(live, mine) == items_of(again, replayed)
            assert np.array_equal(mine.time, replayed.time)
        names = sorted(map(str, again.model.data.item_ids))
        assert set(names) <= set(map(str, live.model.data.item_ids))


def items_of(live, history):
    return [str(live.model.data.item_ids[i]) for i in history.item_idx]


@pytest.fixture(scope="module")
def open_house(loop, tmp_path_factory):
    made = opened(
        f"sqlite:///{tmp_path_factory.mktemp('order')}/s.db",
        loop=loop,
        fitted=False,
        keys=True,
    )
    yield made
    made.close()


def check_arrivals(open_house, n_examples, n_steps):
    machine = type("At", (Arrivals,), {"shop": open_house})
    case = machine.TestCase
    case.settings = settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()


def test_any_order_of_arrivals_leaves_what_a_replay_of_the_log_gives(open_house):
    check_arrivals(open_house, 5, 6)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_very_many_orders_of_arrivals_leave_what_a_replay_of_the_log_gives(open_house):
    check_arrivals(open_house, 100, 20)
