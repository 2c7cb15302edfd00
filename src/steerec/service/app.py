"""The app: one table of routes, what runs beside them, and the documents made from the table."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from steerec.service import catalogue, events, experiments, lists, operations, people, strategy
from steerec.service.calls import ESCAPED, Counter, Route
from steerec.service.direct import OFTEN, Direct, Endpoint
from steerec.service.gorse import routes as gorse
from steerec.service.openapi import answers, document
from steerec.service.problems import Problem
from steerec.service.schemas import (
    Counted,
    DiffOut,
    DiffQuery,
    EntriesIn,
    EntriesOut,
    EntryIn,
    EntryOut,
    EntryPatch,
    ErasedOut,
    EventIn,
    EventsIn,
    EventsOut,
    ExperimentIn,
    ExperimentOut,
    ExperimentsOut,
    ExplainOut,
    HealthOut,
    HistoryOut,
    ListQuery,
    MergeIn,
    PageQuery,
    PromoteIn,
    RankIn,
    RecommendIn,
    RecommendQuery,
    RecordsOut,
    RollbackIn,
    ScoredOut,
    SlateOut,
    StrategyOut,
    StrategyQuery,
    TunedOut,
    VersionOut,
)
from steerec.service.tenants import Tenants
from steerec.service.wakes import Wakes
from steerec.version import __version__

log = logging.getLogger(__name__)

_EVENT = {"event_id": "e-1", "user_id": "ann", "item_id": "tea", "event": "click"}
_ITEM = {"id": "tea", "attributes": {"title": "Green tea", "price": 4.5}, "labels": ["drinks"]}
_EXPERIMENT = {
    "name": "more-chance",
    "metric": "click",
    "arms": [
        {"name": "as it is", "share": 0.5},
        {"name": "explores", "share": 0.5, "dials": {"temperature": 0.5}},
    ],
}
_LINES = {  # a body that is read as it comes
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"id": "cup", "attributes": {"title": "Cup"}}\n{"id": "pot"}\n',
            }
        },
    }
}
_ZIP = {"responses": answers({"application/zip": {"schema": {"type": "string"}}})}

ROUTES: tuple[Route, ...] = (
    Route(
        "POST", "/api/events", events.post_events, "events", EventsOut, "events",
        body=EventIn, many=EventsIn, example=_EVENT,
    ),
    Route(
        "POST", "/api/users/{user_id}/merge", events.post_merge, "events", EventsOut, "events",
        body=MergeIn, example={"session_id": "visitor-7"},
    ),
    Route(
        "GET", "/api/recommend/{user_id}", lists.get_recommend, "read", SlateOut, "lists",
        query=RecommendQuery,
    ),
    Route(
        "POST", "/api/recommend", lists.post_recommend, "read", SlateOut, "lists",
        body=RecommendIn, example={"user_id": "ann", "n": 5, "session": ["tea"]},
    ),
    Route(
        "POST", "/api/rank", lists.post_rank, "read", SlateOut, "lists",
        body=RankIn, example={"user_id": "ann", "candidates": ["tea", "coffee"]},
    ),
    Route(
        "GET", "/api/items/{item_id}/similar", lists.get_similar_items, "read", ScoredOut, "lists",
        query=ListQuery,
    ),
    Route(
        "GET", "/api/users/{user_id}/similar", lists.get_similar_users, "read", ScoredOut, "lists",
        query=ListQuery,
    ),
    Route("GET", "/api/popular", lists.get_popular, "read", ScoredOut, "lists", query=ListQuery),
    Route("GET", "/api/latest", lists.get_latest, "read", ScoredOut, "lists", query=ListQuery),
    Route(
        "GET", "/api/requests/{request_id}/explain", lists.get_explain, "operate", ExplainOut,
        "lists",
    ),
    Route(
        "POST", "/api/items", catalogue.post_items, "catalogue", Counted, "catalogue",
        body=EntryIn, many=EntriesIn, example=_ITEM,
    ),
    Route(
        "GET", "/api/items", catalogue.get_items, "read", EntriesOut, "catalogue",
        query=PageQuery,
    ),
    Route(
        "POST", "/api/items/import", catalogue.import_items, "catalogue", Counted, "catalogue",
        more=_LINES,
    ),
    Route("GET", "/api/items/export", catalogue.export_items, "read", None, "catalogue"),
    Route("GET", "/api/items/{item_id}", catalogue.get_item, "read", EntryOut, "catalogue"),
    Route(
        "PATCH", "/api/items/{item_id}", catalogue.patch_item, "catalogue", EntryOut, "catalogue",
        body=EntryPatch, example={"stock": 0},
    ),
    Route(
        "DELETE", "/api/items/{item_id}", catalogue.delete_item, "catalogue", Counted, "catalogue"
    ),
    Route(
        "POST", "/api/users", catalogue.post_users, "catalogue", Counted, "catalogue",
        body=EntryIn, many=EntriesIn, example={"id": "ann", "attributes": {"age": 31}},
    ),
    Route(
        "GET", "/api/users", catalogue.get_users, "operate", EntriesOut, "catalogue",
        query=PageQuery,
    ),
    Route(
        "POST", "/api/users/import", catalogue.import_users, "catalogue", Counted, "catalogue",
        more=_LINES,
    ),
    Route("GET", "/api/users/export", catalogue.export_users, "operate", None, "catalogue"),
    Route("GET", "/api/users/{user_id}", catalogue.get_user, "operate", EntryOut, "catalogue"),
    Route(
        "PATCH", "/api/users/{user_id}", catalogue.patch_user, "catalogue", EntryOut, "catalogue",
        body=EntryPatch, example={"attributes": {"age": 32}},
    ),
    Route(
        "DELETE", "/api/users/{user_id}", catalogue.delete_user, "catalogue", Counted, "catalogue"
    ),
    Route(
        "GET", "/api/users/{user_id}/data", people.get_user_data, "operate", RecordsOut, "persons"
    ),
    Route(
        "DELETE", "/api/users/{user_id}/data", people.delete_user_data, "operate", ErasedOut,
        "persons",
    ),
    Route(
        "GET", "/api/strategy", strategy.get_strategy, "operate", StrategyOut, "strategy",
        query=StrategyQuery,
    ),
    Route("GET", "/api/strategy/history", strategy.get_history, "operate", HistoryOut, "strategy"),
    Route(
        "GET", "/api/strategy/diff", strategy.get_diff, "operate", DiffOut, "strategy",
        query=DiffQuery,
    ),
    Route(
        "POST", "/api/strategy/promote", strategy.post_promote, "operate", VersionOut,
        "strategy", body=PromoteIn, example={"version": 1},
    ),
    Route(
        "POST", "/api/strategy/rollback", strategy.post_rollback, "operate", VersionOut,
        "strategy", body=RollbackIn, example={"version": 1},
    ),
    Route("POST", "/api/strategy/tune", strategy.post_tune, "operate", TunedOut, "strategy"),
    Route(
        "GET", "/api/experiments", experiments.get_experiments, "operate", ExperimentsOut,
        "experiments",
    ),
    Route(
        "POST", "/api/experiments", experiments.post_experiment, "operate", ExperimentOut,
        "experiments", body=ExperimentIn, example=_EXPERIMENT,
    ),
    Route(
        "GET", "/api/experiments/{name}", experiments.get_experiment, "operate", ExperimentOut,
        "experiments",
    ),
    Route(
        "POST", "/api/experiments/{name}/stop", experiments.post_experiment_stop, "operate",
        ExperimentOut, "experiments",
    ),
    Route("GET", "/api/health/live", operations.get_live, "open", HealthOut, "operations"),
    Route("GET", "/api/health/ready", operations.get_ready, "open", HealthOut, "operations"),
    Route("GET", "/api/dump", operations.get_dump, "admin", None, "dump", more=_ZIP),
    Route("GET", "/metrics", operations.get_metrics, "open", None, "operations"),
)  # fmt: skip

Beside = Callable[[], Awaitable[None]]  # runs until it is cancelled
CANCEL_AGAIN_S = 0.5
TUNE_EVERY_S = 1.0


def create_app(counter: Counter, *, beside: Sequence[Beside] = (), public: bool = False) -> FastAPI:
    """The app over these tenants.

    Args:
        beside: what runs as long as the app does.
        public: whether metrics and docs are left out, for `create_operators_app` to show.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_kept_up(run)) for run in beside]
        try:
            yield
        finally:
            await ended(tasks)

    routes = [route for route in ROUTES if not public or route.handle is not operations.get_metrics]
    app = _App(
        title="steerec",
        version=__version__,
        lifespan=life,
        redoc_url=None,
        openapi_url=None if public else "/openapi.json",
    )
    _add(app, counter, [*routes, *gorse.routes()])
    counter.telemetry.watch(counter.tenants)
    return app


