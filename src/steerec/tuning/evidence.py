"""How sure the prior is: found from what came of the slates, instead of a number somebody chose."""

from collections.abc import Callable

import numpy as np
from scipy import linalg

from steerec.tuning.observed import Doubles

STEP = 2.0  # by how much a scale is tried to be larger, or smaller
MOST = 4_096.0  # no scale above it, or below one over it


def log_evidence(precision: Doubles, curvature: Doubles, gradient: Doubles) -> float:
    """Log of how likely the rewards are under this prior, but for a constant, in nats.

    Args:
        precision: (size, size) of the prior.
        curvature: (size, size) of the rows' log-likelihood.
        gradient: (size,) of it, at the prior's mean.
    Source: MacKay 1992, "Bayesian interpolation", section 4, for a quadratic log-likelihood.
    """
    both = linalg.cholesky(precision + curvature, lower=True)
    prior = linalg.cholesky(precision, lower=True)
    told = linalg.solve_triangular(both, gradient, lower=True)
    return float(0.5 * told @ told + np.log(np.diag(prior)).sum() - np.log(np.diag(both)).sum())


def likelier(
    scales: Doubles, build: Callable[[Doubles], Doubles], curvature: Doubles, gradient: Doubles
) -> Doubles:
    """The scales after one step of each towards where the rewards are likelier. O(size³) a step.

    Args:
        scales: (n_groups,), above 0.
        build: scales → the prior's precision (size, size).
    """
    found = scales.copy()
    best = log_evidence(build(found), curvature, gradient)
    for group in range(len(found)):
        for factor in (STEP, 1 / STEP):
            tried = found.copy()
            tried[group] = np.clip(tried[group] * factor, 1 / MOST, MOST)
            value = log_evidence(build(tried), curvature, gradient)
            if value > best:
                found, best = tried, value
                break
    return found
