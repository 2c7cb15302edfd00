"""The recommender answers everyone, obeys the rules, learns at once, and says why."""

import time
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_worlds import model, recommender, refitted, world
from steerec.contracts import Event, History, Query
from steerec.engine.growing import Growing
from steerec.engine.pool import PoolConfig
from steerec.engine.recommender import Recommender
from steerec.errors import ConfigError, DataError, UnknownItemError

USER = "u0003"


def ids(slate):
    return [choice.item_id for choice in slate.items]


def own_items(user_id):
    data = world().data
    return {data.item_ids[i] for i in data.history(data.user_index[user_id]).item_idx}


@cache
def shared():
    """A recommender for tests that teach it nothing."""
    return recommender()


def test_a_known_user_gets_n_items_best_first_with_positions_from_one():
    slate = shared().recommend(Query(USER, n=7, now=world().now))
    scores = [choice.score for choice in slate.items]
    assert len(set(ids(slate))) == 7
    assert scores == sorted(scores, reverse=True)
    assert [choice.position for choice in slate.items] == list(range(1, 8))
    assert slate.skipped == slate.left_out == ()


def test_the_list_is_the_blend_of_the_calibrated_heads_item_by_item():
    """Slow and obvious: every head, every item, one by one."""
    m, data = model(), world().data
    history = data.history(data.user_index[USER])
    phi = m.phi([history], np.array([world().now]))[0]
    weights, told = m.strategy.theta @ phi, dict(zip(m.phi.names, phi, strict=True))
    columns = {name: column for column, name in enumerate(m.strategy.features)}
    had, scores = set(history.item_idx.tolist()), []
    assert had
    assert columns["own:bias"]  # it is a shop: people come back to things
    for item in range(data.n_items):
        total = 0.0
        for weight, (name, head) in zip(weights, m.heads.items(), strict=True):
            one = np.array([item], np.int32)
            raw = head.score([head.start(history)], one, np.array([world().now]))
            if item in world().never_sold:
                weight += m.strategy.theta[list(m.heads).index(name), -1]
            if item in had:
                mine = m.strategy.theta[list(m.heads).index(name)]
                names = [column for column in columns if column.startswith("own:")]
                weight += sum(mine[columns[n]] * told[n.removeprefix("own:")] for n in names)
            total += weight * m.calibrations[name](raw, np.array([len(history)]))[0, 0]
        scores.append(total + m.strategy.dials["unseen_items"] * (item in world().never_sold))
    best = np.argsort(-np.round(scores, 6), kind="stable")[:10]
    slate = shared().recommend(Query(USER, now=world().now))
    assert ids(slate) == list(data.item_ids[best])
    np.testing.assert_allclose([c.score for c in slate.items], np.array(scores)[best], atol=1e-5)


def test_sources_add_up_to_the_score():
    for choice in shared().recommend(Query(USER, now=world().now)).items:
        assert set(choice.sources) == set(model().heads)
        never_sold = world().data.item_index[choice.item_id] in world().never_sold
        more = model().strategy.dials["unseen_items"] if never_sold else 0.0
        assert sum(choice.sources.values()) + more == pytest.approx(choice.score, abs=1e-6)


def test_unknown_user_gets_popular_items():
    slate = shared().recommend(Query("never seen", n=10))
    counts = dict(zip(world().data.item_ids, world().data.counts(), strict=True))
    shown = np.mean([counts[i] for i in ids(slate)])
    assert shown > 1.25 * np.mean(list(counts.values()))
    trending = model().heads["trending"]
    raw = trending.score([trending.start(History.of([]))], None, np.array([np.nan]))[0]
    best = np.argsort(-np.nan_to_num(raw, nan=-99.0), kind="stable")[:10]
    assert set(ids(slate)) == set(world().data.item_ids[best])
    assert "Popular" in slate.items[0].reason
    assert all(choice.because == () for choice in slate.items)


def test_nobody_at_all_gets_the_same_as_an_unknown_user():
    assert ids(shared().recommend(Query())) == ids(shared().recommend(Query("never seen")))


def test_an_anonymous_session_is_followed_by_the_next_of_its_chain():
    # i0001's chain goes on with i0007 half of the time (worlds.shop)
    assert "i0007" in ids(shared().recommend(Query(session=("i0001",), n=3)))


