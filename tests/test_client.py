"""The clients against a real service: each call, what is sent again, and what is raised."""

import random
import re
import threading

import httpx
import pytest
import uvicorn

from service_worlds import opened
from steerec.client import AsyncSteerecClient, Entry, Event, Retries, ServiceError, SteerecClient
from steerec.service.app import ROUTES

KETTLE = Entry("kettle", {"title": "Kettle", "price": 30.0}, labels=("steel",), stock=2)


class Announced(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config):
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.listens.set()

    @property
    def url(self):
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"


@pytest.fixture
def client(shop, tmp_path, monkeypatch):
    """A client of a real server on a port of this machine."""
    monkeypatch.chdir(tmp_path)
    config = uvicorn.Config(shop.app, port=0, log_config=None, access_log=False)
    server = Announced(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.listens.wait(20)
        with SteerecClient(server.url) as made:
            yield made
    finally:
        server.should_exit = True
        thread.join()


def in_memory(shop, **given):
    return AsyncSteerecClient("http://shop", transport=httpx.ASGITransport(shop.app), **given)


def scripted(*answers, **given):
    """A client whose service answers as told, and the calls and waits it made."""
    calls, waits, left = [], [], list(answers)

    def answer(request):
        calls.append(request)
        told = left.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    made = SteerecClient(
        "http://shop",
        transport=httpx.MockTransport(answer),
        sleep=waits.append,
        rng=random.Random(0),
        **given,
    )
    return made, calls, waits


def good():
    return httpx.Response(200, json={"items": [{"id": "tea", "score": 1.5}]})


def taken():
    return httpx.Response(200, json={"accepted": 1, "events": []})


def a_list():
    return httpx.Response(200, json={"request_id": "r", "strategy_version": 1, "items": []})


def busy():
    return httpx.Response(429, headers={"Retry-After": "2"})


def away():
    return httpx.Response(503, json={})


def refused():
    return httpx.ConnectError("refused")


# The whole surface


async def walk(client, user, item):
    """Call everything once, as somebody would; yields what came back by name."""
    got = {}
    got["live"] = await client.live()
    got["ready"] = await client.ready()
    got["put"] = await client.put_items([KETTLE, {"id": "pot", "attributes": {"title": "Pot"}}])
    got["item"] = await client.item("kettle")
    got["changed"] = await client.change_item("kettle", stock=0, attributes={"price": None})
    got["items"] = await client.items(limit=1)
    got["search"] = await client.search("kettle")
    got["deleted"] = await client.delete_item("pot")
    got["imported"] = await client.import_items([KETTLE] * 2)
    got["export"] = [record async for record in client.export_items()]
    await client.put_users([Entry("ann", {"age": 31})])
    got["user"] = await client.user("ann")
    got["user_changed"] = await client.change_user("ann", attributes={"age": 32})
    got["users"] = await client.users()
    await client.import_users([{"id": "ben"}])
    got["export_users"] = [record async for record in client.export_users()]
    got["user_gone"] = await client.delete_user("ben")
    got["list"] = await client.recommend(user, n=3)
    got["page"] = await client.page(user, got["list"].next, n=2)
    got["ranked"] = await client.rank([item, *got["list"].item_ids], user_id=user)
    got["taken"] = await client.send_event(
        "ann", item, "click", request_id=got["list"].request_id, event_id="e-1"
    )
    got["many"] = await client.send_events(
        [Event("visitor", item), {"user_id": "ann", "item_id": item, "event_id": "e-2"}]
    )
    got["merged"] = await client.merge("ann", "visitor")
    for name, call in (("similar", client.similar_items), ("alike", client.similar_users)):
        got[name] = await call(item if name == "similar" else user, n=4)
    got["popular"], got["latest"] = await client.popular(n=2), await client.latest(n=2)
    got["strategy"] = await client.strategy()
    number = got["strategy"].version
    got["diff"] = await client.strategy_diff(number, number)
    got["promoted"] = await client.promote(number, reason="test")
    got["back"] = await client.rollback(number, reason="test")
    got["tuned"] = await client.tune()
    arms = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "dials": {"temperature": 1}}]
    got["started"] = await client.start_experiment("spring", arms, metric="click")
    got["experiments"] = await client.experiments()
    got["experiment"] = await client.experiment("spring")
    got["stopped"] = await client.stop_experiment("spring")
    got["history"] = await client.strategy_history()
    got["explained"] = await client.explain(got["list"].request_id)
    got["data"] = await client.user_data("ann")
    got["erased"] = await client.erase("ann")
    got["dump"] = await client.dump()
    got["metrics"] = await client.metrics()
    return got


