"""Likeness: items like an item by what the heads know of both, users like a user by their items."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from steerec.contracts import Floats, History
from steerec.engine.panel import Panel
from steerec.errors import DataError
from steerec.heads.contract import best

# One event alone scores below what the curves were fitted on, where they are flat. A history that
# repeats the item has the weight of a real one, so that the curves can tell its neighbours apart.
ECHO = 20
ITEM_HEADS = ("transitions", "autoregressive", "ease", "item_knn", "content")


@dataclass
class Likeness:
    """Neighbours of items and of users."""

    panel: Panel

    def items(self, item_idx: int, n: int, now: float) -> list[tuple[int, float]]:
        """At most `n` other items, each with the mean z of the item-to-item heads.

        The heads are asked with a history of this item alone; a head that does not know it has no
        say, so an item without events is compared by content alone. Empty if no head knows it.

        Raises:
            DataError: if the model has no head that compares items.
        """
        model = self.panel.model
        names = [name for name in ITEM_HEADS if name in model.heads]
        if not names:
            raise DataError(
                f"the model's heads {list(model.heads)} cannot compare items: "
                f"fit one of {', '.join(ITEM_HEADS)}"
            )
        started = self.panel.start(History.of([item_idx] * ECHO))
        states = {name: started[name] for name in names if name in started}
        raw = self.panel.score(states, None, now)
        length = np.array([ECHO])
        total, told = np.zeros(model.data.n_items), 0
        known = np.zeros(model.data.n_items, bool)
        for name, scores in raw.items():
            here = np.isfinite(scores)
            if here.any():
                total += model.calibrations[name](scores[None], length)[0]
                known |= here
                told += 1
        known[item_idx] = False
        scored = np.where(known, np.round(total / max(told, 1), 6), np.nan)
        return [(int(i), float(scored[i])) for i in best(scored.astype(np.float64), n)]

    def users(self, history: History, n: int) -> list[tuple[int, float]]:
        """At most `n` other users of the fitted data with shared items: cosine, rare items more."""
        liked = history.item_idx[history.weight > 0]
        if len(liked) == 0:
            return []
        matrix, rarity = self._users
        own = np.zeros(matrix.shape[1], np.float32)
        own[liked] = rarity[liked]
        alike = matrix @ (own / max(float(np.linalg.norm(own)), 1e-12))
        if history.user_idx >= 0:
            alike[history.user_idx] = 0.0
        scored = np.where(alike > 0, np.round(alike, 6), np.nan)
        return [(int(u), float(scored[u])) for u in best(scored, n)]

    @cached_property
    def _users(self) -> tuple[sparse.csr_matrix, Floats]:
        """Rows of unit length (n_users, n_items), and the rarity (n_items,) of each item."""
        matrix = self.panel.model.data.matrix()
        takers = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rarity = np.log1p(matrix.shape[0] / np.maximum(takers, 1)).astype(np.float32)
        matrix.data = matrix.data * rarity[matrix.indices]
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        each = np.repeat(np.maximum(length, 1e-12), np.diff(matrix.indptr))
        matrix.data = (matrix.data / each).astype(np.float32)
        return matrix, rarity
