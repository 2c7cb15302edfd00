"""The language of filters: `price < 20 and "vegan" in tags and not brand == "X"`.

Text becomes tokens, tokens become a tree of frozen dataclasses; nothing is ever run as code.

    either  := both ("or" both)*
    both    := denied ("and" denied)*
    denied  := "not" denied | "(" either ")" | test
    test    := attribute op value | value op attribute | attribute
             | value ["not"] "in" attribute | attribute ["not"] "in" "[" value, … "]"
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from steerec.errors import DataError

Value = str | int | float | bool | None

MOST_CHARACTERS = 2_000
MOST_DEPTH = 32
MOST_TESTS = 200
MOST_VALUES = 1_000  # of one list

_AROUND = 40  # characters of the text shown on each side of a mistake
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?!\w))"
    r'|(?P<text>"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')'
    r"|(?P<name>[^\W\d]\w*|`[^`]+`)"
    r"|(?P<mark>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)",
    re.DOTALL,
)
_WORDS = {"and", "or", "not", "in", "true", "false", "null"}
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "null": None}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ESCAPED = {"n": "\n", "t": "\t"}
_EXAMPLE = 'as in price < 20 and "vegan" in tags'


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written; `at` counts characters from 0, as everywhere here."""

    value: Value
    at: int


@dataclass(frozen=True, slots=True)
class Compare:
    """`attribute op value`; op is one of == != < <= > >=."""

    attribute: str
    op: str
    value: Literal
    at: int


@dataclass(frozen=True, slots=True)
class Contains:
    """`value in attribute`: among the values of a list, or within a text."""

    attribute: str
    value: Literal
    negated: bool
    at: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """`attribute in [values]`."""

    attribute: str
    values: tuple[Literal, ...]
    negated: bool
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """True where the term is not."""

    term: "Term"


@dataclass(frozen=True, slots=True)
class AllOf:
    """True where all terms are."""

    terms: "tuple[Term, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where a term is."""

    terms: "tuple[Term, ...]"


Term = Compare | Contains | OneOf | Not | AllOf | AnyOf


def parse(text: str) -> Term:
    """Read a filter.

    Raises:
        DataError: if it is not one, or beyond the limits; shows the place and what was expected.
    """
    if len(text) > MOST_CHARACTERS:
        raise DataError(f"filter: {len(text)} characters: expected at most {MOST_CHARACTERS}")
    if (lone := re.search("[\ud800-\udfff]", text)) is not None:
        raise DataError(f"filter: character {lone.start() + 1} is half of a pair, no text")
    reading = _Reading(text, _tokens(text))
    term = reading.either(1)
    if reading.now.kind != "end":
        fail(text, reading.now.at, f"{reading.now.told}: expected and, or, or the end")
    return term


def fail(text: str, at: int, what: str) -> NoReturn:
    """Raise the DataError that points at a place of the filter."""
    start = max(0, at - _AROUND)
    line = "".join(c if c.isprintable() else " " for c in text[start : at + _AROUND])
    raise DataError(f"filter: character {at + 1}: {what}\n  {line}\n  {' ' * (at - start)}^")


@dataclass(frozen=True, slots=True)
class _Token:
    """A piece of the text; `kind` is number, text, name, end, or the mark or word itself."""

    kind: str
    at: int
    text: str

    @property
    def told(self) -> str:
        return "the filter ends" if self.kind == "end" else f"found {self.text[:40]}"


@dataclass(frozen=True, slots=True)
class _Name:
    name: str
    at: int


@dataclass(frozen=True, slots=True)
class _List:
    values: tuple[Literal, ...]
    at: int


_Side = Literal | _Name | _List


def _tokens(text: str) -> list[_Token]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            fail(text, at, _unreadable(text, at))
        kind, found = str(match.lastgroup), match.group()
        if kind == "mark" or found in _WORDS:
            kind = found
        if kind != "space":
            tokens.append(_Token(kind, at, found))
        at = match.end()
    return [*tokens, _Token("end", len(text), "")]


def _unreadable(text: str, at: int) -> str:
    if text[at] in "\"'`":
        return f"the {text[at]} that opens here is never closed"
    if text[at] == "=":
        return "found =: compare with =="
    hints = {"&": "and", "|": "or", "!": "not, or !="}
    if text[at] in hints:
        return f"found {text[at]}: write {hints[text[at]]}"
    return f"found {text[at]!r}: expected an attribute or a value, {_EXAMPLE}"


