"""What is told of users, as segments: a value of a column, or a range of its numbers."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from scipy import sparse

from steerec.contracts import History


@dataclass(frozen=True)
class Segments:
    """The segments of a users' table, and who belongs to which.

    Attributes:
        names: (column, value) of each; for a column of numbers the value is the place of its
            range, as text.
        edges: column of numbers → inner edges of its ranges, rising.
    """

    names: tuple[tuple[str, str], ...]
    edges: Mapping[str, tuple[float, ...]]

    @classmethod
    def fit(
        cls, users: pl.DataFrame, columns: Sequence[str], *, bins: int, least_users: int
    ) -> Self:
        """Segments of at least `least_users` rows of the table.

        A segment that all told rows of its column share tells nothing and is left out.

        Args:
            bins: ranges of equal numbers of users that a column of numbers is cut into.
        """
        edges = {c: _edges(users[c], bins) for c in columns if users[c].dtype.is_numeric()}
        every = cls((), edges)
        count: Counter[tuple[str, str]] = Counter()
        told: Counter[str] = Counter()
        for row in users.select(columns).iter_rows(named=True):
            found = set(every._values(row))
            count.update(found)
            told.update({column for column, _ in found})
        kept = [pair for pair, n in count.items() if least_users <= n < told[pair[0]]]
        return cls(tuple(sorted(kept)), edges)

    @property
    def column(self) -> np.ndarray:
        """(n_segments,): number of each segment's column, in order of names."""
        names = sorted({column for column, _ in self.names})
        return np.array([names.index(column) for column, _ in self.names], np.int64)

    def of(self, about: Mapping[str, Any]) -> list[int]:
        """The segments of a person told as a row of the users' table; unknown values have none."""
        place = {pair: i for i, pair in enumerate(self.names)}
        return sorted({place[pair] for pair in self._values(about) if pair in place})

    def of_user(self, history: History, members: sparse.csr_matrix) -> list[int]:
        """The segments of a user; what they tell of a column goes before what the table says.

        Args:
            members: (n_users, n_segments) of `table`.
        """
        told = {} if history.about is None else history.about.attributes
        known = 0 <= history.user_idx < members.shape[0]
        at = history.user_idx  # SciPy's own picking of one row takes ten times as long
        cut = members.indptr[at : at + 2].tolist() if known else [0, 0]
        own = members.indices[slice(*cut)].tolist()
        kept = [s for s in own if self.names[s][0] not in told]
        return sorted([*kept, *self.of(told)] if told else kept)

    def table(self, users: pl.DataFrame) -> sparse.csr_matrix:
        """(n_users, n_segments) float32, 1 where the user belongs to the segment."""
        place = {pair: i for i, pair in enumerate(self.names)}
        rows = [
            sorted({place[pair] for pair in self._values(row) if pair in place})
            for row in users.iter_rows(named=True)
        ]
        indptr = np.cumsum([0, *map(len, rows)])
        indices = np.array([i for row in rows for i in row], np.int32)
        ones = np.ones(len(indices), np.float32)
        return sparse.csr_matrix((ones, indices, indptr), shape=(len(users), len(self.names)))

    def _values(self, about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(column, value) pairs of one row; numbers as the place of their range."""
        for column, cell in about.items():
            if column in self.edges:
                number = _number(cell)
                if not math.isnan(number):
                    place = np.searchsorted(self.edges[column], number, side="right")
                    yield column, str(int(place))
                continue
            for value in cell if isinstance(cell, list | tuple) else (cell,):
                if value is not None and (text := str(value).strip()):
                    yield column, text


def _number(cell: object) -> float:
    """NaN for what is no number."""
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _edges(column: pl.Series, bins: int) -> tuple[float, ...]:
    """Inner edges of ranges with about as many users each; ties stay in one range."""
    numbers = column.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    if len(numbers) == 0:
        return ()
    edges = np.unique(np.quantile(numbers, np.arange(1, bins) / bins))
    return tuple(float(edge) for edge in edges if edge > numbers.min())
