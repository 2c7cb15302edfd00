"""Users, items and feedback as gorse has them: insert, read, page, change, delete, import."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from steerec.engine import browsing
from steerec.engine.unlearn import unlearn
from steerec.errors import DataError
from steerec.service import catalogue, events
from steerec.service.calls import Call, read_body
from steerec.service.gorse.shapes import (
    GorseFeedback,
    GorseItem,
    GorseQuery,
    GorseUser,
    cursor_of,
    entry_of_item,
    entry_of_user,
    feedback_of,
    item_of_entry,
    logged,
    merged,
    page_of,
    patched,
    place_of,
    user_of_entry,
)
from steerec.service.mistakes import UNREADABLE, told_of
from steerec.service.problems import refused
from steerec.store.catalogue import Catalogue, Entry
from steerec.store.log import Key, LoggedEvent

AT_ONCE = 1_000  # rows of an import, or of the log, in memory

T = TypeVar("T", GorseUser, GorseItem, GorseFeedback)


# Users and items


async def post_user(call: Call) -> Response:
    """Insert a user, or write it anew."""
    return await _write(call, call.tenant.store.users, [entry_of_user(call.body)])


async def post_users(call: Call) -> Response:
    """Insert users."""
    return await _write(call, call.tenant.store.users, [entry_of_user(one) for one in call.body])


async def post_item(call: Call) -> Response:
    """Insert an item, or write it anew."""
    return await _write(call, call.tenant.store.items, [entry_of_item(call.body)])


async def post_items(call: Call) -> Response:
    """Insert items."""
    return await _write(call, call.tenant.store.items, [entry_of_item(one) for one in call.body])


def get_user(call: Call) -> Response:
    """One user."""
    return sent(user_of_entry(_entry(call, call.tenant.store.users, "user_id")))


def get_item(call: Call) -> Response:
    """One item."""
    return sent(item_of_entry(_entry(call, call.tenant.store.items, "item_id")))


def get_users(call: Call) -> Response:
    """A page of users."""
    entries, following = _page(call, call.tenant.store.users)
    return sent(page_of([user_of_entry(entry) for entry in entries], "Users", following))


def get_items(call: Call) -> Response:
    """A page of items, or with `q` those that have these words."""
    query: GorseQuery = call.query
    if query.q:
        found = browsing.search(call.tenant.live, query.q, query.n)
        known = call.tenant.store.items.get(call.tenant.name, found)
        entries, following = [known[i] for i in found if i in known], ""
    else:
        entries, following = _page(call, call.tenant.store.items)
    return sent(page_of([item_of_entry(entry) for entry in entries], "Items", following))


def patch_user(call: Call) -> Response:
    """Change a user; what is null stays."""
    return _patch(call, call.tenant.store.users, "user_id")


def patch_item(call: Call) -> Response:
    """Change an item; what is null stays."""
    return _patch(call, call.tenant.store.items, "item_id")


async def delete_item(call: Call) -> Response:
    """Delete an item: it is on no list from now on."""
    told = await asyncio.to_thread(catalogue.delete_item, call)
    return _affected(told.count)


async def delete_user(call: Call) -> Response:
    """Delete a user and their feedback; they may come back."""
    told = await asyncio.to_thread(catalogue.delete_user, call)
    await _retract(call, [(call.path["user_id"], None, None)])
    return _affected(told.count)


def put_category(call: Call) -> Response:
    """Put an item into a category."""
    return _recategorised(call, add=True)


def delete_category(call: Call) -> Response:
    """Take an item out of a category."""
    return _recategorised(call, add=False)


# Feedback


async def post_feedback(call: Call) -> Response:
    """Insert feedback; the same again is not counted twice."""
    await accept(call, call.body)
    return _affected(len(call.body))


async def put_feedback(call: Call) -> Response:
    """Insert feedback in place of what there was of the same type, user and item."""
    await _retract(call, [(f.user_id, f.item_id, f.feedback_type) for f in call.body])
    await accept(call, call.body)
    return _affected(len(call.body))


def get_feedback(call: Call) -> Response:
    """A page of all feedback in the order it came, a row for each event."""
    query: GorseQuery = call.query
    kind, told = call.path.get("feedback_type"), place_of(query.cursor)
    if told and not told.isdecimal():
        raise DataError(f"cursor {query.cursor!r:.60}: expected `Cursor` of the page before")
    after, found = int(told or 0), list[LoggedEvent]()
    while query.n > len(found):
        read = call.tenant.store.log.read(call.tenant.name, after=after, limit=AT_ONCE)
        found += [one for one in read if kind in (None, one.event.event)]
        if len(read) < AT_ONCE:
            break
        after = read[-1].seq
    found = found[: query.n]
    following = cursor_of(found[-1].seq) if len(found) == query.n and found else ""
    return sent(page_of([feedback_of(one) for one in found], "Feedback", following))


def get_user_feedback(call: Call) -> Response:
    """All feedback of a user, or of one type or item; a row for each type and item."""
    return sent(merged(_of_user(call)))


def get_one_feedback(call: Call) -> Response:
    """The feedback of one type between a user and an item; an empty object without."""
    found = merged(_of_user(call))
    return sent(found[0] if found else {})


async def delete_feedback(call: Call) -> Response:
    """Delete the feedback between a user and an item, or what is of one type."""
    path = call.path
    rows = merged(await asyncio.to_thread(_of_user, call))
    await _retract(call, [(path["user_id"], path["item_id"], path.get("feedback_type"))])
    return _affected(len(rows))


# Dumps: JSON lines as gorse exports them


async def post_bulk_users(call: Call) -> Response:
    """Insert the users of a dump."""
    return await _bulk_entries(call, call.tenant.store.users, GorseUser, entry_of_user)


async def post_bulk_items(call: Call) -> Response:
    """Insert the items of a dump."""
    return await _bulk_entries(call, call.tenant.store.items, GorseItem, entry_of_item)


async def post_bulk_feedback(call: Call) -> Response:
    """Insert the feedback of a dump; sent again it is not counted twice."""
    n_rows = 0
    for rows in await _dumped(call, GorseFeedback):
        await accept(call, rows)
        n_rows += len(rows)
    return _affected(n_rows)


async def _bulk_entries(
    call: Call, table: Catalogue, kind: type[T], entry_of: Callable[[T], Entry]
) -> Response:
    n_rows = 0
    for rows in await _dumped(call, kind):
        await _write(call, table, [entry_of(row) for row in rows])
        n_rows += len(rows)
    return _affected(n_rows)


async def _dumped(call: Call, kind: type[T]) -> Iterator[list[T]]:
    """The rows of the body, a thousand at a time.

    Raises:
        DataError: while it is read, naming the first line that is wrong; rows of the thousands
            before it are stored.
    """
    lines = (await read_body(call.request, catalogue.MOST_IMPORT_BYTES)).splitlines()
    decode = msgspec.json.Decoder(kind).decode

    def rows() -> Iterator[list[T]]:
        waiting: list[T] = []
        for number, line in enumerate(lines, 1):
            try:
                waiting += [decode(line)] if line.strip() else []
            except UNREADABLE as e:
                what = told_of(e, kind, line)
                raise DataError(f"line {number} is no row of gorse's: {what}") from e
            if len(waiting) == AT_ONCE:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    return rows()


async def get_health(call: Call) -> Response:
    """Whether events can be stored."""
    away = call.tenant.degraded() if call.tenant.away else []
    told = {
        "Ready": not away,
        "DataStoreError": "; ".join(away) or None,
        "CacheStoreError": None,
        "DataStoreConnected": not away,
        "CacheStoreConnected": True,
    }
    return sent(told, HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK)


# Inside


def sent(told: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer, bare lists too."""
    return Response(msgspec.json.encode(told), int(status), media_type="application/json")


