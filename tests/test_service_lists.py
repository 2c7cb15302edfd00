"""Lists over HTTP: availability, pages, explanations, scenarios, idempotency, and a bare start."""

import asyncio
import secrets
from dataclasses import replace

import numpy as np
import pytest

from service_worlds import opened, problem
from steerec.encoders.hashing import HashingEncoder
from steerec.errors import EncoderError

DAY = 86_400.0


def slate(shop, user_id="u0001", **params):
    return shop.get(f"/api/recommend/{user_id}", params=params).json()


def ids(answer):
    return [choice["item_id"] for choice in answer["items"]]


# What must not appear


@pytest.mark.parametrize(
    "change",
    [{"hidden": True}, {"stock": 0}, {"expires": 1.0}, {"published": 1e11}],
    ids=lambda change: next(iter(change)),
)
def test_an_item_goes_from_the_next_request_on_and_comes_back(shop, change):
    shop.post("/api/items", {"id": "i0025", "attributes": {"title": "garden"}})
    shop.settle()
    assert "i0025" in shop.ids("u0001", n=60)
    assert shop.call("PATCH", "/api/items/i0025", json=change).status_code == 200
    assert "i0025" not in shop.ids("u0001", n=60)  # before anything was taken in
    assert "i0025" not in [i["id"] for i in shop.get("/api/popular?n=60").json()["items"]]
    assert "i0025" not in [i["id"] for i in shop.get("/api/latest?n=60").json()["items"]]
    assert "i0025" not in [i["id"] for i in shop.get("/api/items/i0019/similar").json()["items"]]
    ranked = shop.post("/api/rank", {"user_id": "u0001", "candidates": ["i0025", "i0001"]}).json()
    assert ids(ranked) == ["i0001"]
    shop.settle()
    assert "i0025" not in shop.ids("u0001", n=60)
    shop.post("/api/items", {"id": "i0025"})
    assert "i0025" in shop.ids("u0001", n=60)


def test_a_deleted_item_is_gone_at_once_and_after_a_restart_and_events_do_not_revive_it(
    sqlite_url, loop
):
    shop = opened(sqlite_url, fitted=False, loop=loop)
    shop.post("/api/items", {"entries": [{"id": "a"}, {"id": "b"}]})
    shop.settle()
    shop.event("ann", "a")
    assert shop.call("DELETE", "/api/items/a").json() == {"count": 1}
    assert shop.ids("bob") == ["b"]
    shop.event("ann", "a")
    shop.settle()
    assert shop.ids("bob") == ["b"]
    shop.close()
    shop = opened(sqlite_url, fitted=False, loop=loop)
    assert shop.ids("bob") == ["b"]
    assert len(shop.tenant().live.recommender.history("ann")) == 2
    shop.close()


def test_items_of_the_model_are_in_the_catalogue_and_stay_deleted_after_a_restart(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop)
    shop.tenant()
    assert shop.get("/api/items/i0001").json()["attributes"]["title"].startswith("garden")
    assert shop.call("DELETE", "/api/items/i0001").json() == {"count": 1}
    assert shop.call("PATCH", "/api/items/i0002", json={"hidden": True}).status_code == 200
    shop.close()
    shop = opened(sqlite_url, loop=loop)
    assert not {"i0001", "i0002"} & set(shop.ids("u0001", n=60))
    problem(shop.get("/api/items/i0001"), 404)
    shop.close()


def test_what_was_written_last_holds_though_an_older_state_is_taken_in_after_it(shop):
    """The catalogue is read, then an item is hidden, then what was read is taken in."""
    shop.post("/api/items", {"id": "i0025"})
    live, changes = shop.tenant().live, shop.service.store.items.changes
    read = changes("default", after=live._state.items_seq)
    shop.call("PATCH", "/api/items/i0025", json={"hidden": True})
    with live._catalogue:
        live._put_items(read, shop.clock.now)
    assert "i0025" not in shop.ids("u0001", n=60)
    shop.settle()
    assert "i0025" not in shop.ids("u0001", n=60)
    shop.call("PATCH", "/api/items/i0025", json={"hidden": False})
    shop.settle()
    assert "i0025" in shop.ids("u0001", n=60)


