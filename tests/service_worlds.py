"""A whole service in memory for the tests of HTTP: small fitted model, SQLite, a manual clock."""

import asyncio
import copy
import json
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from engine_worlds import model, world
from steerec.config import Deployment, ServiceConfig, Settings
from steerec.encoders import EncoderConfig
from steerec.engine.live_config import ScenarioConfig
from steerec.service.server import Service, build
from steerec.service.tenants import Tenant

SCENARIOS = {
    "explore": ScenarioConfig(temperature=1.0),
    "varied": ScenarioConfig(temperature=1.0, diversity=0.5),
    "cheap": ScenarioConfig(n=3, condition="price < 20"),
}


@dataclass
class Clock:
    """Unix seconds that pass only when told to."""

    now: float = field(default_factory=lambda: world().now)

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    """A service and calls to it; what runs beside it runs when `settle` is called."""

    service: Service
    clock: Clock
    loop: asyncio.AbstractEventLoop
    key: str | None = None

    def __post_init__(self):
        self.app = self.service.app()

    def call(self, method, path, *, key=None, headers=None, **given: Any) -> httpx.Response:
        return self.loop.run_until_complete(self.acall(method, path, key, headers, **given))

    async def acall(self, method, path, key=None, headers=None, **given: Any) -> httpx.Response:
        headers = dict(headers or {})
        if key or self.key:
            headers["X-API-Key"] = key or self.key
        transport = httpx.ASGITransport(self.app)  # an error that gets out fails the test
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.request(method, path, headers=headers, **given)

    def get(self, path, **given):
        return self.call("GET", path, **given)

    def post(self, path, body=None, **given):
        return self.call("POST", path, **({} if body is None else {"json": body}), **given)

    def ids(self, user_id, **params):
        """Item ids of a user's list."""
        answer = self.get(f"/api/recommend/{user_id}", params=params)
        assert answer.status_code == 200, answer.text
        return [choice["item_id"] for choice in answer.json()["items"]]

    def event(self, user_id, item_id, **more):
        """Send one event; its outcome."""
        answer = self.post("/api/events", {"user_id": user_id, "item_id": item_id, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["events"][0]["outcome"]

    def tenant(self, name="default") -> Tenant:
        return self.loop.run_until_complete(self.service.tenants.of(name))

    def tenant_now(self, name="default") -> Tenant:
        """The same where the loop is running already; it must be open."""
        return next(tenant for tenant in self.service.tenants if tenant.name == name)

    def settle(self, name="default"):
        """Let what was written be taken in, as the service does several times a second."""
        self.tenant(name).keep_up(self.clock(), others=False)
        self.tenant(name).tune(self.clock())
        self.flush()

    def flush(self):
        """Let impressions that wait be written."""
        self.service.store.writer.submit(lambda *_: [None], "default", [None]).result()

    def close(self):
        self.service.close()


def opened(url, *, fitted=True, clock=None, loop, store_model=None, **service) -> Shop:
    """The service over the store at `url`.

    Args:
        fitted: with the model of the engine's tests, a copy; else from nothing.
    """
    clock = clock or Clock()
    settings = Settings(
        deployment=Deployment(database_url=url),
        encoder=EncoderConfig(encoder="none"),
        service=ServiceConfig(**service),
        scenarios=SCENARIOS,
    )
    made = store_model or (own_model() if fitted else None)
    return Shop(build(settings, model=made, clock=clock), clock, loop)


def own_model():
    """A copy of the engine's model, whose live counts nobody else sees, without an encoder."""
    made = copy.deepcopy(model())
    prices = [float(5 + i) for i in range(made.data.n_items)]
    from polars import Series

    items = made.data.items.with_columns(Series("price", prices))
    return replace(made, data=replace(made.data, items=items))


def problem(answer, status):
    """The detail of a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = json.loads(answer.content)
    assert told["status"] == status
    assert set(told) == {"type", "title", "status", "detail", "instance"}
    return told["detail"]
