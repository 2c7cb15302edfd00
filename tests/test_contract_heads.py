"""Every head of the table keeps the promises of heads/contract.py."""

from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest

from steerec.contracts import History
from steerec.heads import HEADS, load_head
from worlds import CLUSTERS, hold_out, shop

# Least NDCG@10 over the 96 items of the generated shop; a random order gets .047, so each floor
# stands well above chance and a little under what the head reached when it was written.
FLOORS = {
    "trending": 0.08,
    "repeat": 0.20,
    "transitions": 0.40,
    "autoregressive": 0.40,
    "ease": 0.28,
    "item_knn": 0.33,
    "user_knn": 0.28,
    "als": 0.20,
    "ratings": 0.08,
    "content": 0.16,
    "sequence": 0.40,
    "gru": 0.35,
    "two_tower": 0.40,
    "demographic": 0.16,
    "social": 0.16,
}
BY_PERSON = {"demographic", "social"}  # these read who the user is, not what they did
AND_PERSON = {*BY_PERSON, "two_tower"}  # these read who the user is, too

# Heads that train by epochs: enough to be well above chance, and no more.
BRIEF = {
    "sequence": {"epochs": 8, "length": 30},
    "gru": {"epochs": 8, "length": 20},
    "two_tower": {"epochs": 5, "length": 20, "hidden": 32, "keep": (0.0, 0.8), "hard": 8}
    | {"rerank": 20, "learning_rate": 5e-3},
}

every_head = pytest.mark.parametrize("name", HEADS)


@cache
def world():
    """The shop, whose views are ratings: five stars or so in a user's favourite cluster."""
    made = shop()
    data, rng = made.data, np.random.default_rng(7)
    assert data.kinds == ("purchase", "view")
    own = made.cluster[data.item_idx] == data.user_idx % len(CLUSTERS)
    stars = np.clip(np.round(2.5 + 2 * own + 0.7 * rng.standard_normal(len(own))), 1, 5)
    value = np.where(data.kind == 1, stars, np.nan).astype(np.float32)
    return replace(made, data=replace(data, kinds=("purchase", "rating"), value=value))


@cache
def held_out():
    return hold_out(world().data)


def fit(name, data, seed=0):
    cls = load_head(name)
    config = getattr(import_module(cls.__module__), f"{cls.__name__}Config")(**BRIEF.get(name, {}))
    return cls.fit(data, config, np.random.default_rng(seed))


@cache
def fitted(name):
    return fit(name, held_out().train)


def scores(head, histories, items=None):
    states = [head.start(history) for history in histories]
    return head.score(states, items, np.full(len(states), world().now))


def some_histories():
    return held_out().histories[:7]


def with_weight(history, item, weight):
    time, stars = world().now - 60, 4.5 if weight > 0 else 1.0
    return history.append(item, weight=weight, time=time, basket=10**6, rating=stars)


def test_every_head_has_a_quality_floor():
    assert set(FLOORS) == set(HEADS)


@every_head
def test_scores_are_float32_of_batch_by_items(name):
    head = fitted(name)
    assert head.name == name
    assert head.n_items == world().data.n_items
    full = scores(head, some_histories())
    part = scores(head, some_histories(), np.array([5, 1, 8], np.int32))
    assert full.shape == (7, head.n_items)
    assert full.dtype == np.float32
    assert part.shape == (7, 3)
    assert part.dtype == np.float32
    assert not np.isinf(full).any()


@every_head
def test_a_user_never_seen_is_scored_from_the_history_alone(name):
    history = held_out().histories[3]
    stranger = replace(history, user_idx=-1)
    found = scores(fitted(name), [stranger])
    assert found.shape == (1, world().data.n_items)
    assert np.isfinite(found).any() != (name in BY_PERSON)


@every_head
def test_an_empty_history_scores_the_same_for_everyone(name):
    known = -1 if name in AND_PERSON else 3
    found = scores(fitted(name), [History.of([]), History.of([], user_idx=known)])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.isinf(found).any()


@every_head
def test_items_never_sold_have_one_defined_answer(name):
    never = world().never_sold
    head = fitted(name)
    found = scores(head, some_histories(), never)
    assert not np.isinf(found).any()
    only_them = scores(head, [History.of(never)])
    assert not np.isinf(only_them).any()
    if name == "content":
        assert np.isfinite(found).all()
        assert np.isfinite(only_them).all()


@every_head
def test_one_event_is_a_history(name):
    found = scores(fitted(name), [held_out().histories[0].last(1)])
    assert np.isfinite(found).any()


