"""Reading CSV, JSON lines, Parquet, folders and databases, and refusing what is damaged."""

import datetime as dt
import gzip
import json
import os
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.data.read import read_tables
from steerec.errors import DataError, MissingExtraError

CSV = "user_id,item_id,event,value,timestamp\n007,a b,view,,1700000000\nü,物,cart,2.5,1700000060\n"
ROWS = [
    ("007", "a b", "view", None, 1700000000.0, None),
    ("ü", "物", "cart", 2.5, 1700000060.0, None),
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(source, **options):
    events = read_tables(source, **options).tables.events
    return events.select("user_id", "item_id", "event", "value", "timestamp", "basket").rows()


def test_csv_keeps_ids_as_text_and_types_the_rest(tmp_path):
    assert rows(write(tmp_path / "e.csv", CSV)) == ROWS


def test_tsv_is_read_by_tabs(tmp_path):
    assert rows(write(tmp_path / "e.tsv", CSV.replace(",", "\t"))) == ROWS


def test_gzip_and_zstandard_give_the_same_rows(tmp_path):
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    pl.DataFrame({"line": CSV.strip().split("\n")}).write_csv(
        tmp_path / "e.csv.zst",
        include_header=False,
        quote_style="never",
        separator="\x01",
        compression="zstd",
    )
    assert rows(tmp_path / "e.csv.gz") == ROWS
    assert rows(tmp_path / "e.csv.zst") == ROWS


def test_json_lines_and_parquet_give_the_same_rows(tmp_path):
    frame = pl.DataFrame(
        [r[:5] for r in ROWS],
        schema=["user_id", "item_id", "event", "value", "timestamp"],
        orient="row",
    )
    frame.write_ndjson(tmp_path / "e.jsonl")
    frame.write_parquet(tmp_path / "e.parquet")
    (tmp_path / "e.ndjson.gz").write_bytes(gzip.compress((tmp_path / "e.jsonl").read_bytes()))
    for name in ("e.jsonl", "e.parquet", "e.ndjson.gz"):
        assert rows(tmp_path / name) == ROWS


def test_times_may_be_iso_texts_with_and_without_zone(tmp_path):
    texts = [
        "1970-01-02T00:00:00Z",
        "1970-01-02T01:00:00+01:00",
        "1970-01-02 00:00:00",
        "1970-01-02",
        "86400",
        "1970-01-02T00:00:00.500Z",
        "1970/01/02",
    ]
    text = "user_id,item_id,timestamp\n" + "".join(f"u,i,{t}\n" for t in texts)
    times = read_tables(write(tmp_path / "e.csv", text)).tables.events["timestamp"].to_list()
    assert times == [86400.0, 86400.0, 86400.0, 86400.0, 86400.0, 86400.5, 86400.0]


def test_compact_dates_are_no_seconds(tmp_path):
    path = write(tmp_path / "e.csv", "user_id,item_id,date\nu,i,19700102\nu,j,19700103\n")
    assert read_tables(path).tables.events["timestamp"].to_list() == [86400.0, 172800.0]


@pytest.mark.parametrize(
    "column",
    [
        [dt.date(1970, 1, 2)],
        [dt.datetime(1970, 1, 2)],
        [dt.datetime(1970, 1, 2, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))],
        [86400],
        [86400.0],
    ],
)
def test_parquet_times_of_any_type_become_seconds(tmp_path, column):
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": column})
    frame.write_parquet(tmp_path / "e.parquet")
    assert read_tables(tmp_path / "e.parquet").tables.events["timestamp"].to_list() == [86400.0]


def test_float_ids_from_pandas_lose_their_point_zero(tmp_path):
    frame = pl.DataFrame({"user_id": [17850.0, None], "item_id": [1, 2]})
    frame.write_parquet(tmp_path / "e.parquet")
    assert read_tables(tmp_path / "e.parquet").tables.events["user_id"].to_list() == ["17850", None]


def test_own_columns_are_kept_and_typed_only_where_nothing_changes(tmp_path):
    path = write(
        tmp_path / "e.csv", "user_id,item_id,zip,depth,ratio\nu,i,01234,3,0.5\nu,j,99999,4,1.5\n"
    )
    events = read_tables(path).tables.events
    assert events["zip"].to_list() == ["01234", "99999"]
    assert events["depth"].to_list() == [3, 4]
    assert events["ratio"].to_list() == [0.5, 1.5]


def test_mixed_types_keep_the_text_and_mark_the_cell(tmp_path):
    text = "user_id,item_id,value,timestamp\nu,i,3,1700000000\nu,j,many,1700000001\nu,k,4,soon\n"
    tables = read_tables(write(tmp_path / "e.csv", text)).tables
    assert tables.events["value"].is_nan().to_list() == [False, True, False]
    assert tables.events["value_text"].to_list() == [None, "many", None]
    assert tables.events["timestamp_text"].to_list() == [None, None, "soon"]
    assert "'many'" in tables.notes["value"]


