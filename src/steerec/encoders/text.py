"""Sentence encoder on PyTorch, float32: the reference for the catalogue."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerec.contracts import Floats
from steerec.encoders.models import ModelFiles, find_model, quiet_libraries
from steerec.encoders.settings import EncoderConfig, Progress, is_blank, unit_rows
from steerec.errors import EncoderError

log = logging.getLogger(__name__)


class SentenceEncoder:
    """Any sentence-transformers model, all-MiniLM-L6-v2 unless another is named."""

    def __init__(self, files: ModelFiles, config: EncoderConfig) -> None:
        self._files = files
        self._config = config
        self.dim, limit = _size(files, config)
        self.max_tokens = min(config.max_tokens, limit)
        self.name = f"{files.key}-float32-{self.max_tokens}"

    @classmethod
    def open(cls, config: EncoderConfig, cache_dir: Path | None) -> Self:
        """Find the model; a model on this disk is never looked up in the network.

        Raises:
            EncoderError: if the model cannot be found, or its files are not a sentence model.
        """
        return cls(find_model(config, cache_dir), config)

    @cached_property
    def _model(self) -> Any:
        # Loaded at the first text: with a full vector cache a run never waits for PyTorch.
        return load_sentence_model(self._files, self.max_tokens)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Floats:
        """See Encoder; `progress` hears of every batch."""
        out = np.zeros((len(texts), self.dim), np.float32)
        # Longest first: batches hold equal lengths, and memory runs out at once or never.
        order = sorted(
            (i for i, text in enumerate(texts) if not is_blank(text)),
            key=lambda i: -len(texts[i]),
        )
        if not order:
            return out
        size = self._config.batch_size
        with cpu_threads(self._config.threads):
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                out[rows] = self._model.encode(
                    [texts[i] for i in rows],
                    batch_size=size,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
                if progress is not None:
                    progress(start + len(rows), len(order))
        return unit_rows(out)


def load_sentence_model(files: ModelFiles, max_tokens: int) -> Any:
    """The sentence-transformers model on the CPU, cutting texts at `max_tokens` or its own limit.

    Raises:
        EncoderError: if the files are not a sentence model.
    """
    with quiet_libraries():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(str(files.folder), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as e:
            raise EncoderError(
                f"{files.folder} is no sentence-transformers model ({e}): give another "
                "encoder.model, or leave it empty for the default"
            ) from e
    limit = model.max_seq_length or max_tokens
    model.max_seq_length = min(max_tokens, limit)
    return model


def _size(files: ModelFiles, config: EncoderConfig) -> tuple[int, int]:
    """(dim, most tokens), from the model's own description; from the loaded model if unusual."""
    try:
        modules = json.loads((files.folder / "modules.json").read_text())
        kinds = [str(m["type"]).rpartition(".")[2] for m in modules]
        if kinds[:2] == ["Transformer", "Pooling"] and not set(kinds[2:]) - {"Normalize"}:
            pooling = json.loads((files.folder / modules[1]["path"] / "config.json").read_text())
            about = json.loads((files.folder / "sentence_bert_config.json").read_text())
            if pooling.get("pooling_mode_mean_tokens"):  # several poolings would add up
                return int(pooling["word_embedding_dimension"]), int(about["max_seq_length"])
    except (OSError, ValueError, KeyError, TypeError):
        log.info("sentence_model=undescribed folder=%s action=load", files.folder)
    model = load_sentence_model(files, config.max_tokens)
    return int(model.get_embedding_dimension()), int(model.max_seq_length)


@contextmanager
def cpu_threads(wanted: int) -> Iterator[None]:
    """So many torch threads for a while; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
