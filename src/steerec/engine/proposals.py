"""A search over strategies on the log: how far to go, and which heads to believe more."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.tuning.ope.choice import automatic
from steerec.tuning.ope.estimators import prepare, read
from steerec.tuning.ope.interval import standard_error
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import softmax_policy

log = logging.getLogger(__name__)

Theta = NDArray[np.float64]
LEAST_SLATES = 200  # fewer say nothing of single heads
FARTHEST = 2.0  # steps towards what was learnt
LOUDEST = 2.0  # factor of a head's weights, or one over it


def searched_theta(
    slates: SlateLog,
    scores: Callable[[Theta], NDArray[np.float64]],
    present: Theta,
    learnt: Theta,
    *,
    trials: int,
    rng: np.random.Generator,
) -> Theta | None:
    """The θ of the best lower bound among `trials`, by the log; None: none is above the present.

    Each is a step towards `learnt` with every head's weights made louder or quieter, as long as the
    present one. The slates were learnt from too, so that later ones must confirm what is found.

    Args:
        scores: θ → (n_slates, n_pool) score / temperature, -inf where there is no item.
    Source: the sampler is Optuna's TPE, Bergstra et al. 2011.
    """
    optuna = _optuna()
    if optuna is None or trials < 1 or len(slates) < LEAST_SLATES:
        return None
    evidence = prepare(slates, rng)
    before = read(evidence, softmax_policy(slates, scores(present)))
    n_heads, phi = len(present), slates.phi
    length = float(np.linalg.norm(phi @ present.T))
    seed = int(rng.integers(2**31))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def theta_of(step: float, factors: Sequence[float]) -> Theta:
        found = present + step * (learnt - present)
        found = found * np.exp2(np.array(factors))[:, None]
        has = float(np.linalg.norm(phi @ found.T))
        return found * (length / has) if has > 0 else present

    def worth(trial: Any) -> float:
        step = trial.suggest_float("step", 0.0, FARTHEST)
        most = float(np.log2(LOUDEST))
        factors = [trial.suggest_float(f"head{k}", -most, most) for k in range(n_heads)]
        after = read(evidence, softmax_policy(slates, scores(theta_of(step, factors))))
        found = automatic(evidence, after, minus=before, model_alone=False)
        return float(found.value - standard_error(found.terms, unit=slates.unit))

    study.enqueue_trial({"step": 1.0, **{f"head{k}": 0.0 for k in range(n_heads)}})
    study.optimize(worth, n_trials=trials)
    log.info("searched=%d best=%.5f", trials, study.best_value)
    if study.best_value <= 0:
        return None
    told = study.best_params
    return theta_of(told["step"], [told[f"head{k}"] for k in range(n_heads)])


def _optuna() -> Any:
    """Optuna; None where it is not installed, and then steps towards what was learnt are all."""
    try:
        import optuna
    except ImportError:
        log.warning("search=left_out reason=optuna: pip install 'steerec[search]'")
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