@pytest.fixture
def got(shop, loop):
    data = shop.tenant().live.model.data
    # Waits for nothing: what is logged in the background is written before it is asked for.
    shop.flush()

    async def run():
        async with in_memory(shop) as client:
            return await walk(client, str(data.user_ids[0]), str(data.item_ids[0]))

    return loop.run_until_complete(run())


def test_every_route_of_the_service_has_a_call(got):
    called = re.findall(
        r'steerec_request_seconds_count\{method="(\w+)",route="([^"]+)",status="200"\}',
        got["metrics"],
    )
    # GET of a list is what `page` asks; the metrics count themselves when they have been sent.
    assert {(r.method, r.path) for r in ROUTES} - set(called) == {("GET", "/metrics")}


def test_answers_are_values(got):
    assert (got["live"].status, got["ready"].degraded) == ("ok", ())
    assert (got["put"], got["deleted"], got["imported"], got["user_gone"]) == (2, 1, 2, 1)
    assert got["dump"].startswith(b"PK")
    assert got["item"].attributes == KETTLE.attributes
    assert got["item"].labels == ("steel",)
    assert (got["changed"].stock, got["changed"].attributes) == (0, {"title": "Kettle"})
    assert got["items"].next == got["items"].entries[-1].id
    assert "kettle" in {record["id"] for record in got["export"]}
    assert "pot" not in {record["id"] for record in got["export"]}
    assert {record["id"] for record in got["export_users"]} >= {"ann", "ben"}
    assert got["user_changed"].attributes == {"age": 32}
    assert [choice.position for choice in got["list"].items] == [1, 2, 3]
    assert [choice.position for choice in got["page"].items] == [4, 5]
    assert set(got["ranked"].item_ids) >= set(got["list"].item_ids)
    assert [one.outcome for one in got["taken"].events] == ["new"]
    assert got["many"].accepted == 2
    assert got["many"].events[1].event_id == "e-2"
    assert got["merged"].accepted == 1
    assert len(got["similar"]) == 4
    assert len(got["popular"]) == 2
    assert got["back"].in_force
    assert got["promoted"].in_force
    assert (got["diff"].weights, got["diff"].dials) == ({}, {})
    assert [one.name for one in got["experiments"]] == ["spring"]
    assert got["experiment"].results["state"] == "running"
    assert got["stopped"].stopped is not None
    assert got["history"].promotions[0]["reason"] == "test"
    assert (got["tuned"].promoted, got["tuned"].slates) == (None, 0)
    assert "temperature" in got["tuned"].why
    assert got["explained"].replayed_the_same
    assert {record["kind"] for record in got["data"]} == {"user", "event"}
    assert got["erased"].users == 1


def test_the_waiting_client_counts_a_click_on_the_next_list(client, shop):
    user = str(shop.tenant().live.model.data.user_ids[0])
    first = client.recommend(user, n=3)
    taken = client.send_event(user, first.items[0].item_id, "purchase", event_id="e-1")
    assert taken.accepted == 1
    assert (
        client.send_event(user, first.items[0].item_id, "purchase", event_id="e-1")
        .events[0]
        .outcome
        == "replay"
    )
    assert client.recommend(user, n=3) != first
    assert client.put_items([KETTLE]) == 1
    assert "kettle" in {record["id"] for record in client.export_items()}


def test_a_problem_is_raised_with_its_status_and_words(client):
    with pytest.raises(ServiceError) as caught:
        client.item("no-such-item")
    error = caught.value
    assert error.status == 404
    assert "no item has the id 'no-such-item'" in error.detail
    assert str(error) == f"GET /api/items/no-such-item: 404: {error.detail}"
    assert len(error.instance) == 16
    with pytest.raises(ServiceError, match="422"):
        client.recommend("ann", n=0)
    with pytest.raises(ValueError, match="the id is empty"):
        client.item("")


def test_ids_keep_their_letters_on_the_way(client):
    odd = "a b?c#d%41é茶"
    client.put_items([Entry(odd, {"title": "Odd"})])
    assert client.item(odd).id == odd


