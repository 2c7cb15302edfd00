"""Compiled loops answer as the plain functions do, from any history and for any items."""

import copy
from dataclasses import fields, replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from engine_worlds import model, own, world
from steerec import kernels
from steerec.contracts import Event, History, Query
from steerec.engine.fused import Fused, FusedConfig
from steerec.engine.panel import Panel
from steerec.engine.phi import Phi, PhiConfig
from steerec.engine.pool import PoolConfig
from steerec.engine.reasons import ASKED, Asked, Reasons
from steerec.engine.recommender import Recommender
from steerec.engine.sampler import SamplerConfig, draw
from steerec.engine.serving import Policy, serve
from steerec.heads import QUICK, content, load_head
from steerec.heads.contract import Room
from steerec.heads.histories import recency_rows
from steerec.heads.linear import add_products, asked_with, find_near, spoken
from steerec.heads.packed import Packed, packed
from test_engine_narrow import curves, scores

NOW = world().now
SMALL = PoolConfig(top=12, top_head=2)  # so that most of the 60 items are left out early
COMPILED = [name for name in QUICK if hasattr(load_head(name), "answer")]


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    kernels.load()
    yield
    kernels._LOADED.clear()  # tests of other files answer as they do alone


@cache
def histories():
    """Of users of the shop, cut and changed: none, one, baskets, dislikes, strange items."""
    rng, data = np.random.default_rng(0), world().data
    made = [data.history(user).slice(0, cut) for user, cut in enumerate((0, 1, 2, 5, 12, 24))]
    for number in range(6):
        whole = data.history(10 + number)
        n = len(whole)
        weight = rng.choice([1.0, 2.0, -1.0], n).astype(np.float32)
        basket = np.sort(rng.integers(-1, 6, n)).astype(np.int32)
        items = np.where(rng.random(n) < 0.1, 5_000, whole.item_idx).astype(np.int32)
        made.append(History(items, weight, whole.time, basket, whole.user_idx))
    return made


def compiled(pool=SMALL, **changes):
    return Recommender(model(), pool=pool, compiled=True, **changes)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), last=st.sampled_from([1, 5, 40]))
def test_a_query_is_the_row_of_the_newest_events(seed, last):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60))
    basket = rng.integers(-1, 4, n) if seed % 2 else np.sort(rng.integers(-1, 9, n))
    items, weight = rng.integers(-1, 30, n), rng.choice([1.0, -1.0, 0.5], n)
    state = History(
        items.astype(np.int32), weight.astype(np.float32), np.zeros(n), basket.astype(np.int32)
    )
    known = rng.random(28) < 0.8
    row = recency_rows([state], 28, decay=0.7, last=last, known=known)
    wanted, found = np.zeros(28), np.zeros(28)
    wanted[row.indices] = row.data
    rows, sums = asked_with(state, decay=0.7, last=last, known=known)
    assert len(set(rows.tolist())) == len(rows)
    found[rows] = sums
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@cache
def head_of(name):
    cls = load_head(name)
    config = getattr(import_module(cls.__module__), f"{cls.__name__}Config")()
    return cls.fit(world().data, config, np.random.default_rng(0))


class Rounded(content.Content):
    """Likeness by vectors rounded as compiled loops read it."""

    def score(self, states, items, now):
        scores = super().score(states, items, now)
        if items is None:
            rounding = self._near.plain() - self.vectors @ self.vectors.T
            scores += self._query(states).matrix() @ rounding
        return scores


def as_asked(head):
    """The head with its weights rounded as compiled loops read them."""
    if isinstance(head, content.Content):
        return Rounded(**{field.name: getattr(head, field.name) for field in fields(head)})
    if not hasattr(head, "_packed") or sparse.issparse(head.weights):
        return head
    if isinstance(head.weights, tuple):
        return replace(head, weights=tuple(packed(w).plain() for w in head.weights))
    return replace(head, weights=packed(head.weights).plain())


@pytest.mark.parametrize("name", COMPILED)
def test_a_head_answers_as_it_scores(name):
    head, room = head_of(name), Room()
    plain, some = as_asked(head), np.array([0, 3, 4, 50, 59], np.int32)
    n_done = 0
    for history in histories():
        state = head.start(history)
        for items in (None, some):
            out = np.full(head.n_items if items is None else len(items), 7.0, np.float32)
            if not head.answer(state, items, NOW, room, out):
                continue
            n_done += 1
            wanted = plain.score([state], items, np.array([NOW]))[0]
            np.testing.assert_allclose(out, wanted, rtol=2e-6, atol=1e-6, err_msg=str(items))
    assert n_done
    assert not any(zeros.any() for zeros in room._zeros.values())


