"""Events over HTTP: durable, then live, then acknowledged; once each, whatever comes when."""

import threading

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service_worlds import opened, problem
from steerec.errors import StorageError

DAY = 86_400.0


def test_an_event_counts_on_the_users_next_list(shop):
    first = shop.ids("new-user", n=5)
    assert shop.event("new-user", "i0001") == "new"
    second = shop.get("/api/recommend/new-user", params={"n": 5}).json()["items"]
    assert [c["item_id"] for c in second] != first
    assert any("i0001" in choice["because"] for choice in second)


def test_the_disk_is_synced_before_the_event_is_acknowledged(shop, monkeypatch):
    """The commit, which syncs, is held up: no answer may come, and no list may know of it."""
    writer, order = shop.service.store.writer, []
    write = writer._write
    go = threading.Event()

    def slow(jobs):
        assert go.wait(10)
        told = write(jobs)
        order.append("synced")
        return told

    monkeypatch.setattr(writer, "_write", slow)

    async def send():
        import asyncio

        body = {"user_id": "ann", "item_id": "i0001", "event_id": "e1"}
        call = asyncio.create_task(shop.acall("POST", "/api/events", json=body))
        await asyncio.sleep(0.05)
        assert not call.done()
        assert shop.tenant_now().live.applied["events"] == 0
        go.set()
        answer = await call
        order.append("acknowledged")
        return answer

    shop.tenant()
    answer = shop.loop.run_until_complete(send())
    assert answer.json()["events"][0]["outcome"] == "new"
    assert order == ["synced", "acknowledged"]


def test_sqlite_syncs_at_every_commit(shop):
    with shop.service.store.database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_an_event_is_counted_once_and_other_content_under_its_id_changes_nothing(shop):
    assert shop.event("ann", "i0001", event_id="e1") == "new"
    assert shop.event("ann", "i0001", event_id="e1") == "replay"
    assert shop.event("ann", "i0002", event_id="e1") == "conflict"
    assert shop.event("bob", "i0001", event_id="e1") == "conflict"
    assert shop.tenant().live.recommender.history("ann").item_idx.tolist() == [1]
    assert len(shop.tenant().live.recommender.history("bob")) == 0


def test_a_batch_is_all_or_nothing_and_repeats_inside_it_count_once(shop):
    one = {"user_id": "ann", "item_id": "i0001", "event_id": "e1"}
    bad = shop.post("/api/events", {"events": [one, {"user_id": "", "item_id": "i0001"}]})
    assert "events[1]" in problem(bad, 422)
    assert shop.service.store.log.read("default") == []
    told = shop.post("/api/events", {"events": [one, one, {**one, "item_id": "i0002"}]}).json()
    assert [e["outcome"] for e in told["events"]] == ["new", "replay", "conflict"]
    assert told["accepted"] == 1


def test_unknown_users_and_items_are_created(shop):
    assert shop.event("nobody", "no-such-item") == "new"
    assert shop.get("/api/items/no-such-item").json()["id"] == "no-such-item"
    assert "no-such-item" in shop.ids("somebody", n=100)
    assert "no-such-item" not in shop.ids("nobody", n=100, repeats=False)


def test_unknown_items_are_refused_where_they_may_not_be_created(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, create_items=False)
    answer = shop.post("/api/events", {"user_id": "ann", "item_id": "none", "event_id": "e1"})
    assert "'none'" in problem(answer, 422)
    assert shop.service.store.log.read("default") == []
    shop.post("/api/items", {"id": "none"})
    assert shop.event("ann", "none", event_id="e1") == "new"  # written, not taken in yet
    assert shop.event("ann", "i0001") == "new"
    shop.close()


def test_a_late_event_takes_its_place_in_time_and_a_future_one_is_of_now(shop):
    now = shop.clock.now
    shop.event("ann", "i0001", timestamp=now - 100)
    shop.event("ann", "i0003", timestamp=now + 400 * DAY)
    shop.event("ann", "i0002", timestamp=now - 200)
    history = shop.tenant().live.recommender.history("ann")
    assert history.item_idx.tolist() == [2, 1, 3]
    assert history.time.tolist() == [now - 200, now - 100, now]


def test_the_clock_may_jump_back_and_forth(shop):
    for jump in (-1_000 * DAY, 3_000 * DAY, -2_500 * DAY):
        shop.clock.now += jump
        assert shop.event("ann", "i0001") == "new"
        assert len(shop.ids("ann", n=5)) == 5
        shop.settle()
    assert len(shop.tenant().live.recommender.history("ann")) == 3


def test_a_full_queue_is_429_with_retry_after_and_nothing_is_taken(shop, monkeypatch):
    from steerec.store.group import GroupConfig

    writer = shop.service.store.writer
    shop.tenant()
    monkeypatch.setattr(writer, "_config", GroupConfig(queue_rows=1))
    monkeypatch.setattr(writer, "_waiting", 1)
    answer = shop.post("/api/events", {"user_id": "ann", "item_id": "i0001"})
    problem(answer, 429)
    assert int(answer.headers["Retry-After"]) >= 1
    monkeypatch.undo()
    assert shop.service.store.log.read("default") == []


