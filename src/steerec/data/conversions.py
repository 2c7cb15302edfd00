"""The official files of public data sets into canonical tables."""

import ast
import gzip
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from steerec.data.read import read_tables
from steerec.data.tables import Tables
from steerec.errors import DataError, MissingExtraError

# Codes of users.dat, from the README inside ml-1m.zip.
_AGES = {
    "1": "Under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_OCCUPATIONS = (
    "other",
    "academic, educator",
    "artist",
    "clerical, admin",
    "college, grad student",
    "customer service",
    "doctor, health care",
    "executive, managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales, marketing",
    "scientist",
    "self-employed",
    "technician, engineer",
    "tradesman, craftsman",
    "unemployed",
    "writer",
)
_RETAIL_COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
_ASIN = re.compile(r"'asin': '([^']+)'")


def convert_movielens(folder: Path) -> Tables:
    """Read an unpacked ml-1m or ml-100k; the age and occupation codes of ml-1m become words.

    Raises:
        DataError: if a file is missing or of another form.
    """
    tables = read_tables(folder).tables
    events = tables.events.drop("basket").with_columns(pl.col("timestamp").cast(pl.Int64))
    users = tables.users
    if users is not None and (folder / "users.dat").exists():
        numbers = {str(i): name for i, name in enumerate(_OCCUPATIONS)}
        users = users.with_columns(
            pl.col("age").cast(pl.String).replace(_AGES).alias("age_band"),
            pl.col("occupation").cast(pl.String).replace(numbers),
        ).drop("age")
    return Tables(events, tables.items, users)


def check_excel_reader() -> None:
    """Make sure that Excel files can be read, before anything large is downloaded.

    Raises:
        MissingExtraError: naming the command that installs the reader.
    """
    if find_spec("fastexcel") is None:
        raise MissingExtraError(
            "online-retail is published as an Excel file, and no reader for it is installed: "
            "pip install 'steerec[excel]', or fastexcel"
        )


def convert_retail(workbook: Path) -> Tables:
    """Read the UCI workbook of online-retail.

    Raises:
        MissingExtraError: if no Excel reader is installed.
        DataError: if its columns are others.
    """
    check_excel_reader()
    texts = dict.fromkeys(("InvoiceNo", "StockCode", "Description", "Country"), pl.String)
    return retail_tables(pl.read_excel(workbook, schema_overrides=texts))


def retail_tables(lines: pl.DataFrame) -> Tables:
    """Turn invoice lines into events, goods and customers.

    An invoice starting with C is a return, with A an adjustment; the value is the quantity. The
    clock is UK local time read as UTC. A title is the commonest text on purchase lines.

    Raises:
        DataError: if a column is missing.
    """
    missing = [name for name in _RETAIL_COLUMNS if name not in lines.columns]
    if missing:
        raise DataError(f"the workbook lacks {missing}; it has {lines.columns}: download it again")
    invoice = pl.col("InvoiceNo").cast(pl.String)
    events = lines.select(
        pl.col("CustomerID").cast(pl.Float64).cast(pl.Int64).cast(pl.String).alias("user_id"),
        pl.col("StockCode").cast(pl.String).str.strip_chars().alias("item_id"),
        pl.when(invoice.str.starts_with("C"))
        .then(pl.lit("return"))
        .when(invoice.str.starts_with("A"))
        .then(pl.lit("adjustment"))
        .when(pl.col("Quantity") > 0)
        .then(pl.lit("purchase"))
        .otherwise(pl.lit("stock_correction"))
        .alias("event"),
        pl.col("Quantity").cast(pl.Float64).alias("value"),
        pl.col("InvoiceDate").cast(pl.Datetime("us")).dt.epoch("s").alias("timestamp"),
        invoice.alias("invoice_no"),
        pl.col("UnitPrice").cast(pl.Float64).alias("unit_price"),
        pl.col("Country").alias("country"),
        pl.col("Description").cast(pl.String).str.strip_chars().alias("title"),
    )
    bought = events.filter((pl.col("event") == "purchase") & (pl.col("title") != ""))
    items = (
        events.group_by("item_id")
        .agg(pl.col("unit_price").filter(pl.col("unit_price") > 0).median().alias("price"))
        .join(_commonest(bought, "item_id", "title"), on="item_id", how="left")
        .select("item_id", "title", "price")
        .sort("item_id")
    )
    known = events.filter(pl.col("user_id").is_not_null())
    users = _commonest(known, "user_id", "country").sort("user_id")
    return Tables(events.drop("title"), items, users)


def _commonest(rows: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
    """key, name: the commonest value of each key, the alphabetically first of equals."""
    counts = rows.drop_nulls(name).group_by(key, name).len()
    order = counts.sort(key, "len", name, descending=[False, True, False])
    return order.unique(key, keep="first", maintain_order=True).select(key, name)


def convert_amazon(reviews: Path, catalogue: Path) -> Tables:
    """Read 5-core reviews (JSON lines) and the catalogue (lines of Python literals), both gzip.

    Times are whole days: the order within a day is the file's. Texts of reviews are left out, as
    they tell what the reader is to predict.

    Raises:
        DataError: if a file is damaged or of another form, naming the line.
    """
    rows = []
    for number, line in _lines(reviews):
        try:
            review = json.loads(line)
            stars, day = float(review["overall"]), int(review["unixReviewTime"])
            rows.append((review["reviewerID"], review["asin"], "rating", stars, day))
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"{reviews} line {number} is no review ({e!r})") from e
    schema = {
        "user_id": pl.String,
        "item_id": pl.String,
        "event": pl.String,
        "value": pl.Float64,
        "timestamp": pl.Int64,
    }
    events = pl.DataFrame(rows, schema=schema, orient="row")
    return Tables(events, _amazon_items(catalogue, set(events["item_id"].to_list())))


def _amazon_items(catalogue: Path, wanted: set[str]) -> pl.DataFrame:
    rows = []
    for number, line in _lines(catalogue):
        found = _ASIN.search(line)
        # Most lines belong to products outside the 5-core; parsing them would take a minute.
        if found is None or found[1] not in wanted:
            continue
        try:
            rows.append(_amazon_item(ast.literal_eval(line)))
        except (ValueError, SyntaxError, KeyError, TypeError) as e:
            raise DataError(f"{catalogue} line {number} is no product ({e!r})") from e
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "item_id": pl.String,
        "title": pl.String,
        "description": pl.String,
        "categories": pl.List(pl.String),
        "brand": pl.String,
        "price": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _amazon_item(entry: dict[str, Any]) -> tuple[Any, ...]:
    paths = entry.get("categories") or [[]]
    labels = list(dict.fromkeys(label for path in paths for label in path))
    price = entry.get("price")
    return (
        entry["asin"],
        entry.get("title"),
        entry.get("description"),
        labels,
        entry.get("brand") or None,
        None if price is None else float(price),
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(f"{path} is damaged ({e}): download it again") from e