@pytest.mark.parametrize("name", [n for n in COMPILED if hasattr(load_head(n), "because_each")])
def test_a_head_gives_the_same_reasons_for_many_items_as_for_each(name):
    head, plain = head_of(name), as_asked(head_of(name))
    items = np.array([2, 40, 7, 59], np.int32)
    for history in histories()[1:6]:
        state = head.start(history)
        told = head.because_each(state, items, Room())
        for row, item_idx in zip(told, items, strict=True):
            each = plain.because(state, int(item_idx))
            np.testing.assert_allclose(row, each[len(each) - len(row) :], atol=1e-6)


def test_sparse_weights_speak_as_dense_ones():
    rng = np.random.default_rng(1)
    dense = (rng.random((60, 60)) * (rng.random((60, 60)) < 0.2)).astype(np.float32)
    items = np.array([5, 1, 50], np.int32)
    for history in histories():
        told = [
            spoken(history, weights, items, Room(), decay=0.8, last=10)
            for weights in (dense, sparse.csr_matrix(dense))
        ]
        np.testing.assert_allclose(*told, atol=1e-6)


@pytest.mark.parametrize("n_rows", [1, 7, 40])
def test_packed_weights_answer_as_dense_ones_but_for_the_fifth_digit(n_rows):
    rng = np.random.default_rng(n_rows)
    weights = rng.standard_normal((50, 50)).astype(np.float32) ** 5
    weights[3] = 0.0
    short = packed(weights)
    assert short.codes.itemsize * 2 == weights.itemsize
    rows, sums = np.arange(n_rows, dtype=np.int32), (0.8 ** np.arange(n_rows)).astype(np.float32)
    found = np.ones(50, np.float32)
    assert add_products(rows, sums, short, None, Room(), found)
    bound = 1.1 * (np.abs(weights).max(axis=1)[:n_rows] * sums / kernels.CODES).sum()
    np.testing.assert_allclose(found, 1 + sums @ weights[:n_rows], rtol=1e-5, atol=bound)
    history, items = History.of([4, 2, 99, 7]), np.array([1, 30], np.int32)
    said = [spoken(history, w, items, Room(), decay=0.8, last=3) for w in (short, weights)]
    np.testing.assert_allclose(*said, rtol=1e-5, atol=np.abs(weights).max() / kernels.CODES)


def test_what_compiled_loops_read_can_be_worked_out_before_anybody_asks(monkeypatch):
    made = []
    for name in ("of", "products"):
        real = getattr(Packed, name)
        told = lambda given, name=name, real=real: made.append(name) or real(given)  # noqa: E731
        monkeypatch.setattr(Packed, name, told)
    quick = Recommender(copy.deepcopy(model()), compiled=True)
    for head in quick.model.heads.values():
        for name in ("_packed", "_near"):
            head.__dict__.pop(name, None)
    replace(quick, compiled=False).prepare()
    assert made == []
    quick.prepare()
    assert set(made) == {"of", "products"}
    n_made = len(made)
    quick.score(Query("u0001", now=NOW))
    assert len(made) == n_made


def test_kept_products_of_vectors_follow_a_catalogue_that_changes(monkeypatch):
    monkeypatch.setattr("steerec.heads.packed.BLOCK", 4)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[2, 8]] = 0.0
    old = vectors[:7].copy()
    old[[1, 4]] = old[[4, 1]]
    grown = Packed.products(old).with_products(vectors, np.array([1, 4], np.int32))
    np.testing.assert_array_equal(grown.codes, Packed.products(vectors).codes)
    np.testing.assert_allclose(grown.plain(), vectors @ vectors.T, atol=0.6 / kernels.CODES)


@pytest.mark.parametrize("asked", [(4,), (4, 0, 1), (4, -0.5, 1)])
def test_the_nearest_stretches_are_those_of_the_whole_product(asked):
    rng = np.random.default_rng(0)
    n = 2 * kernels.solving.BLOCK + 100
    rows = sparse.random(3, n, 0.3, "csr", np.float32, rng)
    rows.data = np.round(rows.data, 2)  # so that many are equal, and some cancel out
    items, sums, own = (
        np.arange(len(asked), dtype=np.int32),
        np.float32(asked),
        np.array([5, n - 3]),
    )
    cosines = (sums / np.linalg.norm(sums)) @ rows.toarray()[: len(asked)]
    cosines[own] = 0.0
    order = np.argsort(-np.abs(cosines), kind="stable")[:150]
    csr = rows.indptr, rows.indices, rows.data
    near, alike = kernels.solving.nearest(items, sums, *csr, own, n, 150)
    np.testing.assert_allclose(alike, cosines[near], rtol=1e-6)
    np.testing.assert_allclose(np.sort(np.abs(alike)), np.abs(cosines[order])[::-1], rtol=1e-6)
    if len(asked) == 1:  # then rounding decides nothing, and of equal ones the first are taken
        assert set(near.tolist()) == set(order.tolist())


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 1_000))
def test_curves_by_compiled_loops_say_the_same(seed):
    rng = np.random.default_rng(seed)
    together, raw = curves(4, rng), scores(4, 50, rng)
    np.testing.assert_allclose(together.exactly(raw), together(raw), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1_000), n_events=st.integers(0, 9))