@every_head
def test_ten_thousand_events_are_a_history(name):
    n = 10_000
    items = np.arange(n, dtype=np.int32) % 90
    time = world().now - 60.0 * np.arange(n, 0, -1)
    basket = np.arange(n, dtype=np.int32) // 3
    weight, rating = np.ones(n, np.float32), np.full(n, 4.0, np.float32)
    history = History(items, weight, time, basket, 2, rating=rating)
    found = scores(fitted(name), [history])
    assert np.isfinite(found).any()
    assert not np.isinf(found).any()


@every_head
def test_a_dislike_never_speaks_for_its_cluster_more_than_a_like(name):
    head = fitted(name)
    for history in some_histories():
        item = int(history.item_idx[0])
        like = world().cluster == world().cluster[item]
        liked, disliked = scores(
            head, [with_weight(history, item, 1.0), with_weight(history, item, -1.0)]
        )
        gap = np.nan_to_num(disliked[like]) - np.nan_to_num(liked[like])
        assert gap.mean() <= 1e-6


@every_head
def test_a_history_of_dislikes_is_defined(name):
    found = scores(fitted(name), [with_weight(History.of([]), 4, -1.0)])
    assert not np.isinf(found).any()


@every_head
def test_saving_and_loading_gives_equal_scores(name, tmp_path):
    head = fitted(name)
    head.save(tmp_path)
    again = type(head).load(tmp_path)
    np.testing.assert_array_equal(scores(again, some_histories()), scores(head, some_histories()))
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".npz", ".npy", ".safetensors", ".parquet"}


@every_head
def test_a_steady_head_says_the_same_at_any_time_whatever_others_do(name):
    head, others = fitted(name), held_out().histories[7:12]
    if name in ("transitions", "trending", "demographic", "repeat", "sequence", "gru"):
        assert not getattr(head, "steady", False)
        return
    assert head.steady
    states = [head.start(history) for history in some_histories()]
    before = head.score(states, None, np.full(len(states), world().now))
    for other in others:
        head.observe(head.start(other), with_weight(History.of([]), 4, 1.0))
    after = head.score(states, None, np.full(len(states), world().now + 1e7))
    np.testing.assert_array_equal(after, before)
    again = head.score(states[:1], None, np.array([np.nan]))
    alone = head.score(states[:1], None, np.array([world().now]))
    np.testing.assert_array_equal(again, alone)


@every_head
def test_same_seed_same_result(name):
    again = fit(name, held_out().train)
    np.testing.assert_array_equal(
        scores(again, some_histories()), scores(fitted(name), some_histories())
    )


@every_head
def test_some_items_score_like_their_columns_of_the_whole(name):
    items = np.array([90, 3, 17, 3, 0], np.int32)
    for histories in (some_histories(), some_histories()[:1]):
        whole = scores(fitted(name), histories)
        part = scores(fitted(name), histories, items)
        np.testing.assert_allclose(part, whole[:, items], rtol=1e-4, atol=1e-5)


@every_head
def test_a_batch_scores_like_one_by_one(name):
    histories = [*some_histories(), History.of([])]
    batch = scores(fitted(name), histories)
    for row, history in zip(batch, histories, strict=True):
        np.testing.assert_allclose(scores(fitted(name), [history])[0], row, rtol=1e-4, atol=1e-5)


@every_head
def test_updating_with_the_last_event_is_starting_with_all(name):
    head = fitted(name)
    now = np.array([world().now])
    for history in some_histories():
        n = len(history)
        state = head.update(head.start(history.slice(0, n - 1)), history.slice(n - 1, n))
        np.testing.assert_allclose(
            head.score([state], None, now), scores(head, [history]), rtol=1e-4, atol=1e-5
        )


@every_head
def test_updating_leaves_the_given_state_as_it_was(name):
    head = fitted(name)
    history = held_out().histories[1]
    now = np.array([world().now])
    state = head.start(history.slice(0, 5))
    before = head.score([state], None, now)
    head.update(state, history.slice(5, 6))
    np.testing.assert_array_equal(head.score([state], None, now), before)


@every_head
def test_retrieve_brings_the_best_scored_items_in_order(name):
    head = fitted(name)
    history = held_out().histories[2]
    found = head.retrieve(head.start(history), 10, world().now)
    assert found.dtype == np.int32
    assert 0 < len(found) <= 10
    assert len(set(found.tolist())) == len(found)
    score = scores(head, [history])[0]
    assert np.isfinite(score[found]).all()
    assert (np.diff(score[found]) <= 1e-5).all()


