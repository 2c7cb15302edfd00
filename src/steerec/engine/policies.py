"""Policies that do not learn: popularity, fixed blends, and the oracle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats
from steerec.engine.loop import Board, Served
from steerec.engine.model import UNSEEN_DIAL, Model
from steerec.engine.phi import UNSEEN_ITEM

Theta = NDArray[np.float64]


def blended(
    board: Board, weights: NDArray[np.float64], more: NDArray[np.float64], nats: float
) -> Floats:
    """(n, n_items) float32: Σ_k w_k z_k, and what items without events get beside.

    Args:
        weights: (n, n_heads).
        more: (n, n_heads) added to the weights for items without events.
    """
    w = weights.astype(np.float32)
    scores = np.zeros(board.z.shape[1:], np.float32)
    for row, z in enumerate(board.z):
        scores += w[:, row, None] * z
    if board.unseen.any():
        z = board.z[:, :, board.unseen]
        scores[:, board.unseen] += np.einsum("nh,hnm->nm", more.astype(np.float32), z) + nats
    return scores


@dataclass(frozen=True)
class Popularity:
    """The items with the most events of interest in the log, for everybody.

    Attributes:
        counts: (n_items,).
    """

    counts: NDArray[np.int64]
    name: str = "popularity"
    temperature: float = 0.0

    def weigh(self, board: Board) -> Floats:
        """See Policy."""
        return np.broadcast_to(self.counts.astype(np.float32), board.truth.shape)

    def learn(self, board: Board, served: Served) -> None:
        """See Policy: nothing."""

    def telling(self) -> Mapping[str, Any]:
        """See Policy: nothing."""
        return {}


@dataclass(frozen=True)
class Oracle:
    """The items each visitor really wants most now."""

    name: str = "oracle"
    temperature: float = 0.0

    def weigh(self, board: Board) -> Floats:
        """See Policy."""
        return board.truth

    def learn(self, board: Board, served: Served) -> None:
        """See Policy: nothing."""

    def telling(self) -> Mapping[str, Any]:
        """See Policy: nothing."""
        return {}


@dataclass(frozen=True)
class FixedBlend:
    """A blend whose θ stays, or changes once at half time.

    Attributes:
        theta: of each half of the run.
        nats: what an item without events gets beside.
        beside: whether items of one's own get what the model has for them.
    """

    name: str
    theta: tuple[Theta, Theta]
    unseen_column: int
    nats: float
    temperature: float
    beside: bool = True

    @classmethod
    def frozen(cls, model: Model, temperature: float) -> "FixedBlend":
        """The blend as it was fitted offline."""
        strategy = model.strategy
        column = strategy.features.index(UNSEEN_ITEM)
        nats = strategy.dials.get(UNSEEN_DIAL, 0.0)
        return cls("frozen", (strategy.theta, strategy.theta), column, nats, temperature)

    @classmethod
    def uniform(cls, model: Model, temperature: float) -> "FixedBlend":
        """Every head weighs the same for everybody."""
        theta = np.zeros_like(model.strategy.theta)
        theta[:, 0] = 1 / len(theta)
        column = model.strategy.features.index(UNSEEN_ITEM)
        return cls("uniform", (theta, theta), column, 0.0, temperature, beside=False)

    def weigh(self, board: Board) -> Floats:
        """See Policy."""
        theta = self.theta[int(board.progress >= 0.5)]
        more = np.broadcast_to(theta[:, self.unseen_column], (len(board.phi), len(theta)))
        scores = blended(board, board.phi @ theta.T, more, self.nats)
        return scores if board.beside is None or not self.beside else scores + board.beside

    def learn(self, board: Board, served: Served) -> None:
        """See Policy: nothing."""

    def telling(self) -> Mapping[str, Any]:
        """See Policy: nothing."""
        return {}
