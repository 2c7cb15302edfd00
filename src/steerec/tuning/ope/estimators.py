"""Estimators of what another policy would earn for a slate, each one weighting and one taming.

All have one form. Of slate i, with rewards r and the reward model's q at the shown items,

    v_i = b_i + Σ_j w_ij (r_ij - q_ij),    b_i = the model's expectation of the target's slate,

or without a model (b = q = 0). They differ in what w weighs (`WEIGHTS`) and how it is tamed. For a
model whose rewards add over places, cascade-DR's recursion over places telescopes to this form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from steerec.errors import DataError
from steerec.tuning.ope.log import Array, Doubles, SlateLog, TargetPolicy, need_slates
from steerec.tuning.ope.model import Foretold, foretell
from steerec.tuning.ope.softmax import softmax_policy

SELDOM = 1e-4  # an item the logging policy shows first less often is not supported
_LEAST = 1e-12  # of a propensity that was worked out and not logged
_MOST = 1e100  # of a weight; keeps sums finite
WEIGHTS = ("none", "slate", "prefix", "place", "cluster")
Kind = Literal["none", "slate", "prefix", "place", "cluster"]
Taming = Literal["none", "normalise", "switch", "shrink"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an estimator is made.

    Attributes:
        kind: what w_ij is the ratio of, target to logging: the whole slate's probability; that of
            the items down to place j (right if a reward depends on items above, not below); that of
            this item, or of its cluster, at this place whatever stands above (right if it depends
            on item, or cluster, and place only).
        model: whether it corrects the reward model.
        taming: `normalise` divides by the mean weight at each place, `switch` sets weights above
            the parameter to 0, `shrink` takes λw / (w² + λ).
    """

    kind: Kind
    model: bool = False
    taming: Taming = "none"


