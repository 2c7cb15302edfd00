"""Which reaction belongs to which shown item, and when an impression is closed."""

import hashlib
import logging
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.tuning.observed import Observed
from steerec.tuning.reward import Prices, RewardConfig

logger = logging.getLogger(__name__)
BEFORE_S = 60.0  # a reaction's clock may run behind ours by as much
MOST_EVENTS = 200  # reactions that one impression remembers; more are no person's


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One page as it was served, with what the learner needs.

    Attributes:
        time: Unix seconds.
        z: (n, n_heads) calibrated scores of the items; phi: (n_features,).
        start: place of the page's first item in the slate, from 0.
        extra: (n,) log-odds of what the shared model does not hold, such as a personal offset.
    """

    request_id: str
    user_id: str | None
    items: tuple[str, ...]
    time: float
    z: NDArray[Any]
    phi: NDArray[Any]
    scenario: str | None = None
    arm: str = "live"
    start: int = 0
    extra: NDArray[Any] = field(default_factory=lambda: np.zeros(1))


@dataclass(frozen=True, slots=True)
class Reaction:
    """Something a person did with an item; `time` Unix seconds."""

    event_id: str
    kind: str
    item_id: str
    time: float
    user_id: str | None = None
    request_id: str | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What came of one page.

    Attributes:
        reward: (n,) of each item within [-1, 1]; where `late`, by how much it changed.
        totals: kind → shares summed over the page, for the prices.
        late: whether the page was closed before.
    """

    shown: Shown
    reward: NDArray[np.float64]
    totals: dict[str, float]
    late: bool

    def observed(self) -> Observed:
        """The rows for the learner: `observe` them, or `amend` where late."""
        n, shown = len(self.reward), self.shown
        places = np.arange(shown.start + 1, shown.start + n + 1)
        phi = np.broadcast_to(shown.phi, (n, len(shown.phi)))
        return Observed(shown.z, phi, places, self.reward, extra=shown.extra)


@dataclass(slots=True)
class _Kept:
    shown: Shown
    reward: NDArray[np.float64]
    did: dict[int, dict[str, tuple[float, str, float | None]]] = field(default_factory=dict)
    seen: "array[int]" = field(default_factory=lambda: array("q"))  # digests of event ids
    prices: Prices | None = None  # those in force when it was closed

    @property
    def closed(self) -> bool:
        return self.prices is not None


