"""Likeness: items like an item by what the heads know of both, users like a user by their items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from steerec.contracts import Floats, History
from steerec.data.dataset import liked
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

    def users(
        self,
        user_id: str,
        history: History,
        n: int,
        live: Mapping[str, History],
        *,
        gone: frozenset[int] = frozenset(),
    ) -> list[tuple[str, float]]:
        """At most `n` other users with shared items: id and cosine, rare items more.

        Args:
            live: user_id → all events, of users who did something since the fit; they stand
                for those users' rows in the fitted data.
            gone: rows of the fitted data whose users were forgotten.
        """
        matrix, rarity = self._fitted
        own = _unit_rows(_liked([history], len(rarity)), rarity)
        if own.nnz == 0:
            return []
        names = list(live)
        theirs = _unit_rows(_liked(list(live.values()), len(rarity)), rarity)
        alike = np.concatenate([(m @ own.T).toarray().ravel() for m in (matrix, theirs)])
        replaced = [h.user_idx for h in (history, *live.values()) if h.user_idx >= 0]
        alike[[*replaced, *gone]] = 0.0
        if user_id in live:
            alike[matrix.shape[0] + names.index(user_id)] = 0.0
        scored = np.where(alike > 0, np.round(alike, 6), np.nan)
        user_ids = self.panel.model.data.user_ids
        return [
            (str(user_ids[u] if u < len(user_ids) else names[u - len(user_ids)]), float(scored[u]))
            for u in best(scored, n)
        ]

    @cached_property
    def _fitted(self) -> tuple[sparse.csr_matrix, Floats]:
        """Rows of unit length (n_users, n_items), and the rarity (n_items,) of each item."""
        matrix = self.panel.model.data.matrix()
        takers = np.bincount(matrix.indices, minlength=matrix.shape[1])
        rarity = np.log1p(matrix.shape[0] / np.maximum(takers, 1)).astype(np.float32)
        return _unit_rows(matrix, rarity), rarity


def _liked(histories: Sequence[History], n_items: int) -> sparse.csr_matrix:
    """(n_histories, n_items): as Dataset.matrix."""
    if not histories:
        return sparse.csr_matrix((0, n_items), dtype=np.float32)
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    items = np.concatenate([h.item_idx for h in histories])
    weights = np.concatenate([h.weight for h in histories])
    return liked(weights, rows, items, (len(histories), n_items))


def _unit_rows(matrix: sparse.csr_matrix, rarity: Floats) -> sparse.csr_matrix:
    """The rows, each item by its rarity, at length 1."""
    weighed = matrix.multiply(rarity).tocsr()
    length = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    each = np.repeat(np.maximum(length, 1e-12), np.diff(weighed.indptr))
    weighed.data = (weighed.data / each).astype(np.float32)
    return weighed