@every_head
def test_because_speaks_of_every_event_or_of_none(name):
    head = fitted(name)
    history = held_out().histories[2]
    state = head.start(history)
    best_item = int(head.retrieve(state, 1, world().now)[0])
    spoke = head.because(state, best_item)
    assert len(spoke) in (0, len(history))
    assert np.isfinite(spoke).all()


@every_head
def test_observing_an_event_leaves_scores_defined(name, tmp_path):
    fitted(name).save(tmp_path)
    head = type(fitted(name)).load(tmp_path)  # a copy: observing may change the head
    history = held_out().histories[0]
    n = len(history)
    head.observe(head.start(history.slice(0, n - 1)), history.slice(n - 1, n))
    found = scores(head, some_histories())
    assert np.isfinite(found).any()
    assert not np.isinf(found).any()


# Sums and closed forms; what the others learnt of a person goes at the next fit.
EXACT = {"transitions", "ease", "item_knn", "user_knn", "content", "social"}
AT_ONCE = {"trending"}  # counts go at once, a few numbers fitted to them wait


def without(data, *gone):
    """The data as if these users had never been there, but for their empty rows."""
    friends = data.social[~np.isin(data.social, gone).any(axis=1)]
    return replace(data.take(~np.isin(data.user_idx, gone)), social=friends)


def copied(name, folder):
    fitted(name).save(folder)
    return type(fitted(name)).load(folder)


@every_head
def test_forgetting_is_exact_where_it_says_so(name, tmp_path):
    """To 1e-6 against a fit without the users, for users of other histories."""
    train, head = held_out().train, copied(name, tmp_path)
    said = {head.forget(gone, train.history(gone)) for gone in (11, 30, 31)}
    assert said == {name in EXACT}
    if name in EXACT:
        again = fit(name, without(train, 11, 30, 31))
        np.testing.assert_allclose(
            scores(head, some_histories()), scores(again, some_histories()), rtol=1e-6, atol=1e-6
        )
    elif name not in AT_ONCE:
        np.testing.assert_array_equal(
            scores(head, some_histories()), scores(fitted(name), some_histories())
        )  # it waits for the refit, untouched


@pytest.mark.parametrize("name", sorted(EXACT - {"content"}))
def test_what_only_the_forgotten_user_took_is_known_no_more(name, tmp_path):
    """Also after the head went to disk and back in between, as a snapshot does."""
    train, never = held_out().train, int(world().never_sold[0])
    item_idx = train.item_idx.copy()
    item_idx[train.starts[11] + 2] = never
    only = replace(train, item_idx=item_idx)
    head = fit(name, only)
    head.save(tmp_path)
    head = type(head).load(tmp_path)
    history = History.of([never, 3], user_idx=3)
    assert np.isfinite(scores(head, [history])[0, never])
    assert head.forget(11, only.history(11))
    found, expected = (scores(one, [history]) for one in (head, fit(name, without(only, 11))))
    assert np.isnan(found[0, never])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_forgetting_a_user_without_events_changes_nothing(name):
    less = without(held_out().train, 11)
    head = fit(name, less)
    before = scores(head, some_histories())
    assert head.forget(11, less.history(11))
    np.testing.assert_allclose(scores(head, some_histories()), before, rtol=1e-6)


@pytest.mark.parametrize("timed", [True, False])
def test_counts_of_trending_go_at_once(timed, tmp_path):
    data = held_out().train
    if not timed:
        data = replace(data, time=np.full(data.n_events, np.nan))
    head, again = fit("trending", data), fit("trending", without(data, 11, 30))
    head.forget(11, data.history(11))
    head.forget(30, data.history(30))
    late = 2.0 ** ((head.clock - again.clock) / 86_400 / np.array(head.config.half_lives_days))
    late = np.append(late, 1.0)[:, None] if timed else 1.0  # of another newest event
    np.testing.assert_allclose(head.counts * late, again.counts, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(head.firsts, again.firsts)


@every_head
def test_quality_on_the_generated_shop_is_well_above_chance(name):
    assert ndcg_at_10(fitted(name)) >= FLOORS[name]


def ndcg_at_10(head):
    """Mean over users; ties count as half, NaN ranks last."""
    found = np.nan_to_num(scores(head, held_out().histories), nan=-np.inf)
    own = found[np.arange(len(found)), held_out().target][:, None]
    place = (found > own).sum(axis=1) + ((found == own).sum(axis=1) - 1) / 2
    return float(np.where(place < 10, 1 / np.log2(place + 2), 0.0).mean())
