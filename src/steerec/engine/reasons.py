"""Reasons: which heads spoke for an item, and which of the user's own events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import History, Indices
from steerec.data.counted import counted
from steerec.engine.panel import Panel
from steerec.engine.people import Person
from steerec.engine.rules import Catalogue
from steerec.heads.trending import Trending

DAY_S = 86_400.0
AFTER = ("transitions", "autoregressive")
BESIDE = ("ease", "item_knn")
BY_PERSON = {
    **dict.fromkeys(("user_knn", "als"), "People with a taste like yours chose this."),
    "demographic": "Liked by people with whom you have age, place or the like in common.",
    "social": "Friends of yours, or their friends, chose this.",
}
ASKED = 2  # heads asked for events, those with the largest shares: asking costs time,
SLOW = ("als",)  # and these solve a system for each item
MOST_EVENTS = 3


@dataclass(frozen=True)
class Reason:
    """Why one item: a sentence, and the items of the history behind it, strongest first."""

    sentence: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Reasons:
    """Puts reasons into words."""

    panel: Panel
    catalogue: Catalogue

    def of_all(
        self,
        person: Person,
        items: Indices,
        sources: Sequence[Mapping[str, float]],
        now: float,
    ) -> list[Reason]:
        """The reason of each item; the two heads that spoke strongest are asked for events.

        Args:
            sources: of each item, head name → its share w_k z_k of the item's score, in nats.
        """
        own, place = np.unique(person.history.item_idx, return_inverse=True)
        return [
            self._of(person, item_idx, shares, now, (own, place))
            for item_idx, shares in zip(items.tolist(), sources, strict=True)
        ]

    def _of(
        self,
        person: Person,
        item_idx: int,
        sources: Mapping[str, float],
        now: float,
        own: tuple[Indices, NDArray[np.int64]],
    ) -> Reason:
        """Args: own: the history's items, and the place among them of each event's."""
        spoke = sorted((n for n in sources if sources[n] > 0), key=lambda n: -sources[n])
        events = np.zeros(len(person.history))
        anchor: int | None = None
        for name in [n for n in spoke if n not in SLOW][:ASKED]:
            shares = self._shares(name, person, item_idx)
            events += sources[name] * shares
            if name == spoke[0] and shares.any():
                anchor = int(person.history.item_idx[_newest_max(shares)])
        because = tuple(str(self.panel.model.data.item_ids[i]) for i in _strongest(*own, events))
        lead = spoke[0] if spoke else ""
        return Reason(self._sentence(lead, item_idx, anchor, person.history, now), because)

    def _shares(self, name: str, person: Person, item_idx: int) -> NDArray[np.float64]:
        """(n_events,): how much each event spoke for the item, summing to 1 or all 0."""
        shares = np.zeros(len(person.history))
        if len(person.history) == 0:
            return shares
        told = self.panel.because(name, person.states[name], item_idx)
        n = min(len(told), len(shares))  # a state may hold the newest events only
        if n:
            shares[-n:] = np.fmax(told[-n:], 0.0)  # NaN: 0
        shares /= max(float(shares.sum()), 1e-300)
        return shares

    def _sentence(
        self, head: str, item_idx: int, anchor: int | None, history: History, now: float
    ) -> str:
        known = _own(history, item_idx).any()
        if head == "repeat" or (known and (head == "content" or anchor in (None, item_idx))):
            return _returned(history, item_idx, now)
        if head == "trending":
            return self._popular()
        if head in BY_PERSON:
            return BY_PERSON[head]
        if head == "content" and anchor is None and history.n_told > len(history):
            return "Close to what you said."
        if anchor is None or anchor == item_idx:
            return _without_events(head)
        title = self.catalogue.title(anchor)
        if head in AFTER:
            return f"Often taken right after {title} (in your history)."
        if head in BESIDE:
            return f"Often taken together with {title} (in your history)."
        if head == "content":
            return f"Similar in text to {title} (in your history)."
        return f"Suggested because of {title} (in your history)."

    def _popular(self) -> str:
        head = self.panel.model.heads.get("trending")
        if not isinstance(head, Trending) or np.isnan(head.clock):
            return "Popular with everyone."
        days = [*head.config.half_lives_days, np.inf][int(np.argmax(head.mix))]
        limits = ((2, "today"), (10, "this week"), (45, "this month"), (400, "this year"))
        when = next((word for limit, word in limits if days < limit), "at all times")
        return f"Popular {when}."


def _returned(history: History, item_idx: int, now: float) -> str:
    own = _own(history, item_idx)
    n = int(own.sum())
    words = f"You turned to it {counted(n, 'time')}" if n > 1 else "You turned to it before"
    since = (now - history.time[own][-1]) / DAY_S if n else np.nan
    if np.isnan(since):
        return f"{words}."
    days = max(int(since), 0)
    when = "today" if days == 0 else f"{counted(days, 'day')} ago"
    return f"{words}, last {when}." if n > 1 else f"{words}, {when}."


def _own(history: History, item_idx: int) -> NDArray[np.bool_]:
    """(n_events,): which events are the person's own with this item, liked."""
    return np.asarray((history.item_idx == item_idx) & (history.weight > 0))


def _without_events(head: str) -> str:
    if head == "":
        return "A pick from the rest of the catalogue."
    if head in AFTER + BESIDE:
        return "Often taken by people after what you looked at."
    if head == "content":
        return "Similar in text to what you looked at."
    return f"Suggested by {head}."


def _newest_max(shares: NDArray[np.float64]) -> int:
    return len(shares) - 1 - int(np.argmax(shares[::-1]))


def _strongest(own: Indices, place: NDArray[np.int64], events: NDArray[np.float64]) -> list[int]:
    """At most three items whose events spoke most, the strongest first; ties by index.

    Args:
        own: (n_own,) items of the history, rising.
        place: (n_events,) whose event each is, as a place in `own`.
    """
    if not events.any():
        return []
    total = np.bincount(place, events)
    order = np.argsort(-np.round(total, 9), kind="stable")[:MOST_EVENTS]
    return [int(own[i]) for i in order if total[i] > 0]
