"""Which items may appear now: not hidden, published, not expired, in stock; since when known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from steerec.contracts import Indices
from steerec.store.catalogue import Entry

Mask = NDArray[np.bool_]

# What an item has of which nothing is said. NaN compares as False: it never keeps an item away.
_UNSAID: Mapping[str, float] = {
    "hidden": 0.0,
    "published": np.nan,
    "expires": np.nan,
    "stock": np.nan,
}


@dataclass(frozen=True)
class _Known:
    """A mask and the times from which and until which it holds."""

    mask: Mask
    since: float
    until: float


_NOTHING = _Known(np.zeros(0, bool), np.inf, -np.inf)


@dataclass
class Availability:
    """What keeps items from appearing, by item_idx; for one writer and any number of readers.

    Attributes:
        n_items: rows in use; more are added as they are first named.
    """

    n_items: int = 0
    _met: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _told: NDArray[np.float64] | None = None  # what `first_met` answered, until that changes
    _columns: dict[str, NDArray[np.float64]] = field(
        default_factory=lambda: {name: np.empty(0) for name in _UNSAID}
    )
    _deleted: Mask = field(default_factory=lambda: np.zeros(0, bool))
    _changed: list[Indices] = field(default_factory=list)
    _known: _Known = _NOTHING
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, items: pl.DataFrame) -> "Availability":
        """From the catalogue: its columns hidden, published, expires, stock, where it has them."""
        told = {
            name: items[name].cast(pl.Float64).fill_null(unsaid).to_numpy()
            for name, unsaid in _UNSAID.items()
            if name in items.columns
            and (items[name].dtype.is_numeric() or items[name].dtype == pl.Boolean)
        }
        made = cls()
        made.grow(len(items))
        made.update(np.arange(len(items), dtype=np.int32), **told)
        return made

    def grow(self, n_items: int) -> None:
        """Have at least so many items; new ones may appear until something else is said."""
        with self._lock:
            self._grow(n_items)

    def update(
        self,
        item_idx: Indices,
        *,
        hidden: ArrayLike | None = None,
        published: ArrayLike | None = None,
        expires: ArrayLike | None = None,
        stock: ArrayLike | None = None,
    ) -> None:
        """Say anew what holds for some items; what is None stays as it was.

        Args:
            item_idx: (n,) rows; those beyond the end are added.
            hidden: (n,) or one bool.
            published: (n,) or one number, Unix seconds from which it may appear; NaN: always.
            expires: (n,) or one number, Unix seconds from which no longer; NaN: never.
            stock: (n,) or one number; none left at 0 and below; NaN: not counted.
        """
        told = {"hidden": hidden, "published": published, "expires": expires, "stock": stock}
        rows = _rows(item_idx)
        if len(rows) == 0:
            return
        with self._lock:
            self._grow(int(rows.max()) + 1)
            for name, values in told.items():
                if values is not None:
                    self._columns[name][rows] = np.asarray(values, np.float64)
            self._changed.append(rows)

    def tell(self, item_idx: Indices, entries: Sequence[Entry]) -> None:
        """Take in what the catalogue says of these items."""
        self.update(
            item_idx,
            hidden=[entry.hidden or entry.deleted for entry in entries],
            published=_numbers(entry.published for entry in entries),
            expires=_numbers(entry.expires for entry in entries),
            stock=_numbers(entry.stock for entry in entries),
        )
        self.met(item_idx, [entry.added for entry in entries])

    def met(self, item_idx: ArrayLike, times: Iterable[float | None]) -> None:
        """Say when items were seen; the first time counts.

        Args:
            times: (n,) Unix seconds; None where nobody knows.
        """
        rows = _rows(item_idx)
        if len(rows) == 0:
            return
        with self._lock:
            self._grow(int(rows.max()) + 1)
            before = self._met[rows]
            np.fmin.at(self._met, rows, _numbers(times))
            if not np.array_equal(before, self._met[rows], equal_nan=True):
                self._told = None

    def first_met(self) -> NDArray[np.float64]:
        """(n_items,) Unix seconds when each was first seen; NaN where nobody said.

        Read-only, and the same array until something else is said.
        """
        with self._lock:
            if self._told is None:
                self._told = self._met[: self.n_items].copy()
                self._told.flags.writeable = False
            return self._told

    def delete(self, item_idx: Indices) -> None:
        """Hide items for ever: no later `update` brings them back."""
        rows = _rows(item_idx)
        if len(rows) == 0:
            return
        with self._lock:
            self._grow(int(rows.max()) + 1)
            self._deleted[rows] = True
            self._changed.append(rows)

    def allowed(self, now: float) -> Mask:
        """(n_items,) what may appear at this time, read-only; it never changes afterwards.

        Costs nothing until the next moment at which an item changes, or the next update.
        """
        with self._lock:
            known = self._known
            if not known.since <= now < known.until:
                self._known = self._judged(now)
            elif self._changed or len(known.mask) < self.n_items:
                self._known = self._amended(known, now)
            self._changed.clear()
            return self._known.mask

    def _judged(self, now: float) -> _Known:
        """All items anew."""
        return self._settled(self._may(slice(0, self.n_items), now), slice(0, self.n_items), now)

    def _amended(self, known: _Known, now: float) -> _Known:
        """The items that changed or came, on a copy: readers may still hold the other."""
        old = len(known.mask)
        new = np.arange(old, self.n_items, dtype=np.int32)
        rows = np.concatenate([*self._changed, new])
        mask = np.zeros(self.n_items, bool)
        mask[:old] = known.mask
        mask[rows] = self._may(rows, now)
        fresh = self._settled(mask, rows, now)
        return _Known(mask, max(known.since, fresh.since), min(known.until, fresh.until))

    def _may(self, rows: Indices | slice, now: float) -> Mask:
        columns = {name: column[rows] for name, column in self._columns.items()}
        away = (columns["hidden"] > 0) | self._deleted[rows]
        away |= (columns["published"] > now) | (columns["expires"] <= now)
        may: Mask = ~(away | (columns["stock"] <= 0))
        return may

    def _settled(self, mask: Mask, rows: Indices | slice, now: float) -> _Known:
        """The mask, with the last and the next moment at which one of the rows changes."""
        mask.flags.writeable = False
        moments = np.concatenate([self._columns[name][rows] for name in ("published", "expires")])
        past, coming = moments[moments <= now], moments[moments > now]
        return _Known(mask, past.max(initial=-np.inf), coming.min(initial=np.inf))

    def _grow(self, n_items: int) -> None:
        if n_items <= self.n_items:
            return
        room = len(self._deleted)
        if n_items > room:  # doubled, so that items that come one by one cost no copy each
            more = max(n_items, 2 * room) - room
            for name, unsaid in _UNSAID.items():
                self._columns[name] = np.append(self._columns[name], np.full(more, unsaid))
            self._deleted = np.append(self._deleted, np.zeros(more, bool))
            self._met = np.append(self._met, np.full(more, np.nan))
        self.n_items, self._told = n_items, None


def _rows(item_idx: ArrayLike) -> Indices:
    """(n,) int32.

    Raises:
        ValueError: if one is below 0.
    """
    rows = np.asarray(item_idx, np.int32).reshape(-1)
    if len(rows) and rows.min() < 0:
        raise ValueError(f"item_idx={rows.min()}: expected 0 or more")
    return rows


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [np.nan if value is None else float(value) for value in values]
