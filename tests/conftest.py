"""Databases for the store's tests: SQLite files, and one real PostgreSQL for the whole run."""

import asyncio
import shutil

import psycopg
import pytest

import engine_worlds
import live_servers
import service_worlds
from steerec.store import open_store
from steerec.store.schema import metadata


@pytest.fixture(autouse=True)
def _the_shared_model_stays_as_it_was():
    """A test whose events a head counts needs a model of its own, or others fail in its place."""
    before = engine_worlds.counted()
    yield
    assert before in (None, engine_worlds.counted()), "use engine_worlds.own()"


@pytest.fixture(scope="session")
def postgres():
    """A server of our own, whose database `made` has the tables."""
    with live_servers.postgres_running() as running:
        server = running.server
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE made")
        open_store(server.get_uri("made")).close()
        yield server


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory):
    """A file that has the tables."""
    path = tmp_path_factory.mktemp("sqlite") / "made.db"
    open_store(str(path)).close()
    return path


@pytest.fixture
def sqlite_url(sqlite_file, tmp_path):
    """An empty store in a file."""
    shutil.copy(sqlite_file, tmp_path / "store.db")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def postgres_url(postgres):
    """An empty store on PostgreSQL."""
    with psycopg.connect(postgres.get_uri("made")) as connection:
        for name in metadata.tables:
            connection.execute(f"DELETE FROM {name}")  # a database for each test takes seconds
    return postgres.get_uri("made")


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request):
    """An empty store, on each engine in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store(store_url):
    """An empty store, open."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def loop():
    """One event loop for all calls to services."""
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_default_executor())
    made.close()


@pytest.fixture
def shop(sqlite_url, loop):
    """A service with a small fitted model, over an empty store of its own."""
    made = service_worlds.opened(sqlite_url, loop=loop)
    yield made
    made.close()


@pytest.fixture
def bare(sqlite_url, loop):
    """A service that starts from nothing."""
    made = service_worlds.opened(sqlite_url, fitted=False, loop=loop)
    yield made
    made.close()
