"""Items that a user had before, where people come back to things: θ has weights beside for them.

A log-linear blend gives a head one weight for all items. `repeat` tells items of one's own from the
others and puts them in order, and the two want different weights, as do the heads beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import History
from steerec.engine.blend import Candidates
from steerec.engine.phi import Phi

Flags = NDArray[np.bool_]


def had_before(history: History, n_items: int) -> Flags:
    """(n_items,): items of the history."""
    had, items = np.zeros(n_items, bool), history.item_idx
    had[items[(items >= 0) & (items < n_items)]] = True  # a catalogue may have lost some
    return had


def with_own(
    part: Candidates, items: NDArray[np.int64], histories: Sequence[History], phi: Phi
) -> Candidates:
    """The same cases with items of one's own told apart, where θ has weights for them.

    Args:
        items: (n_cases, width), which items the candidates are.
    """
    if not phi.tells_own:
        return part
    own = [np.isin(row, h.item_idx) for row, h in zip(items, histories, strict=True)]
    return replace(part, own=np.stack(own), phi_own=phi.of_own(part.phi))


def joined_own(
    parts: Sequence[Candidates], pad: Callable[[Flags, float], Flags]
) -> tuple[Flags | None, NDArray[np.float64] | None]:
    """`own` and `phi_own` of all parts as one; None where they are not told apart."""
    own = [pad(part.own, 0) for part in parts if part.own is not None]
    more = [part.phi_own for part in parts if part.phi_own is not None]
    return (np.concatenate(own), np.concatenate(more)) if own else (None, None)
