"""Strategy versions, API keys, checkpoints, migrations, and how the queries find their rows."""

import hashlib
import logging
import sqlite3
import subprocess
import sys
import threading

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from steerec.errors import ConfigError, DataError, StorageError
from steerec.store import open_store
from steerec.store.checkpoints import Checkpoint
from steerec.store.database import open_database
from steerec.store.migrate import HEAD, _locked, migrate
from steerec.store.schema import metadata
from steerec.store.strategies import StrategyVersion

NOW = 1_750_000_000.0
TENANT_1 = {  # rows as the first version wrote them
    "tenant": "shop", "last_seq": 2, "last_number": 0,
    "n_events": 1, "n_impressions": 0, "n_erased": 0,
}  # fmt: skip
EVENT_1 = {
    "tenant": "shop", "seq": 1, "event_id": "e1",
    "user_id": "ann", "item_id": "tea", "event": "view", "received": NOW,
}  # fmt: skip
ITEM_1 = {
    "tenant": "shop", "id": "tea", "attributes": '{"price": 4.5}', "labels": "[]",
    "hidden": False, "deleted": False, "changed": NOW, "seq": 2,
}  # fmt: skip


def proposed(author="ann", **more):
    return StrategyVersion({"theta": [[1.5]], "名": "甲"}, author, NOW, **more)


# Strategies


def test_versions_are_numbered_by_tenant_and_kept_as_given(store):
    first = store.strategies.add("shop", proposed())
    more = {"parents": (1,), "diff": {"a": 1}, "data_hash": "h", "estimates": {"ips": [0.1, 0.2]}}
    second = store.strategies.add("shop", proposed("tuner", **more))
    assert (first.version, second.version) == (1, 2)
    assert store.strategies.add("other", proposed()).version == 1
    assert store.strategies.get("shop", 2) == second == proposed("tuner", version=2, **more)
    assert store.strategies.get("shop", 3) is None
    assert [v.version for v in store.strategies.history("shop")] == [2, 1]
    assert store.strategies.history("shop", before=2) == [first]


def test_a_promotion_moves_the_pointer_and_a_rollback_moves_it_back(store):
    assert store.strategies.current("shop") is None
    for _ in range(2):
        store.strategies.add("shop", proposed())
    assert store.strategies.current("shop") is None
    store.strategies.promote("shop", 1, author="ann", now=NOW)
    store.strategies.promote("shop", 2, author="tuner", now=NOW + 1, instead_of=1)
    assert store.strategies.current("shop").version == 2
    store.strategies.promote("shop", 1, author="bob", now=NOW + 2, reason="complaints")
    assert store.strategies.current("shop").version == 1
    moves = [(p.version, p.author, p.reason) for p in store.strategies.promotions("shop")]
    assert moves == [(1, "bob", "complaints"), (2, "tuner", ""), (1, "ann", "")]


def test_two_gates_cannot_both_promote(store):
    for _ in range(3):
        store.strategies.add("shop", proposed())
    store.strategies.promote("shop", 1, author="ann", now=NOW)
    store.strategies.promote("shop", 2, author="one", now=NOW, instead_of=1)
    with pytest.raises(DataError, match="version 2 is in force, not 1"):
        store.strategies.promote("shop", 3, author="two", now=NOW, instead_of=1)
    assert store.strategies.current("shop").version == 2


def test_unknown_versions_and_parents_are_refused(store):
    with pytest.raises(DataError, match="version 1 does not exist"):
        store.strategies.promote("shop", 1, author="ann", now=NOW)
    with pytest.raises(DataError, match=r"parents are \(1,\), versions end at 0"):
        store.strategies.add("shop", proposed(parents=(1,)))
    assert store.strategies.history("shop") == []


# Keys


