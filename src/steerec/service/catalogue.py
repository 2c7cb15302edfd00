"""Routes of items and users: write, read, search, import, export."""

import asyncio
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from steerec.engine import browsing
from steerec.engine.columns import Columns
from steerec.service.calls import Call, read_body
from steerec.service.problems import refused
from steerec.service.schemas import (
    Counted,
    EntriesIn,
    EntriesOut,
    EntryIn,
    EntryOut,
    EntryPatch,
    PageQuery,
)
from steerec.store.catalogue import Catalogue, Entry

LINES_AT_ONCE = 1_000
MOST_IMPORT_BYTES = 1 << 30


async def post_items(call: Call) -> Counted:
    """Write one item or many; those with a known id are replaced whole.

    Hidden, expired, unpublished and out-of-stock items disappear from the next list on; new ones
    are found by their texts within a second.
    """
    return await _write(call, call.tenant.store.items)


async def post_users(call: Call) -> Counted:
    """Write one user or many: attributes, such as age or country, help with people who are new."""
    return await _write(call, call.tenant.store.users)


def get_items(call: Call) -> EntriesOut:
    """Items in the order of their ids, a page at a time; `q` searches by words, best first."""
    query: PageQuery = call.query
    if query.q:
        found = browsing.search(call.tenant.live, query.q, query.limit)
        entries = call.tenant.store.items.get(call.tenant.name, found)
        return EntriesOut(entries=[out(entries[i]) for i in found if i in entries])
    return _page(call, call.tenant.store.items, query)


def get_users(call: Call) -> EntriesOut:
    """Users in the order of their ids, a page at a time."""
    return _page(call, call.tenant.store.users, call.query)


def get_item(call: Call) -> EntryOut:
    """One item as it is now."""
    return _one(call, call.tenant.store.items, "item_id")


def get_user(call: Call) -> EntryOut:
    """One user as they are described now."""
    return _one(call, call.tenant.store.users, "user_id")


def patch_item(call: Call) -> EntryOut:
    """Change some fields of an item; an attribute set to null is removed."""
    changed = _patch(call, call.tenant.store.items, "item_id")
    call.tenant.live.hide_at_once([changed])
    return out(changed)


def patch_user(call: Call) -> EntryOut:
    """Change some fields of a user."""
    return out(_patch(call, call.tenant.store.users, "user_id"))


def delete_item(call: Call) -> Counted:
    """Delete an item: it is on no list from now on."""
    item_id = call.path["item_id"]
    n = call.tenant.store.items.delete(call.tenant.name, [item_id], now=call.now)
    call.tenant.live.hide_at_once([Entry(item_id)])
    call.tenant.wake()
    return Counted(count=n)


def delete_user(call: Call) -> Counted:
    """Delete what is written of a user. To erase a person, delete /users/{user_id}/data."""
    user_id = call.path["user_id"]
    n = call.tenant.store.users.delete(call.tenant.name, [user_id], now=call.now)
    return Counted(count=n)


async def import_items(call: Call) -> Counted:
    """Write items from JSON lines, each as one item of POST /api/items; up to 1 GiB."""
    return await _import(call, call.tenant.store.items)


async def import_users(call: Call) -> Counted:
    """Write users from JSON lines."""
    return await _import(call, call.tenant.store.users)


async def export_items(call: Call) -> Response:
    """All items as JSON lines, as the import reads them."""
    return _export(call.tenant.store.items.export_jsonl(call.tenant.name))


async def export_users(call: Call) -> Response:
    """All users as JSON lines."""
    return _export(call.tenant.store.users.export_jsonl(call.tenant.name))


async def _write(call: Call, table: Catalogue) -> Counted:
    body: EntryIn | EntriesIn = call.body
    given = body.entries if isinstance(body, EntriesIn) else [body]
    entries = [entry_of(one) for one in given]
    check = _checking(call, table)
    for entry in entries:
        check(entry)
    await asyncio.to_thread(table.upsert, call.tenant.name, entries, now=call.now)
    if table is call.tenant.store.items:
        await asyncio.to_thread(call.tenant.live.hide_at_once, entries)
        call.tenant.wake()
    return Counted(count=len(entries))


def _checking(call: Call, table: Catalogue) -> Callable[[Entry], None]:
    """Refuses attributes of items that do not fit what others have by the same name."""
    if table is not call.tenant.store.items:
        return lambda _: None
    columns = Columns(call.tenant.live.model.data.items.schema)
    return lambda entry: columns.check(entry.id, entry.attributes)


def entry_of(given: EntryIn) -> Entry:
    """An entry of the wire as the store has it."""
    return Entry(
        given.id,
        given.attributes,
        tuple(given.labels),
        given.hidden,
        given.published,
        given.expires,
        given.stock,
    )


def out(entry: Entry) -> EntryOut:
    """An entry as the wire has it."""
    return EntryOut(
        id=entry.id,
        attributes=dict(entry.attributes),
        labels=list(entry.labels),
        hidden=entry.hidden,
        published=entry.published,
        expires=entry.expires,
        stock=entry.stock,
        changed=entry.changed,
    )


def _page(call: Call, table: Catalogue, query: PageQuery) -> EntriesOut:
    found = table.page(call.tenant.name, after=query.after, limit=query.limit)
    more = found[-1].id if len(found) == query.limit else None
    return EntriesOut(entries=[out(entry) for entry in found], next=more)


def _one(call: Call, table: Catalogue, name: str) -> EntryOut:
    entry_id = call.path[name]
    found = table.get(call.tenant.name, [entry_id])
    if entry_id not in found:
        raise _missing(name, entry_id)
    return out(found[entry_id])


def _patch(call: Call, table: Catalogue, name: str) -> Entry:
    body: EntryPatch = call.body
    changes: dict[str, Any] = {
        field: getattr(body, field)
        for field in body.__struct_fields__
        if getattr(body, field) is not msgspec.UNSET
    }
    if "labels" in changes:
        changes["labels"] = tuple(changes["labels"])
    entry_id = call.path[name]
    _checking(call, table)(Entry(entry_id, changes.get("attributes", {})))
    changed = table.patch(call.tenant.name, entry_id, changes, now=call.now)
    if changed is None:
        raise _missing(name, entry_id)
    call.tenant.wake()
    return changed


def _missing(name: str, entry_id: str) -> Exception:
    kind = name.removesuffix("_id")
    return refused(HTTPStatus.NOT_FOUND, f"no {kind} has the id {entry_id!r}: write it first")


async def _import(call: Call, table: Catalogue) -> Counted:
    raw = await read_body(call.request, MOST_IMPORT_BYTES)
    try:
        lines = raw.decode("utf-8").split("\n")  # a text may hold other ends of a line
    except UnicodeDecodeError as e:
        number = raw.count(b"\n", 0, e.start) + 1
        what = f"line {number}, byte {e.start} of the body, is not UTF-8: encode it so"
        raise refused(HTTPStatus.BAD_REQUEST, what) from e
    write: Callable[[], int] = lambda: table.import_jsonl(  # noqa: E731
        call.tenant.name, lines, now=call.now, check=_checking(call, table)
    )
    before = call.tenant.store.last_seq(call.tenant.name)
    try:
        n = await asyncio.to_thread(write)
    finally:  # whole thousands are stored even if a later line is wrong
        if table is call.tenant.store.items:
            await asyncio.to_thread(call.tenant.live.hide_since, before)
            call.tenant.wake()
    return Counted(count=n)


def _export(lines: Iterator[str]) -> Response:
    return StreamingResponse((line + "\n" for line in lines), media_type="application/x-ndjson")