def test_unknown_items_of_a_session_are_skipped_and_named():
    slate = shared().recommend(Query(session=("i0001", "no such"), n=3))
    assert slate.skipped == ("no such",)
    assert ids(slate) == ids(shared().recommend(Query(session=("i0001",), n=3)))


def test_a_session_comes_after_the_stored_history_and_is_not_kept():
    r = recommender()
    before = ids(r.recommend(Query(USER)))
    assert ids(r.recommend(Query(USER, session=("i0001", "i0007")))) != before
    assert ids(r.recommend(Query(USER))) == before


def test_a_click_changes_the_next_list_within_ten_milliseconds():
    r = Recommender(refitted(), np.random.default_rng(0))
    r.recommend(Query(USER))
    before = ids(r.recommend(Query("u0005", n=5)))
    took = []
    for item in ("i0001", "i0013", "i0025"):
        began = time.perf_counter()
        r.learn(Event("u0005", item, "purchase", timestamp=world().now))
        took.append(time.perf_counter() - began)
    after = r.recommend(Query("u0005", n=5))
    assert ids(after) != before
    assert "i0031" in ids(after)  # what follows i0025, new to this user
    assert min(took) < 0.010
    assert r.history("u0005").item_idx[-1] == 25
    assert len(r.history("u0005")) == len(world().data.history(5)) + 3


def test_what_was_learnt_equals_a_history_that_had_it_all_along():
    r = Recommender(refitted(), np.random.default_rng(0))
    for item in ("i0002", "i0008"):
        r.learn(Event("new", item, "view", timestamp=world().now))
    person = r._people.person("new")
    fresh = r._panel.start(r.history("new"))
    for name, state in person.states.items():
        head = r.model.heads[name]
        now = np.array([world().now])
        np.testing.assert_array_equal(
            head.score([state], None, now), head.score([fresh[name]], None, now)
        )


def test_kinds_of_events_weigh_as_in_the_data_and_baskets_stay_together():
    r = Recommender(refitted(), np.random.default_rng(0))
    for kind, basket in (("purchase", "b1"), ("view", "b1"), ("dislike", "b2"), ("own kind", None)):
        r.learn(Event("new", "i0002", kind, timestamp=world().now, basket=basket))
    history = r.history("new")
    np.testing.assert_array_equal(history.weight, [3.0, 1.0, -1.0, 1.0])
    first, second, third, none = history.basket
    assert first == second > world().data.basket.max()
    assert third > world().data.basket.max()
    assert third != first
    assert none == -1


def test_what_was_disliked_last_is_not_shown_even_where_repeats_are():
    r = Recommender(refitted(), np.random.default_rng(0))
    r.learn(Event("new", "i0002", "purchase"))
    assert "i0002" in ids(r.recommend(Query("new", n=60, repeats=True)))
    r.learn(Event("new", "i0002", "dislike"))
    assert "i0002" not in ids(r.recommend(Query("new", n=60, repeats=True)))


def test_learning_an_unknown_item_is_refused_with_near_ids():
    with pytest.raises(UnknownItemError, match="i000"):
        shared().learn(Event(USER, "i00001"))


def test_nothing_below_one_item_can_be_asked_for():
    for ask in (
        lambda: shared().recommend(Query(USER, n=0)),
        lambda: shared().similar("i0001", 0),
        lambda: shared().similar_users(USER, -1),
    ):
        with pytest.raises(ValueError, match="at least 1"):
            ask()


def test_more_than_there_is_gives_all_there_is():
    assert len(shared().recommend(Query("never seen", n=1_000)).items) == world().data.n_items
    everything = frozenset(world().data.item_ids)
    assert shared().recommend(Query(USER, exclude=everything)).items == ()


item_ids = st.sampled_from(list(world().data.item_ids))


