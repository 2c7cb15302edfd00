"""Item and user neighbours against slow obvious versions, and the rows they are made of."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.histories import decayed, places, recency_rows, stretches, strongest
from steerec.heads.item_knn import ItemKnn, ItemKnnConfig
from steerec.heads.user_knn import UserKnn, UserKnnConfig
from worlds import shop

RNG = np.random.default_rng(0)
NO_TIME = np.array([np.nan])


def sequences(*rows):
    """A dataset of users u0, u1, … with these items (single letters) in this order."""
    events = [
        (f"u{user}", item, position)
        for user, row in enumerate(rows)
        for position, item in enumerate(row)
    ]
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "seq"], orient="row")
    return build_dataset(frame, pl.DataFrame({"item_id": list("abcdef")}))


# --- rows ---------------------------------------------------------------------------------------


def test_places_count_events_from_the_end():
    np.testing.assert_array_equal(places(np.array([-1, -1, -1], np.int32)), [2, 1, 0])


def test_a_basket_is_one_place():
    np.testing.assert_array_equal(places(np.array([4, 7, 7, 9, 9], np.int32)), [2, 1, 1, 0, 0])


def test_no_events_have_no_places():
    assert len(places(np.empty(0, np.int32))) == 0


def test_decayed_weights_by_hand():
    history = History.of([3, 1]).append(2, weight=-2.0)
    items, faded = decayed(history, decay=0.5, last=2)
    np.testing.assert_array_equal(items, [1, 2])
    np.testing.assert_allclose(faded, [0.5, -2.0])


def test_the_query_adds_up_an_item_seen_twice_and_leaves_out_unknown_ones():
    query = recency_rows([History.of([2, -1, 9, 2])], 4, decay=0.5, last=10).matrix()
    np.testing.assert_allclose(query.toarray(), [[0, 0, 1.125, 0]])


def test_a_like_and_a_dislike_that_cancel_say_nothing():
    disliked = History.of([2]).append(2, weight=-1.0)
    query = recency_rows([disliked], 4, decay=1.0, last=10).matrix()
    assert query.nnz == 0


@given(
    rows=st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=6), min_size=1),
    copies=st.integers(1, 3),
    step=st.integers(1, 3),
)
def test_events_share_the_more_stretches_the_nearer_they_are(rows, copies, step):
    if not any(rows):
        return
    data = sequences(*rows)
    matrix, owner = stretches(data, length=copies * step, step=step)
    together = (matrix.T @ matrix).toarray()
    expected = np.zeros_like(together)
    for row in rows:
        for p, q in combinations(range(len(row)), 2):
            shared = max(0, copies - abs(p // step - q // step))
            a, b = (data.item_index[row[i]] for i in (p, q))
            expected[a, b] += shared
            expected[b, a] += shared
    np.fill_diagonal(together, 0)
    np.testing.assert_array_equal(together, expected)
    assert len(owner) == matrix.shape[0]
    for row, user in zip(matrix, owner, strict=True):
        assert set(row.indices) <= set(data.history(user).item_idx)


def test_length_zero_makes_one_stretch_of_all_events_of_a_user():
    data = sequences("abca", "cd")
    matrix, owner = stretches(data, length=0, step=1)
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(owner, [0, 1])


def test_stretches_of_dislikes_alone_are_refused():
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "event": ["dislike"]})
    with pytest.raises(DataError, match="no event weighs above 0"):
        stretches(build_dataset(frame), length=0, step=1)


@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    n=st.integers(1, 6),
)
def test_strongest_keeps_what_a_full_sort_keeps(values, n):
    dense = np.array(values, np.float32)
    expected = np.zeros_like(dense)
    for row in range(len(dense)):
        kept = np.argsort(-np.abs(dense[row]), kind="stable")[:n]
        expected[row, kept] = dense[row, kept]
    np.testing.assert_array_equal(strongest(sparse.csr_matrix(dense), n).toarray(), expected)


# --- item_knn -----------------------------------------------------------------------------------


def test_item_similarity_by_hand():
    config = ItemKnnConfig(
        length=0, step=1, decay=0.5, shrink=0.0, asker=0.5, popularity=0.5, neighbours=6
    )
    head = ItemKnn.fit(sequences("ab", "ab", "ac"), config, RNG)
    # a and b share 2 users of 3 and 2: cosine 2/√6; a and c share 1 of 3 and 1: 1/√3.
    found = head.score([History.of([1, 0])], None, NO_TIME)[0]
    np.testing.assert_allclose(found[:3], [0.5 * 2 / 6**0.5, 2 / 6**0.5, 1 / 3**0.5], rtol=1e-6)
    assert np.isnan(found[3:]).all()  # d, e, f have no events


def test_item_similarity_matches_the_slow_obvious_version():
    data = shop(n_users=25, seed=3).data
    config = ItemKnnConfig(length=6, step=3, neighbours=7)
    head = ItemKnn.fit(data, config, RNG)
    np.testing.assert_allclose(
        head.similarity.toarray(), slow_similarity(data, config), rtol=1e-5, atol=1e-7
    )


def slow_similarity(data, config):
    rows, _ = stretches(data, length=config.length, step=config.step)
    sets = [set(row.indices.tolist()) for row in rows]
    count = [sum(i in s for s in sets) + config.shrink for i in range(data.n_items)]
    result = np.zeros((data.n_items, data.n_items))
    for i in range(data.n_items):
        for j in range(data.n_items):
            both = sum(i in s and j in s for s in sets)
            result[i, j] = (
                (i != j) * both / (count[i] ** config.asker * count[j] ** config.popularity)
            )
        weakest = np.argsort(-result[i].astype(np.float32), kind="stable")[config.neighbours :]
        result[i, weakest] = 0.0
    return result


def test_item_blocks_do_not_change_the_result(monkeypatch):
    data = shop(n_users=20).data
    whole = ItemKnn.fit(data, ItemKnnConfig(), RNG).similarity
    monkeypatch.setattr("steerec.heads.item_knn.BLOCK_ENTRIES", 7 * data.n_items)
    assert abs(ItemKnn.fit(data, ItemKnnConfig(), RNG).similarity - whole).max() == 0


def test_shares_of_the_events_add_up_to_the_item_score():
    world = shop(n_users=30)
    head = ItemKnn.fit(world.data, ItemKnnConfig(), RNG)
    history = world.data.history(4)
    scores = head.score([history], None, NO_TIME)[0]
    for item in range(0, 20, 3):
        shares = head.because(history, item)
        assert len(shares) == len(history)
        np.testing.assert_allclose(shares.sum(), scores[item], rtol=1e-4, atol=1e-6)


def test_an_event_outside_the_catalogue_has_no_share():
    head = ItemKnn.fit(sequences("ab", "ab"), ItemKnnConfig(), RNG)
    shares = head.because(History.of([99, -1, 0]), 1)
    np.testing.assert_array_equal(shares[:2], 0)
    assert shares[2] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"decay": 0}, {"last": 0}, {"step": 3}, {"neighbours": 0}, {"shrink": -1.0}],
)
def test_item_knn_refuses_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="item_knn"):
        ItemKnnConfig(**wrong)


# --- user_knn -----------------------------------------------------------------------------------


def test_user_neighbours_by_hand():
    config = UserKnnConfig(length=0, step=1, decay=1.0, rarity=0.0, popularity=0.0, neighbours=2)
    head = UserKnn.fit(sequences("abc", "ad", "ef"), config, RNG)
    # The query {a, b} is like abc by 2/√6 and like ad by 1/2; ef has no say.
    found = head.score([History.of([0, 1])], None, NO_TIME)[0]
    abc, ad = 2 / 6**0.5, 0.5
    np.testing.assert_allclose(found, [abc + ad, abc, abc, ad, 0, 0], rtol=1e-6)


def test_a_user_is_not_their_own_neighbour():
    config = UserKnnConfig(length=0, step=1, neighbours=5)
    data = sequences("abc", "abd")
    head = UserKnn.fit(data, config, RNG)
    own, stranger = head.score([History.of([0, 1], 0), History.of([0, 1], -1)], None, NO_TIME)
    assert own[2] == 0  # c stands in the user's own row only
    assert stranger[2] > 0


def test_user_scores_match_the_slow_obvious_version():
    world = shop(n_users=25, seed=4)
    config = UserKnnConfig(length=6, step=3, neighbours=9)
    head = UserKnn.fit(world.data, config, RNG)
    for user in (0, 7, 19):
        history = world.data.history(user)
        found = head.score([history], None, NO_TIME)[0]
        expected = slow_user_scores(world.data, config, history)
        known = ~np.isnan(found)
        np.testing.assert_allclose(found[known], expected[known], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(known, world.data.counts() > 0)


def slow_user_scores(data, config, history):
    rows, owner = stretches(data, length=config.length, step=config.step)
    rows = rows.toarray().astype(np.float64)
    count = rows.sum(axis=0)
    rare = np.log1p((rows.sum(axis=1) > 0).sum() / np.maximum(count, 1)) ** config.rarity
    items, faded = decayed(history, decay=config.decay, last=config.last)
    query = np.bincount(items, faded, minlength=data.n_items) * rare
    query /= np.linalg.norm(query)
    alike = []
    for row, user in zip(rows, owner, strict=True):
        length = np.linalg.norm(row * rare)
        alike.append(0.0 if user == history.user_idx else query @ (row * rare) / length)
    scores = np.zeros(data.n_items)
    for place in np.argsort(-np.array(alike), kind="stable")[: config.neighbours]:
        scores += alike[place] * rows[place] * np.maximum(count, 1) ** -config.popularity
    return scores


def test_a_forgotten_user_leaves_no_row():
    data = sequences("abc", "abd")
    head = UserKnn.fit(data, UserKnnConfig(), RNG)
    assert head.forget(0, data.history(0))
    found = head.score([History.of([0, 1])], None, NO_TIME)[0]
    assert np.isnan(found[2])  # nobody else ever took c
    assert found[3] > 0


@pytest.mark.parametrize(
    "wrong", [{"decay": 1.5}, {"length": -5}, {"neighbours": 0}, {"popularity": -0.1}]
)
def test_user_knn_refuses_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="user_knn"):
        UserKnnConfig(**wrong)
