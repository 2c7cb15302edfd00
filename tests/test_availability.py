"""What may appear at which time."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.engine.availability import Availability

NAN = float("nan")


def idx(*items):
    return np.array(items, np.int32)


def test_an_item_appears_between_publishing_and_expiry():
    items = Availability()
    items.update(idx(0, 1), published=[100.0, NAN], expires=[200.0, NAN])
    seen = [items.allowed(now).tolist() for now in (99.0, 100.0, 199.0, 200.0, 99.0)]
    assert [first for first, _ in seen] == [False, True, True, False, False]
    assert all(second for _, second in seen)


def test_nothing_left_hides_and_uncounted_stock_does_not():
    items = Availability()
    items.update(idx(0, 1, 2), stock=[0, 3, NAN])
    assert items.allowed(0.0).tolist() == [False, True, True]
    items.update(idx(1), stock=0)
    assert items.allowed(0.0).tolist() == [False, False, True]
    items.update(idx(0), stock=5)
    assert items.allowed(0.0).tolist() == [True, False, True]


def test_a_deleted_item_never_comes_back_and_a_hidden_one_may():
    items = Availability()
    items.grow(3)
    items.update(idx(0), hidden=True)
    items.delete(idx(1))
    assert items.allowed(0.0).tolist() == [False, False, True]
    items.update(idx(0, 1), hidden=False, stock=9)
    assert items.allowed(0.0).tolist() == [True, False, True]


def test_items_beyond_the_end_are_added_and_may_appear():
    items = Availability()
    assert items.allowed(0.0).tolist() == []
    items.update(idx(2), hidden=True)
    assert items.allowed(0.0).tolist() == [True, True, False]
    items.grow(5)
    assert items.allowed(0.0).tolist() == [True, True, False, True, True]
    items.grow(1)
    assert items.n_items == 5


def test_a_mask_in_use_stays_as_it_was_and_cannot_be_written():
    items = Availability()
    items.grow(2)
    before = items.allowed(0.0)
    items.update(idx(0), hidden=True)
    assert items.allowed(0.0).tolist() == [False, True]
    assert before.tolist() == [True, True]
    with pytest.raises(ValueError, match="read-only"):
        before[0] = False


def test_between_changes_the_same_mask_is_given():
    items = Availability()
    items.update(idx(0, 1), published=[10.0, 20.0])
    first = items.allowed(12.0)
    assert items.allowed(10.0) is first
    assert items.allowed(19.9) is first
    assert items.allowed(20.0) is not first


def test_the_catalogue_tells_what_it_knows():
    table = pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "hidden": [None, True, False, False],
            "published": [None, 1, 500, 1],
            "stock": [None, 1, 1, 0],
            "expires": ["soon", "", "", ""],  # no times: not understood, not used
        }
    )
    assert Availability.of(table).allowed(100.0).tolist() == [True, False, False, False]


def test_a_negative_row_is_told():
    with pytest.raises(ValueError, match="item_idx=-1"):
        Availability().update(idx(-1), stock=1)
    with pytest.raises(ValueError, match="item_idx=-1"):
        Availability().delete(idx(-1))


MOMENTS = st.sampled_from([NAN, 1.0, 2.0, 3.0, 4.0])
STEPS = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 5), st.booleans(), MOMENTS, MOMENTS),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("ask"), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.5, 4.0, 9.0])),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(STEPS, max_size=15))
def test_any_order_of_changes_and_times_gives_what_each_item_says(steps):
    items = Availability()
    told, deleted = {}, set()
    for kind, first, *more in steps:
        if kind == "update":
            hidden, published, expires = more
            items.update(idx(first), hidden=hidden, published=published, expires=expires)
            told[first] = (hidden, published, expires)
        elif kind == "delete":
            items.delete(idx(first))
            deleted.add(first)
        else:
            expected = [
                row not in deleted and visible(first, *told.get(row, (False, NAN, NAN)))
                for row in range(max([*told, *deleted], default=-1) + 1)
            ]
            assert items.allowed(first).tolist() == expected


def visible(now, hidden, published, expires):
    return not hidden and not published > now and not expires <= now
