"""Refits while the service runs: when one is due, the process that does it, and the swap after."""

import asyncio
import fcntl
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from steerec.config import ServiceConfig, Settings
from steerec.engine.live import Live
from steerec.engine.model import Model
from steerec.engine.shelf import Facts, Shelf, facts_of
from steerec.engine.snapshot import load_snapshot
from steerec.engine.strategies import ensure_promoted
from steerec.engine.texts import encoder_of
from steerec.errors import SteerecError, StorageError
from steerec.service.gate import OWNER
from steerec.service.tenants import Tenant, Tenants
from steerec.store import Store

log = logging.getLogger(__name__)

DAY_S = 86_400.0
SCHEDULE_EVERY_S = 5.0
LOOK_EVERY_S = 0.5  # for a new snapshot on the shelf
TOLD = 2_000  # last letters of what a failed refit said, that are logged


@dataclass(frozen=True)
class Due:
    """What decides whether a tenant is fitted again.

    Attributes:
        facts: of the model that serves; None: it is the model of nothing.
        n_new: events since then.
        first: Unix seconds of the first event of the log.
        tried: events that the last attempt had, which may have failed; 0: there was none.
        since: Unix seconds of the last attempt, or of the service's start.
    """

    facts: Facts | None
    n_new: int
    first: float
    tried: int
    since: float

    @property
    def n_events(self) -> int:
        """Events that a fit would have now."""
        return self.n_new + (0 if self.facts is None else self.facts.n_events)

    def why(self, config: ServiceConfig, now: float) -> str:
        """The reason to fit now; empty: there is none."""
        if self.n_new <= 0:
            return ""
        known = max(0 if self.facts is None else self.facts.n_events, self.tried)
        if now - self.first < DAY_S and self.n_events >= max(config.refit_events, 2 * known):
            return "events"
        last = max(self.since, 0.0 if self.facts is None else self.facts.made)
        if config.refit_hour >= 0 and now >= next_at(config.refit_hour, last):
            return "night"
        return ""


