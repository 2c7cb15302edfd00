"""Uniform numbers that depend on names alone, so that all policies meet the same luck."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLICK, RETURN, LEAVE, NOISE = 1, 2, 3, 4  # what a number decides

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniform(*names: Any) -> NDArray[np.float64]:
    """Numbers in (0, 1), one for each combination of these whole numbers, broadcast together.

    The same names always give the same number, whatever was asked before.

    Source: splitmix64, Steele, Lea and Flood 2014.
    """
    return (mixed(*names) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54


def mixed(*names: Any) -> NDArray[np.uint64]:
    """64 well mixed bits for each combination of these whole numbers."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):  # the arithmetic is that of 64 bits
        for name in names:
            state = _stirred(state + np.asarray(name).astype(np.uint64) * _GOLDEN + _GOLDEN)
    return state


def _stirred(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    mixed_bits: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed_bits
