"""Attributes that do not fit what other items have: refused where they come in, never lost."""

import json
from datetime import date, datetime

import polars as pl
import pytest

from engine_worlds import model
from service_worlds import problem
from steerec.engine.columns import MISFIT, reading
from steerec.engine.growth import ItemChange, changed

NUMBER = "attribute 'price' is 'dear': expected a number, as items have it there: send that or null"


@pytest.mark.parametrize(
    ("kind", "fits", "misfits"),
    [
        (pl.Float64, {3: 3.0, "12.5": 12.5, True: 1.0}, ["dear", "", "1_000", "nan", 10**400, {}]),
        (pl.Int8, {3: 3, 4.0: 4, "7": 7}, [3.5, 128, -129, "7.5", "x", [1]]),
        (pl.UInt64, {2**64 - 1: 2**64 - 1}, [-1, 2**64]),
        (pl.Boolean, {True: True, 0: False}, ["true", 2, []]),
        (pl.String, {3: "3", "x": "x", False: "False"}, []),
        (pl.List(pl.Float64), {3: [3.0], ("1", 2): [1.0, 2.0]}, ["x", [1, "x"]]),
        (pl.Date, {"2026-01-31": date(2026, 1, 31)}, ["soon", 1.7e9, True]),
        (pl.Datetime, {"2026-01-31T10:00:00": datetime(2026, 1, 31, 10)}, ["soon", 1.5, [1]]),
        (pl.Categorical, {"red": "red"}, []),
    ],
)  # fmt: skip
def test_a_column_reads_what_it_can_hold_and_nothing_else(kind, fits, misfits):
    read = reading(pl.Series([], dtype=kind).dtype)
    for given, held in fits.items():
        assert read(given) == held
        assert pl.Series([read(given)], dtype=kind).to_list() == [held]
    assert [read(one) for one in misfits] == [MISFIT] * len(misfits)


def test_whole_numbers_become_any_numbers_where_one_is_no_longer_whole():
    grown = changed(model(), [ItemChange("a", {"weight": 3}), ItemChange("b", {"weight": 4})])
    whole = grown.data.items.with_columns(pl.col("weight").cast(pl.Int64))
    grown.data.__dict__["items"] = whole
    assert changed(grown, [ItemChange("a", {"weight": 5})]).data.items["weight"].dtype == pl.Int64
    wider = changed(grown, [ItemChange("a", {"weight": 4.5})])
    assert wider.data.items["weight"].to_list()[-2:] == [4.5, 4.0]


def test_text_for_a_number_is_refused_by_every_call_that_writes_items(shop):
    before = shop.get("/api/items/i0003").json()
    good, wrong = {"id": "good"}, {"id": "i0003", "attributes": {"price": "dear"}}
    lines = "\n".join(map(json.dumps, (good, wrong)))
    calls = (
        ("POST", "/api/items", {"json": wrong}),
        ("POST", "/api/items", {"json": {"entries": [good, wrong]}}),
        ("PATCH", "/api/items/i0003", {"json": {"attributes": {"price": "dear"}}}),
        ("POST", "/api/items/import", {"content": lines}),
    )
    for method, path, body in calls:
        told = problem(shop.call(method, path, **body), 422)
        assert f"item 'i0003': {NUMBER}" in told
        assert ("line 2" in told) == path.endswith("import")
    assert shop.get("/api/items/i0003").json() == before
    assert shop.get("/api/items/good").status_code == 404  # all are stored, or none
    assert shop.post("/api/items", {"id": "i0003", "attributes": {"price": "4.5"}}).is_success
    shop.settle()
    assert "i0003" in shop.ids("new", n=60, filter="price == 4.5")


def test_items_of_one_call_must_agree_on_what_an_attribute_of_theirs_is(shop):
    entries = [{"id": "a", "attributes": {"size": 3}}, {"id": "b", "attributes": {"size": "big"}}]
    told = problem(shop.post("/api/items", {"entries": entries}), 422)
    assert "item 'b': attribute 'size' is 'big': expected a number" in told
    assert shop.post("/api/items", {"entries": entries[1:]}).is_success
    shop.settle()  # which makes it a text
    assert shop.post("/api/items", {"entries": entries[:1]}).is_success
    shop.settle()
    assert set(shop.ids("new", n=62, filter='size in ["3", "big"]')) == {"a", "b"}
    assert shop.post("/api/users", {"id": "ann", "attributes": {"price": "dear"}}).is_success


def test_labels_of_gorse_are_kept_whatever_they_are_and_counted_where_no_filter_can_use_them(shop):
    label = {"ItemId": "i0003", "Labels": {"price": "dear", "made": "2026"}}
    assert shop.post("/gorse/api/item", label).is_success
    shop.settle()
    assert shop.get("/gorse/api/item/i0003").json()["Labels"] == label["Labels"]
    assert "i0003" not in shop.ids("new", n=60, filter="price > 0")
    metrics = shop.get("/metrics").text
    assert 'steerec_applied_total{tenant="default",what="values_left_out"} 1.0' in metrics