@settings(max_examples=40, deadline=None)
@given(
    user=st.sampled_from([USER, "u0010", "never seen", None]),
    session=st.lists(item_ids, max_size=3),
    exclude=st.frozensets(item_ids, max_size=30),
    categories=st.none() | st.frozensets(st.sampled_from(["tea", "ink", "none such"]), max_size=2),
    n=st.integers(1, 70),
)
def test_exclude_filter_and_seen_are_always_obeyed(user, session, exclude, categories, n):
    rule = {} if categories is None else {"categories": categories}
    query = Query(user, tuple(session), n, exclude, rule, repeats=False)
    shown = set(ids(shared().recommend(query)))
    kept = {"tea": 0, "ink": 2}
    allowed = set(world().data.item_ids) - exclude - set(session)
    if user in world().data.user_index:
        allowed -= own_items(user)
    if categories is not None:
        clusters = {kept[c] for c in categories if c in kept}
        of_item = dict(zip(world().data.item_ids, world().cluster, strict=True))
        allowed = {i for i in allowed if of_item[i] in clusters}
    assert shown <= allowed
    assert len(shown) == min(n, len(allowed))


def test_each_attribute_of_a_filter_must_pass():
    rule = {"categories": frozenset({"tea"}), "item_id": frozenset({"i0000", "i0001", "i0006"})}
    assert set(ids(shared().recommend(Query(filter=rule)))) == {"i0000", "i0006"}


def test_an_unknown_attribute_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="categories"):
        shared().recommend(Query(USER, filter={"colour": frozenset({"red"})}))


def test_the_same_seed_gives_the_same_slates():
    queries = [Query(USER), Query(), Query(session=("i0001",))]
    assert recommender(5).recommend_many(queries) == recommender(5).recommend_many(queries)
    one, other = recommender(5).recommend(Query()), recommender(6).recommend(Query())
    assert one.request_id != other.request_id


def test_a_pool_that_covers_the_catalogue_answers_like_scoring_everything():
    config = PoolConfig(full_catalogue=1, per_head=60, pool_limit=60, fresh=20)
    pooled = Recommender(model(), np.random.default_rng(0), config)
    for query in (Query(USER, n=20), Query("never seen", n=20), Query(session=("i0001",), n=20)):
        full, part = shared().recommend(query), pooled.recommend(query)
        assert ids(part) == ids(full)
        np.testing.assert_allclose(
            [c.score for c in part.items], [c.score for c in full.items], atol=1e-4
        )


def test_a_small_pool_holds_what_heads_bring_and_what_is_popular():
    config = PoolConfig(full_catalogue=1, per_head=5, pool_limit=20, fresh=3)
    pooled = Recommender(model(), np.random.default_rng(0), config)
    shown = ids(pooled.recommend(Query(USER, n=5)))
    assert len(set(shown) & set(ids(shared().recommend(Query(USER, n=5))))) >= 4
    assert len(pooled.recommend(Query(USER, n=60)).items) == 60  # filled up by popularity


def test_a_filter_reaches_items_that_no_head_would_bring():
    config = PoolConfig(full_catalogue=10, per_head=1, pool_limit=2, fresh=0)
    pooled = Recommender(model(), np.random.default_rng(0), config)
    never = {str(world().data.item_ids[i]) for i in world().never_sold}
    assert set(ids(pooled.recommend(Query(filter={"item_id": frozenset(never)})))) == never


def test_pool_settings_out_of_range_are_refused():
    for wrong in ({"top": 0}, {"fresh": -1}, {"pool_limit": 10, "fresh": 6}):
        with pytest.raises(ConfigError, match="pool"):
            PoolConfig(**wrong)


# ---- heads that fail


@dataclass
class Broken:
    """A head that fails in one way: raises, or answers what is no score."""

    head: object
    how: str

    def __getattr__(self, name):
        return getattr(self.head, name)

    def start(self, history):
        if self.how == "start":
            raise RuntimeError("no start")
        return self.head.start(history)

    def score(self, states, items, now):
        if self.how == "score":
            raise RuntimeError("no score")
        scores = self.head.score(states, items, now)
        if self.how == "infinite":
            scores[0, 0] = np.inf
        return scores[:, 1:] if self.how == "narrow" else scores


@pytest.mark.parametrize("how", ["start", "score", "infinite", "narrow"])
def test_a_broken_head_is_left_out_counted_and_named(how, caplog):
    heads = {**model().heads, "ease": Broken(model().heads["ease"], how)}
    r = recommender(heads=heads)
    slate = r.recommend(Query(USER))
    r.recommend(Query(USER))
    assert slate.left_out == ("ease",)
    assert len(slate.items) == 10
    assert all("ease" not in choice.sources for choice in slate.items)
    assert r.failures == {"ease": 2}
    assert "head=ease" in caplog.text


