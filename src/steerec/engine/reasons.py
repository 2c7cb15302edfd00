"""Reasons: which heads spoke for an item, and which of the user's own events."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices
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
    "ratings": "People whose ratings are like yours rated this highly.",
    "demographic": "Liked by people with whom you have age, place or the like in common.",
    "social": "Friends of yours, or their friends, chose this.",
}
ASKED = 2  # heads asked for events, those with the largest shares: asking costs time,
SLOW = ("als",)  # and these solve a system for each item
MOST_EVENTS = 3
AT_ONCE = 64  # items whose events are held at once


@dataclass(frozen=True)
class Reason:
    """Why one item: a sentence, and the items of the history behind it, strongest first."""

    sentence: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Spoken:
    """What the events of a history said for some items.

    Attributes:
        told: (n_rows, n_events) float32, by an item and a head asked.
        row_of: (n_items, ASKED) int32, where what each head said of each item stands; -1: nowhere.
        weight: (n_items, ASKED) nats that the heads count.
    """

    told: Floats
    row_of: Indices
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class Reasons:
    """Puts reasons into words."""

    panel: Panel
    catalogue: Catalogue

    def of_all(
        self,
        person: Person,
        items: Indices,
        names: Sequence[str],
        parts: NDArray[np.float64],
        now: float,
    ) -> list[Reason]:
        """The reason of each item; the two heads that spoke strongest are asked for events.

        Args:
            names: of the heads.
            parts: (n_items, n_heads) each head's share w_k z_k of the item's score, in nats.
        """
        if len(items) <= AT_ONCE:
            return self._some(person, items, names, parts, now)
        cuts = [slice(start, start + AT_ONCE) for start in range(0, len(items), AT_ONCE)]
        some = [self._some(person, items[cut], names, parts[cut], now) for cut in cuts]
        return [reason for few in some for reason in few]

    def _some(
        self,
        person: Person,
        items: Indices,
        names: Sequence[str],
        parts: NDArray[np.float64],
        now: float,
    ) -> list[Reason]:
        """`of_all` for a few items, whose events are summed at once."""
        history, wanted = person.history, items.tolist()
        order = np.argsort(-parts, axis=1, kind="stable")
        n_spoke = np.count_nonzero(parts > 0, axis=1).tolist()
        spoke = [row[:n] for row, n in zip(order.tolist(), n_spoke, strict=True)]
        spoken = self._spoken(person, items, names, spoke, parts)
        strongest, newest = self._strongest(spoken, history.item_idx)
        liked = set(history.item_idx[history.weight > 0].tolist())
        ids = self.panel.model.data.item_ids
        reasons = []
        rows = zip(wanted, spoke, newest, strongest, strict=True)
        for item_idx, heads, at, found in rows:
            head = names[heads[0]] if heads else ""
            anchor = int(history.item_idx[at]) if at >= 0 and head not in SLOW else None
            known = item_idx in liked
            sentence = self._sentence(head, item_idx, anchor, history, now, known=known)
            reasons.append(Reason(sentence, tuple([str(ids[i]) for i in found])))
        return reasons

    def _spoken(
        self,
        person: Person,
        items: Indices,
        names: Sequence[str],
        spoke: Sequence[Sequence[int]],
        parts: NDArray[np.float64],
    ) -> Spoken:
        """How much each event spoke for each item, by the heads asked, and what these count."""
        slow = {number for number, name in enumerate(names) if name in SLOW}
        weight = np.zeros((len(items), ASKED))
        cells: dict[int, list[tuple[int, int]]] = {}
        for row, heads in enumerate(spoke):
            for rank, head in enumerate([h for h in heads if h not in slow][:ASKED]):
                weight[row, rank] = parts[row, head]
                cells.setdefault(head, []).append((row, rank))
        n_events = len(person.history)
        told = np.zeros((len(items) * ASKED, n_events), np.float32)
        row_of, start = np.full((len(items), ASKED), -1, np.int32), 0
        for head, places in cells.items() if n_events else ():
            rows, ranks = map(list, zip(*places, strict=True))
            said = self.panel.because_each(names[head], person.states, items[rows])
            if n := min(said.shape[1], n_events):  # a state may hold the newest events only
                stop = start + len(rows)
                told[start:stop, n_events - n :] = said[:, said.shape[1] - n :]
                row_of[rows, ranks] = np.arange(start, stop)
                start = stop
        return Spoken(told, row_of, weight)

    def _strongest(self, spoken: Spoken, history: Indices) -> tuple[list[list[int]], list[int]]:
        """Of each item at most three items whose events spoke most, and the event that did."""
        told, row_of, weight = spoken.told, spoken.row_of, spoken.weight
        if self.panel.is_compiled:
            best, event = kernels.telling.strongest(told, row_of, weight, history, MOST_EVENTS)
            return [[i for i in row if i >= 0] for row in best.tolist()], event.tolist()
        shares = np.fmax(told[row_of], 0.0) * (row_of >= 0)[:, :, None]  # NaN: 0
        shares = shares / np.maximum(shares.sum(axis=2, keepdims=True, dtype=float), 1e-300)
        events = (weight[:, :, None] * shares).sum(axis=1)
        return _strongest(history, events), _newest_max(shares[:, 0])

    def _sentence(
        self,
        head: str,
        item_idx: int,
        anchor: int | None,
        history: History,
        now: float,
        *,
        known: bool,
    ) -> str:
        """Args: known: whether it is among the person's own events, liked."""
        if head == "repeat" or (known and (head == "content" or anchor in (None, item_idx))):
            return _returned(history, item_idx, now)
        if head == "trending":
            return self._popular
        if head in BY_PERSON:
            return BY_PERSON[head]
        if head == "content" and anchor is None and history.n_told > len(history):
            return "Close to what you said."
        if anchor is None or anchor == item_idx:
            return _without_events(head)
        title = self.catalogue.title(anchor)
        if head in AFTER:
            return f"Often taken right after {title} (in your history)."
        if head in BESIDE and self.panel.model.unseen[item_idx]:
            return f"Like what is often taken together with {title} (in your history)."
        if head in BESIDE:
            return f"Often taken together with {title} (in your history)."
        if head == "content":
            return f"Similar in text to {title} (in your history)."
        return f"Suggested because of {title} (in your history)."

    @cached_property
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


def _newest_max(shares: NDArray[np.float64]) -> list[int]:
    """Of each row the place of the largest share, the newest of equal ones; -1 where all are 0."""
    n_events = shares.shape[1]
    if n_events == 0:
        return [-1] * len(shares)
    at = n_events - 1 - np.argmax(shares[:, ::-1], axis=1)
    found: list[int] = np.where(shares.any(axis=1), at, -1).tolist()
    return found


def _strongest(history: Indices, events: NDArray[np.float64]) -> list[list[int]]:
    """Of each row at most three items whose events spoke most, strongest first; ties by index.

    Args:
        history: (n_events,) whose event each is.
        events: (n_rows, n_events).
    """
    own, place = np.unique(history, return_inverse=True)
    if len(own) == 0:
        return [[] for _ in events]
    places = place + len(own) * np.arange(len(events))[:, None]
    total = np.bincount(places.ravel(), events.ravel(), events.shape[0] * len(own))
    total = total.reshape(len(events), len(own))
    order = np.argsort(-np.round(total, 9), axis=1, kind="stable")[:, :MOST_EVENTS]
    told = np.take_along_axis(total, order, axis=1) > 0
    return [own[row[known]].tolist() for row, known in zip(order, told, strict=True)]
