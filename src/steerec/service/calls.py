"""From a request to an answer: key, limits, body, handler, problem; one way for every route."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from inspect import isawaitable, iscoroutinefunction
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from steerec.service.gate import Caller, Gate
from steerec.service.mistakes import UNREADABLE, Given, told_of
from steerec.service.problems import Problem, problem_of, refused
from steerec.service.schemas import Answer, Nothing
from steerec.service.telemetry import Telemetry
from steerec.service.tenants import Tenant, Tenants

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_ENCODER = msgspec.json.Encoder()
_HEADERS = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
ID_BYTES, AT_ONCE = 8, 64
ESCAPED = "steerec.escaped"  # in a scope: its path is as it was sent


@dataclass(frozen=True)
class Call:
    """One call, checked, as a handler sees it.

    Attributes:
        path: what the address names, such as `item_id`.
        query, body: structs of the route's classes.
        request_id: its name in logs and, for lists, in the impression log.
        now: Unix seconds.
    """

    tenant: Tenant
    caller: Caller
    path: Mapping[str, str]
    query: Any
    body: Any
    request: Request
    request_id: str
    now: float


Answered = Answer | Response | None
# One that is no coroutine runs in a thread: whoever reads or writes the store keeps nobody waiting.
Handler = Callable[[Call], Answered | Awaitable[Answered]]


@dataclass(frozen=True)
class Route:
    """A line of the table of routes, from which the app and OpenAPI are made.

    Attributes:
        scope: what a key must be allowed to.
        body: class of the body; None: there is none, or the handler reads a stream.
        many: class of a body with many of them, told from one by its only field.
        example: a body that works on the demo shop.
    """

    method: str
    path: str
    handle: Handler
    scope: str
    answer: type[Answer] | None
    tag: str
    query: type[msgspec.Struct] = Nothing
    body: type[Any] | None = None
    many: type[Any] | None = None
    status: HTTPStatus = HTTPStatus.OK
    example: Mapping[str, Any] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def in_thread(self) -> bool:
        """Whether its handler waits for the store, and not for others."""
        return not iscoroutinefunction(self.handle)

    @property
    def described(self) -> str:
        """What it does, from its handler."""
        return (self.handle.__doc__ or "").strip()


class Ids:
    """Random names for calls; the system is asked for many at a time, since that takes the GIL."""

    def __init__(self) -> None:
        self._left = ""

    def next(self) -> str:
        """16 hexadecimal digits that nobody can guess."""
        if not self._left:
            self._left = secrets.token_hex(AT_ONCE * ID_BYTES)
        found, self._left = self._left[-2 * ID_BYTES :], self._left[: -2 * ID_BYTES]
        return found


@dataclass(frozen=True)
class Counter:
    """Where every call is received.

    Attributes:
        most_bytes: of a body.
        written: told the tenant of each call that may have written something.
    """

    tenants: Tenants
    gate: Gate
    telemetry: Telemetry
    clock: Callable[[], float]
    most_bytes: int
    written: Callable[[str], None] = lambda tenant: None
    ids: Ids = field(default_factory=Ids)

    def endpoint(self, route: Route) -> Callable[[Request], Awaitable[Response]]:
        """The function that serves a route."""
        decode = None if route.body is None else decoder_of(route.body, route.many)

        async def serve(request: Request) -> Response:
            request_id, telemetry = self.ids.next(), self.telemetry
            with telemetry.call(route.method, route.path, request.headers, request_id) as told:
                try:
                    caller = await self.gate.admit(request.headers.get("x-api-key"), route.scope)
                    told.tenant = caller.tenant
                    call = Call(
                        tenant=await self.tenants.of(caller.tenant),
                        caller=caller,
                        path=_path_of(request),
                        query=_query_of(request, route.query),
                        body=None if decode is None else await self._body(request, decode),
                        request=request,
                        request_id=request_id,
                        now=self.clock(),
                    )
                    response = _answered(await _handled(route, call), route.status)
                    if route.method != "GET" and route.scope not in ("read", "open"):
                        self.written(caller.tenant)
                except ClientDisconnect:
                    response = Response(status_code=499)
                except Exception as error:  # whatever it is: the caller gets a problem, we a line
                    response = _problem(error).answer(request_id)
                told.status = response.status_code
            response.raw_headers.append((b"x-request-id", request_id.encode()))
            return response

        return serve

    async def _body(self, request: Request, decode: Callable[[bytes], Any]) -> Any:
        raw = await read_body(request, self.most_bytes)
        if not raw:
            raise refused(HTTPStatus.BAD_REQUEST, "the body is empty: expected a JSON object")
        return decode(raw)


async def _handled(route: Route, call: Call) -> Answered:
    found = await asyncio.to_thread(route.handle, call) if route.in_thread else route.handle(call)
    return await found if isawaitable(found) else found


def decoder_of(one: type[Any], many: type[Any] | None) -> Callable[[bytes], Any]:
    """Reads a body as `one`, or as `many` where it has that class's only field.

    It raises Problem: 400 for what is no JSON, 422 for what is not as it should be.
    """
    single = msgspec.json.Decoder(one)
    if many is None:

        def decode_one(raw: bytes) -> Any:
            try:
                return single.decode(raw)
            except UNREADABLE as e:
                raise _mistaken(e, one, raw) from e

        return decode_one
    several = msgspec.json.Decoder(many)
    (name,) = many.__struct_fields__
    probe = msgspec.json.Decoder(
        msgspec.defstruct("Probe", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)])
    )

    def decode(raw: bytes) -> Any:
        kind = one
        try:
            if getattr(probe.decode(raw), name) is msgspec.UNSET:
                return single.decode(raw)
            kind = many
            return several.decode(raw)
        except UNREADABLE as e:
            raise _mistaken(e, kind, raw, name) from e

    return decode


def _mistaken(error: Exception, kind: type[Any], given: Given, many: str = "") -> Problem:
    wrong = isinstance(error, msgspec.ValidationError)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.BAD_REQUEST
    return Problem(status, told_of(error, kind, given, many=many))


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body, refused as soon as it is known to be too long.

    Raises:
        Problem: 413.
    """
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most_bytes:
        raise _too_long(most_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            raise _too_long(most_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_long(most_bytes: int) -> Problem:
    return refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is longer than {most_bytes:,} bytes: send it in parts",
        Connection="close",
    )


def _check_utf8(what: str, sent: bytes) -> None:
    """Refuse escapes of bytes that are no text: ids that differ would be read as the same one."""
    if b"%" not in sent:
        return
    try:
        unquote_to_bytes(sent).decode()
    except UnicodeDecodeError as e:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{what} has %{e.object[e.start]:02X}, which is not UTF-8 there: escape each byte of a "
            "text's UTF-8, as %C3%A9 for é",
        ) from e


