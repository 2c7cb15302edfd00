"""The catalogue of a model, written to the store where that does not have it yet."""

import logging
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from steerec.engine.model import Model
from steerec.store import Store
from steerec.store.catalogue import Entry

log = logging.getLogger(__name__)

AT_ONCE = 5_000
_TIMES = ("published", "expires")


def write_items(store: Store, tenant: str, model: Model, *, now: float) -> int:
    """Write the model's items, so that they can be read, changed and deleted like any others.

    What the store has is left as it is, and what was deleted there stays deleted.

    Returns:
        How many were new.
    """
    entries, n_new = _entries(model), 0
    while some := list(islice(entries, AT_ONCE)):
        n_new += store.items.add(tenant, some, now=now, dated=False)
    if n_new:
        log.info("tenant=%s items_from_model=%d", tenant, n_new)
    return n_new


def _entries(model: Model) -> Iterator[Entry]:
    for row in model.data.items.iter_rows(named=True):
        told = {name: value for name, value in row.items() if name != "item_id"}
        own = {name: _number(told.pop(name, None)) for name in (*_TIMES, "stock", "hidden")}
        yield Entry(
            row["item_id"],
            {name: plain for name, value in told.items() if (plain := _plain(value)) is not None},
            hidden=bool(own["hidden"]),
            published=own["published"],
            expires=own["expires"],
            stock=None if own["stock"] is None else int(own["stock"]),
        )


def _number(value: Any) -> float | None:
    """What availability reads as a number; None else."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def _plain(value: Any) -> Any:
    """The value as JSON has it; None where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [plain for part in value if (plain := _plain(part)) is not None]
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return str(value)