@dataclass
class _Reading:
    """Goes through the tokens once, from left to right."""

    text: str
    tokens: list[_Token]
    place: int = 0
    n_tests: int = 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.place]

    def either(self, depth: int) -> Term:
        terms = self._joined("or", lambda: self.both(depth))
        return terms[0] if len(terms) == 1 else AnyOf(terms)

    def both(self, depth: int) -> Term:
        terms = self._joined("and", lambda: self.denied(depth))
        return terms[0] if len(terms) == 1 else AllOf(terms)

    def denied(self, depth: int) -> Term:
        if depth > MOST_DEPTH:
            fail(
                self.text, self.now.at, f"nested deeper than {MOST_DEPTH} levels: write it flatter"
            )
        if self._took("not"):
            return Not(self.denied(depth + 1))
        if self._took("("):
            term = self.either(depth + 1)
            self._need(")", "and, or, or )")
            return term
        return self.test()

    def test(self) -> Term:
        self.n_tests += 1
        if self.n_tests > MOST_TESTS:
            fail(self.text, self.now.at, f"more than {MOST_TESTS} comparisons")
        left, token = self.side(), self.now
        if self._took("in"):
            return self._membership(left, token, self.side(), negated=False)
        if self.now.kind == "not" and self.tokens[self.place + 1].kind == "in":
            self.place += 2
            return self._membership(left, token, self.side(), negated=True)
        if token.kind in _MIRRORED:
            self.place += 1
            return self._comparison(left, token, self.side())
        if isinstance(left, _Name):
            return Compare(left.name, "==", Literal(value=True, at=left.at), left.at)
        fail(
            self.text, token.at, f"{token.told}: expected a comparison after the value, {_EXAMPLE}"
        )

    def side(self) -> _Side:
        token = self.now
        if self._took("name"):
            return _Name(token.text.strip("`"), token.at)
        if self._took("["):
            return self._list(token)
        return self.value("an attribute, a value or a list")

    def value(self, expected: str) -> Literal:
        token = self.now
        if token.kind in _CONSTANTS:
            value = _CONSTANTS[token.kind]
        elif token.kind == "text":
            value = self._unescaped(token)
        elif token.kind == "number":
            value = self._number(token)
        else:
            fail(self.text, token.at, f"{token.told}: expected {expected}, {_EXAMPLE}")
        self.place += 1
        return Literal(value, token.at)

    def _list(self, start: _Token) -> _List:
        values: list[Literal] = []
        while not self._took("]"):
            if values:
                self._need(",", ", or ]")
            value = self.value("a value")
            if value.value is None:
                fail(self.text, value.at, "null in a list: test for it with attribute == null")
            values.append(value)
            if len(values) > MOST_VALUES:
                fail(self.text, value.at, f"a list of more than {MOST_VALUES} values")
        return _List(tuple(values), start.at)

    def _membership(self, left: _Side, token: _Token, right: _Side, *, negated: bool) -> Term:
        if isinstance(left, Literal) and isinstance(right, _Name) and left.value is not None:
            return Contains(right.name, left, negated, right.at)
        if isinstance(left, _Name) and isinstance(right, _List):
            return OneOf(left.name, right.values, negated, left.at)
        what = 'in: expected "value" in attribute, or attribute in ["a", "b"]'
        fail(self.text, token.at, what)

    def _comparison(self, left: _Side, token: _Token, right: _Side) -> Term:
        op = token.kind
        if isinstance(left, Literal):
            left, right, op = right, left, _MIRRORED[op]
        if isinstance(left, _Name) and isinstance(right, _Name):
            what = f"two attributes, {left.name} and {right.name}: put a text value in quotes"
            fail(self.text, right.at, what)
        if not (isinstance(left, _Name) and isinstance(right, Literal)):
            fail(
                self.text,
                token.at,
                f"{token.kind}: expected an attribute on one side, a value on the other",
            )
        if right.value is None and op not in ("==", "!="):
            fail(self.text, right.at, f"{op} null: a missing value is tested with == or !=")
        return Compare(left.name, op, right, left.at)

    def _joined(self, word: str, read: Callable[[], Term]) -> tuple[Term, ...]:
        terms = [read()]
        while self._took(word):
            terms.append(read())
        return tuple(terms)

    def _took(self, kind: str) -> bool:
        taken = self.now.kind == kind
        self.place += taken
        return taken

    def _need(self, kind: str, expected: str) -> None:
        if not self._took(kind):
            fail(self.text, self.now.at, f"{self.now.told}: expected {expected}")

    def _number(self, token: _Token) -> int | float:
        whole = token.text.lstrip("-").isdecimal()
        if whole and abs(int(token.text)) < 2**63:
            return int(token.text)
        number = float(token.text)
        if abs(number) == float("inf"):
            fail(self.text, token.at, "a number too large")
        return number

    def _unescaped(self, token: _Token) -> str:
        def plain(match: re.Match[str]) -> str:
            code, char = match.group(1), match.group(2)
            if not code:
                return _ESCAPED.get(char, char)
            if "d800" <= code.lower() <= "dfff":
                fail(self.text, token.at + 1 + match.start(), "half of a pair, no character")
            return chr(int(code, 16))

        return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", plain, token.text[1:-1], flags=re.DOTALL)
