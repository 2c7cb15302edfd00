"""One small fitted model for the tests of the engine, made once a run."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np

from steerec.engine.blend import BlendConfig
from steerec.engine.calibrate import CalibrationConfig
from steerec.engine.model import FitConfig, fit
from steerec.engine.recommender import Recommender
from worlds import shop

HEADS = ("trending", "repeat", "transitions", "ease", "item_knn", "als", "content")


@cache
def world():
    return shop(n_users=120, n_items=60, events_each=20)


def refitted():
    """A model of its own, for tests whose events its heads count."""
    config = FitConfig(
        heads=HEADS,
        settings={"als": {"factors": 8, "iterations": 3, "threads": 1}},
        calibration=CalibrationConfig(targets_per_bin=10),
        blend=BlendConfig(top=40, drawn=40),
    )
    return fit(world().data, config, np.random.default_rng(0))


@cache
def model():
    """The one that all other tests share."""
    return refitted()


def own():
    """A copy of the shared one, for tests whose events its heads count."""
    return copy.deepcopy(model())


def counted():
    """What the shared model's heads have counted; None before it is made."""
    if not model.cache_info().currsize:
        return None
    heads = model().heads
    return heads["trending"].counts.sum(), heads["transitions"].out.sum()


def recommender(seed=0, **changes):
    return Recommender(replace(model(), **changes), np.random.default_rng(seed))
