"""Refits beside a running service: when they are due, the process that does them, the swap."""

import asyncio
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from engine_worlds import model, world
from service_worlds import Clock, opened
from steerec.config import ServiceConfig
from steerec.contracts import Event, Query
from steerec.engine.recommender import Recommender
from steerec.engine.shelf import Facts, Shelf
from steerec.errors import ConfigError
from steerec.service.refits import DAY_S, Due, next_at
from steerec.store.log import LoggedEvent

MIDNIGHT = 1_760_054_400.0  # 2025-10-10, UTC
CONFIG = ServiceConfig(refit_hour=3.0, refit_events=200)
TOML = """
[fit]
heads = ["trending", "transitions"]
[encoder]
encoder = "none"
"""


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_a_refit_is_due_at_its_hour_when_something_is_new():
    made = Facts(n_events=1000, log_seq=5, made=MIDNIGHT + 4 * 3600)
    due = Due(made, n_new=1, first=0.0, tried=0, since=0.0)
    assert due.why(CONFIG, MIDNIGHT + DAY_S + 2.9 * 3600) == ""
    assert due.why(CONFIG, MIDNIGHT + DAY_S + 3 * 3600) == "night"
    assert replace(due, n_new=0).why(CONFIG, MIDNIGHT + DAY_S + 3 * 3600) == ""
    tried_tonight = replace(due, since=MIDNIGHT + DAY_S + 3 * 3600 + 1)
    assert tried_tonight.why(CONFIG, MIDNIGHT + DAY_S + 4 * 3600) == ""
    never = replace(CONFIG, refit_hour=-1.0)
    assert due.why(never, MIDNIGHT + 9 * DAY_S) == ""


def test_a_service_that_began_with_nothing_fits_at_each_doubling_for_a_day():
    due = Due(None, n_new=199, first=MIDNIGHT, tried=0, since=MIDNIGHT)
    assert due.why(CONFIG, MIDNIGHT + 60) == ""
    assert replace(due, n_new=200).why(CONFIG, MIDNIGHT + 60) == "events"
    failed = replace(due, n_new=399, tried=200)
    assert failed.why(CONFIG, MIDNIGHT + 60) == ""
    assert replace(failed, n_new=400).why(CONFIG, MIDNIGHT + 60) == "events"
    fitted = Due(Facts(200, 200, MIDNIGHT), 200, MIDNIGHT, 200, MIDNIGHT)
    assert fitted.why(CONFIG, MIDNIGHT + 60) == "events"
    assert replace(fitted, n_new=199).why(CONFIG, MIDNIGHT + 60) == ""
    assert fitted.why(replace(CONFIG, refit_hour=-1), MIDNIGHT + DAY_S) == ""


def test_the_next_hour_is_today_or_tomorrow():
    assert next_at(3.5, MIDNIGHT) == MIDNIGHT + 3.5 * 3600
    assert next_at(3.5, MIDNIGHT + 3.5 * 3600) == MIDNIGHT + DAY_S + 3.5 * 3600
    assert next_at(0.0, MIDNIGHT + 1) == MIDNIGHT + DAY_S


def send_world(shop, n, tenant="default"):
    data = world().data
    batch = [
        LoggedEvent(
            f"w{e}",
            Event(
                data.user_ids[data.user_idx[e]],
                data.item_ids[data.item_idx[e]],
                timestamp=float(data.time[e]),
            ),
        )
        for e in data.by_time()[:n]
    ]
    shop.service.store.log.append(tenant, batch, now=shop.clock())


def test_each_night_the_strategy_is_tuned_once_by_a_process_of_its_own(
    sqlite_url, loop, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    clock = Clock(MIDNIGHT)
    shop = opened(
        sqlite_url,
        fitted=False,
        clock=clock,
        loop=loop,
        snapshots=tmp_path / "models",
        tune_hour=2.5,
    )
    refits = shop.service.refits
    try:
        send_world(shop, 1, "other")
        clock.now = MIDNIGHT + 2.4 * 3600
        assert not refits.tune_is_due("other")
        clock.now = MIDNIGHT + 2.6 * 3600
        assert refits.tune_is_due("other")
        loop.run_until_complete(refits.run_due())
        assert not refits.tune_is_due("other")
        # This tenant has no strategy yet: what its process said is in our log.
        assert "tenant=other tune=failed" in caplog.text
        assert "no strategy yet" in caplog.text
        clock.now += DAY_S
        assert refits.tune_is_due("other")
    finally:
        shop.close()
    with pytest.raises(ConfigError, match="tune_hour=24"):
        ServiceConfig(tune_hour=24)
    assert ServiceConfig(tune_hour=-1).tune_hour < 0


def test_from_nothing_to_a_fitted_model_by_a_process_of_its_own(
    sqlite_url, loop, tmp_path, monkeypatch
):
    (tmp_path / "steerec.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)  # where its settings are read
    shop = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path / "models")
    tenant, refits = shop.tenant("other"), shop.service.refits
    try:
        send_world(shop, 150, "other")
        assert loop.run_until_complete(refits.run_due()) == []
        send_world(shop, 1500, "other")
        assert loop.run_until_complete(refits.run_due()) == ["other"]
        assert refits.swap_if_new(tenant)
        assert not refits.swap_if_new(tenant)
        assert tenant.live.model.strategy.heads == ("trending", "transitions")
        assert tenant.live.model.data.n_events == 1500
        current = shop.service.store.strategies.current("other")
        assert (current.author, current.version) == ("fit", 2)
        assert loop.run_until_complete(refits.run_due()) == []
    finally:
        shop.close()
    again = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path / "models")
    try:
        assert again.tenant("other").live.model.data.n_events == 1500
        assert again.tenant("default").live.model.data.n_events == 0
    finally:
        again.close()


