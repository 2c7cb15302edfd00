"""A built-in sample shop: generated products, people and a year of what they did.

Everything is invented here from our own words and a seed: no third-party data. People have
hobbies, styles, favourite brands and a price level; they come in sessions that walk from one
product to a related one, come back, complete and restock; seasons, trends, arrivals and changing
hobbies move the picture. The same seed gives the same tables, byte for byte.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from steerec.data.sample.catalogue import YEAR_END, YEAR_START, make_catalogue
from steerec.data.sample.dirt import soil_events, soil_items
from steerec.data.sample.events import live_a_year
from steerec.data.sample.lexicon import load_lexicon
from steerec.data.sample.shoppers import make_shoppers
from steerec.data.sample.visits import Mall

__all__ = ["YEAR_END", "YEAR_START", "SampleShop", "sample_shop", "sample_shop_zh", "write_csv"]


@dataclass(frozen=True)
class SampleShop:
    """A shop's three tables.

    Attributes:
        events: user_id, item_id, event, value, timestamp (Unix seconds), basket; oldest first.
            Kinds: view, click, cart, purchase (with basket), rating (value 1 to 5), dislike.
        items: item_id, title, description, categories (two levels), brand, price, colour,
            material, published (Unix seconds), in order of arrival.
        users: user_id, gender, age_band, city, joined (Unix seconds).
    """

    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame


@dataclass(frozen=True)
class _Sizes:
    n_items: int
    n_users: int
    n_events: int


def sample_shop(
    seed: int = 7,
    *,
    n_items: int = 1500,
    n_users: int = 3000,
    n_events: int = 100_000,
    dirty: bool = True,
) -> SampleShop:
    """Make the English sample shop: one year, 2025, in the tables that every reader yields.

    Args:
        n_events: events before dirt; the result has this many or a few fewer.
        dirty: mix in what real exports suffer from (shares in `steerec.data.sample.dirt`).
    Raises:
        ValueError: if a size is below what a shop needs.
    """
    return _make("words.toml", seed, _Sizes(n_items, n_users, n_events), dirty=dirty)


def sample_shop_zh(seed: int = 7, *, dirty: bool = True) -> SampleShop:
    """Make the small Chinese shop: 200 products, 300 people, about 6,000 events."""
    return _make("words_zh.toml", seed, _Sizes(200, 300, 6_000), dirty=dirty)


def write_csv(shop: SampleShop, folder: Path) -> None:
    """Write events.csv, items.csv and users.csv into `folder` (made if missing).

    Lists are joined with `|`, as the readers take them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shop.events.write_csv(folder / "events.csv")
    shop.items.with_columns(pl.col("categories").list.join("|")).write_csv(folder / "items.csv")
    shop.users.write_csv(folder / "users.csv")


def _make(words: str, seed: int, sizes: _Sizes, *, dirty: bool) -> SampleShop:
    lexicon = load_lexicon(words)
    if sizes.n_items < 2 * len(lexicon.types) or sizes.n_users < 1 or sizes.n_events < 1:
        raise ValueError(
            f"got {sizes}: a sample shop needs at least {2 * len(lexicon.types)} items "
            "(two of each type), one user and one event"
        )
    rng = np.random.default_rng(seed)
    catalogue = make_catalogue(lexicon, sizes.n_items, rng)
    shoppers = make_shoppers(lexicon, catalogue, sizes.n_users, rng)
    events = live_a_year(Mall(lexicon, catalogue, shoppers, rng), sizes.n_events)
    items = catalogue.table
    if dirty:
        events, items = soil_events(events, rng), soil_items(items, rng)
    return SampleShop(events, items, shoppers.table)