def test_a_key_is_sent(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, keys=True)
    text, _ = shop.service.store.keys.issue("default", ["read"], now=0.0)

    async def latest(key):
        async with in_memory(shop, key=key) as client:
            return await client.latest(n=1)

    try:
        assert len(loop.run_until_complete(latest(text))) == 1
        with pytest.raises(ServiceError, match="401: no key was sent"):
            loop.run_until_complete(latest(None))
    finally:
        shop.close()


# Once more


def test_a_read_is_sent_again_after_the_time_that_the_service_asks_for():
    client, calls, waits = scripted(busy(), away(), refused(), good())
    assert [one.id for one in client.popular()] == ["tea"]
    assert len(calls) == 4
    assert waits[0] == 2.0
    assert 0.1 <= waits[1] <= 0.2  # 0.1 s doubled, and up to a half less
    assert 0.2 <= waits[2] <= 0.4


def test_events_are_sent_again_under_the_same_ids():
    client, calls, _ = scripted(away(), httpx.ReadTimeout("late"), taken(), away(), taken())
    client.send_event("ann", "tea")
    client.send_events([Event("ann", "tea"), Event("ann", "tea")])
    bodies = [call.content for call in calls]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[3] == bodies[4]
    assert len(set(re.findall(rb'"event_id": "(\w+)"', bodies[4]))) == 2


def test_a_list_is_sent_again_only_with_an_idempotency_key():
    client, calls, _ = scripted(away(), a_list())
    assert client.recommend("ann", idempotency_key="k").request_id == "r"
    assert [call.headers["idempotency-key"] for call in calls] == ["k", "k"]
    for failure in (away(), busy(), refused()):
        client, calls, waits = scripted(failure)
        with pytest.raises(ServiceError):
            client.recommend("ann")
        assert (len(calls), waits) == (1, [])


def test_it_gives_up_after_the_tries_it_has():
    client, calls, waits = scripted(*(away() for _ in range(3)), retries=Retries(most=2))
    with pytest.raises(ServiceError) as caught:
        client.popular()
    assert caught.value.status == 503
    assert (len(calls), len(waits)) == (3, 2)


def test_it_gives_up_at_once_where_it_would_wait_too_long():
    late = httpx.Response(503, headers={"Retry-After": "3600"})
    client, calls, waits = scripted(late)
    with pytest.raises(ServiceError, match="503"):
        client.popular()
    assert (len(calls), waits) == (1, [])


def test_retry_after_may_be_a_time():
    past = httpx.Response(429, headers={"Retry-After": "Fri, 01 Mar 2024 12:00:00 GMT"})
    client, _, waits = scripted(past, good())
    client.popular()
    assert 0.05 <= waits[0] <= 0.1


def test_a_refusal_is_not_sent_again():
    client, calls, _ = scripted(httpx.Response(500, text="broken"))
    with pytest.raises(ServiceError, match="500: broken"):
        client.popular()
    assert len(calls) == 1


def test_no_answer_and_a_strange_one_are_told():
    client, _, _ = scripted(refused(), retries=Retries(most=0))
    with pytest.raises(ServiceError, match=r"got no answer .*refused.*running at this address"):
        client.popular()
    client, _, _ = scripted(httpx.Response(200, text="<html>"))
    with pytest.raises(ServiceError, match="answered with something else than expected"):
        client.popular()
    client, _, _ = scripted(refused())
    with pytest.raises(ServiceError, match="GET /api/items/export got no answer"):
        list(client.export_items())


def test_the_awaited_client_waits_and_sends_again_too(loop):
    left, waits = [busy(), refused(), good()], []

    def answer(request):
        told = left.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    async def sleep(seconds):
        waits.append(seconds)

    async def run():
        transport = httpx.MockTransport(answer)
        async with AsyncSteerecClient("http://shop", transport=transport, sleep=sleep) as client:
            return await client.popular()

    assert [one.id for one in loop.run_until_complete(run())] == ["tea"]
    assert waits[0] == 2.0
    assert len(waits) == 2


def test_degraded_is_an_answer_of_ready_and_not_an_error():
    told = {"status": "degraded", "version": "0", "degraded": ["store: disk full"]}
    client, _, _ = scripted(httpx.Response(503, json=told))
    assert client.ready().degraded == ("store: disk full",)


def test_both_clients_have_the_same_calls():
    names = [
        {name for name in vars(kind) if not name.startswith("_")} - {"retries"}
        for kind in (SteerecClient, AsyncSteerecClient)
    ]
    assert names[0] == names[1]
    assert SteerecClient.recommend.__doc__ == AsyncSteerecClient.recommend.__doc__
