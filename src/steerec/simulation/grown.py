"""The worlds films and shop: a truth fitted on a whole log answers for people and items of it.

Semi-synthetic: people, items, attributes, order and popularity are real; what somebody would
click is what `network.py` made of the log. Some people and items are kept out of what heads learn
from and arrive during the run; at half time tastes mix with a stranger's, and prices change.
"""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Floats, History
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.split import blind
from steerec.simulation.network import Log, Network, NetworkConfig, fit_network
from steerec.simulation.visits import DAY_S, Habits, Returning, Visits
from steerec.simulation.world import World

LEAST_EVENTS = 10  # of an item, so that the truth can know it
NEW_USERS, NEW_ITEMS = 0.15, 0.10  # shares that arrive during the run
MOST_VISITORS = 3_000
RUN_DAYS = 27.0  # within which newcomers arrive; about what 20,000 slates take
OWN_TASTE = 0.8  # what is left of a taste after the drift; sqrt(1 - .8²) of a stranger's comes in
PRICE_CHANGE = 0.35  # standard deviation of the change of log prices at half time
PRICE_PULL = 0.8  # log-odds lost when a price doubles, divided by log 2
BEST_TEN = 0.5  # mean P(click | examined) of everybody's ten best items, which sets the offset
SEED = 2_024  # the world is the same for all seeds of a run
TITLE_CODES = 32


@dataclass(frozen=True)
class Source:
    """A log with its tables, ready for a truth to be fitted on.

    Attributes:
        events: user_id, item_id, timestamp, liked (bool).
        items, users: tables with item_id and user_id.
        item_attributes, user_attributes: make (n, d) float32 of rows of the tables.
        priced: whether the first attribute of an item is its log price.
        repeats: whether what somebody had before may be shown.
        timed: whether heads see the times of the log, or its order only.
    """

    name: str
    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    item_attributes: Callable[[pl.DataFrame], Floats]
    user_attributes: Callable[[pl.DataFrame], Floats]
    priced: bool
    repeats: bool
    timed: bool


def films(folder: Path, cache_dir: Path | None = None) -> World:
    """The world of ml-1m: users whose ratings have times, 4 and 5 stars as interest."""
    events = (
        pl.read_parquet(folder / "events.parquet")
        .filter(pl.col("timestamp").is_not_null())
        .select("user_id", "item_id", "timestamp", liked=pl.col("value") >= 4)
    )
    source = Source(
        name="films",
        events=events,
        items=pl.read_parquet(folder / "items.parquet"),
        users=pl.read_parquet(folder / "users.parquet"),
        item_attributes=_of_films,
        user_attributes=lambda users: one_hot(users, ("gender", "age_band", "occupation")),
        priced=False,
        repeats=False,
        timed=False,  # raters come once, in 2000; what is counted at the end of the log is noise
    )
    return grow(source, cache_dir)


def shop(folder: Path, cache_dir: Path | None = None) -> World:
    """The world of online-retail: purchases with a customer; goods with a title and a price."""
    items = pl.read_parquet(folder / "items.parquet").filter(
        pl.col("title").is_not_null()
        & pl.col("item_id").str.contains(r"^\d{5}")
        & pl.col("price").gt(0)
    )
    events = (
        pl.read_parquet(folder / "events.parquet")
        .filter((pl.col("event") == "purchase") & pl.col("user_id").is_not_null())
        .select("user_id", "item_id", "timestamp", liked=pl.lit(value=True))
    )
    source = Source(
        name="shop",
        events=events,
        items=items,
        users=pl.read_parquet(folder / "users.parquet"),
        item_attributes=_of_goods,
        user_attributes=lambda users: one_hot(users, ("country",)),
        priced=True,
        repeats=True,
        timed=True,
    )
    return grow(source, cache_dir)


def grow(
    source: Source, cache_dir: Path | None = None, config: NetworkConfig | None = None
) -> World:
    """Fit the truth, or take it from the cache, and build the world around it."""
    source = _known_well(source)
    everything = _dataset(source, source.events, source.users)
    about_items = source.item_attributes(everything.items)
    about_users = source.user_attributes(everything.users)
    liked = source.events["liked"].to_numpy()[everything.row].astype(np.float32)
    log = Log(everything.user_idx, everything.item_idx, liked, about_users, about_items)
    network = _truth(source, everything, log, config or NetworkConfig(), cache_dir)
    rng = np.random.default_rng(SEED)
    newcomer = rng.random(everything.n_users) < NEW_USERS
    new_item = rng.random(everything.n_items) < NEW_ITEMS
    data = _for_heads(source, everything, newcomer, new_item)
    visitors = np.sort(rng.permutation(everything.n_users)[:MOST_VISITORS])
    arrives = np.where(new_item, rng.random(everything.n_items), 0.0)
    starts = tuple(_start(data, str(everything.user_ids[u])) for u in visitors)
    return World(
        name=source.name,
        data=data,
        starts=starts,
        truth=_phases(network, log, visitors, rng, priced=source.priced),
        hidden=_had(starts, data.n_items, repeats=source.repeats),
        arrives=arrives,
        forgets=True,
        visits=_visits(newcomer[visitors]),
        start_s=float(data.time.max()) + DAY_S,  # NaN where heads see no times
    )


def _known_well(source: Source) -> Source:
    """Only items with enough events and the users who had them; tables likewise, in id order."""
    events = source.events.join(source.items.select("item_id"), on="item_id", how="semi")
    often = events.group_by("item_id").len().filter(pl.col("len") >= LEAST_EVENTS)
    events = events.join(often, on="item_id", how="semi", maintain_order="left")
    items = source.items.join(events, on="item_id", how="semi").sort("item_id")
    users = source.users.join(events, on="user_id", how="semi").sort("user_id")
    return replace(source, events=events, items=items, users=users)


