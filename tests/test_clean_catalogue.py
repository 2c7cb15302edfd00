"""Cleaning rules for items and users, and feature scaling."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.data.catalogue import clean_text, is_one_edit, spelling_map
from steerec.data.clean import clean
from steerec.data.rules import CleanConfig
from steerec.data.scale import Scaler
from steerec.data.tables import Tables
from steerec.errors import DataError

EVENTS = pl.DataFrame(
    {
        "user_id": ["u"],
        "item_id": ["i"],
        "event": ["view"],
        "value": [None],
        "timestamp": [None],
        "basket": [None],
    },
    schema_overrides={"value": pl.Float64, "timestamp": pl.Float64, "basket": pl.String},
)


def run(items=None, users=None, **config):
    return clean(Tables(EVENTS, items, users), CleanConfig(**config), now=1.7e9)


def count(cleaned, rule, table="items"):
    return next(r for r in cleaned.report.rules if r.rule == rule and r.table == table)


def test_a_second_row_for_an_item_or_user_goes_to_quarantine():
    items = pl.DataFrame({"item_id": ["a", "b", " a "], "title": ["first", "x", "second"]})
    users = pl.DataFrame({"user_id": ["u", "u", None], "age": [1, 2, 3]})
    done = run(items, users)
    assert done.tables.items["title"].to_list() == ["first", "x"]
    assert done.tables.users["age"].to_list() == [1]
    assert done.quarantine.select("table", "row", "rule").rows() == [
        ("items", 2, "duplicate_entries"),
        ("users", 2, "missing_ids"),
        ("users", 1, "duplicate_entries"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Caf\u0065\u0301  &amp;\tTea\x00\n", "Café & Tea"),
        ("ﬁne <b>bold</b><br/>next", "fine bold next"),
        ("a < b and c > d", "a < b and c > d"),
        ("\u200b  ", None),
        ("１００％ 棉", "100% 棉"),
        (None, None),
    ],
)
def test_texts_are_normalised(text, expected):
    assert clean_text(text) == expected


def test_changed_texts_are_counted():
    items = pl.DataFrame(
        {"item_id": ["a", "b"], "title": ["Tea ", "Tea"], "description": [None, ""]}
    )
    done = run(items)
    assert done.tables.items.rows() == [("a", "Tea", None), ("b", "Tea", None)]
    assert count(done, "texts").repaired == 2


def test_spellings_of_a_category_merge_into_the_commonest():
    lists = [["Sci-Fi"]] * 3 + [["sci fi", "Drama"], ["SCIFI", "Sci-Fi"], None]
    items = pl.DataFrame({"item_id": list("abcdef"), "categories": lists})
    done = run(items)
    assert done.tables.items["categories"].to_list() == [
        ["Sci-Fi"],
        ["Sci-Fi"],
        ["Sci-Fi"],
        ["Sci-Fi", "Drama"],
        ["Sci-Fi"],
        None,
    ]
    assert count(done, "categories").repaired == 2


def test_the_note_names_three_spellings_and_counts_the_rest():
    names = [["Garden"]] * 9 + [[g] for g in ("GARDEN", "garden", "gArden", "Garden!", "garden ")]
    items = pl.DataFrame({"item_id": [f"i{k}" for k in range(14)], "categories": names})
    note = count(run(items), "categories").note
    assert note.count("→") == 3
    assert note.endswith("and 2 more spellings")


def test_only_rare_and_long_misspellings_merge():
    spell = {"Kitchen": 100, "Kitchin": 5, "Kitchens": 6, "Hat": 100, "Het": 1, "Size 100": 100}
    renames = spelling_map({**spell, "Size 101": 1}, rare_ratio=0.05, min_chars=7)
    assert renames == {"Kitchin": "Kitchen"}


def test_signs_that_name_things_keep_short_categories_apart():
    assert spelling_map({"C": 9, "C++": 9, "C#": 9}, rare_ratio=0.05, min_chars=7) == {}


def edit_distance(a: str, b: str) -> int:
    """Optimal string alignment, the textbook table."""
    d = np.zeros((len(a) + 1, len(b) + 1), int)
    d[:, 0], d[0, :] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            d[i, j] = min(
                d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return int(d[-1, -1])


words = st.text("abc", max_size=6)


@settings(deadline=None)
@given(words, words)
def test_one_edit_agrees_with_the_distance_table(a, b):
    assert is_one_edit(a, b) == (edit_distance(a, b) == 1)


def prices(values, **config):
    items = pl.DataFrame(
        {
            "item_id": [f"i{k}" for k in range(len(values))],
            "categories": [["Tea"]] * len(values),
            "price": values,
        }
    )
    return run(items, **config)


def test_a_price_far_from_its_category_is_emptied_and_the_item_stays():
    usual = [9.0, 10.0, 11.0, 10.0] * 5
    done = prices([*usual, 999.0, 0.0, math.nan, None])
    assert done.tables.items["price"].to_list() == [*usual, None, None, None, None]
    emptied = done.quarantine
    assert emptied.select("row", "dropped").rows() == [(20, False), (21, False), (22, False)]
    assert json.loads(emptied["record"][0])["price"] == 999.0
    # log 99.9 = 4.6, the spread is held at 0.25
    assert emptied["reason"][0] == "price 999.0 has a robust z-score of 18.4"
    assert (count(done, "prices").repaired, count(done, "prices").rejected) == (3, 0)


def test_a_few_prices_are_no_base_for_a_judgement():
    assert prices([1.0, 1.0, 999.0]).quarantine.is_empty()


def test_a_dear_category_is_compared_with_itself():
    items = pl.DataFrame(
        {
            "item_id": [f"i{k}" for k in range(120)],
            "categories": [["Tea"]] * 100 + [["Car"]] * 20,
            "price": [5.0] * 100 + [30_000.0] * 20,
        }
    )
    assert run(items).quarantine.is_empty()


def test_robust_scaling_uses_median_and_quartiles_of_training_rows():
    training = pl.DataFrame({"price": [1.0, 2.0, 3.0, 4.0, 5.0], "same": [7, 7, 7, 7, 7]})
    scaler = Scaler.fit(training, ["price", "same"], method="robust")
    new = pl.DataFrame({"price": [3.0, 7.0, None], "same": [7.0, 8.0, math.nan]})
    expected = [[0, 0, 0, 0], [2, 1, 0, 0], [0, 0, 1, 1]]
    np.testing.assert_allclose(scaler.transform(new), expected)


def test_min_max_scaling_maps_training_rows_to_0_and_1():
    training = pl.DataFrame({"price": [10.0, 20.0, math.inf, None]})
    scaler = Scaler.fit(training, ["price"], method="minmax")
    np.testing.assert_allclose(
        scaler.transform(pl.DataFrame({"price": [10, 15, 30]})), [[0, 0], [0.5, 0], [2, 0]]
    )


def test_a_column_without_numbers_scales_to_missing():
    nothing = pl.DataFrame({"price": [None, None]})
    scaler = Scaler.fit(nothing, ["price"], method="robust")
    np.testing.assert_array_equal(scaler.transform(nothing), [[0, 1], [0, 1]])


def test_a_scaler_survives_json():
    scaler = Scaler.fit(pl.DataFrame({"x": [0.1, 0.7, 0.9]}), ["x"], method="robust")
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


@pytest.mark.parametrize("change", [{"spread": [0.0]}, {"center": []}, {"columns": None}])
def test_a_damaged_scaler_is_refused(change):
    about = Scaler.fit(pl.DataFrame({"x": [1.0]}), ["x"], method="minmax").to_dict()
    with pytest.raises(DataError, match="scaler"):
        Scaler.from_dict({**about, **change})


def test_texts_and_missing_columns_are_not_scaled():
    frame = pl.DataFrame({"x": ["a"]})
    with pytest.raises(DataError, match="expected numbers"):
        Scaler.fit(frame, ["x"], method="minmax")
    with pytest.raises(DataError, match="no column 'y'"):
        Scaler.fit(frame, ["y"], method="minmax")
    with pytest.raises(ValueError, match="unknown"):
        Scaler.fit(frame, ["x"], method="standard")
