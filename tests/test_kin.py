"""Items without events are scored as their look-alikes are: by hand, live, kept and forgotten."""

from dataclasses import replace

import numpy as np
import pytest

from engine_worlds import model
from steerec import kernels
from steerec.contracts import History, Query
from steerec.encoders.hashing import HashingEncoder
from steerec.engine.growth import ItemChange, changed
from steerec.engine.kin import with_kin
from steerec.engine.recommender import Recommender
from steerec.errors import ConfigError
from steerec.heads.content import Content, ContentConfig
from steerec.heads.contract import Room
from steerec.heads.item_knn import ItemKnn, ItemKnnConfig
from worlds import shop

RNG = np.random.default_rng(0)
NO_TIME = np.array([np.nan])
UNSEEN = shop().never_sold
NEVER = np.isin(np.arange(shop().data.n_items), UNSEEN)


@pytest.fixture
def compiled_kernels():
    kernels.load()
    yield
    kernels._LOADED.clear()  # tests of other files answer as they do alone


def heads(data, **settings):
    """`content` and `item_knn` of these data, strangers to each other."""
    content = Content.fit(data, ContentConfig(), RNG)
    return {"content": content, "item_knn": ItemKnn.fit(data, ItemKnnConfig(**settings), RNG)}


def told(data, **settings):
    """`item_knn` with the look-alikes of the items never sold."""
    return with_kin(heads(data, **settings), NEVER)["item_knn"]


def raw(head, history, items=None):
    return head.score([head.start(history)], items, NO_TIME)[0]


def test_look_alikes_are_the_likest_in_text_of_those_that_may_be_named():
    data = shop().data
    content = heads(data)["content"]
    among = RNG.random(data.n_items) < 0.5
    among[UNSEEN] = False
    kin = content.look_alikes(UNSEEN, among, n=3, sharpness=8.0)
    words = content.lexical.alike.toarray()
    for item in UNSEEN:
        likeness = content.vectors @ content.vectors[item] + 2.0 * words[item]
        best = sorted(np.flatnonzero(among), key=lambda i: -likeness[i])[:3]
        share = np.exp(8.0 * likeness[best])
        np.testing.assert_array_equal(np.sort(kin[item].indices), np.sort(best))
        np.testing.assert_allclose(kin[item].toarray()[0, best], share / share.sum(), rtol=1e-4)
    assert kin.nnz == 3 * len(UNSEEN)


def test_an_item_without_events_scores_the_mean_of_its_look_alikes():
    data = shop().data
    before, after = heads(data)["item_knn"], told(data)
    history = data.history(5)
    alone, together = raw(before, history), raw(after, history)
    assert np.isnan(alone[UNSEEN]).all()
    sold = np.setdiff1d(np.arange(data.n_items), UNSEEN)
    np.testing.assert_array_equal(together[sold], alone[sold])
    lent = after.kin[UNSEEN].toarray()[:, sold] @ alone[sold]
    np.testing.assert_allclose(together[UNSEEN], lent, rtol=1e-5)
    assert together[UNSEEN].max() > 0


@pytest.mark.usefixtures("compiled_kernels")
def test_compiled_answers_and_what_is_found_know_them_too():
    data = shop().data
    head, room = told(data), Room()
    state = head.start(data.history(5))
    out = np.empty(data.n_items, np.float32)
    assert head.answer(state, None, np.nan, room, out)
    np.testing.assert_allclose(out, raw(head, data.history(5)), rtol=1e-5)
    found = head.find(state, data.n_items, np.nan, room)
    assert np.intersect1d(found, UNSEEN).size > 0
    np.testing.assert_array_equal(found, head.retrieve(state, len(found), np.nan))
    item = int(UNSEEN[np.argmax(out[UNSEEN])])
    np.testing.assert_allclose(head.because(state, item).sum(), out[item], rtol=1e-5)


def test_only_so_many_similarities_are_lent():
    data = shop().data
    lent = told(data, lent=2).similarity[:, UNSEEN]
    assert lent.getnnz(axis=0).max() == 2
    assert told(data).similarity[:, UNSEEN].getnnz(axis=0).max() > 2


