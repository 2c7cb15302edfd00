"""A nonlinear factor model with attributes, fitted on a whole log: the truth of made-up worlds.

No head is of this family: a hidden layer over products of user and item factors, to which the
attributes of both add their part. NumPy alone, Adam, sampled negatives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, Indices

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of the fit."""

    factors: int = 24
    hidden: int = 16
    epochs: int = 8
    batch: int = 4_096
    negatives: int = 4  # drawn items for each event
    rate: float = 0.01
    start: float = 0.05  # standard deviation of the first factors: noise that is never unlearnt
    l2: float = 3e-3  # of the factors at each step, decoupled from the gradient


@dataclass(frozen=True)
class Log:
    """What the truth is fitted on.

    Attributes:
        user, item: (n_events,) int32.
        liked: (n_events,) float32, 1 for events of interest, 0 for the contrary.
        user_attributes: (n_users, n_user_attributes) float32.
        item_attributes: (n_items, n_item_attributes) float32.
    """

    user: Indices
    item: Indices
    liked: Floats
    user_attributes: Floats
    item_attributes: Floats


@dataclass(frozen=True)
class Network:
    """logit(u, i) = b_i + cᵀ tanh(M (p_u ∘ q_i) + m), p = P + attributes A, q = Q + attributes B.

    Attributes:
        weights: P (n_users, factors), Q (n_items, factors), A, B (n_attributes, factors), M
            (factors, hidden), m and c (hidden,), b (n_items,).
    """

    weights: Weights

    def users(self, attributes: Floats) -> Floats:
        """(n_users, factors) float32 p of all users with these attributes."""
        return np.asarray(self.weights["P"] + attributes @ self.weights["A"])

    def items(self, attributes: Floats) -> Floats:
        """(n_items, factors) float32 q of all items with these attributes."""
        return np.asarray(self.weights["Q"] + attributes @ self.weights["B"])

    def logits(self, users: Floats, items: Floats) -> Floats:
        """(n, n_items) float32 for p of some users and q of all items."""
        out = np.empty((len(users), len(items)), np.float32)
        for row, user in enumerate(users):
            h = np.tanh(items @ (user[:, None] * self.weights["M"]) + self.weights["m"])
            out[row] = h @ self.weights["c"] + self.weights["b"]
        return out


def fit_network(
    log: Log,
    config: NetworkConfig,
    rng: np.random.Generator,
    watch: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Network:
    """Fit on events against drawn items, by cross-entropy."""
    weights = _begin(log, config, rng)
    moments = {n: (np.zeros_like(x), np.zeros_like(x)) for n, x in weights.items()}
    step, n = 0, len(log.user)
    for epoch in range(config.epochs):
        watch("fit the truth", epoch, config.epochs)
        order = rng.permutation(n)
        rate = config.rate * (1 - epoch / config.epochs)
        for start in range(0, n, config.batch):
            step += 1
            rows = order[start : start + config.batch]
            drawn = rng.integers(0, len(log.item_attributes), (config.negatives, len(rows)))
            user = np.tile(log.user[rows], config.negatives + 1)
            item = np.concatenate([log.item[rows], drawn.ravel()])
            label = np.concatenate([log.liked[rows], np.zeros(drawn.size, np.float32)])
            slopes = _slopes(weights, log, user, item, label)
            _adam(weights, slopes, moments, step, rate, config.l2)
    return Network(weights)


def _begin(log: Log, config: NetworkConfig, rng: np.random.Generator) -> Weights:
    def small(*shape: int) -> Floats:
        drawn: Floats = rng.normal(0, config.start, shape).astype(np.float32)
        return drawn

    mixed = (config.factors, config.hidden)
    n_users, n_items = len(log.user_attributes), len(log.item_attributes)
    liked = np.bincount(log.item, log.liked, n_items) + 1.0
    return {
        "P": small(n_users, config.factors),
        "Q": small(n_items, config.factors),
        "A": small(log.user_attributes.shape[1], config.factors),
        "B": small(log.item_attributes.shape[1], config.factors),
        "M": np.eye(config.factors, config.hidden, dtype=np.float32) + small(*mixed),
        "m": np.zeros(config.hidden, np.float32),
        "c": np.ones(config.hidden, np.float32),
        "b": (np.log(liked / liked.mean()) - 1.5).astype(np.float32),
    }


def _slopes(
    weights: Weights, log: Log, user: Indices, item: NDArray[np.int64], label: Floats
) -> Weights:
    """Gradient of the mean cross-entropy by each weight."""
    about_user, about_item = log.user_attributes[user], log.item_attributes[item]
    p = weights["P"][user] + about_user @ weights["A"]
    q = weights["Q"][item] + about_item @ weights["B"]
    h = np.tanh((p * q) @ weights["M"] + weights["m"])
    logit = h @ weights["c"] + weights["b"][item]
    off = (1 / (1 + np.exp(-logit)) - label) / np.float32(len(label))
    inner = off[:, None] * weights["c"] * (1 - h * h)
    product = inner @ weights["M"].T
    dp, dq = product * q, product * p
    return {
        "P": _summed(dp, user, len(weights["P"])),
        "Q": _summed(dq, item, len(weights["Q"])),
        "A": about_user.T @ dp,
        "B": about_item.T @ dq,
        "M": (p * q).T @ inner,
        "m": inner.sum(axis=0),
        "c": h.T @ off,
        "b": np.bincount(item, off, len(weights["b"])).astype(np.float32),
    }


def _summed(rows: Floats, to: NDArray[np.integer], n: int) -> Floats:
    """(n, d): rows added up by where they belong."""
    ones = np.ones(len(to), np.float32)
    belong = sparse.csr_matrix((ones, (to, np.arange(len(to)))), shape=(n, len(to)))
    return np.asarray(belong @ rows)


def _adam(
    weights: Weights,
    slopes: Weights,
    moments: dict[str, tuple[Floats, Floats]],
    step: int,
    rate: float,
    l2: float,
) -> None:
    """One step, in place. Source: Kingma and Ba 2015, algorithm 1."""
    for name, slope in slopes.items():
        mean, square = moments[name]
        mean += 0.1 * (slope - mean)
        square += 0.001 * (slope * slope - square)
        move = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weights[name] -= np.float32(rate) * move
        if name in ("P", "Q"):
            weights[name] *= np.float32(1 - l2)
