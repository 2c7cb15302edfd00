"""The durable log: each event once, in order, on disk before it is acknowledged."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from steerec.contracts import Event
from steerec.errors import DataError, QueueFullError, StorageError
from steerec.store import open_store
from steerec.store.database import open_database
from steerec.store.group import GroupConfig, GroupWriter
from steerec.store.log import Appended, LoggedEvent, Outcome
from steerec.store.schema import tenants

NOW = 1_750_000_000.0


def logged(event_id, user="ann", item="tea", **more):
    about = {k: more.pop(k) for k in ("event", "value", "timestamp", "basket") if k in more}
    return LoggedEvent(event_id, Event(user, item, **about), **more)


def append(store, *events, tenant="shop", now=NOW):
    return list(store.log.append(tenant, events, now=now))


def outcomes(answers):
    return [answer.outcome.value for answer in answers]


def test_an_event_comes_back_as_it_was_given(store):
    full = logged(
        "e1",
        event="purchase",
        value=2,
        timestamp=NOW + 3600,
        basket="b7",
        request_id="r1",
        context={"device": "电话", "position": 3, "nul": "\0"},
    )
    append(store, full, logged("e2"))
    first, second = store.log.read("shop")
    assert first.event == Event("ann", "tea", "purchase", 2.0, NOW + 3600, "b7")
    assert (first.request_id, first.context) == ("r1", full.context)
    assert (first.seq, first.received) == (1, NOW)
    assert second == LoggedEvent("e2", Event("ann", "tea"), seq=2, received=NOW)


def test_a_replay_changes_nothing_and_says_where_the_event_is(store):
    assert append(store, logged("e1"), logged("e2")) == [
        Appended(Outcome.NEW, 1),
        Appended(Outcome.NEW, 2),
    ]
    assert append(store, logged("e2"), logged("e3"), now=NOW + 1) == [
        Appended(Outcome.REPLAY, 2),
        Appended(Outcome.NEW, 3),
    ]
    assert [e.event_id for e in store.log.read("shop")] == ["e1", "e2", "e3"]


@pytest.mark.parametrize(
    "other",
    [
        logged("e1", user="bob"),
        logged("e1", item="cup"),
        logged("e1", event="cart"),
        logged("e1", value=0.0),
        logged("e1", timestamp=5.0),
        logged("e1", basket="b"),
        logged("e1", request_id="r"),
        logged("e1", context={"a": 1}),
    ],
    ids=lambda e: str(e)[-60:],
)
def test_other_content_under_a_known_id_is_a_conflict(sqlite_url, other):
    store = open_store(sqlite_url)
    append(store, logged("e1"))
    assert append(store, other) == [Appended(Outcome.CONFLICT, 1)]
    assert [e.event for e in store.log.read("shop")] == [Event("ann", "tea")]
    store.close()


def test_one_batch_may_hold_an_id_twice(store):
    answers = append(store, logged("e1"), logged("e1"), logged("e1", item="cup"))
    assert outcomes(answers) == ["new", "replay", "conflict"]
    assert len(store.log.read("shop")) == 1


def test_tenants_do_not_see_each_other(store):
    append(store, logged("e1", item="tea"), tenant="one")
    append(store, logged("e1", item="cup"), logged("e2"), tenant="two")
    assert [e.event.item_id for e in store.log.read("one")] == ["tea"]
    assert [(e.seq, e.event.item_id) for e in store.log.read("two")] == [(1, "cup"), (2, "tea")]
    assert store.log.of_user("one", "ann")[0].event.item_id == "tea"
    assert store.log.read("three") == []


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ([("ann", "tea", "view")], ["e2", "e3", "e4"]),
        ([("ann", "tea", None)], ["e3", "e4"]),
        ([("ann", None, None)], ["e4"]),
        ([("ann", "tea", "view"), ("ben", "tea", None)], ["e2", "e3"]),
        ([("nobody", None, None)], ["e1", "e2", "e3", "e4"]),
    ],
)
def test_deleted_events_are_gone_and_may_be_sent_again(store, keys, left):
    batch = [
        logged("e1"),
        logged("e2", event="like"),
        logged("e3", item="mug"),
        logged("e4", user="ben"),
    ]
    append(store, *batch)
    append(store, logged("e1"), tenant="other")
    assert store.log.retract("shop", [*keys, *keys]) == 4 - len(left)
    assert [one.event_id for one in store.log.read("shop")] == left
    assert len(store.log.read("other")) == 1
    with store.database.read() as connection:
        counted = sa.select(tenants.c.n_events).where(tenants.c.tenant == "shop")
        assert connection.execute(counted).scalar() == len(left)
    again = {
        one.event_id: told.outcome for one, told in zip(batch, append(store, *batch), strict=True)
    }
    assert {i for i, outcome in again.items() if outcome is Outcome.REPLAY} == set(left)


def test_reading_goes_on_from_a_position(store):
    append(store, *(logged(f"e{i}", user=f"u{i % 3}") for i in range(1_203)))
    page = store.log.read("shop", after=10, limit=3)
    assert [e.seq for e in page] == [11, 12, 13]
    assert [e.seq for e in store.log.iterate("shop", after=1_000, batch=50)] == list(
        range(1_001, 1_204)
    )
    newest = store.log.of_user("shop", "u2", limit=2)
    assert [e.event_id for e in newest] == ["e1199", "e1202"]
    assert len(store.log.of_user("shop", "u1")) == 401


def test_what_was_acknowledged_is_there_after_reopening(store, store_url):
    append(store, logged("e1"))
    store.close()
    again = open_store(store_url)
    assert outcomes(append(again, logged("e1"), logged("e2"))) == ["replay", "new"]
    assert [e.seq for e in again.log.read("shop")] == [1, 2]
    again.close()


def test_two_processes_number_one_tenant_without_gap_or_double(store, store_url):
    other = open_store(store_url)

    def write(k):
        mine = (store, other)[k % 2]
        return outcomes(append(mine, *(logged(f"e{i}") for i in range(k, k + 3))))

    with ThreadPoolExecutor(8) as pool:
        answers = [x for found in pool.map(write, range(24)) for x in found]
    assert answers.count("new") == 26  # ids e0 to e25, each once
    assert answers.count("replay") == 72 - 26
    assert [e.seq for e in store.log.read("shop")] == list(range(1, 27))
    other.close()


def test_a_reader_never_misses_a_lower_number_that_commits_later(store, store_url):
    # Readers go on from the last seq they saw: numbers must appear in order.
    other = open_store(store_url)
    done = threading.Event()
    seen = []

    def follow():
        while not done.is_set():
            seen.extend(e.seq for e in other.log.read("shop", after=seen[-1] if seen else 0))

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: append((store, other)[i % 2], logged(f"e{i}")), range(40)))
    done.set()
    reader.join()
    assert seen == list(range(1, len(seen) + 1))
    other.close()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (logged(""), "event_id is ''"),
        (logged("a\0b"), "none of them NUL"),
        (logged("\ud800"), "half a character"),
        (logged("x" * 513), "513 bytes"),
        (logged("文" * 171), "513 bytes"),
        (logged("e", user=7), "user_id is 7"),
        (logged("e", value=float("nan")), "value is nan"),
        (logged("e", value=True), "value is True"),
        (logged("e", timestamp=10**400), "timestamp is 1000"),
        (logged("e", context={"a": float("inf")}), "context cannot be written"),
        (logged("e", context={"a": "\udfff"}), "half a character"),
        (logged("e", context={"a": object()}), "context cannot be written"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_kept(sqlite_url, bad, told):
    store = open_store(sqlite_url)
    with pytest.raises(DataError, match=told):
        append(store, logged("good"), bad)
    assert store.log.read("shop") == []
    store.close()


def test_the_longest_ids_are_kept(store):
    longest = "文" * 170
    append(store, logged(longest, user=longest, item=longest), tenant=longest)
    assert store.log.of_user(longest, longest)[0].event_id == longest


def test_an_empty_batch_is_answered_at_once(store):
    assert append(store) == []


# Durability


def test_the_disk_is_synced_before_the_acknowledgement(store, monkeypatch):
    told = []
    dialect = store.database.engine.dialect
    commit = dialect.do_commit

    def recorded(connection):
        told.append("commit begins")
        commit(connection)
        told.append("commit ended")

    monkeypatch.setattr(dialect, "do_commit", recorded)
    future = store.log.submit("shop", [logged("e1")], now=NOW)
    future.add_done_callback(lambda _: told.append("acknowledged"))
    future.result()
    assert told == ["commit begins", "commit ended", "acknowledged"]


def test_each_commit_of_sqlite_syncs_the_log(sqlite_url):
    store = open_store(sqlite_url)
    with store.database.write() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "journal_mode", "auto_vacuum")
        }
    assert settings == {"synchronous": 2, "journal_mode": "wal", "auto_vacuum": 2}
    store.close()


def test_postgresql_commits_durably_even_where_its_default_is_not(postgres_url):
    store = open_store(postgres_url)
    name = store.database.engine.url.database
    with store.database.alone() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    store.database.engine.dispose()
    with store.database.write() as connection:
        assert connection.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
    with store.database.alone() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} RESET synchronous_commit"))
    store.close()


def test_a_full_disk_acknowledges_nothing_and_space_heals_it(sqlite_url):
    store = open_store(sqlite_url)
    append(store, logged("e1"))

    def limit(connection, _):
        connection.execute("PRAGMA max_page_count=80").close()

    sa.event.listen(store.database.engine, "connect", limit)
    store.database.engine.dispose()
    kept = ["e1"]

    def fill():
        for i in range(1_000):
            append(store, logged(f"big{i}", context={"text": "x" * 5_000}))
            kept.append(f"big{i}")

    with pytest.raises(StorageError, match=r"full.*free disk space"):
        fill()
    assert [e.event_id for e in store.log.read("shop")] == kept
    sa.event.remove(store.database.engine, "connect", limit)
    store.database.engine.dispose()
    assert outcomes(append(store, logged("after"))) == ["new"]
    store.close()


def test_a_database_that_is_away_is_told_and_comes_back(postgres_url):
    store = open_store(postgres_url)
    append(store, logged("e1"))
    name = store.database.engine.url.database
    server = open_database(postgres_url.replace(name, "postgres"))

    def run(statement):
        with server.alone() as connection:
            connection.execute(sa.text(statement))

    run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    with pytest.raises(StorageError, match="not currently accepting connections"):
        append(store, logged("e2"))
    run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    server.close()
    assert outcomes(append(store, logged("e1"), logged("e2"))) == ["replay", "new"]
    store.close()


# Group commit


class Gate:
    """A write that waits until it is let through, and counts transactions."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.groups = []

    def write(self, connection, tenant, rows):
        self.entered.set()
        assert self.open.wait(10)
        self.groups.append((tenant, list(rows)))
        return [row * 10 for row in rows]