def test_publication_and_expiry_happen_by_the_clock_alone(shop):
    now = shop.clock.now
    shop.post("/api/items", {"id": "soon", "published": now + 10, "expires": now + 20})
    shop.settle()
    seen = []
    for at in (0, 10, 19.9, 20):
        shop.clock.now = now + at
        seen.append("soon" in shop.ids("u0001", n=100))
    assert seen == [False, True, True, False]


def test_everything_excluded_or_filtered_is_an_empty_list(shop):
    every = [f"i{i:04d}" for i in range(60)]
    answer = shop.post("/api/recommend", {"user_id": "u0001", "exclude": every})
    assert answer.json()["items"] == []
    assert answer.json()["next"] is None
    assert slate(shop, filter="price > 1000000")["items"] == []
    assert slate(shop, n=1000)["next"] is None


def test_a_filter_the_scenarios_condition_and_candidates_hold_together(shop):
    body = {"user_id": "u0001", "scenario": "cheap", "filter": "price > 7", "n": 50}
    answer = shop.post("/api/recommend", body).json()
    assert sorted(ids(answer)) == [f"i{i:04d}" for i in range(3, 15)]  # price = 5 + i
    assert answer["applied"]["filter"] == "(price < 20) and (price > 7)"
    answer = shop.post("/api/recommend", {**body, "candidates": ["i0003", "i0050", "no"]}).json()
    assert ids(answer) == ["i0003"]
    assert answer["applied"]["unknown_candidates"] == ["no"]
    assert len(ids(slate(shop, scenario="cheap"))) == 3


def test_a_condition_of_the_settings_that_no_item_knows_lets_none_through_and_says_so(bare, caplog):
    bare.post("/api/items", {"entries": [{"id": "a"}, {"id": "b"}]})
    bare.settle()
    assert sorted(bare.ids("ann")) == ["a", "b"]
    for _ in range(2):
        answer = slate(bare, scenario="cheap")  # price < 20
        assert answer["items"] == []
        assert answer["applied"]["filter"] == "price < 20"
        assert answer["applied"]["unknown_attributes"] == ["price"]
    assert caplog.text.count("scenario=cheap condition='price < 20': no item has price") == 1
    told = problem(bare.get("/api/recommend/ann?filter=price<20"), 422)  # a caller's own is refused
    assert "items have no attribute price" in told
    bare.post("/api/items", {"id": "b", "attributes": {"price": "cheap"}})
    bare.settle()
    told = problem(bare.get("/api/recommend/ann?scenario=cheap"), 422)
    assert "the condition of scenario 'cheap' in the settings, not of this call" in told


def test_a_scenario_that_no_settings_know_is_answered_as_the_default_and_named(shop):
    assert slate(shop, scenario="chaep")["applied"]["unknown_scenario"] == "chaep"
    answer = shop.post("/api/rank", {"candidates": ["i0001"], "scenario": "chaep"}).json()
    assert answer["applied"]["unknown_scenario"] == "chaep"
    for known in ("cheap", "default", ""):
        assert "unknown_scenario" not in slate(shop, scenario=known)["applied"]


def test_a_condition_of_the_settings_counts_as_soon_as_an_item_has_the_attribute(bare):
    assert slate(bare, scenario="cheap")["applied"]["unknown_attributes"] == ["price"]
    bare.post("/api/items", {"entries": [{"id": "a", "attributes": {"price": 9}}, {"id": "b"}]})
    bare.settle()
    answer = slate(bare, scenario="cheap")
    assert ids(answer) == ["a"]
    assert "unknown_attributes" not in answer["applied"]


def test_a_session_without_a_user_is_answered_and_its_unknown_items_are_named(shop):
    answer = shop.post("/api/recommend", {"session": ["i0001", "none", "i0007"], "n": 5}).json()
    assert len(answer["items"]) == 5
    assert answer["applied"]["unknown_session_items"] == ["none"]
    assert not {"i0001", "i0007"} & set(ids(answer)) or shop.tenant().live.model.repeats


# Pages, explanations, replays


@pytest.mark.parametrize("scenario", [None, "explore", "varied"])
def test_pages_are_one_long_list_that_stays_the_same_while_events_come(shop, scenario):
    first = slate(shop, n=5, **({"scenario": scenario} if scenario else {}))
    long = [*ids(first)]
    token, positions = first["next"], [c["position"] for c in first["items"]]
    shop.flush()
    for page in range(3):
        shop.event("u0001", f"i{page:04d}")
        params = {"next": token, "n": 4}
        answer = shop.get("/api/recommend/u0001", params=params).json()
        assert answer == shop.get("/api/recommend/u0001", params=params).json()
        assert answer["request_id"] == first["request_id"]
        long += ids(answer)
        positions += [c["position"] for c in answer["items"]]
        token = answer["next"]
    assert len(set(long)) == len(long) == 17
    assert positions == list(range(1, 18))


