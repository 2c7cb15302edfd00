import math
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from steerec.data.health_facts import gini
from steerec.evaluation import metrics
from steerec.evaluation.ranks import rank_of, ranks_of, top_lists

NAN = float("nan")


def slow_rank(scores, target, skip=()):
    """Compare one item with each other one, in words of the definition."""
    if target in skip:
        return math.inf
    rank = 1.0
    for item, value in enumerate(scores):
        if item == target or item in skip:
            continue
        a, b = ((not math.isnan(x), np.nan_to_num(x)) for x in (value, scores[target]))
        rank += 1 if a > b else 0.5 if a == b else 0
    return rank


def slow_top(scores, k, skip=()):
    known = [i for i, x in enumerate(scores) if not math.isnan(x) and i not in skip]
    best = sorted(known, key=lambda i: (-scores[i], i))[:k]
    return best + [-1] * (k - len(best))


def slow_set_metrics(ranks, k):
    """Every rank metric of one request, one target after the other."""
    found = sorted(r for r in ranks if r <= k)
    dcg = sum(1 / math.log2(1 + r) for r in found)
    ideal = sum(1 / math.log2(1 + j) for j in range(1, min(k, len(ranks)) + 1))
    precisions = [sum(other <= r for other in ranks) / r for r in found]
    return {
        f"ndcg@{k}": dcg / ideal,
        f"hr@{k}": float(bool(found)),
        f"recall@{k}": len(found) / min(k, len(ranks)),
        f"precision@{k}": len(found) / k,
        f"mrr@{k}": 1 / found[0] if found else 0.0,
        f"map@{k}": sum(precisions) / min(k, len(ranks)),
    }


def test_rank_counts_better_items_and_half_of_the_ties():
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5, NAN], np.float32)
    assert rank_of(scores, 1) == 1
    assert rank_of(scores, 0) == 1 + 1 + 2 / 2
    assert rank_of(scores, 3) == 5
    assert rank_of(scores, 5) == 6


def test_unknown_scores_are_lowest_and_tie_with_each_other():
    scores = np.array([NAN, -5.0, NAN, NAN], np.float32)
    assert rank_of(scores, 1) == 1
    assert rank_of(scores, 0) == 1 + 1 + 2 / 2


def test_masked_items_do_not_push_the_target_down():
    scores = np.array([3.0, 2.0, 1.0, 1.0], np.float32)
    mask = np.array([True, False, False, True])
    assert rank_of(scores, 2, mask) == 2
    assert rank_of(scores, 0, mask) == math.inf


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32))
def test_batch_ranks_agree_with_one_by_one(n_rows, n_items, seed):
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.float32([NAN, -math.inf, -1, 0, 0.5, 2]), (n_rows, n_items))
    row, target = rng.integers(0, n_rows, 5), rng.integers(0, n_items, 5)
    skip = rng.random((n_rows, n_items)) < 0.4
    expected = [slow_rank(scores[r], t) for r, t in zip(row, target, strict=True)]
    assert ranks_of(scores, target, row=row).tolist() == expected
    masked = [
        slow_rank(scores[r], t, np.flatnonzero(skip[r])) for r, t in zip(row, target, strict=True)
    ]
    assert ranks_of(scores, target, row=row, skip=skip).tolist() == masked
    as_sparse = sparse.csr_matrix(skip)
    assert ranks_of(scores, target, row=row, skip=as_sparse).tolist() == masked


def test_ranks_of_many_rows_agree_across_blocks():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 20, (600, 40)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = NAN
    target = rng.integers(0, 40, 600)
    skip = sparse.random(600, 40, 0.2, format="csr", random_state=4)
    got = ranks_of(scores, target, skip=skip)
    expected = [slow_rank(scores[i], target[i], skip[i].indices) for i in range(600)]
    assert got.tolist() == expected
    lists = top_lists(scores, 5, skip=skip)
    assert lists.tolist() == [slow_top(scores[i], 5, skip[i].indices) for i in range(600)]
    assert lists.dtype == np.int32


def test_a_target_without_a_row_is_refused():
    with pytest.raises(ValueError, match="2 targets but 1 rows"):
        ranks_of(np.zeros((1, 3), np.float32), np.array([0, 1]), row=np.array([0]))


