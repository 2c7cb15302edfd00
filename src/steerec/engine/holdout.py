"""Which steps are held out of a fit, for calibration and θ to be fitted on."""

from typing import TYPE_CHECKING

import numpy as np

from steerec.data.dataset import Dataset
from steerec.data.distinct import distinct
from steerec.data.split import (
    Split,
    leave_last_out,
    n_baskets,
    split_after,
    split_baskets,
    split_by_time,
)

if TYPE_CHECKING:
    from steerec.engine.model import FitConfig

LEAST_AFTER = 200  # cases needed after what earlier heads, which are gone on from, have seen
LEAST_BASKETS = 50  # held-out baskets of users with earlier ones, for `auto` to hold out baskets,
LEAST_TOGETHER = 0.5  # and share of the events that go on with the basket of the one before
LEAST_TIMES = 10  # different times, for `auto` to cut by them


def hold_out(data: Dataset, config: "FitConfig", *, after: float | None = None) -> Split:
    """Set cases aside: by basket or time where the data has them, else each user's last event.

    Args:
        after: Unix seconds up to which heads that are gone on from have seen events: then all
            cases come later, since those heads know what came before.
    Raises:
        DataError: if there are too few.
    """
    kind, quantile = resolved_holdout(data, config, after=after), config.holdout_quantile
    if after is not None:
        return split_after(data, after, least=LEAST_AFTER, baskets=kind == "basket")
    if kind == "basket":
        return split_baskets(data, quantile, only_new=config.only_new)
    return split_by_time(data, quantile) if kind == "time" else leave_last_out(data)


def resolved_holdout(data: Dataset, config: "FitConfig", *, after: float | None = None) -> str:
    """last, time or basket: what `auto` comes to on these data.

    Where things are bought together (in a basket; or, where people come back to things, at one
    moment), a list is asked for what comes after whole baskets: a single event held out would
    mostly lie in the basket of the one before, in which nothing comes back.

    Args:
        after: as in `hold_out`; never last then.
    """
    if after is not None and config.holdout == "last":
        return "time"
    if config.holdout != "auto":
        return config.holdout
    if after is None and not (data.has_times and len(distinct(data.time)) >= LEAST_TIMES):
        return "last"
    return "basket" if _comes_in_baskets(data, config.holdout_quantile) else "time"


def _comes_in_baskets(data: Dataset, quantile: float) -> bool:
    if not (data.has_baskets or data.has_repeats):
        return False
    n_opened = n_baskets(data)
    later = n_opened - np.count_nonzero(np.diff(data.starts))
    together = 1 - n_opened / data.n_events
    return bool(together >= LEAST_TOGETHER and (1 - quantile) * later >= LEAST_BASKETS)
