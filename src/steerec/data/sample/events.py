"""What visits leave behind: views, clicks, carts, orders, ratings, and the visits after those."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Times
from steerec.data.sample.catalogue import DAY_S, YEAR_END, YEAR_START, Ints
from steerec.data.sample.visits import Mall, Visits, join_visits

_SESSIONS_PER_EVENT = 0.165  # a few more than needed: whole sessions are dropped at the end
_CLICK, _CART, _BUY = 0.42, 0.26, 0.62  # chance of each step given the one before
_MOOD = 0.7  # spread between sessions for looking and sessions for buying
_ON_PURPOSE = 2.2  # how much likelier the steps are when somebody comes for a product
_COMES_BACK, _BACK_DAYS = 0.35, 2.5
_COMPLETES, _COMPLETE_DAYS = 0.45, 3.0
_REGULARS, _RHYTHM_SPREAD = 0.42, 0.12
_KEEPS_BRAND = 0.85
_OUT_OF_SEASON = 0.25  # share of the regular orders of seasonal goods that go on all year
_MOST_ORDERS = 26
_RATES, _DISLIKES = 0.12, 0.012


@dataclass(frozen=True)
class _Outcome:
    """How far each visit went: clicked, put in the cart, bought."""

    click: NDArray[np.bool_]
    cart: NDArray[np.bool_]
    buy: NDArray[np.bool_]


def live_a_year(mall: Mall, n_events: int) -> pl.DataFrame:
    """Let the shoppers live one year.

    Returns:
        user_id … basket, at most `n_events` rows and only a few fewer, in order of time.
    """
    first = mall.browse(int(n_events * _SESSIONS_PER_EVENT) + 20)
    looked = _follow(first, _outcomes(first, mall), mall, _come_back)
    visits, outcome = _follow(*looked, mall, _complete, _restock)
    return _write(_rows(visits, outcome, mall), visits, mall, n_events)


def _follow(
    visits: Visits,
    outcome: _Outcome,
    mall: Mall,
    *ways: Callable[[Visits, _Outcome, Mall], Visits],
) -> tuple[Visits, _Outcome]:
    """The visits and what came of them, with those that followed in these ways at the end."""
    later = join_visits(*(way(visits, outcome, mall) for way in ways))
    new = _outcomes(later, mall)
    joined = _Outcome(
        click=np.concatenate([outcome.click, new.click]),
        cart=np.concatenate([outcome.cart, new.cart]),
        buy=np.concatenate([outcome.buy, new.buy]),
    )
    return join_visits(visits, later), joined


def _outcomes(visits: Visits, mall: Mall) -> _Outcome:
    """Draw each step of the funnel; some sessions are for buying, some for looking."""
    needed = ~np.isnan(mall.every_days[mall.catalogue.kind[visits.item]])
    mood = mall.rng.lognormal(-(_MOOD**2) / 2, _MOOD, int(visits.session.max(initial=0)) + 1)
    ease = visits.intent * mood[visits.session] * np.where(needed, 1.3, 1.0)
    click = mall.rng.random(len(ease)) < _CLICK * ease
    cart = click & (mall.rng.random(len(ease)) < _CART * ease)
    buy = cart & (mall.rng.random(len(ease)) < _BUY * ease)
    return _Outcome(click, cart, buy)


def _return_visits(mall: Mall, user: Ints, item: Ints, time: Times) -> Visits:
    """Each a session of its own, for those that fall into the year and find the product there."""
    keep = (time < YEAR_END) & mall.on_sale(item, time)
    visits = Visits(user, item, np.floor(time), np.arange(len(user)), np.full(len(user), 1.0))
    kept = visits.take(keep)
    n = len(kept.user)
    return Visits(kept.user, kept.item, kept.time, np.arange(n), np.full(n, _ON_PURPOSE))


def _come_back(visits: Visits, outcome: _Outcome, mall: Mall) -> Visits:
    """People who clicked and did not buy look again within days."""
    chance = mall.rng.random(len(visits.user)) < _COMES_BACK
    again = visits.take(outcome.click & ~outcome.buy & chance)
    wait = mall.rng.exponential(_BACK_DAYS, len(again.user)) + 0.1
    return _return_visits(mall, again.user, again.item, again.time + wait * DAY_S)


def _complete(visits: Visits, outcome: _Outcome, mall: Mall) -> Visits:
    """Buyers come for what goes with their purchase: mostly its companion, else to their taste."""
    chance = mall.rng.random(len(visits.user)) < _COMPLETES
    companion = mall.catalogue.companion[visits.item]
    bought = visits.take(outcome.buy & chance & (companion >= 0))
    companion = mall.catalogue.companion[bought.item]
    wait = mall.rng.exponential(_COMPLETE_DAYS, len(bought.user)) + 0.3
    time = bought.time + wait * DAY_S
    own = mall.choose(bought.user, time, mall.catalogue.kind[companion], last=bought.item)
    item = np.where(mall.rng.random(len(own)) < 0.6, companion, own)
    return _return_visits(mall, bought.user, item, time)


def _restock(visits: Visits, outcome: _Outcome, mall: Mall) -> Visits:
    """Regulars buy what runs out again, in the rhythm of the type and their own household."""
    rng = mall.rng
    kind = mall.catalogue.kind[visits.item]
    rhythm = mall.every_days[kind]
    first = np.zeros(len(kind), np.bool_)
    bought = np.flatnonzero(outcome.buy & ~np.isnan(rhythm))
    bought = bought[np.argsort(visits.time[bought], kind="stable")]
    pairs = visits.user[bought] * len(mall.every_days) + kind[bought]
    first[bought[np.unique(pairs, return_index=True)[1]]] = True
    regular = np.flatnonzero(first & (rng.random(len(kind)) < _REGULARS))
    shape = (len(regular), _MOST_ORDERS)
    household = rng.uniform(0.8, 1.25, (len(regular), 1))
    waits = rhythm[regular][:, None] * household * rng.normal(1, _RHYTHM_SPREAD, shape)
    time = (visits.time[regular][:, None] + waits.cumsum(axis=1) * DAY_S).ravel()
    user = np.repeat(visits.user[regular], _MOST_ORDERS)
    item = np.repeat(visits.item[regular], _MOST_ORDERS)
    inside = time < YEAR_END
    user, item = user[inside], item[inside]
    time = _shopping_day(user, time[inside])
    other = mall.choose(user, time, mall.catalogue.kind[item], last=item)
    item = np.where(rng.random(len(item)) < _KEEPS_BRAND, item, other)
    again = _return_visits(mall, user, item, time)
    wanted = mall.in_season(mall.catalogue.kind[again.item], again.time)
    again = again.take(wanted | (rng.random(len(wanted)) < _OUT_OF_SEASON))
    together = np.unique(
        np.stack([again.user, again.time.astype(np.int64)]), axis=1, return_inverse=True
    )[1]
    return Visits(again.user, again.item, again.time, together.ravel(), again.intent * 2.0)


def _shopping_day(user: Ints, time: Times) -> Times:
    """The household's own hour of the week, up to seven days later: one order for all it needs."""
    hour = (user * 37 % 7) * DAY_S + (8 + user * 11 % 14) * 3600.0
    week = 7 * DAY_S
    return YEAR_START + np.ceil((time - YEAR_START - hour) / week) * week + hour


