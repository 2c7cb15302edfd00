"""Who looks at what, when: browsing sessions, and the visits that they lead to."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Times
from steerec.data.sample.catalogue import (
    DAY_S,
    YEAR_END,
    YEAR_START,
    Catalogue,
    Doubles,
    Ints,
    partner_types,
)
from steerec.data.sample.lexicon import Lexicon
from steerec.data.sample.shoppers import Shoppers

_WEEKS = 53
_SEASON = 1.3  # nats a type gains in its months
_TREND = 0.5  # standard deviation of a type's slow ups and downs
_REGULAR = 0.9  # nats a type gains because people need it often
# How a session goes on after a visit: the same type, a partner type, a type of a shared interest,
# something else, the companion of this very product.
_NEXT = ("same", "partner", "related", "else", "companion")
_NEXT_SHARES = (0.40, 0.13, 0.17, 0.10, 0.20)
_GO_ON = 0.62  # chance of another visit in the session
_MOST_VISITS = 12
_NEW_BONUS, _NEW_DAYS = 1.6, 21.0
_HITS, _HIT_BONUS, _HIT_DAYS = 0.12, 2.0, 18.0
# What a liking is worth in nats when a product of a type is chosen.
_STYLE, _BRAND, _VARIANT, _PRICE = 2.2, 0.8, 1.0, 1.2
_LIKE_LAST = 1.1  # the same style as the product just seen


@dataclass(frozen=True)
class Visits:
    """Looks at products; rows of one session are in the order of the looks.

    Attributes:
        user, item: (n,) indices.
        time: (n,) Unix seconds.
        session: (n,) number of the session.
        intent: (n,) chance multiplier of buying; 1 while browsing, more on purpose.
    """

    user: Ints
    item: Ints
    time: Times
    session: Ints
    intent: Doubles

    def take(self, keep: NDArray[np.bool_] | Ints) -> "Visits":
        """The rows where `keep` is true, or at these positions."""
        return Visits(
            self.user[keep], self.item[keep], self.time[keep], self.session[keep], self.intent[keep]
        )


def join_visits(*parts: Visits) -> Visits:
    """All rows of all parts; sessions are renumbered so that parts share none."""
    offset = np.cumsum([0, *(int(p.session.max(initial=-1)) + 1 for p in parts[:-1])])
    return _stack(*(replace(p, session=p.session + o) for p, o in zip(parts, offset, strict=True)))


def _stack(*parts: Visits) -> Visits:
    return Visits(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Visits)))


class Mall:
    """Shoppers in front of the shelves: draws what a person looks at in a given moment."""

    def __init__(
        self, lexicon: Lexicon, catalogue: Catalogue, shoppers: Shoppers, rng: np.random.Generator
    ) -> None:
        self.catalogue = catalogue
        self.shoppers = shoppers
        self.rng = rng
        self.partners = partner_types(lexicon)
        self.every_days = np.array([kind.every_days or np.nan for kind in lexicon.types])
        names = lexicon.interests
        self._of_interest = np.array(
            [[name in kind.interests for name in names] for kind in lexicon.types], np.float64
        )
        self._related = (self._of_interest @ self._of_interest.T > 0) & ~np.eye(
            len(lexicon.types), dtype=bool
        )
        self._season = _seasons(lexicon)
        self._mood = _moods(lexicon, self._season, rng) + np.where(
            np.isnan(self.every_days), 0.0, _REGULAR
        )
        n_items = len(catalogue.kind)
        self._hit = rng.random(n_items) < _HITS
        self._hit_time = rng.uniform(YEAR_START, YEAR_END, n_items)

    def sessions(self, n: int) -> tuple[Ints, Times]:
        """Draw who comes and when: (n,) users and (n,) times; all come once, the active often."""
        chance = self.shoppers.activity * _presence(self.shoppers.joined)
        user = self.rng.choice(len(chance), n, p=chance / chance.sum())
        everybody = self.rng.permutation(len(chance))[:n]
        user[: len(everybody)] = everybody
        return user, _moments(self.shoppers.joined[user], self.rng)

    def browse(self, n_sessions: int) -> Visits:
        """Sessions that begin with a wish and walk from one product to the next."""
        user, time = self.sessions(n_sessions)
        session = np.arange(n_sessions)
        item = self.choose(user, time, self._wish(user, time))
        seen = np.full((n_sessions, _MOST_VISITS), -1, np.int64)
        steps = []
        for step in range(_MOST_VISITS):
            seen[session, step] = item
            steps.append(Visits(user, item, time, session, np.ones(len(user))))
            on = self.rng.random(len(user)) < _GO_ON
            user, session, item = user[on], session[on], item[on]
            time = time[on] + self.rng.integers(15, 240, on.sum())
            item = self._walk(user, time, item, seen[session])
        visits = _stack(*steps)
        return visits.take(np.lexsort((visits.time, visits.session)))

    def choose(
        self,
        user: Ints,
        time: Times,
        kind: Ints,
        *,
        last: Ints | None = None,
        seen: Ints | None = None,
    ) -> Ints:
        """Draw a product of the given type for each person, by taste and by what is on sale.

        Args:
            last: (n,) the product looked at just before.
            seen: (n, m) products not to take again, -1 for none.
        """
        shop, people = self.catalogue, self.shoppers
        shelf = shop.by_kind[kind]
        age_days = (time[:, None] - shop.published[shelf]) / DAY_S
        hit = np.exp(-(((time[:, None] - self._hit_time[shelf]) / (_HIT_DAYS * DAY_S)) ** 2))
        rows = user[:, None]
        liking = (
            shop.appeal[shelf]
            + _STYLE * people.style[rows, shop.style[shelf]]
            + _BRAND * people.brand[rows, shop.brand[shelf]]
            + _VARIANT * people.variant[rows, kind[:, None], shop.variant[shelf]]
            - _PRICE * (shop.level[shelf] - people.level[rows]) ** 2
            + _NEW_BONUS * np.exp(-np.maximum(age_days, 0) / _NEW_DAYS)
            + _HIT_BONUS * self._hit[shelf] * hit
        )
        if last is not None:
            liking += _LIKE_LAST * (shop.style[shelf] == shop.style[last][:, None])
        liking[(shelf < 0) | (age_days < 0)] = -np.inf
        if seen is not None:
            liking[(shelf[:, :, None] == seen[:, None, :]).any(axis=2)] -= 20.0
        best = (liking + self.rng.gumbel(size=liking.shape)).argmax(axis=1)
        chosen: Ints = shelf[np.arange(len(user)), best]
        return chosen

    def _wish(self, user: Ints, time: Times, among: NDArray[np.bool_] | None = None) -> Ints:
        """Draw a type for each person by hobbies, whims and season."""
        people = self.shoppers
        turned = (time >= people.turn[user])[:, None]
        hobbies = np.where(turned, people.after[user], people.before[user])
        wish = hobbies @ self._of_interest.T + people.whim[user] + self._mood[_week(time)]
        if among is not None:
            wish = np.where(among, wish, -50.0)
        drawn: Ints = (wish + self.rng.gumbel(size=wish.shape)).argmax(axis=1)
        return drawn

    def _walk(self, user: Ints, time: Times, item: Ints, seen: Ints) -> Ints:
        """Draw the next product of a session."""
        kind = self.catalogue.kind[item]
        way = self.rng.choice(len(_NEXT), len(user), p=_NEXT_SHARES)
        partner = self.partners[kind, self.rng.integers(3, size=len(user))]
        related = self._wish(user, time, self._related[kind])
        other = self._wish(user, time)
        options = np.stack([kind, np.where(partner < 0, related, partner), related, other, kind])
        following = self.choose(
            user, time, options[way, np.arange(len(user))], last=item, seen=seen
        )
        companion = self.catalogue.companion[item]
        there = (way == _NEXT.index("companion")) & self.on_sale(companion, time)
        return np.where(there, companion, following)

    def in_season(self, kind: Ints, time: Times) -> NDArray[np.bool_]:
        """Whether each time lies in the type's months; types without a season always do."""
        always = np.logical_not(np.any(self._season, axis=0, keepdims=True))[0]
        now: NDArray[np.bool_] = self._season[_week(time), kind] | always[kind]
        return now

    def on_sale(self, item: Ints, time: Times) -> NDArray[np.bool_]:
        """Whether each product exists (is not -1) and has arrived by then."""
        return (item >= 0) & (self.catalogue.published[item] <= time)


