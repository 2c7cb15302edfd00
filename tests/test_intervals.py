import numpy as np
import pytest

from steerec.evaluation.intervals import Bootstrap, compare_all, intervals


def slow_means(counts, user, values):
    """Gather the requests of every drawn user, as often as drawn, and average."""
    means = []
    for draw in counts:
        gathered = [v for u, v in zip(user, values, strict=True) for _ in range(draw[u])]
        gathered = [v for v in gathered if not np.isnan(v)]
        means.append(np.mean(gathered) if gathered else np.nan)
    return np.array(means)


def test_drawn_means_agree_with_gathering_each_users_requests():
    rng = np.random.default_rng(1)
    user = np.array([0, 0, 1, 2, 2, 2, 3])
    values = np.array([1.0, 0.0, 0.5, np.nan, 1.0, 0.25, np.nan])
    bootstrap = Bootstrap.draw(user, rng, draws=150)
    slow = slow_means(bootstrap.counts, user, values)
    np.testing.assert_allclose(bootstrap.means(values[:, None])[:, 0], slow)


def test_every_draw_holds_as_many_users_as_there_are():
    bootstrap = Bootstrap.draw(np.array([7, 7, 90, 12]), np.random.default_rng(0), draws=50)
    assert bootstrap.counts.shape == (50, 3)
    assert (bootstrap.counts.sum(axis=1) == 3).all()


def test_interval_of_equal_values_is_a_point():
    bootstrap = Bootstrap.draw(np.arange(9), np.random.default_rng(0))
    found = intervals({"hr@10": np.full(9, 0.25)}, bootstrap)["hr@10"]
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_interval_holds_the_truth_in_about_95_percent_of_repeats():
    # requests of one user resemble each other; an interval over requests would be too narrow
    rng = np.random.default_rng(5)
    covered, naive = 0, 0
    for _ in range(200):
        taste = rng.normal(0.3, 0.2, 120)
        user = np.repeat(np.arange(120), rng.integers(1, 20, 120))
        values = taste[user] + rng.normal(0, 0.1, len(user))
        found = intervals({"x": values}, Bootstrap.draw(user, rng, draws=300))["x"]
        covered += found.low <= 0.3 <= found.high
        half = 1.96 * values.std() / np.sqrt(len(values))
        naive += abs(values.mean() - 0.3) <= half
    assert 180 <= covered <= 198
    assert naive < 160


def test_same_seed_gives_the_same_interval():
    user, values = np.arange(40) % 13, {"x": np.arange(40) / 40}
    first, second = (
        intervals(values, Bootstrap.draw(user, np.random.default_rng(2))) for _ in range(2)
    )
    assert first == second


def test_a_metric_without_any_value_has_no_interval():
    bootstrap = Bootstrap.draw(np.arange(3), np.random.default_rng(0))
    found = intervals({"x": np.full(3, np.nan)}, bootstrap)["x"]
    assert np.isnan([found.mean, found.low, found.high]).all()


def test_paired_comparison_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(8)
    base = rng.random(300)
    values = {"popularity": base, "blend": base + 0.02 + rng.normal(0, 0.05, 300)}
    bootstrap = Bootstrap.draw(np.arange(300), rng)
    apart = intervals(values, bootstrap)
    assert apart["blend"].low < apart["popularity"].high
    found = compare_all(values, "popularity", bootstrap)["blend"]
    assert found.difference == pytest.approx(values["blend"].mean() - base.mean())
    assert found.low > 0
    assert found.p == pytest.approx(2 / 1001)


def test_a_model_is_no_better_than_itself():
    values = {"a": np.arange(20.0), "b": np.arange(20.0)}
    found = compare_all(values, "a", Bootstrap.draw(np.arange(20), np.random.default_rng(0)))
    assert list(found) == ["b"]
    assert (found["b"].difference, found["b"].p) == (0, 1)


def test_p_is_the_same_in_both_directions():
    rng = np.random.default_rng(4)
    values = {"a": rng.random(50), "b": rng.random(50)}
    bootstrap = Bootstrap.draw(np.arange(50), rng)
    there, back = (compare_all(values, name, bootstrap) for name in ("a", "b"))
    assert there["b"].p == back["a"].p > 0.01
    assert there["b"].low == pytest.approx(-back["a"].high)


def test_p_of_equal_models_is_below_5_percent_in_about_5_percent_of_repeats():
    rng = np.random.default_rng(6)
    low = 0
    for _ in range(200):
        values = {"a": rng.random(80), "b": rng.random(80)}
        bootstrap = Bootstrap.draw(np.arange(80), rng, draws=300)
        low += compare_all(values, "a", bootstrap)["b"].p < 0.05
    assert 3 <= low <= 22


def test_bad_input_is_refused_with_a_reason():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no requests"):
        Bootstrap.draw(np.array([], int), rng)
    bootstrap = Bootstrap.draw(np.arange(3), rng)
    with pytest.raises(ValueError, match="2 values for 3 requests"):
        bootstrap.means(np.zeros((2, 1)))
    with pytest.raises(ValueError, match="no model 'best'"):
        compare_all({"a": np.zeros(3)}, "best", bootstrap)
