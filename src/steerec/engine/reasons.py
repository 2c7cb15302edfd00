"""Reasons: which heads spoke for an item, and which of the user's own events."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

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


@dataclass(frozen=True, slots=True)
class Asked:
    """Which heads are asked about which items: of each item the strongest that can tell events.

    Attributes:
        top: (n_items,) int32, the head that spoke strongest for each; -1: none did.
        rows: (n_rows,) int32, an item for each head asked, one head after the other.
        starts: (n_heads + 1,) int32, where each head's rows begin, and the end.
        row_of: (n_items, ASKED) int32, strongest first, the row of each; -1: no more.
        weight: (n_items, ASKED) nats that they count.
    """

    top: Indices
    rows: Indices
    starts: Indices
    row_of: Indices
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, parts: NDArray[np.float64], slow: NDArray[np.bool_]) -> Self:
        """Of each head's share of each item; heads that are slow are not asked."""
        order = np.argsort(-parts, axis=1, kind="stable")
        positive = np.take_along_axis(parts, order, axis=1) > 0
        best = order[:, :1].sum(axis=1)  # there may be no head at all
        top = np.where(positive.any(axis=1), best, -1).astype(np.int32)
        asked = positive & ~slow[order]
        asked &= np.cumsum(asked, axis=1) <= ASKED
        items, places = np.nonzero(asked)
        ranks, heads = (np.cumsum(asked, axis=1) - 1)[items, places], order[items, places]
        weight, row_of = np.zeros((len(parts), ASKED)), np.full((len(parts), ASKED), -1, np.int32)
        weight[items, ranks] = parts[items, heads]
        by_head = np.argsort(heads, kind="stable")
        row_of[items[by_head], ranks[by_head]] = np.arange(len(by_head))
        starts = np.searchsorted(heads[by_head], np.arange(parts.shape[1] + 1))
        rows = items[by_head].astype(np.int32)
        return cls(top, rows, starts.astype(np.int32), row_of, weight)


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
            parts: (n_items, n_heads) each head's share w_k z_k of the item's score, in nats; only
                shares above 0 are reasons.
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
        history, slow = person.history, np.array([name in SLOW for name in names], bool)
        if self.panel.is_compiled:
            asked = Asked(*kernels.telling.asked(parts, slow, ASKED))
            liked = kernels.telling.liked(items, history.item_idx, history.weight)
        else:
            asked = Asked.of(parts, slow)
            liked = np.isin(items, history.item_idx[history.weight > 0])
        told = self._told(person, items[asked.rows], names, asked.starts.tolist())
        strongest, event = self._strongest(told, asked, history.item_idx)
        ids = self.panel.model.data.item_ids[strongest].tolist()
        n_found = np.count_nonzero(strongest >= 0, axis=1).tolist()
        columns = (items, asked.top, event, liked)
        reasons = []
        for number, (item_idx, top, at, known) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            head = names[top] if top >= 0 else ""
            anchor = int(history.item_idx[at]) if at >= 0 and head not in SLOW else None
            sentence = self._sentence(head, item_idx, anchor, history, now, known=known)
            reasons.append(Reason(sentence, tuple(ids[number][: n_found[number]])))
        return reasons

    def _told(
        self, person: Person, rows: Indices, names: Sequence[str], starts: Sequence[int]
    ) -> Floats:
        """(n_rows, n_events): how much each event spoke for the item of each row.

        Args:
            starts: where the rows of each head begin, and the end.
        """
        n_events = len(person.history)
        told = np.zeros((len(rows), n_events), np.float32)
        for name, start, stop in zip(names, starts, starts[1:], strict=False):
            if start == stop or n_events == 0:
                continue
            said = self.panel.because_each(name, person.states, rows[start:stop])
            if n := min(said.shape[1], n_events):  # a state may hold the newest events only
                told[start:stop, n_events - n :] = said[:, said.shape[1] - n :]
        return told

    def _strongest(self, told: Floats, asked: Asked, history: Indices) -> tuple[Indices, Indices]:
        """Of each item at most three items whose events spoke most, and the event that did.

        Returns:
            (n_items, MOST_EVENTS), strongest first, then -1; and (n_items,), -1: none.
        """
        if self.panel.is_compiled:
            best, event = kernels.telling.strongest(
                told, asked.row_of, asked.weight, history, MOST_EVENTS
            )
            return best, event
        spoke = np.concatenate([told, np.zeros((1, len(history)), np.float32)])[asked.row_of]
        shares = np.fmax(spoke, 0.0).astype(np.float64)  # NaN: 0
        shares /= np.maximum(shares.sum(axis=2, keepdims=True), 1e-300)
        events = (asked.weight[:, :, None] * shares).sum(axis=1)
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


def _newest_max(shares: NDArray[np.float64]) -> Indices:
    """Of each row the place of the largest share, the newest of equal ones; -1 where all are 0."""
    n_events = shares.shape[1]
    if n_events == 0:
        return np.full(len(shares), -1, np.int32)
    at = n_events - 1 - np.argmax(shares[:, ::-1], axis=1)
    return np.where(shares.any(axis=1), at, -1).astype(np.int32)


def _strongest(history: Indices, events: NDArray[np.float64]) -> Indices:
    """(n_rows, MOST_EVENTS) items whose events spoke most, strongest first, ties by index, then -1.

    Args:
        history: (n_events,) whose event each is.
        events: (n_rows, n_events).
    """
    best = np.full((len(events), MOST_EVENTS), -1, np.int32)
    own, place = np.unique(history, return_inverse=True)
    if len(own) == 0:
        return best
    places = place + len(own) * np.arange(len(events))[:, None]
    total = np.bincount(places.ravel(), events.ravel(), events.shape[0] * len(own))
    total = total.reshape(len(events), len(own))
    order = np.argsort(-np.round(total, 9), axis=1, kind="stable")[:, :MOST_EVENTS]
    told = np.take_along_axis(total, order, axis=1) > 0
    best[:, : order.shape[1]] = np.where(told, own[order], -1)
    return best
