"""What P6 needs of a world: per visitor a pool with scores of real heads, and the truth."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds

from steerec.engine.model import FitConfig, Model, fit
from steerec.simulation import grown, jester
from steerec.simulation.world import World

HEADS = {
    "jester": ("trending", "ease", "als", "item_knn"),
    "films": ("trending", "transitions", "ease", "als", "item_knn"),
    "shop": ("trending", "repeat", "transitions", "ease", "item_knn"),
}
SETS = {"jester": "jester", "films": "ml-1m", "shop": "online-retail"}
POOL = 100  # of films and shop: the fitted blend's best; jester: every joke not yet known
CLUSTERS = 12
SEED = 7


@dataclass(frozen=True)
class Table:
    """One row per visitor.

    Attributes:
        z: (n_visitors, pool, heads) float16; phi: (n_visitors, features).
        w: (n_visitors, heads), the fitted blend.
        allowed: (n_visitors, pool), what may be shown.
        wanted: (n_visitors, pool), P(click | examined).
        cluster: (n_visitors, pool).
        data_hash: of the log that the heads were fitted on.
    """

    z: Any
    phi: Any
    w: Any
    allowed: Any
    wanted: Any
    cluster: Any
    data_hash: str


def load_table(name: str, data_dir: Path, cache_dir: Path) -> Table:
    """The world's table, from the cache if it was made before."""
    path = cache_dir / f"ope-{name}.npz"
    if path.exists():
        with np.load(path) as arrays:
            return Table(**{**arrays, "data_hash": str(arrays["data_hash"])})
    if name == "coat":
        return coat_table(data_dir / "coat")
    table = make_table(load_world(name, data_dir, cache_dir), HEADS[name])
    cache_dir.mkdir(parents=True, exist_ok=True)
    np.savez(path, **vars(table))
    return table


def load_world(name: str, data_dir: Path, cache_dir: Path) -> World:
    folder = data_dir / SETS[name]
    if name == "jester":
        return jester.jester(folder)
    return {"films": grown.films, "shop": grown.shop}[name](folder, cache_dir)


def make_table(world: World, heads: tuple[str, ...]) -> Table:
    """Fit the heads on the world's log and score every visitor once, at the start of the run."""
    model = fit(world.data, FitConfig(heads=heads), np.random.default_rng(SEED))
    cluster_of = clusters(world)
    allowed = ~world.hidden & (world.arrives <= 0)
    rows = [scored(model, world, allowed, cluster_of, s) for s in range(0, world.n_visitors, 200)]
    whole = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    return Table(*whole, data_hash=world.data.content_hash)


def clusters(world: World) -> np.ndarray:
    """(n_items,): k-means of item vectors, which are singular vectors of the log."""
    matrix = world.data.matrix().astype(np.float64)
    _, s, vt = svds(matrix, k=8, rng=np.random.default_rng(SEED))
    vectors = (vt.T * s) / np.maximum(np.linalg.norm(vt.T * s, axis=1, keepdims=True), 1e-9)
    return kmeans2(vectors, CLUSTERS, minit="++", rng=np.random.default_rng(SEED))[1]


def scored(
    model: Model, world: World, allowed: np.ndarray, cluster_of: np.ndarray, start: int
) -> tuple[np.ndarray, ...]:
    cut = np.s_[start : start + 200]
    histories = world.starts[cut]
    now = np.full(len(histories), world.start_s)
    _, z, blend = model.scores(histories, None, now)
    blend = np.where(allowed[cut], blend, -np.inf)
    pool = np.argsort(-blend, axis=1, kind="stable")[:, :POOL]
    row = np.arange(len(histories))[:, None]
    length = np.array([len(h) for h in histories])
    phi = np.stack([np.ones(len(length)), np.minimum(np.log1p(length) / 3, 2)], axis=1)
    if np.ptp(length) == 0:
        phi = phi[:, :1]
    return (
        np.moveaxis(z, 0, -1)[row, pool].astype(np.float16),
        phi,
        model.weights(histories, now),
        np.isfinite(blend[row, pool]),
        world.interest(0.0)[cut][row, pool],
        cluster_of[pool],
    )


def coat_table(folder: Path) -> Table:
    """coat: each user's 16 coats that were shown at random; a rating of 4 or 5 is a click."""
    events = pl.read_parquet(folder / "events.parquet").sort("user_id", "item_id")
    users, items = (
        pl.read_parquet(folder / f"{n}.parquet").sort(f"{n[:-1]}_id") for n in ("users", "items")
    )
    order = [{v: i for i, v in enumerate(t.to_series(0))} for t in (users, items)]
    row, column = (
        np.array([order[i][v] for v in events[c]]) for i, c in enumerate(("user_id", "item_id"))
    )
    rating, told = events["value"].to_numpy(), (events["split"] == "train_selfselected").to_numpy()
    shape = (len(users), len(items))
    seen, off = np.zeros(shape), np.zeros(shape)
    seen[row[told], column[told]] = 1
    off[row[told], column[told]] = rating[told] - rating[told].mean()
    popular = np.broadcast_to(off.sum(axis=0) / (seen.sum(axis=0) + 5), shape)
    u, s, vt = svds((off - popular) * seen, k=8, rng=np.random.default_rng(SEED))
    alike = users.select("gender", "age").rows()
    same = np.array([[a == b for b in alike] for a in alike], float)
    segment = (same @ off) / (same @ seen + 5)
    pool = column[~told].reshape(len(users), -1)
    who = np.arange(len(users))[:, None]
    z = np.stack([popular[who, pool], ((u * s) @ vt)[who, pool], segment[who, pool]], axis=-1)
    kinds = items["jackettype"].rank("dense").to_numpy().astype(int) - 1
    return Table(
        z=(z / z.std(axis=(0, 1))).astype(np.float16),
        phi=np.ones((len(users), 1)),
        w=np.tile([0.5, 0.5, 0.5], (len(users), 1)),
        allowed=np.ones(pool.shape, bool),
        wanted=(rating[~told] >= 4).reshape(pool.shape).astype(float),
        cluster=kinds[pool],
        data_hash=hashlib.sha256(rating.tobytes()).hexdigest(),
    )


def digest(table: Table) -> str:
    """A hash of everything an estimate depends on."""
    found = hashlib.sha256(table.data_hash.encode())
    for name in ("z", "phi", "w", "allowed", "wanted", "cluster"):
        found.update(np.ascontiguousarray(getattr(table, name)).tobytes())
    return found.hexdigest()
