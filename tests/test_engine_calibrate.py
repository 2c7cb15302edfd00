"""Calibration turns any score into the log of how much likelier than average an item is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.engine.calibrate import (
    Z_LIMIT,
    CalibrationConfig,
    Curve,
    Sample,
    calibration_from_json,
    calibration_to_json,
    fit_calibration,
)
from steerec.errors import ConfigError


def sample(target, item, lengths=(100, 100)):
    """Scores of targets (n,) and of items (rows, n), all of histories of these lengths."""
    target, item = np.asarray(target, np.float32), np.asarray(item, np.float32)
    return Sample(
        target=target,
        target_length=np.broadcast_to(np.asarray(lengths[0]), len(target)),
        share=np.ones(len(target)),
        item=item,
        item_length=np.broadcast_to(np.asarray(lengths[1]), len(item)),
        ranked=np.full(len(item), item.shape[1]),
    )


def gaussian(shift, n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    return sample(rng.normal(shift, 1.0, n), rng.normal(0.0, 1.0, (40, n // 20)))


def z_of(calibration, scores, length=100):
    scores = np.asarray([scores], np.float32)
    return calibration(scores, np.array([length]))[0]


def test_the_true_log_lift_is_found():
    """Targets N(1, 1) among items N(0, 1): log of the ratio of the densities is x - 1/2."""
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    found = z_of(fit_calibration(gaussian(1.0), CalibrationConfig()), x)
    np.testing.assert_allclose(found, x - 0.5, atol=0.2)


def test_an_average_item_has_a_lift_of_one():
    given_sample = gaussian(1.0)
    z = fit_calibration(given_sample, CalibrationConfig())(
        given_sample.item, given_sample.item_length
    )
    assert np.exp(z).mean() == pytest.approx(1.0, abs=0.05)


def test_a_head_that_knows_nothing_gets_zero():
    found = z_of(fit_calibration(gaussian(0.0), CalibrationConfig()), [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(found, 0.0, atol=0.1)


def test_a_head_that_is_wrong_is_not_turned_around():
    found = z_of(fit_calibration(gaussian(-1.0), CalibrationConfig()), [-2.0, 0.0, 2.0])
    assert found[0] == found[1] == found[2]


scores = st.lists(st.floats(-1e6, 1e6, width=32), min_size=30, max_size=80)


@settings(max_examples=30, deadline=None)
@given(target=scores, item=scores, asked=scores)
def test_higher_scores_never_give_lower_z_and_all_is_finite(target, item, asked):
    config = CalibrationConfig(targets_per_bin=5)
    calibration = fit_calibration(sample(target, [item]), config)
    z = z_of(calibration, [*np.sort(asked), np.nan])
    assert np.isfinite(z).all()
    assert (np.diff(z[:-1]) >= -1e-5).all()
    assert np.abs(z).max() <= Z_LIMIT
    assert z[-1] == 0.0


def test_order_is_kept_beyond_the_scores_that_were_seen():
    z = z_of(fit_calibration(gaussian(1.0), CalibrationConfig()), [4.0, 5.0, 6.0])
    assert z[0] < z[1] < z[2]


def test_a_curve_by_hand():
    curve = Curve(2.0, np.array([0.0, 1.0]), np.array([-1.0, 3.0]))
    x = 2.0 * np.sinh([-1.0, 0.0, 0.25, 1.0, 1.5, 9.0])
    found = curve(np.array([*x, np.nan], np.float32))
    np.testing.assert_allclose(found, [-1.0, -1.0, 0.0, 3.0, 5.0, Z_LIMIT, 0.0], atol=1e-5)


def test_targets_that_the_head_cannot_score_lower_the_lift_of_the_rest():
    """Half the targets NaN, no item NaN: what it scores is half as likely, log 1/2 lower."""
    whole = gaussian(1.0)
    target = whole.target.copy()
    target[::2] = np.nan
    half = sample(target, whole.item)
    config = CalibrationConfig()
    difference = z_of(fit_calibration(half, config), [0.5]) - z_of(
        fit_calibration(whole, config), [0.5]
    )
    assert difference[0] == pytest.approx(np.log(0.5), abs=0.1)


def test_too_few_targets_give_zero_everywhere():
    few = sample(np.arange(10.0), np.arange(40.0)[None])
    assert (z_of(fit_calibration(few, CalibrationConfig()), [0.0, 5.0, 1e9]) == 0).all()
    unknown = sample(np.full(500, np.nan), np.full((3, 100), np.nan))
    assert (z_of(fit_calibration(unknown, CalibrationConfig()), [0.0, np.nan]) == 0).all()


def test_each_length_of_history_has_its_own_curve_where_it_has_the_cases():
    strong, none = gaussian(2.0), gaussian(0.0, seed=1)
    n, rows = len(strong.target), len(strong.item)
    both = sample(
        np.concatenate([strong.target, none.target]),
        np.concatenate([strong.item, none.item]),
        (np.repeat([1, 100], n), np.repeat([1, 100], rows)),
    )
    calibration = fit_calibration(both, CalibrationConfig(lengths=(2, 10)))
    assert z_of(calibration, [2.0], length=2)[0] == pytest.approx(2.0, abs=0.3)
    assert z_of(calibration, [2.0], length=11)[0] == pytest.approx(0.0, abs=0.2)
    # nobody with 3 to 10 events: the curve of all cases, between the two
    assert 0.3 < z_of(calibration, [2.0], length=5)[0] < 1.7


def test_plain_numbers_give_the_same_calibration_back():
    calibration = fit_calibration(gaussian(1.0), CalibrationConfig())
    stored = json.loads(json.dumps(calibration_to_json(calibration)))
    asked = np.linspace(-5, 5, 41)
    np.testing.assert_array_equal(
        z_of(calibration_from_json(stored), asked), z_of(calibration, asked)
    )


def test_settings_out_of_range_are_refused():
    for wrong in ({"lengths": (5, 2)}, {"targets_per_bin": 0}, {"max_bins": 0}):
        with pytest.raises(ConfigError, match="calibration"):
            CalibrationConfig(**wrong)
