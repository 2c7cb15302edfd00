"""Finding the source's columns: given, guessed, refused."""

import pytest

from steerec.data.mapping import map_columns, parse_mapping
from steerec.errors import DataError


def test_a_mapping_is_parsed_from_text():
    assert parse_mapping(" user_id = customer ,item_id=sku, value=,") == {
        "user_id": "customer",
        "item_id": "sku",
        "value": "",
    }
    assert parse_mapping("") == {}
    assert parse_mapping("items.item_id=code") == {"items.item_id": "code"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id", "no '='"),
        ("user_id=a,user_id=b", "twice"),
        ("shopper=a", "unknown field 'shopper'"),
        ("items.basket=a", "unknown field"),
    ],
)
def test_a_wrong_mapping_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_mapping(text)


def test_common_names_are_guessed_and_reported():
    found = map_columns(
        "events", ["CustomerID", "StockCode", "Quantity", "InvoiceNo", "Country"], {}
    )
    assert found.columns == {
        "user_id": "CustomerID",
        "item_id": "StockCode",
        "value": "Quantity",
        "basket": "InvoiceNo",
    }
    assert set(found.guessed) == {"user_id", "item_id", "value", "basket"}


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("reviewerID", "asin", "unixReviewTime"),
        ("visitor_id", "product_id", "created_at"),
        ("USER", "movieId", "ts"),
        ("userId", "article-id", "event_time"),
    ],
)
def test_names_are_compared_without_case_and_signs(user, item, time):
    found = map_columns("events", [user, item, time], {})
    assert found.columns == {"user_id": user, "item_id": item, "timestamp": time}


def test_the_canonical_name_beats_a_synonym():
    found = map_columns("events", ["user_id", "customer", "item_id", "timestamp", "date"], {})
    assert found.columns["user_id"] == "user_id"
    assert found.columns["timestamp"] == "timestamp"
    assert found.guessed == ()


def test_two_fitting_columns_are_named_with_the_way_to_choose():
    with pytest.raises(DataError, match=r"'customer', 'visitor'.*user_id=customer"):
        map_columns("events", ["customer", "visitor", "item_id"], {})


def test_a_given_column_settles_the_choice():
    columns = ["customer", "visitor", "item_id"]
    found = map_columns("events", columns, {"user_id": "visitor"})
    assert found.columns["user_id"] == "visitor"
    assert found.guessed == ()


def test_an_empty_choice_means_no_such_column():
    found = map_columns("events", ["user", "item", "rating", "stars"], {"value": ""})
    assert "value" not in found.columns


def test_a_column_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"no column 'cust'; given: \['user', 'item'\]"):
        map_columns("events", ["user", "item"], {"user_id": "cust"})


def test_a_session_is_no_basket():
    assert "basket" not in map_columns("events", ["user", "item", "session_id"], {}).columns


def test_items_may_call_the_item_otherwise_than_events():
    assert map_columns("items", ["code", "name"], {"items.item_id": "code"}).columns == {
        "item_id": "code",
        "title": "name",
    }
    assert map_columns("items", ["sku"], {"item_id": "article"}).columns == {"item_id": "sku"}