def test_lists_are_padded_where_nothing_is_known():
    scores = np.array([[NAN, 1.0, NAN], [NAN, NAN, NAN]], np.float32)
    assert top_lists(scores, 5).tolist() == [[1, -1, -1, -1, -1], [-1] * 5]


def test_equal_scores_are_listed_by_index():
    scores = np.array([[1.0, 2.0, 1.0, 1.0, 2.0]], np.float32)
    assert top_lists(scores, 3).tolist() == [[1, 4, 0]]


def test_single_target_metrics_by_hand():
    rank = np.array([1.0, 2.5, 10.0, 10.5, np.inf])
    found = metrics.rank_metrics(rank)
    assert found["ndcg@10"] == pytest.approx([1, 1 / math.log2(3.5), 1 / math.log2(11), 0, 0])
    assert found["hr@10"].tolist() == [1, 1, 1, 0, 0]
    assert found["recall@10"].tolist() == [1, 1, 1, 0, 0]
    assert found["precision@10"] == pytest.approx([0.1, 0.1, 0.1, 0, 0])
    assert found["mrr@10"] == pytest.approx([1, 0.4, 0.1, 0, 0])
    assert found["map@10"] == pytest.approx([1, 0.4, 0.1, 0, 0])
    assert metrics.mrr(rank) == pytest.approx([1, 0.4, 0.1, 1 / 10.5, 0])


def test_basket_metrics_by_hand():
    # basket 0 has targets at places 1, 3 and 20; basket 1 one at place 2; k = 3
    rank = np.array([20.0, 2.0, 1.0, 3.0])
    group = np.array([0, 1, 0, 0])
    found = metrics.rank_metrics(rank, 3, group=group)
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert found["ndcg@3"] == pytest.approx([1.5 / ideal, 1 / math.log2(3)])
    assert found["recall@3"] == pytest.approx([2 / 3, 1])
    assert found["hr@3"].tolist() == [1, 1]
    assert found["precision@3"] == pytest.approx([2 / 3, 1 / 3])
    assert found["mrr@3"] == pytest.approx([1, 0.5])
    assert found["map@3"] == pytest.approx([(1 + 2 / 3) / 3, 0.5])


def test_a_basket_larger_than_the_list_can_still_be_perfect():
    rank = np.arange(1.0, 8.0)
    found = metrics.rank_metrics(rank, 5, group=np.zeros(7, int))
    for name in ("ndcg@5", "recall@5", "map@5", "precision@5"):
        assert found[name] == pytest.approx([1.0]), name


@given(
    st.lists(st.sets(st.integers(1, 30), min_size=1, max_size=15), min_size=1, max_size=6),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_basket_metrics_agree_with_one_target_at_a_time(baskets, k, random):
    pairs = [(r, i) for i, basket in enumerate(baskets) for r in basket]
    random.shuffle(pairs)
    rank = np.array([float(r) for r, _ in pairs])
    found = metrics.rank_metrics(rank, k, group=np.array([i for _, i in pairs]))
    for i, basket in enumerate(baskets):
        for name, value in slow_set_metrics(basket, k).items():
            assert found[name][i] == pytest.approx(value), name


def test_ties_at_the_edge_never_lift_a_metric_above_one():
    rank = np.array([2.0, 2.0, 2.0])  # three targets share places 1 to 3
    found = metrics.rank_metrics(rank, 2, group=np.zeros(3, int))
    assert all(value[0] <= 1 for value in found.values())


def test_a_request_without_a_target_is_refused():
    with pytest.raises(ValueError, match="request 1 has no target"):
        metrics.recall(np.array([1.0, 1.0]), group=np.array([0, 2]))


LISTS = np.array([[0, 1], [0, 2], [0, -1]], np.int32)


def test_coverage_and_exposure_by_hand():
    assert metrics.coverage(LISTS, 4) == 3 / 4
    # exposure 3, 1, 1, 0: mean absolute difference over twice the mean
    x = [3, 1, 1, 0]
    expected = sum(abs(a - b) for a in x for b in x) / (2 * 4 * sum(x))
    assert metrics.exposure_gini(LISTS, 4) == pytest.approx(expected)


def test_gini_of_equal_shares_is_zero_and_of_one_owner_near_one():
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)
    assert gini(np.zeros(3, int)) == 0


