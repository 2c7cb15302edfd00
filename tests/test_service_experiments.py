"""Experiments over HTTP: started, looked at, stopped, and what is refused."""

import pytest

from service_worlds import problem

PLAN = {
    "name": "spring",
    "metric": "click",
    "arms": [
        {"name": "as it is", "share": 0.5},
        {"name": "bold", "share": 0.5, "weights": {"content.bias": 2.0}},
    ],
}


def test_an_experiment_is_started_answered_by_looked_at_and_stopped(shop):
    shop.tenant()
    started = shop.post("/api/experiments", PLAN)
    assert started.status_code == 200, started.text
    assert started.json()["plan"]["arms"][1]["version"] == 2
    assert started.json()["results"] is None
    slates = {u: shop.get(f"/api/recommend/u{u}").json() for u in range(20)}
    assert {one["arm"] for one in slates.values()} >= {"spring/bold", "live"}
    for user, slate in slates.items():
        if slate["arm"] == "spring/bold":
            item = slate["items"][0]["item_id"]
            shop.event(f"u{user}", item, event="click", request_id=slate["request_id"])
    shop.flush()
    shop.clock.now += 4_000
    listed = shop.get("/api/experiments").json()["experiments"]
    assert [one["name"] for one in listed] == ["spring"]
    told = shop.get("/api/experiments/spring").json()["results"]
    by_arm = {arm["arm"]: arm for arm in told["arms"]}
    assert by_arm["bold"]["mean"]["mean"] == 1.0
    assert by_arm["as it is"]["mean"]["mean"] == 0.0
    assert by_arm["bold"]["users"] + by_arm["as it is"]["users"] == 20
    assert told["conclusion"].startswith("too early")
    stopped = shop.post("/api/experiments/spring/stop").json()
    assert stopped["stopped"] == shop.clock.now
    assert stopped["results"]["state"] == "stopped"
    again = shop.post("/api/experiments/spring/stop").json()
    assert again["stopped"] == stopped["stopped"]
    arms = {shop.get(f"/api/recommend/u{u}").json()["arm"] for u in range(20)}
    assert arms <= {"live", "control"}


@pytest.mark.parametrize(
    ("changed", "status", "what"),
    [
        ({"metric": "joy"}, 422, "expected one of reward"),
        ({"arms": [{"name": "a", "share": 0.5}]}, 422, "expected to sum to 1"),
        ({"arms": [{"name": "a", "share": 0.5, "version": 7}] * 2}, 422, "different names"),
        (
            {"arms": [{"name": "a", "share": 0.5, "version": 7}, {"name": "b", "share": 0.5}]},
            422,
            "no strategy has version 7",
        ),
        ({"arms": []}, 422, "expected a list of 1 to 20"),
        ({"kind": "guess"}, 422, 'expected "interleave" or "split"'),
        ({"ends": 1.0}, 422, "is over"),
        ({"colour": "red"}, 422, "has the field colour, which is not known"),
        ({"name": "a/b"}, 422, "without a slash"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_with_the_reason(shop, changed, status, what):
    assert what in problem(shop.post("/api/experiments", {**PLAN, **changed}), status)
    assert shop.get("/api/experiments").json() == {"experiments": []}


def test_a_name_is_taken_once_and_unknown_ones_are_not_found(shop):
    assert shop.post("/api/experiments", PLAN).status_code == 200
    assert "exists already" in problem(shop.post("/api/experiments", PLAN), 409)
    assert "'autumn'" in problem(shop.get("/api/experiments/autumn"), 404)
    assert "'autumn'" in problem(shop.post("/api/experiments/autumn/stop"), 404)


def test_an_experiment_survives_a_restart_and_reaches_other_processes(shop, sqlite_url, loop):
    import service_worlds

    shop.post("/api/experiments", PLAN)
    other = service_worlds.opened(sqlite_url, loop=loop, clock=shop.clock)
    try:
        arms = [one.get("/api/recommend/u3").json()["arm"] for one in (shop, other)]
        assert arms[0] == arms[1]
        shop.post("/api/experiments/spring/stop")
        shop.clock.now += 2.0
        other.settle()
        arms = {other.get(f"/api/recommend/u{u}").json()["arm"] for u in range(10)}
        assert arms <= {"live", "control"}
    finally:
        other.close()
