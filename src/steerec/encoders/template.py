"""The text of an item, from its columns by a template such as "{title}. {description}"."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

import polars as pl

from steerec.errors import ConfigError

DEFAULT_TEMPLATE = "{title}. {categories}. {description}"
_STOPS = ".!?…。！？"
# What stands between two fields: what closes the left one, what separates, what leads the right.
_BETWEEN = re.compile(
    r"(?P<close>[)\]}>»”’）】」》]*)(?P<sep>[^\w(\[{<«“‘（【「《]*)(?P<lead>.*)", re.DOTALL
)


@dataclass(frozen=True)
class _Part:
    """One field of a template: what is written around it when it has a value."""

    field: str
    sep: str
    lead: str
    close: str = ""


def item_texts(items: pl.DataFrame, template: str = DEFAULT_TEMPLATE) -> list[str]:
    """One text per item; a missing field takes its label and punctuation with it.

    Returns:
        (n_items,) strings; empty where none of the fields has a value.
    Raises:
        ConfigError: if the template is malformed or names a column that is not there.
    """
    parts, end = _parse(template)
    unknown = sorted({p.field for p in parts} - set(items.columns))
    if unknown:
        raise ConfigError(
            f"item template {template!r} names {unknown}; the items have {items.columns}"
        )
    columns = [[_as_text(v) for v in items[p.field].to_list()] for p in parts]
    return [_join(parts, values, end) for values in zip(*columns, strict=True)]


def fitting_template(columns: Sequence[str]) -> str:
    """The default template reduced to the columns there are; categories also as `genres`.

    Raises:
        ConfigError: if none of the usual text columns is there.
    """
    names = [
        c
        for c in (
            "title",
            "name",
            "brand",
            "categories",
            "category",
            "genres",
            "tags",
            "description",
        )
        if c in columns
    ]
    if not names:
        raise ConfigError(
            f"no text column among {list(columns)}: set a template such as {DEFAULT_TEMPLATE!r}"
        )
    return ". ".join(f"{{{name}}}" for name in names)


def _parse(template: str) -> tuple[list[_Part], str]:
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as e:
        raise ConfigError(f"item template {template!r} is malformed ({e})") from e
    parts: list[_Part] = []
    literal = ""
    for text, field, spec, conversion in pieces:
        literal += text
        if field is None:
            continue
        if spec or conversion or not field:
            raise ConfigError(
                f"item template {template!r}: write plain column names, such as {{title}}"
            )
        close, sep, lead = _between(literal)
        parts = _closed(parts, close)
        parts.append(_Part(field, sep if parts else "", lead if parts else literal))
        literal = ""
    if not parts:
        raise ConfigError(f"item template {template!r} names no column, such as {{title}}")
    close, sep, lead = _between(literal)
    return _closed(parts, close), sep + lead


def _between(literal: str) -> tuple[str, str, str]:
    match = _BETWEEN.fullmatch(literal)
    assert match is not None, "the pattern matches every text"
    return match["close"], match["sep"], match["lead"]


def _closed(parts: list[_Part], close: str) -> list[_Part]:
    if not parts:
        return []
    last = parts[-1]
    return [*parts[:-1], _Part(last.field, last.sep, last.lead, close)]


def _join(parts: Sequence[_Part], values: Sequence[str], end: str) -> str:
    text = ""
    for part, value in zip(parts, values, strict=True):
        if value:
            text = _append(text, part.sep if text else "") + part.lead + value + part.close
    return _append(text, end).strip() if text else ""


def _append(text: str, separator: str) -> str:
    """No second full stop where the value brought its own."""
    if text and text[-1] in _STOPS and separator[:1] in tuple(_STOPS):
        return text + separator[1:]
    return text + separator


def _as_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(text for v in value if (text := _as_text(v)))
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).split())
