"""What heads count live, against a table filled in pair by pair."""

import numpy as np
import pytest
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import History
from steerec.heads import transitions
from steerec.heads.transitions import Transitions, TransitionsConfig

N_ITEMS = 12
CONFIG = TransitionsConfig(same_basket=0.0)


def lived(head, counts, n_events, rng):
    """The history after so many events, each counted by the head and in the table."""
    history = History.of([])
    for _ in range(n_events):
        event = History.of([int(rng.integers(N_ITEMS))])
        head.observe(history, event)
        newest = history.item_idx[-CONFIG.steps :][::-1]
        for apart, earlier in enumerate(newest):
            counts[earlier, event.item_idx[0]] += CONFIG.fade**apart
        history = head.update(history, event)
    return history


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("merge", [7, 10**6])
def test_live_transitions_score_as_the_table_they_add_up_to(dense, merge, monkeypatch):
    monkeypatch.setattr(transitions, "MERGE", merge)
    rng = np.random.default_rng(0)
    fitted = (rng.random((N_ITEMS, N_ITEMS)) * (rng.random((N_ITEMS, N_ITEMS)) < 0.3)).astype("f4")
    weights = fitted.copy() if dense else sparse.csr_matrix(fitted)
    out, known = fitted.sum(axis=1).astype(np.float64), np.ones(N_ITEMS, bool)
    head, table = Transitions(CONFIG, weights, out, known), fitted.astype(np.float64)
    history = lived(head, table, 60, rng)
    asked = np.zeros(N_ITEMS)
    for apart, item in enumerate(history.item_idx[-CONFIG.last :][::-1]):
        asked[item] += CONFIG.decay**apart
    expected = asked / (table.sum(axis=1) + CONFIG.shrink) @ table
    now, some = np.zeros(1), np.array([2, 5], np.int32)
    assert head.score([history], None, now)[0] == pytest.approx(expected, rel=1e-4)
    assert head.score([history], some, now)[0] == pytest.approx(expected[some], rel=1e-4)
    assert head.score([history] * 2, None, np.zeros(2))[1] == pytest.approx(expected, rel=1e-4)
    if not dense:
        near = {j for i in history.item_idx[-20:] for j in np.flatnonzero(table[i])}
        assert set(head.near(history).tolist()) == near


def test_an_item_that_came_after_the_fit_keeps_its_place_in_the_pairs():
    head = Transitions(
        CONFIG, sparse.csr_matrix((2, 2), dtype="f4"), np.zeros(2), np.zeros(2, bool)
    )
    head.observe(History.of([0, 7]), History.of([1]))
    assert head.out.tolist() == [pytest.approx(CONFIG.fade), 0.0]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_events_that_come_in_any_order_are_counted_alike(dense, compiled, seed, monkeypatch):
    """Of one person, some disliked, more of them than a pair may be apart."""
    if compiled:
        kernels.load()
    monkeypatch.setattr(transitions, "loaded", lambda: compiled)
    rng = np.random.default_rng(seed)
    config = TransitionsConfig(same_basket=0.0, steps=4)
    items, weight = rng.integers(0, N_ITEMS + 1, 12), rng.choice([1.0, 1.0, -1.0], 12)

    def counted(order):
        zeros = np.zeros((N_ITEMS, N_ITEMS), "f4")
        weights = zeros if dense else sparse.csr_matrix(zeros)
        head = Transitions(config, weights, np.zeros(N_ITEMS), np.zeros(N_ITEMS, bool))
        taken = []
        for at in order:
            past = sorted(taken)
            before = History(
                items[past].astype(np.int32),
                weight[past].astype(np.float32),
                np.array(past, np.float64),
                np.full(len(past), -1, np.int32),
            )
            head.count(before, int(items[at]), float(weight[at]), float(at))
            taken.append(at)
        head._merge()
        return np.asarray(head.counts if dense else head.counts.toarray()), head.out

    straight, other = counted(range(12)), counted(rng.permutation(12).tolist())
    assert straight[0].sum() > 5
    np.testing.assert_allclose(other[0], straight[0], atol=1e-5)
    np.testing.assert_allclose(other[1], straight[1], atol=1e-5)
