"""Dense item-to-item weights in two bytes each: what compiled loops read of one user's rows.

A list reads megabytes of weights and is as fast as memory gives them. Codes are rounded to 1/65,534
of the largest weight of a row, which moves scores in their fifth digit. Products of vectors are
kept like weights where there are few items: 20 rows of them are less than all vectors.
"""

import mmap
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats, Indices
from steerec.kernels import CODES

BLOCK = 512  # vectors whose products are held as floats at once


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights as whole numbers.

    Attributes:
        codes: (n_rows, n_columns) int16.
        step: (n_rows,) float32, what a code of 1 stands for.
    """

    codes: NDArray[np.int16]
    step: Floats

    @classmethod
    def of(cls, weights: Floats) -> Self:
        """Of dense weights that nobody writes to; memory that maps their file is given back."""
        codes, step = np.empty(weights.shape, np.int16), np.empty(len(weights), np.float32)
        kernels.asking.pack(weights, codes, step)
        mapped = getattr(weights.base, "base", None)
        if isinstance(mapped, mmap.mmap):  # read from the file again, should anybody ask
            mapped.madvise(mmap.MADV_DONTNEED)
        return cls(codes, step)

    @classmethod
    def products(cls, vectors: Floats) -> Self:
        """Products of each two vectors, which are of unit length or zero."""
        shape = (len(vectors), len(vectors))
        empty = cls(np.empty(shape, np.int16), np.full(len(vectors), 1 / CODES, np.float32))
        for start in range(0, len(vectors), BLOCK):
            some = slice(start, start + BLOCK)
            empty.codes[some] = _rounded(vectors[some] @ vectors.T)
        return empty

    def with_products(self, vectors: Floats, places: Indices) -> Self:
        """`products` again where vectors at these places, and all beyond the end, are others."""
        old, n = len(self.codes), len(vectors)
        codes = np.empty((n, n), np.int16)
        codes[:old, :old] = self.codes
        changed = np.union1d(places, np.arange(old, n))
        codes[changed] = _rounded(vectors[changed] @ vectors.T)
        codes[:, changed] = codes[changed].T
        return type(self)(codes, np.full(n, 1 / CODES, np.float32))

    def plain(self) -> Floats:
        """The weights that the codes stand for."""
        weights: Floats = self.codes * self.step[:, None]
        return weights


def packed(weights: Any) -> Any:
    """Dense weights packed; sparse ones as they are, whose entries lie apart anyway."""
    return Packed.of(weights) if isinstance(weights, np.ndarray) else weights


def _rounded(products: Floats) -> NDArray[np.int16]:
    """The codes of numbers from -1 to 1."""
    np.clip(products, -1.0, 1.0, out=products)
    codes: NDArray[np.int16] = np.rint(products * np.float32(CODES)).astype(np.int16)
    return codes