@pytest.fixture
def database(sqlite_url):
    opened = open_database(sqlite_url)
    yield opened
    opened.close()


def test_what_gathers_during_a_commit_is_one_group(database):
    writer, gate = GroupWriter(database, GroupConfig()), Gate()
    first = writer.submit(gate.write, "a", [1])
    assert gate.entered.wait(10)
    others = [
        writer.submit(gate.write, tenant, [n]) for tenant, n in (("b", 2), ("a", 3), ("b", 4))
    ]
    gate.open.set()
    assert [f.result() for f in (first, *others)] == [[10], [20], [30], [40]]
    assert gate.groups == [("a", [1]), ("a", [3]), ("b", [2, 4])]
    writer.close()


def test_a_full_queue_refuses_and_says_when_to_come_again(database):
    writer, gate = GroupWriter(database, GroupConfig(queue_rows=3)), Gate()
    taken = [writer.submit(gate.write, "a", [1, 2, 3, 4])]  # nothing waits: any size is taken
    assert gate.entered.wait(10)
    with pytest.raises(QueueFullError, match="4 rows wait") as caught:
        writer.submit(gate.write, "a", [5])
    assert 0 < caught.value.retry_after_s < 60
    gate.open.set()
    assert taken[0].result() == [10, 20, 30, 40]
    writer.close()
    assert writer.waiting_rows == 0


