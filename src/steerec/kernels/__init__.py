"""Loops as machine code, by Numba: loaded by whoever serves or reads large logs, never on import.

Each does what a plain function elsewhere does with NumPy, most for one request; tests compare both.
Where they are not loaded, the plain ones answer.
"""

import logging
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # there as soon as they are loaded
    from steerec.kernels import (
        asking,
        choosing,
        drawing,
        finding,
        racing,
        ranking,
        repeating,
        solving,
        telling,
    )

__all__ = [
    "CODES",
    "asking",
    "choosing",
    "drawing",
    "finding",
    "load",
    "loaded",
    "racing",
    "ranking",
    "repeating",
    "solving",
    "telling",
]

log = logging.getLogger(__name__)

CODES = 32_767  # of a weight in two bytes, on either side of 0

MODULES = (
    "choosing",
    "asking",
    "solving",
    "ranking",
    "telling",
    "finding",
    "repeating",
    "drawing",
    "racing",
)
_LOADED = threading.Event()


def load(cache_dir: Path | None = None, *, stop: threading.Event | None = None) -> None:
    """Have all of them ready: a second, or some twenty where they were never compiled.

    Args:
        cache_dir: where what is compiled is kept; None: beside the sources.
        stop: once it is set, no more of them are compiled, and none is used.
    """
    began = time.perf_counter()
    if cache_dir is not None:
        _keep_in(cache_dir)
    for name in MODULES:
        if stop is not None and stop.is_set():
            return
        import_module(f"steerec.kernels.{name}")
    _LOADED.set()
    log.info("kernels=%d seconds=%.1f", len(MODULES), time.perf_counter() - began)


def _keep_in(folder: Path) -> None:
    from numba import config

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        log.warning("kernels cached=0 folder=%s reason=%s", folder, e)
        return
    vars(config)["CACHE_DIR"] = str(folder)


def loaded() -> bool:
    """Whether they are ready."""
    return _LOADED.is_set()
