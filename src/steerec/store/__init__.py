"""The durable store: event log, catalogue, slates shown, strategies and keys, by tenant."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerec.store import archive
from steerec.store.catalogue import Catalogue
from steerec.store.checkpoints import Checkpoints
from steerec.store.database import Database, open_database
from steerec.store.epochs import Epochs
from steerec.store.erase import Persons
from steerec.store.experiments import Experiments
from steerec.store.group import GroupConfig, GroupWriter
from steerec.store.impressions import Impressions
from steerec.store.keys import ApiKeys
from steerec.store.log import EventLog
from steerec.store.migrate import migrate
from steerec.store.retention import RetentionConfig, Trimmed, all_tenants, trim
from steerec.store.strategies import Strategies


@dataclass(frozen=True)
class Store:
    """All that is kept, in one database; safe to use from many threads."""

    database: Database
    writer: GroupWriter
    log: EventLog
    items: Catalogue
    users: Catalogue
    shown: Impressions
    strategies: Strategies
    keys: ApiKeys
    checkpoints: Checkpoints
    experiments: Experiments
    epochs: Epochs
    persons: Persons

    def tenants(self) -> list[str]:
        """Every tenant that has ever written, by name."""
        return all_tenants(self.database)

    def last_seq(self, tenant: str) -> int:
        """The newest place in the tenant's order; 0 before anything was written."""
        return self.log.last_seq(tenant)

    def trim(
        self, tenant: str, config: RetentionConfig, *, now: float, at_most: int = 10_000
    ) -> Trimmed:
        """See `retention.trim`."""
        return trim(self.database, tenant, config, now=now, at_most=at_most)

    def dump(self, path: Path, *, now: float) -> Mapping[str, int]:
        """See `archive.dump`."""
        return archive.dump(self.database, path, now=now)

    def restore(self, path: Path, *, replace: bool = False) -> Mapping[str, int]:
        """See `archive.restore`."""
        loaded = archive.restore(self.database, path, replace=replace)
        self.shown.forget_all()
        return loaded

    def close(self) -> None:
        """Write what waits, then close all connections."""
        self.writer.close()
        self.database.close()


def open_store(url: str, config: GroupConfig | None = None, *, make: bool = True) -> Store:
    """Open (or make) the store at `sqlite:///file.db`, a plain path, or `postgresql://…`.

    Args:
        make: whether to make it where there is none.
    Raises:
        ConfigError: if the URL is of neither kind.
        MissingExtraError: if psycopg is missing.
        StorageError: if it does not open, is not there, or was made by a newer steerec.
    """
    database = open_database(url, make=make)
    try:
        migrate(database, make=make)
    except BaseException:
        database.close()
        raise
    writer = GroupWriter(database, config or GroupConfig())
    log, users = EventLog(database, writer), Catalogue.of_users(database)
    shown = Impressions(database, writer)
    return Store(
        database=database,
        writer=writer,
        log=log,
        items=Catalogue.of_items(database),
        users=users,
        shown=shown,
        strategies=Strategies(database),
        keys=ApiKeys(database),
        checkpoints=Checkpoints(database),
        experiments=Experiments(database),
        epochs=Epochs(database),
        persons=Persons(log, users, shown),
    )
