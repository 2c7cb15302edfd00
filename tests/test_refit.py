"""Refit: the data of now, θ carried over, versions, and where snapshots are kept."""

from dataclasses import replace

import numpy as np
import pytest

from engine_worlds import model, own, world
from steerec.contracts import Event
from steerec.encoders import EncoderConfig
from steerec.engine.blend import BlendConfig
from steerec.engine.calibrate import CalibrationConfig
from steerec.engine.carry import carry_over
from steerec.engine.live import LOG_SEQ, Live
from steerec.engine.live_config import LiveConfig
from steerec.engine.model import FitConfig
from steerec.engine.refit import RefitConfig, data_of_now, refit
from steerec.engine.shelf import Shelf, facts_of
from steerec.engine.strategies import CARRIED, FIT, ensure_promoted, to_json
from steerec.errors import DataError
from steerec.store import open_store
from steerec.store.catalogue import Entry
from steerec.store.log import LoggedEvent
from steerec.store.strategies import StrategyVersion

NOW = 1_720_000_000.0  # after the world's last event
T = "shop"


@pytest.fixture
def kept(sqlite_url):
    store = open_store(sqlite_url)
    yield store
    store.close()


def config(tmp_path, **more):
    quick = FitConfig(
        heads=("trending", "transitions", "item_knn"),
        calibration=CalibrationConfig(targets_per_bin=10),
        blend=BlendConfig(top=40, drawn=40),
    )
    encoder = EncoderConfig(encoder="none")
    return RefitConfig(fit=quick, encoder=encoder, cache_dir=tmp_path, n_requests=60, **more)


def send(store, *events, start=0, tenant=T):
    batch = [LoggedEvent(f"e{start + n}", event) for n, event in enumerate(events)]
    return store.log.append(tenant, batch, now=NOW)


def visits(n, *, seed, users=10):
    """Events of old and new users with items of the world; some late, some without a time."""
    rng = np.random.default_rng(seed)
    data = world().data
    for _ in range(n):
        user = rng.choice([f"u{rng.integers(users):04d}", f"new{rng.integers(3)}"])
        time = [None, NOW - 5.0, float(rng.uniform(data.time.min(), NOW + 100))][rng.integers(3)]
        basket = [None, f"b{rng.integers(3)}"][rng.integers(2)]
        kind = str(rng.choice(["view", "purchase"]))
        yield Event(str(user), f"i{rng.integers(60):04d}", kind, None, time, basket)


def test_the_data_of_now_hold_what_the_live_engine_knows_of_each_user(kept):
    live = Live(T, kept, own(), LiveConfig(), now=NOW)
    send(kept, *visits(80, seed=1))
    live.follow(now=NOW)
    data = data_of_now(kept, T, model().data, {})
    assert data.n_events == model().data.n_events + 80
    for user in [f"u{n:04d}" for n in range(12)] + ["new0", "new1", "new2"]:
        expected, found = live.recommender.history(user), data.history(data.user_index[user])
        ids = live.model.data.item_ids[expected.item_idx]
        assert data.item_ids[found.item_idx].tolist() == ids.tolist()
        np.testing.assert_array_equal(found.time, expected.time)
        np.testing.assert_array_equal(found.weight, expected.weight)
        same = expected.basket[:, None] == expected.basket
        np.testing.assert_array_equal(found.basket[:, None] == found.basket, same)


def test_the_data_of_now_say_up_to_where_they_hold_the_log(kept):
    send(kept, *visits(5, seed=2))
    kept.items.upsert(T, [Entry("i0001", {"title": "x"})], now=NOW)
    first = data_of_now(kept, T, model().data, {})
    assert first.notes[LOG_SEQ] == "6"
    send(kept, *visits(4, seed=3), start=100)
    again = data_of_now(kept, T, first, {})
    assert again.n_events == first.n_events + 4
    assert again.notes[LOG_SEQ] == "10"
    assert data_of_now(kept, T, model().data, {}).content_hash == again.content_hash


