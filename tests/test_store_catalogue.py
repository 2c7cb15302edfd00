"""Items and users: kept, changed, deleted, followed, moved in and out."""

import json

import pytest

from steerec.errors import DataError
from steerec.store import open_store
from steerec.store.catalogue import Entry

NOW = 1_750_000_000.0
TEA = Entry(
    "tea",
    {"title": "绿茶", "price": 4.5, "tags": ["vegan"], "nested": {"a": None}},
    ("new", "drink"),
    hidden=True,
    published=NOW - 5,
    expires=NOW + 5,
    stock=7,
)


@pytest.fixture(params=["items", "users"])
def catalogue(request, store):
    return getattr(store, request.param)


@pytest.fixture
def items(sqlite_url):
    store = open_store(sqlite_url)
    yield store.items
    store.close()


def given(entry):
    """Without what the store adds."""
    ours = ("seq", "changed", "deleted", "added")
    return {k: getattr(entry, k) for k in Entry.__slots__ if k not in ours}


def test_an_entry_comes_back_as_it_was_given(catalogue):
    assert catalogue.upsert("shop", [TEA, Entry("cup")], now=NOW) == 2
    found = catalogue.get("shop", ["cup", "tea", "none", "tea"])
    assert {k: given(v) for k, v in found.items()} == {
        "tea": given(TEA),
        "cup": given(Entry("cup")),
    }
    assert (found["tea"].seq, found["tea"].changed) == (1, NOW)
    assert catalogue.get("other", ["tea"]) == {}


def test_an_upsert_overwrites_the_whole_entry_and_the_last_of_equal_ids_counts(catalogue):
    catalogue.upsert("shop", [TEA], now=NOW)
    catalogue.upsert("shop", [Entry("tea", {"a": 1}), Entry("tea", {"b": 2})], now=NOW + 1)
    assert given(catalogue.get("shop", ["tea"])["tea"]) == given(Entry("tea", {"b": 2}))
    assert catalogue.count("shop") == 1


def test_a_patch_changes_what_it_names_and_merges_attributes(catalogue):
    catalogue.upsert("shop", [TEA], now=NOW)
    changes = {"stock": 0, "hidden": False, "attributes": {"price": 5, "tags": None}}
    patched = catalogue.patch("shop", "tea", changes, now=NOW + 1)
    assert patched.attributes == {"title": "绿茶", "price": 5, "nested": {"a": None}}
    assert (patched.stock, patched.hidden, patched.labels) == (0, False, ("new", "drink"))
    assert catalogue.get("shop", ["tea"])["tea"] == patched
    assert catalogue.patch("shop", "none", {"stock": 1}, now=NOW) is None


def test_what_is_deleted_is_gone_and_may_come_back(catalogue):
    catalogue.upsert("shop", [TEA, Entry("cup")], now=NOW)
    assert catalogue.delete("shop", ["tea", "tea", "none"], now=NOW) == 1
    assert catalogue.get("shop", ["tea"]) == {}
    assert catalogue.patch("shop", "tea", {"stock": 1}, now=NOW) is None
    assert [e.id for e in catalogue.iterate("shop")] == ["cup"]
    catalogue.upsert("shop", [Entry("tea")], now=NOW)
    assert [e.id for e in catalogue.iterate("shop")] == ["cup", "tea"]


def test_an_entry_keeps_when_it_was_first_written(catalogue):
    catalogue.upsert("shop", [TEA], now=NOW)
    catalogue.upsert("shop", [TEA, Entry("cup")], now=NOW + 1)
    catalogue.patch("shop", "tea", {"stock": 1}, now=NOW + 2)
    catalogue.add("shop", [Entry("tea"), Entry("old")], now=NOW + 3, dated=False)
    catalogue.upsert("shop", [Entry("old")], now=NOW + 4)
    found = catalogue.get("shop", ["tea", "cup", "old"])
    assert {i: entry.added for i, entry in found.items()} == {
        "tea": NOW,
        "cup": NOW + 1,
        "old": None,
    }
    assert {entry.id: entry.added for entry in catalogue.changes("shop")}["tea"] == NOW


