"""A way past the router for the calls that come most often: lists and events."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]

OFTEN = ("/api/recommend/{user_id}", "/api/recommend", "/api/events")


class Direct:
    """Calls the endpoints of some paths itself and leaves all else to the app.

    Routing costs as much as the rest of the framework; what an endpoint is given is the same.

    Args:
        endpoints: (method, path) → endpoint; a path may end in one name in braces.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._whole = {place: call for place, call in endpoints.items() if "{" not in place[1]}
        self._named: dict[tuple[str, str], tuple[str, Endpoint]] = {}
        for (method, path), call in endpoints.items():
            before, brace, name = path.partition("{")
            if brace:
                self._named[method, before] = name.removesuffix("}"), call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope.get("root_path") or b"%" in scope.get("raw_path", b"%"):
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        call = self._whole.get((method, path))
        if call is None:
            cut = path.rfind("/") + 1
            name, call = self._named.get((method, path[:cut]), ("", None))
            if call is None or cut == len(path):
                await self._app(scope, receive, send)
                return
            scope["path_params"] = {name: path[cut:]}
        response = await call(Request(scope, receive, send))
        await response(scope, receive, send)
