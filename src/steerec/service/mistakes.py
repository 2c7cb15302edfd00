"""What is wrong with what was sent, in a sentence: where, what was given and expected, what to do.

Nothing of this runs while what is sent is right; a sentence takes a few passes over a body at most.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import Raw

from steerec.service.expected import ANY, TIME, expected_of, in_seconds

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoders raise

Given = bytes | Mapping[str, str]  # a body, or the parameters of an address
Step = str | int  # a field, or a place in a list
_EACH = "…"  # whichever value of an object with free names

_SHOWN = 60  # characters of a value
_LOOKED_AT = 400  # bytes of a value, to show the first of them
_AROUND = 24  # bytes shown on each side of a mistake in JSON
_PARTS = 1_000_000  # commas of a body that is looked into: more take memory only to show a value
_ESCAPED = 12  # bytes of an escaped pair
_TAIL = 1_000  # characters of the decoder's words that may name the place
_NAMES = 20  # fields named at most
_PATH = re.compile(r" - at `\$((?:\.[\w-]+|\[\d+\]|\[\.\.\.\])*)`\Z")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]|\[\.\.\.\]")
_MISSING, _UNKNOWN = "Object missing required field `", "Object contains unknown field `"
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)\Z")
_TOO_LONG, _TOO_LARGE = "of length <=", "Number out of range"
_GOT = re.compile(r", got `(\w+)`\Z")
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_SECRET = re.compile(r"(steerec_[0-9a-f]+_)(\w+)")  # of an API key, what comes after its id
_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number with a fraction",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_REMEDIES = (  # a part of the decoder's words → what to do
    ("trailing comma", "leave the last comma out"),
    ("trailing characters", "send one value and nothing after it"),
    ("keys must be strings", "put names in double quotes"),
    ("escape", r"escape as JSON does, as in \n and \u00e9, and both halves of a pair"),
    ("expected", "look whether a comma, a quote or a bracket is missing before it"),
)


def told_of(error: Exception, kind: Any, given: Given, *, many: str = "") -> str:
    """What to tell the sender of something that cannot be read as what it should be.

    Args:
        error: one of UNREADABLE.
        kind: the class, or list of a class, that was expected.
        many: the field that holds many of them, where they may be sent so too.
    """
    if isinstance(error, RecursionError):
        return (
            "the JSON is nested too deeply: expected a few hundred levels at most, send it flatter"
        )
    if isinstance(given, bytes) and isinstance(error, UnicodeDecodeError):
        return _no_utf8(given)
    if isinstance(given, bytes) and not isinstance(error, msgspec.ValidationError):
        return _no_json(str(error), given)
    text = why = str(error)
    mistake = _Mistake(kind, given, (), many)
    if (path := _PATH.search(text, max(0, len(text) - _TAIL))) is not None:
        there = _Mistake(kind, given, _steps(path.group(1)), "")
        if there.expected.fields or not text.startswith(_UNKNOWN):  # else a name that looks so
            mistake, why = there, text[: path.start()]
    for words, tell in ((_MISSING, mistake.lacks), (_UNKNOWN, mistake.does_not_know)):
        if why.startswith(words):
            return tell(why[len(words) : -1])
    return mistake.refuses(why)


def _steps(path: str) -> tuple[Step, ...]:
    return tuple(one[1] or (int(one[2]) if one[2] else _EACH) for one in _STEP.finditer(path))


class _Mistake:
    """A place in what was given, with what is expected there."""

    def __init__(self, kind: Any, given: Given, steps: tuple[Step, ...], many: str) -> None:
        self.in_query = isinstance(given, Mapping)
        self.expected = expected_of(kind)
        for step in steps:
            self.expected = self.expected.at(None if step == _EACH else step)
        self.value = _value(given, steps)
        self.name, self.each = _name(steps), steps[-1:] == (_EACH,)
        self.many = many

    def refuses(self, why: str) -> str:
        """What is there is of another kind, or out of bounds."""
        name = f"the parameter {self.name}" if self.in_query else self.name
        words = self.expected.words(null=not self.in_query)
        if words == ANY and why.startswith(_TOO_LARGE):
            words = "numbers up to 1.7e308"
        if self.each:
            words = f"for each name {words}"
        if self.many:
            words += f', or {{"{self.many}": [...]}} for many'
        return f"{name}{self._given(why)}: expected {words}; {self._remedy(why)}"

    def lacks(self, field: str) -> str:
        """A field is not there that must be."""
        names = _names(self.value)
        has = f" (it has {_listed(names)})" if names else ""
        words = self.expected.at(field).words()
        return f"{self.name} has no {field}{has}: expected {words}; add it"

    def does_not_know(self, field: str) -> str:
        """A field is there that has no meaning."""
        shown = _short(field)
        known = [*self.expected.fields, *([self.many] if self.many else [])]
        what = f"{self.name} has the field {shown}, which is not known"
        if self.in_query:
            what = f"the parameter {shown} is not known"
        if not known:
            return f"{what}: expected none, leave it out"
        near = get_close_matches(field[:_SHOWN], known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        free = self.expected.free
        own = f"; facts of your own go into {free}" if free and not near else ""
        return f"{what}: {hint}expected some of {_listed(known)}{own}"

    def _given(self, why: str) -> str:
        if self.value:
            return f" is {_shown(self.value)}"
        got = _GOT.search(why)
        if got is None:
            return " is too long" if _TOO_LONG in why else ""
        return f" is {_KINDS.get(got.group(1), got.group(1))}"

    def _remedy(self, why: str) -> str:
        if self.expected.note.startswith(TIME):
            return in_seconds(_plain(self.value))
        if self.expected.more and _TOO_LONG in why:
            return self.expected.more
        return "change it" if self.expected.required or self.each else "change it, or leave it out"


def _name(steps: tuple[Step, ...]) -> str:
    """Such as `events[3].timestamp`."""
    told = [f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps if s != _EACH]
    return "".join(told).lstrip(".") or "the body"


# What was given


def _value(given: Given, steps: tuple[Step, ...]) -> bytes | None:
    """The JSON at a place; None where it cannot be had, or only at a high price."""
    if isinstance(given, Mapping):
        found = given.get(str(steps[0])) if len(steps) == 1 else None
        if found is None or _NUMBER.fullmatch(found):
            return None if found is None else found.encode()
        return msgspec.json.encode(found)
    if given.count(b",") > _PARTS:
        return None
    there = Raw(given)
    try:
        for step in steps:
            if step == _EACH:
                break
            if isinstance(step, int):
                there = msgspec.json.decode(there, type=list[Raw])[step]
            else:
                there = msgspec.json.decode(there, type=dict[str, Raw])[step]
    except (*UNREADABLE, LookupError):
        return None
    return bytes(there).strip()


def _plain(value: bytes | None) -> str | float | None:
    """A text or a number as such."""
    try:
        return None if value is None else msgspec.json.decode(value, type=str | float)
    except UNREADABLE:
        return None


def _shown(value: bytes) -> str:
    """The value, short: the beginning of a text with its length, how many a list has."""
    first = value[:_LOOKED_AT].decode("utf-8", "replace")
    if first[:1] == "[" and value.count(b",") <= _PARTS:
        try:
            return f"a list of {len(msgspec.json.decode(value, type=list[Raw])):,}"
        except UNREADABLE:
            return "a list"
    shown = _short(first)
    if shown.endswith("…") and first[:1] == '"' and isinstance(text := _plain(value), str):
        return f"{shown} ({len(text):,} characters)"
    return shown


def _short(text: str) -> str:
    """At most 60 characters in one line, none of them of a secret."""
    text = _masked(text[:_LOOKED_AT])
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _masked(text: str) -> str:
    """As long as before, with stars for what is secret."""
    return _SECRET.sub(lambda key: key[1] + "*" * len(key[2]), text)


def _names(value: bytes | None) -> list[str]:
    """The fields of an object."""
    try:
        return [] if value is None else list(msgspec.json.decode(value, type=dict[str, Raw]))
    except UNREADABLE:
        return []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(map(_short, names[:_NAMES])) + more


# What is no JSON


def _no_utf8(given: bytes) -> str:
    try:
        given.decode()
    except UnicodeDecodeError as e:
        return f"byte {e.start} of the body, {given[e.start]:#04x}, is not UTF-8: encode it so"
    return "a text of the body is not UTF-8: encode it so"


def _no_json(why: str, given: bytes) -> str:
    found = _MALFORMED.match(why)
    if found is None:  # the decoder came to the end
        half = b"\\u" in given[-_ESCAPED:]  # of a pair, for whose other half there is no room
        return (
            f"the JSON is cut: byte {len(given)} is its end, after {_around(given, len(given))}; "
            f"send all of it{', and both halves of an escaped pair' if half else ''}"
        )
    at = int(found.group(2))
    what = f"the body is no JSON at byte {at}, {_around(given, at)}: {found.group(1)}"
    return f"{what}; {_remedy(found.group(1), given, at)}"


def _remedy(why: str, given: bytes, at: int) -> str:
    if given[at : at + 3] in (b"NaN", b"Inf", b"-In"):
        return "JSON has no NaN and no infinity, send null or leave the value out"
    if b"" < given[at : at + 1] < b" ":
        return r"write a line break as \n, a tab as \t"
    if given[at : at + 1] == b"'":
        return "put texts and names in double quotes"
    if not given.lstrip().startswith((b"{", b"[")):
        return 'send a JSON object, such as {"name": "value"}'
    hints = (remedy for part, remedy in _REMEDIES if part in why)
    return next(hints, "send null, true, false, a number, a text in double quotes, {…} or […]")


def _around(given: bytes, at: int) -> str:
    start = max(0, at - _LOOKED_AT)
    window = _masked(given[start : at + _LOOKED_AT].decode("latin-1"))  # a character for each byte
    near = window[max(0, at - start - _AROUND) : at - start + _AROUND].encode("latin-1")
    before, after = "…" * (at > _AROUND), "…" * (at + _AROUND < len(given))
    return f"{before}{_short(near.decode('utf-8', 'replace'))}{after}"
