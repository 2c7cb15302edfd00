"""Gorse's users, items and feedback on the wire, and the same as our store has them."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from steerec.contracts import Event
from steerec.errors import DataError
from steerec.service.schemas import Id
from steerec.store.catalogue import Entry
from steerec.store.log import LoggedEvent

NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
_OURS = ("title", "comment", "categories")  # attributes that gorse has as fields of their own
_MS = 1e11  # numbers above are milliseconds
_DEFAULT_N = 10  # gorse's length of lists and pages


class GorseUser(Struct, rename="pascal", kw_only=True):
    """A user; labels may be a list, an object or a text."""

    user_id: Id
    labels: Any = None
    comment: str | None = ""


class GorseItem(Struct, rename="pascal", kw_only=True):
    """An item; its comment is its title."""

    item_id: Id
    is_hidden: bool | None = False
    categories: list[Id] | None = None
    timestamp: str | None = ""
    labels: Any = None
    comment: str | None = ""


class UserPatch(Struct, rename="pascal", kw_only=True):
    """What changes of a user; null is no change."""

    labels: Any = None
    comment: str | None = None


class ItemPatch(Struct, rename="pascal", kw_only=True):
    """What changes of an item; null is no change."""

    is_hidden: bool | None = None
    categories: list[Id] | None = None
    timestamp: str | None = None
    labels: Any = None
    comment: str | None = None


class GorseFeedback(Struct, rename="pascal", kw_only=True):
    """What a user did with an item."""

    feedback_type: Annotated[str, Meta(min_length=1, max_length=64)]
    user_id: Id
    item_id: Id
    value: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = 0.0
    timestamp: str | None = ""
    updated: str | None = ""
    labels: Any = None
    comment: str | None = ""


class SessionFeedback(Struct, rename="pascal", kw_only=True):
    """What an anonymous visitor did with an item; whose id it names makes no difference."""

    item_id: Id
    feedback_type: Annotated[str, Meta(max_length=64)] = ""
    timestamp: str | None = ""


class GorseQuery(Struct, kw_only=True, rename=lambda name: name.replace("_", "-")):
    """Parameters of any list or page; others are passed over, as gorse does."""

    n: Annotated[int, Meta(ge=0, le=10_000)] = _DEFAULT_N
    offset: Annotated[int, Meta(ge=0, le=10_000)] = 0
    cursor: str = ""
    q: Annotated[str, Meta(max_length=500)] = ""
    category: Annotated[str, Meta(max_length=256)] = ""
    user_id: Annotated[str, Meta(max_length=256)] = ""
    write_back_type: Annotated[str, Meta(max_length=64)] = ""
    write_back_delay: Annotated[str, Meta(max_length=32)] = ""


Row = GorseUser | GorseItem | GorseFeedback


# Items and users


def entry_of_item(item: GorseItem) -> Entry:
    """An item of gorse's as the store has it."""
    labels, attributes = _split_labels(item.labels)
    if item.comment:
        attributes["title"] = item.comment
    if item.categories:
        attributes["categories"] = list(item.categories)
    return Entry(item.item_id, attributes, labels, bool(item.is_hidden), seconds_of(item.timestamp))


def item_of_entry(entry: Entry) -> GorseItem:
    """An item of the store as gorse has it."""
    attributes = entry.attributes
    categories = attributes.get("categories") or []
    return GorseItem(
        item_id=entry.id,
        is_hidden=entry.hidden,
        categories=categories if isinstance(categories, list) else [str(categories)],
        timestamp=text_of(entry.published),
        labels=_joined_labels(entry),
        comment=str(attributes.get("title", "")),
    )


def entry_of_user(user: GorseUser) -> Entry:
    """A user of gorse's as the store has it."""
    labels, attributes = _split_labels(user.labels)
    if user.comment:
        attributes["comment"] = user.comment
    return Entry(user.user_id, attributes, labels)


def user_of_entry(entry: Entry) -> GorseUser:
    """A user of the store as gorse has it."""
    comment = str(entry.attributes.get("comment", ""))
    return GorseUser(user_id=entry.id, labels=_joined_labels(entry), comment=comment)


def patched(entry: Entry, patch: ItemPatch | UserPatch) -> dict[str, Any]:
    """The changes of a patch, as the catalogue takes them."""
    changes: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    if patch.labels is not None:
        labels, named = _split_labels(patch.labels)
        attributes = {name: None for name in entry.attributes if name not in _OURS} | named
        changes["labels"] = labels
    if patch.comment is not None:
        name = "title" if isinstance(patch, ItemPatch) else "comment"
        attributes[name] = patch.comment or None
    if isinstance(patch, ItemPatch):
        if patch.categories is not None:
            attributes["categories"] = patch.categories or None
        if patch.is_hidden is not None:
            changes["hidden"] = patch.is_hidden
        if patch.timestamp is not None:
            changes["published"] = seconds_of(patch.timestamp)
    return {**changes, "attributes": attributes} if attributes else changes


