"""A model that takes in items while it serves."""

from dataclasses import replace

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_worlds import model
from service_worlds import own_model
from steerec.contracts import Query
from steerec.encoders import EncoderConfig, open_encoder
from steerec.encoders.hashing import HashingEncoder
from steerec.engine.bootstrap import model_of_nothing
from steerec.engine.growth import ItemChange, changed
from steerec.engine.phi import PhiConfig
from steerec.engine.recommender import Recommender


def scores(grown, user_id="u0001", items=60):
    """The blend's score of the first items, whatever pool they are in."""
    scored = Recommender(grown).score(Query(user_id, n=5, now=1.8e9))
    return scored.blend[:items], [str(i) for i in scored.items[:items]]


def test_new_items_stand_at_the_end_and_nothing_of_the_others_moves():
    grown = changed(model(), [ItemChange("new", {"title": "tea leaf"}), ItemChange("newer")])
    assert grown.data.item_ids[-2:].tolist() == ["new", "newer"]
    assert grown.data.items["item_id"].to_list() == grown.data.item_ids.tolist()
    np.testing.assert_allclose(scores(grown)[0], scores(model())[0], rtol=1e-5, atol=1e-5)
    assert model().data.n_items == 60  # the other model is as it was


def test_a_known_item_is_replaced_in_its_place_and_the_last_word_counts():
    grown = changed(
        model(), [ItemChange("i0003", {"title": "a"}), ItemChange("i0003", {"title": "b"})]
    )
    assert grown.data.items["title"][3] == "b"
    assert grown.data.items["categories"][3] is None  # replaced whole
    assert grown.data.items["item_id"].to_list() == grown.data.item_ids.tolist()
    assert grown.data.items["title"][4] == model().data.items["title"][4]


def test_columns_come_as_they_are_first_named_and_what_does_not_fit_is_null():
    grown = changed(
        model(),
        [
            ItemChange("a", {"price": 3, "vegan": True, "tags": ["x", 7], "deep": {"b": 1}}),
            ItemChange(
                "b", {"price": "dear", "vegan": "yes", "tags": "x", "title": ["two", "words"]}
            ),
        ],
    )
    rows = grown.data.items.select("price", "vegan", "tags", "title").tail(2).rows()
    assert rows[0] == (3.0, True, ["x", "7"], None)
    assert rows[1][0] is None
    assert rows[1][2:] == (["x"], "two, words")
    assert "deep" not in grown.data.items.columns
    assert grown.data.items.schema["price"] == pl.Float64


def test_a_new_item_is_placed_by_its_text_where_there_is_an_encoder(tmp_path):
    from steerec.engine.live import Live
    from steerec.engine.live_config import LiveConfig
    from steerec.store import open_store
    from steerec.store.catalogue import Entry

    store = open_store(str(tmp_path / "s.db"))
    encoder = open_encoder(EncoderConfig(encoder="hashing"), cache_dir=tmp_path)
    live = Live("shop", store, None, LiveConfig(), now=1.0, encoder=encoder)
    words = ("green tea leaf cup", "garden spade soil seed")
    entries = [Entry(f"{w[:3]}{n}", {"title": f"{w} {n}"}) for w in words for n in range(9)]
    store.items.upsert("shop", entries, now=1.0)
    live.follow_items(now=1.0)
    late = Entry("late", {"title": "green tea leaf pot"})
    store.items.upsert("shop", [late], now=1.0)
    live.follow_items(now=1.0)
    store.close()
    assert live.model.data.vectors.shape == (19, encoder.dim)
    row = live.model.data.item_index["late"]
    expected = encoder.encode(["green tea leaf pot"])[0]
    np.testing.assert_allclose(live.model.data.vectors[row], expected, atol=1e-6)
    near = [i for i, _ in live.recommender.similar("late", 18)]
    assert sum(i.startswith("gre") for i in near) == 9  # compared with all by their texts


def test_a_known_items_vector_follows_its_text_and_nothing_else_is_read(tmp_path):
    read = []

    class Reader(HashingEncoder):
        def encode(self, texts):
            read.extend(texts)
            return super().encode(texts)

    encoder = Reader(dim=16)
    none = model_of_nothing(clock=1.0, config=PhiConfig())
    first = [ItemChange("a"), ItemChange("b", {"title": "green tea"})]
    known = changed(none, first, encoder)
    read.clear()
    same = changed(known, [ItemChange("b", {"title": "green tea", "price": 3})], encoder)
    assert read == []
    assert same.data.vectors is known.data.vectors
    told = changed(same, [ItemChange("a", {"title": "iron pot"}), ItemChange("b")], encoder)
    assert read == ["iron pot", ""]
    np.testing.assert_array_equal(told.data.vectors, encoder.encode(["iron pot", ""]))
    assert told.data.item_index == {"a": 0, "b": 1}
    assert not known.data.vectors[0].any()  # the other model is as it was


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip
CHANGES = st.lists(
    st.builds(
        ItemChange,
        st.sampled_from(["i0001", "i0059", "a", "b", "c"]),
        st.dictionaries(
            st.sampled_from(["title", "categories", "price", "x", "item_id", "tags"]),
            VALUES,
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(batches=st.lists(CHANGES, min_size=1, max_size=3))
def test_any_attributes_of_any_types_leave_a_model_that_answers(batches):
    grown = own_model()
    for items in batches:
        grown = changed(grown, items)
    ids = grown.data.item_ids.tolist()
    assert len(set(ids)) == len(ids)
    assert grown.data.items["item_id"].to_list() == ids
    named = {item.item_id for items in batches for item in items}
    assert set(ids) == {f"i{n:04d}" for n in range(60)} | named
    slate = Recommender(grown).recommend(Query("u0001", n=5, now=1.8e9))
    assert len(slate.items) == 5


def test_what_is_looked_up_is_as_if_it_were_made_anew():
    before = model()
    item_id = str(before.data.item_ids[3])
    data = changed(before, [ItemChange("new"), ItemChange(item_id), ItemChange("newer")]).data
    fresh = replace(data)  # which has nothing in place yet
    assert data.item_index == fresh.item_index
    assert data.user_index == fresh.user_index
    np.testing.assert_array_equal(data.starts, fresh.starts)
