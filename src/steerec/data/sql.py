"""Tables out of any SQL database by URL."""

import re
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from steerec.data.tables import RawTables
from steerec.errors import DataError, MissingExtraError

_BATCH_ROWS = 200_000


def is_database_url(source: str) -> bool:
    """Whether the text is a URL such as sqlite:///shop.db."""
    return re.match(r"^[a-z][a-z0-9]*(\+[a-z0-9_]+)?://", source) is not None


def read_database(
    url: str, query: str | None = None, *, items: str | None = None, users: str | None = None
) -> RawTables:
    """Read events by a query (or table name), and items and users likewise.

    Without a query the table `events` is read, and `items` and `users` where they exist.

    Raises:
        DataError: if the database does not answer, or a query fails.
        MissingExtraError: if the database's driver is not installed.
    """
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            if query is None and "events" not in tables:
                raise DataError(
                    f"{_shown(url)} has no table 'events' (it has {sorted(tables)}): "
                    "give a query, for example SELECT * FROM orders"
                )
            wanted = [query or "events"]
            for given, name in ((items, "items"), (users, "users")):
                use_table = query is None and name in tables
                wanted.append(given or (name if use_table else ""))
            frames = [_frame(connection, q, tables) if q else None for q in wanted]
    except sa.exc.SQLAlchemyError as e:
        reason = str(getattr(e, "orig", None) or e).strip().splitlines()[0]
        raise DataError(f"{_shown(url)} could not be read ({reason}): check URL and query") from e
    finally:
        engine.dispose()
    assert frames[0] is not None
    return RawTables(frames[0], frames[1], frames[2])


def _engine(url: str) -> sa.Engine:
    # SQLAlchemy's own default for postgresql:// is psycopg2, which we do not install.
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    try:
        file = sa.make_url(url).database if url.startswith("sqlite") else None
        if file and file != ":memory:" and not Path(file).exists():
            raise DataError(f"{file} does not exist: SQLite would make an empty database")
        return sa.create_engine(url)
    except sa.exc.ArgumentError as e:
        raise DataError(f"{_shown(url)} is no database URL: expected dialect://host/name") from e
    except ModuleNotFoundError as e:
        remedy = (
            "pip install 'steerec[postgres]'"
            if "postgresql" in url
            else "install the package that brings it, or name another driver in the URL, "
            "as in mysql+pymysql://"
        )
        raise MissingExtraError(
            f"reading {_shown(url)} needs the Python module {e.name!r}: {remedy}"
        ) from e


def _shown(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _frame(connection: sa.Connection, query: str, tables: set[str]) -> pl.DataFrame:
    quote = connection.dialect.identifier_preparer.quote
    text = f"SELECT * FROM {quote(query)}" if query in tables else query
    batches = list(
        pl.read_database(
            sa.text(text),
            connection,
            iter_batches=True,
            batch_size=_BATCH_ROWS,
            infer_schema_length=None,
        )
    )
    return pl.concat(batches, how="vertical_relaxed") if batches else pl.DataFrame()
