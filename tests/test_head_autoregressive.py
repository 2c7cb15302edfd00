"""The autoregressive head against its definition, summed step by step."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.heads.autoregressive import Autoregressive, AutoregressiveConfig

N_ITEMS = 9
EXACT = AutoregressiveConfig(decays=(0.4, 0.9), cut=1e-9, l2=0.5)


def walks(*, baskets):
    """20 people of 2 to 12 events; with `baskets`, neighbours in time often share one."""
    rng = np.random.default_rng(3)
    rows = []
    for person in range(20):
        step = 0
        for number in range(int(rng.integers(2, 13))):
            step += int(number == 0 or not baskets or rng.random() < 0.6)
            item = f"i{rng.integers(N_ITEMS)}"
            rows.append((f"u{person}", item, float(number), f"{person}-{step}"))
    events = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "basket"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(N_ITEMS)]})
    return build_dataset(events if baskets else events.drop("basket"), items)


def stacked(past, decays):
    """x: for each decay, the sum of decay ** (steps back) of the items of each step."""
    x = np.zeros((len(decays), N_ITEMS))
    for back, step in enumerate(reversed(past)):
        for item in step:
            x[:, item] += np.array(decays) ** back
    return x.ravel()


def steps_of(history):
    steps = []
    for place, item in enumerate(history.item_idx):
        same = place and 0 <= history.basket[place] == history.basket[place - 1]
        if not same:
            steps.append([])
        steps[-1].append(int(item))
    return steps


def by_definition(data, config):
    """W = (Σ x xᵀ + λI)⁻¹ Σ x yᵀ over every step that has a next one."""
    return np.linalg.solve(*moments_by_definition(data, config))


def moments_by_definition(data, config):
    """Σ x xᵀ + λI and Σ x yᵀ."""
    size = len(config.decays) * N_ITEMS
    gram, target = np.zeros((size, size)), np.zeros((size, N_ITEMS))
    for user_idx in range(data.n_users):
        steps = steps_of(data.history(user_idx))
        for t in range(len(steps) - 1):
            x = stacked(steps[: t + 1], config.decays)
            y = np.bincount(steps[t + 1], minlength=N_ITEMS)
            gram += np.outer(x, x)
            target += np.outer(x, y)
    gram += config.l2 * data.counts().mean() * np.eye(size)
    return gram, target


@pytest.mark.parametrize("baskets", [False, True])
def test_weights_are_those_of_the_sums_formed_step_by_step(baskets):
    data = walks(baskets=baskets)
    head = Autoregressive.fit(data, EXACT, np.random.default_rng(0))
    np.testing.assert_allclose(np.vstack(head.weights), by_definition(data, EXACT), atol=2e-5)


def test_score_is_the_stacked_past_times_the_weights():
    data = walks(baskets=False)
    head = Autoregressive.fit(data, EXACT, np.random.default_rng(0))
    history = History.of([2, 5, 5, 7])
    expected = stacked([[2], [5], [5], [7]], EXACT.decays) @ np.vstack(head.weights)
    scores = head.score([history], None, np.array([np.nan]))[0]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_too_many_items_for_all_scales_fall_back_to_the_short_ones():
    config = AutoregressiveConfig(decays=(0.4, 0.9), short_decays=(0.7,), max_size=N_ITEMS)
    head = Autoregressive.fit(walks(baskets=False), config, np.random.default_rng(0))
    assert head.scales == (0.7,)
    assert len(head.weights) == 1


@pytest.mark.parametrize("baskets", [False, True])
def test_too_many_items_for_one_scale_are_each_solved_on_their_neighbours(baskets, caplog):
    data = walks(baskets=baskets)
    config = replace(EXACT, short_decays=EXACT.decays, max_size=2 * N_ITEMS - 1, neighbours=100)
    head = Autoregressive.fit(data, config, np.random.default_rng(0))
    assert "solved=locally items=9" in caplog.text
    # an item that all others led to, at each scale, has all of them as neighbours
    solved = np.vstack([weights.toarray() for weights in head.weights])
    whole = (solved != 0).all(axis=0)
    assert whole.sum() >= 3
    expected = by_definition(data, config)
    np.testing.assert_allclose(solved[:, whole], expected[:, whole], atol=2e-5)


def test_solved_locally_on_few_neighbours_a_column_is_the_regression_on_them():
    data = walks(baskets=False)
    config = replace(EXACT, short_decays=(0.5,), max_size=1, neighbours=3)
    (weights,) = Autoregressive.fit(data, config, np.random.default_rng(0)).weights
    gram, target = moments_by_definition(data, replace(config, decays=(0.5,)))
    for j, column in enumerate(weights.toarray().T):
        strongest = np.sort(np.argsort(-(target[:, j] ** 2) / np.diag(gram))[:3])
        expected = np.zeros(N_ITEMS)
        expected[strongest] = np.linalg.solve(
            gram[np.ix_(strongest, strongest)], target[strongest, j]
        )
        np.testing.assert_allclose(column, expected, atol=1e-5)
