"""One database, SQLite or PostgreSQL: how it is opened, read and written."""

import fcntl
import logging
import re
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from steerec.errors import ConfigError, DataError, MissingExtraError, StorageError
from steerec.store.schema import tenants
from steerec.store.values import check_id

log = logging.getLogger(__name__)

CHUNK = 500  # ids in one query
GLANCE_S = 0.05  # that a glance waits for a locked file: whoever looks answers others, too
_WAIT_S = 10.0  # for another process that writes, or a server that does not answer
_DEAD_AFTER = {  # libpq: a server whose host is gone is told from one that thinks
    "connect_timeout": int(_WAIT_S),
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": int(1_000 * _WAIT_S),
}
_SQLITE_SETUP = (
    "PRAGMA auto_vacuum=INCREMENTAL",  # before anything is written, or it has no effect
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # the log is synced at each commit, not at checkpoints only
    "PRAGMA fullfsync=ON",  # macOS: through the drive's own cache
    "PRAGMA secure_delete=FAST",
)
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)


class Database:
    """An engine with two ways in: `read` for one consistent view, `write` for a transaction.

    Attributes:
        path: the file; None for a server.
    """

    def __init__(self, engine: sa.Engine, path: Path | None) -> None:
        self.engine = engine
        self.path = path
        # SQLite has one writer: all queue here, which is fair, instead of at its busy timer.
        self._turns = _Turns(path) if path else None
        self._one_writer: AbstractContextManager[Any] = self._turns or nullcontext()
        self._watch: sqlite3.Connection | None = None  # see `glance`
        self._writes = engine.execution_options(steerec_writes=True)
        self._door = threading.Condition()  # guards the two below
        self._inside = 0
        self._closed = False
        self._steady = engine
        if path is None:
            self._steady = engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction in which all reads see the same moment.

        Raises:
            StorageError: if the database does not answer.
        """
        with self._told(), self._steady.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on disk when the block has ended, or did not happen.

        Raises:
            StorageError: if the disk is full or the database does not answer.
        """
        with self._told(), self._one_writer, self._writes.begin() as connection:
            yield connection

    @contextmanager
    def alone(self) -> Iterator[sa.Connection]:
        """A connection outside of transactions, for what the engines allow only there."""
        outside = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with self._told(), self._one_writer, outside.connect() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        with self._door:
            if self._closed:
                raise StorageError("the store is closed: open it again")
            self._inside += 1
        try:
            yield
        except (sa.exc.DataError, sa.exc.IntegrityError, OverflowError) as e:
            raise DataError(f"{self} refuses a value ({_reason(e)})") from e
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as e:
            raise StorageError(f"{self} failed ({_reason(e)}): {_remedy(_reason(e))}") from e
        finally:
            with self._door:
                self._inside -= 1
                self._door.notify_all()

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        stays: Collection[str] = (),
    ) -> None:
        """Insert rows, or overwrite those with the same primary key.

        Args:
            stays: columns that keep what they have in rows that are overwritten.
        """
        if not rows:
            return
        make = sqlite.insert if self.path else postgresql.insert
        statement = make(table)
        keys = [c.name for c in table.primary_key]
        told = [name for name in rows[0] if name not in keys and name not in stays]
        changed = {name: statement.excluded[name] for name in told}
        connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows)
        )

    def insert_new(
        self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows, leaving out those whose key is taken."""
        if rows:
            make = sqlite.insert if self.path else postgresql.insert
            connection.execute(make(table).on_conflict_do_nothing(), list(rows))

    def insert(
        self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows of plain numbers, texts and bytes, all with the same columns.

        SQLAlchemy's own way looks at each value of each row, which took as long as all else.
        """
        if not rows:
            return
        text, names = _inserting(table, tuple(rows[0]), connection.dialect)
        if names is None:
            connection.exec_driver_sql(text, list(rows))
        else:
            take = itemgetter(*names)
            connection.exec_driver_sql(text, [take(row) for row in rows])

    def lock_tenant(self, connection: sa.Connection, tenant: str) -> sa.Row[Any]:
        """The tenant's counters, held until this transaction ends; made if it is new.

        Who takes numbers holds this, so rows become visible in the order of their `seq`.
        """
        asked = {"wanted": tenant}
        row = connection.execute(_LOCKED, asked).first()
        if row is None:
            check_id(tenant, "tenant")
            zeros = ("last_seq", "last_number", "n_events", "n_impressions", "n_erased")
            fresh = {"tenant": tenant, **dict.fromkeys(zeros, 0)}
            self.insert_new(connection, tenants, [fresh])
            row = connection.execute(_LOCKED, asked).one()
        return row

    def overwrite_deleted(self, connection: sa.Connection) -> None:
        """What this transaction deletes is overwritten with zeros (SQLite; it costs writes)."""
        if self.path:
            connection.exec_driver_sql("PRAGMA secure_delete=ON").all()

    def shrink(self, most_pages: int | None = None) -> None:
        """Give free pages of the file back to the disk, and empty the write-ahead log (SQLite).

        PostgreSQL's own autovacuum reuses the room.
        """
        if not self.path:
            return
        limit = "" if most_pages is None else f"({most_pages})"
        with self.alone() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            # execute would free one page: it stops at the first step of this statement.
            raw.executescript(f"PRAGMA incremental_vacuum{limit}").close()
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            connection.exec_driver_sql("PRAGMA secure_delete=FAST").all()
        if busy:
            log.info("store=%s a reader keeps the write-ahead log from being emptied", self)

    def rewrite(self) -> None:
        """Write the whole database anew, so that no byte of deleted rows is left in unused places.

        Needs as much free disk as the database takes, and nobody writes meanwhile.
        """
        with self.alone() as connection:
            connection.exec_driver_sql("VACUUM" if self.path else "VACUUM FULL")
        self.shrink()

    def n_bytes(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        if self.path:
            files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
            return sum(file.stat().st_size for file in files if file.exists())
        with self.read() as connection:
            size = sa.select(sa.func.pg_database_size(sa.func.current_database()))
            return int(connection.execute(size).scalar_one())

    def version(self) -> int:
        """A number that changes whenever a file was written to, by whatever process; 0 of a server.

        To be called from one thread only, as `glance`.

        Raises:
            StorageError: if the file cannot be read.
        """
        row = self.glance("PRAGMA data_version") if self.path else None
        return 0 if row is None else int(row[0])

    def glance(self, statement: str, asked: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row that a file answers with, in some 10 microseconds; one thread only.

        Raises:
            StorageError: if the file cannot be read.
        """
        assert self.path is not None, "a server takes as long as `read`"
        try:
            if self._watch is None:
                self._watch = sqlite3.connect(self.path, GLANCE_S, check_same_thread=False)
            cursor = self._watch.execute(statement, asked)
            row: tuple[Any, ...] | None = cursor.fetchone()
            cursor.close()  # or it would keep the moment it sees
        except sqlite3.Error as e:
            raise StorageError(f"{self} failed ({e}): {_remedy(str(e))}") from e
        return row

    def close(self) -> None:
        """Close all connections, once transactions that other threads are in have ended.

        A connection that is in use while its pool goes would stay open until it is collected.
        """
        with self._door:
            self._closed = True
            self._door.wait_for(lambda: self._inside == 0, timeout=_WAIT_S)
        for held in (self._watch, self._turns):
            if held is not None:
                held.close()
        self.engine.dispose()

    def __str__(self) -> str:
        return str(self.path or self.engine.url.render_as_string(hide_password=True))


class _Turns:
    """Whose turn it is to write to a file: one thread of this process, and one process of all."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-writer")
        self._threads = threading.Lock()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            if self._file is None:
                self._file = self._path.open("ab")
            fcntl.flock(self._file, fcntl.LOCK_EX)  # the kernel frees it when the process dies
        except OSError as e:
            self._threads.release()
            raise StorageError(f"{self._path} cannot be locked ({e}): free it") from e

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.release()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def count(connection: sa.Connection, tenant: str, **more: int) -> None:
    """Add to a tenant's counters; the caller holds `lock_tenant`."""
    added = {f"more_{name}": n for name, n in more.items()}
    connection.execute(_counting(tuple(more)), {"wanted": tenant, **added})


# Statements of each group are built once: building one costs as much as running it.
_OF_TENANT = tenants.c.tenant == sa.bindparam("wanted")
_LOCKED = sa.select(tenants).where(_OF_TENANT).with_for_update()


@lru_cache
def _inserting(
    table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect
) -> tuple[str, tuple[str, ...] | None]:
    """The statement for a driver, and the columns in its order; None: it takes them by name."""
    statement = sa.insert(table).values({name: sa.bindparam(name) for name in columns})
    made = statement.compile(dialect=dialect)
    order = getattr(made, "positiontup", None)
    return str(made), None if order is None else tuple(order)


@lru_cache
def _counting(names: tuple[str, ...]) -> sa.Update:
    added = {name: tenants.c[name] + sa.bindparam(f"more_{name}") for name in names}
    return sa.update(tenants).where(_OF_TENANT).values(added)


def in_chunks(values: Sequence[Any], size: int = CHUNK) -> Iterator[Sequence[Any]]:
    """The values in pieces of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def open_database(url: str, *, make: bool = True) -> Database:
    """Connect to `sqlite:///file` (or a plain path), or `postgresql://…`.

    Args:
        make: whether to make a file that is not there.
    Raises:
        ConfigError: if the URL names neither, or no file.
        MissingExtraError: if psycopg is not installed.
        StorageError: if it does not open.
    """
    if re.match(r"^postgres(ql)?(\+psycopg)?://", url):
        return _open_server(re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", url))
    name = url.removeprefix("sqlite:///")
    if not name or "://" in name or name == ":memory:":
        shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
        raise ConfigError(
            f"the store's URL is {shown!r}: expected sqlite:///file.db or postgresql://host/name"
        )
    path = Path(name)
    if not make and not path.exists():
        raise no_store(path)
    return _open_file(path)


def no_store(where: object) -> StorageError:
    """The error of a command that reads a store where there is none."""
    return StorageError(
        f"no store at {where}: run the command in the folder of the service, name the store by "
        "STEEREC_DATABASE_URL, or make one by `steerec serve`"
    )


def _open_file(path: Path) -> Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"{path.parent} cannot be made ({e}): give another folder") from e
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _WAIT_S, "isolation_level": None, "check_same_thread": False},
        pool_size=8,
        max_overflow=64,
    )
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return Database(engine, path)


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    for statement in _SQLITE_SETUP:
        connection.execute(statement).close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later could not wait for its turn.
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if options.get("steerec_writes") else "BEGIN DEFERRED"
    )


def _open_server(url: str) -> Database:
    try:
        engine = sa.create_engine(
            url,
            isolation_level="READ COMMITTED",  # after waiting for a lock, see what it guarded
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=8,
            pool_timeout=_WAIT_S,
            connect_args={"application_name": "steerec", **_DEAD_AFTER},
        )
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            f"PostgreSQL needs the driver {e.name!r}: pip install 'steerec[postgres]'"
        ) from e
    sa.event.listen(engine, "connect", _set_up_server)
    database = Database(engine, None)
    with database.read() as connection:
        if connection.execute(sa.text("SHOW fsync")).scalar() != "on":
            log.warning("store=%s fsync=off: a power cut may lose acknowledged events", database)
    return database


def _set_up_server(connection: Any, _: object) -> None:
    connection.execute(_DURABLE).close()
    connection.commit()


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def _remedy(reason: str) -> str:
    if "full" in reason or "No space" in reason:
        return "free disk space, or lower the limits of retention"
    return "nothing was written; check that the database is there and try again"