def test_reasons_come_from_the_same_heads_and_events(seed, n_events):
    rng = np.random.default_rng(seed)
    parts, slow = np.round(rng.standard_normal((7, 4)), 1), np.array([False, True, False, False])
    plain, quick = Asked.of(parts, slow), Asked(*kernels.telling.asked(parts, slow, ASKED))
    for field in fields(Asked):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(quick, field.name))
    told = rng.integers(-1, 3, (len(plain.rows), n_events)).astype(np.float32)
    history = rng.integers(0, 5, n_events).astype(np.int32)
    found = [Reasons(Panel(model(), compiled=compiled), None) for compiled in (False, True)]
    one, other = (reasons._strongest(told, plain, history) for reasons in found)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(-(2**63), 2**64 - 1), n=st.integers(1, 30), spread=st.floats(0, 400))
def test_a_slate_is_drawn_as_numpy_draws_it(seed, n, spread):
    word = np.uint64(seed & (2**64 - 1))
    raw = np.random.Philox(key=int(word)).random_raw(50)
    np.testing.assert_array_equal(kernels.drawing.words(word, 50), raw)
    scores = np.random.default_rng(n).standard_normal(20) * spread
    quick = draw(scores, n=n, temperature=0.2, seed=seed)
    kernels._LOADED.clear()
    plain = draw(scores, n=n, temperature=0.2, seed=seed)
    kernels._LOADED.set()
    np.testing.assert_array_equal(quick.places, plain.places)
    np.testing.assert_allclose(quick.propensity, plain.propensity, rtol=1e-6)
    np.testing.assert_allclose(quick.log_probability, plain.log_probability, atol=1e-9)


@pytest.mark.parametrize("user", ["u0001", "u0007", "u0042", "nobody"])
@pytest.mark.parametrize("pool", [SMALL, PoolConfig()], ids=["narrowed", "whole"])
def test_lists_are_the_same_but_for_rounding(user, pool):
    query = Query(user, n=6, now=NOW, session=("i0003",) if user == "u0042" else ())
    heads = {name: as_asked(head) for name, head in model().heads.items()}
    plain = Recommender(replace(model(), heads=heads), pool=pool)
    quick = Recommender(model(), pool=pool, compiled=True)
    one, other = plain.score(query, narrow=True), quick.score(query, narrow=True)
    best = [
        scored.items[scored.blend >= np.sort(scored.blend)[-12] - 1e-4] for scored in (one, other)
    ]
    assert set(best[0]) == set(best[1])
    both = np.intersect1d(one.items, other.items)
    shares = [s.blend[np.searchsorted(s.items, both)] for s in (one, other)]
    np.testing.assert_allclose(*shares, atol=1e-5)
    for made in zip(plain.recommend(query).items, quick.recommend(query).items, strict=True):
        assert made[0].item_id == made[1].item_id
        assert made[0].reason == made[1].reason
        assert made[0].because == made[1].because


def test_a_slate_of_compiled_loops_is_drawn_from_the_same_pool():
    policy = Policy(draw=SamplerConfig(temperature=0.7))
    query = Query("u0003", n=6, now=NOW)
    shown = [
        serve(made, query, policy, request_id="r1", now=NOW)
        for made in (Recommender(model(), pool=SMALL), compiled())
    ]
    assert shown[0].impression.pool == shown[1].impression.pool
    np.testing.assert_allclose(shown[0].impression.scores, shown[1].impression.scores, atol=0.02)
    assert shown[0].slate.items[0].item_id == shown[1].slate.items[0].item_id


def test_an_event_counts_on_the_next_list():
    quick = Recommender(own(), pool=SMALL, compiled=True)
    before = quick.score(Query("u0001", now=NOW)).z.copy()
    quick.learn(Event("u0001", "i0010", timestamp=NOW - 5))
    assert (quick.score(Query("u0001", now=NOW)).z != before).any()


def test_phi_of_one_request_is_the_row_of_many():
    phi = Phi(PhiConfig(scenarios=("home", "cart"), devices=("tv",)), model().phi.projection)
    for history in histories():
        for now in (NOW, float("nan")):
            rows = phi([history], np.array([now]), scenario="cart", device="tv")
            one = phi.one(history, now, scenario="cart", device="tv")
            np.testing.assert_allclose(one, rows[0], atol=1e-12)


