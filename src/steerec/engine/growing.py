"""A history that grows by an event at a time, without a copy of all that came before."""

from typing import Any

import numpy as np

from steerec.contracts import History

NAN = float("nan")
SPARE = 8  # events there is room for beyond half as many as there are


class Growing:
    """Events of one user in arrays with room at their end; what was read of it never changes.

    Args:
        history: what it begins with.
        most: newest events that are kept.
    """

    __slots__ = ("_arrays", "_first", "_known", "_most", "_n", "_user")

    def __init__(self, history: History, most: int) -> None:
        self._most, self._user = most, (history.user_idx, history.about)
        self._known: History | None = None
        self._arrays: list[Any] = [history.item_idx, history.weight, history.time, history.basket]
        if history.rating is not None:
            self._arrays.append(history.rating)
        self._first, self._n = 0, len(history)
        self._make_room()

    def __len__(self) -> int:
        return min(self._n - self._first, self._most)

    @property
    def last_time(self) -> float:
        """Unix seconds of the newest event; NaN if there is none, or it is unknown."""
        return float(self._arrays[2][self._n - 1]) if self._n > self._first else float("nan")

    @property
    def history(self) -> History:
        """All that is kept, as it is now."""
        if self._known is None:
            cut = slice(self._n - len(self), self._n)
            item, weight, time, basket, *rating = [column[cut] for column in self._arrays]
            self._known = History(item, weight, time, basket, *self._user, *rating)
        return self._known

    def append(
        self, item_idx: int, weight: float, time: float, basket: int, rating: float = NAN
    ) -> None:
        """One event, not before the newest; `rating` NaN: it is none."""
        n = self._n
        if n == len(self._arrays[0]):
            self._make_room()
            n = self._n
        item, weights, times, baskets, *ratings = self._arrays
        item[n], weights[n], times[n], baskets[n] = item_idx, weight, time, basket
        if ratings:
            ratings[0][n] = rating
        elif rating == rating:  # the first one: not NaN
            self._arrays.append(np.full(len(item), np.nan, np.float32))
            self._arrays[-1][n] = rating
        self._n, self._known = n + 1, None

    def _make_room(self) -> None:
        """Other arrays, since readers may hold these."""
        n = len(self)
        made = []
        for column in self._arrays:
            longer = np.empty(n + n // 2 + SPARE, column.dtype)
            longer[:n] = column[self._n - n : self._n]
            made.append(longer)
        self._arrays, self._first, self._n = made, 0, n