def test_a_page_leaves_out_what_was_hidden_meanwhile_and_ends_in_time(shop):
    first = slate(shop, n=5)
    shop.flush()
    params = {"next": first["next"], "n": 5}
    gone = ids(shop.get("/api/recommend/u0001", params=params).json())[0]
    shop.post("/api/items", {"id": gone, "hidden": True})
    later = shop.get("/api/recommend/u0001", params=params).json()
    assert gone not in ids(later)
    assert [c["position"] for c in later["items"]] == [6, 7, 8, 9]
    problem(shop.get("/api/recommend/u0002", params=params), 404)  # another's list
    shop.clock.now += 1_801
    problem(shop.get("/api/recommend/u0001", params=params), 404)


@pytest.mark.parametrize("scenario", ["default", "explore", "varied"])
def test_a_past_list_is_explained_and_replays_from_the_log_also_after_a_restart(
    sqlite_url, loop, scenario
):
    shop = opened(sqlite_url, loop=loop)
    made = slate(shop, n=6, scenario=scenario)
    shop.event("u0001", ids(made)[0], request_id=made["request_id"])
    shop.flush()
    path = f"/api/requests/{made['request_id']}/explain"
    told = shop.get(path).json()
    shop.close()
    shop = opened(sqlite_url, loop=loop)
    again = shop.get(path).json()
    shop.close()
    assert again == told
    assert told["replayed_the_same"] is True
    assert [part["item_id"] for part in told["items"]] == ids(made)
    for part, choice in zip(told["items"], made["items"], strict=True):
        assert part["propensity"] == pytest.approx(choice["propensity"], rel=1e-6)
        assert sum(part["sources"].values()) == pytest.approx(part["score"], abs=1e-5)
    assert told["weights"].keys() >= set(shop_heads())
    assert (told["temperature"] > 0) == (scenario != "default")


def test_a_log_that_does_not_give_the_list_again_is_told(shop):
    first = slate(shop, n=6, scenario="explore")
    shop.flush()
    store = shop.service.store.shown
    (logged,) = store.get("default", first["request_id"])
    seeds = [replace(logged, request_id=f"other-{n}", seed=logged.seed + 1 + n) for n in range(5)]
    for other in seeds:
        store.append("default", other)
    paths = [f"/api/requests/{other.request_id}/explain" for other in seeds]
    assert not all(shop.get(path).json()["replayed_the_same"] for path in paths)


def shop_heads():
    from engine_worlds import HEADS

    return HEADS


def test_exploring_lists_differ_by_request_and_their_propensities_are_probabilities(shop):
    lists = [slate(shop, n=3, scenario="explore") for _ in range(12)]
    assert len({tuple(ids(one)) for one in lists}) > 1
    told = np.array([[c["propensity"] for c in one["items"]] for one in lists])
    assert ((told > 0) & (told <= 1)).all()
    best = [slate(shop, n=3) for _ in range(3)]
    assert len({tuple(ids(one)) for one in best}) == 1
    assert all(c["propensity"] == 1.0 for one in best for c in one["items"])


def test_how_often_an_item_comes_first_is_its_propensity(shop, monkeypatch):
    rng = np.random.default_rng(0)  # of request ids, by which lists are drawn
    monkeypatch.setattr(secrets, "token_hex", lambda n: rng.bytes(n).hex())
    lists = [slate(shop, n=1, scenario="explore") for _ in range(60)]
    first = lists[0]["items"][0]
    p = {c["item_id"]: c["propensity"] for one in lists for c in one["items"]}
    seen = sum(ids(one) == [first["item_id"]] for one in lists) / len(lists)
    sd = np.sqrt(p[first["item_id"]] * (1 - p[first["item_id"]]) / len(lists))
    assert abs(seen - p[first["item_id"]]) < 4 * sd + 1 / len(lists)
    assert sum(p.values()) <= 1 + 1e-6


def test_explaining_what_was_never_served_is_404(shop):
    problem(shop.get("/api/requests/none/explain"), 404)


