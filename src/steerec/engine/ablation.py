"""Ablation: what the blend would be without one of its heads, each head fitted once."""

from dataclasses import replace

import numpy as np

from steerec.engine.blend import BlendConfig, Examples, fit_weights
from steerec.engine.model import UNSEEN_DIAL, Model


def without_each(model: Model, examples: Examples, config: BlendConfig) -> dict[str, Model]:
    """Head → the model with weights fitted anew as if there were no such head.

    Heads and calibrations are those of `model`, and the head left out weighs 0. Empty where there
    is one head only. Cost: one fit of the weights for each head.
    """
    found: dict[str, Model] = {}
    for name in model.heads if len(model.heads) > 1 else ():
        theta, nats = fit_weights(examples.without(name), config)
        theta = np.insert(theta, examples.heads.index(name), 0.0, axis=0)
        dials = {**model.strategy.dials, UNSEEN_DIAL: nats}
        found[name] = replace(model, strategy=replace(model.strategy, theta=theta, dials=dials))
    return found
