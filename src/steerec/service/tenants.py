"""The live engines of a process, one for each tenant, opened when first called for."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from steerec.contracts import Encoder
from steerec.engine.experiments import follow_experiments
from steerec.engine.live import Live
from steerec.engine.live_config import LiveConfig
from steerec.engine.model import Model
from steerec.engine.seeding import write_items
from steerec.engine.strategies import ensure_promoted, follow_current
from steerec.errors import DataError, StorageError
from steerec.service.telemetry import Telemetry
from steerec.store import Store

log = logging.getLogger(__name__)

LOADING = "it is being loaded; until then items that are new are found by their words alone"
MOST_AHEAD = 10_000  # places remembered one by one before the log is read up to here


@dataclass
class Tenant:
    """A tenant's engine and the store it shares with others; every call to it names the tenant."""

    name: str
    live: Live
    store: Store
    telemetry: Telemetry
    among: "Tenants | None" = None
    _woken: threading.Event = field(default_factory=threading.Event)
    _away: dict[str, str] = field(default_factory=dict)
    _seen: int = -1  # the store's newest place when it was last followed

    def wake(self) -> None:
        """The catalogue has changed: take it in soon."""
        self._woken.set()

    def keep_up(self, now: float, *, others: bool) -> None:
        """Take in what the catalogue's writers and, with `others`, other processes have stored."""
        try:
            if "store" in self._away:
                self._seen = min(self._seen, self.store.last_seq(self.name) - 1)  # is it back?
            if others or self.live.n_ahead > MOST_AHEAD:
                self._follow(now)
            elif self._woken.is_set():
                self._woken.clear()
                self.live.follow_items(now=now)
            if self.live.may_read:
                self.live.follow_items(now=now)
            if not self.live.promoted:
                ensure_promoted(self.live, self.store, now=now)
            self._away.pop("store", None)
        except StorageError as e:
            if "store" not in self._away:
                log.error("tenant=%s store=away error=%s", self.name, e)
            self._away["store"] = str(e)

    @property
    def shared(self) -> bool:
        """Whether other processes may write to the store."""
        return self.among is not None and self.among.shared

    async def catch_up_with(self, user_id: str, now: float) -> None:
        """Take in what other processes have just stored of a user, where they share a file."""
        if not self.shared or self.store.database.path is None:
            return
        try:
            found = self.store.log.of_user_after(self.name, user_id, self.live.seq)
            if not found:
                return
            if self.live.knows({one.event.item_id for one in found}):
                self.live.take(found, now=now)
            else:  # which takes a while
                await asyncio.to_thread(self.live.take, found, now=now)
        except StorageError as e:
            log.warning("tenant=%s store=away error=%s", self.name, e)  # `keep_up` tells health

    def tune(self, now: float) -> None:
        """Let people's answers move the strategy; beside `keep_up`, which is not to wait for it."""
        try:
            self._follow_strategy()  # an operator may have moved it
            follow_experiments(self.live, self.store)
            self.live.tune(now=now)
        except StorageError as e:
            log.warning("tenant=%s tuning=waits error=%s", self.name, e)

    def _follow(self, now: float) -> None:
        """Take in all that is new in the store, and the strategy that is in force there."""
        newest = self.store.last_seq(self.name)
        if newest == self._seen:
            return
        self.live.follow(now=now)
        self._follow_strategy()
        self._seen = newest

    def _follow_strategy(self) -> None:
        """The one in force; where it cannot be read, as after an edit by hand, the last goes on."""
        try:
            follow_current(self.live, self.store)
        except DataError as e:
            if self._away.get("strategy") != str(e):
                log.error("tenant=%s strategy=unreadable error=%s", self.name, e)
            self.missed("strategy", str(e))
        else:
            self.found("strategy")

    def missed(self, what: str, why: str) -> None:
        """Something this process works with is away."""
        self._away[what] = why

    def found(self, what: str) -> None:
        """It is there again."""
        self._away.pop(what, None)

    def degraded(self) -> list[str]:
        """What is away or being loaded, while lists are still made from memory."""
        away = self.away
        if self.live.waits_for_encoder:
            away = {"encoder": LOADING} | away
        return [f"{what}: {why}" for what, why in sorted(away.items())]

    @property
    def away(self) -> dict[str, str]:
        """What is away → why, but for what is just being loaded."""
        now = {"encoder": self.live.unread, "store": self.store.writer.failing}
        return {what: why for what, why in now.items() if why} | self._away

    @property
    def status(self) -> str:
        """`degraded`; `starting` where nothing is away and the encoder is being loaded; `ok`."""
        if self.away:
            return "degraded"
        return "starting" if self.live.waits_for_encoder else "ok"


class Tenants:
    """Opens engines and holds them.

    Args:
        load: name of a tenant → its model; None: it starts from nothing.

    Attributes:
        shared: whether other processes may write to the store.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[str], Model | None],
        config: LiveConfig,
        *,
        clock: Callable[[], float],
        telemetry: Telemetry,
        encoder: Encoder | None = None,
    ) -> None:
        self.store = store
        self._load, self._config, self._clock, self._encoder = load, config, clock, encoder
        self._telemetry = telemetry
        self.shared = False
        self._open: dict[str, Tenant] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def __iter__(self) -> Iterator[Tenant]:
        return iter(list(self._open.values()))

    async def of(self, name: str) -> Tenant:
        """The tenant's engine, opened now if nobody called for it before."""
        if (found := self._open.get(name)) is not None:
            return found
        async with self._opening.setdefault(name, asyncio.Lock()):
            if name not in self._open:
                self._open[name] = await asyncio.to_thread(self.open, name)
        return self._open[name]

    def open_now(self, name: str) -> Tenant:
        """The tenant's engine, opened before anybody calls."""
        if name not in self._open:
            self._open[name] = self.open(name)
        return self._open[name]

    def open(self, name: str) -> Tenant:
        """Make the engine: the model, then all that the log holds beyond it."""
        now = self._clock()
        model = self._load(name)
        if model is not None:
            write_items(self.store, name, model, now=now)
        live = Live(name, self.store, model, self._config, now=now, encoder=self._encoder)
        ensure_promoted(live, self.store, now=now)
        follow_experiments(live, self.store)
        live.recommender.prepare()
        log.info("tenant=%s opened=1 items=%d seq=%d", name, live.model.data.n_items, live.seq)
        return Tenant(name, live, self.store, self._telemetry, self)
