"""Sentence encoder on PyTorch, float32: the reference for the catalogue."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerec.contracts import Floats
from steerec.encoders.models import ModelFiles, find_model, quiet_libraries
from steerec.encoders.settings import EncoderConfig, Progress, is_blank, unit_rows
from steerec.errors import EncoderError


class SentenceEncoder:
    """Any sentence-transformers model, all-MiniLM-L6-v2 unless another is named."""

    def __init__(self, model: Any, config: EncoderConfig, *, key: str) -> None:
        self._model = model
        self._config = config
        self.max_tokens = int(model.max_seq_length)
        self.dim = int(model.get_embedding_dimension())
        self.name = f"{key}-float32-{self.max_tokens}"

    @classmethod
    def open(cls, config: EncoderConfig, cache_dir: Path | None) -> Self:
        """Load the model; a model on this disk is never looked up in the network.

        Raises:
            EncoderError: if the model cannot be found, or its files are not a sentence model.
        """
        files = find_model(config, cache_dir)
        return cls(load_sentence_model(files, config.max_tokens), config, key=files.key)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Floats:
        """See Encoder; `progress` hears of every batch."""
        out = np.zeros((len(texts), self.dim), np.float32)
        # Longest first: batches hold equal lengths, and memory runs out at once or never.
        order = sorted(
            (i for i, text in enumerate(texts) if not is_blank(text)),
            key=lambda i: -len(texts[i]),
        )
        size = self._config.batch_size
        with _threads(self._config.threads):
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


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """So many torch threads for a while; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
