"""The language of filters, against a plain evaluation row by row."""

import operator

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steerec.engine.condition_masks import FilterMasks, evaluate, unknown_attributes
from steerec.engine.conditions import AllOf, AnyOf, Compare, Contains, Not, OneOf, parse
from steerec.engine.live_config import ScenarioConfig
from steerec.errors import ConfigError, DataError

NAN = float("nan")
ITEMS = pl.DataFrame(
    {
        "title": ["Green Tea", "Black tea", "Coffee", None],
        "price": [5.0, 20.0, NAN, 7.5],
        "size": [1, 2, None, 3],
        "brand": ["X", "Y", None, "it's"],
        "tags": [["vegan", "tea"], [], None, ["vegan"]],
        "sizes": [[1, 2], [3], None, [None]],
        "organic": [True, False, None, True],
        "none": [None, None, None, None],
        "list price": [1.0, 2.0, 3.0, 4.0],
    },
    schema_overrides={"price": pl.Float32, "size": pl.Int8, "brand": pl.Categorical},
)


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ('price < 20 and "vegan" in tags and not brand == "X"', [3]),
        ("price == 20", [1]),
        ("price != 20", [0, 3]),
        ("20 > price", [0, 3]),
        ("price >= 7.5 or size == 1", [0, 1, 3]),
        ("size < 2.5", [0, 1]),
        ("size == 300 or size > -1e30", [0, 1, 3]),
        ("price == null", [2]),
        ("null != price", [0, 1, 3]),
        ("tags == null", [2]),
        ("not (price == 20)", [0, 2, 3]),
        ('"vegan" not in tags', [1]),
        ('not "vegan" in tags', [1, 2]),
        ("3 in sizes", [1]),
        ("3.0 in sizes", [1]),
        ("3.5 in sizes", []),
        ("3.5 not in sizes", [0, 1, 3]),
        ('"TEA" in title', [0, 1]),
        ('"tea" not in title', [2]),
        ('"" in title', [0, 1, 2]),
        ('brand in ["X", "Y", "Z"]', [0, 1]),
        ('brand not in ["X"]', [1, 3]),
        ("brand in []", []),
        ("size in [1, 2.5, 3.0, 9e18, 1000]", [0, 3]),
        ("price in [7.5, 20]", [1, 3]),
        ('brand == "it\\\'s"', [3]),
        ("brand == 'it\\u0027s'", [3]),
        ('title >= "C"', [0, 2]),
        ("organic", [0, 3]),
        ("not organic", [1, 2]),
        ("organic != true", [1]),
        ("organic in [false]", [1]),
        ("none == null", [0, 1, 2, 3]),
        ('none == "a" or none < 1 or "a" in none or none in [1]', []),
        ("`list price` <= 2", [0, 1]),
        ("price<20 and size>1", [3]),
        ("size == 1 or size == 2 and price == 5", [0]),
        ("(size == 1 or size == 2) and price == 20", [1]),
    ],
)
def test_a_filter_lets_these_rows_through(text, passing):
    assert np.flatnonzero(evaluate(text, ITEMS)).tolist() == passing


def test_an_attribute_that_nobody_has_may_be_missing_in_all_if_asked_so():
    def passing(text):
        return np.flatnonzero(evaluate(text, ITEMS, lenient=True)).tolist()

    assert passing("weight < 3 and price > 1") == []
    assert passing("weight < 3 or price == 20") == [1]
    assert passing('not weight == 3 and "a" not in colour') == []
    assert passing("not weight == 3") == passing("weight == null") == [0, 1, 2, 3]
    text = 'not weight in [1] and (price < 3 or "a" in colour and weight)'
    assert unknown_attributes(text, ITEMS) == ("weight", "colour")
    with pytest.raises(DataError, match="items have no attribute weight"):
        evaluate("weight < 3", ITEMS)


def test_single_precision_is_compared_in_single_precision():
    items = pl.DataFrame({"price": [19.9]}, schema={"price": pl.Float32})
    assert evaluate("price == 19.9", items).all()
    assert evaluate("price in [19.9]", items).all()
    assert not evaluate("price < 19.9", items).any()


def test_other_spellings_of_numbers_and_texts_are_compared_as_such():
    items = pl.DataFrame(
        {"cost": ["1.50"], "kind": ["a"], "kinds": [["a", "b"]], "many": [2**63]},
        schema_overrides={"many": pl.UInt64},
    ).with_columns(
        pl.col("cost").cast(pl.Decimal(10, 2)),
        pl.col("kind").cast(pl.Enum(["a"])),
        pl.col("kinds").cast(pl.Array(pl.Categorical, 2)),
    )
    for text in ("cost == 1.5", "cost in [1.5]", 'kind == "a"', '"b" in kinds', "many == null"):
        assert evaluate(text, items).all(), text


