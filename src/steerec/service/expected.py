"""What a place in a body should hold, in plain words, from the class that checks it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from msgspec import inspect

TIME = "Unix seconds"  # how the note of a time begins
ANY = "any value"
_MORE = "send more"  # how the note of a list begins that tells where the rest may go
_EXAMPLE_S = 1_767_225_600  # 2026-01-01
_MOST_S = 1e11
_PLURALS: Mapping[type[inspect.Type], str] = {
    inspect.StructType: "objects",
    inspect.StrType: "texts",
}


@dataclass(frozen=True)
class Expected:
    """A kind of value, with what its schema says of it.

    Attributes:
        note: description of the schema; may be empty.
        required: whether it must be there.
    """

    kind: inspect.Type
    note: str = ""
    required: bool = True

    @property
    def fields(self) -> dict[str, inspect.Field]:
        """Of an object, by their names on the wire."""
        kind = self._chosen(inspect.StructType)
        if not isinstance(kind, inspect.StructType):
            return {}
        return {field.encode_name: field for field in kind.fields}

    @property
    def free(self) -> str:
        """The field that takes any names; empty: there is none."""
        return next((n for n in self.fields if self.at(n)._any_names), "")

    @property
    def more(self) -> str:
        """How to send more than there may be at once; empty: it is not told."""
        return self.note if self.note.startswith(_MORE) else ""

    @property
    def _any_names(self) -> bool:
        kind = self._chosen(inspect.DictType)
        return isinstance(kind, inspect.DictType) and isinstance(kind.value_type, inspect.AnyType)

    def at(self, step: str | int | None) -> "Expected":
        """What is expected in a field, at a place of a list, or, by None, of any value."""
        if isinstance(step, str):
            field = self.fields.get(step)
            return _NOTHING if field is None else _noted(field.type, required=field.required)
        kind = self._chosen(inspect.DictType if step is None else inspect.ListType)
        if isinstance(kind, inspect.DictType):
            return _noted(kind.value_type, note=self.note)
        return _noted(kind.item_type) if isinstance(kind, inspect.ListType) else _NOTHING

    def words(self, *, null: bool = True) -> str:
        """Such as "a whole number from 1 to 1000".

        Args:
            null: whether to say that null may be sent, where it may.
        """
        kinds = _members(self.kind)
        told = [_words(kind, self) for kind in kinds if not isinstance(kind, inspect.NoneType)]
        note = f" ({self.note})" if self.note and not self.more else ""
        nothing = ", or null" if null and len(told) < len(kinds) else ""
        return " or ".join(told) + note + nothing

    def _chosen(self, wanted: type[inspect.Type]) -> inspect.Type:
        return next((kind for kind in _members(self.kind) if isinstance(kind, wanted)), self.kind)


_NOTHING = Expected(inspect.AnyType())


@lru_cache(maxsize=128)
def expected_of(kind: Any) -> Expected:
    """What is expected of a whole body, or of the parameters of an address."""
    return _noted(inspect.type_info(kind))


def in_seconds(given: str | float | None) -> str:
    """What to send as a time, in place of a date as text or of milliseconds."""
    such = f"send seconds such as {_EXAMPLE_S}"
    if not isinstance(given, str):
        return f"{such}, not milliseconds" if given is not None and given > _MOST_S else such
    try:
        found = datetime.fromisoformat(given.strip())
        seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return f"{such}, not a text"
    return f"send {seconds:.12g} for it, not a date as text" if seconds >= 0 else such


def _noted(kind: inspect.Type, note: str = "", *, required: bool = True) -> Expected:
    """The type without what is around it, and what is said there."""
    for part in (kind, *(kind.types if isinstance(kind, inspect.UnionType) else ())):
        if isinstance(part, inspect.Metadata):
            note = str((part.extra_json_schema or {}).get("description", note))
    return Expected(kind, note, required)


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    kind = kind.type if isinstance(kind, inspect.Metadata) else kind
    if not isinstance(kind, inspect.UnionType):
        return (kind,)
    return tuple(part.type if isinstance(part, inspect.Metadata) else part for part in kind.types)


def _words(kind: inspect.Type, of: Expected) -> str:
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return "a number" if of.note.startswith(TIME) else _number(kind)
    if isinstance(kind, inspect.StrType):
        return " ".join(("a text", *_length(kind, "characters")))
    if isinstance(kind, inspect.ListType):
        items = _PLURALS.get(type(_members(kind.item_type)[0]), "values")
        return " ".join(("a list", *(_length(kind, items) or ("of", items))))
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in kind.values)
    if isinstance(kind, inspect.StructType):
        must = [name for name, field in of.fields.items() if field.required]
        return f"an object with {' and '.join(must) or 'some of ' + ', '.join(of.fields)}"
    return "an object" if isinstance(kind, inspect.DictType) else ANY


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    name = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    low = [f"above {_figure(kind.gt)}"] if kind.gt is not None else []
    high = [f"below {_figure(kind.lt)}"] if kind.lt is not None else []
    if kind.ge is not None and kind.le is not None:
        return f"{name} from {_figure(kind.ge)} to {_figure(kind.le)}"
    low += [f"of at least {_figure(kind.ge)}"] if kind.ge is not None else []
    high += [f"at most {_figure(kind.le)}"] if kind.le is not None else []
    return " ".join((name, " and ".join(low + high))).strip()


def _length(kind: inspect.StrType | inspect.ListType, of: str) -> tuple[str, ...]:
    least, most = kind.min_length or 0, kind.max_length
    if most is None:
        return (f"of at least {least} {of}",) if least else ()
    return (f"of {least} to {most} {of}" if least else f"of at most {most} {of}",)


def _figure(number: float) -> str:
    """Digits, in groups where there are many."""
    whole = float(number).is_integer()
    return f"{number:g}" if not whole or abs(number) < 1e5 else f"{int(number):,}"
