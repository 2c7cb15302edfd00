"""The weights of the heads, what each has to say by them, and which do not help."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steerec.engine.blend import (
    BlendConfig,
    Candidates,
    Examples,
    fit_theta,
    fit_weights,
    losses,
    of_seen,
)
from steerec.engine.phi import UNSEEN_ITEM

log = logging.getLogger(__name__)

LEAST_SAY = 0.01  # share of the spread of the scores below which a head carries no weight
LEAST_GAIN = 0.001  # nats a held-out case that a head must bring


@dataclass(frozen=True)
class Weights:
    """What the fit of the weights comes to.

    Attributes:
        heads: names of those that are kept.
        theta: (n_heads, n_features).
        unseen_nats: what an item without events gets beside what heads say of it.
        say: head → its share of the spread of the scores, where it has most; 0 if it was left out.
    """

    heads: tuple[str, ...]
    theta: NDArray[np.float64]
    unseen_nats: float
    say: Mapping[str, float]


def weigh(
    examples: Examples,
    config: BlendConfig,
    learnt_from: Callable[[Examples], object] = lambda _: None,
    *,
    drop_idle: bool = False,
) -> Weights:
    """Fit the weights, of the heads that help alone if `drop_idle`.

    Args:
        learnt_from: told what they were fitted on.
    """
    everyone = examples.heads
    for name, nats in gains(examples, config).items() if drop_idle else ():
        if nats < LEAST_GAIN:
            log.info("head left out: it does not help: head=%s nats=%.5f", name, nats)
            examples = examples.without(name)
    theta, unseen_nats = fit_weights(examples, config)
    learnt_from(examples)
    say = {**dict.fromkeys(everyone, 0.0), **says(examples, theta)}
    return Weights(examples.heads, theta, unseen_nats, say)


def says(examples: Examples, theta: NDArray[np.float64]) -> dict[str, float]:
    """Head → its share of the spread of the scores within a case, where it is greatest.

    Looked at are held-out cases, newcomers, items never seen, and items of one's own.
    """
    usual = _shares(of_seen(examples.held_out), theta)
    share = np.maximum(usual, _apart(examples, theta))
    return dict(zip(examples.heads, share.tolist(), strict=True))


def gains(examples: Examples, config: BlendConfig) -> dict[str, float]:
    """Head → nats that it brings on a held-out case, beside the heads that are kept.

    The weights are fitted on every other case and measured on those between, and the other way
    round. Heads are taken out one after the other, the least useful first, as long as that costs
    less than LEAST_GAIN; what one brings is measured when its turn comes. One without a say brings
    nothing, and one that speaks to newcomers or of items never seen brings what is not measured
    here: infinite.
    """
    theta, _ = fit_weights(examples, config)
    say, apart = says(examples, theta), _apart(examples, theta)
    found = {n: 0.0 for n in examples.heads if say[n] < LEAST_SAY}
    found |= {n: np.inf for n, s in zip(examples.heads, apart, strict=True) if s >= LEAST_SAY}
    left = examples
    for name in (name for name, nats in found.items() if nats == 0.0 and len(left.heads) > 1):
        left = left.without(name)
    loss = _held_out_loss(left, config)
    first = {n: _held_out_loss(left.without(n), config) for n in left.heads if n not in found}
    changed = False
    for name in sorted(first, key=lambda name: first[name]):
        if len(left.heads) == 1:
            found[name] = np.inf
            break
        less = left.without(name)
        without = _held_out_loss(less, config) if changed else first[name]
        found[name] = without - loss
        if found[name] < LEAST_GAIN:
            left, loss, changed = less, without, True
    return {name: found[name] for name in examples.heads}


def _apart(examples: Examples, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_heads,): each one's share among newcomers, items never seen, and items of one's own."""
    cases = examples.held_out
    hidden = np.where(cases.unseen, cases.log_weight, -np.inf).astype(np.float32)
    phi = cases.phi.copy()
    phi[:, examples.features.index(UNSEEN_ITEM)] = 1.0
    unseen = _shares(replace(cases, log_weight=hidden, phi=phi, own=None), theta)
    found = np.maximum(_shares(of_seen(examples.newcomers), theta), unseen)
    if cases.own is None or cases.phi_own is None:
        return found
    others = np.where(cases.own, cases.log_weight, -np.inf).astype(np.float32)
    both = replace(cases, log_weight=others, phi=cases.phi + cases.phi_own, own=None)
    return np.maximum(found, _shares(of_seen(both), theta))


def _shares(candidates: Candidates, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_heads,): mean spread of w z within a case, as a share of all heads'."""
    shown = np.isfinite(candidates.log_weight)
    if not shown.any():
        return np.zeros(len(theta))
    one, z = shown.astype(np.float32), candidates.z
    n = np.maximum(shown.sum(axis=1), 1)[:, None]
    mean = np.einsum("cw,cwh->ch", one, z) / n
    square = np.einsum("cw,cwh,cwh->ch", one, z, z) / n
    spread = np.sqrt(np.maximum(square - mean**2, 0.0)) * np.abs(candidates.phi @ theta.T)
    total = spread.mean(axis=0)
    return np.asarray(total / max(total.sum(), 1e-12))


def _held_out_loss(examples: Examples, config: BlendConfig) -> float:
    """Mean nats of each half of the cases by weights fitted on the other half."""
    candidates, found = of_seen(examples.held_out), []
    for half in (0, 1):
        theta = fit_theta(candidates.take(slice(half, None, 2)), config)
        found.append(losses(candidates.take(slice(1 - half, None, 2)), theta))
    told = np.concatenate(found)
    return float(told.mean()) if len(told) else 0.0
