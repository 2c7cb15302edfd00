"""Each call of the service as a value, made from the arguments that both clients take."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from steerec.client.answers import (
    Counted,
    Entries,
    Entry,
    Erased,
    EventsTaken,
    Experiment,
    Experiments,
    Explanation,
    Health,
    History,
    Json,
    Recommended,
    Records,
    Scored,
    ScoredList,
    StrategyDiff,
    Tuned,
    Version,
)
from steerec.contracts import Event

T = TypeVar("T", covariant=True)


@dataclass(frozen=True)
class Ask(Generic[T]):
    """A call that is not sent yet.

    Attributes:
        read: makes the result of the body of a good answer.
        again: whether sending it twice does no more than sending it once.
        also_good: a status beside 200 whose body is read too.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    again: bool = True
    also_good: int = 200


# Events


def send_event(
    user_id: str,
    item_id: str,
    event: str = "view",
    *,
    event_id: str | None = None,
    request_id: str | None = None,
    value: float | None = None,
    timestamp: float | None = None,
    basket: str | None = None,
    context: Json | None = None,
) -> Ask[EventsTaken]:
    """Store one event; when this returns it is on disk and counts on the user's next list.

    Args:
        event_id: under which it counts once, however often it is sent; None: a new one.
        request_id: of the list that it answers.
        timestamp: Unix seconds; None: now, by the service's clock.
    """
    row = _row(Event(user_id, item_id, event, value, timestamp, basket))
    row |= _given(event_id=event_id or uuid4().hex, request_id=request_id, context=context)
    return _post("/api/events", EventsTaken, row)


def send_events(events: Iterable[Event | Json]) -> Ask[EventsTaken]:
    """Store many events, all or none; those without an `event_id` get one.

    Args:
        events: events, or objects with the fields of `send_event`; 10,000 at most.
    """
    rows = [_row(one) if isinstance(one, Event) else dict(one) for one in events]
    return _post("/api/events", EventsTaken, {"events": [_identified(row) for row in rows]})


def merge(user_id: str, session_id: str) -> Ask[EventsTaken]:
    """Give a user what they did under a session's id, when they log in."""
    return _post(_path("/api/users/{}/merge", user_id), EventsTaken, {"session_id": session_id})


# Lists


def recommend(
    user_id: str | None = None,
    *,
    n: int | None = None,
    session: Sequence[str] = (),
    scenario: str | None = None,
    context: Json | None = None,
    exclude: Sequence[str] = (),
    filter: str | None = None,
    candidates: Sequence[str] | None = None,
    about: str | None = None,
    attributes: Json | None = None,
    repeats: bool | None = None,
    idempotency_key: str | None = None,
) -> Ask[Recommended]:
    """The best items for a user, a session of this visit, or both.

    Args:
        session: item ids of this visit, oldest first.
        context: any of `device`, `time` (Unix seconds) and `place`.
        filter: a condition on attributes, such as `price < 20 and "vegan" in tags`.
        about: what the user says of themselves or wants now, in their own words.
        idempotency_key: with it the call is sent again where it failed, and counts once.
    """
    wanted = _given(
        user_id=user_id,
        n=n,
        session=list(session) or None,
        scenario=scenario,
        context=context,
        exclude=list(exclude) or None,
        filter=filter,
        candidates=None if candidates is None else list(candidates),
        about=about,
        attributes=attributes or None,
        repeats=repeats,
    )
    return Ask(
        "POST",
        "/api/recommend",
        _of(Recommended),
        headers=_given(**{"Idempotency-Key": idempotency_key}),
        body=_json(wanted),
        again=idempotency_key is not None,
    )


def page(user_id: str, next: str, *, n: int | None = None) -> Ask[Recommended]:
    """The following items of a list, by its `next`; good for 30 minutes."""
    return _get(_path("/api/recommend/{}", user_id), Recommended, next=next, n=n)


def rank(
    candidates: Sequence[str],
    *,
    user_id: str | None = None,
    session: Sequence[str] = (),
    scenario: str | None = None,
    context: Json | None = None,
    n: int | None = None,
) -> Ask[Recommended]:
    """The caller's own candidates in order, best first."""
    wanted = _given(
        candidates=list(candidates),
        user_id=user_id,
        session=list(session) or None,
        scenario=scenario,
        context=context,
        n=n,
    )
    return Ask("POST", "/api/rank", _of(Recommended), body=_json(wanted), again=False)