def _split_labels(labels: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Labels that are texts, and those that have names, which become attributes."""
    if isinstance(labels, Mapping):
        return (), {_ours(name): value for name, value in labels.items() if value is not None}
    if isinstance(labels, str):
        return ((labels,) if labels else ()), {}
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        return tuple(labels), {}
    return (), {} if labels is None else {"labels": labels}


def _joined_labels(entry: Entry) -> Any:
    named = {_theirs(k): v for k, v in entry.attributes.items() if k not in _OURS}
    if not named:
        return list(entry.labels) or None
    if set(named) == {"labels"} and isinstance(named["labels"], list) and not entry.labels:
        return named["labels"]
    return {**({"tags": list(entry.labels)} if entry.labels else {}), **named}


def _ours(name: str) -> str:
    """A label's name as an attribute's: ours are taken."""
    return f"label_{name}" if name in _OURS else name


def _theirs(name: str) -> str:
    plain = name.removeprefix("label_")
    return plain if plain in _OURS else name


# Feedback


def logged(feedback: GorseFeedback, *, now: float) -> LoggedEvent:
    """Feedback as the log has it; sent again with the same content, it has the same id."""
    time = seconds_of(feedback.timestamp)
    about = {"labels": feedback.labels, "comment": feedback.comment or None}
    context = {name: value for name, value in about.items() if value is not None}
    told = (feedback.feedback_type, feedback.user_id, feedback.item_id, feedback.value, time)
    same = hashlib.sha256(msgspec.json.encode((*told, context), order="deterministic"))
    return LoggedEvent(
        f"gorse-{same.hexdigest()[:40]}" if time is not None else f"gorse-{uuid4().hex}",
        Event(
            feedback.user_id,
            feedback.item_id,
            feedback.feedback_type,
            feedback.value or None,
            now if time is None else time,
        ),
        context=context or None,
    )


def feedback_of(logged: LoggedEvent) -> GorseFeedback:
    """An event of the log as gorse has it."""
    event, context = logged.event, logged.context or {}
    time = text_of(logged.received if event.timestamp is None else event.timestamp)
    return GorseFeedback(
        feedback_type=event.event,
        user_id=event.user_id,
        item_id=event.item_id,
        value=event.value or 0.0,
        timestamp=time,
        updated=time,
        labels=context.get("labels"),
        comment=str(context.get("comment", "")),
    )


def merged(events: Iterable[LoggedEvent]) -> list[GorseFeedback]:
    """One row for each kind, user and item, as gorse keeps them: values are added up."""
    rows: dict[tuple[str, str, str], GorseFeedback] = {}
    for one in map(feedback_of, events):
        key = (one.feedback_type, one.user_id, one.item_id)
        if (before := rows.get(key)) is not None:
            one.value = (before.value or 0.0) + (one.value or 0.0)
            one.timestamp = min(before.timestamp, one.timestamp, key=_order)
            one.updated = max(before.updated, one.updated, key=_order)
        rows[key] = one
    return list(rows.values())


def _order(time: str | None) -> float:
    return seconds_of(time) or 0.0


# Times and cursors


def seconds_of(text: str | None) -> float | None:
    """Unix seconds of a time as gorse takes it; None for none, and for Go's zero time.

    Raises:
        DataError: if it cannot be read.
    """
    text = (text or "").strip()
    if not text or text.startswith("0001-01-01"):
        return None
    if text.isdigit() and len(text) in (10, 13):
        return float(text) / (1_000 if float(text) > _MS else 1)
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(text)
        except ValueError:
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    raise DataError(f"Timestamp {text!r:.60}: expected one such as 2026-03-01T12:00:00Z")


def text_of(seconds: float | None) -> str:
    """A time as Go writes it."""
    if seconds is None:
        return NO_TIME
    text = datetime.fromtimestamp(round(seconds, 6), UTC).isoformat().removesuffix("+00:00")
    return f"{text.rstrip('0') if '.' in text else text}Z"


def cursor_of(place: str | int) -> str:
    """Where the next page begins, as an opaque text."""
    return base64.urlsafe_b64encode(str(place).encode()).decode()


def place_of(cursor: str) -> str:
    """What a cursor stands for.

    Raises:
        DataError: if it is not one of ours.
    """
    try:
        return base64.b64decode(cursor.encode(), b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as e:
        raise DataError(f"cursor {cursor!r:.60}: expected `Cursor` of the page before") from e


def among(category: str) -> str:
    """The condition that an item is in a category."""
    return f"{msgspec.json.encode(category).decode()} in categories"


def page_of(rows: Sequence[Row], name: str, following: str) -> dict[str, Any]:
    """A page under gorse's name for it."""
    return {"Cursor": following, name: rows}