def test_a_key_opens_its_tenant_and_only_its_digest_is_kept(store):
    text, key = store.keys.issue("shop", ["read", "events"], now=NOW, label="web shop")
    assert store.keys.check(text) == key
    assert (key.tenant, key.scopes, key.label) == ("shop", ("read", "events"), "web shop")
    assert len(bytes.fromhex(text.split("_")[2])) == 32
    with store.database.read() as connection:
        (row,) = connection.execute(sa.select(metadata.tables["api_keys"])).mappings()
    assert bytes(row["sha256"]) == hashlib.sha256(text.encode()).digest()
    assert text.split("_")[2] not in str(dict(row))


def test_an_altered_foreign_or_revoked_key_opens_nothing(store):
    text, key = store.keys.issue("shop", ["read"], now=NOW)
    last = "0" if text[-1] != "0" else "1"
    for bad in (
        text[:-1] + last,
        text[:-1],
        text + "0",
        text.upper(),
        "",
        "steerec_x_y",
        "a\0b_c_d",
    ):
        assert store.keys.check(bad) is None
    assert not store.keys.revoke("other", key.key_id, now=NOW)
    assert store.keys.check(text) == key
    assert store.keys.revoke("shop", key.key_id, now=NOW + 1)
    assert not store.keys.revoke("shop", key.key_id, now=NOW + 2)
    assert store.keys.check(text) is None
    assert [k.revoked for k in store.keys.list("shop")] == [NOW + 1]


# Checkpoints


def test_the_newest_checkpoint_of_a_name_is_kept(store):
    assert store.checkpoints.get("shop", "state") is None
    store.checkpoints.put("shop", "state", Checkpoint(5, b"\0one", NOW))
    store.checkpoints.put("shop", "state", Checkpoint(9, b"two" * 50_000, NOW + 1))
    store.checkpoints.put("shop", "sums", Checkpoint(1, b"", NOW))
    assert store.checkpoints.get("shop", "state") == Checkpoint(9, b"two" * 50_000, NOW + 1)
    assert store.checkpoints.get("other", "state") is None
    store.checkpoints.delete("shop", "state")
    assert store.checkpoints.get("shop", "state") is None
    assert store.checkpoints.get("shop", "sums") == Checkpoint(1, b"", NOW)


def test_the_order_of_a_tenant_is_one_for_all_its_rows(store):
    store.strategies.add("shop", proposed())
    assert store.strategies.promote("shop", 1, author="ann", now=NOW).seq == 1
    store.items.upsert("shop", [], now=NOW)
    assert store.last_seq("shop") == 1
    assert store.last_seq("other") == 0
    assert store.tenants() == ["shop"]


# Opening


def test_the_migrations_make_the_tables_of_the_schema(store):
    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == HEAD


def test_many_processes_may_start_at_once_on_a_new_file(tmp_path):
    code = "import sys; from steerec.store import open_store; open_store(sys.argv[1]).close()"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "new" / "store.db")]
    started = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]