def test_others_follow_the_changes_in_order(catalogue):
    catalogue.upsert("shop", [Entry("a"), Entry("b"), Entry("c")], now=NOW)
    catalogue.patch("shop", "a", {"stock": 1}, now=NOW)
    catalogue.delete("shop", ["b"], now=NOW)
    changes = catalogue.changes("shop")
    assert [(e.id, e.seq, e.deleted) for e in changes] == [
        ("c", 3, False),
        ("a", 4, False),
        ("b", 5, True),
    ]
    assert [e.id for e in catalogue.changes("shop", after=3, limit=1)] == ["a"]
    assert catalogue.changes("shop", after=5) == []


def test_iterating_passes_over_nothing_at_the_edges_of_batches(catalogue):
    ids = sorted(f"i{n}" for n in range(25))
    catalogue.upsert("shop", [Entry(i) for i in reversed(ids)], now=NOW)
    assert [e.id for e in catalogue.iterate("shop", batch=5)] == ids
    assert [e.id for e in catalogue.page("shop", after="i22", limit=2)] == ["i23", "i24"]


def test_lines_out_and_in_again_are_the_same_catalogue(catalogue):
    catalogue.upsert("shop", [TEA, Entry("cup"), Entry("zero", stock=0)], now=NOW)
    lines = list(catalogue.export_jsonl("shop"))
    assert json.loads(lines[0]) == {"id": "cup", "attributes": {}}
    assert json.loads(lines[2]) == {"id": "zero", "attributes": {}, "stock": 0}
    assert catalogue.import_jsonl("copy", [*lines, "\n"], now=NOW) == 3
    both = [[given(e) for e in catalogue.iterate(t)] for t in ("shop", "copy")]
    assert both[0] == both[1]


def test_a_bulk_import_writes_thousands(items):
    lines = (json.dumps({"id": f"i{n:05}", "stock": n}) for n in range(2_500))
    assert items.import_jsonl("shop", lines, now=NOW) == 2_500
    assert items.count("shop") == 2_500
    assert items.get("shop", ["i02499"])["i02499"].stock == 2_499


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "character 2 is no JSON"),
        ("[]", "expected an object"),
        ('{"id": "x", "prize": 1}', r"has fields \['prize'\] that are not known"),
        ('{"id": "x", "prize": 1}', "facts of your own go into attributes"),
        ('{"stock": 1}', "has no id: expected id and some of attributes, labels"),
        ('{"id": 5}', "id is 5: expected a text"),
        ('{"id": "x", "stock": "few"}', "stock is 'few': expected a whole number"),
        ('{"id": "x", "hidden": "no"}', "hidden is 'no': expected true or false"),
        ('{"id": "x", "labels": 3}', "labels are 3: expected a list"),
        ('{"id": "x", "labels": "ab"}', "labels are 'ab': expected a list"),
        ('{"id": "x", "published": NaN}', "published is nan: expected a finite number"),
        ("[" * 100_000, ""),
    ],
)
def test_a_wrong_line_is_named(items, line, told):
    with pytest.raises(DataError, match="line 2 is no entry: .*" + told):
        items.import_jsonl("shop", ['{"id": "good"}', line], now=NOW)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (Entry(""), "id is ''"),
        (Entry("x", {"a": float("nan")}), "attributes of 'x' cannot be written"),
        (Entry("x", {1: 2}), "expected an object"),
        (Entry("x", [1]), "expected an object"),
        (Entry("x", labels=("",)), "label is ''"),
        (Entry("x", published=float("inf")), "published is inf"),
        (Entry("x", expires="soon"), "expires is 'soon'"),
        (Entry("x", stock=1.5), "stock is 1.5"),
        (Entry("x", stock=2**63), "stock is 9223372036854775808"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_kept(items, entry, told):
    with pytest.raises(DataError, match=told):
        items.upsert("shop", [Entry("good"), entry], now=NOW)
    assert items.count("shop") == 0


def test_a_patch_of_an_unknown_field_is_refused(items):
    with pytest.raises(DataError, match=r"unknown fields \['id', 'prize'\]"):
        items.patch("shop", "x", {"prize": 1, "id": "y"}, now=NOW)