def test_without_a_base_the_log_alone_is_the_data(kept):
    with pytest.raises(DataError, match="no events yet"):
        data_of_now(kept, T, None, {})
    send(kept, Event("ann", "tea", "click", None, 5.0), Event("ann", "ink", "hate", None, 3.0))
    data = data_of_now(kept, T, None, {"hate": -1.0})
    assert data.item_ids[data.item_idx].tolist() == ["ink", "tea"]
    assert data.weight.tolist() == [-1.0, 1.0]


def test_the_erased_are_left_out_and_may_come_back(kept):
    send(kept, Event("u0001", "i0002"), Event("new0", "i0003"), Event("new1", "i0003"))
    kept.persons.erase(T, "u0001", now=NOW)
    kept.persons.erase(T, "new0", now=NOW)
    send(kept, Event("u0001", "i0005", timestamp=NOW + 1), start=50)
    data = data_of_now(kept, T, model().data, {})
    assert "new0" not in data.user_index
    back = data.history(data.user_index["u0001"])
    assert data.item_ids[back.item_idx].tolist() == ["i0005"]
    assert "new1" in data.user_index
    index = data.user_index
    assert data.social is not None
    assert index["u0001"] not in data.social


def test_the_catalogue_is_as_it_is_now(kept):
    kept.items.upsert(
        T,
        [
            Entry("i0001", {"title": "other words", "price": 3.0}),
            Entry("fresh", {"title": "new"}, labels=("a",)),
            Entry("i0002"),
        ],
        now=NOW,
    )
    kept.items.delete(T, ["i0002"], now=NOW)
    kept.users.upsert(
        T, [Entry("u0001", {"town": "ink"}), Entry("later", {"town": "tea"})], now=NOW
    )
    data = data_of_now(kept, T, model().data, {})
    rows = {row["item_id"]: row for row in data.items.iter_rows(named=True)}
    assert (rows["i0001"]["title"], rows["i0001"]["price"]) == ("other words", 3.0)
    assert rows["fresh"]["tags"] == ["a"]
    assert rows["i0002"]["hidden"]
    assert rows["i0002"]["title"] == model().data.items["title"][2]
    assert not rows["i0003"]["hidden"]
    towns = dict(zip(data.users["user_id"], data.users["town"], strict=True))
    assert (towns["u0001"], towns["later"]) == ("ink", "tea")
    again = data_of_now(kept, T, replace(data, notes={LOG_SEQ: "0"}), {})
    assert again.items.equals(data.items)


def test_a_refit_from_nothing_serves_and_its_strategy_is_promoted_once(kept, tmp_path):
    live = Live(T, kept, None, LiveConfig(), now=NOW)
    ensure_promoted(live, kept, now=NOW)
    data = world().data
    order = data.by_time()
    send(
        kept,
        *(
            Event(
                data.user_ids[data.user_idx[e]],
                data.item_ids[data.item_idx[e]],
                timestamp=float(data.time[e]),
            )
            for e in order[:1500]
        ),
    )
    made = refit(kept, T, None, config(tmp_path), np.random.default_rng(0), now=NOW)
    assert made.n_new == 1500
    assert (made.version.author, made.version.parents) == (FIT, (1,))
    live.follow(now=NOW)
    live.swap(made.model, now=NOW)
    ensure_promoted(live, kept, now=NOW)
    assert kept.strategies.current(T).version == made.version.version == 2
    ensure_promoted(live, kept, now=NOW)
    assert len(kept.strategies.promotions(T)) == 2
    kept.strategies.promote(T, 2, author="eva", now=NOW)  # as a rollback would
    ensure_promoted(Live(T, kept, made.model, LiveConfig(), now=NOW), kept, now=NOW)
    assert len(kept.strategies.promotions(T)) == 3


