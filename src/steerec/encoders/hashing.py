"""Words and character n-grams hashed into a vector: no model, any language, no meaning."""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from steerec.contracts import Floats
from steerec.encoders.settings import EncoderConfig, is_blank, unit_rows

_WORD = re.compile(r"\w+")
_GRAM_SIZES = (2, 3)


class HashingEncoder:
    """Likeness of spelling: chosen by name, never used in place of a model that is missing."""

    def __init__(self, *, dim: int = 256) -> None:
        self.dim = dim
        self.name = f"hashing-{dim}-v1"

    @classmethod
    def open(cls, config: EncoderConfig, cache_dir: Path | None) -> Self:
        """Make it from settings; `dim` 0 means 256."""
        return cls(dim=config.dim or 256)

    def encode(self, texts: Sequence[str]) -> Floats:
        """See Encoder."""
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            if is_blank(text):
                continue
            for feature, weight in _features(text):
                code = zlib.crc32(feature.encode())
                # The top bit gives the sign, so that collisions cancel instead of adding up.
                row[code % self.dim] += weight if code >> 31 else -weight
            if not row.any():  # no word characters, or all of them cancelled
                row[zlib.crc32(text.encode()) % self.dim] = 1.0
        return unit_rows(out)


def _features(text: str) -> Iterator[tuple[str, float]]:
    """Every word with weight 1, and its n-grams with weight 1 together."""
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        yield word, 1.0
        padded = f"<{word}>"
        grams = [padded[i : i + n] for n in _GRAM_SIZES for i in range(len(padded) - n + 1)]
        for gram in grams:
            yield gram, 1.0 / len(grams)
