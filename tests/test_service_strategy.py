"""The strategy over HTTP: compared, promoted, rolled back; and what metrics tell of its tuning."""

import re
from dataclasses import replace

import pytest

from service_worlds import problem
from steerec.tuning.guard import GuardConfig, Watch


def test_versions_are_compared_promoted_and_rolled_back_over_http(shop):
    """What `steerec strategy diff|promote|rollback` do, from elsewhere."""
    shop.tenant()  # opens it, so that its model brings the first version
    strategies = shop.service.store.strategies
    first = strategies.current("default")
    theta = [[2 * weight for weight in row] for row in first.strategy["theta"]]
    louder = replace(
        first, strategy={**first.strategy, "theta": theta}, author="eva", parents=(1,), version=0
    )
    other = {**first.strategy, "heads": [f"my {head}" for head in first.strategy["heads"]]}
    strategies.add("default", louder)
    strategies.add("default", replace(first, strategy=other, version=0))
    assert "no other version" in problem(shop.post("/api/strategy/rollback", {}), 409)
    moved = shop.get("/api/strategy/diff?before=1&after=2").json()
    assert all(
        after == pytest.approx(2 * before, abs=1e-5) for before, after in moved["weights"].values()
    )
    assert moved["weights"]
    assert moved["dials"] == {}
    assert shop.get("/api/strategy/diff").json()["weights"] == {}  # the first has no parents
    done = shop.post("/api/strategy/promote", {"version": 2, "reason": "louder"}).json()
    assert (done["version"], done["in_force"]) == (2, True)
    assert shop.get("/api/recommend/ann").json()["strategy_version"] == 2
    assert shop.get("/api/strategy/diff").json() == moved
    told = shop.get("/api/strategy/history").json()["promotions"][0]
    assert (told["version"], told["reason"]) == (2, "louder")
    assert shop.post("/api/strategy/rollback", {}).json()["version"] == 1
    assert shop.post("/api/strategy/rollback", {}).json()["version"] == 2  # and forth
    assert "no strategy has version 7" in problem(
        shop.post("/api/strategy/promote", {"version": 7}), 404
    )
    assert "does not have now" in problem(shop.post("/api/strategy/promote", {"version": 3}), 409)
    problem(shop.get("/api/strategy/diff?before=1&after=9"), 404)
    problem(shop.get("/api/strategy/diff?before=0"), 422)


def test_metrics_tell_what_tuning_read_and_that_the_guard_stopped_it(shop):
    shown = shop.get("/api/recommend/ann").json()
    click = {"user_id": "ann", "item_id": shown["items"][0]["item_id"], "event": "click"}
    sent = shop.post("/api/events", {**click, "request_id": shown["request_id"]}).json()
    assert told(shop)["steerec_seq"] == sent["events"][0]["seq"] > 0
    shop.post("/api/events", {**click, "request_id": "of-nobody"})
    shop.flush()
    tenant, watch, guard = shop.tenant(), Watch(), GuardConfig()
    tenant.tune(shop.clock.now + 4_000)
    before = told(shop)
    assert before["steerec_tuning_frozen"] == 0
    assert before["steerec_strategy_version"] == 1
    assert before["steerec_strategy_epoch"] >= 1
    assert before['steerec_tuning_total{what="learnt"}'] == 1
    assert before['steerec_tuning_total{what="held_back"}'] == 0
    assert before['steerec_reactions_total{outcome="joined"}'] == 1
    assert before['steerec_reactions_total{outcome="unknown"}'] == 1
    for _ in range(3_000):
        watch = watch.after("live", 0.0, guard).after("control", 5.0, guard)
    tenant.live.online._learning.watch = watch
    shop.get("/api/recommend/ann")
    shop.flush()
    tenant.tune(shop.clock.now + 8_000)
    after = told(shop)
    assert after["steerec_tuning_frozen"] == 1
    assert after['steerec_tuning_total{what="returns"}'] == 1
    promotions = shop.get("/api/strategy/history").json()["promotions"]
    assert promotions[0]["author"] == "guard"
    assert "worse" in promotions[0]["reason"]
    inforce = shop.get("/api/strategy").json()
    assert inforce["frozen"]["reason"] == promotions[0]["reason"]
    assert inforce["words"][-1].startswith("The online tuner stands still until ")
    assert inforce["words"][1].startswith("  new visitors: ")
    assert (inforce["online"], inforce["live_theta"]) == (None, None)
    earned = shop.get("/api/strategy?gains=true").json()
    assert sum(arm["slates"] for arm in earned["online"]["arms"].values()) == 1
    assert earned["words"][-1].startswith("Earned a slate in ")


def told(shop):
    """Metric and label, beside that of the tenant → its value."""
    lines = [line for line in shop.get("/metrics").text.splitlines() if line[0] != "#"]
    pairs = [re.sub(r',?tenant="default",?', "", line).rpartition(" ") for line in lines]
    return {name.replace("{}", ""): float(value) for name, _, value in pairs}
