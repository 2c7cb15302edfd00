"""Ranking and list metrics over many requests at once, each with definition, formula and source.

Rank metrics read the rank of each target; a request with several targets (a basket) lists them
with the same number in `group`. List metrics read the shown lists, (n, k) int32, -1 where empty.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, Indices
from steerec.data.health_facts import gini
from steerec.evaluation.ranks import Bools, Values


def ndcg(rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None) -> Values:
    """Discounted gain of the targets in the first `k` places over that of the ideal list.

    sum over targets with rank ≤ k of 1 / log2(1 + rank), divided by the sum of 1 / log2(1 + j)
    for j = 1 … min(k, number of targets); with one target, 1 / log2(1 + rank).

    Args:
        rank: (m,), from 1; halves where scores tie.
        group: (m,) request of each target, 0 … n - 1, each at least once; None: one target each.
    Returns:
        (n,) in [0, 1]; ties at the edge never lift it above 1.
    Source: Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques.
    """
    gain = np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))])
    share: Values = _sums(gain, group) / ideal[np.minimum(k, _sizes(rank, group))]
    return np.minimum(share, 1.0)


def recall(rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None) -> Values:
    """Share of the targets in the first `k` places, over min(k, number of targets).

    Returns:
        (n,) in [0, 1]; with one target equal to `hit_rate`.
    Source: Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, eq. 8.2,
        with the largest reachable number of hits below the line.
    """
    return np.minimum(_sums(rank <= k, group) / np.minimum(k, _sizes(rank, group)), 1.0)


def hit_rate(rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None) -> Values:
    """1 where at least one target is in the first `k` places, else 0.

    Source: Deshpande and Karypis 2004, Item-based top-N recommendation algorithms, sect. 6.2.
    """
    return np.minimum(_sums(rank <= k, group), 1.0)


def precision(rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None) -> Values:
    """Share of the first `k` places that hold a target: hits / k.

    Source: Manning, Raghavan and Schütze 2008, eq. 8.1, cut at k (their sect. 8.4).
    """
    return np.minimum(_sums(rank <= k, group), k) / k


def mrr(rank: Values, k: int | None = None, *, group: NDArray[np.integer] | None = None) -> Values:
    """1 / rank of the best placed target; 0 where it lies beyond `k` (None: no limit).

    Source: Voorhees 1999, The TREC-8 question answering track report.
    """
    best = np.full(_n_groups(rank, group), np.inf)
    np.minimum.at(best, _group(rank, group), rank)
    return np.where(best <= (np.inf if k is None else k), 1 / best, 0.0)


def average_precision(
    rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None
) -> Values:
    """Precision at each found target, averaged over min(k, number of targets).

    sum over targets with rank ≤ k of (targets at or before it) / rank. Its mean is MAP.

    Source: Manning, Raghavan and Schütze 2008, eq. 8.8, cut at k.
    """
    request = _group(rank, group)
    order = np.lexsort((rank, request))
    firsts = np.searchsorted(request[order], request[order])
    nth = np.empty(len(rank))
    nth[order] = np.arange(len(rank)) - firsts + 1  # place among its request's own targets
    terms = np.where(rank <= k, nth / rank, 0.0)
    return np.minimum(_sums(terms, group) / np.minimum(k, _sizes(rank, group)), 1.0)


def rank_metrics(
    rank: Values, k: int = 10, *, group: NDArray[np.integer] | None = None
) -> Mapping[str, Values]:
    """Give every rank metric by the name it has in results, one value a request."""
    return {
        f"ndcg@{k}": ndcg(rank, k, group=group),
        f"hr@{k}": hit_rate(rank, k, group=group),
        f"recall@{k}": recall(rank, k, group=group),
        f"precision@{k}": precision(rank, k, group=group),
        f"mrr@{k}": mrr(rank, k, group=group),
        f"map@{k}": average_precision(rank, k, group=group),
    }


def coverage(lists: Indices, n_items: int) -> float:
    """Share of the catalogue that stands in at least one list.

    Source: Ge, Delgado-Battenfeld and Jannach 2010, Beyond accuracy (catalogue coverage).
    """
    return float(np.count_nonzero(_exposure(lists, n_items)) / n_items)


def exposure_gini(lists: Indices, n_items: int) -> float:
    """Inequality of how often items are shown: 0 all alike, near 1 one item takes all.

    Source: Fleder and Hosanagar 2009, Blockbuster culture's next rise or fall, sect. 3.
    """
    return gini(_exposure(lists, n_items))


def novelty(lists: Indices, counts: NDArray[np.integer]) -> Values:
    """Mean self-information of the shown items in bits: -log2 of their share of training events.

    p(i) = (c_i + 1) / (sum c + n_items), so that items never seen have a finite value.

    Args:
        counts: (n_items,) training events per item.
    Returns:
        (n,), NaN for an empty list.
    Source: Zhou and others 2010, Solving the apparent diversity-accuracy dilemma (surprisal).
    """
    bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    return _list_mean(bits, lists)


def popularity_share(lists: Indices, counts: NDArray[np.integer], *, share: float = 0.1) -> Values:
    """Share of each list taken by the most popular items, see `head_items`.

    Returns:
        (n,) in [0, 1], NaN for an empty list.
    Source: Abdollahpouri and others 2019, Managing popularity bias in recommender
        systems with personalized re-ranking (1 - their APLT).
    """
    return _list_mean(head_items(counts, share=share).astype(np.float64), lists)


def head_items(counts: NDArray[np.integer], *, share: float = 0.1) -> Bools:
    """Mark the `share` of the items with training events that has the most, ties by index."""
    head = np.zeros(len(counts), bool)
    n = int(np.ceil(share * np.count_nonzero(counts)))
    head[np.argsort(-counts, kind="stable")[:n]] = True
    return head


def intra_list_diversity(lists: Indices, vectors: Floats) -> Values:
    """Mean of 1 - cosine over all pairs of a list; items with a zero vector are left out.

    Args:
        vectors: (n_items, d).
    Returns:
        (n,), NaN where fewer than two items have a vector.
    Source: Ziegler and others 2005, Improving recommendation lists through topic diversification.
    """
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)
    total, pairs = np.empty(len(lists)), np.empty(len(lists))
    for start in range(0, len(lists), 1000):
        block = lists[start : start + 1000]
        known = (block >= 0) & (norm[block, 0] > 0)
        summed = (unit[block] * known[..., None]).sum(axis=1, dtype=np.float64)
        n = known.sum(axis=1)
        # ‖Σv‖² = n + 2 Σ over pairs of cosines, for unit vectors
        total[start : start + 1000] = ((summed**2).sum(axis=1) - n) / 2
        pairs[start : start + 1000] = n * (n - 1) / 2
    return 1 - _ratio(total, pairs)


def category_diversity(lists: Indices, categories: sparse.csr_matrix) -> Values:
    """Mean of 1 - Jaccard overlap of categories over all pairs of a list.

    Items without a category are left out.

    Args:
        categories: (n_items, n_categories) as `category_matrix` makes it.
    Returns:
        (n,), NaN where fewer than two items have a category.
    Source: as `intra_list_diversity`, with the Jaccard coefficient in place of cosine.
    """
    sizes = np.asarray(categories.sum(axis=1)).ravel()
    distance, pairs = np.zeros(len(lists)), np.zeros(len(lists))
    for i in range(lists.shape[1]):
        for j in range(i):
            a, b = lists[:, i], lists[:, j]
            known = (a >= 0) & (b >= 0) & (sizes[a] > 0) & (sizes[b] > 0)
            both = categories[a[known]].multiply(categories[b[known]]).sum(axis=1)
            shared = np.asarray(both, np.float64).ravel()
            distance[known] += 1 - shared / (sizes[a[known]] + sizes[b[known]] - shared)
            pairs += known
    return _ratio(distance, pairs)


def calibration(
    lists: Indices,
    history: sparse.csr_matrix,
    categories: sparse.csr_matrix,
    *,
    alpha: float = 0.01,
) -> Values:
    """How far a list's mix of genres is from the user's own: KL(p ‖ (1 - α) q + α p), in nats.

    p and q are the means over the history and the list of p(g | item), equal over the item's
    genres. 0 is the same mix; -log α (4.6) the worst.

    Args:
        history: (n, n_items) how often the user of each list had each item.
        categories: (n_items, n_categories) as `category_matrix` makes it.
    Returns:
        (n,), NaN where the history has no genres.
    Source: Steck 2018, Calibrated recommendations, eq. 2 to 6.
    """
    shown_at = np.nonzero(lists >= 0)
    shown = sparse.csr_matrix(
        (np.ones(len(shown_at[0])), (shown_at[0], lists[shown_at])), shape=history.shape
    )
    p, q = _genre_mix(history, categories), _genre_mix(shown, categories)
    smooth = (1 - alpha) * q + alpha * p
    terms = np.divide(p, smooth, out=np.ones_like(p), where=p > 0)
    divergence = (p * np.log(terms)).sum(axis=1)
    return np.where(p.sum(axis=1) > 0, np.maximum(divergence, 0.0), np.nan)


def category_matrix(column: pl.Series) -> sparse.csr_matrix:
    """Turn a column of names, or lists of names, into 0 and 1: (n_items, n_names) float64."""
    table = pl.DataFrame({"name": column}).with_row_index("item")
    if isinstance(column.dtype, pl.List):
        table = table.explode("name")
    table = table.drop_nulls().with_columns(pl.col("name").cast(pl.String)).unique()
    code = table["name"].rank("dense").to_numpy().astype(np.int64) - 1
    shape = (len(column), int(code.max()) + 1 if len(code) else 0)
    return sparse.csr_matrix((np.ones(len(code)), (table["item"].to_numpy(), code)), shape=shape)


def _genre_mix(events: sparse.csr_matrix, categories: sparse.csr_matrix) -> Values:
    sizes = np.asarray(categories.sum(axis=1)).ravel()
    per_item = sparse.diags(np.divide(1.0, sizes, out=np.zeros(len(sizes)), where=sizes > 0))
    mix = np.asarray((events @ per_item @ categories).todense())
    total = mix.sum(axis=1, keepdims=True)
    share: Values = np.divide(mix, total, out=np.zeros_like(mix), where=total > 0)
    return share


def _exposure(lists: Indices, n_items: int) -> NDArray[np.int64]:
    return np.bincount(lists[lists >= 0], minlength=n_items)


def _list_mean(per_item: Values, lists: Indices) -> Values:
    known = lists >= 0
    return _ratio(np.where(known, per_item[lists], 0.0).sum(axis=1), known.sum(axis=1))


def _ratio(total: Values, n: NDArray[np.number]) -> Values:
    ratio: Values = np.divide(total, n, out=np.full(len(total), np.nan), where=n > 0)
    return ratio


def _group(rank: Values, group: NDArray[np.integer] | None) -> NDArray[np.integer]:
    return np.arange(len(rank)) if group is None else group


def _n_groups(rank: Values, group: NDArray[np.integer] | None) -> int:
    return len(rank) if group is None else int(group.max(initial=-1)) + 1


def _sums(values: NDArray[np.number] | Bools, group: NDArray[np.integer] | None) -> Values:
    if group is None:
        return values.astype(np.float64)
    return np.bincount(group, weights=values.astype(np.float64)).astype(np.float64)


def _sizes(rank: Values, group: NDArray[np.integer] | None) -> NDArray[np.int64]:
    sizes = np.ones(len(rank), np.int64) if group is None else np.bincount(group)
    if not sizes.all():
        raise ValueError(
            f"request {int(sizes.argmin())} has no target: number requests without gaps"
        )
    return sizes
