"""Networks of the next item: what they read, what they promise, what texts do for them."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.contracts import History
from steerec.engine.model import FitConfig, fit
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import Lesson
from steerec.heads.gru import Gru, GruConfig
from steerec.heads.reader import lag_features
from steerec.heads.sequence import Sequence, SequenceConfig
from steerec.heads.windows import Track, query_batches, training_batches
from worlds import hold_out, shop

BRIEF = SequenceConfig(epochs=6, length=30)
SEQUENCE = (Sequence, SequenceConfig(epochs=1, length=12))
GRU = (Gru, GruConfig(epochs=1, length=12))
both = pytest.mark.parametrize(("head", "config"), [SEQUENCE, GRU], ids=["sequence", "gru"])


@cache
def world():
    return shop()


@cache
def held_out():
    return hold_out(world().data)


@cache
def fitted(head=Sequence, config=BRIEF):
    return head.fit(held_out().train, config, np.random.default_rng(0))


def track(items, basket=None):
    items = np.asarray(items, np.int32)
    baskets = np.full(len(items), -1, np.int32) if basket is None else np.asarray(basket, np.int32)
    return Track(items, np.arange(len(items), dtype=float), baskets, 0)


@given(
    lengths=st.lists(st.integers(2, 70), min_size=1, max_size=8),
    length=st.integers(2, 20),
    tokens=st.integers(1, 200),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_event_but_the_first_is_a_target_once_from_what_came_before(
    lengths, length, tokens, seed
):
    ends = np.cumsum(lengths)
    of = [track(np.arange(end - n, end)) for n, end in zip(lengths, ends, strict=True)]
    rng = np.random.default_rng(seed)
    batches = training_batches(of, 1_000, length=length, tokens=tokens, rng=rng)
    targets = np.concatenate([b.target for b in batches])
    expected = [t.item[1:] for t in of]
    np.testing.assert_array_equal(np.sort(targets), np.sort(np.concatenate(expected)))
    for b in batches:
        assert b.item.shape[1] <= length
        assert b.item.size <= max(tokens, length)
        # Items rise by one along a track, so the input that foretells is the one below.
        np.testing.assert_array_equal(b.item[b.row, b.place], b.target - 1)


def test_a_long_track_is_foretold_with_a_past_wherever_it_has_one():
    of = [track(np.arange(100))]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for b in training_batches(of, 1_000, length=20, tokens=1_000, rng=rng):
            seen = b.place + 1
            late = b.target >= 20
            assert (seen[late & (b.target > 40)] >= 1).all()
            widths = (b.item < 1_000).sum(axis=1)
            assert set(widths[b.row[late]]) <= {20}


def test_the_last_event_of_a_basket_foretells_the_whole_next_one():
    of = [track([1, 2, 3, 4, 5, 6], basket=[0, 0, 1, 1, 1, 2])]
    (batch,) = training_batches(of, 10, length=20, tokens=100, rng=np.random.default_rng(0))
    pairs = sorted(zip(batch.place.tolist(), batch.target.tolist(), strict=True))
    assert pairs == [(1, 3), (1, 4), (1, 5), (4, 6)]


def test_a_user_whose_events_are_all_of_one_basket_has_nothing_to_foretell():
    of = [track([1, 2, 3], basket=[0, 0, 0]), track([4, 5, 6], basket=[0, 0, 1])]
    batches = training_batches(of, 10, length=20, tokens=100, rng=np.random.default_rng(0))
    pairs = [pair for b in batches for pair in zip(b.place, b.target, strict=True)]
    assert pairs == [(1, 6)]


def test_a_query_reads_the_newest_events_and_skips_empty_histories():
    of = [track([]), track([1, 2, 3]), track([4])]
    ((chosen, batch),) = query_batches(of, 9, length=2, tokens=100)
    assert chosen.tolist() == [2, 1]
    assert batch.item.tolist() == [[4, 9], [2, 3]]


@both
def test_no_place_reads_what_comes_after_it(head, config):
    net = fitted(head, config).net
    table = torch.from_numpy(fitted(head, config).vectors)
    item = torch.tensor([[1, 2, 3, 4, 5, 6]])
    time = np.cumsum(np.full((1, 6), 3_600.0), axis=1)
    other, late = item.clone(), time.copy()
    other[0, 4:] = 9
    late[0, 4:] += 1e6
    with torch.no_grad():
        a, b = net.read(table, item, time), net.read(table, other, late)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4:], b[:, 4:])


@both
def test_a_history_scores_the_same_alone_and_among_longer_ones(head, config):
    model = fitted(head, config)
    histories = held_out().histories[:6]
    now = np.full(6, world().now)
    together = model.score([model.start(h) for h in histories], None, now)
    alone = [model.score([model.start(h)], None, now[:1])[0] for h in histories]
    np.testing.assert_allclose(together, np.stack(alone), atol=2e-5)


def test_the_moment_of_the_request_counts_where_times_are_known():
    head, blind = fitted(), fitted(Sequence, SequenceConfig(epochs=1, length=12, times=False))
    history = held_out().histories[0]
    soon, late = history.time[-1:] + 60, history.time[-1:] + 90 * 86_400
    for model, differs in ((head, True), (blind, False)):
        a, b = (model.score([model.start(history)], None, now)[0] for now in (soon, late))
        assert np.array_equal(a, b, equal_nan=True) != differs


def test_events_move_the_state_as_a_fresh_start_would():
    head, history = fitted(), held_out().histories[2]
    state = head.start(history.slice(0, len(history) - 2))
    now = np.array([world().now])
    before = head.score([state], None, now)
    grown = state
    for i in (len(history) - 2, len(history) - 1):
        grown = head.update(grown, history.slice(i, i + 1))
    np.testing.assert_allclose(
        head.score([grown], None, now), head.score([head.start(history)], None, now), atol=2e-5
    )
    np.testing.assert_array_equal(head.score([state], None, now), before)  # it stayed as it was


def test_items_never_seen_are_placed_by_their_text_and_without_one_are_unknown():
    data = held_out().train
    never = world().never_sold
    assert len(never)
    now = np.array([world().now])
    head = fitted()
    assert np.isfinite(head.score([head.start(held_out().histories[0])], never, now)).all()
    vectors = data.vectors.copy()
    vectors[never] = 0
    blind = Sequence.fit(
        data.with_vectors(vectors), SequenceConfig(epochs=1, length=12), np.random.default_rng(0)
    )
    found = blind.score([blind.start(held_out().histories[0])], None, now)[0]
    assert np.isnan(found[never]).all()
    assert np.isfinite(np.delete(found, never)).all()


def test_texts_that_are_all_equal_or_missing_teach_without_texts():
    data = held_out().train
    for vectors in (np.ones_like(data.vectors), np.zeros_like(data.vectors)):
        head = Sequence.fit(
            data.with_vectors(vectors),
            SequenceConfig(epochs=1, length=12),
            np.random.default_rng(0),
        )
        found = head.score([head.start(held_out().histories[0])], None, np.array([world().now]))
        assert np.isfinite(found).any()


def test_it_goes_on_from_an_earlier_head_and_items_keep_their_rows():
    data, first = held_out().train, fitted()
    rows = np.arange(data.n_items, dtype=np.int32)
    short = SequenceConfig(epochs=1, length=30, learning_rate=1e-6)
    on = Sequence.fit(data, short, np.random.default_rng(1), Lesson(previous=first, rows=rows))
    cold = Sequence.fit(data, short, np.random.default_rng(1))
    kept = first.known & (np.bincount(data.item_idx, minlength=data.n_items) > 0)
    assert np.abs(on.vectors[kept] - first.vectors[kept]).max() < 0.01
    assert np.abs(cold.vectors[kept] - first.vectors[kept]).max() > 0.1
    assert on.curve[0]["validation"] > cold.curve[0]["validation"] + 0.1


def test_a_dislike_pushes_what_is_like_it_down_and_a_later_like_takes_it_back():
    head, history = fitted(), held_out().histories[1]
    item = int(history.item_idx[0])
    now = np.array([world().now])
    disliked = head.update(
        head.start(history), History.of([item]).append(item, weight=-1.0).slice(1, 2)
    )
    before = head.score([head.start(history)], None, now)[0]
    after = head.score([disliked], None, now)[0]
    assert after[item] == pytest.approx(before[item] - 4.0, abs=1e-3)
    assert np.nanmax(after - before) <= 0
    forgiven = head.update(disliked, History.of([item]))
    assert len(forgiven.disliked) == 0


def test_lags_are_described_by_two_neighbouring_scales():
    found = lag_features(np.array([np.nan, 0.0, 1.0, 3.2e7, 1e9, 3_600.0]))
    assert found[0].tolist() == [0.0] * 8
    assert found[1].tolist() == found[2].tolist() == [1.0] + [0.0] * 7
    assert found[3].tolist() == found[4].tolist() == [0.0] * 7 + [1.0]
    assert found[5].sum() == pytest.approx(1.0)
    assert (found[5] > 0).sum() == 2


def test_too_few_steps_are_a_clear_error():
    data = held_out().train
    few = data.take(data.user_idx < 1)
    few = few.take(np.arange(few.n_events) < 5)
    with pytest.raises(DataError, match="sequence: 4 steps from one event to a next one"):
        Sequence.fit(few, BRIEF, np.random.default_rng(0))


def test_a_head_lost_in_training_leaves_the_others_to_serve(caplog):
    wild = {"epochs": 2, "length": 12, "learning_rate": 0.99, "matrix_rate": 1e30}
    config = FitConfig(heads=("sequence", "ease"), settings={"sequence": wild})
    model = fit(held_out().train, config, np.random.default_rng(0))
    assert tuple(model.heads) == ("ease",)
    assert "head=sequence left_out reason=sequence: the loss is no number" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 30}, "width=30"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"loss": "hinge"}, "loss='hinge'"),
        ({"layers": "fx"}, "layers='fx'"),
        ({"attention_heads": 3}, "attention_heads=3"),
        ({"negatives": 0}, "negatives=0"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SequenceConfig(**wrong)


@pytest.mark.parametrize("loss", ["bpr_max", "top1_max"])
def test_the_pairwise_losses_learn(loss):
    config = GruConfig(epochs=6, length=20, loss=loss, negatives=64)
    head = Gru.fit(held_out().train, config, np.random.default_rng(0))
    assert head.curve[-1]["validation"] > 0.15


def test_a_large_catalogue_is_learnt_from_a_sample():
    config = SequenceConfig(epochs=6, length=20, full_softmax=10, negatives=32)
    head = Sequence.fit(held_out().train, config, np.random.default_rng(0))
    assert head.curve[-1]["validation"] > 0.3
