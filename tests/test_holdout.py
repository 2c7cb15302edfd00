"""What is held out of a fit: whole baskets where things are bought together, else single events."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from steerec.data.dataset import build_dataset
from steerec.engine.holdout import LEAST_AFTER, LEAST_BASKETS, hold_out, resolved_holdout
from steerec.engine.model import FitConfig, fit
from worlds import shop


@cache
def bought_together(*, size=5, n_users=300, n_orders=4, n_goods=200):
    """Orders of so many goods of one half of the catalogue, of which one good is never sold."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        half = user % 2 * (n_goods // 2)
        for order, time in enumerate(np.sort(rng.uniform(0, 1e7, n_orders))):
            goods = half + rng.choice(n_goods // 2 - 1, size, replace=False)
            rows += [(f"u{user}", f"g{g}", float(time), f"{user}-{order}") for g in goods]
    events = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "basket"], orient="row")
    items = pl.DataFrame({"item_id": [f"g{g}" for g in range(n_goods)]})
    return build_dataset(events, items)


@cache
def without_baskets():
    return replace(bought_together(), basket=np.full(bought_together().n_events, -1, np.int32))


@pytest.mark.parametrize("data", [bought_together, without_baskets], ids=["basket", "moment"])
def test_whole_baskets_are_held_out_where_things_are_bought_together(data):
    data, config = data(), FitConfig()
    assert resolved_holdout(data, config) == "basket"
    cases = hold_out(data, config).cases
    assert len(cases) >= LEAST_BASKETS
    assert set(np.diff(cases.offsets)) == {5}
    for number in range(len(cases)):
        assert cases.history(number).time.max() < cases.now[number]


@pytest.mark.parametrize(
    "data",
    [
        lambda: shop().data,  # a third of the events go on with a basket
        lambda: bought_together(size=1),
        lambda: bought_together(n_users=20),
        lambda: replace(
            without_baskets(), time=without_baskets().time + np.arange(without_baskets().n_events)
        ),
        lambda: replace(bought_together(n_goods=4_000), basket=without_baskets().basket),
    ],
    ids=["seldom together", "one by one", "few baskets", "no baskets", "nobody comes back"],
)
def test_elsewhere_single_events_are(data):
    assert resolved_holdout(data(), FitConfig()) == "time"
    assert set(np.diff(hold_out(data(), FitConfig()).cases.offsets)) == {1}


def test_without_times_each_users_last_event_is():
    data = bought_together()
    blind = replace(data, time=np.full(data.n_events, np.nan))
    assert resolved_holdout(blind, FitConfig()) == "last"


def test_who_goes_on_is_asked_for_baskets_after_it_if_there_are_enough():
    data, config = bought_together(), FitConfig()
    times = np.unique(data.time)
    many, few = float(times[-2 * LEAST_AFTER]), float(times[-LEAST_AFTER // 2])
    for moment, size in ((many, 5), (few, 1)):
        split = hold_out(data, config, after=moment)
        assert split.cases.now.min() > moment >= split.train.time.max()
        assert set(np.diff(split.cases.offsets)) == {size}
    assert resolved_holdout(data, replace(config, holdout="last"), after=many) == "time"


def test_baskets_with_goods_that_count_as_never_seen_calibrate_too():
    """Nearly every large basket has one; only those without were looked at, a handful."""
    config = FitConfig(heads=("trending", "item_knn"))
    model = fit(bought_together(size=30), config, np.random.default_rng(0))
    for curve in model.calibrations["item_knn"].curves:
        assert curve.z[-1] - curve.z[0] > 2  # nats; a handful of cases gives a flat one
