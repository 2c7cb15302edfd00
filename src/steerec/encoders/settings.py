"""The settings of every encoder, and what all of them count as an empty text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from steerec.contracts import Floats
from steerec.errors import ConfigError

Progress = Callable[[int, int], None]  # called with (texts done, texts in all)

# Largest and smallest allowed value of each number.
_RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (8, 8192),
    "batch_size": (1, 4096),
    "threads": (0, 1024),
    "dim": (0, 65536),
    "requests_per_minute": (1, 1e6),
    "timeout_s": (0.1, 3600),
    "retries": (0, 20),
    "cache_mb": (1, 1e6),
}


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how it works.

    Attributes:
        encoder: text (float32), onnx (int8, for queries), remote, hashing, or `module:Class`.
        model: a sentence-transformers name or folder, or the remote model's name; empty: MiniLM.
        max_tokens: longer texts are cut; never more than the model allows.
        batch_size: texts per model call or request.
        threads: CPU threads of the model; 0: as the library decides.
        url: remote: the service's base, such as http://host:8000/v1; `/embeddings` is added.
        key_env: remote: name of the environment variable with the key; empty: no key.
        dim: remote: length of a vector; 0: learnt from one request.
        requests_per_minute: remote: never more than this.
        timeout_s: remote: seconds to wait for one answer.
        retries: remote: further tries after a refusal or a broken connection.
        cache_mb: vectors of texts that the cache on disk holds at most; the oldest go first.
    """

    encoder: str = "text"
    model: str = ""
    max_tokens: int = 128
    batch_size: int = 32
    threads: int = 0
    url: str = ""
    key_env: str = ""
    dim: int = 0
    requests_per_minute: float = 600
    timeout_s: float = 30.0
    retries: int = 5
    cache_mb: float = 4_000.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"encoder {name} = {value}: expected {low:g} to {high:g}")


def is_blank(text: str) -> bool:
    """Whether there is nothing to encode."""
    return not text.strip()


def unit_rows(vectors: Floats) -> Floats:
    """(n, dim): each row divided by its length; zero rows stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    out: Floats = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return out
