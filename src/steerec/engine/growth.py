"""A model whose catalogue changes while it serves: items are added, and their attributes replaced.

What was there keeps its index, so user states, histories and frozen calibrations stay good.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from steerec.contracts import Encoder, Floats, Indices
from steerec.data.dataset import Dataset
from steerec.engine.about import ENCODER_NOTE
from steerec.engine.columns import MISFIT, kind_of, reading, wide_enough
from steerec.engine.kin import with_kin
from steerec.engine.model import Model
from steerec.engine.texts import texts_of
from steerec.errors import EncoderError
from steerec.heads.content import Content
from steerec.heads.contract import Head
from steerec.store.catalogue import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemChange:
    """An item as it is from now on.

    Attributes:
        attributes: column → value; one that its column cannot hold is left out, logged and
            counted (see `changed`).
    """

    item_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


def changed(
    model: Model,
    items: Sequence[ItemChange],
    encoder: Encoder | None = None,
    *,
    counted: Counter[str] | None = None,
) -> Model:
    """The model with these items as they are now: known ones replaced, new ones at the end.

    Known items whose text changed are read again too, as are those whose text has no vector yet.

    Args:
        encoder: the one of the model's vectors; None: new items go without, known ones keep theirs.
        counted: values that did not fit their column are added to its `values_left_out`.
    """
    counted = Counter() if counted is None else counted
    index = model.data.item_index
    newest = {item.item_id: at for at, item in enumerate(items)}  # the last word counts
    new = [items[at] for item_id, at in newest.items() if item_id not in index]
    known = [items[at] for item_id, at in newest.items() if item_id in index]
    table = _replaced(_widened(model.data.items, items), known, counted)
    data = _indexed(replace(model.data, items=table), model.data, index)
    places = np.array([index[item.item_id] for item in known], np.int32)
    model = _reworded(model, data, places, encoder)
    return _with_new(model, new, encoder, counted) if new else model


def _with_new(
    model: Model, new: Sequence[ItemChange], encoder: Encoder | None, counted: Counter[str]
) -> Model:
    data = _longer(model.data, new, encoder, counted)
    grown = {name: _grown(name, head, data) for name, head in model.heads.items()}
    grown = with_kin(grown, np.arange(data.n_items) >= model.data.n_items)
    fused = model.fused
    if fused is not None:
        more = _rows(data.vectors, len(new), fused.from_text.shape[0])
        fused = fused.with_items(more)
    phi = replace(model.phi, projection=np.pad(model.phi.projection, ((0, len(new)), (0, 0))))
    return replace(model, data=data, heads=grown, fused=fused, phi=phi)


def _reworded(model: Model, data: Dataset, places: Indices, encoder: Encoder | None) -> Model:
    """The model over these data, which have other items at these places."""
    rows = data.items[places]
    texts = np.array(texts_of(rows), object)
    moved = texts != np.array(texts_of(model.data.items[places]), object)
    if encoder is not None and data.vectors is not None:
        moved |= ~data.vectors[places].any(axis=1) & (texts != "")  # could not be read before
    if not moved.any():
        return replace(model, data=data)
    places = places[moved]
    if encoder is not None and data.vectors is not None:
        vectors = data.vectors.copy()
        vectors[places] = encoder.encode(texts[moved].tolist())
        data = _indexed(replace(data, vectors=vectors), data, data.item_index)
    heads = {name: _read_again(head, data, places) for name, head in model.heads.items()}
    heads = with_kin(heads, np.isin(np.arange(data.n_items), places))
    fused = model.fused
    if fused is not None and data.vectors is not None and len(fused.from_text):
        fused = fused.reworded(places, data.vectors[places])
    return replace(model, data=data, heads=heads, fused=fused)


def _read_again(head: Head, data: Dataset, places: Indices) -> Head:
    return head.reworded(data, places) if isinstance(head, Content) else head


def changed_anyway(
    model: Model,
    items: Sequence[ItemChange],
    encoder: Encoder | None,
    *,
    counted: Counter[str] | None = None,
) -> tuple[Model, str]:
    """As `changed`, also while texts cannot be read: then they are zeros until the next fit.

    Returns:
        The model, and why texts could not be read; empty: they could.
    """
    try:
        return changed(model, items, encoder, counted=counted), ""
    except EncoderError as e:
        log.error("items=%d without_vectors=1 until the next fit, error=%s", len(items), e)
        unread = None if encoder is None else Unread(encoder)
        return changed(model, items, unread, counted=counted), str(e)


class Unread:
    """Stands for an encoder that is away or not loaded yet: every text is as empty."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.dim = encoder.name, encoder.dim

    def encode(self, texts: Sequence[str]) -> Floats:
        """See Encoder."""
        return np.zeros((len(texts), self.dim), np.float32)


def columns_of(entry: Entry) -> dict[str, object]:
    """The attributes as columns of the items' table, with labels as tags, and `published`."""
    columns = dict(entry.attributes)
    if entry.labels:
        columns.setdefault("tags", list(entry.labels))
    if entry.published is not None:
        columns.setdefault("published", entry.published)
    return columns


def size_of(model: Model) -> int:
    """Items, and once more those with a text that is known: what a model without events grew to."""
    head = model.heads.get("content")
    told = head.known if isinstance(head, Content) else list(map(bool, texts_of(model.data.items)))
    return model.data.n_items + int(np.sum(told))


