"""The dirt of real exports, mixed into the sample on purpose for the cleaning report to find."""

import numpy as np
import polars as pl

from steerec.data.sample.catalogue import DAY_S, YEAR_START

# Shares of the event rows.
EXACT_DUPLICATES = 0.003
NEAR_DUPLICATES = 0.003  # the same event once more, a second later
MILLISECOND_TIMES = 0.002
FUTURE_TIMES = 0.0005
MISSING_USERS = 0.0008
MISSING_ITEMS = 0.0004
# A bot calls up this many products within one hour; only in shops that are not drowned by it.
BOT_VIEWS = 1_900
BOT_USER = "u90001"
BOT_FROM_EVENTS = 40_000
FUTURE_YEARS = 40
# Shares of the catalogue's rows.
MISSPELLED_CATEGORIES = 0.015
HTML_ENTITIES = 0.03
ABSURD_PRICES = (0.01, 99_999.99)  # of one product each


def soil_events(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Repeat, shift and blank a few rows and let a bot in; rows stay in true order of time."""
    n = len(events)
    events = events.with_columns(at=pl.col("timestamp"))
    exact = events[_some(n, EXACT_DUPLICATES, rng)]
    near = events[_some(n, NEAR_DUPLICATES, rng)].with_columns(pl.col("timestamp", "at") + 1.0)
    parts = [_spoil(events, rng), exact, near]
    if n >= BOT_FROM_EVENTS:
        parts.append(_bot(events["item_id"], rng))
    rows = pl.concat(parts, how="diagonal_relaxed")
    return rows.sort("at", maintain_order=True).drop("at").select(events.columns[:-1])


def soil_items(items: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Misspell categories, leave HTML entities in texts, and set two absurd prices."""
    n = len(items)
    categories = items["categories"].to_list()
    for place, i in enumerate(_some(n, MISSPELLED_CATEGORIES, rng)):
        categories[i] = [_misspell(categories[i][0], place), *categories[i][1:]]
    texts = items["description"].to_list()
    for i in _some(n, HTML_ENTITIES, rng):
        texts[i] = texts[i].replace("'", "&#39;").replace(" and ", " &amp; ") + "&nbsp;"
    prices = items["price"].to_list()
    for i, price in zip(
        rng.choice(n, len(ABSURD_PRICES), replace=False), ABSURD_PRICES, strict=True
    ):
        prices[i] = price
    return items.with_columns(
        pl.Series("categories", categories),
        pl.Series("description", texts),
        pl.Series("price", prices),
    )


def _some(n: int, share: float, rng: np.random.Generator) -> list[int]:
    """At least one of `n` rows, `share` of them."""
    return [int(i) for i in np.sort(rng.choice(n, max(1, round(n * share)), replace=False))]


def _spoil(events: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    n = len(events)
    shares = (MILLISECOND_TIMES, FUTURE_TIMES, MISSING_USERS, MISSING_ITEMS)
    milli, future, user, item = (pl.lit(_mask(n, share, rng)) for share in shares)
    time = pl.col("timestamp")
    ahead = time + FUTURE_YEARS * 365.25 * DAY_S
    return events.with_columns(
        timestamp=pl.when(milli).then(time * 1000).when(future).then(ahead).otherwise(time),
        user_id=pl.when(user).then(None).otherwise(pl.col("user_id")),
        item_id=pl.when(item).then(None).otherwise(pl.col("item_id")),
    )


def _mask(n: int, share: float, rng: np.random.Generator) -> pl.Series:
    mask = np.zeros(n, np.bool_)
    mask[_some(n, share, rng)] = True
    return pl.Series(mask)


def _bot(item_ids: pl.Series, rng: np.random.Generator) -> pl.DataFrame:
    """A visitor that calls up random products every second or two for most of an hour."""
    items = item_ids.unique(maintain_order=True)
    time = YEAR_START + 200 * DAY_S + np.cumsum(rng.uniform(1.2, 1.8, BOT_VIEWS)).round(1)
    return pl.DataFrame(
        {
            "user_id": [BOT_USER] * BOT_VIEWS,
            "item_id": items[rng.integers(len(items), size=BOT_VIEWS).tolist()],
            "event": ["view"] * BOT_VIEWS,
            "timestamp": time,
            "at": time,
        }
    )


def _misspell(name: str, place: int) -> str:
    """In turn: capitals, stray blanks, lower case, and in long words two letters swapped."""
    at = len(name) // 2
    swapped = name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :]
    ways = (swapped, name.upper(), f" {name}  ", name.lower())
    return ways[place % 4] if len(name) > 7 else ways[1 + place % 3]
