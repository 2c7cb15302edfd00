"""A model of nothing: what serves before there are events to fit anything on."""

import numpy as np
import polars as pl

from steerec.contracts import Strategy
from steerec.data.dataset import Dataset
from steerec.engine.calibrate import Calibration, Curve
from steerec.engine.model import UNSEEN_DIAL, Model
from steerec.engine.phi import Phi, PhiConfig
from steerec.errors import DataError
from steerec.heads.content import Content, ContentConfig
from steerec.heads.contract import Head
from steerec.heads.trending import Trending, TrendingConfig

LIKENESS_NATS = 4.0  # z of a text that is as like as can be: about what fits on real sets give
REACH = 25.0  # scores within so many units of 0 are mapped exactly


def model_of_nothing(
    items: pl.DataFrame | None = None, *, clock: float, config: PhiConfig
) -> Model:
    """A model that knows items at most, and learns what is popular from events as they come.

    Args:
        items: a table with `item_id`; None: none yet.
        clock: Unix seconds, now.
    """
    items = pl.DataFrame({"item_id": pl.Series([], dtype=pl.String)}) if items is None else items
    return model_without_events(_no_events(items), clock=clock, config=config)


def model_without_events(
    data: Dataset, *, clock: float, config: PhiConfig, trending: Head | None = None
) -> Model:
    """The same for a catalogue whose texts may be encoded.

    Args:
        trending: what was counted live until now, as long as the catalogue; None: nothing yet.
    """
    heads: dict[str, Head] = {"trending": trending or _trending(data.n_items, clock)}
    curves = {"trending": _line(1.0, float(np.log(max(data.n_items, 2))))}
    try:
        heads["content"] = Content.fit(data, ContentConfig(), np.random.default_rng(0))
        curves["content"] = _line(LIKENESS_NATS, 0.0)
    except DataError:
        pass  # neither texts nor vectors: popularity alone
    phi = Phi.fit(data, config)
    theta = np.zeros((len(heads), len(phi.names)))
    theta[:, 0] = 1.0
    strategy = Strategy(tuple(heads), phi.names, theta, dials={UNSEEN_DIAL: 0.0})
    return Model(data, heads, curves, phi, strategy, repeats=False)


def _no_events(items: pl.DataFrame) -> Dataset:
    none = np.empty(0, np.int32)
    return Dataset(
        user_ids=np.empty(0, object),
        item_ids=items["item_id"].to_numpy().astype(object),
        user_idx=none,
        item_idx=none,
        kind=none.astype(np.int16),
        kinds=(),
        weight=none.astype(np.float32),
        value=none.astype(np.float32),
        time=none.astype(np.float64),
        basket=none,
        row=none.astype(np.int64),
        items=items,
        users=pl.DataFrame({"user_id": pl.Series([], dtype=pl.String)}),
    )


def _trending(n_items: int, clock: float) -> Trending:
    config = TrendingConfig()
    n_windows, n_first = len(config.half_lives_days) + 1, len(config.first)
    return Trending(
        config,
        np.zeros((n_windows + n_first, n_items)),
        np.full(n_windows, 1 / n_windows),
        np.full((n_first, n_windows + n_first), 1 / (n_windows + n_first)),
        clock,
    )


def _line(slope: float, at_zero: float) -> Calibration:
    """Z = slope x score + at_zero, for scores within REACH."""
    scores = np.linspace(-REACH, REACH, 401)
    curve = Curve(1.0, np.arcsinh(scores), slope * scores + at_zero)
    return Calibration((), (curve,))
