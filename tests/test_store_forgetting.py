"""What goes: a person erased, the oldest rows trimmed; and what stays so in an archive."""

import json
import zipfile

import numpy as np
import pytest

from steerec.contracts import Event
from steerec.errors import StorageError
from steerec.store import RetentionConfig, open_store
from steerec.store.catalogue import Entry
from steerec.store.checkpoints import Checkpoint
from steerec.store.erase import digest_of_user
from steerec.store.impressions import Answer, Impression
from steerec.store.log import LoggedEvent
from steerec.store.strategies import StrategyVersion

NOW = 1_750_000_000.0
DAY = 86_400.0


def event(n, user="ann", **more):
    return LoggedEvent(f"e{n}", Event(user, f"item{n % 3}", **more))


def show(store, request_id, user="ann", *, time=NOW, key=None):
    scores = np.arange(4.0).reshape(2, 2)
    page = Impression(
        request_id, time, ("a", "b"), np.ones(2, np.float32), user, pool=("a", "b"), scores=scores
    )
    answer = Answer(key, request_id, b"?", f"for {user}".encode()) if key else None
    store.shown.append("shop", page, answer=answer)


def outcomes(store, *events, now=NOW, tenant="shop"):
    return [a.outcome.value for a in store.log.append(tenant, events, now=now)]


def lively(store):
    """Two users with something in each table."""
    for user, first in (("ann", 0), ("bob", 10)):
        store.log.append(
            "shop", [event(n, user, timestamp=NOW - n) for n in range(first, first + 3)], now=NOW
        )
        store.users.upsert("shop", [Entry(user, {"age": 30})], now=NOW)
        show(store, f"r-{user}", user, key=f"k-{user}")
    store.log.append("other", [event(0)], now=NOW)
    return store


# Erasing


def test_an_export_holds_every_row_of_a_user_as_json(store):
    lively(store)
    records = list(store.persons.export("shop", "ann"))
    assert [r["kind"] for r in records] == [
        "user",
        "event",
        "event",
        "event",
        "impression",
        "answer",
    ]
    told = json.loads(json.dumps(records))
    assert told[0]["attributes"] == {"age": 30}
    assert told[1]["event"] == {
        "user_id": "ann",
        "item_id": "item0",
        "event": "view",
        "value": None,
        "timestamp": NOW,
        "basket": None,
    }
    assert told[4]["scores"] == [[0.0, 1.0], [2.0, 3.0]]
    assert told[5]["answer"] == "for ann"
    assert "bob" not in json.dumps(records)
    assert list(store.persons.export("shop", "nobody")) == []


def test_an_erased_user_is_gone_from_every_table_and_nobody_else_is(store):
    lively(store)
    proof = store.persons.erase("shop", "ann", now=NOW + 1)
    gone = (proof.events, proof.impressions, proof.answers, proof.users)
    assert gone == (3, 1, 1, 1)
    assert list(store.persons.export("shop", "ann")) == []
    assert len(list(store.persons.export("shop", "bob"))) == 6
    assert len(list(store.persons.export("other", "ann"))) == 1
    assert store.shown.answered("shop", "k-ann") is None
    assert [c.id for c in store.users.changes("shop")] == ["bob"]


def test_replays_of_an_erased_user_do_not_come_back_but_the_user_may(store):
    lively(store)
    store.persons.erase("shop", "ann", now=NOW + 1)
    replayed = [event(n, timestamp=NOW - n) for n in range(3)]
    assert outcomes(store, *replayed, now=NOW + 2) == ["erased"] * 3
    # Never seen here, but it claims to be from before.
    assert outcomes(store, event(77, timestamp=NOW), now=NOW + 2) == ["erased"]
    # The id is known as erased even if its content now names somebody else.
    assert outcomes(store, event(1, "eve"), now=NOW + 2) == ["erased"]
    assert outcomes(store, event(78, timestamp=NOW + 2), event(79), now=NOW + 2) == ["new", "new"]
    assert [e.event_id for e in store.log.of_user("shop", "ann")] == ["e78", "e79"]
    assert outcomes(store, event(1), tenant="other") == ["new"]


def test_other_processes_hear_of_an_erasure(store):
    lively(store)
    before = store.last_seq("shop")
    proof = store.persons.erase("shop", "ann", now=NOW + 1)
    (heard,) = store.persons.erasures("shop", after=before)
    assert (heard.seq, heard.time) == (proof.seq, NOW + 1)
    assert heard.digest == digest_of_user("shop", "ann") != digest_of_user("other", "ann")
    assert store.persons.erasures("shop", after=heard.seq) == []


def test_erasing_twice_or_an_unknown_user_is_harmless(store):
    lively(store)
    store.persons.erase("shop", "ann", now=NOW + 1)
    again = store.persons.erase("shop", "ann", now=NOW + 2)
    assert (again.events, again.impressions, again.answers, again.users) == (0, 0, 0, 0)
    assert store.persons.erase("new", "nobody", now=NOW).events == 0


