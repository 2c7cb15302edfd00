"""RecBole's atomic files: tab-separated, a type after each column's name in the header."""

from pathlib import Path

import polars as pl

from steerec.data.formats import check_file, guarded
from steerec.data.tables import RawTables
from steerec.errors import DataError

_TYPES = ("token", "token_seq", "float", "float_seq")


def find_recbole(path: Path) -> Path | None:
    """The .inter file of a folder (or the file itself), None if there is none.

    Raises:
        DataError: if the folder holds several.
    """
    if not path.is_dir():
        return path if path.suffix == ".inter" else None
    found = sorted(path.glob("*.inter"))
    if len(found) > 1:
        raise DataError(f"{path} holds {[f.name for f in found]}: name the file to read")
    return found[0] if found else None


def read_recbole(inter: Path) -> RawTables:
    """Read the .inter file, and .item and .user of the same name where they exist.

    Raises:
        DataError: if a header has no types or a file is damaged.
    """
    sides = [inter.with_suffix(s) for s in (".item", ".user")]
    items, users = (read_atomic(p) if p.exists() else None for p in sides)
    return RawTables(read_atomic(inter), items, users, untyped=("events", "items", "users"))


def read_atomic(path: Path) -> pl.DataFrame:
    """One atomic file: tokens as texts, floats as numbers, sequences as lists.

    Raises:
        DataError: if a column has no type or an unknown one.
    """
    check_file(path)
    raw = guarded(
        path, lambda: pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    )
    return raw.select(_typed(path, name) for name in raw.columns)


def _typed(path: Path, header: str) -> pl.Expr:
    name, _, kind = header.rpartition(":")
    if kind not in _TYPES or not name:
        raise DataError(
            f"{path}: column {header!r} has no type: expected name:type with one of {_TYPES}"
        )
    column = pl.col(header)
    if kind == "token_seq":
        return column.str.split(" ").list.eval(pl.element().filter(pl.element() != "")).alias(name)
    if kind == "float_seq":
        return column.str.split(" ").cast(pl.List(pl.Float64), strict=False).alias(name)
    return column.alias(name)  # floats too: converted later, where bad ones are counted
