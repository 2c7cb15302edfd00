"""The noise of a request: made of its id, and the same whenever it is made again."""

from threading import local

import numpy as np
from numpy.typing import NDArray

_NO_ENTROPY = np.random.SeedSequence(0)
_ZEROS = np.zeros(4, np.uint64)


class _OfThread(local):
    """A generator of each thread's own: to make one costs more than all it is asked for."""

    def __init__(self) -> None:
        self.generator = np.random.Philox(_NO_ENTROPY)


_OWN = _OfThread()


def exponentials(seed: int, n: int) -> NDArray[np.float64]:
    """(n,) unit exponentials, the same for the same seed in every version of NumPy.

    Only the raw numbers of a bit generator are promised to stay, not what distributions make of
    them; a slate must be the same when it is replayed years later.
    """
    generator = _OWN.generator  # from here on as Philox(key=seed)
    generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": _ZEROS, "key": np.array([seed & (2**64 - 1), 0], np.uint64)},
        "buffer": _ZEROS,
        "buffer_pos": 4,  # nothing left in the buffer
        "has_uint32": 0,
        "uinteger": 0,
    }
    raw = generator.random_raw(n)
    inside = (raw >> np.uint64(12)).astype(np.float64)
    inside += 0.5
    inside *= 2.0**-52  # never 0, never 1
    found: NDArray[np.float64] = np.log(inside, out=inside)
    return np.negative(found, out=found)