def test_nothing_of_an_erased_user_is_left_in_the_bytes_of_the_file(sqlite_url, tmp_path):
    store = lively(open_store(sqlite_url))
    secret = "wanda-the-secret"
    users = [secret if n % 7 == 0 else f"user{n % 11}" for n in range(1_200)]
    events = [LoggedEvent(f"{user}-{n}", Event(user, "tea")) for n, user in enumerate(users)]
    for start in range(0, len(events), 60):
        store.log.append("shop", events[start : start + 60], now=NOW)
    store.users.upsert("shop", [Entry(secret, {"name": "x" * 6_000 + secret})], now=NOW)
    show(store, f"r-{secret}", secret, key=f"k-{secret}")

    def found():
        return sum(secret.encode() in path.read_bytes() for path in tmp_path.glob("store.db*"))

    assert found() > 0
    store.persons.erase("shop", secret, now=NOW)
    store.database.rewrite()
    assert found() == 0
    assert store.log.read("shop", limit=1)[0].event.user_id != secret
    store.close()


# Retention


def test_the_oldest_rows_over_the_number_go_a_bounded_number_at_a_time(store):
    store.log.append("shop", [event(n) for n in range(30)], now=NOW)
    store.log.append("other", [event(n) for n in range(30)], now=NOW)
    keep = RetentionConfig(events=12)
    first = store.trim("shop", keep, now=NOW, at_most=10)
    assert (first.tables["events"], first.more) == (10, True)
    second = store.trim("shop", keep, now=NOW, at_most=10)
    assert (second.tables["events"], second.more) == (8, False)
    assert [e.seq for e in store.log.read("shop")] == list(range(19, 31))
    assert store.trim("shop", keep, now=NOW).tables["events"] == 0
    assert len(store.log.read("other")) == 30
    store.log.append("shop", [event(99)], now=NOW)
    assert store.last_seq("shop") == 31  # numbers go on


def test_rows_over_the_age_go_and_the_first_young_one_stops_it(store):
    for n, age in enumerate((9, 8, 2, 9, 1)):
        store.log.append("shop", [event(n)], now=NOW - age * DAY)
        show(store, f"r{n}", time=NOW - age * DAY)
    keep = RetentionConfig(events_days=5, impressions_days=1.5)
    trimmed = store.trim("shop", keep, now=NOW)
    assert trimmed.tables["events"] == 2  # e3 arrived with a wrong clock: no hole is made
    assert [e.event_id for e in store.log.read("shop")] == ["e2", "e3", "e4"]
    assert [s.request_id for s in store.shown.read("shop")] == ["r4"]


def test_answers_and_deletions_are_forgotten_after_their_time(store):
    show(store, "r1", time=NOW - 2 * DAY, key="old")
    show(store, "r2", time=NOW, key="young")
    store.items.upsert("shop", [Entry("a"), Entry("b"), Entry("c")], now=NOW - 90 * DAY)
    store.items.delete("shop", ["a"], now=NOW - 40 * DAY)
    store.items.delete("shop", ["b"], now=NOW - DAY)
    store.trim("shop", RetentionConfig(), now=NOW)
    assert store.shown.answered("shop", "old") is None
    assert store.shown.answered("shop", "young") is not None
    assert [(c.id, c.deleted) for c in store.items.changes("shop")] == [("c", False), ("b", True)]


def test_without_limits_nothing_goes(store):
    store.log.append("shop", [event(1)], now=0.0)
    show(store, "r1", time=0.0)
    forever = RetentionConfig(
        events_days=None, events=None, impressions=None, impressions_days=None
    )
    assert set(store.trim("shop", forever, now=NOW).tables.values()) == {0}


def test_a_file_shrinks_when_rows_go(sqlite_url):
    store = open_store(sqlite_url)
    big = [
        LoggedEvent(f"e{n}", Event("ann", "tea"), context={"x": "x" * 900}) for n in range(2_000)
    ]
    store.log.append("shop", big, now=NOW)
    store.database.shrink()
    before = store.database.n_bytes()
    store.trim("shop", RetentionConfig(events=100), now=NOW)
    assert store.database.n_bytes() < before / 5
    store.close()


def test_limits_below_zero_are_refused():
    with pytest.raises(ValueError, match="events_days=-1"):
        RetentionConfig(events_days=-1)


# Archives


@pytest.fixture
def full(store):
    lively(store)
    store.items.upsert("shop", [Entry("tea", {"title": "绿茶"}), Entry("gone")], now=NOW)
    store.items.delete("shop", ["gone"], now=NOW)
    store.strategies.add("shop", StrategyVersion({"a": 1}, "ann", NOW))
    store.strategies.promote("shop", 1, author="ann", now=NOW)
    store.checkpoints.put("shop", "state", Checkpoint(3, b"\0\xff", NOW))
    return store


