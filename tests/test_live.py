"""The live engine over the log: what it forgets, follows and grows by, without HTTP."""

import threading

import numpy as np
import pytest

from engine_worlds import HEADS, refitted, world
from service_worlds import own_model
from steerec.contracts import Event, Query
from steerec.engine.growth import ItemChange, caught_up, changed
from steerec.engine.kin import with_kin
from steerec.engine.live import Live
from steerec.engine.live_config import LiveConfig
from steerec.engine.pool import PoolConfig
from steerec.store import open_store
from steerec.store.catalogue import Entry
from steerec.store.log import LoggedEvent

NOW = world().now


@pytest.fixture
def store(sqlite_url):
    opened = open_store(sqlite_url)
    yield opened
    opened.close()


def live_over(store, model=None):
    return Live("shop", store, model or own_model(), LiveConfig(), now=NOW)


def append(store, *events, first=0):
    batch = [LoggedEvent(f"e{first + n}", one) for n, one in enumerate(events)]
    store.log.append("shop", batch, now=NOW)
    return store.log.read("shop", after=0, limit=10_000)[-len(batch) :]


def listed(live, user_id, n=5):
    found = live.recommend(Query(user_id, n=n), request_id="r", now=NOW)
    return [choice.item_id for choice in found.slate.items]


def test_what_heads_call_exact_equals_a_fit_without_the_user(store):
    """To 1e-6, for users of other histories; the rest waits for the next fit and says so."""
    data, gone = world().data, 11
    live = live_over(store)
    told = live.forget(str(data.user_ids[gone]), seq=1)
    assert set(told) == set(HEADS)
    exact = [name for name, said in told.items() if said == "exact"]
    assert set(exact) == {"content", "transitions", "ease", "item_knn"}
    without = data.take(data.user_idx != gone)
    others = [data.history(u) for u in range(0, 60, 7) if u != gone]
    now = np.full(len(others), NOW)
    heads, rng = live.model.heads, np.random.default_rng(0)
    anew = {name: type(heads[name]).fit(without, heads[name].config, rng) for name in exact}
    anew = with_kin(anew, np.bincount(without.item_idx, minlength=without.n_items) == 0)
    for name in exact:
        head, again = heads[name], anew[name]
        left = head.score([head.start(h) for h in others], None, now)
        right = again.score([again.start(h) for h in others], None, now)
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_user_with_live_events_is_forgotten_exactly_only_by_heads_that_did_not_count_them(store):
    live = live_over(store)
    live.take(append(store, Event("u0001", "i0003")), now=NOW)
    told = live.forget("u0001", seq=9)
    assert told["transitions"] == told["trending"] == "next fit"
    assert told["content"] == "exact"


def test_forgetting_twice_takes_nothing_out_twice(store):
    live = live_over(store)
    live.forget("u0001", seq=1)
    counts = live.model.heads["transitions"].counts.copy()
    live.forget("u0001", seq=2)
    np.testing.assert_array_equal(live.model.heads["transitions"].counts, counts)


def test_what_waits_for_the_next_fit_is_told_whoever_came_to_the_erasure_first(store):
    """A process that shares its store may follow an erasure before the call that made it."""
    first, second = live_over(store), live_over(store)
    told = first.forget("u0001", seq=store.persons.erase("shop", "u0001", now=NOW).seq)
    second.follow(now=NOW)
    assert second.forget("u0001", seq=first.store.last_seq("shop")) == told
    assert set(told.values()) == {"exact", "next fit"}


def test_a_user_erased_twice_still_waits_for_the_next_fit(store):
    live = live_over(store)
    told = live.forget("u0001", seq=1)
    assert live.forget("u0001", seq=2) == told
    assert live.forget("u0001", seq=2) == told


def test_an_event_of_a_new_item_that_is_under_way_at_an_erasure_counts_once(store):
    live = live_over(store)
    erased = store.persons.erase("shop", "u0001", now=NOW)
    (logged,) = append(store, Event("u0001", "brand-new"))
    assert live._begun([logged]) == [logged]  # as `take` does, before it meets the item
    live.forget("u0001", seq=erased.seq)
    live._learn(logged, NOW)
    assert len(live.recommender.history("u0001")) == 1


def test_who_comes_back_while_the_erasure_is_answered_keeps_the_new_events(store):
    live = live_over(store)
    erased = store.persons.erase("shop", "u0001", now=NOW)
    live.take(append(store, Event("u0001", "i0005")), now=NOW)
    live.forget("u0001", seq=erased.seq)
    assert live.recommender.history("u0001").item_idx.tolist() == [5]


def test_an_erasure_by_another_process_is_followed_and_new_events_stay(store):
    live = live_over(store)
    live.take(append(store, Event("u0001", "i0003")), now=NOW)
    erased = store.persons.erase("shop", "u0001", now=NOW)
    new = [LoggedEvent("back", Event("u0001", "i0005", timestamp=NOW + 5))]
    store.log.append("shop", new, now=NOW + 5)
    (back,) = store.log.read("shop", after=erased.seq)
    live.take([back], now=NOW + 5)  # it came here before the erasure was heard of
    live.follow(now=NOW + 5)
    assert live.recommender.history("u0001").item_idx.tolist() == [5]
    live.follow(now=NOW + 5)
    assert live.recommender.history("u0001").item_idx.tolist() == [5]