def similar_items(
    item_id: str, *, n: int = 10, filter: str | None = None
) -> Ask[tuple[Scored, ...]]:
    """Items like this one."""
    return _scored(_path("/api/items/{}/similar", item_id), n=n, filter=filter)


def similar_users(user_id: str, *, n: int = 10) -> Ask[tuple[Scored, ...]]:
    """Users who share items with this one."""
    return _scored(_path("/api/users/{}/similar", user_id), n=n)


def popular(*, n: int = 10, filter: str | None = None) -> Ask[tuple[Scored, ...]]:
    """What most people turn to of late."""
    return _scored("/api/popular", n=n, filter=filter)


def latest(*, n: int = 10, filter: str | None = None) -> Ask[tuple[Scored, ...]]:
    """The newest items."""
    return _scored("/api/latest", n=n, filter=filter)


def explain(request_id: str) -> Ask[Explanation]:
    """What a past list was made from."""
    return _get(_path("/api/requests/{}/explain", request_id), Explanation)


# Catalogue and people


def put_items(items: Iterable[Entry | Json]) -> Ask[int]:
    """Write items, all or none; those with a known id are replaced whole. How many."""
    return _put("/api/items", items)


def put_users(users: Iterable[Entry | Json]) -> Ask[int]:
    """Write users, all or none; those with a known id are replaced whole. How many."""
    return _put("/api/users", users)


def items(*, after: str = "", limit: int = 100) -> Ask[Entries]:
    """A page of items in the order of their ids."""
    return _get("/api/items", Entries, after=after or None, limit=limit)


def search(words: str, *, limit: int = 100) -> Ask[tuple[Entry, ...]]:
    """Items whose texts have these words, best first."""
    params = {"q": words, "limit": limit}
    return Ask("GET", "/api/items", lambda body: _of(Entries)(body).entries, params)


def users(*, after: str = "", limit: int = 100) -> Ask[Entries]:
    """A page of users in the order of their ids."""
    return _get("/api/users", Entries, after=after or None, limit=limit)


def item(item_id: str) -> Ask[Entry]:
    """One item as it is now."""
    return _get(_path("/api/items/{}", item_id), Entry)


def user(user_id: str) -> Ask[Entry]:
    """One user as they are described now."""
    return _get(_path("/api/users/{}", user_id), Entry)


def change_item(item_id: str, **changes: Any) -> Ask[Entry]:
    """Change some fields of an item; an attribute set to None is removed."""
    return Ask("PATCH", _path("/api/items/{}", item_id), _of(Entry), body=_json(changes))


def change_user(user_id: str, **changes: Any) -> Ask[Entry]:
    """Change some fields of a user; an attribute set to None is removed."""
    return Ask("PATCH", _path("/api/users/{}", user_id), _of(Entry), body=_json(changes))


def delete_item(item_id: str) -> Ask[int]:
    """Delete an item: it is on no list from now on. 0 if there was none."""
    return Ask("DELETE", _path("/api/items/{}", item_id), _count)


def delete_user(user_id: str) -> Ask[int]:
    """Delete what is written of a user; `erase` takes out the person. 0 if there was none."""
    return Ask("DELETE", _path("/api/users/{}", user_id), _count)


def import_items(items: Iterable[Entry | Json]) -> Ask[int]:
    """Write any number of items, a thousand in a transaction; how many."""
    return Ask("POST", "/api/items/import", _count, body=_lines(items))


def import_users(users: Iterable[Entry | Json]) -> Ask[int]:
    """Write any number of users, a thousand in a transaction; how many."""
    return Ask("POST", "/api/users/import", _count, body=_lines(users))


def user_data(user_id: str) -> Ask[tuple[Json, ...]]:
    """Every record held of a person."""
    path = _path("/api/users/{}/data", user_id)
    return Ask("GET", path, lambda body: _of(Records)(body).records)


def erase(user_id: str) -> Ask[Erased]:
    """Erase a person from all stores and from live state; their events cannot be sent again."""
    return Ask("DELETE", _path("/api/users/{}/data", user_id), _of(Erased))


# The strategy, operations


def strategy(*, gains: bool = False) -> Ask[Version]:
    """The strategy in force, in words too; with `gains`, also what it earned."""
    return _get("/api/strategy", Version, gains="true" if gains else None)


def strategy_history() -> Ask[History]:
    """All versions of the strategy, and what was put in force when."""
    return _get("/api/strategy/history", History)


