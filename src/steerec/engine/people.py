"""What is known of each user now: stored history plus live events, and every head's state."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import RLock
from zlib import crc32

import numpy as np

from steerec.contracts import About, Event, History, Indices
from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.engine.panel import Panel, States
from steerec.heads.contract import HistoryHead

NOBODY = History.of([])
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
    _live: dict[str, History] = field(default_factory=dict)
    _held: OrderedDict[str, Person] = field(default_factory=OrderedDict)
    _forgotten: set[int] = field(default_factory=set)  # rows of the fitted data
    _newest: float = float("-inf")  # time of the newest live event
    _lock: RLock = field(default_factory=RLock)

    def history(self, user_id: str | None) -> History:
        """The user's events; empty for a user never seen."""
        if user_id is None:
            return NOBODY
        if user_id in self._live:
            return self._live[user_id]
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
        history = _joined(person.history, session)
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
        by_user: dict[str, list[tuple[Event, int]]] = {}
        for event, item_idx in events:
            by_user.setdefault(event.user_id, []).append((event, item_idx))
        with self._lock:
            for user_id, own in by_user.items():
                before = self.history(user_id)
                rows = self._rows(own, before.user_idx)
                if _is_late(before, rows):
                    for at in range(len(rows)):
                        before = self._grown(before, rows.slice(at, at + 1))
                else:
                    before = self._grown(before, rows)
                self._live[user_id] = before
                self._held.pop(user_id, None)
                self._newest = max(self._newest, float(np.fmax.reduce(rows.time, initial=-np.inf)))

    def _grown(self, history: History, rows: History) -> History:
        """The history with more events, each of them counted; one, if any belongs before others."""
        late = _is_late(history, rows)
        n, joined = len(history), _joined(history, rows)
        for at in range(n, len(joined)):
            states = self.panel.start(joined.slice(0, at), self._counting)
            self.panel.observe(states, joined.slice(at, at + 1))
        return (_in_order(joined) if late else joined).last(LONGEST)

    def moved_to(self, panel: Panel, *, anew: bool) -> "People":
        """The same people under a model whose catalogue has grown.

        Held states stay with what made them, heads that grew read them as they are; unless they
        are made `anew`.
        """
        with self._lock:
            return replace(self, panel=panel, _held=OrderedDict() if anew else self._held)

    def forget(self, user_id: str) -> None:
        """Drop all that is held of a user; the fitted data keep theirs until the next fit."""
        with self._lock:
            user_idx = self.panel.model.data.user_index.get(user_id)
            self._live.pop(user_id, None)
            if user_idx is not None:
                self._live[user_id] = NOBODY  # in place of what was fitted
                self._forgotten.add(user_idx)
            self._held.pop(user_id, None)

    def forgotten(self) -> frozenset[int]:
        """Rows of the fitted data that must not be told of any more."""
        return frozenset(self._forgotten)

    def unlearn(self, user_id: str, item_idx: Indices, kept: Sequence[tuple[Event, int]]) -> None:
        """Take items out of a user's history, but for the events that are kept.

        What the heads counted of all users stays until the next fit.
        """
        with self._lock:
            was = self.history(user_id)
            stays = ~np.isin(was.item_idx, item_idx)
            history = History(
                was.item_idx[stays],
                was.weight[stays],
                was.time[stays],
                was.basket[stays],
                was.user_idx,
                was.about,
            )
            for event, at in kept:
                history = _in_order(_joined(history, self._rows([(event, at)], was.user_idx)))
            self._live[user_id] = history
            self._hold(user_id, Person(history, self.panel.start(history)))

    def live(self) -> dict[str, History]:
        """user_id → all events of each user who did something since the fit."""
        with self._lock:
            return dict(self._live)

    def latest(self) -> float:
        """Unix seconds of the newest event known, NaN where there are no times."""
        latest = max(self._latest_fitted, self._newest)
        return latest if np.isfinite(latest) else float("nan")

    @cached_property
    def _counting(self) -> tuple[str, ...]:
        """The heads that count events of all users live."""
        heads = self.panel.model.heads
        plain = HistoryHead.observe
        return tuple(n for n, h in heads.items() if getattr(type(h), "observe", None) is not plain)

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

    def _rows(self, events: Sequence[tuple[Event, int]], user_idx: int) -> History:
        """Events of one user with their item_idx, in the order given."""
        nan = float("nan")
        return History(
            np.array([item_idx for _, item_idx in events], np.int32),
            np.array([self._weights.get(e.event, 1.0) for e, _ in events], np.float32),
            np.array([nan if e.timestamp is None else e.timestamp for e, _ in events]),
            np.array([self._basket(e) for e, _ in events], np.int32),
            user_idx,
        )

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


def _joined(history: History, more: History) -> History:
    return History(
        np.concatenate([history.item_idx, more.item_idx]),
        np.concatenate([history.weight, more.weight]),
        np.concatenate([history.time, more.time]),
        np.concatenate([history.basket, more.basket]),
        history.user_idx,
        history.about,
    )


def _is_late(history: History, rows: History) -> bool:
    """Whether an event belongs before one that came earlier; without times nothing is late."""
    if len(history) and rows.time[0] < history.time[-1]:
        return True
    return len(rows) > 1 and bool((rows.time[1:] < rows.time[:-1]).any())


def _in_order(history: History) -> History:
    """By time; events without one stay where they came."""
    known = np.maximum.accumulate(np.nan_to_num(history.time[:-1], nan=-np.inf))
    at = int(np.searchsorted(known, history.time[-1], side="right"))
    order = np.insert(np.arange(len(history) - 1), at, len(history) - 1)
    return History(
        history.item_idx[order],
        history.weight[order],
        history.time[order],
        history.basket[order],
        history.user_idx,
        history.about,
    )
