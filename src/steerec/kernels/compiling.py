"""How loops become machine code, and where that is kept."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

njit: Any = numba.njit  # its own types cannot say what `compiled` does
types: Any = numba.types

FLAG, TINY, SHORT = types.boolean, types.int8, types.int16
INT, LONG, WORD = types.int32, types.int64, types.uint64
FLOAT, DOUBLE = types.float32, types.float64


def given(kind: Any, axes: int = 1) -> Any:
    """The type of an array that is only read: contiguous, perhaps not writable."""
    return types.Array(kind, axes, "C", readonly=True)


def made(kind: Any, axes: int = 1) -> Any:
    """The type of an array that is written to: contiguous."""
    return types.Array(kind, axes, "C")


def none(*taken: Any) -> Any:
    """The signature of a function that returns nothing."""
    return types.void(*taken)


def several(*kinds: Any) -> Any:
    """The type of several values."""
    return types.Tuple(kinds)


def pair(one: Any, other: Any) -> Any:
    """The type of two values."""
    return several(one, other)


def compiled(signature: Any, *, reorder: bool = False) -> Callable[[F], F]:
    """Compile a function for exactly these types, or load what was compiled before.

    Calls with other types raise a TypeError: nothing is compiled while somebody waits. The GIL is
    kept: given away some thirty times a request, it would be waited for as often.

    Args:
        reorder: whether sums may be added up in another order, several at once.
    """
    freedom = {"contract", "reassoc", "nsz"} if reorder else {"contract"}
    options = {"error_model": "numpy", "fastmath": freedom}

    signatures = signature if isinstance(signature, list) else [signature]

    def compile_it(function: F) -> F:
        try:
            made_of: F = njit(signatures, cache=True, **options)(function)
        except RuntimeError as e:  # no folder for the cache can be written to
            log.warning("kernel=%s cached=0 reason=%s", function.__name__, e)
            made_of = njit(signatures, **options)(function)
        return made_of

    return compile_it