def _seasons(lexicon: Lexicon) -> NDArray[np.bool_]:
    """(weeks, n_types): whether the week lies in the type's months."""
    month = ((np.arange(_WEEKS) * 7 + 3) / 30.44).astype(np.int64) % 12 + 1
    return np.array([[m in kind.months for kind in lexicon.types] for m in month])


def _moods(lexicon: Lexicon, season: NDArray[np.bool_], rng: np.random.Generator) -> Doubles:
    """(weeks, n_types): season, slow trends, and a lasting popularity of each type."""
    n_types = len(lexicon.types)
    steps = rng.normal(0, 1, (_WEEKS, n_types)).cumsum(axis=0) / np.sqrt(_WEEKS)
    moods: Doubles = _SEASON * season + _TREND * steps + rng.normal(0, 0.4, n_types)
    return moods


def _week(time: Times) -> Ints:
    week: Ints = ((time - YEAR_START) / (7 * DAY_S)).astype(np.int64)
    return week


def _clock() -> tuple[Times, Doubles]:
    """Hours of the year and the share of visits made until each."""
    hours = YEAR_START + np.arange(0, (YEAR_END - YEAR_START) / 3600 + 1) * 3600
    hour = np.arange(len(hours) - 1) % 24
    day = np.arange(len(hours) - 1) // 24
    evening = 0.15 + np.exp(-(((hour - 20) / 3.5) ** 2)) + 0.5 * np.exp(-(((hour - 12) / 3) ** 2))
    weekend = 1 + 0.35 * np.isin((day + 2) % 7, (5, 6))  # 1 January 2025 was a Wednesday
    gifts = 1 + 0.6 * ((day > 325) & (day < 357))
    busy = np.concatenate([[0.0], np.cumsum(evening * weekend * gifts)])
    return hours, busy / busy[-1]


def _presence(joined: Times) -> Doubles:
    """(n,): share of the shop's visits that fall after each person joined."""
    return 1.0 - np.interp(joined, *_clock())


def _moments(joined: Times, rng: np.random.Generator) -> Times:
    """One moment after each `joined`, in the shop's busy hours."""
    hours, busy = _clock()
    start = np.interp(joined, hours, busy)
    return np.floor(np.interp(start + rng.random(len(joined)) * (1 - start), busy, hours) - 1)
