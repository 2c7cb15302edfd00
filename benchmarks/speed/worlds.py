"""Snapshots to serve, generated or of real sets, kept under `cache` so that each is fitted once.

A generated shop takes its curves and weights from the same kind of shop with 2,000 items, which
says little of quality and all of speed, and saves the held-out round of every head.
"""

import logging
import os
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl

from steerec.data.dataset import Dataset, build_dataset
from steerec.data.rules import CleanConfig
from steerec.encoders import EncoderConfig
from steerec.engine.fused import Fused, FusedConfig
from steerec.engine.intake import Source, take_in
from steerec.engine.model import FitConfig, Model, fit
from steerec.engine.phi import Phi
from steerec.engine.snapshot import load_snapshot, save_snapshot
from steerec.engine.texts import encode_items, with_vectors
from steerec.heads import load_head
from steerec.heads.contract import Head

log = logging.getLogger(__name__)

CACHE = Path(__file__).parent / "cache"
NOW = 1.75e9
TASTES, OWN_TASTES = 40, 4  # groups of items, and how many of them a user is fond of
FOND = 0.7  # share of a user's events that lie in their own tastes
YEAR_S = 3.15e7


def snapshot_of(world: str, *, seed: int = 0, data_dir: Path | None = None) -> Path:
    """The folder of a fitted world, `100k` or another number of items and users, or a set by name.

    Fitted now if it is not there; a world of 100k takes some minutes.
    """
    folder = CACHE / f"{world}-{seed}"
    if not (folder / "manifest.json").is_file():
        rng = np.random.default_rng(seed)
        data = shop(number_of(world), rng) if world[0].isdigit() else _taken_in(world, data_dir)
        encoder = EncoderConfig(encoder="hashing")
        data = with_vectors(data, encode_items(data.items, encoder, cache_dir=CACHE))
        small = data.n_items <= 10_000
        model = fit(data, FitConfig(), rng) if small else _like_the_small_one(data, seed)
        save_snapshot(model, folder, now=NOW)
    return folder


def _like_the_small_one(data: Dataset, seed: int) -> Model:
    """Heads fitted on these data; curves and weights of the world of 2,000 items."""
    small, rng = load_snapshot(snapshot_of("2k", seed=seed)), np.random.default_rng(seed)
    heads: dict[str, Head] = {}
    for name in small.heads:
        began = time.perf_counter()
        kind = load_head(name)
        config = getattr(import_module(kind.__module__), f"{kind.__name__}Config")
        heads[name] = kind.fit(data, config(), rng)
        log.info("head=%s seconds=%.0f", name, time.perf_counter() - began)
    phi = Phi.fit(data, small.phi.config)
    model = Model(data, heads, small.calibrations, phi, small.strategy, small.repeats)
    blend = lambda histories, now: model.scores(histories, None, now)[2]  # noqa: E731
    lessons = FusedConfig(lessons=200)
    return replace(model, fused=Fused.fit(data, blend, lessons, rng, repeats=model.repeats))


def shop(size: int, rng: np.random.Generator) -> Dataset:
    """So many items and as many users, 5 to 25 events each, long tails, titles of words."""
    taste = rng.integers(0, TASTES, size)
    popularity = 1 / (1 + rng.permutation(size)) ** 0.8
    n_events = rng.integers(5, 26, size)
    user = np.repeat(np.arange(size), n_events)
    own = rng.integers(0, TASTES, (size, OWN_TASTES))
    wanted = own[user, rng.integers(0, OWN_TASTES, len(user))]
    item = _drawn(popularity, len(user), rng)
    fond = rng.random(len(user)) < FOND
    for number in range(TASTES):
        members, asked = np.flatnonzero(taste == number), np.flatnonzero(fond & (wanted == number))
        item[asked] = members[_drawn(popularity[members], len(asked), rng)]
    events = pl.DataFrame(
        {
            "user_id": np.char.add("u", user.astype(str)),
            "item_id": np.char.add("i", item.astype(str)),
            "timestamp": NOW - rng.random(len(user)) * YEAR_S,
        }
    )
    return build_dataset(events.sort("user_id", "timestamp"), _titled(taste, rng))


def _drawn(weight: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) places drawn in proportion to the weight."""
    upto = np.cumsum(weight)
    return np.minimum(np.searchsorted(upto, rng.random(n) * upto[-1]), len(weight) - 1)


def _titled(taste: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    words = np.array([f"{a}{b}" for a in "bdfgklmnprst" for b in ("ana", "elo", "iru", "otu")])
    more = words[rng.integers(0, len(words), (len(taste), 3))]
    titles = [" ".join([words[t], *rest]) for t, rest in zip(taste, more, strict=True)]
    return pl.DataFrame({"item_id": [f"i{i}" for i in range(len(taste))], "title": titles})


def number_of(world: str) -> int:
    return int(world[:-1]) * 1_000 if world.endswith("k") else int(world)


def _taken_in(name: str, data_dir: Path | None) -> Dataset:
    return take_in(
        Source(data=name, cache_dir=CACHE, data_dir=data_dir), CleanConfig(), now=NOW
    ).data


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    given = os.environ.get("STEEREC_DATA_DIR")
    for named in sys.argv[1:]:
        print(snapshot_of(named, data_dir=Path(given) if given else None))
