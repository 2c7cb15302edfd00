"""Counts of pairs, by products of matrices and pair by pair, against plain loops."""

import numpy as np
import pytest

import steerec.heads.lags as lags
from steerec.heads.lags import Steps, Weighing, count_pairs, count_within

N_ITEMS = 15
MOST = 4


def shopping(seed=0):
    """Three users who buy 25 things at a time and five who take one or two."""
    rng = np.random.default_rng(seed)
    user, item, step, left, size = [], [], [], [], []
    for person in range(8):
        sizes = rng.integers(20, 30, 12) if person % 3 == 0 else rng.integers(1, 3, 9)
        for number, n in enumerate(sizes):
            user += [person] * n
            item += rng.integers(0, N_ITEMS, n).tolist()
            step += [number] * n
            left += [len(sizes) - 1 - number] * n
            size += [n] * n
    return Steps(*(np.array(column, np.int32) for column in (user, item, step, left, size)))


def slowly(steps, weighing):
    total = np.zeros((N_ITEMS, N_ITEMS))
    n = len(steps.user)
    early = np.ones(n) if weighing.early is None else weighing.early
    late = np.ones(n) if weighing.late is None else weighing.late
    for a in range(n):
        for b in range(n):
            apart = steps.step[b] - steps.step[a]
            if steps.user[a] == steps.user[b] and 1 <= apart <= MOST:
                weight = weighing.by_lag[apart] * early[a] * late[b]
                total[steps.item[a], steps.item[b]] += weight
    return total


def weighings(steps):
    rng = np.random.default_rng(1)
    early, late = rng.random((2, len(steps.user))).astype(np.float32)
    fades = (0.7 ** np.arange(MOST + 1)).astype(np.float32)
    even = np.ones(MOST + 1, np.float32)
    return {
        "both": Weighing(fades, early, late),
        "late": Weighing(even, late=late),
        "": Weighing(even),
    }


@pytest.mark.parametrize("dense_items", [0, 6_000])
def test_pairs_are_counted_as_by_loops_however_they_are_counted(dense_items, monkeypatch):
    monkeypatch.setattr(lags, "DENSE_ITEMS", dense_items)
    steps = shopping()
    crowded = lags._crowded(steps, MOST)
    assert crowded.tolist() == [person % 3 == 0 for person in range(8)]  # both ways are taken
    for name, counted in count_pairs(steps, N_ITEMS, weighings(steps)).items():
        counted = counted if dense_items else counted.toarray()
        np.testing.assert_allclose(counted, slowly(steps, weighings(steps)[name]), rtol=1e-5)


def test_pairs_within_a_step_go_both_ways_and_no_event_pairs_with_itself():
    steps = shopping(2)
    weight = (1 / np.sqrt(steps.size)).astype(np.float32)
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for a in range(len(steps.user)):
        for b in range(len(steps.user)):
            if a != b and (steps.user[a], steps.step[a]) == (steps.user[b], steps.step[b]):
                expected[steps.item[a], steps.item[b]] += weight[a]
    counted = count_within(steps, N_ITEMS, weight).toarray()
    np.testing.assert_allclose(counted, expected, rtol=1e-5)


def test_no_events_give_no_pairs():
    nobody = Steps(*(np.empty(0, np.int32) for _ in range(5)))
    assert not count_pairs(nobody, 3, {"": Weighing(np.ones(3, np.float32))})[""].any()
    assert count_within(nobody, 3, np.empty(0, np.float32)).nnz == 0
