"""Live: one tenant's recommender over the durable log; each event counts on the next list."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Encoder, Event, Query, Strategy
from steerec.engine.availability import Availability
from steerec.engine.bootstrap import model_of_nothing, model_without_events
from steerec.engine.growth import (
    ItemChange,
    Unread,
    caught_up,
    changed_anyway,
    columns_of,
    size_of,
)
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.live_state import State
from steerec.engine.model import Model
from steerec.engine.online import Online
from steerec.engine.pool import first_events
from steerec.engine.recommender import Recommender
from steerec.engine.rules import Noted
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy, Served, serve
from steerec.engine.trials import Trial, applied
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.catalogue import Entry
from steerec.store.erase import digest_of_user
from steerec.store.log import LoggedEvent

log = logging.getLogger(__name__)

LOG_SEQ = "log_seq"  # note of a Dataset: the place in the tenant's log up to which it holds events
AT_ONCE = 2_000  # changed items taken in together
TOGETHER = 100  # events taken in while requests wait
AT_START = 50_000  # events read and taken in together before there are requests
GROWTH = 1.5  # of the catalogue, after which a model without events reads all its texts again


class Live:
    """Answers requests and takes in what the store has made durable; safe to use from threads.

    Attributes:
        applied: what was taken in since the start, by kind.
        trials: experiments under way, those first that take users first; put in place whole.
        unread: why texts of the newest items could not be read; empty: they could.
    """

    def __init__(
        self,
        tenant: str,
        store: Store,
        model: Model | None,
        config: LiveConfig,
        *,
        now: float,
        encoder: Encoder | None = None,
    ) -> None:
        self.tenant, self.store, self.config, self.encoder = tenant, store, config, encoder
        self.applied: Counter[str] = Counter()
        self.unread = ""
        self.online: Online | None = None  # as soon as a strategy is followed
        self.trials: tuple[Trial, ...] = ()
        self._newest = now
        self._noted = Noted()
        self._lock = threading.RLock()  # whoever reads or changes the state below
        self._catalogue = threading.RLock()  # whoever makes a longer catalogue
        model = model or model_of_nothing(clock=now, config=config.phi)
        self._state = self._begin(model)
        self.follow(now=now, limit=AT_START, together=AT_START)

    # What is asked

    @property
    def model(self) -> Model:
        """The model that answers now."""
        return self._state.recommender.model

    @property
    def promoted(self) -> bool:
        """Whether it answers by a strategy that the store has, and not by its model's own."""
        return self._state.policy.theta is not None

    @property
    def recommender(self) -> Recommender:
        """What answers now, without exploration; do not change it."""
        return self._state.recommender

    def available(self, now: float) -> NDArray[np.bool_]:
        """(n_items,), which items may be shown at this time."""
        return self._state.availability.allowed(now)

    def first_met(self) -> NDArray[np.float64]:
        """(n_items,) Unix seconds when each was first written or seen live; NaN where unknown."""
        return self._state.availability.first_met()

    def follow_strategy(self, strategy: Strategy) -> None:
        """Answer by these weights from the next request on.

        Raises:
            DataError: if they are of other heads or features than the model's.
        """
        own = self.model.strategy
        if (strategy.heads, strategy.features) != (own.heads, own.features):
            raise DataError(
                f"strategy {strategy.version} weighs {strategy.heads} by {strategy.features}, the "
                f"model has {own.heads} by {own.features}"
            )
        now = self._newest
        with self._lock:
            policy = self._state.policy
            self._state.policy = replace(policy, theta=strategy.theta, version=strategy.version)
            if self.online is None:
                tuning = self.config.tuning
                self.online = Online(self.tenant, self.store, strategy, tuning, now=now)
            elif self.online.promoted.version != strategy.version:
                self.online.promote(strategy, now=now)

    @property
    def seq(self) -> int:
        """The place in the tenant's order up to which all was taken in."""
        return self._state.seq

    @property
    def newest_seq(self) -> int:
        """The newest place in the tenant's order that was taken in."""
        return max(self._state.ahead.copy(), default=self._state.seq)

    def recommend(self, query: Query, *, request_id: str, now: float) -> Served:
        """A slate drawn as the query's scenario wants, and its impression, not stored yet.

        Raises:
            ValueError: if n is out of range.
            DataError: if the filter or the condition cannot be read.
        """
        scenario = self.config.scenario(query.scenario)
        query = _placed(query, scenario, now)
        self._noted.look(query, self.model.data.items)
        with self._lock:
            policy = self._state.policy
            if self.online is None:
                policy = replace(policy, draw=scenario.draw)
            else:
                given = self.online.given(query.user_id, query.session, request_id=request_id)
                warm = self.online.temperature(query.scenario, scenario.temperature)
                policy = replace(
                    policy,
                    draw=scenario.draw_at(warm),
                    theta=given.theta,
                    turn=None if given.offset is None else given.turned,
                    epoch=given.epoch,
                    arm=given.arm,
                )
            if self.trials:
                policy = applied(self.trials, policy, query, request_id=request_id, now=now)
            return serve(self._state.recommender, query, policy, request_id=request_id, now=now)

    # What is taken in

    def take(self, events: Iterable[LoggedEvent], *, now: float, together: int = TOGETHER) -> None:
        """Take in events that the store holds; one that was taken in before is passed over.

        Args:
            together: so many while requests wait; the more, the faster.
        """
        index = self.model.data.item_index
        for known, some in groupby(events, lambda logged: logged.event.item_id in index):
            if known:
                self._take_known(list(some), now, together)
            else:
                self._take_each(some, now)

    def _take_each(self, events: Iterable[LoggedEvent], now: float) -> None:
        """Take in events one by one."""
        for logged in events:
            if not self._begun([logged]):
                continue
            try:
                self._learn(logged, now)
            except BaseException:
                self._state.ahead.discard(logged.seq)  # it may be sent, or read, again
                raise

    def _begun(self, events: Sequence[LoggedEvent]) -> list[LoggedEvent]:
        """Those of the events that were not taken in before; they count as taken in from now on."""
        with self._lock:
            seq, ahead = self._state.seq, self._state.ahead
            fresh = [one for one in events if one.seq > seq and one.seq not in ahead]
            fresh = list({one.seq: one for one in fresh}.values())  # sent twice in one call
            ahead.update(one.seq for one in fresh)
            return fresh

    def _take_known(self, events: Sequence[LoggedEvent], now: float, together: int) -> None:
        """Take in events of known items, some together, so that requests come in between."""
        for start in range(0, len(events), together):
            with self._lock:
                index = self.model.data.item_index  # another model's, after a swap
                some = events[start : start + together]
                strange = [one for one in some if one.event.item_id not in index]
                some = self._begun([one for one in some if one.event.item_id in index])
                told = [event for one in some if (event := self._dated(one, now)) is not None]
                try:
                    self._count(told)
                except BaseException:
                    self._state.ahead.difference_update(one.seq for one in some)
                    raise
            self._take_each(strange, now)

    def knows(self, item_ids: Iterable[str]) -> bool:
        """Whether the catalogue holds all of these, so that taking in their events is quick."""
        index = self.model.data.item_index
        return all(item_id in index for item_id in item_ids)

    @property
    def n_ahead(self) -> int:
        """Events taken in above the place up to which all were; `follow` brings it to 0."""
        return len(self._state.ahead)

    def follow(self, *, now: float, limit: int = 5_000, together: int = TOGETHER) -> int:
        """Take in all that the store has and this engine has not, whoever wrote it; how many.

        Raises:
            StorageError: if the store cannot be read.
        """
        n_taken = self.follow_items(now=now, at_once=max(AT_ONCE, together))
        n_taken += self._follow_erasures()
        while found := self.store.log.read(self.tenant, after=self._state.seq, limit=limit):
            self.take(found, now=now, together=together)
            n_taken += len(found)
            with self._lock:
                self._state.seq = max(self._state.seq, found[-1].seq)
                self._state.ahead = {seq for seq in self._state.ahead if seq > self._state.seq}
        return n_taken

    @property
    def waits_for_encoder(self) -> bool:
        """Whether items joined without vectors, to be read as soon as the encoder is loaded."""
        return self._state.unread_after is not None

    @property
    def may_read(self) -> bool:
        """Whether the encoder has come that items wait for."""
        return self.waits_for_encoder and not self._loading

    @property
    def _loading(self) -> bool:
        return self.encoder is not None and getattr(self.encoder, "loading", False)

    def tune(self, *, now: float) -> int:
        """Let what people did move the strategy, and publish an epoch if one is due; rows read."""
        self._newest = now
        return 0 if self.online is None else self.online.follow(now)

    def follow_items(self, *, now: float, at_once: int = AT_ONCE) -> int:
        """Take in items that the store has changed since; how many.

        Args:
            at_once: so many are read and taken in together.
        """
        n_taken = 0
        with self._catalogue:
            self._read_what_waits()
            while entries := self.store.items.changes(
                self.tenant, after=self._state.items_seq, limit=at_once
            ):
                self._put_items(entries, now)
                self._state.items_seq = entries[-1].seq
                n_taken += len(entries)
            with self._lock:
                held = self._state.held
                seq = self._state.items_seq
                self._state.held = {i: entry for i, entry in held.items() if entry.seq > seq}
        return n_taken

    def _read_what_waits(self) -> None:
        """Begin again at items that joined while the encoder was being loaded, if it now is."""
        state = self._state
        if state.unread_after is not None and not self._loading:
            state.items_seq, state.unread_after = min(state.items_seq, state.unread_after), None
            state.n_founded = 0  # a model without events is made anew with their vectors

    def hide_at_once(self, entries: Sequence[Entry]) -> None:
        """Let what was just written of these items count from the next request on.

        Texts and attributes follow with `follow_items`, which may be at work on older entries.
        """
        upto, ids = self.store.last_seq(self.tenant), [entry.id for entry in entries]
        found = self.store.items.get(self.tenant, ids)
        self._hold([found.get(i) or Entry(i, deleted=True, seq=upto) for i in ids])

    def hide_since(self, seq: int) -> None:
        """As `hide_at_once`, of all that was written to the catalogue after a place."""
        while found := self.store.items.changes(self.tenant, after=seq, limit=AT_ONCE):
            self._hold(found)
            seq = found[-1].seq

    def _hold(self, fresh: Sequence[Entry]) -> None:
        with self._lock:
            self._state.held.update((entry.id, entry) for entry in fresh)
            index = self.model.data.item_index
            self._mark([entry for entry in fresh if entry.id in index], index)

    def forget(self, user_id: str, *, seq: int) -> dict[str, str]:
        """Erase a user from the live state; head → `exact` or `next fit`.

        Args:
            seq: the erasure's place in the tenant's order: events before it are not taken in.
        """
        digest = digest_of_user(self.tenant, user_id)
        with self._lock:
            state = self._state
            if state.erased.get(digest, 0) < seq:  # else `follow` came to it before
                state.erased[digest] = seq
                state.recommender.forget(user_id)
                self._count_again(user_id, since=seq)
            if (fleeting := getattr(self.encoder, "fleeting", None)) is not None:
                fleeting.clear()  # what somebody said of themselves; nobody knows who it was
            if self.online is not None:
                self.online.forget(user_id)
            return state.recommender.forgotten(user_id)

    def _count_again(self, user_id: str, *, since: int) -> None:
        """Learn anew what somebody did after a place, of which all that was taken in is known."""
        state, index = self._state, self.model.data.item_index
        told = [
            known
            for one in self.store.log.of_user(self.tenant, user_id)
            if one.seq > since and (one.seq <= state.seq or one.seq in state.ahead)
            if (known := self._dated(one, one.received)) and known.item_id in index
        ]
        self._count(told)

    def swap(
        self, model: Model, *, now: float, ready: Callable[["Live"], None] | None = None
    ) -> None:
        """Answer from another model from now on; what came after its data is taken in first.

        Requests wait for the last few events only.

        Args:
            ready: called with the engine over the new model before that answers anybody, to say
                by which strategy it does.
        """
        fresh = Live(self.tenant, self.store, model, self.config, now=now, encoder=self.encoder)
        if ready is not None:
            ready(fresh)
        with self._catalogue, self._lock:
            fresh.follow(now=now)
            self._state = fresh._state
            self.applied["swaps"] += 1
            self.online = fresh.online
            self.trials = tuple(t for t in self.trials if t.fits(model.strategy))

    # Inside

    def _begin(self, model: Model) -> State:
        """Start from a model, and from the place in the log that it stands for."""
        seq = int(model.data.notes.get(LOG_SEQ, "0"))
        availability = Availability.of(model.data.items)
        met = first_events(model.data)  # so that later events of these items change nothing
        availability.met(np.arange(len(met)), met.tolist())
        policy = Policy(draw=SamplerConfig(), version=model.strategy.version)
        return State(self._over(model, availability), availability, policy, seq, erased_seq=seq)

    def _over(self, model: Model, availability: Availability) -> Recommender:
        return Recommender(
            model,
            pool=self.config.pool,
            encoder=self.encoder,
            available=availability.allowed,
            met=availability.first_met,
            score_cache_mb=self.config.score_cache_mb,
            compiled=self.config.compiled,
        )

    def _learn(self, logged: LoggedEvent, now: float) -> None:
        known = self._dated(logged, now)
        if known is None:
            return
        with self._lock:
            if known.item_id in self.model.data.item_index:
                self._count([known])
                return
        self._meet(known, now)

    def _count(self, events: Sequence[Event]) -> None:
        """Learn from events of known items."""
        self._state.recommender.learn_many(events)
        index = self.model.data.item_index
        rows = [index[event.item_id] for event in events]
        self._state.availability.met(rows, [event.timestamp for event in events])
        self.applied["events"] += len(events)

    def _dated(self, logged: LoggedEvent, now: float) -> Event | None:
        """The event with the time it counts from; None if its user was erased since."""
        event, erased = logged.event, self._state.erased
        if erased and logged.seq < erased.get(digest_of_user(self.tenant, event.user_id), 0):
            return None
        time = event.timestamp if event.timestamp is not None else logged.received
        time = min(time, logged.received or now)  # it happened when it came, at the latest
        return Event(event.user_id, event.item_id, event.event, event.value, time, event.basket)

    def _meet(self, event: Event, now: float) -> None:
        """Take in an event of an item that this engine has not seen yet.

        One that the store does not have any more has its place in histories, and on no list.
        """
        with self._catalogue:
            entries = self.store.items.get(self.tenant, [event.item_id])
            self._put_items(list(entries.values()) or [Entry(event.item_id, hidden=True)], now)
            with self._lock:
                self._count([event])
                self.applied["items_met"] += not entries

    def _put_items(self, entries: Sequence[Entry], now: float) -> None:
        """Bring the catalogue forward; the costly part without keeping requests waiting."""
        index = self.model.data.item_index
        there = [e for e in entries if not e.deleted or e.id in index]
        changes = [ItemChange(e.id, columns_of(e)) for e in there if not e.deleted]
        model, encoder = self.model, self.encoder
        if changes and encoder is not None and self._loading:  # nobody waits for that
            encoder = Unread(encoder)
            if self._state.unread_after is None:
                self._state.unread_after = self._state.items_seq
        if changes:
            model, self.unread = changed_anyway(model, changes, encoder, counted=self.applied)
        founded = model.data.n_events == 0 and size_of(model) > GROWTH * self._state.n_founded
        with self._lock:
            model = caught_up(model, self.model)
            if founded:
                self._found(model, now)
            elif model is not self.model:
                self._state.recommender = self._state.recommender.grown(model)
            self._state.availability.grow(self.model.data.n_items)
            self._mark(there, self.model.data.item_index)
            self.applied["items"] += len(there)

    def _found(self, model: Model, now: float) -> None:
        """A model without events is made anew as its catalogue grows; what was counted is kept."""
        trending = model.heads["trending"]
        made = model_without_events(
            model.data, clock=now, config=self.config.phi, trending=trending
        )
        state, before = self._state, self.model.strategy
        state.recommender = state.recommender.grown(made, anew=True)
        state.n_founded = size_of(made)
        if (made.strategy.heads, made.strategy.features) != (before.heads, before.features):
            state.policy = replace(state.policy, theta=None, version=made.strategy.version)
            self.online, self.trials = None, ()  # of what is no longer there

    def _mark(self, entries: Sequence[Entry], index: Mapping[str, int]) -> None:
        held = self._state.held
        entries = [max(entry, held.get(entry.id, entry), key=lambda e: e.seq) for entry in entries]
        rows = np.array([index[entry.id] for entry in entries], np.int32)
        self._state.availability.tell(rows, entries)

    def _follow_erasures(self) -> int:
        found = self.store.persons.erasures(self.tenant, after=self._state.erased_seq)
        if not found:
            return 0
        self.store.shown.forget_all()  # where another process erased, only the digest is known
        with self._lock:
            known = [*self.model.data.user_ids, *self._state.recommender.live_histories()]
            user_of = {digest_of_user(self.tenant, str(u)): str(u) for u in known}
            for erasure in found:
                if self._state.erased.get(erasure.digest, 0) >= erasure.seq:
                    continue  # it was done here
                if (user_id := user_of.get(erasure.digest)) is not None:
                    self.forget(user_id, seq=erasure.seq)
                self._state.erased[erasure.digest] = erasure.seq
            self._state.erased_seq = found[-1].seq
        return len(found)


def _placed(query: Query, scenario: ScenarioConfig, now: float) -> Query:
    """The query as its placement wants it, where it says nothing else itself."""
    repeats = scenario.repeats if query.repeats is None else query.repeats
    rule = scenario.condition or None
    if query.now is not None and (rule, repeats) == (query.rule, query.repeats):
        return query
    return replace(query, now=now if query.now is None else query.now, rule=rule, repeats=repeats)
