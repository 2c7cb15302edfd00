"""Held-out cases are scored once where memory allows, and say the same where it does not."""

import numpy as np
import pytest

import steerec.engine.scorer as module
from engine_worlds import model, world
from steerec.data.split import leave_last_out
from steerec.engine.calibrate import Curve
from steerec.engine.scorer import Scorer


class Counting:
    """A head that counts the cases it was asked for."""

    def __init__(self, head):
        self.head, self.asked = head, 0

    def start(self, history):
        return self.head.start(history)

    def score(self, states, items, now):
        self.asked += len(states)
        return self.head.score(states, items, now)


@pytest.mark.parametrize(("most", "asked"), [(10**9, 120), (1_000, 6)])
def test_cases_are_scored_once_if_their_scores_fit_into_memory(most, asked, monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", most)
    monkeypatch.setattr(module, "BATCH", 50)
    cases = leave_last_out(world().data).cases
    heads = {name: Counting(model().heads[name]) for name in ("ease", "transitions")}
    scorer = Scorer(cases, heads)
    for name, head in heads.items():
        chosen = np.array([3, 70, 119])
        slowly = [
            head.head.score([cases.history(case)], None, cases.now[[case]])[0] for case in chosen
        ]
        np.testing.assert_allclose(scorer.rows(name, chosen), slowly, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(scorer.rows(name, chosen[:0]), np.empty((0, 60)))
        scorer.rows(name, chosen)
        assert head.asked == asked


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_curve_maps_zeros_and_unknown_scores_as_any_other(share):
    rng = np.random.default_rng(0)
    curve = Curve(0.3, np.array([-1.0, 0.5, 2.0]), np.array([-2.0, 1.0, 1.5]))
    scores = np.where(rng.random((7, 40)) < share, rng.normal(size=(7, 40)) * 9, 0.0)
    scores = scores.astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    x = np.arcsinh(scores / 0.3)
    expected = np.interp(x, [-1.0, 0.5, 2.0, 20.0], [-2.0, 1.0, 1.5, 1.5 + 18 / 3])
    expected[np.isnan(scores)] = 0.0
    np.testing.assert_allclose(curve(scores), expected, atol=2e-6)
