"""Categorical and numeric attributes of items or users as vectors."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse.linalg import svds

from steerec.contracts import Floats
from steerec.data.scale import Scaler
from steerec.encoders.arrays import read_arrays
from steerec.errors import DataError

FORMAT = 1
_CLIP = 5.0  # scaled numbers beyond are outliers; one must not drown the rest


@dataclass(frozen=True)
class AttributeConfig:
    """Which columns, and how many numbers they become.

    Attributes:
        categories: columns of names or lists of names; None: all string and list columns.
        numbers: numeric columns; None: all of them.
        dim: longest vector of the categorical part.
        most_values: values kept over all columns, the most frequent ones.
        least_count: a value seen on fewer rows says nothing and is left out.
    """

    categories: tuple[str, ...] | None = None
    numbers: tuple[str, ...] | None = None
    dim: int = 64
    most_values: int = 20_000
    least_count: int = 2


@dataclass(frozen=True)
class AttributeEncoder:
    """Multi-hot values weighted by rarity, reduced by SVD; numbers robustly scaled beside them.

    Attributes:
        categories: the categorical columns.
        values: (column, value) → row of `basis`.
        rarity: (n_values,) float32, log((1 + n) / (1 + document frequency)) + 1.
        basis: (n_values, dim) float32.
        scaler: of the numeric columns.
    """

    categories: tuple[str, ...]
    values: Mapping[tuple[str, str], int]
    rarity: Floats
    basis: Floats
    scaler: Scaler

    @classmethod
    def fit(
        cls,
        table: pl.DataFrame,
        config: AttributeConfig,
        rng: np.random.Generator,
        *,
        key: str = "item_id",
    ) -> Self:
        """Learn from the catalogue; constant and empty columns are left out by themselves.

        Raises:
            DataError: if a named column is missing or of the wrong type.
        """
        categories = _columns(table, config.categories, _is_category, key)
        numbers = _columns(table, config.numbers, _is_number, key)
        rows = _row_values(table, categories)
        values = _vocabulary(rows, config)
        hot = _multi_hot(rows, values)
        frequency = np.asarray(hot.sum(axis=0)).ravel()
        rarity = (np.log((1 + len(table)) / (1 + frequency)) + 1).astype(np.float32)
        basis = _basis(_unit(hot.multiply(rarity).tocsr()), config.dim, rng)
        varying = [c for c in numbers if _varies(table[c])]
        scaler = Scaler.fit(table, varying, method="robust")
        return cls(tuple(categories), values, rarity, basis, scaler)

    @property
    def dim(self) -> int:
        """Length of a vector: the categorical part, the numbers, and a missing flag for each."""
        return int(self.basis.shape[1]) + 2 * len(self.scaler.columns)

    def transform(self, table: pl.DataFrame) -> Floats:
        """Encode rows of a table with the same columns; values never seen count as absent.

        Returns:
            (n_rows, dim) float32.
        Raises:
            DataError: if a column of the fit is missing.
        """
        missing = sorted({*self.categories, *self.scaler.columns} - set(table.columns))
        if missing:
            raise DataError(f"attributes lack {missing}; given: {table.columns}")
        hot = _multi_hot(_row_values(table, self.categories), self.values)
        named = _unit(hot.multiply(self.rarity).tocsr()) @ self.basis
        numbers = np.clip(self.scaler.transform(table), -_CLIP, _CLIP)
        return np.hstack([np.asarray(named, np.float32), numbers])

    def save(self, folder: Path) -> None:
        """Write attributes.json and attributes.npz into an existing folder, no pickle."""
        about = {
            "format": FORMAT,
            "categories": list(self.categories),
            "values": [list(pair) for pair in self.values],
            "scaler": self.scaler.to_dict(),
        }
        (folder / "attributes.json").write_text(json.dumps(about, ensure_ascii=False))
        np.savez(folder / "attributes.npz", rarity=self.rarity, basis=self.basis)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: if a file is missing, of another format, or the two do not belong together.
        """
        try:
            about: dict[str, Any] = json.loads((folder / "attributes.json").read_text())
            values = {(c, v): i for i, (c, v) in enumerate(about["values"])}
            number, categories = about["format"], tuple(about["categories"])
            scaler = Scaler.from_dict(about["scaler"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{folder} holds no saved attributes ({e}): fit and save again") from e
        rarity, basis = read_arrays(folder / "attributes.npz", "rarity", "basis")
        if number != FORMAT or not len(values) == len(rarity) == len(basis):
            raise DataError(
                f"{folder}: format {number}, {len(values)} values, {len(basis)} rows; expected "
                f"format {FORMAT} and equal numbers: fit and save again"
            )
        return cls(categories, values, rarity, basis, scaler)


def _columns(table: pl.DataFrame, named: Sequence[str] | None, fits: Any, key: str) -> list[str]:
    if named is None:
        return [c for c in table.columns if c != key and fits(table.schema[c])]
    missing = sorted(set(named) - set(table.columns))
    if missing:
        raise DataError(f"attributes lack {missing}; given: {table.columns}")
    return list(named)


def _is_category(kind: pl.DataType) -> bool:
    if isinstance(kind, pl.List):
        return kind.inner == pl.String
    return isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Boolean)


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric()


def _varies(column: pl.Series) -> bool:
    """Whether there is anything to learn: two values, or one value and gaps."""
    return column.cast(pl.Float64).fill_nan(None).n_unique() > 1


def _row_values(table: pl.DataFrame, columns: Sequence[str]) -> list[list[tuple[str, str]]]:
    """For each row its distinct (column, value) pairs."""
    rows: list[dict[tuple[str, str], None]] = [{} for _ in range(len(table))]
    for column in columns:
        for row, cell in zip(rows, table[column].to_list(), strict=True):
            for value in cell if isinstance(cell, list) else [cell]:
                if value is not None and str(value).strip():
                    row[column, str(value).strip()] = None
    return [list(row) for row in rows]


def _vocabulary(
    rows: Sequence[Sequence[tuple[str, str]]], config: AttributeConfig
) -> dict[tuple[str, str], int]:
    """Most frequent first, ties by name; a value that every row has tells nothing."""
    count = Counter(pair for row in rows for pair in row)
    kept = [p for p, n in count.items() if config.least_count <= n < len(rows)]
    kept.sort(key=lambda p: (-count[p], p))
    return {pair: i for i, pair in enumerate(kept[: config.most_values])}


def _multi_hot(
    rows: Sequence[Sequence[tuple[str, str]]], values: Mapping[tuple[str, str], int]
) -> sparse.csr_matrix:
    """(n_rows, n_values) float32, 1 where the row has the value."""
    columns = [[values[p] for p in row if p in values] for row in rows]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.array([c for row in columns for c in row], np.int32)
    ones = np.ones(len(flat), np.float32)
    return sparse.csr_matrix((ones, flat, ends), shape=(len(rows), len(values)))


def _unit(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.diags(1 / np.where(length > 0, length, 1)).tocsr() @ matrix


def _basis(matrix: sparse.csr_matrix, dim: int, rng: np.random.Generator) -> Floats:
    """(n_values, d) main directions of the rows, the strongest first; the identity if they fit."""
    n_values = matrix.shape[1]
    if n_values <= dim:
        return np.eye(n_values, dtype=np.float32)
    keep = min(dim, min(matrix.shape) - 1)
    if keep < 1:
        return np.zeros((n_values, 0), np.float32)
    start = rng.standard_normal(min(matrix.shape))
    _, strength, directions = svds(matrix.astype(np.float64), k=keep, v0=start)
    directions = directions[np.argsort(-strength)].T
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), range(keep)])
    basis: Floats = (directions * signs).astype(np.float32)
    return basis
