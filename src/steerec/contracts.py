"""The nouns every part speaks, and the encoder's protocol. Imports nothing of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Times = NDArray[np.float64]
Indices = NDArray[np.int32]
OWN = "own:"  # begins names of features of items that a user had before: 0 in φ of a request


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a user did: `event` is a free name, `timestamp` Unix seconds (UTC)."""

    user_id: str
    item_id: str
    event: str = "view"
    value: float | None = None
    timestamp: float | None = None
    basket: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What somebody tells of themselves, for heads that can read it.

    Attributes:
        texts: their words, in parts that say one thing each.
        weight: (n,) float32, 1 for what they want, -1 for what they do not.
        vectors: (n, dim) float32, the parts by the encoder of the items' texts; dim = 0 without.
        attributes: column of the users' table → their value; a column that is left out is unknown.
    """

    texts: tuple[str, ...]
    weight: Floats
    vectors: Floats
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """One user's events, oldest first.

    Attributes:
        item_idx: (n,) int32.
        weight: (n,) float32, the weight of the event's kind; negative means dislike.
        time: (n,) float64, Unix seconds, NaN where unknown.
        basket: (n,) int32, equal numbers share a basket, -1 where there are none.
        user_idx: the user's row in the fitted data, -1 for one never seen there.
        about: what the user tells of themselves; None: nothing.
        rating: (n,) float32, what the user gave the item, NaN where an event is no rating; None:
            none of them is.
    """

    item_idx: Indices
    weight: Floats
    time: Times
    basket: Indices
    user_idx: int = -1
    about: About | None = None
    rating: Floats | None = None

    def __len__(self) -> int:
        return len(self.item_idx)

    @property
    def n_told(self) -> int:
        """What is known of the user, counted in events: a sentence stands for one."""
        return len(self) + int(self.about is not None and len(self.about.texts) > 0)

    def last(self, n: int) -> "History":
        """The newest `n` events."""
        return self if n >= len(self) else self.slice(len(self) - n, len(self))

    def slice(self, start: int, stop: int) -> "History":
        """Events `start` to `stop`, views and no copies."""
        return self.at(np.s_[start:stop])

    def at(self, places: Any) -> "History":
        """The events at these places: a slice (views, no copies), indices or a mask."""
        return History(
            self.item_idx[places],
            self.weight[places],
            self.time[places],
            self.basket[places],
            self.user_idx,
            self.about,
            None if self.rating is None else self.rating[places],
        )

    def then(self, more: "History") -> "History":
        """A new history of the same user with all events of another at its end."""
        rating = None
        if self.rating is not None or more.rating is not None:
            rating = np.concatenate([_ratings(self), _ratings(more)])
        return History(
            np.concatenate([self.item_idx, more.item_idx]),
            np.concatenate([self.weight, more.weight]),
            np.concatenate([self.time, more.time]),
            np.concatenate([self.basket, more.basket]),
            self.user_idx,
            self.about,
            rating,
        )

    def append(
        self,
        item_idx: int,
        *,
        weight: float = 1.0,
        time: float = np.nan,
        basket: int = -1,
        rating: float = np.nan,
    ) -> "History":
        """A new history with one more event at its end."""
        event = History(
            np.array([item_idx], np.int32),
            np.array([weight], np.float32),
            np.array([time], np.float64),
            np.array([basket], np.int32),
            rating=None if np.isnan(rating) else np.array([rating], np.float32),
        )
        return self.then(event)

    @classmethod
    def of(cls, item_idx: Sequence[int] | Indices, user_idx: int = -1) -> "History":
        """A history of plain visits in this order, without times or baskets."""
        items = np.asarray(item_idx, np.int32)
        n = len(items)
        return cls(
            items,
            np.ones(n, np.float32),
            np.full(n, np.nan),
            np.full(n, -1, np.int32),
            user_idx,
        )


def _ratings(history: History) -> Floats:
    if history.rating is not None:
        return history.rating
    return np.full(len(history), np.nan, np.float32)


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: a user, or a session of item ids, and the conditions.

    Attributes:
        user_id: a known or unknown user; None for an anonymous session.
        about: what the user says of themselves or wants now, in their own words.
        attributes: column of the users' table → value, for a user whose row is not there yet;
            what is given here goes before what the table says.
        session: item ids of this visit, oldest first, after the user's stored history; ids that
            the catalogue does not hold are skipped and named in the slate.
        n: length of the list.
        exclude: item ids never to show.
        filter: attribute → allowed values; an item passes if each attribute has one of them.
        now: Unix seconds of the request; None: the time of the newest event known.
        repeats: whether items of the user's own history may be shown (what they disliked last
            never is); None: as fitted.
        scenario, device: placement and device, where φ was given columns for them.
        place: where it is seen; logged with the slate, and a slice of experiments.
        condition: an expression over attributes that items must fulfil, such as
            `price < 20 and "vegan" in tags`.
        rule: the same of the placement's settings; an attribute that no item has is missing in
            all, and no error.
        candidates: the only item ids that may be shown; None: the whole catalogue.
    """

    user_id: str | None = None
    session: tuple[str, ...] = ()
    n: int = 10
    exclude: frozenset[str] = frozenset()
    filter: Mapping[str, frozenset[str]] = field(default_factory=dict)
    now: float | None = None
    repeats: bool | None = None
    scenario: str | None = None
    device: str | None = None
    place: str | None = None
    about: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    condition: str | None = None
    rule: str | None = None
    candidates: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One place of a slate.

    Attributes:
        score: w·z, in nats over an average item.
        position: place in the list, from 1.
        sources: head name → its share of the score, in nats; they add up to the score, but for
            an item without events, which also gets the strategy's dial `unseen_items`.
        reason: one sentence for the person, naming their own events where there are any.
        because: item ids of the user's history that spoke for this item, strongest first.
        propensity: probability of this item at this place, given the items above.
    """

    item_id: str
    score: float
    position: int
    sources: Mapping[str, float]
    reason: str
    because: tuple[str, ...] = ()
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Slate:
    """An answer: items best first, and the strategy that made it.

    Attributes:
        skipped: ids of the session that the catalogue does not hold.
        left_out: heads that failed and had no part in this answer.
        epoch: how often the online tuner has moved the strategy since this version.
        arm: which part of the traffic this is, as `live` or `control`.
    """

    request_id: str
    strategy_version: int
    items: tuple[Choice, ...]
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    epoch: int = 0
    arm: str = "live"


@dataclass(frozen=True)
class Strategy:
    """How we recommend, as one value: head weights are `theta @ phi`.

    Attributes:
        heads: names of the heads, the rows of theta.
        features: names of the context features, the columns of theta.
        theta: (n_heads, n_features) float64.
        version: number of the promoted version; 0 is the first fit.
        dials: named numbers such as list length or diversity.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    theta: NDArray[np.float64]
    version: int = 0
    dials: Mapping[str, float] = field(default_factory=dict)


class Encoder(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: stable name with version; part of the cache key.
        dim: length of a vector.
    """

    name: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, dim) float32, unit length; an empty text gives the zero vector."""
        ...


Record = Mapping[str, Any]