def _path_of(request: Request) -> dict[str, str]:
    _check_utf8("the path", request.scope.get("raw_path") or b"")
    path: dict[str, str] = {name: str(value) for name, value in request.path_params.items()}
    if ESCAPED in request.scope:
        path = {name: unquote(value) for name, value in path.items()}
    for name, value in path.items():
        if not 0 < len(value) <= 256 or "\x00" in value:
            raise refused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"{name} has {len(value)} characters: expected 1 to 256, none of them NUL",
            )
    return path


def _query_of(request: Request, kind: type[T]) -> T:
    """The parameters of the address, each given once, numbers as numbers."""
    if not request.scope["query_string"]:
        return kind()
    _check_utf8("the query", request.scope["query_string"])
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"the parameter {name!r} is given twice")
        if "\x00" in value:
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"the parameter {name!r} holds NUL")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as e:
        raise _mistaken(e, kind, given) from e


def _answered(answer: Answer | Response | None, status: HTTPStatus) -> Response:
    if isinstance(answer, Response):
        return answer
    if answer is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return _Json(_ENCODER.encode(answer), status)


class _Json(Response):
    """An answer whose headers are known: to work them out costs more than to send them."""

    def __init__(self, body: bytes, status: HTTPStatus) -> None:
        self.status_code, self.body, self.background = int(status), body, None
        self.raw_headers = [*_HEADERS, (b"content-length", b"%d" % len(body))]


def _problem(error: Exception) -> Problem:
    return problem_of(error)
