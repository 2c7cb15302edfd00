"""A promoted strategy that was edited in the store by hand: refused by its number."""

import json

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from engine_worlds import own
from steerec.cli import app
from steerec.contracts import Query
from steerec.engine.live import Live, LiveConfig
from steerec.engine.strategies import ensure_promoted, follow_current, from_json, to_json
from steerec.errors import DataError
from steerec.service.tenants import Tenant
from steerec.store import open_store
from steerec.store.schema import strategies as table
from steerec.store.strategies import StrategyVersion

NOW = 2e9


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    yield store
    store.close()


def live_over(store):
    live = Live("shop", store, own(), LiveConfig(), now=NOW)
    ensure_promoted(live, store, now=NOW)
    return live


def weight(value):
    return lambda told: [[value, *told["theta"][0][1:]], *told["theta"][1:]]


BROKEN = {
    "a weight that is not a number": {"theta": weight(float("nan"))},
    "an infinite weight": {"theta": weight(float("inf"))},
    "a weight in words": {"theta": weight("much")},
    "no weight": {"theta": weight(None)},
    "a weight out of all proportion": {"theta": weight(1e300)},
    "a head too few": {"theta": lambda told: told["theta"][:-1]},
    "rows of different lengths": {
        "theta": lambda told: [told["theta"][0][:-1], *told["theta"][1:]]
    },
    "no list of heads": {"heads": lambda told: 3},
    "a dial that is not a number": {"dials": lambda told: {"unseen": float("nan")}},
    "a list of dials": {"dials": lambda told: [1]},
}


def edit(store, changes):
    """Write into the database what nothing of ours writes; changes None: a list for the whole."""
    current = store.strategies.current("shop")
    told = dict(current.strategy)
    changed = [1, 2] if changes is None else told | {k: f(told) for k, f in changes.items()}
    with store.database.write() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.version == current.version)
            .values(strategy=json.dumps(changed))
        )


@pytest.mark.parametrize("changes", [*BROKEN.values(), None], ids=[*BROKEN, "a list"])
def test_a_broken_strategy_is_refused_by_its_number_and_a_sound_one_goes_on(store, changes):
    live = live_over(store)
    before = live.recommend(Query("u1", n=5), request_id="a", now=NOW).slate
    edit(store, changes)
    for follow in (lambda: follow_current(live, store), lambda: live_over(store)):
        with pytest.raises(DataError, match=r"strategy 1 .*promote another version"):
            follow()
    after = live.recommend(Query("u1", n=5), request_id="a", now=NOW).slate
    assert [i.item_id for i in after.items] == [i.item_id for i in before.items]
    assert np.isfinite(live.online.promoted.theta).all()


def test_the_way_back_is_another_version(store):
    live = live_over(store)
    sound = to_json(live.model.strategy)
    edit(store, BROKEN["no weight"])
    added = store.strategies.add("shop", StrategyVersion(strategy=sound, author="ann", made=NOW))
    store.strategies.promote("shop", added.version, author="ann", now=NOW)
    again = live_over(store)
    assert again.online.promoted.version == 2
    np.testing.assert_array_equal(again.online.promoted.theta, live.model.strategy.theta)


@pytest.mark.parametrize("changes", [BROKEN["rows of different lengths"], None])
def test_verbs_refuse_a_broken_strategy_by_its_number_and_find_the_way_back(
    store, changes, tmp_path, monkeypatch
):
    sound = to_json(live_over(store).model.strategy)
    store.strategies.add("shop", StrategyVersion(strategy=sound, author="ann", made=NOW))
    edit(store, changes)
    monkeypatch.setenv("STEEREC_DATABASE_URL", f"sqlite:///{tmp_path}/log.db")
    monkeypatch.chdir(tmp_path)

    def done(*words):
        return CliRunner().invoke(app, ["strategy", *words, "--tenant", "shop"])

    for words in (["show"], ["diff", "1", "2"], ["diff", "2", "1"], ["promote", "1"]):
        told = done(*words)
        assert isinstance(told.exception, SystemExit), (words, told.exception)
        assert "error: strategy 1 " in told.output
    assert done("promote", "2").exit_code == 0
    told = done("rollback")  # to the broken one
    assert "promote another version" in told.output
    assert store.strategies.current("shop").version == 2


def test_a_service_goes_on_with_the_last_strategy_and_says_that_it_is_degraded(store):
    tenant = Tenant("shop", live_over(store), store, telemetry=None)
    sound = to_json(tenant.live.model.strategy)
    edit(store, BROKEN["no weight"])
    for follow in (lambda: tenant.keep_up(NOW + 10, others=True), lambda: tenant.tune(NOW + 10)):
        follow()
        (told,) = tenant.degraded()
        assert told.startswith("strategy: strategy 1 has theta")
    tenant.live.recommend(Query("u1", n=5), request_id="a", now=NOW + 11)
    added = store.strategies.add("shop", StrategyVersion(strategy=sound, author="ann", made=NOW))
    store.strategies.promote("shop", added.version, author="ann", now=NOW + 12)
    tenant.tune(NOW + 20)
    assert tenant.degraded() == []
    assert tenant.live.online.promoted.version == added.version


def test_a_weight_edited_to_something_sensible_is_in_force_after_the_next_start(store):
    live_over(store)
    edit(store, {"theta": weight(2.5)})
    live = live_over(store)
    assert live.online.promoted.theta[0, 0] == 2.5
    live.recommend(Query("u1", n=5), request_id="a", now=NOW)
    live.tune(now=NOW + 60)
    assert np.isfinite(live.online.epoch.theta).all()


def test_what_to_json_writes_is_read_back(store):
    strategy = live_over(store).model.strategy
    found = from_json(json.loads(json.dumps(to_json(strategy))), 7)
    np.testing.assert_array_equal(found.theta, strategy.theta)
    assert (found.heads, found.features, found.version) == (strategy.heads, strategy.features, 7)