def test_a_head_that_cannot_be_compiled_is_asked_the_plain_way(caplog):
    class Odd:
        def __init__(self, head):
            self._head = head

        def __getattr__(self, name):
            return getattr(self._head, name)

        def answer(self, *given):
            raise TypeError("no such types")

    heads = {**model().heads, "ease": Odd(model().heads["ease"])}
    query = Query("u0001", n=6, now=NOW)
    quick = Recommender(replace(model(), heads=heads), pool=SMALL, compiled=True)
    assert quick.recommend(query).left_out == ()
    assert "head=ease compiled=0" in caplog.text
    assert quick.failures == {}


LARGE = ["repeat", "ease", "item_knn", "transitions", "autoregressive", "content"]


@cache
def sparse_head(name):
    """A head as it is in a large catalogue, where weights are sparse."""
    head = head_of(name)
    if name == "transitions":
        return replace(head, counts=sparse.csr_matrix(head.counts))
    if name == "autoregressive":
        return replace(head, weights=tuple(sparse.csr_matrix(w) for w in head.weights))
    return replace(head, weights=sparse.csr_matrix(head.weights)) if name == "ease" else head


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("live", [False, True])
def test_a_head_finds_what_it_retrieves(name, live, monkeypatch):
    monkeypatch.setattr(content, "DENSE_ITEMS", 10)
    head, room = copy.deepcopy(sparse_head(name)), Room()
    if live and name == "transitions":
        for item in range(0, 60, 7):
            head.observe(world().data.history(3), History.of([item]))
    for history in histories():
        state = head.start(history)
        found = head.find(state, 9, NOW, room)
        wanted = head.retrieve(state, 9, NOW)
        assert found.tolist() == wanted.tolist()
    assert not any(zeros.any() for zeros in [*room._zeros.values(), *room._marks.values()])


@pytest.mark.parametrize("length", [12, 20, 45])
@pytest.mark.parametrize("live", [None, (np.array([3, 390], np.int32), np.float32([50, 0.1]))])
def test_the_best_of_many_that_are_near_are_found_in_all_items(length, live):
    rng = np.random.default_rng(length)
    weights = sparse.random(400, 400, 4.8 / length, "csr", np.float32, rng)
    history, known = History.of(rng.integers(0, 400, length)), rng.random(400) < 0.9
    rows, fading = np.unique(history.item_idx), rng.random(400).astype(np.float32)
    sums = fading[rows] @ weights[rows].toarray()
    near = np.flatnonzero(np.diff(weights[history.item_idx[-20:]].tocsc().indptr))
    if live is not None:
        sums[live[0]] += live[1]
        near = np.union1d(near, live[0])
    near = near[known[near]]
    wanted = near[np.argsort(-sums[near], kind="stable")][:9]
    csr = history.item_idx[-20:], weights.indptr, weights.indices
    assert kernels.finding.likely(*csr, sums, 9) > 0
    room, part = Room(), (rows, fading[rows], weights)
    assert find_near(history, [part], known, room, 9, live).tolist() == wanted.tolist()
    assert not any(zeros.any() for zeros in [*room._zeros.values(), *room._marks.values()])


def test_the_fused_matrix_finds_what_it_searches():
    rng = np.random.default_rng(3)
    codes = rng.integers(-120, 120, (900, 8)).astype(np.int8)
    step, asks = rng.random(900).astype("f4"), rng.normal(size=(9, 8)).astype("f4")
    matrix = Fused(FusedConfig(dims=8), codes, step, asks, np.zeros((0, 8), "f4"))
    for history in histories():
        for n, share in ((5, 0.9), (300, 0.5), (2_000, 0.1)):
            allowed = rng.random(900) < share
            found, wanted = matrix.find(history, n, allowed), matrix.search(history, n, allowed)
            scores = matrix.scores([history])[0]
            assert len(found) == len(wanted)
            np.testing.assert_allclose(scores[found], scores[wanted], rtol=1e-5, atol=1e-4)


def test_candidates_are_the_same():
    sparse_pool = PoolConfig(full_catalogue=20, pool_limit=30, fresh=3, from_fused=5, per_head=8)
    heads = {**model().heads, **{n: sparse_head(n) for n in ("ease", "transitions", "item_knn")}}
    grown = replace(model(), heads=heads)
    for user in ("u0001", "u0009", "nobody"):
        both = [
            Recommender(grown, pool=sparse_pool, compiled=compiled).score(Query(user, now=NOW))
            for compiled in (False, True)
        ]
        np.testing.assert_array_equal(both[0].items, both[1].items)
        np.testing.assert_allclose(both[0].blend, both[1].blend, atol=1e-5)
