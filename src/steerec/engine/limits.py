"""Limits: caps, quotas and pins on a slate as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Limits:
    """Rules on a slate as a whole, over groups of pool items that may overlap.

    Caps are never broken but by pinned items, which count in their groups from the start. A quota
    is met where caps and the pool leave items for it, as late as possible, so that the best items
    come first; of overlapping quotas that cannot all be met in time, most are.

    Attributes:
        groups: (n_groups, n_pool) bool, True where the item belongs to the group.
        most: (n_groups,) at most so many of the group in the slate.
        least: (n_groups,) at least so many of the group in the slate.
        pinned: place in the slate, from 0 → index in the pool; moves up if the slate ends before.
    """

    groups: Mask
    most: NDArray[np.int64]
    least: NDArray[np.int64]
    pinned: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def per_value(
        cls, codes: NDArray[np.integer], most: int, *, pinned: Mapping[int, int] | None = None
    ) -> "Limits":
        """At most `most` items of each value of an attribute.

        Args:
            codes: (n_pool,) number of the item's value, below 0 where it has none.
        """
        values, counts = np.unique(codes[codes >= 0], return_counts=True)
        groups = codes == values[counts > most][:, None]
        n = len(groups)
        return cls(groups, np.full(n, most), np.zeros(n, np.int64), pinned or {})

    def leave(self, left: Mask, counts: NDArray[np.int64], free: int) -> Mask:
        """(n_pool,) what caps leave and, when the places run out, what quotas ask for.

        Args:
            left: (n_pool,) what was not shown and is not pinned.
            counts: (n_groups,) shown or pinned.
            free: places still to fill, with this one, without pins.
        """
        may = left & ~self.groups[counts >= self.most].any(axis=0)
        short = self.least - counts
        if (short <= 0).all():
            return may
        short = np.clip(short, 0, (self.groups & may).sum(axis=1))
        needed = int(short.sum()) - (free - 1)
        if needed <= 0:
            return may
        helps = np.where(may, self.groups[short > 0].sum(axis=0), 0)
        found: Mask = may & (helps >= min(needed, int(helps.max(initial=0))))
        return found

    def check(self, n_pool: int) -> None:
        """See that the parts fit each other and the pool.

        Raises:
            ValueError: if they do not.
        """
        n_groups = len(self.most)
        if self.groups.shape != (n_groups, n_pool) or len(self.least) != n_groups:
            raise ValueError(
                f"limits: groups {self.groups.shape}, most ({n_groups},), least "
                f"({len(self.least)},): expected ({n_groups}, {n_pool}) and ({n_groups},) twice"
            )
        if (self.least > self.most).any():
            raise ValueError("limits: least is above most for a group: no slate can obey")
        items = set(self.pinned.values())
        if len(items) < len(self.pinned) or not all(0 <= i < n_pool for i in items):
            raise ValueError(
                f"limits: pinned={dict(self.pinned)}: expected items of {n_pool}, each once"
            )
        if any(place < 0 for place in self.pinned):
            raise ValueError(f"limits: pinned={dict(self.pinned)}: places count from 0")