async def accept(call: Call, feedback: Sequence[GorseFeedback]) -> None:
    """Store feedback and let it count; unknown users and items are made."""
    batch = [logged(one, now=call.now) for one in feedback]
    await asyncio.to_thread(_make_unknown, call, batch)
    await events.accept(call, batch)


def _make_unknown(call: Call, batch: Sequence[LoggedEvent]) -> None:
    store, name = call.tenant.store, call.tenant.name
    users = {one.event.user_id for one in batch}
    users -= store.users.get(name, users).keys()
    if users:
        store.users.upsert(name, [Entry(i) for i in sorted(users)], now=call.now)
    items = {one.event.item_id for one in batch} - call.tenant.live.model.data.item_index.keys()
    items -= store.items.get(name, items).keys()
    if items:
        store.items.upsert(name, [Entry(i) for i in sorted(items)], now=call.now)
        call.tenant.wake()


async def _retract(call: Call, keys: Sequence[Key]) -> None:
    """Delete feedback from the log, and from what counts."""
    await asyncio.to_thread(call.tenant.store.log.retract, call.tenant.name, keys)
    items: dict[str, set[str] | None] = {}
    for user_id, item_id, _ in keys:
        known = items.setdefault(user_id, set())
        if item_id is None or known is None:
            items[user_id] = None
        else:
            known.add(item_id)
    for user_id, some in items.items():
        await asyncio.to_thread(unlearn, call.tenant.live, user_id, some)