def caught_up(model: Model, before: Model) -> Model:
    """The longer model, with what the live heads of the one before it counted while it was made."""
    counting = {
        name: _grown(name, head, model.data)
        for name, head in before.heads.items()
        if getattr(head, "counts_live", False) and head is not model.heads[name]
    }
    return replace(model, heads={**model.heads, **counting}) if counting else model


def _grown(name: str, head: Head, data: Dataset) -> Head:
    """The head for the longer catalogue; one of somebody else's that cannot grow as it is."""
    grow = getattr(head, "grown", None)
    if grow is None:
        log.info("head=%s grows=0 n_items=%d", name, head.n_items)
        return head
    longer: Head = grow(data)
    return longer


def _longer(
    data: Dataset, items: Sequence[ItemChange], encoder: Encoder | None, counted: Counter[str]
) -> Dataset:
    """The data with more items at their end, encoded if those before them are (or are none)."""
    ids = np.array([item.item_id for item in items], object)
    fresh = _table(items, data.items.schema, counted)
    vectors, notes = data.vectors, data.notes
    encodes = encoder is not None and (vectors is not None or data.n_items == 0)
    if encodes and encoder is not None:
        notes = {**notes, ENCODER_NOTE: encoder.name}
        before = np.zeros((0, encoder.dim), np.float32) if vectors is None else vectors
        vectors = np.concatenate([before, encoder.encode(texts_of(fresh))])
    elif vectors is not None:
        vectors = np.pad(vectors, ((0, len(items)), (0, 0)))
    longer = replace(
        data,
        item_ids=np.concatenate([data.item_ids, ids]),
        items=pl.concat([data.items, fresh], how="vertical"),
        vectors=vectors,
        notes=notes,
    )
    places = range(data.n_items, longer.n_items)
    index = data.item_index | dict(zip(ids.tolist(), places, strict=True))
    return _indexed(longer, data, index)


def _indexed(data: Dataset, before: Dataset, item_index: dict[str, int]) -> Dataset:
    """The data with what is looked up in them in place: of many it takes long to make anew."""
    for name in ("user_index", "starts"):
        data.__dict__[name] = getattr(before, name)  # the users and events are the same
    data.__dict__["item_index"] = item_index
    return data


def table_with(table: pl.DataFrame, items: Sequence[ItemChange]) -> pl.DataFrame:
    """The items' table with these as they are now: known ones replaced, new ones at the end.

    Of equal ids the last counts.
    """
    newest = {item.item_id: item for item in items}
    there = set(table["item_id"])
    known = [item for item_id, item in newest.items() if item_id in there]
    new = [item for item_id, item in newest.items() if item_id not in there]
    replaced = _replaced(_widened(table, items), known, Counter())
    return pl.concat([replaced, _table(new, replaced.schema, Counter())]) if new else replaced


def _rows(vectors: Floats | None, n: int, dim: int) -> Floats:
    """The last n vectors; zeros where there are none of this length."""
    if vectors is None or vectors.shape[1] != dim:
        return np.zeros((n, dim), np.float32)
    return vectors[len(vectors) - n :]


def _widened(table: pl.DataFrame, items: Sequence[ItemChange]) -> pl.DataFrame:
    """The table with a column for each attribute that it does not have yet, wide enough for all."""
    given: dict[str, list[Any]] = {}
    for item in items:
        for name, value in item.attributes.items():
            given.setdefault(name, []).append(value)
    kinds = {
        name: next((kind for value in given[name] if (kind := kind_of(value)) is not None), None)
        for name in sorted(given.keys() - set(table.columns))
    }
    wider = [wide_enough(table[name], given[name]) for name in table.columns if name in given]
    return table.with_columns(
        *wider, *(pl.lit(None, kind).alias(name) for name, kind in kinds.items() if kind)
    )


def _replaced(
    table: pl.DataFrame, items: Sequence[ItemChange], counted: Counter[str]
) -> pl.DataFrame:
    """The table with new values in the rows of these items, in the same order."""
    if not items:
        return table
    index = {item_id: at for at, item_id in enumerate(table["item_id"])}
    take = np.arange(len(table))
    take[[index[item.item_id] for item in items]] = len(table) + np.arange(len(items))
    return pl.concat([table, _table(items, table.schema, counted)])[take]


def _table(
    items: Sequence[ItemChange], schema: Mapping[str, Any], counted: Counter[str]
) -> pl.DataFrame:
    """One row for each item in these columns; what does not fit becomes null, told and counted."""
    columns = {}  # by name: of a list of series those without a name would be given one
    for name, kind in schema.items():
        if name == "item_id":
            columns[name] = pl.Series(name, [item.item_id for item in items], pl.String)
            continue
        given, reads = [item.attributes.get(name) for item in items], reading(kind)
        values = [None if value is None else reads(value) for value in given]
        if wrong := [at for at, value in enumerate(values) if value is MISFIT]:
            values = [None if value is MISFIT else value for value in values]
            counted["values_left_out"] += len(wrong)
            first = items[wrong[0]].item_id, given[wrong[0]]
            log.warning(
                "column=%s left_out=%d not_of=%s item=%r %r", name, len(wrong), kind, *first
            )
        columns[name] = pl.Series(name, values, kind)
    return pl.DataFrame(columns)
