"""Slates as they were served: whole, once, small, with the answer kept for a retry."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steerec.contracts import Event
from steerec.errors import DataError
from steerec.store import GroupConfig, open_store
from steerec.store.arrays import pack, unpack
from steerec.store.impressions import Answer, Impression
from steerec.store.log import LoggedEvent

NOW = 1_750_000_000.0


def slate(request_id="r1", n_pool=200, n_heads=9, n_shown=10, **more):
    rng = np.random.default_rng(sum(request_id.encode()))
    pool = tuple(f"item-{n}" for n in rng.choice(3_000, n_pool, replace=False))
    return Impression(
        request_id=request_id,
        time=NOW,
        items=(*pool[: n_shown - 1], "pinned"),
        propensity=rng.random(n_shown).astype(np.float32),
        pool=pool,
        scores=rng.normal(size=(n_pool, n_heads)).astype(np.float16),
        w=rng.random(n_heads).astype(np.float32),
        phi=rng.random(24),
        **more,
    )


def same(a, b):
    for name in Impression.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, name)
        elif name != "seq":
            assert x == y, name
    return True


FULL = {
    "user_id": "ann",
    "scenario": "home",
    "version": 3,
    "epoch": 41,
    "arm": "control",
    "seed": -(2**63),
    "more": {"temperature": 0.1, "applied": ["规则"]},
}


def test_a_slate_comes_back_bit_by_bit(store):
    given_slate = slate(**FULL)
    assert store.shown.append("shop", given_slate) is None
    (found,) = store.shown.get("shop", "r1")
    assert same(found, given_slate)
    assert found.seq == 1
    assert store.shown.get("shop", "r2") == store.shown.get("other", "r1") == []


def test_another_process_reads_the_same(store, store_url):
    store.shown.append("shop", slate("r1"))
    other = open_store(store_url)
    other.shown.append("shop", slate("r2"))  # takes numbers of items of its own
    store.shown.append("shop", slate("r3"))
    for reader in (store, other):
        found = list(reader.shown.iterate("shop", batch=2))
        assert [same(f, slate(f"r{i}")) for i, f in enumerate(found, start=1)] == [True] * 3
    other.close()


def test_pages_come_in_order_and_each_once(store):
    page = Impression("r1", NOW, ("x",), np.ones(1, np.float32), start=10)
    store.shown.append("shop", page)
    store.shown.append("shop", slate("r1"))
    store.shown.append("shop", slate("r1", user_id="somebody else"))
    found = store.shown.get("shop", "r1")
    assert [(f.start, f.user_id, len(f.pool)) for f in found] == [(0, None, 200), (10, None, 0)]
    assert [f.seq for f in store.shown.read("shop")] == [1, 2]


def test_a_retry_gets_the_first_answer_and_is_one_impression(store):
    first = Answer("key", "r1", b"asked", b"answer")
    assert store.shown.append("shop", slate("r1"), answer=first) is None
    again = Answer("key", "r2", b"asked", b"another answer")
    assert store.shown.append("shop", slate("r2"), answer=again) == first
    assert store.shown.answered("shop", "key") == first
    assert store.shown.answered("other", "key") is None
    assert store.shown.get("shop", "r2") == []


def test_of_retries_at_the_same_moment_one_counts(store):
    def ask(i):
        mine = Answer("key", f"r{i}", b"", f"{i}".encode())
        return store.shown.append("shop", slate(f"r{i}"), answer=mine) or mine

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(16)))
    assert len(answers) == 1
    assert [f.request_id for f in store.shown.read("shop")] == [answers.pop().request_id]


def test_a_users_slates_are_found(store):
    for i in range(4):
        store.shown.append("shop", slate(f"r{i}", user_id=f"u{i % 2}"))
    assert [f.request_id for f in store.shown.of_user("shop", "u1")] == ["r1", "r3"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"propensity": np.ones(3, np.float32)}, r"propensity has shape \(3,\)"),
        ({"scores": np.ones((2, 9), np.float16)}, r"scores have shape \(2, 9\)"),
        ({"w": np.array(["x"])}, "dtype <U1"),
        ({"phi": np.ones((1, 1, 1))}, "3 axes"),
        ({"seed": 2**63}, "seed is"),
        ({"epoch": -1}, "epoch is -1"),
        ({"version": 2**31}, "version is"),
        ({"time": float("nan")}, "time is nan"),
        ({"more": {"x": {1}}}, "more cannot be written"),
        ({"items": ("",) * 10}, "item_id is ''"),
    ],
)
def test_what_cannot_be_stored_is_named(sqlite_url, change, told):
    store = open_store(sqlite_url)
    whole = {name: getattr(slate(), name) for name in Impression.__slots__}
    with pytest.raises(DataError, match=told):
        store.shown.append("shop", Impression(**{**whole, **change}))
    assert store.shown.read("shop") == []
    store.close()


def test_a_slate_of_200_items_and_9_heads_takes_less_than_4_kb():
    one = slate()
    packed = pack([one.propensity, one.scores, one.w, one.phi])
    assert len(packed) < 3_800  # scores alone are 3,600 as given, and random ones hardly shrink
    assert len(pack([np.sort(one.scores, axis=0)])) < 2_700


arrays = st.sampled_from(["<f2", "<f4", "<f8", "<i4", "<i8", ">f4"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0))
)


@given(st.lists(arrays, max_size=5))
def test_arrays_come_back_equal_to_the_bit(given_arrays):
    found = unpack(pack(given_arrays))
    assert [f.shape for f in found] == [g.shape for g in given_arrays]
    for f, g in zip(found, given_arrays, strict=True):
        assert f.dtype == g.dtype.newbyteorder("<")
        assert f.tobytes() == g.astype(f.dtype).tobytes()


def test_arrays_of_an_older_store_are_read():
    body = zlib.compress(np.arange(3.0).view(np.uint8).reshape(3, 8).T.tobytes(), 1)
    [found] = unpack(struct.pack("<BBBBI", 1, 1, 2, 1, 3) + body)
    assert found.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -1])
def test_bytes_cut_short_are_a_clear_error(cut):
    with pytest.raises(DataError, match="cannot be read"):
        unpack(pack([np.arange(100.0)])[:cut])


def test_bytes_of_another_format_are_a_clear_error():
    with pytest.raises(DataError, match="format 9"):
        unpack(b"\x09\x00")


def test_a_slate_that_nobody_waits_for_is_found_at_once(store):
    store.shown.submit("shop", slate(), may_wait=True)
    assert len(store.shown.get("shop", "r1")) == 1


def test_slates_that_may_wait_are_written_with_what_may_not(sqlite_url):
    patient = GroupConfig(patience_s=1.0)
    opened = open_store(sqlite_url, patient)
    waiting = opened.shown.submit("shop", slate(), may_wait=True)
    opened.log.append("shop", [LoggedEvent("e1", Event("ann", "tea"))], now=NOW)
    assert waiting.done()
    assert opened.last_seq("shop") == 2
    opened.close()


def test_closing_writes_slates_that_wait(sqlite_url):
    opened = open_store(sqlite_url, GroupConfig(patience_s=1.0))
    opened.shown.submit("shop", slate(), may_wait=True)
    opened.close()
    again = open_store(sqlite_url)
    assert len(again.shown.get("shop", "r1")) == 1
    again.close()


def test_what_was_just_written_is_read_as_it_will_be_from_the_disk(store):
    """The learner gets it from memory the first time; memory holds none of who was erased."""
    shown = slate(**FULL)
    store.shown.append("shop", shown)
    store.shown.append("shop", slate("r2", **{**FULL, "user_id": "bob"}))
    store.persons.erase("shop", "bob", now=NOW)
    (first,), (second,) = store.shown.read("shop"), store.shown.read("shop")
    assert first.scores is shown.scores
    assert second.scores is not shown.scores
    assert same(first, second)
    assert first.seq == second.seq > 0


def test_a_page_under_a_name_that_is_taken_is_not_read_instead_of_the_stored_one(store):
    store.shown.append("shop", slate(n_pool=50, seed=1))
    store.shown.read("shop")
    store.shown.append("shop", slate(n_pool=60, seed=2))
    (found,) = store.shown.read("shop")
    assert (len(found.pool), found.seed) == (50, 1)