def test_novelty_is_mean_bits_by_training_popularity():
    counts = np.array([3, 1, 0, 0])  # (c + 1) / 8: 1/2, 1/4, 1/8, 1/8
    got = metrics.novelty(np.array([[0, 1], [2, 3], [0, -1], [-1, -1]], np.int32), counts)
    assert got[:3] == pytest.approx([1.5, 3, 1])
    assert math.isnan(got[3])


def test_popularity_share_counts_items_of_the_head():
    counts = np.array([9, 1, 8, 1, 1, 1, 1, 1, 1, 1, 0, 0])  # ten with events: the head is item 0
    got = metrics.popularity_share(np.array([[0, 2], [1, 2], [0, -1]], np.int32), counts)
    assert got.tolist() == [0.5, 0, 1]
    assert np.flatnonzero(metrics.head_items(counts, share=0.2)).tolist() == [0, 2]


def test_items_without_training_events_are_never_in_the_head():
    assert metrics.head_items(np.array([0, 2, 0]), share=0.9).tolist() == [False, True, False]


def test_diversity_by_hand():
    vectors = np.array([[2, 0], [0, 3], [1, 0], [0, 0]], np.float32)
    lists = np.array([[0, 1, 2], [0, 2, -1], [0, 3, 1], [3, 0, -1]], np.int32)
    got = metrics.intra_list_diversity(lists, vectors)
    assert got[:3] == pytest.approx([2 / 3, 0, 1], abs=1e-6)
    assert math.isnan(got[3])


def test_diversity_agrees_with_pair_by_pair():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 5)).astype(np.float32)
    vectors[3] = 0
    lists = np.stack([rng.permutation(30)[:6] for _ in range(1500)]).astype(np.int32)
    lists[rng.random(lists.shape) < 0.1] = -1
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    got = metrics.intra_list_diversity(lists, vectors)
    for i in (0, 1, 999, 1000, 1499):
        known = [j for j in lists[i] if j not in (-1, 3)]
        slow = np.mean([1 - unit[a] @ unit[b] for a, b in combinations(known, 2)])
        assert got[i] == pytest.approx(slow, abs=1e-5)


GENRES = pl.Series([["drama", "war"], ["drama"], ["comedy"], None, []])


def test_categories_become_a_matrix_in_order_of_name():
    expected = [[0, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert metrics.category_matrix(GENRES).toarray().tolist() == expected
    plain = metrics.category_matrix(pl.Series(["b", "a", None, "b"]))
    assert plain.toarray().tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]
    assert metrics.category_matrix(pl.Series([["x", "x"]])).toarray().tolist() == [[1]]


def test_category_diversity_by_hand():
    categories = metrics.category_matrix(GENRES)
    lists = np.array([[0, 1, 2], [0, 1, 3], [0, 3, -1]], np.int32)
    got = metrics.category_diversity(lists, categories)
    assert got[:2] == pytest.approx([(0.5 + 1 + 1) / 3, 0.5])
    assert math.isnan(got[2])


def test_calibration_by_hand():
    categories = metrics.category_matrix(GENRES)
    history = sparse.csr_matrix(np.array([[1, 1, 0, 0, 0], [0, 2, 0, 1, 0], [0, 0, 0, 1, 0]]))
    lists = np.array([[1, 2], [2, -1], [0, 1]], np.int32)
    got = metrics.calibration(lists, history, categories)
    # user 0: p = drama 3/4, war 1/4; q = drama 1/2, comedy 1/2; smoothed q = .5025 and .0025
    assert got[0] == pytest.approx(0.75 * math.log(0.75 / 0.5025) + 0.25 * math.log(100))
    assert got[1] == pytest.approx(-math.log(0.01))
    assert math.isnan(got[2])


def test_a_list_with_the_users_own_mix_is_calibrated():
    categories = metrics.category_matrix(GENRES)
    history = sparse.csr_matrix(np.array([[0, 3, 3, 0, 0]]))
    got = metrics.calibration(np.array([[2, 1]], np.int32), history, categories)
    assert got == pytest.approx([0])
