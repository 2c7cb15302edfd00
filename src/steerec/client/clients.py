"""The two clients: the same calls, one waiting for its answer and one awaited."""

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, overload

import httpx
import msgspec

from steerec.client import asks
from steerec.client.answers import Json
from steerec.client.asks import Ask
from steerec.client.sending import (
    AGAIN,
    Retries,
    now,
    refusal,
    request_of,
    result_of,
    told_s,
    unreachable,
)

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 10.0


class _Waiting(Generic[P, T]):
    """A method of SteerecClient, made from the function that makes its call."""

    def __init__(self, make: Callable[P, Ask[T]]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Callable[P, Ask[T]]: ...
    @overload
    def __get__(self, client: "SteerecClient", owner: type) -> Callable[P, T]: ...
    def __get__(
        self, client: "SteerecClient | None", owner: type
    ) -> Callable[P, T] | Callable[P, Ask[T]]:
        if client is None:
            return self._make

        @functools.wraps(self._make)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.send(self._make(*args, **kwargs))

        return call


class _Awaited(Generic[P, T]):
    """A method of AsyncSteerecClient, made from the function that makes its call."""

    def __init__(self, make: Callable[P, Ask[T]]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Callable[P, Ask[T]]: ...
    @overload
    def __get__(
        self, client: "AsyncSteerecClient", owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(
        self, client: "AsyncSteerecClient | None", owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]] | Callable[P, Ask[T]]:
        if client is None:
            return self._make

        @functools.wraps(self._make)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.send(self._make(*args, **kwargs))

        return call


class SteerecClient:
    """Calls a running service; good for many threads at once. Close it, or use it in a `with`.

    Args:
        url: of the service, such as `http://127.0.0.1:8080`.
        key: an API key, where the service asks for one.
        timeout_s: for one try, to connect and between two bytes.
        transport: of httpx, such as one for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.retries = retries or Retries()
        self._sleep, self._rng = sleep, rng or random.Random()
        self._http = httpx.Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    def __enter__(self) -> "SteerecClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, ask: Ask[T]) -> T:
        """Send a call, again where that does no harm, and give its result.

        Raises:
            ServiceError: if the service refuses it, or does not answer.
        """
        tries = 0
        while True:
            tries += 1
            asked_s: float | None = None
            try:
                response = self._http.request(**request_of(ask))
                if response.status_code not in AGAIN or not ask.again:
                    return result_of(ask, response)
                asked_s, error = told_s(response, now()), refusal(response)
            except httpx.TransportError as e:
                error = unreachable(ask.method, ask.path, e)
            wait_s = self.retries.wait_s(tries, asked_s, self._rng) if ask.again else None
            if wait_s is None:
                raise error
            self._sleep(wait_s)

    def export_items(self) -> Iterator[Json]:
        """All items, one at a time, as `import_items` takes them."""
        return self._export("/api/items/export")

    def export_users(self) -> Iterator[Json]:
        """All users, one at a time, as `import_users` takes them."""
        return self._export("/api/users/export")

    def _export(self, path: str) -> Iterator[Json]:
        try:
            with self._http.stream("GET", path) as response:
                if response.status_code != 200:
                    response.read()
                    raise refusal(response)
                for line in response.iter_lines():
                    yield _record(line)
        except httpx.TransportError as e:
            raise unreachable("GET", path, e) from e

    send_event = _Waiting(asks.send_event)
    send_events = _Waiting(asks.send_events)
    merge = _Waiting(asks.merge)
    recommend = _Waiting(asks.recommend)
    page = _Waiting(asks.page)
    rank = _Waiting(asks.rank)
    similar_items = _Waiting(asks.similar_items)
    similar_users = _Waiting(asks.similar_users)
    popular = _Waiting(asks.popular)
    latest = _Waiting(asks.latest)
    explain = _Waiting(asks.explain)
    put_items = _Waiting(asks.put_items)
    put_users = _Waiting(asks.put_users)
    items = _Waiting(asks.items)
    search = _Waiting(asks.search)
    users = _Waiting(asks.users)
    item = _Waiting(asks.item)
    user = _Waiting(asks.user)
    change_item = _Waiting(asks.change_item)
    change_user = _Waiting(asks.change_user)
    delete_item = _Waiting(asks.delete_item)
    delete_user = _Waiting(asks.delete_user)
    import_items = _Waiting(asks.import_items)
    import_users = _Waiting(asks.import_users)
    user_data = _Waiting(asks.user_data)
    erase = _Waiting(asks.erase)
    strategy = _Waiting(asks.strategy)
    strategy_history = _Waiting(asks.strategy_history)
    strategy_diff = _Waiting(asks.strategy_diff)
    promote = _Waiting(asks.promote)
    rollback = _Waiting(asks.rollback)
    tune = _Waiting(asks.tune)
    experiments = _Waiting(asks.experiments)
    experiment = _Waiting(asks.experiment)
    start_experiment = _Waiting(asks.start_experiment)
    stop_experiment = _Waiting(asks.stop_experiment)
    live = _Waiting(asks.live)
    ready = _Waiting(asks.ready)
    metrics = _Waiting(asks.metrics)
    dump = _Waiting(asks.dump)


class AsyncSteerecClient:
    """Calls a running service from asyncio. Close it, or use it in an `async with`.

    Args:
        url: of the service, such as `http://127.0.0.1:8080`.
        key: an API key, where the service asks for one.
        timeout_s: for one try, to connect and between two bytes.
        transport: of httpx, such as one for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.retries = retries or Retries()
        self._sleep, self._rng = sleep, rng or random.Random()
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    async def __aenter__(self) -> "AsyncSteerecClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, ask: Ask[T]) -> T:
        """Send a call, again where that does no harm, and give its result.

        Raises:
            ServiceError: if the service refuses it, or does not answer.
        """
        tries = 0
        while True:
            tries += 1
            asked_s: float | None = None
            try:
                response = await self._http.request(**request_of(ask))
                if response.status_code not in AGAIN or not ask.again:
                    return result_of(ask, response)
                asked_s, error = told_s(response, now()), refusal(response)
            except httpx.TransportError as e:
                error = unreachable(ask.method, ask.path, e)
            wait_s = self.retries.wait_s(tries, asked_s, self._rng) if ask.again else None
            if wait_s is None:
                raise error
            await self._sleep(wait_s)

    def export_items(self) -> AsyncIterator[Json]:
        """All items, one at a time, as `import_items` takes them."""
        return self._export("/api/items/export")

    def export_users(self) -> AsyncIterator[Json]:
        """All users, one at a time, as `import_users` takes them."""
        return self._export("/api/users/export")

    async def _export(self, path: str) -> AsyncIterator[Json]:
        try:
            async with self._http.stream("GET", path) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(response)
                async for line in response.aiter_lines():
                    yield _record(line)
        except httpx.TransportError as e:
            raise unreachable("GET", path, e) from e

    send_event = _Awaited(asks.send_event)
    send_events = _Awaited(asks.send_events)
    merge = _Awaited(asks.merge)
    recommend = _Awaited(asks.recommend)
    page = _Awaited(asks.page)
    rank = _Awaited(asks.rank)
    similar_items = _Awaited(asks.similar_items)
    similar_users = _Awaited(asks.similar_users)
    popular = _Awaited(asks.popular)
    latest = _Awaited(asks.latest)
    explain = _Awaited(asks.explain)
    put_items = _Awaited(asks.put_items)
    put_users = _Awaited(asks.put_users)
    items = _Awaited(asks.items)
    search = _Awaited(asks.search)
    users = _Awaited(asks.users)
    item = _Awaited(asks.item)
    user = _Awaited(asks.user)
    change_item = _Awaited(asks.change_item)
    change_user = _Awaited(asks.change_user)
    delete_item = _Awaited(asks.delete_item)
    delete_user = _Awaited(asks.delete_user)
    import_items = _Awaited(asks.import_items)
    import_users = _Awaited(asks.import_users)
    user_data = _Awaited(asks.user_data)
    erase = _Awaited(asks.erase)
    strategy = _Awaited(asks.strategy)
    strategy_history = _Awaited(asks.strategy_history)
    strategy_diff = _Awaited(asks.strategy_diff)
    promote = _Awaited(asks.promote)
    rollback = _Awaited(asks.rollback)
    tune = _Awaited(asks.tune)
    experiments = _Awaited(asks.experiments)
    experiment = _Awaited(asks.experiment)
    start_experiment = _Awaited(asks.start_experiment)
    stop_experiment = _Awaited(asks.stop_experiment)
    live = _Awaited(asks.live)
    ready = _Awaited(asks.ready)
    metrics = _Awaited(asks.metrics)
    dump = _Awaited(asks.dump)


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"X-API-Key": key}


def _record(line: str) -> Json:
    found: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    return found
