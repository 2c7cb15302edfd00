"""The durable store: event log, catalogue, slates shown, strategies and keys, by tenant."""

from dataclasses import dataclass

from steerec.store.catalogue import Catalogue
from steerec.store.database import Database, open_database
from steerec.store.group import GroupConfig, GroupWriter
from steerec.store.log import EventLog
from steerec.store.migrate import migrate


@dataclass(frozen=True)
class Store:
    """All that is kept, in one database; safe to use from many threads."""

    database: Database
    writer: GroupWriter
    log: EventLog
    items: Catalogue
    users: Catalogue

    def close(self) -> None:
        """Write what waits, then close all connections."""
        self.writer.close()
        self.database.close()


def open_store(url: str, config: GroupConfig | None = None) -> Store:
    """Open (or make) the store at `sqlite:///file.db`, a plain path, or `postgresql://…`.

    Raises:
        ConfigError: if the URL is of neither kind.
        MissingExtraError: if psycopg is missing.
        StorageError: if it does not open, or was made by a newer steerec.
    """
    database = open_database(url)
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    writer = GroupWriter(database, config or GroupConfig())
    return Store(
        database=database,
        writer=writer,
        log=EventLog(database, writer),
        items=Catalogue.of_items(database),
        users=Catalogue.of_users(database),
    )
