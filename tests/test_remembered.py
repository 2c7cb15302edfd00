"""What steady heads said is kept for whoever asks again, and no list is another for it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_worlds import world
from service_worlds import own_model
from steerec.contracts import Event, Query
from steerec.engine.growth import ItemChange, changed
from steerec.engine.pool import PoolConfig
from steerec.engine.recommender import Recommender
from steerec.engine.remembered import Remembered, Said
from steerec.engine.sampler import SamplerConfig
from steerec.engine.serving import Policy, serve

USERS = ("u0001", "u0042", "visitor")
ITEMS = tuple(f"i{n:04d}" for n in range(0, 60, 4))
users, items = st.sampled_from(USERS), st.sampled_from(ITEMS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), users, items, st.floats(-9e6, 9e6)),
        st.tuples(st.just("merge"), users, users),
        st.tuples(st.just("item"), st.sampled_from((*ITEMS[:3], "new")), st.text(max_size=9)),
        st.tuples(st.just("price"), items, st.floats(1.0, 9.0)),
        st.tuples(st.just("erase"), users),
        st.tuples(st.just("unlearn"), users, items),
        st.tuples(st.just("swap")),
        st.tuples(st.just("later"), st.floats(1.0, 1e6)),
    ),
    min_size=1,
    max_size=7,
)


class Shop:
    """A recommender over a model of its own, in which anything may happen."""

    def __init__(self, most_mb, pool):
        self.most_mb, self.pool, self.now = most_mb, pool, world().now
        self.swap()

    def swap(self):
        made = {"pool": self.pool, "compiled": True, "score_cache_mb": self.most_mb}
        self.recommender = Recommender(own_model(), **made)

    def event(self, user, item, after):
        self.recommender.learn(Event(user, item, "click", timestamp=self.now + after))

    def merge(self, one, other):
        ids = self.recommender.model.data.item_ids
        for item in self.recommender.history(one).last(5).item_idx:
            self.event(other, str(ids[item]), 0.0)

    def item(self, item, title):
        model = changed(self.recommender.model, [ItemChange(item, {"title": title})])
        self.recommender = self.recommender.grown(model)

    def price(self, item, price):
        data = self.recommender.model.data
        told = data.items.row(data.item_index[item], named=True)
        model = changed(self.recommender.model, [ItemChange(item, {**told, "price": price})])
        self.recommender = self.recommender.grown(model)

    def erase(self, user):
        self.recommender.forget(user)

    def unlearn(self, user, item):
        self.recommender.unlearn(user, [item], [])

    def later(self, seconds):
        self.now += seconds

    def lists(self):
        """All that is told and logged of a list for each user, to the last bit."""
        policy = Policy(draw=SamplerConfig(temperature=0.5))
        for user in USERS:
            query = Query(user, n=4, now=self.now, repeats=True)
            served = serve(self.recommender, query, policy, request_id="07", now=self.now)
            page = served.impression
            yield served.slate, page.pool, page.scores.tobytes(), page.w.tobytes(), page.propensity


@settings(max_examples=8, deadline=None, derandomize=True)
@given(steps=STEPS, pool=st.sampled_from((10_000, 20)))
def test_with_kept_scores_all_lists_are_what_they_are_without_whatever_happens(steps, pool):
    config = PoolConfig(full_catalogue=pool, pool_limit=30, fresh=5, top=10)
    kept, without = Shop(1.0, config), Shop(0.0, config)
    for step, *words in [("later", 1.0), *steps]:
        for shop in (kept, without):
            getattr(shop, step)(*words)
        expected = list(map(repr, without.lists()))
        for _ in range(2):  # asked anew, and again
            assert list(map(repr, kept.lists())) == expected
    assert kept.recommender.remembered.hits > 0
    assert without.recommender.remembered.n_bytes == without.recommender.remembered.hits == 0


def test_the_second_list_asks_only_heads_that_depend_on_more_than_the_user(monkeypatch):
    asked = []
    recommender = Recommender(own_model(), score_cache_mb=1.0)
    for name, head in recommender.model.heads.items():

        def score(*given, of=name, plain=head.score):
            asked.append(of)
            return plain(*given)

        monkeypatch.setattr(head, "score", score)
    for _ in range(2):
        recommender.recommend(Query("u0001"))
    steady = {name for name, head in recommender.model.heads.items() if head.steady}
    assert steady == {"als", "ease", "item_knn", "content"}
    assert sorted(asked) == sorted(
        [*recommender.model.heads, *recommender.model.heads.keys() - steady]
    )


def test_a_new_price_or_stock_leaves_scores_and_a_new_text_does_not(shop):
    def hits():
        shop.settle()
        shop.ids("u0001")
        return shop.tenant().live.recommender.remembered.hits

    assert [hits(), hits()] == [0, 1]
    shop.call("PATCH", "/api/items/i0003", json={"stock": 5, "attributes": {"price": 7.5}})
    assert hits() == 2
    shop.call("PATCH", "/api/items/i0003", json={"attributes": {"title": "a kettle"}})
    assert [hits(), hits()] == [2, 3]
    shop.post("/api/items", {"id": "new"})
    assert hits() == 3


def test_scores_of_visitors_and_of_what_is_said_once_are_not_kept():
    recommender = Recommender(own_model(), score_cache_mb=1.0)
    for query in (Query(None), Query("nobody"), Query("u0001", session=("i0003",))):
        recommender.recommend(query)
    assert recommender.remembered.n_bytes == 0
    recommender.recommend(Query("u0001"))
    assert recommender.remembered.n_bytes > 0
    recommender.forget("u0007")
    assert recommender.remembered.n_bytes == 0


def said(states, n=10, *, items=None, compiled=False):
    return Said(states, items, compiled, ("a", "b"), np.ones((2, n), np.float32))


def test_the_memory_is_bounded_and_who_asked_longest_ago_makes_room():
    memory = Remembered(most_bytes=200)
    one, other, third = {"a": 1}, {"a": 1}, {"a": 1}  # equal, and yet of different people
    memory.keep(said(one), era=0)
    memory.keep(said(other), era=0)
    assert memory.n_bytes == 160
    assert memory.rows(one, None, compiled=False).keys() == {"a", "b"}
    memory.keep(said(third), era=0)
    assert memory.n_bytes == 160
    assert not memory.rows(other, None, compiled=False)
    assert memory.rows(one, None, compiled=False)
    memory.keep(said(other, n=100), era=0)  # more than there is room for
    assert not memory.rows(other, None, compiled=False)
    assert (memory.hits, memory.misses) == (2, 2)


def test_what_was_said_holds_for_the_same_question_and_era_only():
    memory, states, items = Remembered(most_bytes=200), {}, np.array([3, 5], np.int32)
    memory.keep(said(states, n=2, items=items), era=0)
    assert memory.rows(states, items.copy(), compiled=False)
    assert not memory.rows(states, items, compiled=True)
    assert not memory.rows(states, np.array([3, 6], np.int32), compiled=False)
    assert not memory.rows(states, None, compiled=False)
    era = memory.era
    memory.clear()
    memory.keep(said(states, n=2, items=items), era=era)  # computed before, told after
    assert not memory.rows(states, items, compiled=False)
    assert memory.n_bytes == 0
    assert memory.afresh().hits == memory.hits == 1


def test_a_service_tells_of_kept_scores_and_erasure_drops_them(shop):
    def metric(name, labels='tenant="default"'):
        lines = shop.get("/metrics").text.splitlines()
        return float(next(x for x in lines if x.startswith(f"{name}{{{labels}")).split()[-1])

    for _ in range(2):
        shop.ids("u0001")
    assert metric("steerec_score_cache_total", 'found="kept",tenant="default"') == 1
    assert metric("steerec_score_cache_bytes") > 0
    assert shop.call("DELETE", "/api/users/u0042/data").is_success
    assert metric("steerec_score_cache_bytes") == 0