def _of_user(call: Call) -> list[LoggedEvent]:
    """A user's events of the item and type that the address names, oldest first."""
    path = call.path
    kind, item_id = path.get("feedback_type"), path.get("item_id")
    return [
        one
        for one in call.tenant.store.log.of_user(call.tenant.name, path["user_id"])
        if kind in (None, one.event.event) and item_id in (None, one.event.item_id)
    ]


async def _write(call: Call, table: Catalogue, entries: Sequence[Entry]) -> Response:
    await asyncio.to_thread(table.upsert, call.tenant.name, entries, now=call.now)
    if table is call.tenant.store.items:
        await asyncio.to_thread(call.tenant.live.hide_at_once, entries)
        call.tenant.wake()
    return _affected(len(entries))


def _entry(call: Call, table: Catalogue, name: str) -> Entry:
    entry_id = call.path[name]
    found = table.get(call.tenant.name, [entry_id]).get(entry_id)
    if found is None:
        kind = name.removesuffix("_id")
        raise refused(HTTPStatus.NOT_FOUND, f"no {kind} has the id {entry_id!r}: insert it first")
    return found


def _page(call: Call, table: Catalogue) -> tuple[list[Entry], str]:
    query: GorseQuery = call.query
    if query.n == 0:
        return [], ""
    found = table.page(call.tenant.name, after=place_of(query.cursor), limit=query.n)
    return found, cursor_of(found[-1].id) if len(found) == query.n else ""


def _change(call: Call, table: Catalogue, name: str, changes: dict[str, Any]) -> Response:
    entry_id = call.path[name]
    changed = table.patch(call.tenant.name, entry_id, changes, now=call.now)
    if changed is not None and table is call.tenant.store.items:
        call.tenant.live.hide_at_once([changed])
        call.tenant.wake()
    return _affected(int(changed is not None))


def _patch(call: Call, table: Catalogue, name: str) -> Response:
    return _change(call, table, name, patched(_entry(call, table, name), call.body))


def _recategorised(call: Call, *, add: bool) -> Response:
    items, category = call.tenant.store.items, call.path["category"]
    held = item_of_entry(_entry(call, items, "item_id")).categories or []
    kept = [one for one in held if one != category] + [category] * add
    return _change(call, items, "item_id", {"attributes": {"categories": kept or None}})


def _affected(n_rows: int) -> Response:
    return sent({"RowAffected": n_rows})
