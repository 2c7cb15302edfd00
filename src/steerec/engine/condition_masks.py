"""Which items a filter lets through, for the whole catalogue at once."""

import operator
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from threading import Lock
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.engine.conditions import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Literal,
    Not,
    OneOf,
    Term,
    Value,
    fail,
    parse,
)

Mask = NDArray[np.bool_]

_NAMES_TOLD = 20  # attributes listed in a message, at most
_ORDERS = ("<", "<=", ">", ">=")


def evaluate(text: str, items: pl.DataFrame, *, lenient: bool = False) -> Mask:
    """(n_items,) True where the item passes; tests with a missing value are False.

    Args:
        items: a row for each item; NaN is missing, like null.
        lenient: whether an attribute that the items do not have counts as missing in all.
    Raises:
        DataError: if the filter cannot be read, or does not fit the attributes and their types.
    """
    if lenient:
        missing = unknown_attributes(text, items)
        items = items.with_columns(pl.lit(None, pl.Null).alias(name) for name in missing)
    passing = _Binding(text, items.schema).of(parse(text))
    return items.select(passing.alias("mask"))["mask"].to_numpy()


def unknown_attributes(text: str, items: pl.DataFrame) -> tuple[str, ...]:
    """The attributes that a filter names and the items do not have.

    Raises:
        DataError: if the filter cannot be read.
    """
    return tuple(name for name in _attributes(text) if name not in items.columns)


@lru_cache(maxsize=64)
def _attributes(text: str) -> tuple[str, ...]:
    """The attributes that a filter names, each once."""
    names: dict[str, None] = {}
    waiting = [parse(text)]
    while waiting:
        term = waiting.pop()
        if isinstance(term, Not):
            waiting.append(term.term)
        elif isinstance(term, AllOf | AnyOf):
            waiting.extend(reversed(term.terms))
        else:
            names[term.attribute] = None
    return tuple(names)


@dataclass
class FilterMasks:
    """Masks of the filters asked for lately; safe to use from many threads.

    Attributes:
        keep: masks kept, at most; one takes a byte for each item.
    """

    keep: int = 32
    _masks: OrderedDict[tuple[Hashable, str, bool], Mask] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def mask(
        self, text: str, items: pl.DataFrame, version: Hashable, *, lenient: bool = False
    ) -> Mask:
        """As `evaluate`, read-only.

        Args:
            version: of the catalogue: another one whenever `items` is.
        Raises:
            DataError: as `evaluate`.
        """
        key = (version, text, lenient)
        with self._lock:
            if (known := self._masks.get(key)) is not None:
                self._masks.move_to_end(key)
                return known
        found = evaluate(text, items, lenient=lenient)
        found.flags.writeable = False
        with self._lock:
            self._masks[key] = found
            while len(self._masks) > self.keep:
                self._masks.popitem(last=False)
        return found


