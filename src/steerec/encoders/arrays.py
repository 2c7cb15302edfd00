"""Arrays of a fitted encoder on disk, without pickle."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.errors import DataError


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """These arrays of an .npz file.

    Raises:
        DataError: if the file is missing, damaged, or lacks one of them.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"{path} does not hold {list(names)} ({e}): fit and save again") from e
