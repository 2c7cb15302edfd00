"""The sample shop's shelves: products and the traits behind what shoppers feel about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Times
from steerec.data.sample.lexicon import Lexicon
from steerec.data.sample.texts import Brand, Copywriter, Wording, make_brands

YEAR_START = 1_735_689_600.0  # 2025-01-01T00:00:00Z
YEAR_END = 1_767_225_600.0  # 2026-01-01T00:00:00Z
DAY_S = 86_400.0

_NEW_SHARE = 0.25  # of the products arrive during the year
_TIER_FACTORS = np.array([0.62, 1.0, 1.75])  # price of budget, middle and premium brands
_OLDEST_DAYS = 900.0

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Catalogue:
    """Products in order of arrival.

    Attributes:
        table: item_id, title, description, categories, brand, price, colour, material, published.
        kind: (n,) index into the lexicon's types.
        style, brand, variant: (n,) indices; variants of different types share their numbers.
        level: (n,) log of price over the type's usual price.
        appeal: (n,) how well it sells for reasons nobody can see.
        published: (n,) Unix seconds.
        by_kind: (n_types, most) item indices of a type, padded with -1.
        companion: (n,) a product of a type that goes with it, -1 where there is none.
        n_brands: number of brands.
    """

    table: pl.DataFrame
    kind: Ints
    style: Ints
    brand: Ints
    variant: Ints
    level: Doubles
    appeal: Doubles
    published: Times
    by_kind: Ints
    companion: Ints
    n_brands: int


def make_catalogue(lexicon: Lexicon, n_items: int, rng: np.random.Generator) -> Catalogue:
    """Fill the shelves: every type gets its share of `n_items`, no title twice."""
    kind = _kinds(len(lexicon.types), n_items, rng)
    shelves = make_brands(lexicon, rng)
    brands = [brand for shelf in shelves.values() for brand in shelf]
    brand = np.array([_pick_brand(shelves, brands, lexicon.types[k].department, rng) for k in kind])
    house_style = np.array([b.style for b in brands])[brand]
    free_style = rng.integers(len(lexicon.styles), size=n_items)
    style = np.where(rng.random(n_items) < 0.6, house_style, free_style)
    variant = np.array([rng.integers(len(lexicon.types[k].variants)) for k in kind])
    tier = np.array([b.tier for b in brands])[brand]
    level = np.log(_TIER_FACTORS[tier]) + rng.normal(0, 0.15, n_items)
    published = _arrivals(n_items, rng)
    writer = Copywriter(lexicon, rng)
    wordings = [
        writer.write(lexicon.types[k], lexicon.styles[s], brands[b], v)
        for k, s, b, v in zip(kind, style, brand, variant, strict=True)
    ]
    by_kind = _group(kind, len(lexicon.types))
    return Catalogue(
        table=_table(lexicon, wordings, kind, [brands[b] for b in brand], level, published),
        kind=kind,
        style=style,
        brand=brand,
        variant=variant,
        level=level,
        appeal=rng.normal(0, 0.6, n_items),
        published=published,
        by_kind=by_kind,
        companion=_companions(lexicon, kind, style, by_kind, rng),
        n_brands=len(brands),
    )


def partner_types(lexicon: Lexicon) -> Ints:
    """(n_types, 3): indices of types that go with a type, padded with -1."""
    index = {kind.name: i for i, kind in enumerate(lexicon.types)}
    table = np.full((len(index), 3), -1, np.int64)
    for i, kind in enumerate(lexicon.types):
        partners = [index[name] for name in kind.partners]
        table[i, : len(partners)] = partners
    return table


def _kinds(n_types: int, n_items: int, rng: np.random.Generator) -> Ints:
    """(n_items,): rounds through all types in changing order, so old stock has them all."""
    rounds = [rng.permutation(n_types) for _ in range(-(-n_items // n_types))]
    return np.concatenate(rounds)[:n_items]


def _pick_brand(
    shelves: dict[str, list[Brand]], brands: list[Brand], department: str, rng: np.random.Generator
) -> int:
    shelf = shelves[department]
    return brands.index(shelf[int(rng.integers(len(shelf)))])


def _arrivals(n_items: int, rng: np.random.Generator) -> Times:
    n_new = int(n_items * _NEW_SHARE)
    old = YEAR_START - rng.uniform(1, _OLDEST_DAYS, n_items - n_new) * DAY_S
    new = YEAR_START + rng.uniform(0, 1, n_new) * (YEAR_END - YEAR_START)
    arrivals: Times = np.floor(np.sort(np.concatenate([old, new])))
    return arrivals


def _group(kind: Ints, n_types: int) -> Ints:
    sizes = np.bincount(kind, minlength=n_types)
    table = np.full((n_types, int(sizes.max())), -1, np.int64)
    for k in range(n_types):
        table[k, : sizes[k]] = np.flatnonzero(kind == k)
    return table


def _companions(
    lexicon: Lexicon, kind: Ints, style: Ints, by_kind: Ints, rng: np.random.Generator
) -> Ints:
    """Pick for each product one of a partner type, of the same style where there is one."""
    partners = partner_types(lexicon)
    chosen = np.full(len(kind), -1, np.int64)
    for i, k in enumerate(kind):
        options = partners[k][partners[k] >= 0]
        if len(options) == 0:
            continue
        shelf = by_kind[rng.choice(options)]
        shelf = shelf[shelf >= 0]
        alike = shelf[style[shelf] == style[i]]
        chosen[i] = rng.choice(alike if len(alike) else shelf)
    return chosen


def _table(
    lexicon: Lexicon,
    wordings: Sequence[Wording],
    kind: Ints,
    brands: Sequence[Brand],
    level: Doubles,
    published: Times,
) -> pl.DataFrame:
    types = [lexicon.types[k] for k in kind]
    middle = np.array([product.price for product in types])
    price = np.maximum(np.round(middle * np.exp(level)), 1) - 0.05
    return pl.DataFrame(
        {
            "item_id": [f"{lexicon.item_prefix}{i + 1:05d}" for i in range(len(types))],
            "title": [text.title for text in wordings],
            "description": [text.description for text in wordings],
            "categories": [[product.department, product.name] for product in types],
            "brand": [brand.name for brand in brands],
            "price": np.round(price, 2),
            "colour": [text.colour for text in wordings],
            "material": [text.material for text in wordings],
            "published": published,
        },
        schema_overrides={"colour": pl.String, "material": pl.String},
    )
