"""What is known of each user now: stored history plus live events, and every head's state."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from threading import RLock
from zlib import crc32

import numpy as np

from steerec.contracts import About, Event, History, Indices
from steerec.data.dataset import DEFAULT_WEIGHTS, RATED
from steerec.engine.growing import Growing
from steerec.engine.panel import Count, Panel, States
from steerec.heads.contract import HistoryHead

NOBODY = History.of([])
NAN = float("nan")
LONGEST = 5_000  # newest events of a user that are kept once they go on; no head reads as many


@dataclass(frozen=True, slots=True)
class Person:
    """A user as a request sees them."""

    history: History
    states: States


@dataclass
class People:
    """Histories that grow with each event; states are kept, so no history is read twice.

    Attributes:
        keep: users whose states are held; of others they are made again when they come back.
    """

    panel: Panel
    keep: int = 10_000
    _live: dict[str, Growing] = field(default_factory=dict)
    _held: OrderedDict[str, Person] = field(default_factory=OrderedDict)
    _forgotten: set[int] = field(default_factory=set)  # rows of the fitted data
    _waiting: dict[bytes, frozenset[str]] = field(default_factory=dict)  # by digest: who is gone
    _newest: float = float("-inf")  # time of the newest live event
    _lock: RLock = field(default_factory=RLock)

    def history(self, user_id: str | None) -> History:
        """The user's events; empty for a user never seen."""
        if user_id is None:
            return NOBODY
        if (growing := self._live.get(user_id)) is not None:
            return growing.history
        data = self.panel.model.data
        user_idx = data.user_index.get(user_id)
        return NOBODY if user_idx is None else data.history(user_idx)

    def person(self, user_id: str | None) -> Person:
        """The user's history and states, held ones where nothing has changed."""
        with self._lock:
            held = self._held.get(user_id) if user_id is not None else None
            if held is not None and user_id is not None:
                self._held.move_to_end(user_id)
                return held
            history = self.history(user_id)
            found = Person(history, self.panel.start(history))
            if len(history) and user_id is not None:
                self._hold(user_id, found)
            return found

    def holds(self, user_id: str | None, person: Person) -> bool:
        """Whether the user is held as this person, whose states stay until the next event."""
        return user_id is not None and self._held.get(user_id) is person

    def with_about(self, person: Person, about: About | None) -> Person:
        """The person as one who tells this, which is not kept."""
        if about is None:
            return person
        history = replace(person.history, about=about)
        return Person(history, self.panel.start(history))

    def with_session(self, person: Person, session: History) -> Person:
        """The person after these events, which are not kept."""
        if len(session) == 0:
            return person
        history = person.history.then(session)
        if len(person.history) == 0:
            return Person(history, self.panel.start(history))
        states = person.states
        for at in range(len(session)):
            states = self.panel.update(states, session.slice(at, at + 1))
        return Person(history, states)

    def learn(self, events: Sequence[tuple[Event, int]]) -> None:
        """Append events, each with its item_idx, to histories, and let the heads count them.

        As if one by one, but that users take turns: each user's own keep their order. States are
        made when they are next asked for.
        """
        with self._lock:
            for event, item_idx in events:
                self._learn(event, item_idx)
                self._held.pop(event.user_id, None)

    def _learn(self, event: Event, item_idx: int) -> None:
        user_id, time = event.user_id, event.timestamp
        if (growing := self._live.get(user_id)) is None:
            growing = self._live[user_id] = Growing(self.history(user_id), LONGEST)
        at = NAN if time is None else time
        weight, basket = self._weights.get(event.event, 1.0), self._basket(event)
        before, rating = growing.history, _rating(event)
        self._count(before, item_idx, weight, at, basket)
        if at < growing.last_time:
            late = before.append(item_idx, weight=weight, time=at, basket=basket, rating=rating)
            self._live[user_id] = Growing(_in_order(late), LONGEST)
        else:
            growing.append(item_idx, weight, at, basket, rating)
        if at > self._newest:
            self._newest = at

    def _count(
        self, before: History, item_idx: int, weight: float, time: float, basket: int
    ) -> None:
        """Let the heads that count events of all users count this one."""
        for name, count in self._counting:
            if count is not None:
                self.panel.count(name, count, before, item_idx, weight, time)
            else:
                states = self.panel.start(before, (name,))
                event = _one(item_idx, weight, time, basket, before.user_idx)
                self.panel.observe(states, event)

    def moved_to(self, panel: Panel, *, anew: bool) -> "People":
        """The same people under a model whose catalogue has grown.

        Held states stay with what made them, heads that grew read them as they are; unless they
        are made `anew`.
        """
        with self._lock:
            return replace(self, panel=panel, _held=OrderedDict() if anew else self._held)

    def forget(self, user_id: str, wait: Iterable[str] = ()) -> None:
        """Drop all that is held of a user; the fitted data keep theirs until the next fit.

        Args:
            wait: heads that hold something of them until then.
        """
        with self._lock:
            if found := self.waiting(user_id) | set(wait):
                self._waiting[_digest(user_id)] = found
            user_idx = self.panel.model.data.user_index.get(user_id)
            self._live.pop(user_id, None)
            if user_idx is not None:
                self._live[user_id] = Growing(NOBODY, LONGEST)  # in place of what was fitted
                self._forgotten.add(user_idx)
            self._held.pop(user_id, None)

    def forgotten(self) -> frozenset[int]:
        """Rows of the fitted data that must not be told of any more."""
        return frozenset(self._forgotten)

    def waiting(self, user_id: str) -> frozenset[str]:
        """Heads that hold something of a forgotten user until the next fit."""
        return self._waiting.get(_digest(user_id), frozenset())

    def unlearn(self, user_id: str, item_idx: Indices, kept: Sequence[tuple[Event, int]]) -> None:
        """Take items out of a user's history, but for the events that are kept.

        What the heads counted of all users stays until the next fit.
        """
        with self._lock:
            was = self.history(user_id)
            history = was.at(~np.isin(was.item_idx, item_idx))
            for event, at in kept:
                weight = self._weights.get(event.event, 1.0)
                time = NAN if event.timestamp is None else event.timestamp
                basket, rating = self._basket(event), _rating(event)
                history = _in_order(
                    history.append(at, weight=weight, time=time, basket=basket, rating=rating)
                )
            self._live[user_id] = Growing(history, LONGEST)
            self._hold(user_id, Person(history, self.panel.start(history)))

    def live(self) -> dict[str, History]:
        """user_id → all events of each user who did something since the fit."""
        with self._lock:
            return {user_id: growing.history for user_id, growing in self._live.items()}

    def latest(self) -> float:
        """Unix seconds of the newest event known, NaN where there are no times."""
        latest = max(self._latest_fitted, self._newest)
        return latest if np.isfinite(latest) else float("nan")

    @cached_property
    def _counting(self) -> tuple[tuple[str, Count | None], ...]:
        """The heads that count events of all users live, and how, if not by `observe` alone."""
        return tuple(
            (name, getattr(head, "count", None))
            for name, head in self.panel.model.heads.items()
            if getattr(type(head), "observe", None) is not HistoryHead.observe
        )

    @cached_property
    def _latest_fitted(self) -> float:
        times = self.panel.model.data.time
        known = times[~np.isnan(times)]
        return float(known.max()) if len(known) else float("-inf")

    @cached_property
    def _first_basket(self) -> int:
        return int(self.panel.model.data.basket.max(initial=-1)) + 1

    @cached_property
    def _weights(self) -> dict[str, float]:
        """Kind of event → weight, as the data had them."""
        return {**DEFAULT_WEIGHTS, **self.panel.model.data.kind_weights}

    def _basket(self, event: Event) -> int:
        """A number above those of the data, the same for one basket of one user."""
        if event.basket is None:
            return -1
        first = self._first_basket
        return first + crc32(event.basket.encode()) % (2**31 - first)

    def _hold(self, user_id: str, person: Person) -> None:
        """Hold a person whose states are complete: a head that failed once is asked again."""
        self._held.pop(user_id, None)
        if len(person.states) < len(self.panel.model.heads):
            return
        self._held[user_id] = person
        while len(self._held) > self.keep:
            self._held.popitem(last=False)


def _digest(user_id: str) -> bytes:
    return sha256(user_id.encode()).digest()


def _rating(event: Event) -> float:
    """What the user gave the item, NaN if the event is no rating."""
    return NAN if event.value is None or event.event not in RATED else event.value


def _one(item_idx: int, weight: float, time: float, basket: int, user_idx: int) -> History:
    """A history of one event."""
    return History(
        np.array([item_idx], np.int32),
        np.array([weight], np.float32),
        np.array([time], np.float64),
        np.array([basket], np.int32),
        user_idx,
    )


def _in_order(history: History) -> History:
    """By time; events without one stay where they came."""
    known = np.maximum.accumulate(np.nan_to_num(history.time[:-1], nan=-np.inf))
    at = int(np.searchsorted(known, history.time[-1], side="right"))
    order = np.insert(np.arange(len(history) - 1), at, len(history) - 1)
    return history.at(order)
