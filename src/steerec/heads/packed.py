"""Dense item-to-item weights in two bytes each: what compiled loops read of one user's rows.

A list reads megabytes of weights and is as fast as memory gives them. Codes are rounded to 1/65,534
of the largest weight of a row, which moves scores in their fifth digit.
"""

import mmap
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats


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

    def plain(self) -> Floats:
        """The weights that the codes stand for."""
        weights: Floats = self.codes * self.step[:, None]
        return weights


def packed(weights: Any) -> Any:
    """Dense weights packed; sparse ones as they are, whose entries lie apart anyway."""
    return Packed.of(weights) if isinstance(weights, np.ndarray) else weights
