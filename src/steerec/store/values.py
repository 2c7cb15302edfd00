"""What may be stored, checked at the border so that both databases agree: ids, numbers, JSON."""

import json
import math
from typing import Any

from steerec.errors import DataError

MAX_ID_BYTES = 512
_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_id(value: object, name: str) -> str:
    """The value if it can be an id.

    Raises:
        DataError: if it is no text of 1 to 512 bytes, or holds NUL or half a character.
    """
    if not isinstance(value, str) or not value:
        raise DataError(f"{name} is {value!r:.60}: expected a text that is not empty")
    n_bytes = len(_encoded(value, name))
    if n_bytes > MAX_ID_BYTES or "\0" in value:
        raise DataError(
            f"{name} {value[:40]!r}… has {n_bytes} bytes: "
            f"expected at most {MAX_ID_BYTES}, and none of them NUL"
        )
    return value


def check_optional_id(value: object, name: str) -> str | None:
    """See check_id; None passes."""
    return None if value is None else check_id(value, name)


def check_number(value: object, name: str) -> float | None:
    """The value as a float; None passes.

    Raises:
        DataError: if it is no finite number.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise DataError(f"{name} is {value!r:.60}: expected a finite number")


def to_json(value: object, name: str) -> str:
    """Compact JSON, keys in the caller's order.

    Raises:
        DataError: if it holds NaN, infinity, half a character, or what JSON has no word for.
    """
    try:
        text = _COMPACT.encode(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise DataError(f"{name} cannot be written as JSON ({e}): expected plain values") from e
    _encoded(text, name)
    return text


def from_json(text: str) -> Any:
    """What `to_json` wrote."""
    return json.loads(text)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{name} {text[:40]!r} holds half a character: send well-formed UTF-8"
        ) from None
