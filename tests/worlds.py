"""Small generated shops whose structure is known, for any test that needs data."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import History, Indices
from steerec.data.dataset import Dataset, build_dataset

START = 1_700_000_000.0  # Unix seconds of the first event
DAY = 86_400.0
CLUSTERS = (
    ("tea", "kettle leaf cup steep"),
    ("garden", "soil seed spade bloom"),
    ("ink", "pen paper letter blot"),
    ("sail", "rope mast harbour wave"),
    ("bread", "flour oven crust yeast"),
    ("wool", "yarn needle scarf knit"),
)


@dataclass(frozen=True)
class World:
    """A generated shop.

    Attributes:
        data: events, items with texts and vectors, users.
        cluster: (n_items,) the cluster of each item; an item's chain goes to the next one of it.
        never_sold: indices of items in the catalogue that no event names.
    """

    data: Dataset
    cluster: NDArray[np.int64]
    never_sold: Indices

    @property
    def now(self) -> float:
        """A day after the last event."""
        return float(self.data.time.max()) + DAY


@dataclass(frozen=True)
class HeldOut:
    """Each user's last event set aside.

    Attributes:
        train: the events before.
        target: (n_users,) item of the last event, in the order of `histories`.
    """

    train: Dataset
    histories: list[History]
    target: Indices


def shop(*, n_users: int = 150, n_items: int = 96, events_each: int = 24, seed: int = 0) -> World:
    """Users with a favourite cluster who follow chains, buy again, and now and then wander.

    Their town and their friends tell the cluster, but not always.
    Next event: 50 % the next item of the chain, 20 % an item bought before, 22 % any item of the
    favourite cluster (its first items far more often), 8 % any item. The last item of each
    cluster is never sold. A third of the events continue the basket before them.
    """
    rng = np.random.default_rng(seed)
    cluster = np.arange(n_items) % len(CLUSTERS)
    members = [np.flatnonzero(cluster == c) for c in range(len(CLUSTERS))]
    never_sold = np.array([m[-1] for m in members], np.int32)
    sold = [m[:-1] for m in members]
    rows = [
        row
        for user in range(n_users)
        for row in _visits(user, sold, int(rng.integers(8, events_each * 2 - 8)), rng)
    ]
    columns = ["user_id", "item_id", "event", "timestamp", "basket"]
    events = pl.DataFrame(rows, schema=columns, orient="row")
    items = pl.DataFrame(
        {
            "item_id": [f"i{i:04d}" for i in range(n_items)],
            "title": [_title(i, cluster[i]) for i in range(n_items)],
            "categories": [[CLUSTERS[c][0]] for c in cluster],
        }
    )
    data = build_dataset(events, items, _people(n_users), social=_friendships(n_users))
    data = data.with_vectors(_vectors(cluster))
    return World(data, cluster, never_sold)


def hold_out(data: Dataset) -> HeldOut:
    """Set each user's last event aside; every user needs two events."""
    last = data.starts[1:] - 1
    keep = np.ones(data.n_events, bool)
    keep[last] = False
    train = data.take(keep)
    return HeldOut(train, [train.history(u) for u in range(data.n_users)], data.item_idx[last])


def _people(n_users):
    """Towns are favourite clusters, but for every tenth user; ages tell nothing."""
    town = [(u + (u % 10 == 0)) % len(CLUSTERS) for u in range(n_users)]
    return pl.DataFrame(
        {
            "user_id": [f"u{u:04d}" for u in range(n_users)],
            "town": [CLUSTERS[t][0] for t in town],
            "age": [20 + (7 * u) % 50 for u in range(n_users)],
        }
    )


def _friendships(n_users):
    """Each user knows the next two of the same favourite cluster, and one of another."""
    steps = (len(CLUSTERS), 2 * len(CLUSTERS), len(CLUSTERS) + 1)
    pairs = [(u, u + step) for u in range(n_users) for step in steps if u + step < n_users]
    names = [(f"u{one:04d}", f"u{other:04d}") for one, other in pairs]
    return pl.DataFrame(names, schema=["user_id", "friend_id"], orient="row")


def _visits(user, sold, n_events, rng):
    favourite = sold[user % len(sold)]
    # Some items are everybody's entry to a cluster, so popularity means something too.
    appeal = 1.0 / (1.0 + np.arange(len(favourite)))
    appeal /= appeal.sum()
    bought, time, basket = [int(rng.choice(favourite, p=appeal))], START, 0
    time += float(rng.uniform(0, 60 * DAY))
    rows = []
    for number in range(n_events):
        if number and rng.random() > 1 / 3:
            basket += 1
            time += float(rng.exponential(2 * DAY))
        time += 60.0
        kind = "purchase" if rng.random() < 0.4 else "view"
        name = f"b{user}-{basket}"
        rows.append((f"u{user:04d}", f"i{bought[-1]:04d}", kind, time, name))
        bought.append(_next(bought, favourite, sold, appeal, rng))
    return rows


def _next(bought, favourite, sold, appeal, rng):
    dice = rng.random()
    if dice < 0.5:
        chain = next(c for c in sold if bought[-1] in c)
        return int(chain[(np.flatnonzero(chain == bought[-1])[0] + 1) % len(chain)])
    if dice < 0.7:
        return int(rng.choice(bought))
    if dice < 0.92:
        return int(rng.choice(favourite, p=appeal))
    return int(rng.choice(np.concatenate(sold)))


def _title(item, cluster):
    name, words = CLUSTERS[cluster]
    words = words.split()
    return f"{name} {words[item % 4]} {words[(item // 4) % 4]} no {item}"


def _vectors(cluster):
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(len(CLUSTERS), 16))
    vectors = centres[cluster] + 0.5 * rng.normal(size=(len(cluster), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