# Idempotency


def test_the_same_key_gives_the_same_list_and_one_impression(shop):
    body = {"user_id": "u0001", "scenario": "explore", "n": 4}
    headers = {"Idempotency-Key": "k1"}
    first = shop.post("/api/recommend", body, headers=headers)
    shop.event("u0001", "i0001")
    again = shop.post("/api/recommend", body, headers=headers)
    assert again.content == first.content
    assert len(shop.service.store.shown.of_user("default", "u0001")) == 1
    conflict = shop.post("/api/recommend", {**body, "n": 5}, headers=headers)
    assert "'k1'" in problem(conflict, 409)
    problem(shop.post("/api/recommend", body, headers={"Idempotency-Key": "k" * 257}), 422)
    problem(shop.post("/api/recommend", body, headers={"Idempotency-Key": ""}), 422)


def test_the_same_key_for_two_requests_at_once_gives_one_of_them_a_conflict(shop):
    shop.tenant()

    async def both():
        calls = [
            shop.acall(
                "POST",
                "/api/recommend",
                headers={"Idempotency-Key": "k1"},
                json={"user_id": "u0001", "n": n},
            )
            for n in (3, 4)
        ]
        return await asyncio.gather(*calls)

    answers = shop.loop.run_until_complete(both())
    assert sorted(answer.status_code for answer in answers) == [200, 409]


# Erasure


def test_an_erased_user_is_nowhere_any_more(shop):
    shop.post("/api/users", {"id": "u0001", "attributes": {"age": 40}})
    shop.event("visitor", "i0002")
    shop.post("/api/users/u0001/merge", {"session_id": "visitor"})
    shop.event("u0001", "i0001", event_id="e1")
    shop.event("u0007", "i0001")
    made = slate(shop)
    shop.post("/api/recommend", {"user_id": "u0001"}, headers={"Idempotency-Key": "k1"})
    shop.flush()
    kinds = {r["kind"] for r in shop.get("/api/users/u0001/data").json()["records"]}
    assert kinds == {"user", "event", "impression", "answer", "fitted_user", "fitted_event"}
    told = shop.call("DELETE", "/api/users/u0001/data").json()
    assert (told["events"], told["impressions"], told["answers"], told["users"]) == (3, 2, 1, 1)
    assert set(told["heads"]) == set(shop_heads())
    assert set(told["heads"].values()) <= {"exact", "next fit"}
    assert shop.get("/api/users/u0001/data").json() == {"records": []}
    assert shop.get("/api/users/visitor/data").json() == {"records": []}
    problem(shop.get(f"/api/requests/{made['request_id']}/explain"), 404)
    assert ids(slate(shop)) == ids(slate(shop, "never-seen"))
    for other in ("u0007", "u0013", "u0019"):
        near = shop.get(f"/api/users/{other}/similar?n=100").json()["items"]
        assert "u0001" not in [one["id"] for one in near]
        assert "visitor" not in [one["id"] for one in near]
    assert shop.get("/api/users/u0001/similar").json()["items"] == []
    assert shop.event("u0001", "i0001", event_id="e1") == "erased"


def test_what_a_model_was_fitted_on_is_handed_out_with_the_rest(shop):
    data = shop.tenant().live.model.data
    fitted = data.history(data.user_index["u0001"])
    records = shop.get("/api/users/u0001/data").json()["records"]
    told = [r for r in records if r["kind"] == "fitted_event"]
    assert [r["item_id"] for r in told] == [str(data.item_ids[i]) for i in fitted.item_idx]
    assert [r["timestamp"] for r in told] == fitted.time.tolist()
    assert [r["user_id"] for r in records if r["kind"] == "fitted_user"] == ["u0001"]
    assert shop.get("/api/users/never-seen/data").json() == {"records": []}


def test_an_erased_user_may_come_back_and_only_new_events_count(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop)
    shop.event("u0001", "i0001")
    shop.call("DELETE", "/api/users/u0001/data")
    shop.clock.now += 10
    assert shop.event("u0001", "i0005") == "new"
    expected = ids(slate(shop))
    shop.event("u0003", "i0005", timestamp=shop.clock.now - 30 * DAY)
    shop.close()
    shop = opened(sqlite_url, loop=loop)
    history = shop.tenant().live.recommender.history("u0001")
    assert history.item_idx.tolist() == [5]
    assert history.user_idx == -1
    assert ids(slate(shop))[:3] == expected[:3]
    shop.close()


