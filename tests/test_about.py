"""What users say of themselves: sentences in parts, and lists that follow them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from steerec.contracts import About, History, Query
from steerec.data.dataset import build_dataset
from steerec.data.sample import sample_shop
from steerec.encoders import EncoderConfig, open_encoder
from steerec.encoders.hashing import HashingEncoder
from steerec.encoders.template import fitting_template, item_texts
from steerec.engine.about import about_of, parts_of, read_ahead
from steerec.engine.calibrate import CalibrationConfig
from steerec.engine.model import FitConfig, fit
from steerec.engine.recommender import Recommender
from steerec.engine.texts import ItemVectors, encoder_of, with_vectors
from steerec.errors import DataError
from steerec.heads.content import Content, ContentConfig
from worlds import CLUSTERS, shop

NOW = np.array([np.nan])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("something light, no horror", [("something light", 1.0), ("horror", -1.0)]),
        ("Tea and garden but not wool", [("Tea", 1.0), ("garden", 1.0), ("wool", -1.0)]),
        ("I don't like war films. Comedies!", [("I", 1.0), ("war films", -1.0), ("Comedies", 1.0)]),
        ("喜剧，不要恐怖片", [("喜剧", 1.0), ("恐怖片", -1.0)]),
        ("notable works, nothing", [("notable works", 1.0)]),
        (" ,. ", []),
        ("", []),
    ],
)
def test_a_sentence_is_read_in_wanted_and_unwanted_parts(text, expected):
    assert parts_of(text) == expected


@cache
def encoded():
    """The generated shop with vectors of its titles."""
    data = shop(n_users=120, n_items=60, events_each=20).data
    encoder = HashingEncoder(dim=256)
    vectors = encoder.encode(data.items["title"].to_list())
    return with_vectors(data, ItemVectors(vectors, "titles", encoder=encoder.name))


@cache
def recommender():
    config = FitConfig(
        heads=("trending", "transitions", "content", "demographic"),
        calibration=CalibrationConfig(targets_per_bin=10),
    )
    model = fit(encoded(), config, np.random.default_rng(0))
    return Recommender(model, np.random.default_rng(0), encoder=HashingEncoder(dim=256))


def clusters(slate):
    item = encoded().item_index
    return [CLUSTERS[item[choice.item_id] % len(CLUSTERS)][0] for choice in slate.items]


def test_a_newcomer_gets_what_they_ask_for_and_not_what_they_do_not_want():
    plain = clusters(recommender().recommend(Query("new", n=8)))
    slate = recommender().recommend(Query("new", n=8, about="yarn, needle and knit"))
    assert plain.count("wool") <= 3
    assert clusters(slate).count("wool") >= 6
    assert slate.items[0].reason == "Close to what you said."
    without = recommender().recommend(Query("new", n=8, about="bread, no oven"))
    titles = [encoded().items["title"][encoded().item_index[c.item_id]] for c in without.items]
    assert "bread" in titles[0]
    assert not any("oven" in title for title in titles[:4])


def test_words_alone_are_compared_where_there_is_no_encoder():
    plain = replace(recommender(), encoder=None)
    found = clusters(plain.recommend(Query("new", n=5, about="yarn needle scarf")))
    assert found.count("wool") >= 4


def test_what_was_said_fades_with_events_and_is_not_kept():
    r = recommender()
    user = str(encoded().user_ids[3])
    before = r.recommend(Query(user, n=10))
    told = r.recommend(Query(user, n=10, about="yarn needle knit wool"))
    after = r.recommend(Query(user, n=10))
    assert [c.item_id for c in before.items] == [c.item_id for c in after.items]
    # The user has 10 events and more: .6^10 of one event's say is all that is left.
    assert len(encoded().history(3)) >= 10
    assert {c.item_id for c in before.items[:3]} == {c.item_id for c in told.items[:3]}


def test_what_was_said_is_never_written_to_disk(tmp_path):
    encoder = open_encoder(EncoderConfig(encoder="hashing"), cache_dir=tmp_path)
    encoder.encode(["green tea"])
    before = encoder.path.read_bytes()
    for number in range(50):
        read_ahead(f"something light, number {number}", encoder)
        told = about_of(Query(about=f"something light, number {number}"), encoder, {})
        assert told.vectors.any(axis=1).all()
    assert encoder.path.read_bytes() == before
    assert len(encoder.fleeting) == 51


def test_one_part_is_an_event_older_than_the_others_by_hand():
    data = encoded()
    head = Content.fit(data, ContentConfig(lexical_weight=0.0), np.random.default_rng(0))
    text, items = "yarn needle", [7, 11]
    vectors = HashingEncoder(dim=256).encode([text])
    about = About((text,), np.ones(1, np.float32), vectors)
    history = replace(History.of(items), about=about)
    said = head.vectors @ head.whitening.transform(vectors)[0]
    events = [head.vectors @ head.vectors[i] for i in items]
    expected = (0.36 * said + 0.6 * events[0] + events[1]) / (0.36 + 0.6 + 1)
    found = head.score([head.start(history)], None, NOW)[0]
    known = ~np.isnan(found)
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-4, atol=1e-5)
    updated = head.update(head.start(replace(History.of(items[:1]), about=about)), History.of([11]))
    np.testing.assert_allclose(head.score([updated], None, NOW)[0], found, rtol=1e-5)


def test_attributes_of_a_newcomer_choose_their_segments():
    found = clusters(recommender().recommend(Query("new", n=6, attributes={"town": "sail"})))
    assert found[0] == "sail"
    nothing = recommender().recommend(Query("new", n=6, attributes={"town": "nowhere"}))
    plain = recommender().recommend(Query("new", n=6))
    assert clusters(plain).count("sail") < found.count("sail")
    assert [c.item_id for c in nothing.items] == [c.item_id for c in plain.items]


def test_another_encoder_than_that_of_the_items_is_refused():
    with pytest.raises(DataError, match="hashing-64-v1"):
        about_of(Query(about="tea"), HashingEncoder(dim=64), encoded().notes)
    assert about_of(Query(about=" ... "), HashingEncoder(dim=64), encoded().notes) is None


def test_the_encoder_of_hashed_texts_is_opened_without_being_named(tmp_path):
    opened = encoder_of(encoded(), EncoderConfig(encoder="text"), tmp_path)
    assert opened.name == "hashing-256-v1"
    assert encoder_of(replace(encoded(), vectors=None), EncoderConfig(), tmp_path) is None


def test_the_sample_shop_answers_a_sentence():
    shop_tables = sample_shop(n_items=300, n_users=400, n_events=8_000, dirty=False)
    data = build_dataset(shop_tables.events, shop_tables.items, shop_tables.users)
    encoder = HashingEncoder(dim=256)
    texts = item_texts(data.items, fitting_template(data.items.columns))
    data = with_vectors(data, ItemVectors(encoder.encode(texts), "", encoder=encoder.name))
    kind = data.items["categories"].list.last().drop_nulls().value_counts(sort=True, name="n")
    wanted = kind["categories"][3]
    config = FitConfig(heads=("trending", "content"))
    model = fit(data, config, np.random.default_rng(0))
    asked = Recommender(model, np.random.default_rng(0), encoder=encoder)
    slate = asked.recommend(Query("stranger", n=10, about=f"I look for {wanted}"))
    shown = [data.items["categories"][data.item_index[c.item_id]].to_list() for c in slate.items]
    n_wanted = data.items["categories"].list.contains(wanted).sum()
    assert sum(wanted in labels for labels in shown) >= min(n_wanted, 8)
