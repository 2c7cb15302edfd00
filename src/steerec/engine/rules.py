"""Hard rules: which items of the catalogue may be shown to whom."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import History, Indices, Query
from steerec.data.counted import counted
from steerec.data.dataset import Dataset
from steerec.engine.condition_masks import FilterMasks, unknown_attributes
from steerec.errors import DataError, UnknownItemError

log = logging.getLogger(__name__)

NEAR_IDS = 20_000  # most ids compared for a suggestion


@dataclass
class Noted:
    """Warns once of each placement's condition that names what no item has, as a mistyped one."""

    _rules: set[str] = field(default_factory=set)

    def look(self, query: Query, items: pl.DataFrame) -> None:
        """See whether the query's rule is such a one."""
        if not query.rule or query.rule in self._rules:
            return
        if unknown := unknown_attributes(query.rule, items):
            self._rules.add(query.rule)
            told = "scenario=%s condition=%r: no item has %s, so tests of it are false"
            log.warning(told, query.scenario or "default", query.rule, ", ".join(unknown))


@dataclass
class Catalogue:
    """The items by id and by attribute."""

    data: Dataset
    _attributes: dict[str, Mapping[str, Indices]] = field(default_factory=dict)
    _masks: FilterMasks = field(default_factory=FilterMasks)
    _named: dict[int, str] = field(default_factory=dict)

    def allowed(self, query: Query, history: History, *, repeats: bool) -> NDArray[np.bool_]:
        """(n_items,): passes filter and condition, is not excluded, not the user's own or disliked.

        Raises:
            DataError: if they name an attribute that items do not have, or cannot be read.
        """
        allowed = np.ones(self.data.n_items, bool)
        for attribute, values in query.filter.items():
            allowed &= self._having(attribute, values)
        if query.condition:
            allowed &= self._masks.mask(query.condition, self.data.items, 0)
        if query.rule:
            allowed &= self._ruled(query.rule, query.scenario)
        index = self.data.item_index
        if query.exclude:
            allowed[[index[i] for i in query.exclude if i in index]] = False
        if query.candidates is not None:
            named = np.zeros(self.data.n_items, bool)
            named[[index[i] for i in query.candidates if i in index]] = True
            allowed &= named
        own = history.item_idx if not repeats else _disliked(history)
        allowed[own] = False
        return allowed

    def index(self, item_id: str) -> int:
        """The item's dense index.

        Raises:
            UnknownItemError: if the catalogue does not hold it; names the nearest ids.
        """
        found = self.data.item_index.get(item_id)
        if found is not None:
            return found
        near = self.near(item_id)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "write it first, or ask with another id"
        )
        raise UnknownItemError(
            f"no item has the id {item_id!r} ({counted(self.data.n_items, 'item')} known): {hint}"
        )

    def near(self, item_id: str) -> list[str]:
        """At most three ids spelled like this one, or whose title holds these words."""
        lengths = range(len(item_id) - 2, len(item_id) + 3)
        alike = [str(i) for i in self.data.item_ids if len(i) in lengths][:NEAR_IDS]
        near = get_close_matches(item_id, alike, 3)
        if not near and "title" in self.data.items.columns and item_id.strip():
            wanted = pl.col("title").str.to_lowercase().str.contains(item_id.lower(), literal=True)
            near = self.data.items.filter(wanted)["item_id"].head(3).to_list()
        return near

    def title(self, item_idx: int) -> str:
        """The item's title, its id where it has none."""
        if (known := self._named.get(item_idx)) is None:  # Polars takes microseconds for each
            title = self._titles[item_idx] if self._titles is not None else None
            known = str(title) if title else str(self.data.item_ids[item_idx])
            self._named[item_idx] = known
        return known

    def __post_init__(self) -> None:
        titled = "title" in self.data.items.columns
        self._titles = self.data.items["title"] if titled else None

    def _ruled(self, rule: str, scenario: str | None) -> NDArray[np.bool_]:
        """(n_items,): fulfils what the settings of a placement say."""
        try:
            return self._masks.mask(rule, self.data.items, 0, lenient=True)
        except DataError as e:
            raise DataError(
                f"the condition of scenario {scenario or 'default'!r} in the settings, not of this "
                f"call, does not fit the items: {e}"
            ) from e

    def _having(self, attribute: str, values: frozenset[str]) -> NDArray[np.bool_]:
        if attribute not in self.data.items.columns:
            raise DataError(
                f"items have no attribute {attribute!r} to filter by; "
                f"they have: {', '.join(self.data.items.columns)}"
            )
        if attribute not in self._attributes:
            self._attributes[attribute] = _by_value(self.data.items[attribute])
        having = np.zeros(self.data.n_items, bool)
        for value in values:
            having[self._attributes[attribute].get(str(value), [])] = True
        return having


def _by_value(column: pl.Series) -> dict[str, Indices]:
    """Value as text → indices of the items that have it; a list column has each of its values."""
    table = pl.DataFrame({"value": column}).with_row_index("at")
    if isinstance(column.dtype, pl.List):
        table = table.explode("value")
    grouped = (
        table.drop_nulls("value")
        .group_by(pl.col("value").cast(pl.String))
        .agg(pl.col("at").cast(pl.Int32))
    )
    values, places = grouped["value"].to_list(), grouped["at"]
    return {value: places[n].to_numpy() for n, value in enumerate(values)}


def _disliked(history: History) -> Indices:
    """Items whose newest event weighs below 0."""
    if not (history.weight < 0).any():
        return history.item_idx[:0]
    items, newest = np.unique(history.item_idx[::-1], return_index=True)
    return np.asarray(items[history.weight[::-1][newest] < 0])
