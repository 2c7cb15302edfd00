"""The newest items over HTTP: by publishing, else by when they were first written or seen."""

from service_worlds import opened


def test_the_latest_are_those_written_or_seen_last_also_after_a_restart(sqlite_url, loop):
    shop = opened(sqlite_url, fitted=False, loop=loop)
    start = shop.clock.now
    for hours, item_id in enumerate("abc"):
        shop.clock.now = start + 3_600 * hours
        shop.post("/api/items", {"id": item_id})
    shop.event("ann", "b", timestamp=start - 9.0)  # which is known of from before it was written
    shop.event("ann", "made")  # by its event
    shop.post("/api/items", {"id": "told", "published": start + 1.0})
    shop.settle()
    shop.clock.now += 60
    shop.call("PATCH", "/api/items/a", json={"stock": 5})  # is no news
    shop.settle()
    wanted = [("made", 7_200), ("c", 7_200), ("told", 1), ("a", 0), ("b", -9)]

    def latest():
        found = shop.get("/api/latest").json()["items"]
        return {(i["id"], i["score"] - start) for i in found}, [i["score"] for i in found]

    for _ in range(2):
        found, scores = latest()
        assert found == set(wanted)
        assert scores == sorted(scores, reverse=True)
        shop.close()
        shop = opened(sqlite_url, fitted=False, loop=loop, clock=shop.clock)
    shop.close()


def test_items_of_a_model_are_not_new_because_their_service_opens(shop):
    found = shop.get("/api/latest?n=100").json()["items"]
    assert max(i["score"] for i in found) < shop.clock.now - 1.0
