"""Where the models of each tenant are kept: one snapshot a fit, named by its time, few of them."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from steerec.engine.live import LOG_SEQ
from steerec.engine.model import Model
from steerec.engine.snapshot import MANIFEST, load_snapshot, save_snapshot
from steerec.errors import SnapshotError

log = logging.getLogger(__name__)

MOST_LETTERS = 100  # of a tenant's name in that of its folder


@dataclass(frozen=True)
class Facts:
    """What can be told of a snapshot without loading it.

    Attributes:
        log_seq: place in the tenant's log up to which its data hold the log.
        made: Unix seconds.
    """

    n_events: int
    log_seq: int
    made: float


@dataclass(frozen=True)
class Shelf:
    """Snapshots by tenant below one folder.

    Attributes:
        keep: how many of each tenant stay; older ones hold data of erased persons for longer.
    """

    folder: Path
    keep: int = 2

    def of(self, tenant: str) -> Path:
        """The tenant's folder, whatever letters its name has."""
        name = quote(tenant, safe="").replace(".", "%2E")
        if len(name) > MOST_LETTERS:
            digest = hashlib.sha256(tenant.encode()).hexdigest()
            name = f"{name[:MOST_LETTERS]}~{digest[:16]}"
        return self.folder / name

    def newest_first(self, tenant: str) -> list[Path]:
        """The tenant's snapshots; one that was never finished is none."""
        folder = self.of(tenant)
        found = folder.iterdir() if folder.is_dir() else ()
        whole = (f for f in found if not f.name.startswith(".") and (f / MANIFEST).is_file())
        return sorted(whole, key=lambda folder: folder.name, reverse=True)

    def newest(self, tenant: str) -> Path | None:
        """The tenant's newest snapshot, if there is one."""
        found = self.newest_first(tenant)
        return found[0] if found else None

    def put(self, tenant: str, model: Model, *, now: float) -> Path:
        """Write a model as the tenant's newest, whole or not at all, and delete the oldest.

        Raises:
            SnapshotError: if it cannot be written.
        """
        name = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = self.of(tenant) / name
        save_snapshot(model, folder, now=now)
        for old in self.newest_first(tenant)[self.keep :]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def load(self, tenant: str) -> tuple[Path, Model] | None:
        """The newest snapshot that is whole; one that is not is logged and passed over."""
        for folder in self.newest_first(tenant):
            try:
                return folder, load_snapshot(folder)
            except SnapshotError as e:
                log.error("tenant=%s snapshot=%s passed_over=1 error=%s", tenant, folder.name, e)
        return None

    @contextmanager
    def alone(self, tenant: str) -> Iterator[bool]:
        """Whether this is the only refit of the tenant, until the block ends or the process dies.

        Held by a lock on a file, so it holds among processes that share the folder.
        """
        folder = self.of(tenant)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".refit.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def facts_of(folder: Path) -> Facts:
    """What a snapshot tells of itself.

    Raises:
        SnapshotError: if it is none.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        data = json.loads((folder / "dataset" / "dataset.json").read_text("utf-8"))
        made = manifest["created"]
        return Facts(
            n_events=int(data["n_events"]),
            log_seq=int(data["notes"].get(LOG_SEQ, 0)),
            made=0.0 if made is None else datetime.fromisoformat(made).timestamp(),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise SnapshotError(f"{folder} is no snapshot ({e!r}): name a folder of a model") from e
