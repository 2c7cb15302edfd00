"""Texts: whitening, BM25 by hand, search in two scripts and with typos, the content head."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from steerec.contracts import History
from steerec.errors import ConfigError, DataError
from steerec.heads.content import Content, ContentConfig, _whitened
from steerec.heads.lexical import Lexical, LexicalConfig, item_texts
from worlds import hold_out, shop

RNG = np.random.default_rng(0)
NO_TIME = np.array([np.nan])


# --- lexical ------------------------------------------------------------------------------------


def test_bm25_by_hand():
    lexical = Lexical.fit(["red tea tea", "red pot"], LexicalConfig(k1=1.0, b=1.0))
    # Mean length 2.5; `tea` is in one text of two: idf = ln(1 + 1.5 / 1.5) = ln 2.
    # Weight = idf × tf (k1 + 1) / (tf + k1 × 3 / 2.5), tf = 2.
    found, score = lexical.search("tea", 5)
    np.testing.assert_array_equal(found, [0])
    np.testing.assert_allclose(score, [np.log(2) * 2 * 2 / (2 + 1.2)], rtol=1e-6)


def test_search_finds_words_whatever_their_case_and_width():
    lexical = Lexical.fit(["Rote Straße", "Blaue Gasse", "ＴＥＡ pot"], LexicalConfig())
    assert lexical.search("STRASSE", 5)[0].tolist() == [0]
    assert lexical.search("tea", 5)[0].tolist() == [2]


def test_search_ranks_the_text_with_more_of_the_words_first():
    lexical = Lexical.fit(["green tea", "green tea cup", "wool scarf"], LexicalConfig())
    found, score = lexical.search("tea cup", 5)
    assert found.tolist() == [1, 0]
    assert score[0] > score[1] > 0


def test_search_reads_chinese_without_spaces():
    texts = ["有机绿茶礼盒", "红茶茶包", "羊毛围巾"]
    lexical = Lexical.fit(texts, LexicalConfig())
    assert lexical.search("绿茶", 5)[0].tolist() == [0]
    assert lexical.search("毛围巾", 5)[0].tolist() == [2]


def test_one_chinese_character_finds_the_texts_that_have_it():
    lexical = Lexical.fit(["有机绿茶礼盒", "羊毛围巾", "茶"], LexicalConfig())
    assert set(lexical.search("茶", 5)[0].tolist()) == {0, 2}


def test_search_forgives_a_typo():
    lexical = Lexical.fit(["herbal shampoo", "wool scarf", "hair brush"], LexicalConfig())
    assert lexical.search("shampo", 5)[0].tolist() == [0]
    assert lexical.search("scraf", 5)[0][:1].tolist() == [1]


def test_an_exact_word_beats_a_typo_of_it():
    lexical = Lexical.fit(["tea", "shampoo"], LexicalConfig())
    assert lexical.search("shampo", 1)[1][0] < lexical.search("shampoo", 1)[1][0]


def test_words_of_later_texts_are_found_as_if_they_had_been_there(tmp_path):
    texts = ["green tea", "green tea cup", "wool scarf", "blue wool yarn"]
    more = ["steel umbrella", "umbrella for a wool cup"]
    # length and rareness of what was there are those of the fit
    config = LexicalConfig(b=0.0, max_share=1.0)
    grown = Lexical.fit(texts, config).with_texts(more[:1]).with_texts(more[1:])
    whole = Lexical.fit(texts + more, config)
    assert sorted(grown.terms) == list(whole.terms)
    assert grown.search("umbrella", 9)[0].tolist() == [4, 5]
    assert grown.search("umbrela", 9)[0].tolist() == [4, 5]
    assert sorted(grown.search("wool", 9)[0]) == [2, 3, 5]
    assert grown.alike[4, 5] > 0  # by a word that neither had in the fit
    assert (grown.alike != grown.alike.T).nnz == 0
    grown.save(tmp_path)
    assert Lexical.load(tmp_path).search("umbrella", 9)[0].tolist() == [4, 5]


def test_texts_that_change_are_as_if_the_items_had_come_last():
    texts = ["green tea", "", "wool scarf", "blue wool yarn", "green tea cup"]
    config = LexicalConfig(max_share=1.0)
    lexical = Lexical.fit(texts, config)
    made = lexical.reworded(np.array([4, 1]), ["steel umbrella", "green umbrella"])
    assert lexical.search("umbrella", 9)[0].tolist() == []
    assert sorted(made.search("umbrella", 9)[0]) == [1, 4]
    assert made.search("cup", 9)[0].tolist() == []
    assert made.known.all()
    # the same as items that come new to the three others
    others = replace(
        lexical,
        weights=lexical.weights[[0, 2, 3]],
        alike=lexical.alike[[0, 2, 3]][:, [0, 2, 3]],
    )
    new = others.with_texts(["steel umbrella", "green umbrella"])
    places = [0, 2, 3, 4, 1]
    np.testing.assert_array_equal(
        made.alike[places][:, places].toarray() > 0, new.alike.toarray() > 0
    )
    assert made.alike.diagonal().sum() == 0
    assert (abs(made.alike - made.alike.T) > 1e-6).nnz == 0


def test_search_for_nothing_or_for_nonsense_finds_nothing():
    lexical = Lexical.fit(["tea pot", "wool"], LexicalConfig())
    for text in ("", "  !!", "qqqqqq"):
        found, score = lexical.search(text, 5)
        assert len(found) == len(score) == 0


def test_likeness_of_texts_matches_the_slow_obvious_version():
    texts = item_texts(shop(n_users=5).data.items)
    config = LexicalConfig(neighbours=96, max_share=1.0)
    lexical = Lexical.fit(texts, config)
    rows = lexical.weights.toarray().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = rows @ rows.T
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(lexical.alike.toarray(), expected, rtol=1e-4, atol=1e-6)


def test_terms_in_most_texts_make_nothing_alike():
    texts = [f"free shipping thing{i}" for i in range(40)]
    assert Lexical.fit(texts, LexicalConfig()).alike.nnz == 0


def test_texts_without_a_word_are_refused():
    with pytest.raises(DataError, match="has a word"):
        Lexical.fit(["", "--", "!"], LexicalConfig())


def test_item_texts_join_columns_and_lists_once_each():
    items = pl.DataFrame(
        {
            "item_id": ["1", "2"],
            "title": ["Tea", None],
            "text": ["Tea", "Pot"],
            "genres": [["hot", None, "drink"], None],
            "price": [1.0, 2.0],
        }
    )
    assert item_texts(items) == ["Tea hot drink", "Pot"]


@pytest.mark.parametrize(
    "wrong", [{"k1": -1}, {"b": 2}, {"typo": 0}, {"max_share": 0}, {"neighbours": 0}]
)
def test_lexical_refuses_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="lexical"):
        LexicalConfig(**wrong)


# --- content ------------------------------------------------------------------------------------


def test_whitened_directions_are_uncorrelated_and_of_equal_variance():
    mixed = np.random.default_rng(1).normal(size=(500, 6)) @ np.diag([9, 5, 3, 1, 0.5, 0.1]) + 4
    white = _whitened(mixed.astype(np.float32), 6).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, rtol=1e-5)
    spread = white.T @ white / len(white)
    np.testing.assert_allclose(spread, np.eye(6) / 6, atol=0.03)


def test_whitening_leaves_zero_rows_zero_and_out_of_the_fit():
    rows = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    with_gap = np.insert(rows, 7, 0.0, axis=0)
    white = _whitened(with_gap, 3)
    assert not white[7].any()
    np.testing.assert_allclose(np.delete(white, 7, axis=0), _whitened(rows, 3), atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_whitening_is_defined_for_hardly_any_vectors(rows):
    white = _whitened(np.eye(3, 4, dtype=np.float32)[:rows], 8)
    assert white.shape[0] == rows
    assert np.isfinite(white).all()


@pytest.fixture(scope="module")
def data():
    return hold_out(shop(n_users=20).data).train


def test_vectors_and_words_add_up(data):
    histories = [data.history(u) for u in range(5)]
    now = np.full(5, np.nan)
    both = Content.fit(data, ContentConfig(lexical_weight=0.5), RNG).score(histories, None, now)
    vectors = Content.fit(data, ContentConfig(lexical_weight=0.0), RNG).score(histories, None, now)
    only_words = replace(data, vectors=None)
    words = Content.fit(only_words, ContentConfig(lexical_weight=1.0), RNG)
    np.testing.assert_allclose(
        both, vectors + 0.5 * words.score(histories, None, now), rtol=1e-4, atol=1e-5
    )


def test_an_item_never_sold_is_found_through_its_text():
    world = shop(n_users=20)
    head = Content.fit(world.data, ContentConfig(), RNG)
    for item in world.never_sold:
        like = np.flatnonzero(world.cluster == world.cluster[item])[:3].astype(np.int32)
        others = np.flatnonzero(world.cluster != world.cluster[item])
        scores = head.score([History.of(like)], None, NO_TIME)[0]
        assert scores[item] > np.quantile(scores[others], 0.95)


def test_items_without_text_and_vector_score_nan_and_say_nothing(data):
    items = data.items.with_columns(
        pl.when(pl.col("item_id") == "i0003").then(None).otherwise(pl.col("title")).alias("title"),
        categories=pl.lit(None, pl.List(pl.String)),
    )
    vectors = data.vectors.copy()
    vectors[3] = 0
    head = Content.fit(replace(data, items=items, vectors=vectors), ContentConfig(), RNG)
    assert np.isnan(head.score([History.of([5])], None, NO_TIME)[0, 3])
    assert np.isnan(head.score([History.of([3])], None, NO_TIME)).all()
    np.testing.assert_allclose(
        head.score([History.of([5, 3])], None, NO_TIME),
        head.score([History.of([5])], None, NO_TIME),
        rtol=1e-5,
    )


def test_data_without_texts_is_scored_by_vectors_alone(data):
    head = Content.fit(replace(data, items=data.items.select("item_id")), ContentConfig(), RNG)
    assert head.lexical is None
    assert np.isfinite(head.score([data.history(0)], None, NO_TIME)).all()


def test_data_with_neither_is_refused(data):
    bare = replace(data, items=data.items.select("item_id"), vectors=None)
    with pytest.raises(DataError, match="neither vectors nor texts"):
        Content.fit(bare, ContentConfig(), RNG)


def test_shares_of_the_events_add_up_to_the_score(data):
    head = Content.fit(data, ContentConfig(last=5), RNG)
    history = data.history(4)
    scores = head.score([history], None, NO_TIME)[0]
    for item in range(0, 90, 9):
        shares = head.because(history, item)
        assert len(shares) == len(history)
        assert not shares[:-5].all()
        np.testing.assert_allclose(shares.sum(), scores[item], rtol=1e-3, atol=1e-5)


def test_words_alone_survive_saving(data, tmp_path):
    head = Content.fit(replace(data, vectors=None), ContentConfig(), RNG)
    head.save(tmp_path)
    again = Content.load(tmp_path)
    history = [data.history(1)]
    np.testing.assert_array_equal(
        again.score(history, None, NO_TIME), head.score(history, None, NO_TIME)
    )
    assert again.lexical.search("tea leaf", 3)[0].tolist() == (
        head.lexical.search("tea leaf", 3)[0].tolist()
    )


@pytest.mark.parametrize("wrong", [{"dims": 0}, {"lexical_weight": -1}, {"decay": 0}, {"last": 0}])
def test_content_refuses_settings_out_of_range(wrong):
    with pytest.raises(ConfigError, match="content"):
        ContentConfig(**wrong)