def test_an_event_that_is_taken_in_after_its_users_erasure_does_not_count(shop):
    """Accepted before, erased in between, taken in after: as threads may have it."""
    live, log = shop.tenant().live, shop.service.store.log
    from steerec.contracts import Event
    from steerec.store.log import LoggedEvent

    one = LoggedEvent("e1", Event("ann", "i0001"))
    log.append("default", [one], now=shop.clock.now)
    (stored,) = log.read("default")
    shop.call("DELETE", "/api/users/ann/data")
    live.take([stored], now=shop.clock.now)
    assert len(live.recommender.history("ann")) == 0


# From nothing


def test_a_bare_service_becomes_useful_by_itself(bare):
    """Catalogue and events over HTTP, nothing else: popular first, then alike, always versioned."""
    assert bare.ids("ann") == []
    assert bare.get("/api/popular").json() == {"items": []}
    words = {"tea": "green tea leaf", "garden": "spade soil garden", "wool": "yarn wool knit"}
    entries = [
        {"id": f"{kind}-{n}", "attributes": {"title": f"{text} {n}", "price": n}}
        for kind, text in words.items()
        for n in range(12)
    ]
    assert bare.post("/api/items", {"entries": entries}).json() == {"count": 36}
    bare.settle()
    assert len(bare.ids("ann", n=36)) == 36
    found = bare.get("/api/items", params={"q": "yarn"}).json()["entries"]
    assert {e["id"].split("-")[0] for e in found} == {"wool"}
    bare.post("/api/items", {"id": "rain", "attributes": {"title": "Umbrella", "price": 99}})
    bare.settle()  # its word is new too
    found = bare.get("/api/items", params={"q": "umbrella"}).json()["entries"]
    assert [e["id"] for e in found] == ["rain"]
    assert bare.call("DELETE", "/api/items/rain").json() == {"count": 1}
    bare.settle()
    for user in range(8):
        bare.event(f"u{user}", "garden-3")
    assert bare.ids("newcomer", n=1) == ["garden-3"]
    assert bare.get("/api/popular?n=1").json()["items"][0]["id"] == "garden-3"
    bare.event("ann", "tea-1")
    assert "tea-1" not in bare.ids("ann", n=36)
    answer = bare.get("/api/recommend/ann", params={"n": 36, "filter": "price < 2"}).json()
    assert sorted(ids(answer)) == ["garden-0", "garden-1", "tea-0", "wool-0", "wool-1"]
    told = bare.get("/api/strategy").json()
    assert answer["strategy_version"] == told["version"]
    assert told["in_force"] is True


def test_a_bare_service_keeps_what_people_disliked_as_the_catalogue_grows(bare):
    bare.post("/api/items", {"entries": [{"id": f"i{n}"} for n in range(4)]})
    bare.settle()
    bare.event("ann", "i0", event="dislike")
    bare.event("ann", "i1", event="purchase")
    before = bare.tenant().live.recommender.history("ann")
    for round_ in range(3):
        bare.post("/api/items", {"id": f"more-{round_}", "attributes": {"title": "tea leaf"}})
        bare.settle()
    after = bare.tenant().live.recommender.history("ann")
    np.testing.assert_array_equal(after.weight, before.weight)
    assert after.weight.tolist() == [-1.0, 3.0]
    assert "i0" not in bare.ids("ann", n=10, repeats="true")
    trending = bare.tenant().live.model.heads["trending"]
    assert trending.counts[-1].sum() == 1.0  # the purchase, once


def test_items_are_found_by_texts_that_come_after_their_events_or_change(bare):
    for n in range(6):
        bare.event("ann", f"i{n}")
    entries = [{"id": f"i{n}", "attributes": {"title": f"wool scarf {n}"}} for n in range(5)]
    bare.post("/api/items", {"entries": entries})
    bare.settle()
    bare.post("/api/items", {"id": "i5", "attributes": {"title": "steel umbrella"}})
    bare.settle()

    def found(words):
        return [e["id"] for e in bare.get("/api/items", params={"q": words}).json()["entries"]]

    assert sorted(found("scarf")) == ["i0", "i1", "i2", "i3", "i4"]
    assert found("umbrella") == ["i5"]
    bare.call("PATCH", "/api/items/i0", json={"attributes": {"title": "paper umbrella"}})
    bare.settle()
    assert sorted(found("umbrella")) == ["i0", "i5"]
    assert sorted(found("scarf")) == ["i1", "i2", "i3", "i4"]
    told = bare.post("/api/recommend", {"about": "umbrella", "n": 2, "repeats": True}).json()
    assert sorted(ids(told)) == ["i0", "i5"]
    similar = bare.get("/api/items/i5/similar", params={"n": 1}).json()["items"]
    assert [one["id"] for one in similar] == ["i0"]