# DM, IPS, DR: Dudík et al. 2011. SNIPS: Swaminathan and Joachims 2015. Switch: Wang et al. 2017.
# Shrinkage (DRos): Su et al. 2020. RIPS: McInerney et al. 2020. cascade-DR: Kiyohara et al. 2022.
# MIPS: Saito and Joachims 2022, where the item at its place, or its cluster there, is the embedding
# of the slate down to it; for the item at its place also Li et al. 2018 (item-position model).
ESTIMATORS: Mapping[str, Recipe] = MappingProxyType(
    {
        "dm": Recipe("none", model=True),
        "ips": Recipe("slate"),
        "snips": Recipe("slate", taming="normalise"),
        "dr": Recipe("slate", model=True),
        "rips": Recipe("prefix", taming="normalise"),
        "cascade_dr": Recipe("prefix", model=True),
        "switch_dr": Recipe("prefix", model=True, taming="switch"),
        "dros": Recipe("prefix", model=True, taming="shrink"),
        "mips": Recipe("place"),
        "mips_cluster": Recipe("cluster"),
        "place_snips": Recipe("place", taming="normalise"),
        "place_dr": Recipe("place", model=True),
        "place_wdr": Recipe("place", model=True, taming="normalise"),
        "place_dros": Recipe("place", model=True, taming="shrink"),
        "cluster_dr": Recipe("cluster", model=True),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """A log made ready: what the reward model expects and what the logging policy does."""

    log: SlateLog
    foretold: Foretold
    logging: TargetPolicy | None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A target policy against the log.

    Attributes:
        direct: (n,) the model's expectation of its slates.
        weights: kind → (n, k); kinds that cannot be known are missing.
        unsupported: share of its places with an item that the log can say nothing of.
    """

    direct: Doubles
    weights: Mapping[str, Doubles]
    unsupported: float


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """The value of a policy: mean reward of a slate.

    Attributes:
        terms: (n,) their mean is the value, their spread its error (of a normalised estimator:
            its linearisation).
        ess: effective number of slates behind it, that of the place with the fewest.
        unsupported: as in Reading.
        parameter: of the taming; NaN where there is none.
        untamed: as terms, of the estimate that is neither tamed nor relies on a model; None: this
            one, or unknown.
    """

    name: str
    value: float
    terms: Doubles
    ess: float
    unsupported: float
    parameter: float = float("nan")
    untamed: Doubles | None = None


def prepare(log: SlateLog, rng: np.random.Generator, *, seed: int = 0) -> Evidence:
    """Fit the reward model and read the logging policy.

    Args:
        seed: of the draws; give the same to `softmax_policy` of the targets.
    Raises:
        DataError: if the log is empty.
    """
    need_slates(log)
    logging = None if log.scores is None else softmax_policy(log, log.scores, seed=seed)
    return Evidence(log, foretell(log, rng), logging)


def read(evidence: Evidence, target: TargetPolicy) -> Reading:
    """Weigh the log for a target policy.

    Raises:
        DataError: if a shape is not the log's or a probability is not within [0, 1].
    """
    log = evidence.log
    _check(log, target)
    ratio = np.where(log.filled, target.conditional, 1.0) / np.where(
        log.filled, log.propensity, 1.0
    )
    with np.errstate(over="ignore"):
        prefix = np.minimum(np.cumprod(ratio, axis=1), _MOST)
    weights = {"none": np.zeros_like(prefix), "prefix": prefix}
    weights["slate"] = np.broadcast_to(prefix[:, -1:], prefix.shape)
    for kind in ("place", "cluster"):
        wanted = getattr(target, kind)
        had = None if evidence.logging is None else getattr(evidence.logging, kind)
        if wanted is not None and had is not None:
            weights[kind] = wanted / np.maximum(had, _LEAST)
    weights = {kind: np.where(log.filled, w, 0.0) for kind, w in weights.items()}
    direct = evidence.foretold.of(target.drawn).sum(axis=2).mean(axis=1)
    return Reading(direct, weights, _unsupported(log, target))


def _unsupported(log: SlateLog, target: TargetPolicy) -> float:
    asked = np.broadcast_to(log.filled[:, None], target.drawn.shape)
    outside = target.drawn < 0
    if log.scores is not None:
        first = log.scores - log.scores.max(axis=1, keepdims=True)
        first = np.exp(first - np.log(np.exp(first).sum(axis=1, keepdims=True)))
        flat = np.maximum(target.drawn, 0).reshape(len(log), -1)
        shown_first = np.take_along_axis(first, flat, axis=1).reshape(outside.shape)
        outside = outside | (shown_first < SELDOM)
    return float(outside[asked].mean()) if asked.any() else 0.0


def estimate(
    name: str, evidence: Evidence, reading: Reading, *, parameter: float = np.inf
) -> Estimate:
    """Estimate the value of a policy by one estimator.

    Args:
        name: of ESTIMATORS.
        parameter: above 0, for `switch` and `shrink`; infinity leaves weights as they are.
    Raises:
        ValueError: if there is no such estimator, or the parameter is not above 0.
        DataError: if it needs weights that the log or the policy does not give.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator {name!r}: there are {', '.join(ESTIMATORS)}")
    if not parameter > 0:
        raise ValueError(f"parameter is {parameter}: expected above 0")
    recipe = ESTIMATORS[name]
    if recipe.kind not in reading.weights:
        raise DataError(
            f"{name} needs {recipe.kind} probabilities of both policies: log the scores of the "
            "pool (and clusters), or choose another estimator"
        )
    log = evidence.log
    weights = tamed(reading.weights[recipe.kind], recipe.taming, parameter)
    rest = log.gained - evidence.foretold.of(log.shown) if recipe.model else log.gained
    terms = _summed(weights, rest, log, normalise=recipe.taming == "normalise")
    if recipe.model:
        terms = terms + reading.direct
    return Estimate(
        name,
        float(terms.mean()),
        terms,
        effective_slates(weights, log),
        reading.unsupported,
        parameter if recipe.taming in ("switch", "shrink") else float("nan"),
    )


def tamed(weights: Doubles, taming: Taming, parameter: float) -> Doubles:
    """Weights made smaller where they are large; see Recipe."""
    if not np.isfinite(parameter):
        return weights
    if taming == "switch":
        return np.where(weights <= parameter, weights, 0.0)
    if taming == "shrink":  # as w / (1 + w² / λ), which does not overflow
        with np.errstate(over="ignore"):
            return np.asarray(weights / (1 + weights * (weights / parameter)))
    return weights


def _summed(weights: Doubles, rest: Doubles, log: SlateLog, *, normalise: bool) -> Doubles:
    """(n,) Σ_j w r; normalised: place by place the ratio of means, linearised."""
    if not normalise:
        summed: Doubles = np.einsum("nk,nk->n", weights, rest)
        return summed
    weights = weights / np.where(weights.max(axis=0) > 0, weights.max(axis=0), 1.0)
    total = weights.sum(axis=0)  # at least 1, or 0 where the target shows nothing of the log
    known = total > 0
    mean = np.divide((weights * rest).sum(axis=0), total, out=np.zeros_like(total), where=known)
    scale = np.divide(len(log), total, out=np.zeros_like(total), where=known)
    filled = log.filled.mean(axis=0)  # a place that few lists reach adds as much less
    return np.asarray(((weights * (rest - mean) * scale + mean) * filled).sum(axis=1))


def effective_slates(weights: Doubles, log: SlateLog) -> float:
    """(Σw)² / Σw² of the place where it is least, among places that at least half the lists reach.

    Source: Kish 1965. All slates for weights that are all 0 because nothing is weighed (dm: 0).
    """
    used = log.filled.mean(axis=0) >= 0.5
    w = weights[:, used] if used.any() else weights
    largest = w.max(axis=0)
    if (largest <= 0).any():
        return 0.0
    w = w / largest
    return float((w.sum(axis=0) ** 2 / (w**2).sum(axis=0)).min())


def _check(log: SlateLog, target: TargetPolicy) -> None:
    for name in ("conditional", "place", "cluster"):
        array: Array | None = getattr(target, name)
        if array is None:
            continue
        if array.shape != log.shown.shape:
            raise DataError(
                f"target policy: {name} has shape {array.shape}, expected {log.shown.shape}"
            )
        if not ((array[log.filled] >= 0) & (array[log.filled] <= 1 + 1e-9)).all():
            raise DataError(f"target policy: {name} is not within [0, 1] everywhere")
    if target.drawn.ndim != 3 or target.drawn[:, 0].shape != log.shown.shape:
        raise DataError(
            f"target policy: drawn has shape {target.drawn.shape}, expected (n, draws, k) for "
            f"shown {log.shown.shape}"
        )