def test_events_taken_in_any_order_and_twice_count_once(store):
    other = live_over(store)
    stored = append(
        store, *(Event(f"new-{n % 3}", f"i{n:04d}", timestamp=NOW - n) for n in range(9))
    )
    straight = live_over(store)
    assert straight.applied["events"] == 9  # read at the start
    other.take([*stored[::-1], *stored], now=NOW)
    assert other.applied["events"] == 9
    one, same = (live.model.heads["trending"].table for live in (other, straight))
    np.testing.assert_allclose(one, same, rtol=1e-9)
    for user in ("new-0", "new-1", "new-2"):
        items = other.recommender.history(user).item_idx.tolist()
        assert items == straight.recommender.history(user).item_idx.tolist()
        assert listed(other, user) == listed(straight, user)


def test_above_the_full_catalogue_new_items_are_candidates_by_when_they_were_first_seen(store):
    pool = PoolConfig(full_catalogue=10, pool_limit=12, fresh=2, from_fused=0)
    live = Live("shop", store, own_model(), LiveConfig(pool=pool), now=NOW)

    def new_among(query, now):
        scored = live.recommender.score(Query(query, n=5, now=now))
        ids = {str(live.model.data.item_ids[i]) for i in scored.items}
        return sorted(i for i in ids if i.startswith("new"))

    assert new_among("u0001", NOW) == []
    for hours, name in enumerate(("new-a", "new-b", "new-c")):
        store.items.upsert("shop", [Entry(name)], now=NOW + 3_600 * hours)
        live.follow_items(now=NOW + 3_600 * hours)
    assert new_among("u0001", NOW + 7_200) == ["new-b", "new-c"]
    live.take(append(store, Event("u0002", "i0003")), now=NOW + 7_200)  # no news: it is known
    assert new_among("u0001", NOW + 7_200) == ["new-b", "new-c"]
    late = append(store, Event("u0002", "new-c", timestamp=NOW - 9e6), first=5)
    live.take(late, now=NOW + 7_200)  # which was there long before it was written
    assert new_among("u0001", NOW + 7_200) == ["new-a", "new-b"]


def test_following_the_log_empties_what_was_remembered_one_by_one(store):
    live = live_over(store)
    live.take(append(store, *(Event("ann", f"i{n:04d}") for n in range(20))), now=NOW)
    assert live.n_ahead == 20
    assert live.follow(now=NOW) == 20
    assert live.n_ahead == 0
    assert live.applied["events"] == 20


def test_what_is_counted_while_a_longer_catalogue_is_made_is_not_lost():
    model = own_model()
    longer = changed(model, [ItemChange("new", {"title": "tea"})])
    trending = model.heads["trending"]
    before = trending.counts[-1, 3]
    trending.observe(trending.start(world().data.history(0)), world().data.history(1).slice(0, 1))
    item = int(world().data.history(1).item_idx[0])
    assert longer.heads["trending"].counts[-1, item] == trending.counts[-1, item] - 1
    caught = caught_up(longer, model)
    assert caught.heads["trending"].counts[-1, item] == trending.counts[-1, item]
    assert caught.heads["trending"].n_items == caught.data.n_items
    assert trending.counts[-1, 3] >= before


def test_requests_are_answered_while_items_join_and_are_hidden(store):
    """From another thread, all the while: no failure, and never an item hidden from birth."""
    live, stop, failed = live_over(store), threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                found = listed(live, "u0001", n=200)
            except Exception as e:
                failed.append(e)
                return
            failed.extend(i for i in found if i.startswith("hidden"))

    asking = threading.Thread(target=ask)
    asking.start()
    for n in range(8):
        entries = [Entry(f"hidden-{n}", hidden=True), Entry(f"seen-{n}", {"title": "tea"})]
        store.items.upsert("shop", entries, now=NOW)
        live.follow_items(now=NOW)
    stop.set()
    asking.join()
    assert failed == []
    assert {f"seen-{n}" for n in range(8)} <= set(listed(live, "u0001", n=200))


def test_a_swap_answers_from_the_new_model_with_all_events(store):
    live = live_over(store)
    live.take(append(store, Event("ann", "i0003"), Event("ann", "brand-new")), now=NOW)
    before = listed(live, "ann")
    live.swap(refitted(), now=NOW)
    assert listed(live, "ann") == before
    assert live.recommender.history("ann").item_idx.tolist() == [3, 60]


def test_an_event_that_comes_while_a_model_is_swapped_in_counts(store):
    live = live_over(store)

    def ready(_):
        live.take(append(store, Event("ann", "i0003")), now=NOW)

    live.swap(refitted(), now=NOW, ready=ready)
    assert live.recommender.history("ann").item_idx.tolist() == [3]