def everything(store):
    """All that can be read of a store, as text."""
    found = []
    for tenant in store.tenants():
        found += [tenant, store.last_seq(tenant), store.strategies.current(tenant)]
        found += [*store.log.iterate(tenant), *store.items.changes(tenant)]
        found += [*store.users.changes(tenant), *store.strategies.promotions(tenant)]
        found += [store.checkpoints.get(tenant, "state"), *store.keys.list(tenant)]
        found += [store.shown.answered(tenant, "k-bob")]
        for s in store.shown.iterate(tenant):
            found += [s.request_id, s.seq, s.items, s.pool, s.scores.tolist(), s.seed]
    return "\n".join(map(str, found))


def test_an_archive_brings_everything_back_on_either_engine(full, tmp_path):
    text, key = full.keys.issue("shop", ["read"], now=NOW)
    told = full.dump(tmp_path / "store.zip", now=NOW)
    assert (told["events"], told["items"], told["impressions"]) == (7, 2, 2)
    other = open_store(str(tmp_path / "other.db"))
    assert other.restore(tmp_path / "store.zip") == told
    assert everything(other) == everything(full)
    assert other.keys.check(text) == key
    assert outcomes(other, event(0, timestamp=NOW), event(50)) == ["replay", "new"]
    other.dump(tmp_path / "back.zip", now=NOW)
    full.restore(tmp_path / "back.zip", replace=True)
    assert everything(full) == everything(other)
    other.close()


def test_a_restore_into_a_used_store_must_be_asked_for_and_is_all_or_nothing(full, tmp_path):
    full.dump(tmp_path / "store.zip", now=NOW)
    full.log.append("third", [event(5)], now=NOW)
    before = everything(full)
    with pytest.raises(StorageError, match="not empty"):
        full.restore(tmp_path / "store.zip")
    assert everything(full) == before
    full.restore(tmp_path / "store.zip", replace=True)
    assert full.log.read("third") == []
    assert full.last_seq("third") == 1  # a number once given is not given again


def test_a_restore_does_not_bring_back_who_was_erased_since(full, tmp_path):
    full.dump(tmp_path / "before.zip", now=NOW)
    full.persons.erase("shop", "ann", now=NOW + 1)
    full.restore(tmp_path / "before.zip", replace=True)
    assert list(full.persons.export("shop", "ann")) == []
    assert len(list(full.persons.export("shop", "bob"))) == 6
    assert outcomes(full, event(1, timestamp=NOW - 1), now=NOW + 2) == ["erased"]


def test_an_archive_carries_its_tombstones(full, tmp_path):
    full.persons.erase("shop", "ann", now=NOW + 1)
    full.dump(tmp_path / "after.zip", now=NOW + 2)
    other = open_store(str(tmp_path / "other.db"))
    other.restore(tmp_path / "after.zip")
    assert outcomes(other, event(1), now=NOW + 3) == ["erased"]
    other.close()


def test_one_changed_byte_anywhere_is_refused_or_means_nothing(sqlite_url, tmp_path):
    store = lively(open_store(sqlite_url))
    store.dump(tmp_path / "good.zip", now=NOW)
    good, before = (tmp_path / "good.zip").read_bytes(), everything(store)
    rng = np.random.default_rng(0)
    n_refused = 0
    for at in rng.choice(len(good), 40, replace=False):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.integers(8)
        (tmp_path / "bad.zip").write_bytes(bad)
        try:
            store.restore(tmp_path / "bad.zip", replace=True)
        except StorageError:
            n_refused += 1
        assert everything(store) == before
    assert n_refused > 20  # the rest are dates and the like of the zip itself
    store.close()


def rewritten(path, name, change):
    """The archive with one member changed, its zip checksums in order again."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for n, content in members.items():
            archive.writestr(n, change(content) if n == name else content)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("events.jsonl", lambda b: b.replace(b"item1", b"item2"), r"altered.*events.jsonl"),
        ("manifest.json", lambda b: b.replace(b'"rows": 7', b'"rows": 8'), r"altered.*manifest"),
        ("manifest.json", lambda b: b.replace(b'"format": 1', b'"format": 2'), "format 2"),
        ("manifest.json", lambda b: b"[]", "no whole archive"),
        ("manifest.json", lambda b: b"{}", "no whole archive"),
    ],
)
def test_an_altered_archive_is_refused(sqlite_url, tmp_path, name, change, told):
    store = lively(open_store(sqlite_url))
    store.dump(tmp_path / "a.zip", now=NOW)
    rewritten(tmp_path / "a.zip", name, change)
    before = everything(store)
    with pytest.raises(StorageError, match=told):
        store.restore(tmp_path / "a.zip", replace=True)
    assert everything(store) == before
    store.close()


@pytest.mark.parametrize("size", [0, 10, 500, -1, -30])
def test_a_cut_archive_is_refused(sqlite_url, tmp_path, size):
    store = lively(open_store(sqlite_url))
    path = tmp_path / "a.zip"
    store.dump(path, now=NOW)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StorageError, match="use another copy"):
        store.restore(path, replace=True)
    store.close()


def test_a_dump_that_cannot_be_written_leaves_nothing(sqlite_url, tmp_path):
    store = open_store(sqlite_url)
    with pytest.raises(StorageError, match="give another place"):
        store.dump(tmp_path / "none" / "a.zip", now=NOW)
    store.close()