def test_a_store_that_is_away_is_503_and_lists_are_still_made(shop):
    shop.ids("u0001")
    shop.service.store.writer.close()
    answer = shop.post("/api/events", {"user_id": "u0001", "item_id": "i0001"})
    problem(answer, 503)
    assert answer.headers["Retry-After"]
    assert len(shop.ids("u0001", n=5)) == 5


def test_an_event_that_could_not_be_taken_in_is_taken_in_when_it_is_sent_again(shop, monkeypatch):
    live = shop.tenant().live

    def fails(events):
        raise StorageError("away")

    monkeypatch.setattr(live.recommender, "learn_many", fails)
    sent = {"user_id": "ann", "item_id": "i0001", "event_id": "e1"}
    problem(shop.post("/api/events", sent), 503)
    monkeypatch.undo()
    assert shop.event("ann", "i0001", event_id="e1") == "replay"
    assert len(live.recommender.history("ann")) == 1
    assert shop.event("ann", "i0001", event_id="e1") == "replay"
    assert len(live.recommender.history("ann")) == 1


def test_a_restart_gives_the_same_lists(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop)
    for n, item in enumerate(("i0001", "i0004", "new-item", "i0009")):
        shop.event("ann", item, event_id=f"e{n}", timestamp=shop.clock.now - 50 * n)
    before = shop.get("/api/recommend/ann").json()["items"]
    shop.close()
    again = opened(sqlite_url, loop=loop)
    assert again.get("/api/recommend/ann").json()["items"] == before
    assert again.event("ann", "i0001", event_id="e0", timestamp=shop.clock.now) == "replay"
    again.close()


# An anonymous visitor logs in


def test_a_session_is_merged_once_into_the_user_who_logs_in(shop):
    shop.event("visitor-7", "i0001", timestamp=shop.clock.now - 5, event_id="x" * 256)
    shop.event("visitor-7", "i0007", event_id="y" * 256)
    for expected in (2, 0):
        told = shop.post("/api/users/ann/merge", {"session_id": "visitor-7"})
        assert told.json()["accepted"] == expected
    assert shop.tenant().live.recommender.history("ann").item_idx.tolist() == [1, 7]
    assert shop.ids("ann") == shop.ids("visitor-7")


def test_an_event_cannot_claim_to_be_merged_and_have_others_erased_with_its_user(shop):
    shop.event("victim", "i0001")
    body = {"user_id": "eve", "item_id": "i0002", "context": {"merged_from": "victim"}}
    assert "only a merge sets" in problem(shop.post("/api/events", body), 422)
    shop.call("DELETE", "/api/users/eve/data")
    assert len(shop.get("/api/users/victim/data").json()["records"]) == 1


def test_merging_back_and_with_oneself_doubles_nothing(shop):
    shop.event("visitor-7", "i0001")
    shop.post("/api/users/ann/merge", {"session_id": "visitor-7"})
    back = shop.post("/api/users/visitor-7/merge", {"session_id": "ann"}).json()
    assert back["accepted"] == 0
    problem(shop.post("/api/users/ann/merge", {"session_id": "ann"}), 422)


# Any order


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]), st.integers(0, 5), st.integers(0, 4), st.integers(0, 12)
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def ordered(loop, tmp_path_factory):
    made = opened(f"sqlite:///{tmp_path_factory.mktemp('order')}/s.db", loop=loop)
    yield made
    made.close()


@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
@given(events=EVENTS, order=st.randoms(use_true_random=False))
def test_histories_do_not_depend_on_the_order_of_arrival_or_on_repeats(ordered, events, order):
    """What each user is known to have done is the set of events, by time, in any batches."""
    start = ordered.clock.now - 1_000
    run = len(ordered.service.store.log.read("default", limit=10_000))
    sent = {  # the first content under an id counts
        f"{run}-{name}": {
            "event_id": f"{run}-{name}",
            "user_id": f"{user}-{run}",
            "item_id": f"i{item:04d}",
            "timestamp": start + 10 * name,
        }
        for user, item, _, name in events
    }
    shuffled = [*sent.values(), *list(sent.values())[:3]]
    order.shuffle(shuffled)
    while shuffled:
        n = order.randint(1, 4)
        batch, shuffled = shuffled[:n], shuffled[n:]
        assert ordered.post("/api/events", {"events": batch}).status_code == 200
    for user in ("ann", "bob"):
        mine = [e for e in sent.values() if e["user_id"] == f"{user}-{run}"]
        mine.sort(key=lambda e: e["timestamp"])
        history = ordered.tenant().live.recommender.history(f"{user}-{run}")
        assert history.time.tolist() == [e["timestamp"] for e in mine]
        assert [f"i{i:04d}" for i in history.item_idx] == [e["item_id"] for e in mine]
