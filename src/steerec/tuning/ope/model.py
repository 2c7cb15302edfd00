"""A reward model that never scores a slate it was fitted on.

Reward of item a at place j of request x: c_j · g(x, a), g = lowest + span · σ(β·[z ⊗ φ, φ]), with
c_1 = 1: a place multiplies what the item would earn at the top (position-based click model,
Richardson et al. 2007; Craswell et al. 2008). Fitted by least squares, so any bounded reward will
do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from steerec.tuning.ope.log import Array, Doubles, SlateLog, at, need_slates

PLACE_POWER = 0.7  # where fits start: c_j = 1 / j^0.7
MOST_SLATES = 20_000  # of each fit; more make it slower and hardly better
_RIDGE = 1.0  # on β of z for features of unit size, and on log c_j; in variances of a reward
_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Foretold:
    """What a reward model expects.

    Attributes:
        item: (n, n_pool) g of each item of the pool.
        place: (n, k) c of each place.
    """

    item: Array
    place: Doubles

    def of(self, slates: Array) -> Doubles:
        """Expected rewards of slates (n, k) or (n, draws, k); 0 for -1."""
        place = self.place if slates.ndim == 2 else self.place[:, None]
        found: Doubles = at(self.item, slates) * place
        return found


def foretell(log: SlateLog, rng: np.random.Generator, *, folds: int = 2) -> Foretold:
    """Foretell each slate by a model fitted on other users' slates.

    Raises:
        DataError: if the log is empty.
        ValueError: if there are fewer than two folds.
    Source: cross-fitting, Chernozhukov et al. 2018, sect. 3.
    """
    need_slates(log)
    if folds < 2:
        raise ValueError(f"folds is {folds}: expected 2 or more, so that none scores itself")
    fold = _folds(log, rng, folds)
    item = np.empty(log.z.shape[:2], np.float32)
    place = np.empty(log.shown.shape)
    for number in range(folds):
        here, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        model = _fit(log, rng.permutation(others)[:MOST_SLATES])
        item[here] = model.items(log.z[here], log.phi[here])
        place[here] = model.places
    return Foretold(item, place)


def _folds(log: SlateLog, rng: np.random.Generator, folds: int) -> Array:
    """(n,): the fold of each slate, the same for all slates of a user."""
    unit = np.arange(len(log)) if log.unit is None else log.unit
    names, number = np.unique(unit, return_inverse=True)
    return np.asarray(rng.permutation(len(names))[number] % folds)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    beta: Doubles  # (n_heads + 1, n_features): last row is φ alone
    places: Doubles
    lowest: float
    span: float

    def items(self, z: Array, phi: Array) -> Doubles:
        w = np.asarray(phi, np.float64) @ self.beta.T
        odds = np.einsum("nph,nh->np", z.astype(np.float32), w[:, :-1].astype(np.float32))
        return np.asarray(self.lowest + self.span * special.expit(odds + w[:, -1:]))


def _fit(log: SlateLog, slates: NDArray[np.int64]) -> _Model:
    """Fit on these slates; the mean reward where there is nothing to tell apart."""
    row, place = np.nonzero(log.filled[slates])
    row = slates[row]
    k, n_beta = log.shown.shape[1], (log.z.shape[2] + 1) * log.phi.shape[1]
    y = log.gained[row, place]
    lowest, span = (float(y.min()), float(np.ptp(y))) if len(y) else (0.0, 0.0)
    shape = (log.z.shape[2] + 1, log.phi.shape[1])
    if span == 0.0:
        return _Model(np.zeros(shape), np.ones(k), lowest, 0.0)
    x = _features(log, row, place)
    scale = np.maximum(np.sqrt(np.mean(x**2, axis=0)), 1e-6)
    prior = -PLACE_POWER * np.log(np.arange(2, k + 1))
    held = np.repeat(np.arange(shape[0]) < log.z.shape[2], log.phi.shape[1])  # φ alone is free
    task = _Task(x / scale, place, y, lowest, span, prior, _RIDGE * float(y.var()) * held)
    found = optimize.minimize(
        task.loss,
        np.concatenate([np.zeros(n_beta), prior]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-30, 30)] * n_beta + [(-8, 3)] * (k - 1),
        options={"maxiter": _STEPS},
    ).x
    places = np.exp(np.concatenate([[0.0], found[n_beta:]]))
    return _Model((found[:n_beta] / scale).reshape(shape), places, lowest, span)


def _features(log: SlateLog, row: Array, place: Array) -> Doubles:
    """(n_rows, (n_heads + 1) · n_features) of shown items."""
    z = log.z[row, log.shown[row, place]].astype(np.float64)
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    phi = np.asarray(log.phi[row], np.float64)
    return (z[:, :, None] * phi[:, None]).reshape(len(z), -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    x: Doubles
    place: Array
    y: Doubles
    lowest: float
    span: float
    prior: Doubles
    ridge: Doubles  # (d,)

    def loss(self, parameters: Doubles) -> tuple[float, Doubles]:
        """Mean squared error with ridge, and its gradient."""
        n, d = self.x.shape
        beta, log_c = parameters[:d], parameters[d:]
        c = np.exp(np.concatenate([[0.0], log_c]))[self.place]
        sigma = special.expit(self.x @ beta)
        g = self.lowest + self.span * sigma
        error = c * g - self.y
        off = log_c - self.prior
        stiff = _RIDGE * float(self.y.var())
        value = error @ error + self.ridge @ beta**2 + stiff * (off @ off)
        by_beta = self.x.T @ (2 * error * c * self.span * sigma * (1 - sigma))
        by_c = np.bincount(self.place, 2 * error * c * g, len(log_c) + 1)[1:]
        slope = np.concatenate([by_beta + 2 * self.ridge * beta, by_c + 2 * stiff * off])
        return float(value / n), slope / n
