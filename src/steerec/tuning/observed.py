"""What a tuner reads and gives: items that were shown with their rewards, and epochs of θ."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

MOST_Z = 12.0  # calibrated scores lie within; others are damaged or of a head gone wild
MOST_PHI = 100.0  # features are of the size of 1
MOST_LOG_ODDS = 30.0
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """Shown items, one a row, once it is known what came of them.

    Attributes:
        z: (n, n_heads) calibrated scores.
        phi: (n, n_features) context.
        position: (n,) place in the list, from 1.
        reward: (n,) within [-1, 1], 1 = all that was hoped for; in an amendment the difference.
        weight: (n,) how much each row counts, at most 1; set below 1 by the guard's allowance.
        extra: (n,) log-odds that the shared model does not hold, such as a personal offset.
    """

    z: NDArray[Any]
    phi: NDArray[Any]
    position: NDArray[Any]
    reward: NDArray[Any]
    weight: NDArray[Any] = field(default_factory=lambda: np.ones(1))
    extra: NDArray[Any] = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        n = len(self.z)
        for name in ("weight", "extra"):
            object.__setattr__(self, name, np.broadcast_to(getattr(self, name), (n,)))
        if not len(self.phi) == len(self.position) == len(self.reward) == n:
            raise ValueError(
                f"rows differ: z {n}, phi {len(self.phi)}, position {len(self.position)}, "
                f"reward {len(self.reward)}"
            )

    def __len__(self) -> int:
        return len(self.z)

    @classmethod
    def slate(cls, z: NDArray[Any], phi: NDArray[Any], reward: NDArray[Any]) -> "Observed":
        """One list from its first place on: z (k, n_heads), φ (n_features,), reward (k,)."""
        rows = np.broadcast_to(phi, (len(z), len(phi)))
        return cls(z, rows, np.arange(1, len(z) + 1), reward)

    @classmethod
    def together(cls, parts: Sequence["Observed"]) -> "Observed":
        """The rows of all parts, in order.

        Raises:
            ValueError: if there is no part.
        """
        names = ("z", "phi", "position", "reward", "weight", "extra")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def sound(self, *, most_reward: float = 1.0) -> "Observed":
        """The rows that can be learnt from, as float64, all numbers cut to their ranges.

        A row with a number that is not finite, a place below 1 or a weight below 0 is left out.
        """
        z, phi = np.asarray(self.z, np.float64), np.asarray(self.phi, np.float64)
        rest = np.stack([self.position, self.reward, self.weight, self.extra]).astype(np.float64)
        good = np.isfinite(z).all(axis=1) & np.isfinite(phi).all(axis=1)
        good &= np.isfinite(rest).all(axis=0) & (rest[0] >= 1) & (rest[2] >= 0)
        if not good.all():
            z, phi, rest = z[good], phi[good], rest[:, good]
        return Observed(
            np.clip(z, -MOST_Z, MOST_Z),
            np.clip(phi, -MOST_PHI, MOST_PHI),
            np.minimum(rest[0], 1e6).astype(np.int64),
            np.clip(rest[1], -most_reward, most_reward),
            np.minimum(rest[2], 1.0),
            np.clip(rest[3], -MOST_LOG_ODDS, MOST_LOG_ODDS),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Epoch:
    """A published state of the tuner: P(click) = σ(γ·wᵀz + b_position + b_context), w = θφ.

    Attributes:
        number: of the epoch, on top of the promoted strategy, which is epoch 0.
        theta: (n_heads, n_features).
        b_position: (n_positions,) log-odds of each place; places beyond share the last.
        b_context: (n_features,), b_context·φ is the log-odds of the context.
        made: Unix seconds.
        learnt: (n_heads, n_features) θ before the guard held it, which clicks are foretold with;
            None: nothing was held.
    """

    number: int
    theta: Doubles
    gamma: float
    b_position: Doubles
    b_context: Doubles
    made: float
    learnt: Doubles | None = None

    @property
    def believed(self) -> Doubles:
        """(n_heads, n_features) θ that clicks are foretold with."""
        return self.theta if self.learnt is None else self.learnt

    def log_odds(self, observed: Observed) -> Doubles:
        """(n,) of a reward of 1 against 0 at each row."""
        w = observed.phi @ self.believed.T
        place = np.minimum(observed.position, len(self.b_position)) - 1
        score: Doubles = self.gamma * np.einsum("nh,nh->n", w, observed.z)
        rest = self.b_position[place] + observed.phi @ self.b_context + observed.extra
        return np.asarray(score + rest, np.float64)

    def click(self, observed: Observed) -> Doubles:
        """(n,) foretold reward, a probability."""
        return np.asarray(special.expit(self.log_odds(observed)), np.float64)


class Tuner(Protocol):
    """Moves θ by what came of shown items."""

    @property
    def epoch(self) -> Epoch:
        """The epoch in force."""
        ...

    def observe(self, observed: Observed) -> None:
        """Take in rows; changes nothing that is served until `publish`."""
        ...

    def publish(self, now: float) -> Epoch:
        """The epoch to serve from `now` (Unix seconds) on."""
        ...