def test_a_refit_that_fails_is_logged_and_not_tried_again_at_once(
    sqlite_url, loop, tmp_path, monkeypatch, caplog
):
    shop = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path / "models")
    try:
        wrong = [sys.executable, "-c", "raise SystemExit('no room')"]
        monkeypatch.setattr(shop.service.refits, "_command", lambda verb, tenant: wrong)
        send_world(shop, 300)
        assert loop.run_until_complete(shop.service.refits.run_due()) == []
        assert "refit=failed status=1 said='no room" in caplog.text
        caplog.clear()
        assert loop.run_until_complete(shop.service.refits.run_due()) == []
        assert "refit=failed" not in caplog.text
    finally:
        shop.close()


def test_a_swap_drops_no_request(sqlite_url, loop, tmp_path):
    shop = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path)
    shelf, done, failed, served = Shelf(tmp_path), threading.Event(), [], []
    try:
        tenant, now = shop.tenant(), shop.clock()
        shelf.put("default", model(), now=now)
        assert shop.service.refits.swap_if_new(tenant)

        def ask():
            rng = np.random.default_rng(0)
            while not done.is_set():
                user = f"u{rng.integers(100):04d}"
                try:
                    made = tenant.live.recommend(
                        Query(user_id=user), request_id=f"{len(served)}", now=now
                    )
                    served.append(len(made.slate.items))
                except Exception as error:
                    failed.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for swap in range(3):
            send_world(shop, 20 * (swap + 1))
            shelf.put("default", replace(model(), seconds={}), now=now + swap + 1)
            assert shop.service.refits.swap_if_new(tenant)
        done.set()
        for thread in threads:
            thread.join()
        assert not failed
        assert len(served) > 3
        assert set(served) == {10}
        assert tenant.live.applied["swaps"] == 4
    finally:
        done.set()
        shop.close()


def test_a_model_is_made_ready_for_lists_before_it_answers(sqlite_url, loop, tmp_path, monkeypatch):
    prepared = []
    monkeypatch.setattr(Recommender, "prepare", lambda one: prepared.append(one))
    shop = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path)
    try:
        tenant = shop.tenant()
        assert prepared == [tenant.live.recommender]
        Shelf(tmp_path).put("default", model(), now=shop.clock())
        assert shop.service.refits.swap_if_new(tenant)
        assert len(prepared) == 2
        assert prepared[1] is tenant.live.recommender
    finally:
        shop.close()


def test_the_newer_of_the_named_snapshot_and_the_refits_is_loaded(sqlite_url, loop, tmp_path):
    shelf, named = Shelf(tmp_path / "models"), Shelf(tmp_path / "named")
    early = named.put("x", model(), now=1_000.0)
    late = named.put("x", model(), now=3_000.0)
    made = shelf.put("default", model(), now=2_000.0)
    shop = opened(sqlite_url, loop=loop, fitted=False, snapshots=tmp_path / "models")
    try:
        for snapshot, expected in ((early, made), (late, late), (None, made)):
            refits = replace(shop.service.refits, snapshot=snapshot)
            assert refits.base_of("default") == expected
            assert refits.base_of("other") is None
    finally:
        shop.close()


def test_a_damaged_snapshot_is_passed_over_and_the_old_model_stays(sqlite_url, loop, tmp_path):
    shop = opened(sqlite_url, fitted=False, loop=loop, snapshots=tmp_path, clock=Clock(5.0))
    try:
        tenant = shop.tenant()
        folder = Shelf(tmp_path).put("default", model(), now=10.0)
        (folder / "phi.npy").write_bytes(b"cut")
        assert not shop.service.refits.swap_if_new(tenant)
        assert tenant.live.applied["swaps"] == 0
        assert shop.get("/api/recommend/ann").status_code == 200
    finally:
        shop.close()
