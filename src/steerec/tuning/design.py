"""Which numbers the learner may move, and the row x of each shown item."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import OWN
from steerec.errors import ConfigError
from steerec.tuning.observed import Doubles, Epoch, Observed

MOST_DIMS = 256
# What is worth learning online first; a column of no kind named here comes last.
KINDS = (
    "bias",
    "scenario=",
    "length~",
    "device=",
    "unseen_item",
    "since_",
    "gap~",
    "day_",
    "taste",
)


def choose_columns(
    features: Sequence[str], n_heads: int, *, n_positions: int, most: int = MOST_DIMS
) -> tuple[int, ...]:
    """The columns of φ that are learnt online, as many as `most` numbers allow, in their order.

    Nothing is projected: a column left out keeps the weights of the offline fit, as do those of
    items of one's own, which the log holds as nats beside.

    Raises:
        ConfigError: if not even one column has room.
    """
    room = (most - n_positions) // (n_heads + 1)  # a column has n_heads weights and a b_context
    if room < 1:
        raise ConfigError(
            f"tuning: {n_heads} heads and {n_positions} places need more than {most} numbers; "
            "use fewer heads or fewer places"
        )
    learnt = [c for c in range(len(features)) if not features[c].startswith(OWN)]
    order = sorted(learnt, key=lambda column: _kind(features[column]))
    return tuple(sorted(order[:room]))


def _kind(name: str) -> int:
    return next((i for i, kind in enumerate(KINDS) if name.startswith(kind)), len(KINDS))


@dataclass(frozen=True)
class Design:
    """The learnt vector β = (u, b_position, b_context of the columns), with u = γθ of the columns.

    In u the log-odds are linear and the loss convex. Learning γ and θ apart is not: where scores
    come to tell the wrong way γ goes to 0, and with it all that could teach θ better.

    Attributes:
        columns: of φ, those that are learnt.
        n_positions: places with a b_position of their own; later ones share the last.
    """

    n_heads: int
    n_features: int
    columns: tuple[int, ...]
    n_positions: int = 10

    def __post_init__(self) -> None:
        if not self.columns or not set(self.columns) <= set(range(self.n_features)):
            raise ValueError(f"columns {self.columns} of {self.n_features} features")
        if self.size > MOST_DIMS:
            raise ConfigError(f"tuning: {self.size} numbers to learn, at most {MOST_DIMS}")

    @property
    def n_theta(self) -> int:
        """Length of u."""
        return self.n_heads * len(self.columns)

    @property
    def size(self) -> int:
        """Length of β."""
        return self.n_theta + self.n_positions + len(self.columns)

    @property
    def theta(self) -> slice:
        """Where u stands in β: head by head."""
        return slice(0, self.n_theta)

    @property
    def position(self) -> slice:
        """Where b_position stands in β."""
        return slice(self.n_theta, self.n_theta + self.n_positions)

    @property
    def context(self) -> slice:
        """Where b_context stands in β."""
        return slice(self.n_theta + self.n_positions, self.size)

    def pack(self, epoch: Epoch) -> Doubles:
        """(size,): β of an epoch."""
        columns = list(self.columns)
        u, context = epoch.gamma * epoch.believed[:, columns].ravel(), epoch.b_context[columns]
        return np.concatenate([u, epoch.b_position, context])

    def unpack(self, beta: Doubles, base: Epoch, *, number: int, made: float) -> Epoch:
        """The epoch with this β and the γ of `base`; so are columns that are not learnt."""
        theta, context = base.theta.copy(), base.b_context.copy()
        columns = list(self.columns)
        theta[:, columns] = beta[self.theta].reshape(self.n_heads, -1) / base.gamma
        context[columns] = beta[self.context]
        return Epoch(number, theta, base.gamma, beta[self.position].copy(), context, made)

    def rows(self, observed: Observed, epoch: Epoch) -> tuple[Doubles, Doubles]:
        """Rows x (n, size), the gradient of the log-odds in β at the epoch; the log-odds (n,)."""
        n, columns = len(observed), list(self.columns)
        phi = observed.phi[:, columns]
        x = np.zeros((n, self.size))
        x[:, self.theta] = (observed.z[:, :, None] * phi[:, None, :]).reshape(n, -1)
        place = np.minimum(observed.position, self.n_positions) - 1
        x[np.arange(n), self.position.start + place] = 1.0
        x[:, self.context] = phi
        return x, epoch.log_odds(observed)


def softmax_precision(
    design: Design, theta: Doubles, z: Doubles, phi: Doubles, log_weight: Doubles
) -> NDArray[np.float64]:
    """How sure the offline fit of θ is: the second derivative of its loss, summed over cases.

    Args:
        z: (n_cases, width, n_heads) candidates of each case.
        phi: (n_cases, n_features).
        log_weight: (n_cases, width), -inf where there is no candidate.
    Returns:
        (n_theta, n_theta) in nats⁻²; positive semi-definite.
    Source: multinomial logit, McFadden 1974.
    """
    columns = list(design.columns)
    found = np.zeros((design.n_theta, design.n_theta))
    for scores, context, candidates in zip(z, phi, log_weight, strict=True):
        logits = scores @ (theta @ context) + candidates
        p = np.exp(logits - logits.max())
        p /= p.sum()
        spread = (scores * p[:, None]).T @ scores - np.outer(p @ scores, p @ scores)
        found += np.kron(spread, np.outer(context[columns], context[columns]))
    return found
