"""The fused matrix: what it learns of a blend, how it is asked, and what is kept of it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from steerec.contracts import History
from steerec.engine import fused as fusing
from steerec.engine.fused import Fused, FusedConfig
from steerec.errors import ConfigError
from worlds import shop

CONFIG = FusedConfig(dims=16, lessons=150, keep=12)


@cache
def world():
    return shop(n_users=150, n_items=90, events_each=12)


def liking_of_clusters(histories, now):
    """A blend that counts the history's items of each item's cluster, newer ones for more."""
    cluster = world().cluster
    scores = np.zeros((len(histories), len(cluster)), np.float32)
    for row, history in enumerate(histories):
        for age, item in enumerate(history.item_idx[::-1]):
            scores[row] += 0.5**age * (cluster == cluster[item])
    return scores - np.arange(len(cluster), dtype=np.float32) / 1_000


@cache
def fitted(**changes):
    config = replace(CONFIG, **changes)
    rng = np.random.default_rng(3)
    return Fused.fit(world().data, liking_of_clusters, config, rng, repeats=True)


def all_items():
    return np.ones(world().data.n_items, bool)


def of_cluster(number, n):
    return np.flatnonzero(world().cluster == number)[:n].astype(np.int32)


def test_it_finds_what_the_blend_would_put_first():
    found, chance = [], []
    for user in range(60):
        history = world().data.history(user)
        wanted = np.argsort(-liking_of_clusters([history], None)[0])[:10]
        asked = fitted().search(history, 15, all_items())
        found.append(np.isin(wanted, asked).mean())
        chance.append(15 / world().data.n_items)
    assert np.mean(found) > 0.9 > 4 * np.mean(chance)


def test_one_click_moves_what_is_found_at_once():
    cluster = world().cluster
    history = History.of(of_cluster(0, 4))
    before = fitted().search(history, 8, all_items())
    assert (cluster[before] == 0).mean() > 0.7
    for item in of_cluster(1, 4):
        history = history.append(int(item))
    after = fitted().search(history, 8, all_items())
    assert (cluster[after] == 1).mean() > 0.5


def test_the_search_is_the_sorted_product_of_plain_numbers(monkeypatch):
    monkeypatch.setattr(fusing, "BLOCK", 7)  # several blocks, and a last one that is not full
    matrix = fitted()
    history = History.of(world().data.history(5).item_idx)
    allowed = all_items()
    allowed[::3] = False
    plain = matrix.codes.astype(np.float64) * matrix.step[:, None]
    total = np.zeros(plain.shape[1])
    for age, item in enumerate(history.item_idx[::-1]):
        total += CONFIG.decay**age * plain[item]
    user = np.append(total, 1.0) @ matrix.asks
    score = np.where(allowed, plain @ user, -np.inf)
    np.testing.assert_allclose(matrix.scores([history])[0], plain @ user, rtol=1e-3, atol=1e-6)
    found = matrix.search(history, 12, allowed)
    assert found.dtype == np.int32
    np.testing.assert_allclose(score[found], np.sort(score)[::-1][:12], rtol=1e-3, atol=1e-6)


def test_many_histories_are_scored_as_one_by_one():
    histories = [world().data.history(u) for u in range(4)] + [History.of([])]
    together = fitted().scores(histories)
    assert together.dtype == np.float32
    for row, history in enumerate(histories):
        alone = fitted().scores([history])[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-4, atol=1e-5)


def test_never_more_items_than_are_allowed():
    allowed = ~all_items()
    assert len(fitted().search(History.of([1]), 5, allowed)) == 0
    allowed[[4, 40]] = True
    assert set(fitted().search(History.of([1]), 5, allowed).tolist()) == {4, 40}


def test_items_outside_the_matrix_say_nothing():
    known = History.of([3, 7])
    strange = History.of([-1, 3, 7])
    np.testing.assert_allclose(
        fitted().scores([known]), fitted().scores([strange]), rtol=1e-4, atol=1e-5
    )


def test_own_items_are_no_lesson_where_nobody_repeats():
    asked = []

    def blend(histories, now):
        scores = np.zeros((len(histories), world().data.n_items), np.float32)
        for row, history in enumerate(histories):
            scores[row, history.item_idx] = 9.0  # only what is not ranked
            asked.append(history)
        return scores

    rng = np.random.default_rng(3)
    matrix = Fused.fit(world().data, blend, CONFIG, rng, repeats=False)
    assert len(asked) == CONFIG.lessons
    assert np.abs(matrix.scores(asked[:5])).max() < 1e-3


def test_lessons_are_cut_before_an_event_whose_time_is_now():
    data = world().data
    histories, now = fusing._lessons(data, 40, np.random.default_rng(0))
    assert len(histories) == len(now) == 40
    for history, time in zip(histories, now, strict=True):
        whole = data.history(history.user_idx)
        assert 1 <= len(history) < len(whole)
        np.testing.assert_array_equal(history.item_idx, whole.item_idx[: len(history)])
        assert whole.time[len(history)] == time


def test_the_best_items_of_a_lesson_by_what_they_beat():
    answers = np.array([[5.0, 1, 4, 2, -np.inf, 0, 0, 0]], np.float32)
    best = fusing._best_of([answers], 2).toarray()[0]  # 2 is the first that is not among 2
    np.testing.assert_array_equal(best, [3, 0, 2, 0, 0, 0, 0, 0])


def test_the_directions_are_those_of_the_whole_decomposition():
    rng = np.random.default_rng(1)
    plain = (rng.normal(size=(60, 5)) @ rng.normal(size=(5, 40))).astype(np.float32)
    plain += 0.01 * rng.normal(size=plain.shape).astype(np.float32)

    found = fusing._directions(sparse.csr_matrix(plain), 5, np.random.default_rng(0))
    exact = np.linalg.svd(plain)[2][:5].T
    np.testing.assert_allclose(found @ found.T, exact @ exact.T, atol=1e-3)


def test_the_units_of_what_is_given_play_no_part():
    rng = np.random.default_rng(2)
    given, wanted = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    given[:, 3] = 0.0
    units = np.array([1e-3, 1.0, 50.0, 1.0])
    plain, scaled = (fusing._ridge(g, wanted, 0.1) for g in (given, given * units))
    np.testing.assert_allclose(given @ plain, (given * units) @ scaled, rtol=1e-4, atol=1e-6)
    assert np.isfinite(plain).all()
    # one column alone: (Σ xy) / (1.1 Σ x²)
    x, y = given[:, :1], wanted[:, :1]
    alone = fusing._ridge(x, y, 0.1)
    np.testing.assert_allclose(alone, (x * y).sum() / (1.1 * (x * x).sum()), rtol=1e-5)


def test_more_dimensions_than_items_or_lessons_are_zero():
    rng = np.random.default_rng(0)
    config = FusedConfig(dims=128, lessons=20)
    matrix = Fused.fit(world().data, liking_of_clusters, config, rng, repeats=True)
    assert matrix.codes.shape == (90, 128)
    assert len(matrix.search(History.of([1]), 5, all_items())) == 5


def test_a_new_item_stands_where_its_text_puts_it():
    matrix = fitted()
    vectors = world().data.vectors
    wider = matrix.with_items(vectors[[8, 30]])
    assert wider.n_items == matrix.n_items + 2
    np.testing.assert_array_equal(wider.codes[: matrix.n_items], matrix.codes)
    fans = [History.of(of_cluster(world().cluster[item], 6)) for item in (8, 30)]
    scores = wider.scores(fans)
    assert scores[0, -2] > np.quantile(scores[0], 0.7)
    assert scores[1, -1] > np.quantile(scores[1], 0.7)
    assert scores[0, -2] > scores[1, -2]
    assert scores[1, -1] > scores[0, -1]


def test_an_item_that_no_lesson_names_stands_where_its_text_puts_it():
    hidden = int(of_cluster(2, 1)[0])

    def blend(histories, now):
        scores = liking_of_clusters(histories, now)
        scores[:, hidden] = -9.0
        return scores

    rng = np.random.default_rng(3)
    matrix = Fused.fit(world().data, blend, CONFIG, rng, repeats=True)
    fan = History.of(of_cluster(2, 8)[1:])
    other = History.of(of_cluster(3, 7))
    assert matrix.scores([fan])[0, hidden] > matrix.scores([other])[0, hidden]


def test_without_vectors_there_is_no_map_and_no_new_item():
    data = replace(world().data, vectors=None)
    matrix = Fused.fit(data, liking_of_clusters, CONFIG, np.random.default_rng(0), repeats=True)
    assert matrix.from_text.shape == (0, 16)
    assert len(matrix.search(History.of([1]), 5, all_items())) == 5


@given(arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)))
def test_codes_are_within_half_a_step(places):
    codes, step = fusing._coded(places)
    assert codes.dtype == np.int8
    assert (np.abs(codes * step[:, None] - places) <= 0.5001 * step[:, None] + 1e-30).all()


def test_saving_and_loading_gives_equal_scores(tmp_path):
    fitted().save(tmp_path / "fused.npz")
    again = Fused.load(tmp_path / "fused.npz")
    assert again.config == CONFIG
    history = world().data.history(2)
    np.testing.assert_array_equal(again.scores([history]), fitted().scores([history]))


def test_the_same_seed_gives_the_same_matrix():
    rng = np.random.default_rng(3)
    again = Fused.fit(world().data, liking_of_clusters, CONFIG, rng, repeats=True)
    np.testing.assert_array_equal(again.codes, fitted().codes)


def test_settings_out_of_range_are_refused():
    for wrong in ({"dims": 0}, {"decay": 0.0}, {"l2": 0.0}, {"by_text": -1.0}, {"lessons": 0}):
        with pytest.raises(ConfigError, match="fused"):
            FusedConfig(**wrong)
