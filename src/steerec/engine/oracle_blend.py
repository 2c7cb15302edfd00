"""The best θ there is for a phase of a world, fitted on its truth: what a tuner can hope for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from steerec.contracts import Floats
from steerec.engine.loop import Board, Served
from steerec.engine.policies import FixedBlend, Theta
from steerec.simulation.world import DRIFT_AT, examined

DEPTHS = (1, 2, 4, 7, 10)  # the weights of places, as a sum of "among the first k"
EVERY = 10  # of so many slates one is kept to be fitted on
SOFT_NATS = 0.1  # by how much an item may miss the first k and still count half as much
PULL = 0.02  # towards the offline θ, in clicks per slate and squared nat


@dataclass(eq=False)
class Watched:
    """A fixed blend that is watched, so that boards of both phases can be fitted on.

    Attributes:
        kept: of each phase the z (n_pool, n_heads), φ, offset and truth of single requests.
    """

    blend: FixedBlend
    kept: tuple[list[Any], list[Any]] = field(default_factory=lambda: ([], []))

    @property
    def name(self) -> str:
        """See Policy."""
        return self.blend.name

    @property
    def temperature(self) -> float:
        """See Policy."""
        return self.blend.temperature

    def weigh(self, board: Board) -> Floats:
        """See Policy."""
        return self.blend.weigh(board)

    def learn(self, board: Board, served: Served) -> None:
        """See Policy: keeps some of the boards."""
        scores = self.weigh(board)
        plain = np.einsum("nh,hnm->nm", board.phi @ self._theta(board).T, board.z)
        for row in range(0, len(board.visit), EVERY):
            pool = served.pool[row]
            pool = np.where(pool >= 0, pool, pool.max())
            self.kept[int(board.progress >= DRIFT_AT)].append(
                (
                    board.z[:, row, pool].T.astype(np.float32),
                    board.phi[row],
                    (scores[row, pool] - plain[row, pool]).astype(np.float32),
                    np.where(served.pool[row] >= 0, board.truth[row, pool], 0.0),
                    served.pool[row] >= 0,
                )
            )

    def telling(self) -> Mapping[str, Any]:
        """See Policy: nothing."""
        return {}

    def _theta(self, board: Board) -> Theta:
        return self.blend.theta[int(board.progress >= DRIFT_AT)]

    def best(self, name: str = "oracle_blend") -> FixedBlend:
        """The blend with θ fitted on each phase's truth, from where this one stands."""
        old = self.blend
        theta = (fit_best(self.kept[0], old.theta[0]), fit_best(self.kept[1], old.theta[1]))
        return FixedBlend(name, theta, old.unseen_column, old.nats, old.temperature)


def fit_best(kept: list[Any], start: Theta) -> Theta:
    """θ that puts on top what is clicked: the expected clicks of the best ten, made smooth."""
    if not kept:
        return start
    z, phi, offset, truth, real = (np.stack(part) for part in zip(*kept, strict=True))
    offset = np.where(real, offset, -1e3).astype(np.float64)
    depths = [k for k in DEPTHS if k < z.shape[1]]
    share = _shares(depths)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(start.shape)
        w = phi @ theta.T
        scores = np.einsum("nh,nph->np", w, z) + offset
        value, slope = 0.0, np.zeros_like(scores)
        for k, weight in zip(depths, share, strict=True):
            gain, by_score = _first(scores, truth, k)
            value += weight * gain
            slope += weight * by_score
        by_theta = np.einsum("np,nph->nh", slope, z).T @ phi / len(z)
        off = theta - start
        total = value / len(z) - PULL * float((off**2).sum())
        return -total, -(by_theta - 2 * PULL * off).ravel()

    found = optimize.minimize(
        loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    )
    return np.asarray(found.x, np.float64).reshape(start.shape)


def _shares(depths: list[int]) -> NDArray[np.float64]:
    """Weights of "among the first k" whose sums come nearest to 1/position^0.7."""
    steps = np.array([[float(place <= k) for k in depths] for place in range(1, 11)])
    found: NDArray[np.float64] = optimize.nnls(steps, examined(10))[0]
    return found


def _first(scores: NDArray[np.float64], truth: Floats, k: int) -> tuple[float, NDArray[np.float64]]:
    """Σ truth of the first k, smooth, over all requests, and its derivative by each score.

    An item counts σ((score - t) / SOFT_NATS), with t such that a request's items count k in all.
    """
    edge = -np.partition(-scores, (k - 1, k), axis=1)[:, k - 1 : k + 1]
    t = edge.mean(axis=1, keepdims=True)
    for _ in range(8):  # Newton; from the middle of the gap it takes few steps
        count = special.expit((scores - t) / SOFT_NATS)
        rise = (count * (1 - count)).sum(axis=1, keepdims=True) / SOFT_NATS
        t += np.clip((count.sum(axis=1, keepdims=True) - k) / np.maximum(rise, 1e-3), -0.5, 0.5)
    count = special.expit((scores - t) / SOFT_NATS)
    rise = count * (1 - count) / SOFT_NATS
    total = np.maximum(rise.sum(axis=1, keepdims=True), 1e-9)
    mean = (rise * truth).sum(axis=1, keepdims=True) / total  # what moves with t
    return float((count * truth).sum()), rise * (truth - mean)