def test_the_tree_binds_not_before_and_before_or():
    tree = parse('a == 1 or not "x" in b and c in [2]')
    assert isinstance(tree, AnyOf)
    first, rest = tree.terms
    assert (first.attribute, first.op, first.value.value, first.at) == ("a", "==", 1, 0)
    assert isinstance(rest, AllOf)
    denied, one = rest.terms
    assert isinstance(denied, Not)
    assert isinstance(denied.term, Contains)
    assert isinstance(one, OneOf)
    assert isinstance(first, Compare)


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 1, "the filter ends: expected an attribute, a value or a list"),
        ("price < 20 and", 15, "the filter ends"),
        ("price = 20", 7, "compare with =="),
        ("price < 20 && size", 12, "write and"),
        ("price < 20 size", 12, "found size: expected and, or, or the end"),
        ("1 < price < 5", 11, "expected and, or, or the end"),
        ("(price < 1", 11, "expected and, or, or )"),
        ('brand == "X', 10, "never closed"),
        ("brand == X", 10, "two attributes, brand and X: put a text value in quotes"),
        ('"X" == "Y"', 5, "expected an attribute on one side"),
        ("brand == [1]", 7, "expected an attribute on one side"),
        ('"X"', 4, "expected a comparison after the value"),
        ("brand in tags", 7, 'expected "value" in attribute'),
        ("null in tags", 6, 'expected "value" in attribute'),
        ("brand in [null]", 11, "null in a list"),
        ("brand in ['a' 'b']", 15, "expected , or ]"),
        ("price < null", 9, "tested with == or !="),
        ("price < 1e999", 9, "too large"),
        ("price < 5abc", 9, "found '5'"),
        ("__import__('os')", 11, "found (: expected and, or, or the end"),
        ('brand == "\\ud800"', 11, "half of a pair"),
        ("pirce < 20", 1, "items have no attribute pirce: did you mean price"),
        ("price < 'a'", 9, "price is a number, and the value a text"),
        ('brand in ["a", 1]', 16, "brand is a text, and the value a number"),
        ("organic == 1", 12, "organic is true or false, and the value a number"),
        ("organic < true", 11, "true and false have no order"),
        ('tags == "vegan"', 9, 'tags is a list: write "value" in tags'),
        ("3 in tags", 1, "a value of tags is a text, and the value a number"),
        ("3 in title", 1, "title is a text: a text can be in a text"),
        ('"3" in price', 1, "price is a number: a text can be in a text"),
        ("not " * 40 + "organic", 129, "nested deeper than 32"),
        ("(" * 40, 33, "nested deeper than 32"),
        (" or ".join(["organic"] * 100 + ["none"] * 101), 1901, "more than 200 comparisons"),
        ("a in [" + "1," * 990 + "1" * 30, 2017, "expected at most 2000"),
    ],
)
def test_a_mistake_is_shown_with_its_place_and_what_was_expected(text, at, told):
    with pytest.raises(DataError) as error:
        evaluate(text, ITEMS)
    message = str(error.value)
    assert told in message
    if len(text) <= 2_000:
        assert f"character {at}:" in message
        _, line, caret = message.split("\n")
        start = max(0, at - 1 - 40)
        assert line[2:] == text[start : at - 1 + 40]
        assert caret.index("^") - 2 == at - 1 - start


def test_texts_that_cannot_be_written_are_told():
    with pytest.raises(DataError, match="character 9 is half of a pair"):
        parse("a == 'bc\ud800'")


def test_a_list_has_as_many_values_as_its_limit_says(monkeypatch):
    monkeypatch.setattr("steerec.engine.conditions.MOST_VALUES", 3)  # 1,000 hardly fit the text
    assert len(parse("a in [1, 2, 3]").values) == 3
    with pytest.raises(DataError, match="more than 3 values"):
        parse("a in [1, 2, 3, 4]")


# Against a plain evaluation

TEXTS = st.sampled_from(["a", "b", "ab", "B", ""])
NUMBERS = st.sampled_from([0, 1, -2, 1.5, 3.0])
ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | TEXTS,
        "number": st.none() | st.sampled_from([0.0, 1.0, -2.0, 1.5]),
        "whole": st.none() | st.integers(-2, 3),
        "truth": st.none() | st.booleans(),
        "texts": st.none() | st.lists(st.none() | TEXTS, max_size=2),
        "wholes": st.none() | st.lists(st.integers(-2, 3), max_size=2),
    }
)
SCHEMA = {
    "text": pl.String,
    "number": pl.Float64,
    "whole": pl.Int64,
    "truth": pl.Boolean,
    "texts": pl.List(pl.String),
    "wholes": pl.List(pl.Int16),
}
OPS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def written(value):
    if isinstance(value, str):
        return f'"{value}"'
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def compared(attribute, op, value, *, mirrored):
    def test(row):
        return row[attribute] is not None and OPS[op](row[attribute], value)

    if mirrored:
        other = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
        return f"{written(value)} {other} {attribute}", test
    return f"{attribute} {op} {written(value)}", test