def test_a_fault_in_one_call_does_not_touch_the_others(database):
    writer, gate = GroupWriter(database, GroupConfig()), Gate()

    def faulty(connection, tenant, rows):
        raise ZeroDivisionError

    first = writer.submit(gate.write, "a", [1])
    assert gate.entered.wait(10)
    bad, good = writer.submit(faulty, "a", [2]), writer.submit(gate.write, "a", [3])
    gate.open.set()
    assert first.result() == [10]
    assert good.result() == [30]
    with pytest.raises(ZeroDivisionError):
        bad.result()
    assert writer.submit(gate.write, "a", [4]).result() == [40]
    writer.close()


def test_closing_writes_what_waits_and_takes_no_more(database):
    writer, gate = GroupWriter(database, GroupConfig(group_rows=1)), Gate()
    waiting = [writer.submit(gate.write, "a", [n]) for n in range(5)]
    gate.open.set()
    writer.close()
    assert [f.result() for f in waiting] == [[0], [10], [20], [30], [40]]
    with pytest.raises(StorageError, match="closed"):
        writer.submit(gate.write, "a", [5])


def test_asyncio_callers_share_groups(sqlite_url):
    store = open_store(sqlite_url)

    async def all_at_once():
        calls = [store.log.append_async("shop", [logged(f"e{i}")], now=NOW) for i in range(50)]
        return await asyncio.gather(*calls)

    answers = asyncio.run(all_at_once())
    assert sorted(a[0].seq for a in answers) == list(range(1, 51))
    store.close()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="queue_rows=0"):
        GroupConfig(queue_rows=0)
