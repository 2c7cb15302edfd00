"""Context features: what each column says, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from steerec.contracts import OWN, History
from steerec.engine.model import FitConfig, fit
from steerec.engine.phi import (
    DAY_S,
    HOURS,
    NO_HISTORY,
    SINCE_FIT,
    Phi,
    PhiConfig,
    spans_days,
)
from steerec.errors import ConfigError
from worlds import shop

PLAIN = Phi(PhiConfig(), np.zeros((10, 0), np.float32))
NOON = 20_000 * DAY_S + DAY_S / 2


def column(name, history, now=np.nan, phi=PLAIN, **context):
    return phi([history], np.array([now]), **context)[0, phi.names.index(name)]


def seen_at(*times):
    return History(
        np.arange(len(times), dtype=np.int32),
        np.ones(len(times), np.float32),
        np.array(times, np.float64),
        np.full(len(times), -1, np.int32),
    )


def test_there_is_a_name_for_each_column_and_the_first_is_the_bias():
    phi = Phi.fit(shop(n_users=20).data, PhiConfig(scenarios=("home",), devices=("tv",)))
    row = phi([History.of([1])], np.array([np.nan]))
    assert row.shape == (1, len(phi.names))
    assert phi.names[0] == "bias"
    assert row[0, 0] == 1.0
    assert len(set(phi.names)) == len(phi.names)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 10, 77, 200, 5_000])
def test_hats_of_the_length_sum_to_one(length):
    row = PLAIN([History.of([0] * length)], np.array([np.nan]))[0]
    lengths = [v for n, v in zip(PLAIN.names, row, strict=True) if n.startswith("length~")]
    assert sum(lengths) == pytest.approx(1.0)
    assert min(lengths) >= 0
    assert (column(NO_HISTORY, History.of([0] * length)) == 1.0) == (length == 0)
    if length:
        assert column(NO_HISTORY, History.of([0] * length)) == 0.0  # newcomers' column is theirs


def test_seven_events_lie_between_five_and_ten():
    share = (np.log(8) - np.log(6)) / (np.log(11) - np.log(6))  # knots at log(1 + n)
    assert column("length~10", History.of([0] * 7)) == pytest.approx(share)
    assert column("length~5", History.of([0] * 7)) == pytest.approx(1 - share)


def test_time_since_the_last_event():
    assert column("gap~3600s", seen_at(0.0, NOON - 3_600), NOON) == pytest.approx(1.0)
    assert column("gap~10s", seen_at(NOON), NOON) == 1.0
    assert column("gap~10s", seen_at(NOON + 99), NOON) == 1.0  # an event from the future: just now
    assert column("gap~2592000s", seen_at(0.0), NOON) == 1.0


def test_unknown_times_switch_the_gap_and_the_day_off():
    for history, now in ((History.of([1]), NOON), (seen_at(NOON), np.nan), (History.of([]), NOON)):
        row = PLAIN([history], np.array([now]))[0]
        gaps = [v for n, v in zip(PLAIN.names, row, strict=True) if n.startswith("gap~")]
        assert gaps == [0.0] * 4
    assert column("day_sin", seen_at(NOON)) == column("day_cos", seen_at(NOON)) == 0.0


def test_the_hour_turns_once_a_day():
    six = NOON - DAY_S / 4
    assert column("day_sin", History.of([]), six) == pytest.approx(1.0)
    assert column("day_cos", History.of([]), NOON) == pytest.approx(-1.0)


def test_taste_is_the_mean_place_of_the_newest_items_shrunk():
    places = np.array([[1.0], [3.0], [-2.0]], np.float32)
    phi = Phi(PhiConfig(taste_dims=1), places)
    assert column("taste0", History.of([0, 1]), phi=phi) == pytest.approx(4.0 / 5.0)
    assert column("taste0", History.of([]), phi=phi) == 0.0
    assert column("taste0", History.of([2, *[0] * 20]), phi=phi) == pytest.approx(20.0 / 23.0)


def test_a_taste_may_count_from_some_events_on_only():
    phi = Phi(PhiConfig(taste_dims=1), np.array([[1.0], [3.0]], np.float32), taste_from=3)
    assert column("taste0", History.of([0, 1]), phi=phi) == 0.0
    assert column("taste0", History.of([0, 1, 1]), phi=phi) == pytest.approx(7.0 / 6.0)
    for events in ([0, 1], [0, 1, 1]):
        one = phi.one(History.of(events), NOON, scenario=None, device=None)
        many = phi([History.of(events)], np.array([NOON]))[0]
        np.testing.assert_allclose(one, many, atol=1e-12)


def test_what_came_after_the_fit_is_a_share_of_the_history():
    phi = replace(PLAIN, fitted=np.array([4, 0]))
    for user, length, share in ((0, 8, 0.5), (0, 3, 0.0), (1, 5, 1.0), (-1, 5, 1.0), (7, 2, 1.0)):
        history = History.of([0] * length, user)
        many = (np.log1p(length) - np.log(2)) / (np.log(11) - np.log(2))  # knots at 1 and 10
        assert column(SINCE_FIT + "1", history, phi=phi) == pytest.approx(share * (1 - many))
        assert column(SINCE_FIT + "10", history, phi=phi) == pytest.approx(share * many)
        one = phi.one(history, NOON, scenario=None, device=None)
        np.testing.assert_allclose(one, phi([history], np.array([NOON]))[0], atol=1e-12)
    assert column(SINCE_FIT + "1", History.of([]), phi=phi) == 0.0
    assert not any(name.startswith(SINCE_FIT) for name in PLAIN.names)


def test_items_of_ones_own_have_length_and_fit_of_their_request_beside_and_others_nothing():
    phi = replace(PLAIN, fitted=np.array([4]))
    row = phi([History.of([0] * 5, 0)], np.array([NOON]))[0]
    told = dict(zip(phi.names, row, strict=True))
    assert not any(told[name] for name in phi.names if name.startswith(OWN))
    mine = dict(zip(phi.names, phi.of_own(row), strict=True))
    assert mine.pop("own:bias") == mine.pop("own:length~5") == 1.0
    assert mine.pop("own:since_fit~1") + mine.pop("own:since_fit~10") == pytest.approx(0.2)
    assert not any(mine.values())
    assert phi.tells_own
    assert not PLAIN.tells_own


def test_places_in_the_taste_space_have_variance_one_and_tell_clusters_apart():
    world = shop(n_users=20)
    phi = Phi.fit(world.data, PhiConfig(taste_dims=3))
    np.testing.assert_allclose(phi.projection.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose((phi.projection**2).mean(axis=0), 1.0, atol=1e-3)
    centres = np.stack([phi.projection[world.cluster == c].mean(axis=0) for c in range(6)])
    within = phi.projection - centres[world.cluster]
    assert (within**2).mean() < 0.5


def test_no_vectors_or_no_dimensions_mean_no_taste():
    data = shop(n_users=20).data
    assert Phi.fit(data, PhiConfig(taste_dims=0)).projection.shape == (data.n_items, 0)
    blank = data.with_vectors(np.zeros_like(data.vectors))
    assert Phi.fit(blank, PhiConfig()).projection.shape == (data.n_items, 0)


def test_scenario_and_device_have_their_columns():
    phi = Phi(PhiConfig(scenarios=("home", "cart"), devices=("tv",)), np.zeros((3, 0), np.float32))
    assert column("scenario=cart", History.of([]), phi=phi, scenario="cart") == 1.0
    assert column("scenario=home", History.of([]), phi=phi, scenario="cart") == 0.0
    assert column("device=tv", History.of([]), phi=phi, device="tv") == 1.0
    assert column("device=tv", History.of([]), phi=phi, device="phone") == 0.0


def test_negative_dimensions_are_refused():
    with pytest.raises(ConfigError, match="taste_dims"):
        PhiConfig(taste_dims=-1)


@pytest.mark.parametrize(("days", "enough"), [(1, False), (2, False), (3, True), (9, True)])
def test_weights_depend_on_the_hour_only_where_held_out_steps_span_days(days, enough):
    data = shop(n_users=60).data
    cut = np.quantile(data.time, 0.9)
    held_out, order = data.time > cut, np.argsort(np.argsort(data.time))
    spread = (order - order[held_out].min()) / held_out.sum()  # evenly, in the same order
    dawn = np.ceil(cut / DAY_S) * DAY_S
    squeezed = replace(data, time=np.where(held_out, dawn + days * DAY_S * spread, data.time))
    config = FitConfig(heads=("trending", "transitions"))
    model = fit(squeezed, config, np.random.default_rng(0))
    hours = [model.phi.names.index(name) for name in HOURS]
    assert np.any(model.strategy.theta[:, hours] != 0.0) == enough


def test_a_day_that_has_nearly_all_moments_is_the_only_one():
    day = np.repeat([0.0, 1.0, 2.0, 3.0], [97, 1, 1, 1])
    assert not spans_days(day * DAY_S)
    assert spans_days(np.array([0.0, 1.0, 2.0, np.nan]) * DAY_S)
    assert not spans_days(np.full(3, np.nan))
    assert not spans_days(np.empty(0))
