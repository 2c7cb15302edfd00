"""Bring numeric features to one scale, fitted on training rows only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Floats
from steerec.errors import DataError

Method = Literal["robust", "minmax"]


@dataclass(frozen=True)
class Scaler:
    """Per column (x - center) / spread, and beside each a flag that says the number was missing.

    Attributes:
        columns: the numeric columns, in the order of the output.
        center: median (robust) or minimum (min-max) of the training rows.
        spread: interquartile range or range; 1 where the column is constant or empty.
    """

    method: Method
    columns: tuple[str, ...]
    center: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def fit(cls, training: pl.DataFrame, columns: Sequence[str], *, method: Method) -> Self:
        """Learn center and spread from training rows; NaN, infinite and null are left out.

        Raises:
            DataError: if a column is missing or no number.
            ValueError: if the method is unknown.
        """
        if method not in ("robust", "minmax"):
            raise ValueError(f"scaling method {method!r} is unknown: choose robust or minmax")
        stats = [_center_and_spread(_known_numbers(training, c), method) for c in columns]
        return cls(method, tuple(columns), tuple(s[0] for s in stats), tuple(s[1] for s in stats))

    def transform(self, frame: pl.DataFrame) -> Floats:
        """Scale the same columns of other rows.

        Returns:
            (n_rows, 2 * n_columns) float32: the scaled columns, missing ones 0, then for each
            column 1 where it was missing, else 0. Min-max values of new rows may leave 0 to 1.
        Raises:
            DataError: if a column is missing or no number.
        """
        out = np.zeros((len(frame), 2 * len(self.columns)), np.float32)
        for k, name in enumerate(self.columns):
            x = _numbers(frame, name)
            known = np.isfinite(x)
            out[known, k] = (x[known] - self.center[k]) / self.spread[k]
            out[~known, len(self.columns) + k] = 1.0
        return out

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it."""
        return {
            "method": self.method,
            "columns": list(self.columns),
            "center": list(self.center),
            "spread": list(self.spread),
        }

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            DataError: if a part is missing, lengths differ, or a number is not usable.
        """
        try:
            center = tuple(float(x) for x in about["center"])
            spread = tuple(float(x) for x in about["spread"])
            scaler = cls(about["method"], tuple(about["columns"]), center, spread)
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"no saved scaler ({e!r}): write one with Scaler.to_dict") from e
        usable = all(map(math.isfinite, center)) and all(s > 0 for s in spread)
        if not (len(scaler.columns) == len(center) == len(spread) and usable):
            raise DataError(f"saved scaler does not fit together: {dict(about)}")
        return scaler


def _known_numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    x = _numbers(frame, name)
    return x[np.isfinite(x)]


def _numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in frame.columns:
        raise DataError(f"no column {name!r} to scale; given: {frame.columns}")
    column = frame[name]
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"column {name!r} is of type {column.dtype}, expected numbers to scale")
    return np.asarray(column.cast(pl.Float64).fill_null(np.nan), np.float64)


def _center_and_spread(x: NDArray[np.float64], method: Method) -> tuple[float, float]:
    if len(x) == 0:
        return 0.0, 1.0
    if method == "robust":
        low, center, high = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    else:
        low, high = float(x.min()), float(x.max())
        center = low
    return center, (high - low) or 1.0
