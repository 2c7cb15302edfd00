"""A gorse dump as JSON lines: users, items and feedback in one file or in three."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steerec.data.formats import from_records, read_json_lines
from steerec.data.tables import RawTables
from steerec.errors import DataError

_NAMES = {
    "userid": "user_id",
    "itemid": "item_id",
    "feedbacktype": "event",
    "timestamp": "timestamp",
    "value": "value",
    "labels": "labels",
    "categories": "categories",
    "comment": "comment",
    "ishidden": "is_hidden",
    "updated": "updated",
    "subscribe": "subscribe",
}
_NO_TIME = "0001-01-01"  # Go's zero time
_GORSE_ONLY = {"FeedbackType", "UserId", "ItemId", "IsHidden"}
_GORSE_PLAIN = {"feedbacktype", "userid", "itemid"}
_STEMS = ("users", "items", "feedback")


def find_gorse(path: Path) -> list[Path]:
    """The dump's files: feedback.jsonl with items and users beside it, or one mixed file."""
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if _stem(p) in _STEMS and _is_lines(p)]
        return found if any(_stem(p) == "feedback" for p in found) else []
    if not _is_lines(path) or not path.is_file():
        return []
    first = next(iter(read_json_lines(path, limit=1)), {})
    is_ours = _GORSE_ONLY & first.keys() or {_plain(k) for k in first} >= _GORSE_PLAIN
    return [path] if is_ours else []


def read_gorse(paths: Iterable[Path]) -> RawTables:
    """Sort the objects by what they are, whatever file they stand in.

    Raises:
        DataError: if a line is no object of gorse's, or there is no feedback.
    """
    users: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    feedback: list[dict[str, Any]] = []
    names = []
    for path in paths:
        names.append(str(path))
        for record in read_json_lines(path):
            row = _row(record)
            if "user_id" in row and "item_id" in row:
                feedback.append(row)
            elif "item_id" in row:
                items.append(_item(row))
            elif "user_id" in row:
                users.append(row)
            else:
                raise DataError(f"{path}: {record} is no user, item or feedback of gorse's")
    if not feedback:
        raise DataError(f"{names} hold no feedback: export feedback.jsonl too")
    return RawTables(
        from_records(feedback),
        from_records(items) if items else None,
        from_records(users) if users else None,
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {_NAMES.get(_plain(key), key): value for key, value in record.items()}
    if str(row.get("timestamp", "")).startswith(_NO_TIME):
        row["timestamp"] = None
    if isinstance(row.get("labels"), dict) or _is_mixed(row.get("labels")):
        row["labels"] = json.dumps(row["labels"], ensure_ascii=False)
    return row


def _item(row: dict[str, Any]) -> dict[str, Any]:
    row["title"] = row.pop("comment", None)  # gorse shows the comment as the item's name
    row["categories"] = row.get("categories") or []
    return row


def _is_mixed(labels: object) -> bool:
    return isinstance(labels, list) and not all(isinstance(label, str) for label in labels)


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def _is_lines(path: Path) -> bool:
    return bool({".jsonl", ".ndjson"} & set(path.suffixes))