@dataclass(frozen=True)
class _Binding:
    """Turns a tree into one expression over the columns."""

    text: str
    schema: pl.Schema

    def of(self, term: Term) -> pl.Expr:
        """Never null, a value for each item."""
        if isinstance(term, Not):
            return ~self.of(term.term)
        if isinstance(term, AllOf):
            return pl.all_horizontal([self.of(part) for part in term.terms])
        if isinstance(term, AnyOf):
            return pl.any_horizontal([self.of(part) for part in term.terms])
        dtype = self._dtype(term)
        column = _present(pl.col(term.attribute), dtype)
        if isinstance(term, Compare):
            return self._compare(term, column, _plain(dtype)).fill_null(value=False)
        if isinstance(term, Contains):
            found = self._contains(term, column, _plain(dtype))
        else:
            found = self._one_of(term, column, _plain(dtype))
        return (~found if term.negated else found).fill_null(value=False)

    def _dtype(self, term: Compare | Contains | OneOf) -> pl.DataType:
        name = term.attribute
        if name in self.schema:
            return self.schema[name]
        near = get_close_matches(name, self.schema, 3)
        names = ", ".join(list(self.schema)[:_NAMES_TOLD])
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        fail(self.text, term.at, f"items have no attribute {name}: {hint}they have {names}")

    def _compare(self, term: Compare, column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        value, op = term.value.value, term.op
        if value is None:
            return column.is_null() if op == "==" else column.is_not_null()
        kind = self._fits(term.attribute, dtype, term.value)
        if kind == "nothing":
            return column.is_not_null()
        if kind == "truth" and op in _ORDERS:
            fail(
                self.text, term.value.at, f"{op} {str(value).lower()}: true and false have no order"
            )
        other = pl.lit(value, dtype if dtype.is_float() else None)
        return _COMPARED[op](column, other)

    def _contains(self, term: Contains, column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        if isinstance(dtype, pl.List):
            inner = cast(pl.DataType, dtype.inner)
            kind = self._fits(f"a value of {term.attribute}", inner, term.value)
            values = _series([term.value], inner)
            if kind == "nothing" or values.is_empty():
                return pl.when(column.is_not_null()).then(pl.lit(value=False))
            return column.list.contains(pl.lit(values[0], inner))
        kind = _kind(dtype)
        if kind == "nothing":
            return pl.when(column.is_not_null()).then(pl.lit(value=False))
        if kind != "text" or not isinstance(term.value.value, str):
            what = f"{term.attribute} is {_TOLD[kind]}: a text can be in a text, a value in a list"
            fail(self.text, term.value.at, what)
        return column.str.to_lowercase().str.contains(term.value.value.lower(), literal=True)

    def _one_of(self, term: OneOf, column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
        for value in term.values:
            if self._fits(term.attribute, dtype, value) == "nothing":
                return pl.when(column.is_not_null()).then(pl.lit(value=False))
        return column.is_in(_series(term.values, dtype))

    def _fits(self, what: str, dtype: pl.DataType, value: Literal) -> str:
        """The kind that the attribute and the value share; "nothing" fits all."""
        kind, given = _kind(dtype), _kind_of(value.value)
        if kind == "list":
            fail(self.text, value.at, f'{what} is a list: write "value" in {what}')
        if kind not in (given, "nothing"):
            fail(self.text, value.at, f"{what} is {_TOLD[kind]}, and the value {_TOLD[given]}")
        return kind


_COMPARED: Mapping[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOLD = {
    "text": "a text",
    "number": "a number",
    "truth": "true or false",
    "list": "a list",
    "nothing": "always missing",
    "other": "of a type that filters cannot compare",
}


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "number"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "text"
    if isinstance(dtype, pl.List | pl.Array):
        return "list"
    return {pl.Boolean: "truth", pl.Null: "nothing"}.get(type(dtype), "other")


def _kind_of(value: Value) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def _plain(dtype: pl.DataType) -> pl.DataType:
    """The type it is compared in: one for texts, one for whole numbers; floats as they are.

    A float of single precision stays, since the literal 19.9 in double precision is not its 19.9.
    """
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(_plain(cast(pl.DataType, dtype.inner)))
    if _kind(dtype) == "text":
        return pl.String()
    if dtype.is_integer():
        return pl.Int64()
    return pl.Float64() if dtype.is_decimal() else dtype


def _present(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The column in its plain type, with one spelling of "missing"."""
    if dtype.is_float():
        return column.fill_nan(None)
    return column if _plain(dtype) == dtype else column.cast(_plain(dtype), strict=False)


def _series(values: Sequence[Literal], dtype: pl.DataType) -> pl.Series:
    """The values in the attribute's type, without those it cannot hold."""
    told = [value.value for value in values]
    if dtype.is_integer():
        whole = [v for v in told if isinstance(v, int) or (isinstance(v, float) and v.is_integer())]
        told = [int(v) for v in whole if abs(v) < 2**63]
    return pl.Series(told, dtype=dtype)
