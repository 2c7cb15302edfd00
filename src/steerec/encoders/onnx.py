"""The sentence model as int8 on ONNX Runtime: for queries, without PyTorch once converted."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerec.contracts import Floats
from steerec.encoders.models import find_model
from steerec.encoders.onnx_export import Converted, converted_model
from steerec.encoders.settings import EncoderConfig, is_blank, unit_rows
from steerec.errors import ConfigError


class OnnxEncoder:
    """Close to the float32 model (cosine about .99), faster, and light to start: no PyTorch.

    Each text runs alone, several at a time: int8 scales are taken per call, so a text in a batch
    would get another vector beside other neighbours, and short ones would pay for padding.
    """

    def __init__(self, model: Converted, config: EncoderConfig) -> None:
        self._session = _session(model.path)
        self._tokenizer = _tokenizer(model.tokenizer, min(config.max_tokens, model.max_tokens))
        self._workers = config.threads or len(_usable_cores())
        self.dim = model.dim
        self.agreement = model.agreement
        self.name = f"{model.key}-int8-{min(config.max_tokens, model.max_tokens)}"

    @classmethod
    def open(cls, config: EncoderConfig, cache_dir: Path | None) -> Self:
        """Load the int8 model, converting it first (about 30 s, once per model and cache folder).

        Raises:
            ConfigError: if there is no cache folder to keep the converted model in.
            EncoderError: if the model cannot be found, or its int8 form strays from float32.
        """
        if cache_dir is None:
            raise ConfigError("the onnx encoder keeps its converted model: give a cache folder")
        return cls(converted_model(find_model(config, cache_dir), cache_dir), config)

    def encode(self, texts: Sequence[str]) -> Floats:
        """See Encoder."""
        out = np.zeros((len(texts), self.dim), np.float32)
        rows = [i for i, text in enumerate(texts) if not is_blank(text)]
        tokens = self._tokenizer.encode_batch([texts[i] for i in rows])

        def one(place: int) -> None:
            ids = np.array([tokens[place].ids], np.int64)
            out[rows[place]] = self._session.run(None, {"input_ids": ids})[0][0]

        if len(rows) == 1 or self._workers == 1:
            for place in range(len(rows)):
                one(place)
        else:
            with ThreadPoolExecutor(self._workers) as pool:
                list(pool.map(one, range(len(rows))))  # list: raise what a worker raised
        return unit_rows(out)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # texts run side by side instead
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _tokenizer(path: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def _usable_cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