def test_json_lines_with_mixed_id_types_become_texts(tmp_path):
    lines = [{"user_id": 1, "item_id": "i", "x": [1]}, {"user_id": "b", "item_id": 2, "x": 3}]
    path = write(tmp_path / "e.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    assert [r[:2] for r in rows(path)] == [("1", "i"), ("b", "2")]


def test_a_column_of_another_kind_is_refused_by_name(tmp_path):
    text = "user_id,item_id,value\nu,i,red\nu,j,blue\n"
    with pytest.raises(DataError, match=r"'value'.*such as \['red'\].*a number.*value=COLUMN"):
        read_tables(write(tmp_path / "e.csv", text))


def test_bytes_are_no_ids_and_lists_of_bytes_become_texts(tmp_path):
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "x": [[b"\xff"]]})
    frame.write_parquet(tmp_path / "e.parquet")
    assert read_tables(tmp_path / "e.parquet").tables.events["x"].to_list() == [["ff"]]
    frame.with_columns(user_id=pl.lit(b"\xff")).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"'user_id'.*expected a text"):
        read_tables(tmp_path / "e.parquet")


def test_day_first_dates_are_refused_rather_than_guessed(tmp_path):
    text = "user_id,item_id,timestamp\nu,i,12/1/2010 8:26\n"
    with pytest.raises(DataError, match="ISO 8601"):
        read_tables(write(tmp_path / "e.csv", text))


def test_the_shared_layout_is_read_from_a_folder(tmp_path):
    pl.DataFrame(
        {
            "user_id": ["u"],
            "item_id": ["i"],
            "event": ["purchase"],
            "invoice_no": ["n1"],
            "row": [9],
        }
    ).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame({"item_id": ["i"], "title": ["T"], "genres": [["A", "B"]]}).write_parquet(
        tmp_path / "items.parquet"
    )
    write(tmp_path / "users.csv", "user_id,age\nu,33\n")
    result = read_tables(tmp_path)
    assert result.kind == "folder"
    assert result.tables.events["basket"].to_list() == ["n1"]
    assert result.tables.events["row"].to_list() == [9]
    assert result.tables.items["categories"].to_list() == [["A", "B"]]
    assert result.tables.users.rows() == [("u", 33)]
    assert set(result.guessed) == {"events.basket", "items.categories"}
    assert result.mapping["events.basket"] == "invoice_no"


def test_items_and_users_may_be_files_of_their_own(tmp_path):
    events = write(tmp_path / "log.csv", CSV)
    items = write(
        tmp_path / "shop.csv", 'sku,name,category\na b,Tea,Food|Drink\n物,Rice,"[""X""]"\n'
    )
    users = write(tmp_path / "people.jsonl", '{"customer":"007","age":40}\n')
    tables = read_tables(events, items=items, users=users).tables
    assert tables.items.to_dict(as_series=False) == {
        "item_id": ["a b", "物"],
        "title": ["Tea", "Rice"],
        "categories": [["Food", "Drink"], ["X"]],
    }
    assert tables.users.rows() == [("007", 40)]


def test_events_without_a_kind_say_how_they_were_taken(tmp_path):
    plain = read_tables(write(tmp_path / "a.csv", "user,item\nu,i\n")).tables
    rated = read_tables(write(tmp_path / "b.csv", "user,item,stars\nu,i,5\n")).tables
    bought = read_tables(write(tmp_path / "c.csv", "user,item,order_id\nu,i,o\n")).tables
    kinds = [t.events["event"].item() for t in (plain, rated, bought)]
    assert kinds == ["view", "rating", "purchase"]
    assert "row order" in plain.notes["timestamp"]
    assert "'view'" in plain.notes["event"]


