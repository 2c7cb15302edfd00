"""The Dataset: order, indices, baskets, subsets, and what is saved comes back."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.data.dataset import Dataset, build_dataset
from steerec.errors import DataError


def shop():
    """Two users, three items (one without events), given out of order."""
    events = pl.DataFrame(
        {
            "user_id": ["b", "a", "b", "b"],
            "item_id": ["y", "x", "x", "y"],
            "event": ["purchase", "view", "dislike", "wink"],
            "value": [2.0, None, 1.0, None],
            "timestamp": [30.0, 5.0, 10.0, 20.0],
            "basket": ["late", None, "early", "late"],
        }
    )
    items = pl.DataFrame({"item_id": ["z", "y", "x"], "title": ["Z", "Y", "X"]})
    return build_dataset(events, items)


def visited(data, user):
    return [str(data.item_ids[i]) for i in data.history(data.user_index[user]).item_idx]


def ordered(**columns):
    n = len(next(iter(columns.values())))
    frame = pl.DataFrame({"user_id": ["u"] * n, "item_id": [str(k) for k in range(n)], **columns})
    return "".join(visited(build_dataset(frame), "u"))


def test_events_stand_in_order_of_time_with_ties_in_file_order():
    assert ordered(timestamp=[3.0, 1.0, 3.0, 2.0]) == "1302"


def test_seq_beats_time_where_every_row_has_one():
    assert ordered(timestamp=[3.0, 1.0, 2.0], seq=[0, 1, 2]) == "012"
    assert ordered(timestamp=[3.0, 1.0, 2.0], seq=[0, 1, None]) == "120"


def test_without_times_the_file_order_stands():
    assert ordered(event=["view"] * 3) == "012"


def test_unknown_times_come_last():
    assert ordered(timestamp=[None, 2.0, None, 1.0]) == "3102"


def test_items_keep_the_catalogue_order_and_users_are_sorted():
    data = shop()
    assert data.item_ids.tolist() == ["z", "y", "x"]
    assert data.user_ids.tolist() == ["a", "b"]
    assert (data.n_users, data.n_items, data.n_events) == (2, 3, 4)
    assert data.item_index == {"z": 0, "y": 1, "x": 2}


def test_ids_that_only_events_name_are_added_behind_the_catalogue():
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["new", "old"]})
    data = build_dataset(events, pl.DataFrame({"item_id": ["old"], "title": ["Old"]}))
    assert data.items.rows() == [("old", "Old"), ("new", None)]


def test_kinds_bring_their_weight_and_unknown_kinds_weigh_1():
    history = shop().history(1)
    assert history.weight.tolist() == [-1.0, 1.0, 3.0]
    assert history.time.tolist() == [10.0, 20.0, 30.0]


def test_own_weights_replace_the_usual_ones():
    events = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "event": ["view"]})
    assert build_dataset(events, weights={"view": 0.25}).weight.tolist() == [0.25]


def test_baskets_are_numbered_in_order_of_time():
    data = shop()
    assert data.basket.tolist() == [-1, 0, 1, 1]
    assert not data.has_baskets


def test_baskets_without_times_are_numbered_by_first_row():
    events = pl.DataFrame(
        {"user_id": ["b", "a", "b"], "item_id": ["x"] * 3, "basket": ["q", "p", "q"]}
    )
    data = build_dataset(events)
    assert data.basket.tolist() == [1, 0, 0]
    assert data.has_baskets
    assert not data.has_times


def test_the_matrix_and_counts_hold_positive_evidence_only():
    data = shop()
    assert data.matrix().toarray().tolist() == [[0, 0, 1], [0, 1, 0]]
    assert data.counts().tolist() == [0, 2, 1]


def test_by_time_orders_all_users_events_with_ties_in_file_order():
    events = pl.DataFrame(
        {"user_id": ["b", "a", "c"], "item_id": ["0", "1", "2"], "timestamp": [7.0, 7.0, 1.0]}
    )
    data = build_dataset(events)
    assert data.row[data.by_time()].tolist() == [2, 0, 1]


def test_take_keeps_users_and_items_and_drops_events():
    data = shop()
    part = data.take(data.time > 15)
    assert part.n_events == 2
    assert (part.n_users, part.n_items) == (2, 3)
    assert [len(part.history(u)) for u in range(2)] == [0, 2]
    assert part.starts.tolist() == [0, 0, 2]


def test_compact_drops_what_has_no_events():
    data = shop().with_vectors(np.eye(3, dtype=np.float32))
    part = data.take(data.user_idx == 0).compact()
    assert part.user_ids.tolist() == ["a"]
    assert part.item_ids.tolist() == ["x"]
    assert part.items["title"].to_list() == ["X"]
    assert part.vectors.tolist() == [[0, 0, 1]]
    assert visited(part, "a") == ["x"]


def test_vectors_must_fit_the_catalogue_and_be_finite():
    with pytest.raises(DataError, match=r"shape \(2, 4\), expected \(3, dim\)"):
        shop().with_vectors(np.zeros((2, 4), np.float32))
    with pytest.raises(DataError, match="NaN"):
        shop().with_vectors(np.full((3, 4), np.nan, np.float32))


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        ({"user": ["u"], "item_id": ["i"]}, None, r"no column \['user_id'\]"),
        ({"user_id": [], "item_id": []}, None, "no events"),
        ({"user_id": ["u", None], "item_id": ["i", "i"]}, None, "1 event without a user or item"),
        ({"user_id": ["u"], "item_id": ["i"]}, {"item_id": ["i", "i"]}, "item_id is not unique"),
    ],
)
def test_tables_that_were_not_cleaned_are_refused(events, items, message):
    with pytest.raises(DataError, match=message):
        build_dataset(pl.DataFrame(events), None if items is None else pl.DataFrame(items))


def same(a, b):
    arrays = ("user_ids", "item_ids", "user_idx", "item_idx", "kind", "basket", "row")
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)
    for name in ("weight", "value", "time"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.kinds == b.kinds
    assert a.items.equals(b.items)
    assert a.users.equals(b.users)
    assert a.content_hash == b.content_hash


def test_a_saved_dataset_comes_back_whole(tmp_path):
    data = shop().with_vectors(np.eye(3, dtype=np.float32))
    data.save(tmp_path / "made" / "here")
    loaded = Dataset.load(tmp_path / "made" / "here")
    same(data, loaded)
    assert np.array_equal(data.vectors, loaded.vectors)


@pytest.mark.parametrize("column", ["item_idx", "value", "time", "kind"])
def test_altered_events_are_refused(tmp_path, column):
    shop().save(tmp_path)
    path = tmp_path / "events.parquet"
    frame = pl.read_parquet(path)
    changed = frame.with_columns(pl.when(pl.col("row") == 0).then(0).otherwise(pl.col(column)))
    frame.with_columns(changed["literal"].cast(frame.schema[column]).alias(column)).write_parquet(
        path
    )
    with pytest.raises(DataError, match="was altered"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize("name", ["items", "users", "vectors", "events"])
def test_every_altered_file_is_named(tmp_path, name):
    users = pl.DataFrame({"user_id": ["a", "b"], "age": [30, 40]})
    data = replace(shop(), users=users).with_vectors(np.eye(3, dtype=np.float32))
    data.save(tmp_path)
    path = next(tmp_path.glob(f"{name}.*"))
    changes = {"items": ("title", "Y!"), "users": ("age", 31), "events": ("basket", 7)}
    if name == "vectors":
        np.save(path, data.vectors[::-1])
    else:
        column, value = changes[name]
        frame = pl.read_parquet(path)
        frame[0, column] = value
        frame.write_parquet(path)
    with pytest.raises(DataError, match=rf"was altered: {path.name} is not the file"):
        Dataset.load(tmp_path)


def test_files_of_others_in_the_folder_may_change(tmp_path):
    (tmp_path / "theirs.parquet").write_bytes(b"one")
    shop().save(tmp_path)
    (tmp_path / "theirs.parquet").write_bytes(b"two")
    same(shop(), Dataset.load(tmp_path))


def test_saving_without_vectors_over_some_leaves_none(tmp_path):
    shop().with_vectors(np.eye(3, dtype=np.float32)).save(tmp_path)
    shop().save(tmp_path)
    assert Dataset.load(tmp_path).vectors is None


def test_the_content_hash_of_the_events_stays_what_it_was():
    # Benchmarks compare it with the figures of older versions.
    told = "b8b05e6f36279db22e8487bcc7a46eb1df236619ac59ce6fcb85b028fc67eb5f"
    assert shop().content_hash == told
    assert shop().with_vectors(np.eye(3, dtype=np.float32)).content_hash == told


def test_a_damaged_or_foreign_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no saved dataset"):
        Dataset.load(tmp_path)
    shop().save(tmp_path)
    events = tmp_path / "events.parquet"
    whole = events.read_bytes()
    events.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"was altered: events\.parquet"):
        Dataset.load(tmp_path)
    events.unlink()
    with pytest.raises(DataError, match="no saved dataset"):
        Dataset.load(tmp_path)
    about = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(DataError, match="format 99, expected 2: import the data again"):
        Dataset.load(tmp_path)


def test_the_content_hash_follows_the_content():
    data = shop()
    assert data.content_hash == shop().content_hash
    assert data.take(data.time > 5).content_hash != data.content_hash


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
row = st.tuples(
    ids,
    ids,
    st.sampled_from(["view", "cart", "物"]),
    st.one_of(st.none(), st.floats(width=32, allow_nan=False)),
    st.one_of(st.none(), st.integers(0, 5).map(float)),
    st.one_of(st.none(), st.sampled_from(["b1", "b2"])),
)
COLUMNS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "event": pl.String,
    "value": pl.Float64,
    "timestamp": pl.Float64,
    "basket": pl.String,
}


@settings(max_examples=40, deadline=None)
@given(st.lists(row, min_size=1, max_size=20))
def test_any_events_agree_with_the_obvious_sort_and_survive_saving(tmp_path_factory, records):
    data = build_dataset(pl.DataFrame(records, schema=COLUMNS, orient="row"))
    for user in {r[0] for r in records}:
        own = [r for r in records if r[0] == user]
        own.sort(key=lambda r: math.inf if r[4] is None else r[4])  # stable: ties in file order
        assert visited(data, user) == [r[1] for r in own]
    folder = tmp_path_factory.mktemp("data")
    data.save(folder)
    same(data, Dataset.load(folder))