class Joiner:
    """Keeps impressions until their rewards are known; one writer. Memory is bounded.

    Attributes:
        counts: what could not be used, by reason, and what was.
    """

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.prices = Prices.start(config)
        self.counts: dict[str, int] = {}
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        self._pages: dict[str, list[tuple[str, int]]] = {}
        self._of_user: dict[str, deque[tuple[str, int]]] = {}
        self._open: OrderedDict[tuple[str, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def show(self, shown: Shown, now: float) -> list[Outcomes]:
        """Remember a page; what it closes: the user's earlier ones, and those past their time."""
        key = (shown.request_id, shown.start)
        if key in self._kept:
            self._count("shown_twice")
            return self.close(now)
        if not self._usable(shown, now):
            return self.close(now)
        earlier = list(self._of_user.get(shown.user_id, ())) if shown.user_id else []
        found = [self._close(k) for k in earlier if k in self._open]
        self._kept[key] = _Kept(shown, np.zeros(len(shown.items)))
        self._open[key] = None
        self._pages.setdefault(shown.request_id, []).append(key)
        if shown.user_id is not None:
            self._of_user.setdefault(shown.user_id, deque()).append(key)
        return found + self.close(now)

    def react(self, reaction: Reaction, now: float) -> Outcomes | None:
        """Take in a reaction; the late change it makes to a closed page, None where there is none.

        What cannot be joined is counted in `counts` and changes nothing.
        """
        kept, place = self._find(reaction)
        refusal = self._refusal(reaction, kept, now)
        self._count(refusal or "joined")
        if refusal or kept is None:
            return None
        kept.seen.append(_digest(reaction.event_id))
        before = self._totals(kept) if kept.closed else {}
        did = kept.did.setdefault(place, {})
        told = (reaction.time, reaction.event_id, reaction.value)
        # The newest of a kind counts, whatever the order of arrival.
        did[reaction.kind] = max(did.get(reaction.kind, told), told, key=lambda t: t[:2])
        return self._late(kept, place, before) if kept.closed else None

    def close(self, now: float) -> list[Outcomes]:
        """Close pages whose time is up and drop those kept too long."""
        found = [self._close(key) for key in list(self._due(now))]
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            full = len(self._kept) > self.config.most_kept
            if not full and now - kept.shown.time <= self.config.late_s:
                break
            if not kept.closed:
                found.append(self._close(key))
            if full:
                self._count("dropped_for_room")
            self._drop(key)
        return found

    def is_due(self, now: float) -> bool:
        """Whether the time of a page is up."""
        return next(self._due(now), None) is not None

    def open_pages(self) -> list[tuple[str, int]]:
        """Request id and start of each page whose reward is not settled, oldest first."""
        return list(self._open)

    def oldest(self) -> float | None:
        """Unix seconds at which the oldest page was shown that is kept; None: there is none."""
        return next((kept.shown.time for kept in self._kept.values()), None)

    def settle(self, still_open: Set[tuple[str, int]]) -> None:
        """Close all other pages without telling: what they taught is known."""
        for key in [key for key in self._open if key not in still_open]:
            self._close(key)

    def forget(self, user_id: str) -> None:
        """Drop a user's pages, open ones without learning from them."""
        for key in list(self._of_user.get(user_id, ())):
            self._open.pop(key, None)
            self._drop(key)

    def _due(self, now: float) -> Iterator[tuple[str, int]]:
        for key in self._open:
            if now - self._kept[key].shown.time < self.config.close_after_s:
                break
            yield key

    def _close(self, key: tuple[str, int]) -> Outcomes:
        kept = self._kept[key]
        self._open.pop(key)
        kept.prices = self.prices
        reward = [self._reward(kept, place) for place in range(len(kept.shown.items))]
        kept.reward = np.array(reward, np.float64)
        totals = self._totals(kept)
        self.prices = self.prices.after(totals)
        return Outcomes(kept.shown, kept.reward.copy(), totals, late=False)

    def _late(self, kept: _Kept, place: int, before: dict[str, float]) -> Outcomes | None:
        reward = self._reward(kept, place)
        change = np.zeros(len(kept.reward))
        change[place] = reward - kept.reward[place]
        kept.reward[place] = reward
        more = {kind: n - before.get(kind, 0.0) for kind, n in self._totals(kept).items()}
        self.prices = self.prices.after(more, slates=0)  # its slate was counted when it closed
        return Outcomes(kept.shown, change, more, late=True) if change[place] else None

    def _reward(self, kept: _Kept, place: int) -> float:
        values = {kind: told[2] for kind, told in kept.did.get(place, {}).items()}
        return self.config.of(values, scenario=kept.shown.scenario, prices=kept.prices)

    def _totals(self, kept: _Kept) -> dict[str, float]:
        totals: dict[str, float] = {}
        for did in kept.did.values():
            for kind, (_, _, value) in did.items():
                outcome = self.config.outcome(kind, kept.shown.scenario)
                share = 0.0 if outcome is None else outcome.share(value)
                totals[kind] = totals.get(kind, 0.0) + share
        return totals

    def _usable(self, shown: Shown, now: float) -> bool:
        sound = np.isfinite(shown.time) and shown.items and len(shown.z) == len(shown.items)
        if not sound:
            self._count("shown_unusable")
        elif shown.time > now + self.config.ahead_s:
            self._count("shown_from_the_future")
        return bool(sound) and shown.time <= now + self.config.ahead_s

    def _refusal(self, reaction: Reaction, kept: _Kept | None, now: float) -> str | None:
        value = 0.0 if reaction.value is None else reaction.value
        if not np.isfinite([reaction.time, value]).all():
            return "not_finite"
        if reaction.time > now + self.config.ahead_s:
            return "from_the_future"
        if kept is None:
            return "unknown"
        outcome = self.config.outcome(reaction.kind, kept.shown.scenario)
        if outcome is None:
            return "kind_not_counted"
        if reaction.time - kept.shown.time > outcome.window_s:
            return "too_late"
        if _digest(reaction.event_id) in kept.seen:
            return "repeated"
        return "too_many" if len(kept.seen) >= MOST_EVENTS else None

    def _find(self, reaction: Reaction) -> tuple[_Kept | None, int]:
        """The page and place; without a request id the user's newest page before the reaction."""
        if reaction.request_id is not None:
            keys = self._pages.get(reaction.request_id, [])
        else:
            keys = list(self._of_user.get(reaction.user_id or "", ()))[::-1]
        for key in keys:
            kept = self._kept[key]
            ahead = kept.shown.time > reaction.time + BEFORE_S
            other = {reaction.user_id, kept.shown.user_id} - {None}
            if reaction.item_id in kept.shown.items and not ahead and len(other) < 2:
                return kept, kept.shown.items.index(reaction.item_id)
        return None, -1

    def _drop(self, key: tuple[str, int]) -> None:
        kept = self._kept.pop(key)
        pages = self._pages[key[0]]
        pages.remove(key)
        if not pages:
            del self._pages[key[0]]
        user = kept.shown.user_id
        if user is not None:
            self._of_user[user].remove(key)
            if not self._of_user[user]:
                del self._of_user[user]

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _digest(event_id: str) -> int:
    """64 bits of it: ids themselves took ten times the room, and a page remembers 200."""
    raw = hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "little", signed=True)