@dataclass(frozen=True)
class _Rows:
    """Events as arrays; `visit` is the row of the visit they come from."""

    event: list[str]
    visit: Ints
    time: Times
    value: NDArray[np.float64]


def _rows(visits: Visits, outcome: _Outcome, mall: Mall) -> list[_Rows]:
    rng = mall.rng
    time = visits.time
    everything = np.arange(len(time))
    ends = np.zeros(int(visits.session.max()) + 1)
    np.maximum.at(ends, visits.session, time)
    checkout = ends[visits.session] + 30.0
    bought = np.flatnonzero(outcome.buy)
    rated = bought[rng.random(len(bought)) < _RATES]
    stars = np.clip(
        np.round(3.9 + mall.catalogue.appeal[visits.item] + rng.normal(0, 0.8, len(time))), 1, 5
    )
    rated_at = np.floor(checkout + rng.uniform(2, 14, len(time)) * DAY_S)
    disliked = everything[(rng.random(len(time)) < _DISLIKES) & ~outcome.click]
    parts = (
        ("view", everything, time),
        ("click", np.flatnonzero(outcome.click), time + rng.integers(3, 9, len(time))),
        ("cart", np.flatnonzero(outcome.cart), time + rng.integers(9, 15, len(time))),
        ("purchase", bought, checkout),
        ("rating", rated, rated_at),
        ("dislike", disliked, time + 7),
    )
    return [
        _Rows(
            [name] * len(at),
            at,
            when[at],
            stars[at] if name == "rating" else np.full(len(at), np.nan),
        )
        for name, at, when in parts
    ]


def _write(parts: list[_Rows], visits: Visits, mall: Mall, n_events: int) -> pl.DataFrame:
    """Put the rows in order of time, dropping whole sessions beyond `n_events`."""
    visit = np.concatenate([p.visit for p in parts])
    time = np.concatenate([p.time for p in parts])
    session = visits.session[visit]
    keep = _whole_sessions(session, n_events, mall.rng) & (time >= YEAR_START) & (time < YEAR_END)
    frame = pl.DataFrame(
        {
            "user_id": mall.shoppers.table["user_id"][visits.user[visit]],
            "item_id": mall.catalogue.table["item_id"][visits.item[visit]],
            "event": [name for p in parts for name in p.event],
            "value": pl.Series(np.concatenate([p.value for p in parts])).fill_nan(None),
            "timestamp": time,
            "session": session,
        }
    )
    frame = frame.filter(pl.Series(keep)).sort("timestamp", "session", maintain_order=True)
    return frame.join(
        _order_numbers(frame), on=["session", "event"], how="left", maintain_order="left"
    ).drop("session")


def _order_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """session, event ("purchase"), basket: orders numbered as they came in."""
    orders = frame.filter(pl.col("event") == "purchase").select("session", "event")
    return orders.unique(maintain_order=True).with_columns(
        basket=pl.format("o{}", pl.int_range(100_001, 100_001 + pl.len()))
    )


def _whole_sessions(session: Ints, n_events: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    sizes = np.bincount(session)
    order = rng.permutation(len(sizes))
    kept = np.zeros(len(sizes), np.bool_)
    kept[order[np.cumsum(sizes[order]) <= n_events]] = True
    return kept[session]
