"""What some items get beside the heads' weights: those without events, and those of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices
from steerec.engine.model import Model
from steerec.engine.own import Flags, had_before


@dataclass(frozen=True)
class Beside:
    """Weights that hold for some of a request's items only, by the strategy in force."""

    model: Model

    def had(self, history: History) -> Flags | None:
        """(n_items,): what the user had before; None where that makes no difference."""
        if not self.model.phi.tells_own:
            return None
        return had_before(history, self.model.data.n_items)

    def apart(self, had: Flags | None) -> Flags:
        """(n_items,): items whose score is more than Σ w z."""
        return self.model.unseen if had is None else self.model.unseen | had

    def nats(
        self,
        z: Floats,
        names: tuple[str, ...],
        items: Indices,
        phi: NDArray[np.float64],
        had: Flags | None,
    ) -> NDArray[np.float64]:
        """(n,): what these items get beside Σ w z.

        Args:
            z: (n_names, n) of the heads that answered.
        """
        extra = np.zeros(len(items))
        if self._any_unseen and len(new := np.flatnonzero(self.model.unseen[items])):
            more, nats = self.model.for_unseen
            extra[new] = self._of(more, names) @ z.take(new, axis=1) + nats
        if had is not None and len(own := np.flatnonzero(had[items])):
            extra[own] += self._of(self._for_own(phi), names) @ z.take(own, axis=1)
        return extra

    def weights(
        self,
        weights: NDArray[np.float64],
        names: tuple[str, ...],
        items: Indices,
        phi: NDArray[np.float64],
        history: History,
    ) -> NDArray[np.float64]:
        """(n_names,), or (n, n_names) where some of these items have weights of their own.

        Args:
            weights: (n_names,) of the request.
        """
        new = self.model.unseen[items] if self._any_unseen else np.zeros(len(items), bool)
        own = np.zeros(len(items), bool)
        if self.model.phi.tells_own:
            own = np.isin(items, history.item_idx)
        if not (new.any() or own.any()):
            return weights
        each = np.repeat(weights[None], len(items), axis=0)
        each[new] += self._of(self.model.for_unseen[0], names)
        each[own] += self._of(self._for_own(phi), names)
        return each

    def _for_own(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_heads,): weights that an item of one's own has more."""
        return np.asarray(self.model.strategy.theta @ self.model.phi.of_own(phi))

    def _of(self, numbers: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
        """The rows of these heads."""
        heads = self.model.strategy.heads
        return numbers if names == heads else numbers[[heads.index(name) for name in names]]

    @cached_property
    def _any_unseen(self) -> bool:
        return bool(self.model.unseen.any())
