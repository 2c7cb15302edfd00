"""The verbs dump, restore and refit, and lists for all users."""

import polars as pl
import psycopg
import pytest
from typer.testing import CliRunner

from engine_worlds import model, recommender
from steerec.cli import app
from steerec.cli.refit import PRIORITY
from steerec.contracts import Event, Query
from steerec.engine.batch import lists_for_all
from steerec.engine.shelf import Shelf
from steerec.engine.snapshot import save_snapshot
from steerec.errors import StorageError
from steerec.store import open_store
from steerec.store.log import LoggedEvent


def verb(*words):
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


@pytest.fixture
def database(sqlite_url, monkeypatch, tmp_path):
    monkeypatch.setenv("STEEREC_DATABASE_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    return sqlite_url


def test_a_store_goes_into_a_file_and_back(database, tmp_path, monkeypatch):
    store = open_store(database)
    store.log.append("shop", [LoggedEvent("e1", Event("ann", "tea"))], now=5.0)
    store.close()
    done = verb("dump", "shop.zip")
    assert done.exit_code == 0, done.output
    assert "2 rows" in done.output  # the event, and its tenant's counters
    assert "not empty" in verb("restore", "shop.zip").output
    assert verb("restore", "shop.zip", "--replace").exit_code == 0
    monkeypatch.setenv("STEEREC_DATABASE_URL", f"sqlite:///{tmp_path}/other.db")
    assert verb("restore", "shop.zip").exit_code == 0
    other = open_store(f"sqlite:///{tmp_path}/other.db")
    assert [one.event_id for one in other.log.iterate("shop")] == ["e1"]
    other.close()


def test_a_refit_says_when_there_is_nothing_to_fit_on_or_another_runs(
    database, tmp_path, monkeypatch
):
    lowered = []  # not for real: the tests that follow in this process would crawl
    monkeypatch.setattr("os.nice", lowered.append)
    assert "no events yet" in verb("refit").output
    with Shelf(tmp_path / "snapshots").alone("default") as alone:
        assert alone
        assert "being fitted by another process" in verb("refit").output
    assert lowered == [PRIORITY, PRIORITY]


def test_the_lists_of_all_users_are_those_of_each(tmp_path):
    table = lists_for_all(recommender(), Query(n=4, exclude=frozenset({"i0003"})))
    assert table["user_id"].n_unique() == model().data.n_users
    for user in ("u0000", "u0007", "u0119"):
        alone = recommender().recommend(Query(user, n=4, exclude=frozenset({"i0003"})))
        rows = table.filter(pl.col("user_id") == user).sort("position")
        assert rows["item_id"].to_list() == [choice.item_id for choice in alone.items]
        assert rows["reason"].to_list() == [choice.reason for choice in alone.items]
        assert rows["position"].to_list() == [1, 2, 3, 4]


def test_recommend_writes_all_lists_as_parquet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_snapshot(model(), tmp_path / "snapshot")
    done = verb(
        "recommend", "--snapshot", "snapshot", "--all", "--out", "x/lists.parquet", "-n", "3"
    )
    assert done.exit_code == 0, done.output
    table = pl.read_parquet("x/lists.parquet")
    assert table.columns == ["user_id", "position", "item_id", "score", "reason"]
    assert len(table) == 3 * model().data.n_users
    for wrong in (["--all"], ["--all", "--out", "y", "--user", "u"], ["--user", "u", "--out", "y"]):
        assert verb("recommend", "--snapshot", "snapshot", *wrong).exit_code == 2


def test_a_key_is_shown_on_one_line_and_labels_as_they_are(database):
    made = verb("key", "create", "--label", "[bold]till[/bold]")
    text, told = made.output.splitlines()
    store = open_store(database)
    assert store.keys.check(text) is not None
    store.close()
    assert told.startswith("Key ")
    assert verb("key", "list").output.strip().endswith("read, events [bold]till[/bold]")


@pytest.mark.parametrize(
    "words",
    [
        ("strategy", "show"),
        ("strategy", "list"),
        ("strategy", "diff", "1", "2"),
        ("strategy", "promote", "1"),
        ("strategy", "rollback"),
        ("experiment", "list"),
        ("experiment", "show", "spring"),
        ("key", "list"),
        ("key", "revoke", "k"),
        ("dump", "shop.zip"),
        ("tune",),
        ("refit",),
    ],
    ids=" ".join,
)
def test_a_verb_that_needs_a_store_says_where_there_is_none_and_makes_none(
    words, tmp_path, monkeypatch
):
    monkeypatch.delenv("STEEREC_DATABASE_URL", raising=False)
    monkeypatch.setattr("os.nice", lambda by: 0)  # a refit's, for this process
    monkeypatch.chdir(tmp_path)
    refused = verb(*words)
    assert refused.exit_code != 0
    told = " ".join(refused.output.replace("│", " ").split())
    assert "no store at steerec.db: run the command in the folder of the service" in told
    assert list(tmp_path.iterdir()) == []


def test_an_empty_server_is_not_given_tables_by_one_who_reads(postgres):
    with pytest.raises(StorageError, match="no store at"):
        open_store(postgres.get_uri("postgres"), make=False)
    with psycopg.connect(postgres.get_uri("postgres")) as connection:
        found = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
        assert found.fetchall() == []
