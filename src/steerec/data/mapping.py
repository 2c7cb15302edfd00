"""Which source column is which canonical field: given, or guessed from common names."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from steerec.data.tables import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS
from steerec.errors import DataError

FIELDS: Mapping[str, tuple[str, ...]] = {
    "events": EVENT_FIELDS,
    "items": ITEM_FIELDS,
    "users": USER_FIELDS,
}
_ALL_FIELDS = sorted({name for names in FIELDS.values() for name in names})
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "events": ("user_id", "item_id"),
    "items": ("item_id",),
    "users": ("user_id",),
}
# Field: other names of it, without case, underscores or other signs, as `_plain` leaves them.
_SYNONYM_LINES = """
user_id: user userid uid customer customerid visitor visitorid member memberid shopper shopperid
user_id: client clientid account accountid reader readerid reviewer reviewerid
item_id: item itemid iid product productid sku asin movie movieid film filmid book bookid isbn
item_id: article articleid stockcode track trackid song songid artistid news newsid goodsid
item_id: video videoid contentid
event: eventtype eventname action actiontype behavior behaviour behaviortype behaviourtype
event: feedbacktype interaction interactiontype kind type
value: rating ratings rate stars score overall quantity qty playcount listens
timestamp: time ts date datetime createdat eventtime eventtimestamp eventdate occurredat unixtime
timestamp: unixreviewtime invoicedate orderdate ratedat
basket: basketid orderid order orderno invoice invoiceno invoiceid invoicenumber receipt receiptid
basket: transactionid cartid
seq: sequence sequencenumber seqno
title: name itemname productname itemtitle producttitle movietitle
description: desc abstract summary overview plot productdescription
categories: category genres genre categoryname class
brand: brandname manufacturer maker
price: unitprice listprice
year: releaseyear publicationyear
"""


@dataclass(frozen=True)
class ColumnMap:
    """One table's mapping: canonical field → source column, and which of them were guessed."""

    columns: Mapping[str, str]
    guessed: tuple[str, ...]


def parse_mapping(text: str) -> dict[str, str]:
    """Read `user_id=customer,item_id=sku`; `field=` alone means that there is no such column.

    A field may name its table, as in `items.item_id=code`, where tables call it differently.

    Raises:
        DataError: if a part is no `field=column`, or the field is unknown or given twice.
    """
    mapping: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sign, column = (p.strip() for p in part.partition("="))
        if not sign:
            raise DataError(
                f"mapping part {part!r} has no '=': write field=column, "
                "for example user_id=customer,item_id=sku"
            )
        if name in mapping:
            raise DataError(f"mapping gives {name!r} twice: keep one")
        mapping[name] = column
    check_mapping(mapping)
    return mapping


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Refuse a field that no table has.

    Raises:
        DataError: naming the field and the known ones.
    """
    for name in mapping:
        table, dot, bare = name.rpartition(".")
        known = FIELDS.get(table, ()) if dot else _ALL_FIELDS
        if bare not in known:
            raise DataError(f"unknown field {name!r} in the mapping; known: {_ALL_FIELDS}")


def map_columns(table: str, columns: Sequence[str], given: Mapping[str, str]) -> ColumnMap:
    """Find the source column of each canonical field of `table` ("events", "items", "users").

    A given column wins, then one that bears the canonical name, then a synonym if just one fits.

    Raises:
        DataError: if a given column is missing, two columns fit a field, or a needed one has none.
    """
    check_mapping(given)
    found = _given_columns(table, columns, given)
    guessed = []
    for name in FIELDS[table]:
        if name in found:
            continue
        column = _guess(table, name, columns, set(found.values()))
        if column is not None:
            found[name] = column
            if column != name:
                guessed.append(name)
    _check_required(table, columns, found)
    _check_once(table, columns, found)
    return ColumnMap({n: c for n, c in found.items() if c}, tuple(guessed))


def _given_columns(table: str, columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in FIELDS[table]:
        own = f"{table}.{name}"
        column = given.get(own, given.get(name))
        if column is None:
            continue
        # A bare `item_id=sku` speaks of the events first; other tables may call it otherwise.
        shared = own not in given and table != "events" and name in EVENT_FIELDS
        if column and column not in columns:
            if shared:
                continue
            raise DataError(
                f"the mapping says {name}={column}, but {table} have no column {column!r}; "
                f"given: {list(columns)}"
            )
        found[name] = column
    return found


def _guess(table: str, name: str, columns: Sequence[str], used: Collection[str]) -> str | None:
    if name in columns:
        return name
    fits = [
        c
        for c in columns
        if c not in used and (_plain(c) == _plain(name) or _plain(c) in _synonyms()[name])
    ]
    if len(fits) > 1:
        raise DataError(
            f"{table}: columns {fits} all look like {name}: choose with "
            f"--columns {name}={fits[0]}, or {name}= for none"
        )
    return fits[0] if fits else None


def _check_required(table: str, columns: Sequence[str], found: Mapping[str, str]) -> None:
    for name in REQUIRED[table]:
        if not found.get(name):
            raise DataError(
                f"{table} have no column for {name}; given: {list(columns)}. Say which it is, "
                f"for example --columns {name}={columns[0] if columns else 'customer'}"
            )


def _check_once(table: str, columns: Sequence[str], found: Mapping[str, str]) -> None:
    """A column name that stands twice in a header may mean either."""
    for name, column in found.items():
        second = f"{column}_duplicated_0"  # what the reader of CSV calls it
        if column and second in columns:
            raise DataError(
                f"{table}: two columns are called {column!r}: rename one in the file, or take "
                f"the second with --columns {name}={second}"
            )


def _plain(column: str) -> str:
    return re.sub(r"[\W_]+", "", column).lower()


@cache
def _synonyms() -> Mapping[str, frozenset[str]]:
    table: dict[str, frozenset[str]] = dict.fromkeys(_ALL_FIELDS, frozenset())
    for line in _SYNONYM_LINES.strip().splitlines():
        name, _, words = line.partition(":")
        table[name] |= frozenset(words.split())
    return table
