"""What the engine holds of one person beyond the store, for whoever asks what is held of them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from steerec.engine.live import Live


def held_of(live: Live, user_id: str) -> Iterator[Mapping[str, Any]]:
    """Records of what the served model was fitted on, and of the person's own weights.

    None of who was erased: until the next fit the model's data hold their rows, and nothing reads
    them.
    """
    data, own = live.model.data, live.recommender.history(user_id)
    if own.user_idx >= 0:
        row = data.users.row(own.user_idx, named=True)
        yield {"kind": "fitted_user", **{name: _plain(value) for name, value in row.items()}}
        fitted = data.history(own.user_idx)
        for item_idx, weight, time in zip(fitted.item_idx, fitted.weight, fitted.time, strict=True):
            yield {
                "kind": "fitted_event",
                "user_id": user_id,
                "item_id": str(data.item_ids[item_idx]),
                "weight": float(weight),
                "timestamp": None if np.isnan(time) else float(time),
            }
    offset = None if live.online is None else live.online.given(user_id).offset
    if offset is not None:
        weights = dict(zip(live.model.strategy.heads, offset.value.tolist(), strict=True))
        yield {"kind": "own_weights", "user_id": user_id, "weights": weights}


def _plain(value: Any) -> Any:
    """As JSON has it: dates and the like as text."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
