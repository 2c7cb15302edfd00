"""Bring the tables forward on start, under a lock, so that many processes may start at once."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from steerec.errors import StorageError
from steerec.store.database import Database, no_store

log = logging.getLogger(__name__)

HEAD = "0003"  # the newest file in migrations/versions
_LOCK = 0x57EE2EC  # any number, the same for all processes


def migrate(database: Database, *, make: bool = True) -> None:
    """Apply what is missing; little work when nothing is.

    Args:
        make: whether to make the tables where there are none.
    Raises:
        StorageError: if there are none and none are to be made, or the database was made by a
            newer steerec, or cannot be written.
    """
    if not make and _revision(database) is None:
        raise no_store(database)
    with _locked(database):
        before = _revision(database)
        if before != HEAD:
            _upgrade(database, before)
            log.info("store=%s migrated_from=%s to=%s", database, before, HEAD)


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(database: Database, before: str | None) -> None:
    from alembic import command  # slow to import, and needed only when something changes
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        if before is not None:
            ScriptDirectory.from_config(config).get_revision(before)
    except CommandError as e:
        raise StorageError(
            f"{database} has tables of revision {before}, this steerec knows up to {HEAD}: "
            "update steerec"
        ) from e
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _locked(database: Database) -> Iterator[None]:
    if database.path is not None:
        with database.path.with_name(f"{database.path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # freed when the file closes, or the process dies
            yield
        return
    with database.alone() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK)))
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_LOCK)))
