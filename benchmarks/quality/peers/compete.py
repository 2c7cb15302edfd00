"""One peer on one exported split: fit, list ten items a case. Runs in the peers' environment.

It sees training events and histories only; targets never leave steerec's side. Uses nothing of
steerec. Each peer has the settings its authors give in their own examples; peers.toml says which.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

N = 10
BLOCK = 1_000


@dataclass(frozen=True)
class Job:
    """Training events, and the history of each case.

    Attributes:
        train: (n_users, n_items) float32, 1 where the user has the item.
        history: (n_cases, n_items) float32, the same for the events before each case.
        repeats: whether items of the history are ranked.
    """

    train: sparse.csr_matrix
    history: sparse.csr_matrix
    repeats: bool

    @classmethod
    def read(cls, path: Path) -> "Job":
        with np.load(path) as arrays:
            n_users, n_items = int(arrays["n_users"]), int(arrays["n_items"])
            offsets = arrays["history_offsets"]
            rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            return cls(
                _binary(arrays["user_idx"], arrays["item_idx"], (n_users, n_items)),
                _binary(rows, arrays["history_items"], (len(offsets) - 1, n_items)),
                bool(arrays["repeats"]),
            )


def _binary(rows: np.ndarray, items: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    table = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, items)), shape=shape)
    table.sum_duplicates()
    table.data[:] = 1
    return table


Lists = np.ndarray  # (n_cases, N) int32, -1 where there are fewer
Peer = Callable[[Job], Callable[[], Lists]]  # fits, and gives what makes the lists


def _implicit_lists(model: Any, history: sparse.csr_matrix, job: Job, **options: bool) -> Lists:
    lists = np.full((history.shape[0], N), -1, np.int32)
    for start in range(0, len(lists), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(lists)))
        found, score = model.recommend(
            np.zeros(len(rows), np.int64),
            history[rows],
            N=N,
            filter_already_liked_items=not job.repeats,
            **options,
        )
        # implicit fills short lists with items of the lowest float, or with -1
        lists[rows] = np.where(score > -1e30, found, -1)
    return lists


def implicit_cosine(job: Job) -> Callable[[], Lists]:
    from implicit.nearest_neighbours import CosineRecommender

    model = CosineRecommender()
    model.fit(job.train, show_progress=False)
    return lambda: _implicit_lists(model, job.history, job)


def implicit_bm25(job: Job) -> Callable[[], Lists]:
    from implicit.nearest_neighbours import BM25Recommender

    model = BM25Recommender(B=0.2)
    model.fit(job.train, show_progress=False)
    return lambda: _implicit_lists(model, job.history, job)


def implicit_als_movielens(job: Job) -> Callable[[], Lists]:
    from implicit.als import AlternatingLeastSquares

    return _weighted_als(job, AlternatingLeastSquares(random_state=0), k1=100, b=0.9, times=5)


def implicit_als_tutorial(job: Job) -> Callable[[], Lists]:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, regularization=0.05, alpha=2.0, random_state=0)
    return _weighted_als(job, model, k1=100, b=0.8, times=1)


def implicit_als_plain(job: Job) -> Callable[[], Lists]:
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=128, random_state=0)
    model.fit(job.train, show_progress=False)
    return lambda: _implicit_lists(model, job.history, job, recalculate_user=True)


def _weighted_als(
    job: Job, model: Any, *, k1: float, b: float, times: float
) -> Callable[[], Lists]:
    from implicit.nearest_neighbours import bm25_weight

    # as in the examples, items are the documents and users the words
    weighted = (bm25_weight(job.train.T, K1=k1, B=b).T * times).tocsr().astype(np.float32)
    model.fit(weighted, show_progress=False)
    history = _weighted_history(job, k1=k1, b=b, times=times)
    return lambda: _implicit_lists(model, history, job, recalculate_user=True)


def _weighted_history(job: Job, *, k1: float, b: float, times: float) -> sparse.csr_matrix:
    """The BM25 weights of the histories, with the items' counts in training."""
    count = np.bincount(job.train.indices, minlength=n_items(job))
    norm = (1 - b) + b * count / count.mean()
    own = np.diff(job.history.indptr)
    rarity = np.log(n_items(job)) - np.log1p(own)
    weighted = job.history.copy()
    weight = (k1 + 1) / (k1 * norm[weighted.indices] + 1) * np.repeat(rarity, own) * times
    weighted.data = weight.astype(np.float32)
    return weighted


def n_items(job: Job) -> int:
    return int(job.train.shape[1])