def next_at(hour: float, after: float) -> float:
    """Unix seconds of the first time after `after` that the clock shows this hour, UTC."""
    day = datetime.fromtimestamp(after, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    at = day + timedelta(hours=hour)
    found = at if at.timestamp() > after else at + timedelta(days=1)
    return found.timestamp()


@dataclass
class Refits:
    """Finds the models of tenants, has them fitted again, and swaps new ones in.

    One process of all that share the folder of snapshots starts refits; each swaps for itself.

    Attributes:
        snapshot: a folder named by the operator, for the owner; it is served while it is newer
            than what refits made.
        fixed: a model that is on no disk, for the owner, which is never fitted again.
        file: the settings file, as the refit reads it too; None: the default one, if it is there.
        seen: tenant → name of its newest snapshot when it was last looked at.
    """

    settings: Settings
    store: Store
    clock: Callable[[], float]
    snapshot: Path | None = None
    fixed: Model | None = None
    file: Path | None = None
    seen: dict[str, str] = field(default_factory=dict)
    _tried: dict[str, tuple[int, float]] = field(default_factory=dict)
    _tuned: dict[str, float] = field(default_factory=dict)
    _leads: IO[str] | None = None

    def __post_init__(self) -> None:
        config = self.settings.service
        self.shelf = Shelf(config.snapshots, config.snapshots_kept)
        self.started = self.clock()

    def load(self, tenant: str) -> Model | None:
        """The model a tenant is opened with.

        Raises:
            SnapshotError: if the folder named by the operator is no snapshot.
        """
        if tenant == OWNER and self.fixed is not None:
            return self.fixed
        newest = self.shelf.newest(tenant)
        self.seen[tenant] = "" if newest is None else newest.name
        named = self.snapshot if tenant == OWNER else None
        if named is not None and self.base_of(tenant) == named:
            return load_snapshot(named)
        found = self.shelf.load(tenant)
        if found is None:
            return None if named is None else load_snapshot(named)
        return found[1]

    def base_of(self, tenant: str) -> Path | None:
        """The snapshot that serves: of those that there are, the newest."""
        newest = self.shelf.newest(tenant)
        named = self.snapshot if tenant == OWNER else None
        if named is None or newest is None:
            return newest or named
        return named if facts_of(named).made > facts_of(newest).made else newest

    def due(self, tenant: str) -> Due:
        """What decides whether the tenant is fitted again."""
        base = self.base_of(tenant)
        facts = None if base is None else facts_of(base)
        first = self.store.log.read(tenant, limit=1)
        tried, at = self._tried.get(tenant, (0, self.started))
        return Due(
            facts=facts,
            n_new=self.store.log.count(tenant, after=0 if facts is None else facts.log_seq),
            first=first[0].received if first else self.clock(),
            tried=tried,
            since=at,
        )

    async def schedule(self) -> None:
        """Start refits as they come due, one at a time, for as long as the service runs."""
        while True:
            try:
                if self._lead():
                    await self.run_due()
            except StorageError as e:
                log.warning("refits=wait error=%s", e)
            await asyncio.sleep(SCHEDULE_EVERY_S)

    def tune_is_due(self, tenant: str) -> bool:
        """Whether the hour of the nightly tuning has come since it was last begun."""
        hour, last = self.settings.service.tune_hour, self._tuned.get(tenant, self.started)
        return hour >= 0 and self.clock() >= next_at(hour, last)

    async def run_due(self) -> list[str]:
        """Tune and fit what is due now; the tenants that were fitted."""
        fitted = []
        for tenant in await asyncio.to_thread(self.store.tenants):
            if self.tune_is_due(tenant):  # before a refit, on slates of the heads that serve
                self._tuned[tenant] = self.clock()
                await self.run("tune", tenant)
            if tenant == OWNER and self.fixed is not None:
                continue
            due = await asyncio.to_thread(self.due, tenant)
            why = due.why(self.settings.service, self.clock())
            if why:
                self._tried[tenant] = (due.n_events, self.clock())
                log.info("tenant=%s refit=begun why=%s events=%d", tenant, why, due.n_events)
                if await self.refit(tenant):
                    fitted.append(tenant)
        return fitted

    async def refit(self, tenant: str) -> bool:
        """Fit a tenant in a process of its own, at low priority; whether that went well."""
        return await self.run("refit", tenant)

    async def run(self, verb: str, tenant: str) -> bool:
        """A verb for a tenant in a process of its own; whether that went well."""
        process = await asyncio.create_subprocess_exec(
            *self._command(verb, tenant),
            env=self._environment(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, told = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if process.returncode:
            said = told.decode("utf-8", "replace")[-TOLD:]
            log.error(
                "tenant=%s %s=failed status=%d said=%r", tenant, verb, process.returncode, said
            )
        return process.returncode == 0

    async def watch(self, tenants: Tenants) -> None:
        """Swap in what appears on the shelf, whoever fitted it."""
        while True:
            for tenant in tenants:
                await asyncio.to_thread(self.swap_if_new, tenant)
            await asyncio.sleep(LOOK_EVERY_S)

    def swap_if_new(self, tenant: Tenant) -> bool:
        """Let the tenant's newest snapshot answer, if it is newer than the last one seen."""
        newest = self.shelf.newest(tenant.name)
        if newest is None or newest.name <= self.seen.get(tenant.name, ""):
            return False
        if tenant.name == OWNER and self.fixed is not None:
            return False
        try:
            model = load_snapshot(newest)
            self._swap(tenant, model)
        except SteerecError as e:
            log.error("tenant=%s snapshot=%s not_swapped=1 error=%s", tenant.name, newest.name, e)
            if newest.exists():  # else a newer one has taken its place
                self.seen[tenant.name] = newest.name
            return False
        self.seen[tenant.name] = newest.name
        log.info("tenant=%s swapped_to=%s", tenant.name, newest.name)
        return True

    def _swap(self, tenant: Tenant, model: Model) -> None:
        live, now = tenant.live, self.clock()
        if live.encoder is None:  # the first model with vectors
            settings = self.settings
            live.encoder = encoder_of(model.data, settings.encoder, settings.cache_dir)

        def ready(fresh: Live) -> None:
            ensure_promoted(fresh, self.store, now=now)
            fresh.recommender.prepare()

        live.swap(model, now=now, ready=ready)

    def _command(self, verb: str, tenant: str) -> list[str]:
        """The verb, as an operator would call it."""
        command = [sys.executable, "-m", "steerec", verb, "--tenant", tenant]
        if verb == "refit":
            base = self.base_of(tenant)
            command += ["--threads", str(self.settings.service.refit_threads)]
            command += ["--out", str(self.shelf.folder)]
            command += [] if base is None else ["--from", str(base)]
        return command + ([] if self.file is None else ["--config", str(self.file)])

    def _environment(self) -> dict[str, str]:
        """Ours, with what this service was told otherwise; secrets do not belong on a command."""
        told = self.settings.deployment
        url, cache = told.database_url, told.cache_dir
        given = {"STEEREC_DATABASE_URL": url, "STEEREC_CACHE_DIR": cache and str(cache)}
        return {**os.environ, **{name: value for name, value in given.items() if value}}

    def close(self) -> None:
        """Let another process start refits."""
        if self._leads is not None:
            self._leads.close()
            self._leads = None

    def _lead(self) -> bool:
        """Whether this process starts refits: the first that holds the lock, while it lives."""
        if self._leads is None:
            self.shelf.folder.mkdir(parents=True, exist_ok=True)
            file = (self.shelf.folder / ".schedule.lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._leads = file
        return True
