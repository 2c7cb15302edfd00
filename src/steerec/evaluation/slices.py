"""Which requests belong to which part of the data, and what each model reaches there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Indices, Times
from steerec.evaluation.intervals import Bootstrap, intervals
from steerec.evaluation.metrics import head_items
from steerec.evaluation.ranks import Bools


@dataclass(frozen=True)
class SliceConfig:
    """Where one part ends and the next begins.

    Attributes:
        new_max: longest history of a new user, in events.
        short_max: longest history that is still short.
        rare_below: an item with fewer training events, but at least one, is rare.
        head_share: share of the items with training events that is the head of popularity.
        gap_s: a request later than this after the user's previous event is a new visit.
    """

    new_max: int = 5
    short_max: int = 20
    rare_below: int = 5
    head_share: float = 0.1
    gap_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.new_max <= self.short_max:
            raise ValueError(
                f"new_max={self.new_max}, short_max={self.short_max}: "
                "expected 0 <= new_max <= short_max"
            )
        if not 0 < self.head_share < 1:
            raise ValueError(f"head_share={self.head_share}: expected a share between 0 and 1")


DEFAULT_SLICES = SliceConfig()


def history_slices(
    history_length: NDArray[np.integer], config: SliceConfig = DEFAULT_SLICES
) -> dict[str, Bools]:
    """Split requests by the number of events before them; every request is in one part."""
    new = history_length <= config.new_max
    long = history_length > config.short_max
    return {"new_users": new, "short_history": ~new & ~long, "long_history": long}


def item_slices(
    target: Indices, counts: NDArray[np.integer], config: SliceConfig = DEFAULT_SLICES
) -> dict[str, Bools]:
    """Split requests by the item to be found; head and tail leave none out.

    Args:
        target: (n,) item to be found.
        counts: (n_items,) training events per item.
    """
    seen, head = counts[target], head_items(counts, share=config.head_share)[target]
    return {
        "cold_items": seen == 0,
        "rare_items": (seen > 0) & (seen < config.rare_below),
        "popular_items": head,
        "tail_items": ~head,
    }


def gap_slices(gap_s: Times, config: SliceConfig = DEFAULT_SLICES) -> dict[str, Bools]:
    """Requests well after the user's previous event: `gap_over_60s` with the default setting.

    Args:
        gap_s: (n,) seconds since the user's previous event, NaN where unknown (in no slice).
    """
    return {f"gap_over_{config.gap_s:g}s": gap_s > config.gap_s}


def slice_results(
    masks: Mapping[str, Bools], values: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> dict[str, dict[str, Any]]:
    """Give `{slice: {"n": requests, model: {metric: mean}}}`; an empty slice has only `n`.

    Args:
        values: model → metric → (n,); NaN is left out of the mean.
    """
    return {name: _one_slice(mask, values) for name, mask in masks.items()}


def bounded_slice(
    values: Mapping[str, Mapping[str, NDArray[np.floating]]], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Give one slice as `slice_results` does, NDCG@10 and HR@10 only, each model with its `ci`.

    Args:
        values: model → metric → (n,), already of this slice alone.
        bootstrap: draws of the users of these n requests.
    """
    part: dict[str, Any] = {"n": len(bootstrap.user)}
    for model, metrics in values.items():
        bounds = intervals({k: metrics[k] for k in ("ndcg@10", "hr@10")}, bootstrap)
        part[model] = {
            **{name: bound.mean for name, bound in bounds.items()},
            "ci": {name: [bound.low, bound.high] for name, bound in bounds.items()},
        }
    return part


def _one_slice(
    mask: Bools, values: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> dict[str, Any]:
    part: dict[str, Any] = {"n": int(np.count_nonzero(mask))}
    if part["n"]:
        for model, metrics in values.items():
            part[model] = {name: _known_mean(column[mask]) for name, column in metrics.items()}
    return part


def _known_mean(values: NDArray[np.floating]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