def test_events_alone_make_a_bare_service_useful_too(bare):
    for user in range(6):
        bare.event(f"u{user}", "hit")
        bare.event(f"u{user}", f"other-{user}")
    assert bare.ids("newcomer", n=1) == ["hit"]


class Away:
    """An encoder that is away at first."""

    name, dim = "hashing-8-v1", 8

    def __init__(self):
        self.away, self.inner = True, HashingEncoder(dim=8)

    def encode(self, texts):
        if self.away:
            raise EncoderError("the encoder is away: try again")
        return self.inner.encode(texts)


def test_items_join_without_their_texts_while_the_encoder_is_away_and_health_tells(bare):
    bare.tenant().live.encoder = encoder = Away()
    bare.post("/api/items", {"entries": [{"id": "tea", "attributes": {"title": "Green tea"}}]})
    bare.settle()
    bare.event("ann", "pot")
    assert bare.ids("bob", n=2) == ["pot", "tea"]
    ready = bare.get("/api/health/ready").json()
    assert ready["status"] == "degraded"
    assert ready["degraded"] == ["encoder: the encoder is away: try again"]
    told = bare.post("/api/recommend", {"about": "something green"})
    assert "the encoder is away" in problem(told, 503)
    encoder.away = False
    bare.post("/api/items", {"id": "cup", "attributes": {"title": "Green cup"}})
    bare.settle()
    assert bare.get("/api/health/ready").json()["degraded"] == []
    data = bare.tenant().live.model.data
    vectors = dict(zip(data.item_ids, data.vectors.any(axis=1).tolist(), strict=True))
    assert vectors == {"tea": False, "pot": False, "cup": True}
    assert bare.post("/api/recommend", {"about": "something green"}).status_code == 200


class Loading(HashingEncoder):
    """An encoder whose model is still being loaded: who asks for a vector would wait."""

    def __init__(self):
        super().__init__(dim=8)
        self.loading = True

    def encode(self, texts):
        assert not self.loading, "somebody waits for the encoder"
        return super().encode(texts)


def test_items_join_and_events_count_while_the_encoder_is_being_loaded(bare):
    bare.tenant().live.encoder = encoder = Loading()
    items = [{"id": f"i{n}", "attributes": {"title": f"Green tea {n}"}} for n in range(4)]
    bare.post("/api/items", {"entries": items[:3]})
    bare.settle()
    bare.event("ann", "i1")
    bare.event("ann", "pot")  # which nobody put into the catalogue
    bare.post("/api/items", {"entries": items[3:]})
    bare.event("ann", "i3")  # before it is followed
    assert set(bare.ids("bob", n=9)) == {"i0", "i1", "i2", "i3", "pot"}
    ready = bare.get("/api/health/ready").json()
    [why] = ready["degraded"]
    assert "being loaded" in why
    assert ready["status"] == "starting"  # nothing is away that somebody should mend
    assert 'steerec_degraded{tenant="default"} 0.0' in bare.get("/metrics").text
    assert bare.get("/gorse/api/health/ready").json()["Ready"]
    encoder.loading = False
    bare.settle()
    assert bare.get("/api/health/ready").json()["degraded"] == []
    assert bare.get("/api/health/ready").json()["status"] == "ok"
    live = bare.tenant().live
    data, content = live.model.data, live.model.heads["content"]
    for name in ("i0", "i1", "i2", "i3"):
        row = data.item_index[name]
        [expected] = HashingEncoder(dim=8).encode([f"Green tea {name[1:]}"])
        np.testing.assert_allclose(data.vectors[row], expected, atol=1e-6)
        assert content.vectors.shape[1] > 0
        assert content.vectors[row].any()
    assert "i1" in bare.ids("bob", n=2)  # what was counted before is kept