@pytest.fixture(params=["sqlite", "postgres"])
def bare_url(request, tmp_path):
    """A place for a store, without any tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/bare.db"
        return
    server = request.getfixturevalue("postgres")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
        yield server.get_uri("bare")
        connection.execute("DROP DATABASE bare WITH (FORCE)")


def test_a_store_of_the_first_version_is_brought_forward_with_its_rows(bare_url, monkeypatch):
    upgrade = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        old = open_database(bare_url)
        migrate(old)
    with old.write() as connection:
        for table, row in {"tenants": TENANT_1, "events": EVENT_1, "items": ITEM_1}.items():
            values = ", ".join(f":{name}" for name in row)
            text = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"
            connection.execute(sa.text(text), row)
    old.close()
    store = open_store(bare_url)
    assert [one.event_id for one in store.log.iterate("shop")] == ["e1"]
    assert store.items.get("shop", ["tea"])["tea"].attributes == {"price": 4.5}
    assert store.experiments.list("shop") == []
    assert store.last_seq("shop") == 2
    with store.database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == HEAD
    store.close()


def test_who_opens_a_store_waits_while_another_brings_it_forward(bare_url, monkeypatch):
    other, begun, upgrade = open_database(bare_url), threading.Event(), command.upgrade
    monkeypatch.setattr(command, "upgrade", lambda *told: (begun.set(), upgrade(*told)))
    starting = threading.Thread(target=lambda: open_store(bare_url).close())
    with _locked(other):
        starting.start()
        assert not begun.wait(0.3)
    starting.join()
    assert begun.is_set()
    other.close()


def test_tables_of_a_newer_version_are_refused(sqlite_url):
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StorageError, match=r"revision 9999.*update steerec"):
        open_store(sqlite_url)


def test_migrating_says_so_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "steerec.store")
    for _ in range(2):
        open_store(str(tmp_path / "store.db")).close()
    assert [r.message.split()[1] for r in caplog.records] == ["migrated_from=None"]


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d"])
def test_other_urls_are_refused_without_showing_passwords(url):
    with pytest.raises(ConfigError, match="expected sqlite:///") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="give another folder"):
        open_store(str(tmp_path / "file" / "store.db"))
    (tmp_path / "text.db").write_text("no database at all" * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_store(str(tmp_path / "text.db"))


# A query that reads all of a tenant is right in every test and too slow in every shop.
PLANS = {
    "SELECT * FROM events WHERE tenant = 'a' AND event_id IN ('x', 'y')": "event_id=?",
    "SELECT * FROM events WHERE tenant = 'a' AND user_id = 'u' ORDER BY seq DESC": "user_id=?",
    "SELECT * FROM events WHERE tenant = 'a' AND seq > 5 ORDER BY seq LIMIT 9": "seq>?",
    "SELECT * FROM items WHERE tenant = 'a' AND id IN ('x') AND NOT deleted": "id=?",
    "SELECT * FROM items WHERE tenant = 'a' AND seq > 5 ORDER BY seq LIMIT 9": "seq>?",
    "SELECT * FROM items WHERE tenant = 'a' AND deleted AND changed < 5": "changed<?",
    "SELECT * FROM impressions WHERE tenant = 'a' AND request_id IN ('x')": "request_id=?",
    "SELECT * FROM impressions WHERE tenant = 'a' AND user_id = 'u' ORDER BY seq": "user_id=?",
    "SELECT * FROM item_numbers WHERE tenant = 'a' AND item_id IN ('x')": "item_id=?",
    "SELECT * FROM item_numbers WHERE tenant = 'a' AND number IN (1, 2)": "number=?",
    "SELECT * FROM answers WHERE tenant = 'a' AND key IN ('x')": "key=?",
    "SELECT * FROM answers WHERE tenant = 'a' AND made < 5": "made<?",
    "SELECT * FROM erased_events WHERE tenant = 'a' AND digest IN (x'00')": "digest=?",
}


@pytest.mark.parametrize("query", PLANS)
def test_no_query_reads_all_of_a_tenant(sqlite_file, query):
    connection = sqlite3.connect(sqlite_file)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    connection.close()
    assert PLANS[query] in plan[0][3]
    assert "TEMP B-TREE" not in str(plan)


def test_a_number_that_no_database_holds_is_told(store):
    for version in (2**31, 2**63, 10**30):
        try:
            assert store.strategies.get("shop", version) is None
        except DataError as told:
            assert "refuses a value" in str(told)  # noqa: PT017  either answer is good


def test_closing_waits_for_who_is_inside_and_lets_nobody_in(store_url):
    """A connection in use would stay open after its pool, until it is collected."""
    store = open_store(store_url)
    inside, go = threading.Event(), threading.Event()

    def read():
        with store.database.read() as connection:
            inside.set()
            assert go.wait(10)
            assert connection.execute(sa.text("SELECT 1")).scalar() == 1
            pools.append(store.database.engine.pool)

    pools = []
    reader = threading.Thread(target=read)
    closer = threading.Thread(target=store.close)
    reader.start()
    assert inside.wait(10)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    go.set()
    closer.join(10)
    reader.join(10)
    assert [pool.checkedout() for pool in pools] == [0]
    with pytest.raises(StorageError, match="closed: open it again"):
        store.log.read("shop")
    store.close()
