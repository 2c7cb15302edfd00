"""Reliability counts chances against hits, and knows a model that promises too much."""

import numpy as np
import pytest
from scipy.special import log_softmax

from steerec.evaluation.reliability import N_BINS, Reliability


def test_chances_and_hits_fall_into_half_powers_of_ten():
    log_p = np.log(np.array([[0.5, 0.02, 2e-9, 0.04], [0.9, 0.5, 0.02, 0.04]], np.float32))
    log_p[1, 3] = -np.inf  # not ranked
    found = Reliability()
    found.add(log_p, np.array([0, 1, 3]), np.array([0, 1, 1]))  # of three targets two are ranked
    highest, lower = N_BINS - 1, N_BINS - 4  # from 10^-0.5; from 10^-2 to 10^-1.5
    assert found.items[[0, lower, lower + 1, highest]].tolist() == [1, 2, 1, 3]
    assert found.items.sum() == 7
    assert found.given[highest] == pytest.approx(1.9)
    assert found.given[lower] == pytest.approx(0.04)
    assert found.hits[highest] == 1.5
    assert found.hits.sum() == 1.5
    assert found.error_nats is None  # too few to say
    assert [one["items"] for one in found.to_json()["bins"]] == [1, 2, 1, 3]


def drawn(times):
    """Requests whose targets are drawn from a softmax; the model's scores are `times` as long."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3_000, 50)) * 1.5
    targets = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    found = Reliability()
    chances = log_softmax(times * scores, axis=1).astype(np.float32)
    for part in np.array_split(np.arange(3_000), 7):
        found.add(chances[part], targets[part], np.arange(len(part)))
    return found


def test_a_model_that_knows_the_chances_is_hardly_off():
    honest = drawn(1.0)
    assert honest.given.sum() == pytest.approx(3_000, rel=1e-4)
    assert honest.hits.sum() == 3_000
    assert honest.error_nats < 0.06


def test_a_model_that_promises_too_much_or_too_little_is_found_out():
    loud, quiet = drawn(2.0), drawn(0.4)
    assert min(loud.error_nats, quiet.error_nats) > 0.3
    assert loud.hits[-1] < 0.85 * loud.given[-1]
    top = np.flatnonzero(quiet.items)[-1]
    assert quiet.hits[top] > 1.3 * quiet.given[top]
