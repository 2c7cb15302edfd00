"""Item texts as vectors, attached to whatever is fitted on them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from steerec.contracts import Encoder, Floats
from steerec.data.dataset import Dataset
from steerec.encoders import EncoderConfig, open_encoder
from steerec.encoders.cache import CachedEncoder
from steerec.encoders.template import fitting_template, item_texts
from steerec.engine.about import ENCODER_NOTE, check_encoder
from steerec.errors import ConfigError
from steerec.evaluation.protocols import Task

log = logging.getLogger(__name__)

NO_ENCODER = "none"
HASHING = "hashing"


@dataclass(frozen=True)
class ItemVectors:
    """The catalogue's vectors, and what they took.

    Attributes:
        vectors: (n_items, dim) float32; None where items have no text or no encoder was wanted.
        note: what was encoded, or why nothing was, in words.
        encoder: name of the encoder; empty where nothing was encoded.
        encoded: distinct texts encoded in this run; `cached`: those found on disk.
    """

    vectors: Floats | None
    note: str
    encoded: int = 0
    cached: int = 0
    encoder: str = ""


def encode_items(
    items: pl.DataFrame,
    config: EncoderConfig,
    *,
    template: str = "",
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> ItemVectors:
    """Encode each item's text; texts encoded once are found in the cache.

    Args:
        template: such as "{title}. {description}"; empty: made from the text columns there are.
        progress: called with (texts done, texts to do).
    Raises:
        ConfigError: if the template or the encoder's settings do not fit.
        EncoderError: if the model cannot be found, or its service does not answer.
    """
    if config.encoder == NO_ENCODER:
        return ItemVectors(None, "no encoder wanted: heads work without texts' vectors")
    template = template or _fitting(items)
    if not template:
        return ItemVectors(None, "the items have no text column: nothing to encode")
    texts = item_texts(items, template)
    encoder = open_encoder(config, cache_dir=cache_dir / "vectors")
    if not isinstance(encoder, CachedEncoder):
        raise ConfigError("the encoder was opened without its cache")
    vectors = encoder.encode(texts, progress=progress)
    log.info("encoded=%d cached=%d encoder=%s", encoder.misses, encoder.hits, encoder.name)
    note = f"{encoder.name} reads {template}"
    return ItemVectors(vectors, note, encoder.misses, encoder.hits, encoder.name)


def texts_of(items: pl.DataFrame, template: str = "") -> list[str]:
    """One text for each item, empty where it has none; as `encode_items` reads them."""
    template = template or _fitting(items)
    return item_texts(items, template) if template else [""] * len(items)


def with_vectors(data: Dataset, found: ItemVectors) -> Dataset:
    """The data with these vectors, or unchanged where there are none."""
    if found.vectors is None:
        return data
    notes = {**data.notes, ENCODER_NOTE: found.encoder}
    return replace(data.with_vectors(found.vectors), notes=notes)


def task_with_vectors(task: Task, found: ItemVectors) -> Task:
    """The same for both sides of a task, whose catalogue is one."""
    split = task.split
    train = with_vectors(split.train, found)
    cases = replace(split.cases, data=with_vectors(split.cases.data, found))
    return replace(task, split=replace(split, train=train, cases=cases))


def encoder_of(data: Dataset, config: EncoderConfig, cache_dir: Path) -> Encoder | None:
    """The encoder that the data's vectors were made by; None where there are or shall be none.

    Raises:
        DataError: if the settings name another one.
        EncoderError: if it cannot be found.
    """
    if data.vectors is None:
        return None
    if data.notes.get(ENCODER_NOTE, "").startswith(HASHING):
        config = replace(config, encoder=HASHING)  # it needs no model: as trained, whatever is set
    if config.encoder == NO_ENCODER:
        return None
    encoder = open_encoder(config, cache_dir=cache_dir / "vectors")
    check_encoder(encoder, data.notes)
    return encoder


def opened_encoder(config: EncoderConfig, cache_dir: Path) -> Encoder | None:
    """The encoder of the settings; None where none is wanted.

    Raises:
        EncoderError: if it cannot be found.
    """
    if config.encoder == NO_ENCODER:
        return None
    return open_encoder(config, cache_dir=cache_dir / "vectors")


def _fitting(items: pl.DataFrame) -> str:
    try:
        return fitting_template(items.columns)
    except ConfigError:
        return ""  # no text column is a fact about the data here, and is told as such
