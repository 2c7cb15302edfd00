"""Named arrays as bytes and back, without pickle."""

import io
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from steerec.errors import DataError


def write_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Arrays, numbers and texts as the bytes of an .npz file."""
    out = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(out, **named)
    return out.getvalue()


def read_arrays(body: bytes, names: Collection[str]) -> dict[str, Any]:
    """What `write_arrays` was given; single numbers and texts come back as such.

    Raises:
        DataError: if the bytes are damaged, a name is missing or a number is not finite.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            found = {name: file[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"tuning: {len(body)} bytes hold no such arrays ({error}): start from the prior"
        ) from error
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"tuning: {name} holds numbers that are not finite")
    return {name: array.item() if array.ndim == 0 else array for name, array in found.items()}