def missing(attribute, op):
    return f"{attribute} {op} null", lambda row: (row[attribute] is None) == (op == "==")


def held(attribute, value, word):
    def test(row):
        cell = row[attribute]
        if cell is None:
            return False
        inside = value.lower() in cell.lower() if isinstance(cell, str) else value in cell
        return inside == (word == "in")

    return f"{written(value)} {word} {attribute}", test


def listed(attribute, values, word):
    def test(row):
        return row[attribute] is not None and (row[attribute] in values) == (word == "in")

    return f"{attribute} {word} [{', '.join(map(written, values))}]", test


WORD = st.sampled_from(["in", "not in"])
TESTS = st.one_of(
    st.builds(compared, st.just("text"), st.sampled_from([*OPS]), TEXTS, mirrored=st.booleans()),
    st.builds(
        compared,
        st.sampled_from(["number", "whole"]),
        st.sampled_from([*OPS]),
        NUMBERS,
        mirrored=st.booleans(),
    ),
    st.builds(
        compared,
        st.just("truth"),
        st.sampled_from(["==", "!="]),
        st.booleans(),
        mirrored=st.booleans(),
    ),
    st.builds(missing, st.sampled_from([*SCHEMA]), st.sampled_from(["==", "!="])),
    st.builds(held, st.sampled_from(["text", "texts"]), TEXTS, WORD),
    st.builds(held, st.just("wholes"), NUMBERS, WORD),
    st.builds(listed, st.just("text"), st.lists(TEXTS, max_size=3), WORD),
    st.builds(listed, st.sampled_from(["number", "whole"]), st.lists(NUMBERS, max_size=3), WORD),
)


def joined(terms, word):
    every = {"and": all, "or": any}[word]
    return (
        "(" + f" {word} ".join(text for text, _ in terms) + ")",
        lambda row: every(test(row) for _, test in terms),
    )


def denied(term):
    text, test = term
    return f"not {text}", lambda row: not test(row)


TREES = st.recursive(
    TESTS,
    lambda inner: (
        st.builds(joined, st.lists(inner, min_size=1, max_size=3), st.sampled_from(["and", "or"]))
        | st.builds(denied, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(TREES, st.lists(ROWS, max_size=6))
def test_every_filter_says_of_each_row_what_plain_evaluation_says(tree, rows):
    text, test = tree
    got = evaluate(text, pl.DataFrame(rows, schema=SCHEMA))
    assert got.dtype == bool
    assert got.tolist() == [test(row) for row in rows], text


PIECES = [
    *("price", "tags", "title", "size", "organic", "none", "sizes", "nosuch", "`list price`"),
    *("and", "or", "not", "in", "true", "false", "null", "(", ")", "[", "]", ",", "==", "!="),
    *("<", ">=", "1", "-2.5", "1e400", "9999999999999999999", '"x"', "'\\u0041'", "=", "\\", '"'),
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)
    | st.text(st.characters(), max_size=40)
)
@example("\x00")
@example("price < 9999999999999999999999")
@example("size in [9999999999999999999999, 9223372036854775808, -9223372036854775808]")
@example('"\\\ud800" in title')
def test_any_text_is_a_filter_or_a_data_error(text):
    try:
        found = evaluate(text, ITEMS)
    except DataError:
        return
    assert found.shape == (4,)


# The cache


def test_a_filter_is_worked_out_once_for_a_version_of_the_catalogue():
    masks = FilterMasks(keep=2)
    first = masks.mask("size == 1", ITEMS, 1)
    assert masks.mask("size == 1", ITEMS, 1) is first
    assert first.tolist() == [True, False, False, False]
    turned = masks.mask("size == 1", ITEMS.reverse(), 2)
    assert turned.tolist() == [False, False, False, True]
    masks.mask("size == 2", ITEMS, 2)
    assert masks.mask("size == 1", ITEMS, 1) is not first  # the oldest of three had to go
    with pytest.raises(ValueError, match="read-only"):
        turned[0] = True


def test_a_filter_that_cannot_be_read_is_not_kept():
    masks = FilterMasks()
    for _ in range(2):
        with pytest.raises(DataError):
            masks.mask("size ==", ITEMS, 1)


def test_a_condition_of_the_settings_that_cannot_be_read_is_refused_at_the_start():
    with pytest.raises(ConfigError, match=r"condition='price = 20': .* compare with =="):
        ScenarioConfig(condition="price = 20")