def test_a_database_is_read_by_query(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as db:
        db.execute("create table orders (customer text, sku integer, t text, gone integer)")
        db.executemany(
            "insert into orders values (?, ?, ?, ?)",
            [("u", 1, "1970-01-02", 0), (None, 2, "1970-01-03", 0), ("w", 3, "1970-01-04", 1)],
        )
        db.execute("create table goods (sku integer, name text)")
        db.execute("insert into goods values (1, 'Tea')")
    db.close()
    result = read_tables(
        f"sqlite:///{path}",
        query="select customer, sku, t as timestamp from orders where gone = 0",
        items="goods",
    )
    assert result.kind == "sql"
    assert result.tables.events.select("user_id", "item_id", "timestamp").rows() == [
        ("u", "1", 86400.0),
        (None, "2", 172800.0),
    ]
    assert result.tables.items.rows() == [("1", "Tea")]


def test_a_database_without_a_query_reads_its_events_table(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as db:
        db.execute("create table events (user_id text, item_id text)")
        db.execute("insert into events values ('u', 'i')")
        db.execute("create table users (user_id text, age integer)")
        db.execute("insert into users values ('u', 30)")
    db.close()
    tables = read_tables(f"sqlite:///{path}").tables
    assert len(tables.events) == 1
    assert tables.users.rows() == [("u", 30)]


def test_database_errors_name_the_cause_and_hide_the_password(tmp_path):
    sqlite3.connect(tmp_path / "empty.db").close()
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    with pytest.raises(DataError, match="no table 'events'"):
        read_tables(empty)
    with pytest.raises(DataError, match="does not exist"):
        read_tables(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(DataError, match="no such table: absent"):
        read_tables(empty, query="select * from absent")
    with pytest.raises((DataError, MissingExtraError)) as caught:
        read_tables("mysql+aiomysql://me:secret@nowhere/db", query="select 1")
    assert "secret" not in str(caught.value)


def test_a_table_of_a_database_may_be_called_like_a_word_of_sql(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as db:
        db.execute('create table "order" (user_id text, item_id text)')
        db.execute("""insert into "order" values ('u', 'i')""")
    db.close()
    assert len(read_tables(f"sqlite:///{path}", query="order").tables.events) == 1


def test_a_query_for_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="database URL"):
        read_tables(write(tmp_path / "e.csv", CSV), query="select 1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.parquet", b"", r"e.parquet is empty \(0 bytes\)"),
        ("e.csv", b"", "is empty"),
        ("e.parquet", b"no parquet at all, but long enough", "damaged or not what its name says"),
        ("e.csv.gz", b"\x1f\x8bgarbage", "damaged.*Export it again"),
        ("e.jsonl", b'{"user_id": "u", "item_id": "i"}\n{oops\n', "line 2 is no JSON object"),
        ("e.jsonl", b'{"user_id": "u", "item_id": "i"}\n[1]\n', "line 2 is no JSON object"),
        ("e.csv", b"user_id;item_id\nu;i\n", "separate columns by commas"),
        ("e.csv", b"user_id,item_id\nu,i\nu,i,extra\n", "line 3 has 3 fields, the header 2"),
        ("e.csv", b'user_id,item_id\nu,i\nv,"j\nw,k\n', "line 3 cannot be cut.*quote left open"),
        (
            "e.csv.gz",
            gzip.compress(b"user_id,item_id\nu,i,extra\n", mtime=0),
            "line 2 has 3 fields",
        ),
        ("e.csv", b"user_id,item_id\nJos\xe9,i\n", "no UTF-8 text.*iconv"),
        ("e.csv", "user_id,item_id\nu,i\n".encode("utf-16"), "no UTF-8 text.*iconv"),
        ("e.tsv", "user_id\titem_id\nu\ti\n".encode("utf-16-le"), "no UTF-8 text.*iconv"),
        ("e.csv", b"\n\n", "has no rows"),
        ("e.csv", b"user_id,user_id,item_id\nu,v,i\n", "two columns are called 'user_id'"),
        ("e.xlsx", b"PK", "no known form"),
        (
            "e.csv",
            b"who,item_id\nu,i\n",
            r"no column for user_id; given: \['who', 'item_id'\].*--columns user_id=who",
        ),
    ],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_tables(tmp_path / name)


def test_missing_and_misplaced_paths_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_tables(tmp_path / "none.csv")
    with pytest.raises(DataError, match="holds no events"):
        read_tables(tmp_path)
    events = write(tmp_path / "e.csv", CSV)
    (tmp_path / "items.csv").mkdir()
    with pytest.raises(DataError, match="is a folder, expected a file"):
        read_tables(events, items=tmp_path / "items.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_permission_is_refused(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    try:
        with pytest.raises(DataError, match="permission"):
            read_tables(folder)
    finally:
        folder.chmod(0o700)


def test_a_header_without_rows_is_an_empty_table(tmp_path):
    assert read_tables(write(tmp_path / "e.csv", "user_id,item_id\n")).tables.events.is_empty()


names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(names, names, st.floats(allow_nan=False)), min_size=1, max_size=20))
def test_any_ids_survive_parquet_and_json_lines(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("ids")
    frame = pl.DataFrame(records, schema=["user_id", "item_id", "value"], orient="row")
    frame = frame.with_columns(pl.col("value").cast(pl.Float64))
    frame.write_parquet(folder / "e.parquet")
    assert [r[:2] for r in rows(folder / "e.parquet")] == [r[:2] for r in records]
    frame.select("user_id", "item_id").write_ndjson(folder / "e.jsonl")
    assert [r[:2] for r in rows(folder / "e.jsonl")] == [r[:2] for r in records]
