"""The sample shop's people: demographics, and the tastes that they lean towards."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Times
from steerec.data.sample.catalogue import (
    DAY_S,
    YEAR_END,
    YEAR_START,
    Catalogue,
    Doubles,
)
from steerec.data.sample.lexicon import Lexicon

_GENDERS = ("f", "m", "unknown")
_GENDER_SHARES = (0.5, 0.42, 0.08)
_AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
_AGE_SHARES = (0.12, 0.23, 0.22, 0.18, 0.15, 0.10)
_AGE_GROUPS = ("young", "young", "middle", "middle", "old", "old")
_JOINED_BEFORE = 0.6  # of the shoppers were customers when the year began
_DRIFTERS = 0.5  # of the shoppers swap an interest during the year
_HOBBIES = (2.6, 2.1, 1.4)  # strength of a shopper's first, second, third interest
_LEAN = 0.9  # how much a demographic fact raises an interest, in nats


@dataclass(frozen=True)
class Shoppers:
    """People and their hidden tastes, one row per person.

    Attributes:
        table: user_id, gender, age_band, city, joined.
        before, after: (n, n_interests) strength of interests before and after `turn`.
        turn: (n,) Unix seconds when the interests change; YEAR_END for those who stay.
        whim: (n, n_types) lasting likes and dislikes of types that no hobby explains.
        style: (n, n_styles), brand: (n, n_brands), variant: (n, n_types, n_variants) likings.
        level: (n,) log price level they look for.
        activity: (n,) relative number of visits.
        joined: (n,) Unix seconds.
    """

    table: pl.DataFrame
    before: Doubles
    after: Doubles
    turn: Times
    whim: Doubles
    style: Doubles
    brand: Doubles
    variant: Doubles
    level: Doubles
    activity: Doubles
    joined: Times


def make_shoppers(
    lexicon: Lexicon, catalogue: Catalogue, n_users: int, rng: np.random.Generator
) -> Shoppers:
    """Draw people, then tastes that lean on who they are."""
    gender = rng.choice(len(_GENDERS), n_users, p=_GENDER_SHARES)
    age = rng.choice(len(_AGE_BANDS), n_users, p=_AGE_SHARES)
    city = rng.integers(len(lexicon.cities), size=n_users)
    joined = _joined(n_users, rng)
    lean = _leaning(lexicon, gender, age, city)
    before = _hobbies(lean, rng)
    turns = rng.random(n_users) < _DRIFTERS
    turn = YEAR_START + rng.uniform(0.15, 0.9, n_users) * (YEAR_END - YEAR_START)
    return Shoppers(
        table=pl.DataFrame(
            {
                "user_id": [f"u{i + 1:05d}" for i in range(n_users)],
                "gender": [_GENDERS[g] for g in gender],
                "age_band": [_AGE_BANDS[a] for a in age],
                "city": [tuple(lexicon.cities)[c] for c in city],
                "joined": joined,
            }
        ),
        before=before,
        after=np.where(turns[:, None], _swap_one(before, lean, rng), before),
        turn=np.where(turns, turn, YEAR_END),
        whim=rng.normal(0, 0.7, (n_users, len(lexicon.types))),
        style=_favourites(n_users, len(lexicon.styles), 2, rng),
        brand=rng.normal(0, 1, (n_users, catalogue.n_brands)),
        variant=rng.normal(0, 1, (n_users, len(lexicon.types), _n_variants(lexicon))),
        level=rng.normal(0, 0.45, n_users) + 0.08 * (age - 2),
        activity=rng.lognormal(0, 0.8, n_users),
        joined=joined,
    )


def _n_variants(lexicon: Lexicon) -> int:
    return max(len(kind.variants) for kind in lexicon.types)


def _joined(n_users: int, rng: np.random.Generator) -> Times:
    old = YEAR_START - rng.uniform(1, 700, n_users) * DAY_S
    new = YEAR_START + rng.uniform(0, 0.95, n_users) * (YEAR_END - YEAR_START)
    return np.floor(np.where(rng.random(n_users) < _JOINED_BEFORE, old, new))


def _leaning(
    lexicon: Lexicon,
    gender: NDArray[np.int64],
    age: NDArray[np.int64],
    city: NDArray[np.int64],
) -> Doubles:
    """(n_users, n_interests): how much each person leans towards each interest, in nats."""
    places = tuple(lexicon.cities.values())
    facts = [
        {_GENDERS[g], _AGE_GROUPS[a], places[c]} for g, a, c in zip(gender, age, city, strict=True)
    ]
    leans = [set(lexicon.leans.get(name, ())) for name in lexicon.interests]
    return _LEAN * np.array([[len(lean & fact) for lean in leans] for fact in facts], np.float64)


def _hobbies(lean: Doubles, rng: np.random.Generator) -> Doubles:
    """Give each person three different interests, drawn by leaning (Gumbel trick)."""
    ranks = np.argsort(-(lean + rng.gumbel(size=lean.shape)), axis=1)
    strength = np.zeros_like(lean)
    for place, value in enumerate(_HOBBIES):
        np.put_along_axis(strength, ranks[:, place : place + 1], value, axis=1)
    return strength


def _swap_one(before: Doubles, lean: Doubles, rng: np.random.Generator) -> Doubles:
    """Drop each person's strongest interest for a new one."""
    free = np.where(before > 0, -np.inf, lean + rng.gumbel(size=lean.shape))
    after = before.copy()
    rows = np.arange(len(before))
    after[rows, before.argmax(axis=1)] = 0.0
    after[rows, free.argmax(axis=1)] = _HOBBIES[0]
    return after


def _favourites(n_users: int, n_styles: int, n: int, rng: np.random.Generator) -> Doubles:
    """(n_users, n_styles): 1 for the first favourite style, half for the next, 0 for the rest."""
    ranks = np.argsort(rng.random((n_users, n_styles)), axis=1)
    liking = np.zeros((n_users, n_styles))
    for place in range(n):
        np.put_along_axis(liking, ranks[:, place : place + 1], 1.0 / (place + 1), axis=1)
    return liking