def test_what_was_put_in_force_during_a_refit_stays(kept, tmp_path):
    live = Live(T, kept, own(), LiveConfig(), now=NOW)
    ensure_promoted(live, kept, now=NOW)
    fit_config = replace(config(tmp_path), fit=replace(config(tmp_path).fit, heads=("trending",)))
    made = refit(kept, T, model(), fit_config, np.random.default_rng(0), now=NOW)
    theta = np.zeros_like(made.model.strategy.theta)
    moved = to_json(replace(made.model.strategy, theta=theta))
    added = kept.strategies.add(T, StrategyVersion(moved, "eva", NOW))
    kept.strategies.promote(T, added.version, author="eva", now=NOW)
    after = Live(T, kept, made.model, LiveConfig(), now=NOW)
    ensure_promoted(after, kept, now=NOW)
    assert kept.strategies.current(T).version == added.version


def test_a_moved_strategy_is_carried_over_and_again_the_next_night(kept, tmp_path):
    base = model()
    moved = replace(base.strategy, theta=base.strategy.theta * 1.5)
    added = kept.strategies.add(T, StrategyVersion(to_json(moved), "eva", NOW))
    kept.strategies.promote(T, added.version, author="eva", now=NOW)
    send(kept, *visits(30, seed=4))
    made = refit(kept, T, base, config(tmp_path), np.random.default_rng(0), now=NOW)
    assert made.version.author == CARRIED
    assert made.version.estimates["scores_as_before"]["r2"] > 0.8
    kept.strategies.promote(T, made.version.version, author=CARRIED, now=NOW)
    again = refit(kept, T, made.model, config(tmp_path), np.random.default_rng(0), now=NOW)
    assert again.version.author == CARRIED
    assert again.version.estimates["scores_as_before"]["r2"] > 0.99


def test_theta_is_found_again_where_the_model_is_the_same():
    base = model()
    rng = np.random.default_rng(3)
    theta = base.strategy.theta + 0.3 * rng.normal(size=base.strategy.theta.shape)
    found = carry_over(base, theta, base, rng, n_requests=120)
    assert found.r2 > 0.999
    history = base.data.history(5)
    phi = base.phi([history], np.array([base.data.time.max()]))[0]
    z = base.scores([history], None, np.array([base.data.time.max()]))[1][:, 0]
    np.testing.assert_allclose((found.theta @ phi) @ z, (theta @ phi) @ z, atol=0.3)
    own = carry_over(base, base.strategy.theta, base, rng, n_requests=120)
    np.testing.assert_allclose(own.theta, base.strategy.theta, atol=1e-6)


def test_the_newest_whole_snapshot_is_loaded_and_few_are_kept(tmp_path):
    shelf = Shelf(tmp_path, keep=2)
    assert shelf.load("a/b") is None
    for hour in range(3):
        shelf.put("a/b", model(), now=NOW + 3600 * hour)
    newest = shelf.newest_first("a/b")
    assert len(newest) == 2
    assert facts_of(newest[0]).made == NOW + 7200
    assert facts_of(newest[0]).n_events == model().data.n_events
    half = newest[0].with_name("20990101T000000.000000Z")
    half.mkdir()
    (newest[0].parent / ".20990101T000000.part.x").mkdir()
    (newest[0] / "phi.npy").write_bytes(b"cut")
    assert shelf.load("a/b")[0] == newest[1]
    assert shelf.newest("other") is None


def test_folders_of_tenants_never_meet(tmp_path):
    names = ["a", "a/..", "..", ".", "a.b", "a%2Eb", "é" * 200, "é" * 201]
    folders = {Shelf(tmp_path).of(name) for name in names}
    assert len(folders) == len(names)
    assert {folder.parent for folder in folders} == {tmp_path}


def test_one_refit_at_a_time(tmp_path):
    shelf = Shelf(tmp_path)
    with shelf.alone("a") as first, shelf.alone("a") as second, shelf.alone("b") as other:
        assert (first, second, other) == (True, False, True)
    with shelf.alone("a") as again:
        assert again
