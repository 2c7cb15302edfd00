import json
import math
import re

import numpy as np
import polars as pl
import pytest

from steerec.data import health_facts
from steerec.data.dataset import build_dataset
from steerec.data.health import examine, examine_dataset
from steerec.errors import DataError
from steerec.evaluation.health_page import render_health

DAY = 86_400
START = 1_700_000_000


def shop(n_users=60, n_items=40, each=30, seed=0):
    """Events without any fault: every user an event an hour or more apart, no favourites."""
    rng = np.random.default_rng(seed)
    n = n_users * each
    items = np.concatenate([rng.permutation(n_items)[:each] for _ in range(n_users)])
    events = pl.DataFrame(
        {
            "user_id": np.repeat([f"u{i}" for i in range(n_users)], each),
            "item_id": [f"i{i}" for i in items],
            "event": "view",
            "value": None,
            "timestamp": START + np.arange(n) * 3700.0 + rng.integers(0, 99, n),
        },
        schema_overrides={"value": pl.Float64},
    )
    titles = [f"{c} {t} with {p}" for c in COLOURS for t in THINGS for p in PARTS][:n_items]
    catalogue = pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)], "title": titles})
    return events, catalogue


COLOURS = ("red", "blue", "green", "white", "black")
THINGS = tuple(f"{t} {n}" for n in "ABCDE" for t in ("lamp", "chair", "table", "mirror"))
PARTS = ("a drawer", "a handle")


def codes(health, severity=None):
    return {f.code for f in health.findings if severity in (None, f.severity)}


def test_a_sound_shop_has_no_warning_and_no_notice():
    events, items = shop()
    health = examine(events, items)
    assert {f.severity for f in health.findings} == {"ok"}
    assert health.counts["n_events"] == 1800
    assert health.counts["density"] == pytest.approx(1800 / (60 * 40))
    assert health.counts["repeat_share"] == 0