def strategy_diff(before: int | None = None, after: int | None = None) -> Ask[StrategyDiff]:
    """What differs between two versions; None: what that in force was made of, and it."""
    return _get("/api/strategy/diff", StrategyDiff, before=before, after=after)


def promote(version: int, *, reason: str = "") -> Ask[Version]:
    """Put any version of the strategy in force."""
    body = _json({"version": version, "reason": reason})
    return Ask("POST", "/api/strategy/promote", _of(Version), body=body, again=False)


def rollback(version: int | None = None, *, reason: str = "") -> Ask[Version]:
    """Put an earlier version of the strategy in force again; None: the one before."""
    body = _json({"version": version, "reason": reason})
    return Ask("POST", "/api/strategy/rollback", _of(Version), body=body, again=False)


def tune() -> Ask[Tuned]:
    """Learn from the slates of the log; a version that later ones surely find better is promoted.

    It may take minutes on a long log: give the client a `timeout_s` to match.
    """
    return Ask("POST", "/api/strategy/tune", _of(Tuned), again=False)


def experiments() -> Ask[tuple[Experiment, ...]]:
    """All experiments as they were planned, the oldest first."""
    return Ask("GET", "/api/experiments", lambda body: _of(Experiments)(body).experiments)


def experiment(name: str) -> Ask[Experiment]:
    """One experiment with its results so far; look as often as you like."""
    return _get(_path("/api/experiments/{}", name), Experiment)


def start_experiment(name: str, arms: Sequence[Json], **plan: Any) -> Ask[Experiment]:
    """Start an experiment; the first arm is what others are compared with.

    Args:
        arms: each a name and a share, with `version`, `weights`, `dials` or `shadow`.
        plan: `metric`, `kind`, `scenario`, `traffic`, `ends`, `least_users`, `alpha`.
    """
    body = _json({"name": name, "arms": list(arms), **plan})
    return Ask("POST", "/api/experiments", _of(Experiment), body=body, again=False)


def stop_experiment(name: str) -> Ask[Experiment]:
    """Stop an experiment; its results stay."""
    return Ask("POST", _path("/api/experiments/{}/stop", name), _of(Experiment))


def live() -> Ask[Health]:
    """Whether the process answers at all."""
    return _get("/api/health/live", Health)


def ready() -> Ask[Health]:
    """Whether lists can be made and events stored; `degraded` says what is away."""
    return Ask("GET", "/api/health/ready", _of(Health), again=False, also_good=503)


def metrics() -> Ask[str]:
    """Prometheus metrics as text."""
    return Ask("GET", "/metrics", lambda body: body.decode())


def dump() -> Ask[bytes]:
    """The whole store as a zip, all of it in memory here; needs an admin's key."""
    return Ask("GET", "/api/dump", bytes, again=False)


# Parts


def _get(path: str, kind: type[T], **params: Any) -> Ask[T]:
    return Ask("GET", path, _of(kind), params=_given(**params))


def _post(path: str, kind: type[T], body: Json) -> Ask[T]:
    return Ask("POST", path, _of(kind), body=_json(body))


def _put(path: str, entries: Iterable[Entry | Json]) -> Ask[int]:
    return Ask("POST", path, _count, body=_json({"entries": [_entry(one) for one in entries]}))


def _scored(path: str, **params: Any) -> Ask[tuple[Scored, ...]]:
    return Ask("GET", path, lambda body: _of(ScoredList)(body).items, _given(**params))


def _of(kind: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(kind).decode


def _count(body: bytes) -> int:
    return _of(Counted)(body).count


def _path(template: str, name: str) -> str:
    """An id in the address: a slash in it is no step, and an empty one is none."""
    if not name:
        raise ValueError(f"{template}: the id is empty")
    return template.format(quote(name, safe=""))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _json(value: Any) -> bytes:
    # json knows no NaN where allow_nan is off; the service would refuse the body as a whole.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _lines(entries: Iterable[Entry | Json]) -> bytes:
    return b"".join(_json(_entry(one)) + b"\n" for one in entries)


def _entry(one: Entry | Json) -> Json:
    """What the service takes: `changed` is its own."""
    if not isinstance(one, Entry):
        return one
    plain: dict[str, Any] = msgspec.to_builtins(one)
    return {name: value for name, value in plain.items() if name != "changed"}


def _row(event: Event) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(event)
    return _given(**plain)


def _identified(row: dict[str, Any]) -> dict[str, Any]:
    return row if row.get("event_id") else {**row, "event_id": uuid4().hex}