def create_operators_app(counter: Counter) -> FastAPI:
    """What `metrics_port` shows: metrics, health, and the docs of all routes."""
    app = _App(title="steerec", version=__version__, redoc_url=None)
    _add(app, counter, [route for route in ROUTES if route.tag == "operations"])
    return app


class _App(FastAPI):
    """The framework, with a way past all of it for the calls that come most often."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self.direct: ASGIApp = super().__call__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.direct(scope, receive, send)


def _add(app: _App, counter: Counter, routes: Sequence[Route]) -> None:
    often: dict[tuple[str, str], Endpoint] = {}
    for route in routes:
        endpoint = counter.endpoint(route)
        app.add_route(route.path, endpoint, methods=[route.method])
        if route.path in OFTEN:
            often[route.method, route.path] = endpoint
    described = document(ROUTES)
    app.openapi = lambda: described  # type: ignore[method-assign]
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(_WholeIds)
    app.direct = Direct(app.direct, often)


class _WholeIds:
    """Lets an id hold a slash: the escaped one of `/items/a%2Fb` does not part the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or b""
        if b"%2f" in raw or b"%2F" in raw:
            scope = {**scope, "path": raw.decode("latin-1"), ESCAPED: True}
        await self._app(scope, receive, send)


async def _no_route(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist are problems like any other."""
    status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
    path, docs = request.url.path, "/docs"
    if request.app.openapi_url is None:
        docs = "/docs at the service's metrics_port"
    told = {
        HTTPStatus.NOT_FOUND: f"nothing is at {path}: see {docs}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not for {path}: see {docs}",
    }
    headers: dict[str, Any] = dict(getattr(error, "headers", None) or {})
    request_id = secrets.token_hex(8)
    log.info("request=%s method=%s status=%d no_route=1", request_id, request.method, status)
    problem = Problem(status, told.get(status, str(error)), headers)
    response = problem.answer(request_id)
    response.headers["X-Request-ID"] = request_id
    return response


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, again and again until each has ended.

    Once is not enough: before Python 3.12 `asyncio.wait_for` drops a cancellation that comes
    together with its result, and clients of Redis wait with it whenever they send.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


async def _kept_up(run: Beside) -> None:
    """Start it again when it fails: what runs beside must not end in silence."""
    while True:
        try:
            await run()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("beside=%s failed; again in 1 s", getattr(run, "__name__", run))
        await asyncio.sleep(1.0)


def keeping_up(tenants: Tenants, clock: Callable[[], float], wakes: Wakes) -> Beside:
    """Take in new items with their texts, and what others wrote, several times a second."""

    async def keep_up() -> None:
        while True:
            names = await wakes.wait()
            for tenant in tenants:
                others = names is None or tenant.name in names
                await asyncio.to_thread(tenant.keep_up, clock(), others=others)

    return keep_up


def tuning(tenants: Tenants, clock: Callable[[], float]) -> Beside:
    """Let people's answers move each tenant's strategy, once a second."""

    async def tune() -> None:
        while True:
            for tenant in tenants:
                await asyncio.to_thread(tenant.tune, clock())
            await asyncio.sleep(TUNE_EVERY_S)

    return tune