def _lenskit(job: Job, scorer: Any) -> Any:
    """Train, and give all items as LensKit's list of candidates."""
    import pandas as pd
    from lenskit.data import ItemList, from_interactions_df
    from lenskit.training import TrainingOptions

    table = job.train.tocoo()
    frame = pd.DataFrame({"user_id": table.row, "item_id": table.col})
    data = from_interactions_df(frame, items=np.arange(n_items(job)), class_name="click")
    scorer.train(data, TrainingOptions(rng=0))
    return ItemList(item_nums=np.arange(n_items(job)), vocabulary=data.items)


def _lenskit_lists(job: Job, scorer: Any, everything: Any) -> Lists:
    """Ask the scorer for one case after the other, as its pipelines do."""
    from lenskit.data import ItemList, RecQuery

    rows = []
    for case in range(job.history.shape[0]):
        own = job.history.indices[job.history.indptr[case] : job.history.indptr[case + 1]]
        known = ItemList(item_nums=own, vocabulary=everything.vocabulary)
        scores = scorer(RecQuery(user_items=known), everything).scores()
        rows.append(_top(np.array(scores, np.float32), own, job))
    return np.stack(rows)


def _top(scores: np.ndarray, own: np.ndarray, job: Job) -> np.ndarray:
    scores[np.isnan(scores)] = -np.inf
    if not job.repeats:
        scores[own] = -np.inf
    part = np.argpartition(-scores, N)[:N]
    best = part[np.argsort(-scores[part], kind="stable")]
    return np.where(np.isneginf(scores[best]), -1, best).astype(np.int32)


def lenskit_item_knn(job: Job) -> Callable[[], Lists]:
    from lenskit.knn import ItemKNNScorer

    scorer = ItemKNNScorer(max_nbrs=20, feedback="implicit")
    everything = _lenskit(job, scorer)
    return lambda: _lenskit_lists(job, scorer, everything)


def lenskit_ease(job: Job) -> Callable[[], Lists]:
    from lenskit.knn import EASEScorer

    scorer = EASEScorer(regularization=500)
    _lenskit(job, scorer)

    def lists() -> Lists:
        # A call for one case multiplies the whole matrix: an hour for 22,000 cases of 12,000
        # items. A block of cases at a time gives the same scores.
        rows = []
        for start in range(0, job.history.shape[0], BLOCK):
            block = job.history[start : start + BLOCK]
            owned = np.split(block.indices, block.indptr[1:-1])
            scores = block @ scorer.weights
            rows += [_top(row, own, job) for row, own in zip(scores, owned, strict=True)]
        return np.stack(rows)

    return lists


def lenskit_implicit_mf(job: Job) -> Callable[[], Lists]:
    from lenskit.als import ImplicitMFScorer

    scorer = ImplicitMFScorer(embedding_size=50)
    everything = _lenskit(job, scorer)
    return lambda: _lenskit_lists(job, scorer, everything)


PEERS: dict[str, Peer] = {
    "implicit-cosine": implicit_cosine,
    "implicit-bm25": implicit_bm25,
    "implicit-als-movielens": implicit_als_movielens,
    "implicit-als-tutorial": implicit_als_tutorial,
    "implicit-als-plain": implicit_als_plain,
    "lenskit-item-knn": lenskit_item_knn,
    "lenskit-ease": lenskit_ease,
    "lenskit-implicit-mf": lenskit_implicit_mf,
}


MODULES = {
    "implicit": ("implicit.als", "implicit.nearest_neighbours"),
    "lenskit": ("pandas", "lenskit.data", "lenskit.als", "lenskit.knn.ease", "lenskit.knn.item"),
}


def compete(name: str, job: Job) -> tuple[Lists, dict[str, Any]]:
    """The lists of one peer, with seconds and the peak memory of this process."""
    library = name.split("-")[0]
    for module in MODULES[library]:  # so that seconds are of the work, not of the import
        import_module(module)
    began = time.perf_counter()
    recommend = PEERS[name](job)
    fitted = time.perf_counter()
    lists = recommend()
    return lists, {
        "version": version(library),
        "fit": fitted - began,
        "evaluate": time.perf_counter() - fitted,
        "peak_rss_mib": peak_rss_mib(),
    }


def peak_rss_mib() -> float:
    """Most memory of this process; Linux counts the parent's into ru_maxrss, not into VmHWM."""
    status = Path("/proc/self/status")
    if status.exists():
        own = status.read_text("ascii", "replace").partition("VmHWM:")[2].split()
        if own:
            return float(own[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--split", type=Path, required=True, help="npz of export_split")
    parser.add_argument("--out", type=Path, required=True, help="npz for the lists")
    options = parser.parse_args()
    lists, cost = compete(options.peer, Job.read(options.split))
    np.savez(options.out, lists=lists)
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