def test_none_are_lent_where_none_are_wanted_or_nothing_tells_them():
    data = shop().data
    assert told(data, kin=0).kin is None
    apart = heads(data)
    assert with_kin(apart, NEVER & False)["item_knn"] is apart["item_knn"]
    assert with_kin(apart, ~NEVER)["item_knn"] is apart["item_knn"]
    del apart["content"]
    assert with_kin(apart, NEVER)["item_knn"] is apart["item_knn"]


def test_items_with_events_keep_their_own_whatever_kin_they_are_given():
    data = shop().data
    parts = heads(data)
    everybody = np.ones(data.n_items, bool)
    everything = np.arange(data.n_items, dtype=np.int32)
    kin = parts["content"].look_alikes(everything, everybody, n=4, sharpness=8.0)
    history = data.history(5)
    sold = np.setdiff1d(everything, UNSEEN)
    kept = raw(parts["item_knn"].with_kin(kin), history)[sold]
    np.testing.assert_array_equal(kept, raw(parts["item_knn"], history)[sold])


def test_a_forgotten_user_leaves_what_was_lent_as_well():
    data = shop().data
    head = told(data)
    assert head.forget(11, data.history(11))
    fresh = told(data.take(data.user_idx != 11))
    for user in (5, 6, 30):
        np.testing.assert_allclose(
            raw(head, data.history(user)), raw(fresh, data.history(user)), atol=1e-6
        )


def test_it_does_not_call_exact_what_takes_an_items_last_event():
    data = shop().data
    item = int(data.item_idx[data.starts[11]])
    alone = data.take((data.item_idx != item) | (data.user_idx == 11))
    head = told(alone)
    assert not head.forget(11, alone.history(11))
    assert np.isnan(raw(head, data.history(5), np.array([item])))[0]


def test_what_is_saved_comes_back(tmp_path):
    data = shop().data
    head = told(data)
    head.save(tmp_path)
    back = ItemKnn.load(tmp_path)
    np.testing.assert_array_equal(raw(back, data.history(5)), raw(head, data.history(5)))
    assert back.forget(11, data.history(11))


def test_an_item_that_comes_while_serving_is_scored_at_once():
    encoder = HashingEncoder(dim=model().data.vectors.shape[1])
    at = int(np.argmax(np.bincount(model().data.item_idx)))
    like = model().data.items.row(at, named=True)
    new = ItemChange("new", {"title": like["title"], "categories": like["categories"]})
    grown = changed(model(), [new], encoder)
    knn = grown.heads["item_knn"]
    assert knn.n_items == grown.data.n_items == model().data.n_items + 1
    history = History.of([i for i in range(8) if i != at])
    scores = raw(knn, history)
    np.testing.assert_array_equal(scores[:-1], raw(model().heads["item_knn"], history))
    assert np.isfinite(scores[-1])
    again = changed(grown, [ItemChange("newer", {"title": like["title"]})], encoder)
    assert raw(again.heads["item_knn"], history)[-2] == scores[-1]
    moved = changed(grown, [ItemChange("new", {"title": "garden spade soil"})], encoder)
    assert raw(moved.heads["item_knn"], history)[-1] != scores[-1]


def test_what_is_lent_is_not_said_to_have_been_taken():
    theta = np.zeros_like(model().strategy.theta)
    theta[list(model().heads).index("item_knn"), 0] = 1.0
    alone = replace(model(), strategy=replace(model().strategy, theta=theta))
    never = next(i for i in shop(n_users=120, n_items=60, events_each=20).never_sold)
    asked = int(np.argmax(model().heads["item_knn"].similarity[:, never].toarray()))
    ids, titles = model().data.item_ids, model().data.items["title"]
    session = Query(session=(str(ids[asked]),) * 10, n=1, candidates=(str(ids[never]),))
    choice = Recommender(alone).recommend(session).items[0]
    assert choice.item_id == ids[never]
    lent = f"Like what is often taken together with {titles[asked]} (in your history)."
    assert choice.reason == lent


@pytest.mark.parametrize("wrong", [{"kin": -1}, {"alike": -0.1}, {"lent": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ItemKnnConfig(**wrong)