def test_a_head_that_recovers_takes_part_again():
    broken = Broken(model().heads["ease"], "start")
    r = recommender(heads={**model().heads, "ease": broken})
    assert r.recommend(Query(USER)).left_out == ("ease",)
    broken.how = ""
    assert r.recommend(Query(USER)).left_out == ()


def test_all_heads_broken_still_gives_a_list():
    heads = {name: Broken(head, "score") for name, head in model().heads.items()}
    slate = recommender(heads=heads).recommend(Query(USER, n=3))
    assert len(slate.items) == 3
    assert [choice.score for choice in slate.items] == [0.0, 0.0, 0.0]
    assert set(slate.left_out) == set(heads)


# ---- similar, similar users, interest


def test_similar_items_come_from_the_same_cluster_first_and_never_the_item_itself():
    found = shared().similar("i0001", 5)
    assert "i0001" not in [item for item, _ in found]
    assert found[0][0] == "i0007"  # the next of its chain
    cluster = dict(zip(world().data.item_ids, world().cluster, strict=True))
    assert sum(cluster[item] == cluster["i0001"] for item, _ in found) >= 4
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def test_an_item_without_events_is_compared_by_its_content():
    never = str(world().data.item_ids[world().never_sold[0]])
    found = shared().similar(never, 5)
    cluster = dict(zip(world().data.item_ids, world().cluster, strict=True))
    assert sum(cluster[item] == cluster[never] for item, _ in found) >= 3  # chance gives 0.8


def test_an_unknown_item_has_no_neighbours_but_a_suggestion():
    with pytest.raises(UnknownItemError, match="did you mean i00"):
        shared().similar("i001")
    with pytest.raises(UnknownItemError, match="i0000"):  # found by the words of its title
        shared().similar("TEA KETTLE")


def test_a_model_without_item_heads_says_which_it_would_need():
    only = {"trending": model().heads["trending"]}
    with pytest.raises(DataError, match="transitions"):
        recommender(heads=only).similar("i0001")


def test_similar_users_is_the_cosine_of_rarity_weighted_items():
    data = world().data
    seen = data.matrix().toarray().astype(float)
    seen *= np.log1p(data.n_users / np.maximum(seen.sum(axis=0), 1))
    me = data.user_index[USER]
    cosine = seen @ seen[me] / (np.linalg.norm(seen, axis=1) * np.linalg.norm(seen[me]))
    cosine[me] = -1
    found = shared().similar_users(USER, 4)
    assert [user for user, _ in found] == list(data.user_ids[np.argsort(-cosine)[:4]])
    np.testing.assert_allclose([s for _, s in found], np.sort(cosine)[::-1][:4], atol=1e-5)
    assert shared().similar_users("never seen") == []


def test_similar_users_sees_who_came_and_what_was_learnt_after_the_fit():
    r = recommender(heads={})
    twin, other = world().data.user_ids[:2]
    taken = {h: r.history(h) for h in (twin, other)}
    for who, source in (("twin of 0", twin), (other, twin)):
        for item in np.unique(taken[source].item_idx):
            r.learn(Event(who, str(world().data.item_ids[item])))
    assert r.similar_users(twin, 1) == [("twin of 0", 1.0)]
    assert r.similar_users("twin of 0", 1) == [(twin, 1.0)]
    # What the other learnt joins what it had, and its fitted row counts no more.
    data, likes = world().data, world().data.matrix().toarray().astype(float)
    rarity = np.log1p(data.n_users / np.maximum(likes.sum(axis=0), 1))
    a, b = likes[0] * rarity, np.maximum(likes[0], likes[1]) * rarity
    found = r.similar_users(twin, data.n_users + 1)
    assert dict(found)[other] == pytest.approx(
        a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5
    )
    assert len({u for u, _ in found}) == len(found)
    assert twin not in dict(found)


