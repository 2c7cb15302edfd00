"""May a proposed strategy replace the present one? Decided by the log, with the reason."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from steerec.tuning.ope.choice import automatic, bounds
from steerec.tuning.ope.estimators import Estimate, Evidence, Reading, prepare, read
from steerec.tuning.ope.interval import LEVEL, interval
from steerec.tuning.ope.log import Array, SlateLog, TargetPolicy


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """When the log is enough to decide.

    Attributes:
        level: of the interval.
        least_slates: effective slates below which a live ramp is asked for.
        most_unsupported: share of what the proposal would show that the log says nothing of.
        ramp_share: share of the traffic of such a ramp.
    """

    level: float = LEVEL
    least_slates: float = 1_000.0
    most_unsupported: float = 0.10
    ramp_share: float = 0.05

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of its range."""
        for name in ("level", "ramp_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected between 0 and 1")
        if self.least_slates < 0 or not 0 <= self.most_unsupported <= 1:
            raise ValueError(
                f"least_slates is {self.least_slates} and most_unsupported "
                f"{self.most_unsupported}: expected 0 or more, and a share"
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a proposal.

    Attributes:
        action: `promote`; `keep` the present strategy; or `ramp`: show the proposal to a small
            share of the traffic under a confidence sequence, because the log cannot tell.
        why: one sentence with the numbers.
        estimate: reward of a slate under the proposal less under the present strategy; without
            impressions the mean held-out log-likelihood it gains.
        interval: of the estimate.
        ess, unsupported: effective slates; share of the proposal's places without support.
        estimator: which one was chosen.
        share: of the traffic that should get the proposal.
    """

    action: Literal["promote", "keep", "ramp"]
    why: str
    estimate: float
    interval: tuple[float, float]
    ess: float
    unsupported: float
    estimator: str
    share: float


def gate(
    log: SlateLog | None,
    present: TargetPolicy | None,
    proposed: TargetPolicy | None,
    *,
    rng: np.random.Generator,
    held_out: Array | None = None,
    config: GateConfig | None = None,
) -> Decision:
    """Decide by the difference between two policies on the log.

    Args:
        log: what was shown; None or empty: nothing yet, and `held_out` decides.
        present, proposed: both read on the log.
        held_out: (n,) log-likelihood of each held-out case under the proposal less under the
            present strategy.
    Raises:
        DataError: if the policies do not fit the log.
        ValueError: if there are neither slates with both policies nor held-out cases.
    """
    config = config or GateConfig()
    if log is None or len(log) == 0:
        return _by_likelihood(held_out, config)
    if present is None or proposed is None:
        raise ValueError("the log holds slates: give what both policies would do in them")
    evidence = prepare(log, rng)
    return decide(evidence, read(evidence, present), read(evidence, proposed), config=config)


def decide(
    evidence: Evidence,
    present: Reading,
    proposed: Reading,
    *,
    config: GateConfig | None = None,
) -> Decision:
    """See gate; for many proposals on one log."""
    config = config or GateConfig()
    found = automatic(evidence, proposed, minus=present, model_alone=False)
    within = bounds(found, unit=evidence.log.unit, level=config.level)
    action, why = _judged(found, within, config)
    share = {"promote": 1.0, "keep": 0.0, "ramp": config.ramp_share}[action]
    value, low, high = float(found.value), float(within[0]), float(within[1])  # to be stored, sent
    ess, unsupported = float(found.ess), float(found.unsupported)
    return Decision(action, why, value, (low, high), ess, unsupported, found.name, share)


def _judged(
    found: Estimate, bounds: tuple[float, float], config: GateConfig
) -> tuple[Literal["promote", "keep", "ramp"], str]:
    if found.ess < config.least_slates:
        return "ramp", (
            f"the log stands for {found.ess:,.0f} slates of the proposal or the present strategy, "
            f"{config.least_slates:,.0f} are needed: "
            f"show the proposal to {config.ramp_share:.0%} first"
        )
    if found.unsupported > config.most_unsupported:
        return "ramp", (
            f"{found.unsupported:.0%} of what the proposal shows was hardly ever shown before, at "
            f"most {config.most_unsupported:.0%} may be: show it to {config.ramp_share:.0%} first"
        )
    gain = f"{found.value:+.4f} a slate, {config.level:.0%} interval {_words(bounds)}"
    if bounds[0] > 0:
        return "promote", f"better by {gain}, by {found.name}"
    return "keep", f"not surely better: {gain}, by {found.name}"


def _by_likelihood(held_out: Array | None, config: GateConfig) -> Decision:
    if held_out is None or len(held_out) == 0:
        raise ValueError("neither impressions nor held-out cases: nothing to decide by")
    if not np.isfinite(held_out).all():
        raise ValueError("held-out likelihoods are not finite: give log-probabilities above -inf")
    gain = np.asarray(held_out, np.float64)
    bounds = interval(gain, level=config.level)
    better = bounds[0] > 0
    why = (
        f"no impressions yet; on {len(gain):,} held-out cases the log-likelihood changes by "
        f"{gain.mean():+.4f}, {config.level:.0%} interval {_words(bounds)}"
    )
    return Decision(
        "promote" if better else "keep",
        why,
        float(gain.mean()),
        bounds,
        float(len(gain)),
        0.0,
        "held_out_likelihood",
        float(better),
    )


def _words(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
