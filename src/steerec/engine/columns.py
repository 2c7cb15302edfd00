"""What the columns of the items' table can hold: attributes as they are written come in here."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import polars as pl

from steerec.errors import DataError

EXACT = 2**53  # whole numbers up to here are themselves as floats, too


class _Misfit:
    """Stands for a value that its column cannot hold."""


MISFIT = _Misfit()
Reads = Callable[[Any], Any]


def reading(kind: Any) -> Reads:
    """Makes of a value, not null, what a column of this kind holds of it; MISFIT if it cannot.

    Texts, and lists of them, hold all that can be written as text; a number may come as text.
    """
    if isinstance(kind, pl.List):
        return _listing(reading(kind.inner))
    if kind == pl.String:
        return _text
    if kind == pl.Boolean:
        return lambda value: bool(value) if value in (0, 1) else MISFIT
    if kind.is_integer():
        low, high = pl.select(kind.min(), kind.max().alias("most")).row(0)
        return lambda value: _whole(value, low, high)
    return _number if kind.is_float() else lambda value: _otherwise(value, kind)


def kind_of(value: Any) -> Any:
    """The kind of column that a first value makes; None: it makes none."""
    if isinstance(value, bool):
        return pl.Boolean
    if isinstance(value, int | float):
        return pl.Float64
    if isinstance(value, str):
        return pl.String
    return pl.List(pl.String) if isinstance(value, list) else None


def wide_enough(column: pl.Series, values: Sequence[Any]) -> pl.Series:
    """A column of whole numbers as floats if a value wants that and no number loses by it."""
    if not column.dtype.is_integer():
        return column
    whole = reading(column.dtype)
    parts = [value for value in values if value is not None and whole(value) is MISFIT]
    if all(_number(value) is MISFIT for value in parts):
        return column
    most = column.cast(pl.Float64).abs().max()
    return column.cast(pl.Float64) if most is None or float(str(most)) <= EXACT else column


class Columns:
    """Checks what is to be written to items against the columns that there are, and against itself.

    Args:
        schema: column → kind, as items have it now.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._kinds = dict(schema)
        self._reads: dict[str, Reads] = {}

    def check(self, item_id: str, attributes: Mapping[str, Any]) -> None:
        """Refuse a value that its column cannot hold; the first of a new name says what that holds.

        Raises:
            DataError: saying what was given, what is expected and what to do.
        """
        for name, value in attributes.items():
            if name not in self._kinds and (new := kind_of(value)) is not None:
                self._kinds[name] = new
            if value is None or name not in self._kinds:
                continue
            if self._reader(name)(value) is MISFIT:
                words = _in_words(self._kinds[name])
                raise DataError(
                    f"item {item_id!r:.80}: attribute {name!r:.80} is {value!r:.60}: expected "
                    f"{words}, as items have it there: send that or null, or another name for it"
                )

    def _reader(self, name: str) -> Reads:
        if name not in self._reads:
            kind = self._kinds[name]
            self._reads[name] = _number if kind.is_integer() else reading(kind)  # `wide_enough`
        return self._reads[name]


def _in_words(kind: Any) -> str:
    if isinstance(kind, pl.List):
        return f"a list, each {_in_words(kind.inner)}"
    if kind == pl.Boolean:
        return "true or false"
    if kind.is_numeric():
        return "a number"
    if kind.is_temporal():
        return "a time such as 2026-01-31T12:00:00"
    return "a text" if kind == pl.String else f"a value of {kind}"


def _listing(reads: Reads) -> Reads:
    def read(value: Any) -> Any:
        parts = value if isinstance(value, list | tuple) else [value]
        found = [None if part is None else reads(part) for part in parts]
        return MISFIT if MISFIT in found else found

    return read


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | dict) else str(value)


def _number(value: Any) -> Any:
    """A finite number."""
    if isinstance(value, str) and "_" in value:  # Python reads 1_000, nobody else does
        return MISFIT
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return MISFIT
    return number if isfinite(number) else MISFIT


def _whole(value: Any, low: int, high: int) -> Any:
    number = _number(value)
    if number is MISFIT or not number.is_integer():
        return MISFIT
    whole = value if isinstance(value, int) else int(number)
    return whole if low <= whole <= high else MISFIT


def _otherwise(value: Any, kind: Any) -> Any:
    """As Polars itself reads it: dates, categories and what else a snapshot may have."""
    if kind.is_temporal() and isinstance(value, bool | int | float):
        return MISFIT  # of which unit, nobody says
    try:
        found = pl.Series("", [value], kind, strict=False).cast(kind, strict=False)[0]
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return MISFIT
    return MISFIT if found is None else found
