"""How many threads compute, and how they wait: said before NumPy and PyTorch are loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Each is read when its library is loaded: OpenMP (PyTorch, implicit), the OpenBLAS that the wheels
# of NumPy and SciPy bring, MKL inside PyTorch, Polars.
_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def sleep_while_waiting() -> None:
    """Let idle threads sleep instead of spin, unless the environment says otherwise.

    Where other programs share the cores, spinning threads take the time that work would need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2**4 ticks; else 2**26, about 25 ms


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Compute on at most `n` threads for a while, in libraries loaded before and after."""
    from threadpoolctl import threadpool_limits

    before = {name: os.environ.get(name) for name in _COUNTS}
    os.environ.update(dict.fromkeys(_COUNTS, str(n)))
    try:
        with threadpool_limits(n):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