def test_each_fault_is_found_and_only_that():
    events, items = shop()
    user = pl.col("user_id")
    faults = {
        "missing_ids": events.with_columns(user_id=pl.when(pl.row_index() > 90).then(user)),
        "ties": events.with_columns(timestamp=pl.col("timestamp") // DAY * DAY + 5),
        "odd_times": events.with_columns(timestamp=pl.col("timestamp") * 1000),
        "missing_times": events.with_columns(
            timestamp=pl.when(pl.row_index() > 90).then("timestamp")
        ),
        "one_time": events.with_columns(timestamp=pl.lit(float(START))),
        "copies": pl.concat([events, events.head(90)]),
        "values_not_finite": events.with_columns(value=pl.lit(math.inf)),
        "no_times": events.drop("timestamp"),
        "heavy_user": events.with_columns(
            user_id=pl.when(pl.row_index() < 300).then(pl.lit("robot")).otherwise(user)
        ),
        "seq_against_time": events.with_columns(seq=-pl.row_index().cast(pl.Int64)),
    }
    side_effects = {"heavy_user": {"repeats"}}
    for code, broken in faults.items():
        found = examine(broken, items)
        bad = codes(found) - codes(found, "ok")
        assert code in bad, code
        assert bad <= {code} | side_effects.get(code, set()), (code, bad)


def test_facts_by_hand():
    events = pl.DataFrame(
        {
            "user_id": ["a", "a", "a", "b", "b"],
            "item_id": ["x", "x", "y", "x", "z"],
            "event": ["view", "buy", "view", "view", "view"],
            "timestamp": [float(START + s) for s in (0, 0, 60, 3 * DAY, 3 * DAY + 0.5)],
        }
    )
    facts = health_facts.event_facts(events)
    assert facts.n_pairs == 4
    assert facts.repeat_share == pytest.approx(1 / 5)
    assert health_facts.tie_share(facts) == pytest.approx(2 / 3)
    assert health_facts.events_per_day(facts)["events"].to_list() == [3, 0, 0, 2]
    assert health_facts.longest_gaps(facts, 1)["hours"].to_list() == pytest.approx([72 - 1 / 60])
    assert health_facts.kinds(facts)["events"].to_list() == [4, 1]
    assert health_facts.top_share(facts.per_item, 0.01) == 3 / 5
    lengths = health_facts.history_lengths(facts)
    assert lengths["length"].to_list()[:4] == ["1", "2", "3–5", "6–10"]
    assert lengths["users"].to_list()[:4] == [0, 1, 1, 0]


def test_the_tail_rises_from_nothing_to_all():
    events, _ = shop()
    tail = health_facts.long_tail(health_facts.event_facts(events))
    assert (tail["events"][0], tail["events"][-1]) == (0, 1)
    assert tail["events"].is_sorted()


def test_users_who_return_to_items_are_noticed():
    events, items = shop(each=10)
    again = events.with_columns(timestamp=pl.col("timestamp") + 90 * DAY)
    assert "repeats" in codes(examine(pl.concat([events, again]), items), "notice")


def test_a_long_hole_in_the_log_is_noticed():
    events, items = shop()
    later = pl.col("timestamp") + pl.when(pl.row_index() > 900).then(60 * DAY).otherwise(0)
    found = examine(events.with_columns(timestamp=later), items)
    assert codes(found, "notice") == {"days_without_events"}


def gaps(events, now=None):
    found = examine(events, shop()[1], now=now).findings
    return next((f for f in found if f.code == "days_without_events"), None)


def test_empty_days_made_by_a_few_wrong_times_name_them_as_the_cause():
    events, _ = shop()
    late, early = 3_000_000_000.0, 946_684_800.0  # 2065-01-24 and 2000-01-01
    wrong = pl.when(pl.row_index() < 2).then(late).when(pl.row_index() == 2).then(early)
    stretched = events.with_columns(timestamp=wrong.otherwise(pl.col("timestamp")))
    found = gaps(stretched, now=START + 100 * DAY)
    assert "The cause: 1 event before all others, such as on 2000-01-01; 2 events after" in (
        found.detail
    )
    assert "2065-01-24, which is in the future. Without them 0 of 77 days would" in found.detail
    assert "Look where the times" in found.remedy
    assert "in the future" not in gaps(stretched).detail


def test_a_hole_between_many_events_has_no_single_cause():
    events, _ = shop()
    hole = pl.col("timestamp") + pl.when(pl.row_index() > 900).then(60 * DAY).otherwise(0)
    found = gaps(events.with_columns(timestamp=hole))
    assert "The cause" not in found.detail
    assert found.remedy.startswith("Days of rest")


def test_impossible_times_are_counted_with_an_example_of_each_side():
    events, items = shop()
    wrong = pl.when(pl.row_index() < 2).then(3e9).when(pl.row_index() < 20).then(4e8)
    health = examine(
        events.with_columns(timestamp=wrong.otherwise(pl.col("timestamp"))), items, now=2e9
    )
    (found,) = [f for f in health.findings if f.code == "impossible_times"]
    assert found.detail == (
        "18 times before 1990, such as 1982-09-04; 2 times in the future, such as 2065-01-24: "
        "1.1% of all."
    )
    assert found.severity == "warning"


def test_counts_in_the_catalogue_are_leaks_by_name_or_by_number():
    events, items = shop(n_items=200)
    counted = items.join(events.group_by("item_id").len("popular"), on="item_id", how="left")
    assert "leaking_columns" in codes(examine(events, counted), "warning")
    hidden = counted.rename({"popular": "x"}).with_columns(pl.col("x") // 3)
    found = [f for f in examine(events, hidden).findings if f.code == "leaking_columns"]
    assert found[0].severity == "warning"
    assert "x: rise and fall" in found[0].detail
    price = items.with_columns(price=pl.Series(np.random.default_rng(1).random(len(items))))
    assert "leaking_columns" in codes(examine(events, price), "ok")


def test_item_texts_made_of_reviews_are_found_but_titles_in_events_are_not():
    events, items = shop()
    words = pl.format("{} liked {} very much {}", "user_id", "item_id", pl.row_index())
    reviews = events.with_columns(review=words)
    joined = reviews.group_by("item_id").agg(text=pl.col("review").str.join(" | "))
    leaking = items.join(joined, on="item_id", how="left")
    assert "texts_from_reviews" in codes(examine(reviews, leaking), "warning")
    flat = events.join(items, on="item_id").sort("timestamp")
    assert "texts_from_reviews" not in codes(examine(flat, items))


@pytest.mark.parametrize(
    ("titles", "code"),
    [
        (["红色台灯带抽屉", "蓝色椅子"] * 20, "not_english"),
        (["Tisch mit Lampe und Stuhl für die Küche"] * 40, "not_english"),
        (["4711-0815-99"] * 40, "codes_as_texts"),
        (["word " * 400] * 40, "long_texts"),
        ([""] * 39 + ["lamp"], "empty_texts"),
        (["lamp of brass"] * 40, "same_texts"),
    ],
)
def test_texts_that_do_not_fit_the_encoder_are_named(titles, code):
    events, items = shop()
    found = codes(examine(events, items.with_columns(title=pl.Series(titles))))
    assert code in found
    if code not in ("empty_texts", "same_texts"):
        assert "texts_fit" not in found


def test_catalogue_and_events_that_disagree_are_named():
    events, items = shop()
    fewer = items.filter(pl.col("item_id") != "i0")
    more = pl.concat([fewer, fewer.head(1), items.head(1).with_columns(item_id=pl.lit("new"))])
    found = codes(examine(events, more))
    assert {"duplicate_items", "items_not_in_catalogue", "items_without_events"} <= found


def test_empty_and_constant_columns_are_named():
    events, items = shop()
    odd = items.with_columns(
        brand=pl.lit("one"), size=pl.when(pl.row_index() == 0).then(1), tags=pl.lit(None)
    )
    details = {f.code: f.detail for f in examine(events, odd).findings}
    assert details["constant_items"].startswith("brand, tags")
    assert details["missing_items"] == "size (98%)"


def test_outcomes_and_missing_rows_of_users_are_named():
    events, items = shop()
    users = pl.DataFrame({"user_id": ["u0", "u1"], "final_result": ["pass", "fail"]})
    assert {"outcome_columns", "users_not_in_table"} <= codes(examine(events, items, users))


SMALL = {
    "one user": pl.DataFrame({"user_id": ["a"] * 3, "item_id": ["x", "y", "x"]}),
    "one event": pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [START]}),
    "one time": pl.DataFrame(
        {"user_id": ["a", "b"], "item_id": ["x", "x"], "timestamp": [START] * 2}
    ),
    "no user": pl.DataFrame(
        {"user_id": [None, None], "item_id": ["x", "y"], "timestamp": [START, START + 1]},
        schema_overrides={"user_id": pl.String},
    ),
    "wild times": pl.DataFrame(
        {
            "user_id": ["a", "b", "b"],
            "item_id": ["x", "x", "y"],
            "timestamp": [1e15, math.nan, -math.inf],
        }
    ),
    "odd names": pl.DataFrame(
        {"user_id": ["<b>", "用户 1"], "item_id": ["x" * 5000, "$y$"], "event": ["购买", "<i>"]}
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_smallest_sets_are_examined_and_drawn(name):
    health = examine(SMALL[name])
    assert "small" in codes(health, "warning")
    html = render_health(health, name="<set>")
    assert "Is this data fit to learn from?" in html
    assert "<set>" not in html
    assert "<i></td>" not in html
    json.dumps(health.as_json(), allow_nan=False)


def test_one_of_a_kind_is_told_in_the_singular():
    """One user without a row, one row without an item, one item again, one event twice."""
    rows = [("u", "x", 1.7e9, 1.0), ("u", "x", 1.7e9, 1.0), ("u", None, 1.7e9, math.nan)]
    columns = {"user_id": str, "item_id": str, "timestamp": float, "value": float}
    events = pl.DataFrame(rows, schema=columns, orient="row")
    users = pl.DataFrame({"user_id": ["v"], "age": [30]})
    items = pl.DataFrame({"item_id": ["y", "y"], "title": ["Cup", "Cup"]})
    health = examine(events, items, users)
    assert {"missing_ids", "copies", "duplicate_items", "small"} < codes(health)
    page = render_health(health, name="one")
    told = " ".join(f"{f.title} {f.detail} {f.remedy}" for f in health.findings) + page
    assert "1 user on 1 item." in told
    assert re.findall(r"(?<![\d.,])1(?:</?\w[^>]*>|\s)+\w+s\b", told) == []


def test_the_page_shows_every_finding_with_its_remedy():
    events, items = shop()
    health = examine(events.with_columns(timestamp=pl.col("timestamp") * 1000), items)
    html = render_health(health, name="shop")
    assert "Times that are no Unix seconds" in html
    assert "What to do: Cleaning turns milliseconds into seconds" in html
    assert "1 warning and 0 notices: look at it" in html


def test_a_dataset_is_examined_like_its_tables():
    events, items = shop()
    found = examine_dataset(build_dataset(events, items))
    assert found.counts == examine(events, items).counts
    assert codes(found) == codes(examine(events, items))


def test_tables_without_ids_or_rows_are_refused():
    events, items = shop()
    with pytest.raises(DataError, match="there are no events"):
        examine(events.clear())
    with pytest.raises(DataError, match="events has no column"):
        examine(events.drop("user_id"))
    with pytest.raises(DataError, match="items has no column"):
        examine(events, items.rename({"item_id": "sku"}))