def _dataset(source: Source, events: pl.DataFrame, users: pl.DataFrame) -> Dataset:
    kind = pl.when("liked").then(pl.lit("purchase" if source.priced else "click"))
    named = events.with_columns(event=kind.otherwise(pl.lit("dislike"))).drop("liked")
    data = build_dataset(named, source.items, users)
    return data if source.timed else blind(data)


def _for_heads(
    source: Source, everything: Dataset, newcomer: NDArray[np.bool_], new_item: NDArray[np.bool_]
) -> Dataset:
    """The log without those who arrive later; the catalogue knows all items."""
    hidden_users = pl.Series(everything.user_ids[newcomer].tolist(), dtype=pl.String)
    hidden_items = pl.Series(everything.item_ids[new_item].tolist(), dtype=pl.String)
    events = source.events.filter(
        pl.col("liked")
        & ~pl.col("user_id").is_in(hidden_users.implode())
        & ~pl.col("item_id").is_in(hidden_items.implode())
    )
    users = source.users.join(events, on="user_id", how="semi", maintain_order="left")
    return _dataset(source, events, users)


def _truth(
    source: Source, data: Dataset, log: Log, config: NetworkConfig, cache_dir: Path | None
) -> Network:
    """The fitted network; kept in a file named by what it was fitted on and how."""
    if cache_dir is None:
        return fit_network(log, config, np.random.default_rng(SEED))
    key = hashlib.sha256(f"{data.content_hash} {config} {log.liked.sum()}".encode()).hexdigest()
    file = cache_dir / "worlds" / f"{source.name}-{key[:16]}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            return Network({name: stored[name] for name in stored.files})
    network = fit_network(log, config, np.random.default_rng(SEED))
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **network.weights)  # type: ignore[arg-type]  # names are those of arrays
    return network


def _phases(
    network: Network,
    log: Log,
    visitors: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    priced: bool,
) -> tuple[Floats, Floats]:
    """P(click | examined) before and after the drift, (n_visitors, n_items) each."""
    users = network.users(log.user_attributes)
    strangers = users[rng.permutation(len(users))]
    moved = OWN_TASTE * users + np.sqrt(1 - OWN_TASTE**2) * strangers
    before = network.logits(users[visitors], network.items(log.item_attributes))
    attributes, pull = log.item_attributes, np.zeros(len(log.item_attributes), np.float32)
    if priced:
        change = rng.normal(0, PRICE_CHANGE, len(attributes)).astype(np.float32)
        attributes = attributes.copy()
        attributes[:, 0] += change
        pull = -np.float32(PRICE_PULL) * change
    after = network.logits(moved[visitors].astype(np.float32), network.items(attributes)) + pull
    offset = _offset(before)
    return _odds(before + offset), _odds(after + offset)


def _offset(logits: Floats) -> np.float32:
    """What makes the mean of everybody's ten best equal to BEST_TEN, by bisection."""
    best = -np.partition(-logits, 9, axis=1)[:, :10]
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _odds(best + middle).mean() < BEST_TEN else (low, middle)
    return np.float32(low)


def _odds(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _start(data: Dataset, user_id: str) -> History:
    row = data.user_index.get(user_id)
    return History.of([]) if row is None else data.history(row)


def _had(starts: tuple[History, ...], n_items: int, *, repeats: bool) -> NDArray[np.bool_]:
    hidden = np.zeros((len(starts), n_items), bool)
    if not repeats:
        for row, history in enumerate(starts):
            hidden[row, history.item_idx] = True
    return hidden


def _visits(newcomer: NDArray[np.bool_]) -> Callable[[int], Visits]:
    def begin(seed: int) -> Visits:
        rng = np.random.default_rng([seed, len(newcomer)])
        soon = rng.exponential(Habits().gap_days, len(newcomer))
        late = rng.uniform(0, RUN_DAYS, len(newcomer))
        return Returning.begin(np.where(newcomer, late, soon) * DAY_S, Habits(), seed)

    return begin


def one_hot(table: pl.DataFrame, columns: tuple[str, ...]) -> Floats:
    """(n, d) float32: a column for each value that occurs, and one that is always 1."""
    parts = [np.ones((len(table), 1), np.float32)]
    for name in columns:
        values = table[name].fill_null("").to_numpy()
        _, code = np.unique(values.astype(str), return_inverse=True)
        parts.append(np.eye(int(code.max()) + 1, dtype=np.float32)[code])
    return np.concatenate(parts, axis=1)


def _of_films(items: pl.DataFrame) -> Floats:
    """Age and its square, and genres."""
    age = (items["year"].fill_null(1990).to_numpy().astype(np.float32) - 1990) / 20
    genres = [list(g) if g is not None else [] for g in items["genres"]]
    names = sorted({g for some in genres for g in some})
    flags = np.array([[g in some for g in names] for some in genres], np.float32)
    return np.concatenate([np.stack([age, age**2], axis=1), flags], axis=1)


def _of_goods(items: pl.DataFrame) -> Floats:
    """Log price, and the words of the title hashed."""
    price = np.log(items["price"].to_numpy().astype(np.float32))
    words = np.zeros((len(items), TITLE_CODES), np.float32)
    for row, title in zip(words, items["title"], strict=True):
        for word in str(title).lower().split():
            row[zlib.crc32(word.encode()) % TITLE_CODES] = 1.0
    return np.concatenate([(price - price.mean())[:, None], words], axis=1)