def test_interest_is_a_softmax_of_the_scores_over_what_may_be_shown():
    query = Query(USER, n=60, repeats=False, exclude=frozenset({"i0059"}))
    slate = shared().recommend(query)
    every = [str(i) for i in world().data.item_ids]
    p = shared().interest(query, every)
    assert sum(p.values()) == pytest.approx(1.0)
    assert p["i0059"] == 0.0
    assert all(p[item] == 0.0 for item in own_items(USER))
    scores = np.array([choice.score for choice in slate.items])
    softmax = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose([p[i] for i in ids(slate)], softmax, rtol=1e-5)
    assert shared().interest(replace(query, exclude=frozenset(every)), every[:1]) == {every[0]: 0.0}


def test_interest_beside_the_pool_keeps_mass_for_the_rest():
    config = PoolConfig(full_catalogue=1, per_head=3, pool_limit=10, fresh=2)
    pooled = Recommender(model(), np.random.default_rng(0), config)
    p = pooled.interest(Query(USER, n=5), ["i0001", "i0007"])
    assert 0 < sum(p.values()) < 1
    with pytest.raises(UnknownItemError):
        pooled.interest(Query(USER), ["no such"])


# ---- reasons


def test_reasons_name_items_of_the_users_own_history():
    slate = shared().recommend(Query(USER, n=20, now=world().now))
    told = [choice for choice in slate.items if choice.because]
    assert len(told) >= 10
    titles = dict(zip(world().data.item_ids, world().data.items["title"], strict=True))
    for choice in told:
        assert len(choice.because) <= 3
        assert set(choice.because) <= own_items(USER)
        if "(in your history)" in choice.reason:
            assert any(titles[item] in choice.reason for item in own_items(USER))


def test_the_reason_of_a_session_names_the_item_just_seen():
    slate = shared().recommend(Query(session=("i0001",), n=20, repeats=False))
    next_one = next(choice for choice in slate.items if choice.item_id == "i0007")
    title = world().data.items["title"][1]
    assert next_one.because == ("i0001",)
    assert title in next_one.reason


def only(name, weight=1.0):
    """A recommender in which one head alone decides."""
    theta = np.zeros_like(model().strategy.theta)
    theta[list(model().heads).index(name), 0] = weight
    return recommender(strategy=replace(model().strategy, theta=theta))


def test_each_family_of_heads_has_its_own_words():
    title = world().data.items["title"][1]
    session = Query(session=("i0001",) * 10, n=1, repeats=False)
    words = {
        "transitions": f"Often taken right after {title} (in your history).",
        "item_knn": f"Often taken together with {title} (in your history).",
        "als": "People with a taste like yours chose this.",
        "content": f"Similar in text to {title} (in your history).",
    }
    for name, sentence in words.items():
        assert only(name).recommend(session).items[0].reason == sentence


def test_a_head_that_counts_against_is_no_reason_for_what_it_finds_unlikely():
    slate = only("content", -1.0).recommend(Query(session=("i0001",) * 10, n=10, repeats=False))
    assert all(choice.sources["content"] > 0 for choice in slate.items)
    assert {choice.reason for choice in slate.items} == {"A pick from the rest of the catalogue."}


def test_a_repeat_says_how_often_and_when():
    r = only("repeat")
    day = 86_400.0
    start = world().now - 30 * day
    r._people._live["new"] = Growing(
        History(
            np.array([1, 2, 1, 1, 3], np.int32),
            np.ones(5, np.float32),
            start + day * np.arange(5.0),
            np.full(5, -1, np.int32),
        ),
        99,
    )
    slate = r.recommend(Query("new", n=60, repeats=True, now=start + 26.5 * day))
    reason = {choice.item_id: choice.reason for choice in slate.items}
    sources = {choice.item_id: choice.sources["repeat"] for choice in slate.items}
    assert sources["i0001"] > 0
    assert reason["i0001"] == "You turned to it 3 times, last 23 days ago."


def test_an_item_of_the_own_history_is_told_as_such_and_not_as_like_itself():
    r = only("content")
    events = (
        np.array([1], np.int32), np.ones(1, np.float32), np.array([world().now]),
        np.array([-1], np.int32),
    )  # fmt: skip
    r._people._live["new"] = Growing(History(*events), 99)
    slate = r.recommend(Query("new", n=60, repeats=True, now=world().now + 3_600.0))
    reason = {choice.item_id: choice.reason for choice in slate.items}
    assert reason["i0001"] == "You turned to it before, today."
    assert reason["i0007"].startswith("Similar in text to")
