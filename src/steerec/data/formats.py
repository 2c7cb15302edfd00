"""CSV, JSON lines and Parquet files into raw tables, with errors that name the file."""

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from steerec.errors import DataError

_PACKED = (".gz", ".zst")
_SAMPLE_ROWS = 10_000


def form_of(path: Path) -> str | None:
    """Tell "csv", "tsv", "jsonl" or "parquet" from the name, None if it is none of these."""
    name = path.name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return _FORM_BY_SUFFIX.get(Path(name).suffix)


def read_frame(path: Path) -> pl.DataFrame:
    """Read one table as it is; all columns of a CSV stay texts, so that 007 is not 7.

    Raises:
        DataError: if the file is missing, unreadable, empty, or not what its name says.
    """
    form = form_of(path)
    if form is None:
        raise DataError(
            f"{path} is of no known form: expected .csv, .tsv, .jsonl, .ndjson (also .gz, .zst), "
            ".parquet, a MovieLens, RecBole or gorse file, a folder, or a database URL"
        )
    check_file(path)
    frame = guarded(path, lambda: _READERS[form](path))
    if not frame.columns:
        raise DataError(f"{path} has no columns: expected a header and rows")
    return frame


def check_file(path: Path) -> None:
    """Make sure that `path` is a file with something in it.

    Raises:
        DataError: naming the path and what is wrong.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, expected a file")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): export it again")
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror}): check path and permission") from e


def guarded(path: Path, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Run a reader; turn what the file system or Polars says into a DataError."""
    try:
        return read()
    except (PermissionError, FileNotFoundError) as e:
        raise DataError(f"{path} cannot be read ({e}): check path and permission") from e
    except pl.exceptions.NoDataError as e:
        raise DataError(f"{path} has no rows: expected a header and rows; export it again") from e
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        if "utf-8" in reason:
            raise _not_utf8(path, reason) from e
        raise DataError(
            f"{path} is damaged or not what its name says: {reason}. Export it again"
        ) from e


def _not_utf8(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is no UTF-8 text ({reason}): save it as UTF-8, in a spreadsheet as 'CSV UTF-8', "
        "in a shell with iconv -f WINDOWS-1252 (or UTF-16) -t UTF-8"
    )


def _read_csv(path: Path, separator: str = ",") -> pl.DataFrame:
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema=False)
    except pl.exceptions.ComputeError as e:
        if (where := _where_fields_fail(path, separator)) is None:
            raise
        raise DataError(f"{path} {where}: repair that line, or export the file again") from e
    _check_header(path, frame)
    return frame


def _where_fields_fail(path: Path, separator: str) -> str | None:
    """The first line with more fields than the header, or a quote left open; None: neither."""
    rows = csv.reader((line or "" for line in _lines(path)), delimiter=separator, strict=True)
    began, width = 1, 0
    try:
        for row in rows:
            width = width or len(row)
            if len(row) > width:
                return f"line {began} has {len(row)} fields, the header {width}"
            began = rows.line_num + 1
    except csv.Error as e:
        return f"line {began} cannot be cut into fields ({e}); is a quote left open there?"
    return None


def _check_header(path: Path, head: pl.DataFrame) -> None:
    strange = next((c for c in head.columns if "\x00" in c or "\ufffd" in c), None)
    if strange is not None:
        raise _not_utf8(path, f"a column is called {strange[:40]!r}")
    if len(head.columns) == 1 and any(s in head.columns[0] for s in ";\t|,"):
        raise DataError(
            f"{path} looks like one column {head.columns[0]!r}: separate columns by commas, "
            "or by tabs in a .tsv file"
        )


def with_number_types(frame: pl.DataFrame, keep: Collection[str]) -> pl.DataFrame:
    """Type text columns, but for `keep`, as numbers where no value changes by it (007 would)."""
    return frame.with_columns(
        _as_number(column)
        for column in frame
        if column.dtype == pl.String
        and column.name not in keep
        and column.null_count() < len(frame)
    )


def _as_number(texts: pl.Series) -> pl.Series:
    whole = texts.cast(pl.Int64, strict=False)
    if whole.null_count() == texts.null_count() and bool((whole.cast(pl.String) == texts).all()):
        return whole
    number = texts.cast(pl.Float64, strict=False)
    plain = texts.str.contains(r"^-?(0|[1-9][0-9]*)([.][0-9]+)?$").all()
    return number if plain and number.null_count() == texts.null_count() else texts


def _read_jsonl(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(path, infer_schema_length=_SAMPLE_ROWS)
    except pl.exceptions.PolarsError:
        # Mixed types or a broken line: slower, but exact about which.
        return from_records(list(read_json_lines(path)))


def read_json_lines(path: Path, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file, one by one; blank lines are passed over.

    Raises:
        DataError: naming the first line that is no JSON object.
    """
    check_file(path)
    for number, line in enumerate(_lines(path, limit), start=1):
        if line is None or not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as e:
            raise DataError(f"{path} line {number} is no JSON object ({e}): repair it") from e
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number} is no JSON object: expected {{...}}")
        yield record


def _lines(path: Path, limit: int | None = None) -> pl.Series:
    """The lines of a text file, unpacked; null where one is blank."""
    # A control character stands neither in JSON nor in a table: each line stays in one column.
    return guarded(
        path,
        lambda: pl.read_csv(
            path,
            has_header=False,
            separator="\x01",
            quote_char=None,
            infer_schema=False,
            n_rows=limit,
            new_columns=["line"],
        ),
    )["line"]


def from_records(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table of JSON objects; a column of mixed types becomes text."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return pl.DataFrame([_column(n, [r.get(n) for r in records]) for n in names])


def _column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pl.Series(name, values, strict=False)


_FORM_BY_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "csv": _read_csv,
    "tsv": lambda path: _read_csv(path, "\t"),
    "jsonl": _read_jsonl,
    "parquet": lambda path: pl.read_parquet(path, hive_partitioning=False),
}
