"""The closed loop: slates drawn and clicked, policies that learn, figures of the runs."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from engine_worlds import model, world
from steerec.contracts import History
from steerec.engine.loop import LoopConfig, Stage, Trace, best_of, counts_live, run
from steerec.engine.loop_figures import figures, recovered_by, recovery, summary, windows
from steerec.engine.oracle_blend import Watched, _first, fit_best
from steerec.engine.policies import FixedBlend, Oracle, Popularity, blended
from steerec.engine.simulate import SimulateConfig, build_world
from steerec.engine.tuned import Tuned, TunedConfig
from steerec.errors import ConfigError, DataError
from steerec.simulation.visits import Schedule
from steerec.simulation.world import World

LOOP = LoopConfig(slates=400, block=20, n=5, pool=30, temperature=0.2, gate_every=200)
N_VISITORS = 120


@cache
def clicking():
    """The generated shop as a world: people want the cluster of their last item."""
    data, cluster = world().data, world().cluster
    starts = tuple(data.history(u) for u in range(N_VISITORS))
    own = np.array([cluster[start.item_idx[-1]] for start in starts])
    before = np.where(cluster == own[:, None], 0.7, 0.05).astype(np.float32)
    return World(
        name="shop",
        data=data,
        starts=starts,
        truth=(before, before[::-1].copy()),
        hidden=np.zeros(before.shape, bool),
        arrives=np.zeros(data.n_items),
        forgets=True,
        visits=lambda seed: Schedule.draw(N_VISITORS, 5, seed),
        start_s=world().now,
    )


@cache
def frozen_run(seed=0):
    return run(clicking(), model(), FixedBlend.frozen(model(), 0.2), LOOP, seed=seed)


def first_board(loop=LOOP):
    stage = Stage.set(clicking(), model(), loop, 0)
    return stage, stage.board(clicking().visits(0).next(loop.block))


def test_the_blend_of_the_loop_is_the_blend_of_the_model():
    _, board = first_board()
    people = [clicking().starts[v] for v in board.visit.visitor]
    now = np.full(len(people), clicking().start_s)
    now += np.nan_to_num(board.visit.time)
    frozen = FixedBlend.frozen(model(), 0.2)
    stage_times = clicking().start_s + board.visit.time
    expected = model().scores(people, None, stage_times)[2]
    assert frozen.weigh(board) == pytest.approx(expected, abs=1e-4)


def test_more_weights_for_items_without_events_reach_those_only():
    _, board = first_board()
    board = replace(board, unseen=np.arange(board.z.shape[2]) == 7)
    n, heads = len(board.phi), len(board.z)
    plain = blended(board, np.ones((n, heads)), np.zeros((n, heads)), 0.0)
    more = blended(board, np.ones((n, heads)), np.full((n, heads), 2.0), 0.5)
    other = np.arange(board.z.shape[2]) != 7
    assert np.array_equal(plain[:, other], more[:, other])
    assert more[:, 7] - plain[:, 7] == pytest.approx(
        2 * board.z[:, :, 7].sum(axis=0) + 0.5, abs=1e-4
    )


def test_the_pool_is_the_best_items_in_order_of_index():
    scores = np.array([[3.0, -np.inf, 5.0, 1.0], [-np.inf, 2.0, -np.inf, -np.inf]])
    pool, found = best_of(scores, 2)
    assert pool[0].tolist() == [0, 2]
    assert found[0].tolist() == [3.0, 5.0]
    assert sorted(pool[1].tolist()) == [-1, 1]
    assert np.isneginf(found[1][pool[1] == -1]).all()


def test_slates_follow_the_distribution_they_are_logged_with():
    stage, board = first_board(replace(LOOP, n=1, pool=6))
    frozen = FixedBlend.frozen(model(), 0.5)
    hits, told = [], []
    for seed in range(300):
        stage.seed = seed
        served = stage.serve(board, frozen)
        hits.append(served.places[:, 0] == np.argmax(served.scores, axis=1))
        p = np.exp(served.scores / 0.5)
        told.append(p.max(axis=1) / p.sum(axis=1))
        drawn = np.take_along_axis(p, served.places, axis=1)[:, 0] / p.sum(axis=1)
        assert served.propensity[:, 0] == pytest.approx(drawn, rel=1e-6)
    assert np.mean(hits) == pytest.approx(np.mean(told), abs=0.02)


def test_two_policies_with_the_same_scores_show_the_same_and_get_the_same_clicks():
    frozen = frozen_run()
    again = run(
        clicking(), model(), replace(FixedBlend.frozen(model(), 0.2), name="b"), LOOP, seed=0
    )
    assert np.array_equal(frozen.clicks, again.clicks)
    assert not np.array_equal(frozen.clicks, frozen_run(1).clicks)


def test_runs_leave_the_shared_model_and_world_as_they_were():
    trending = model().heads["trending"].counts.copy()
    frozen_run()
    assert np.array_equal(model().heads["trending"].counts, trending)
    assert not clicking().hidden.any()
    assert counts_live(model().heads["trending"])
    assert not counts_live(model().heads["ease"])


def test_what_was_clicked_enters_the_history_and_is_not_shown_again():
    stage, board = first_board()
    served = stage.serve(board, Oracle())
    stage.remember(board, served)
    row = int(served.clicks.sum(axis=1).argmax())
    visitor = int(board.visit.visitor[row])
    clicked = served.items[row, served.clicks[row]]
    assert len(clicked) > 0
    assert stage.histories[visitor].item_idx[-len(clicked) :].tolist() == clicked.tolist()
    assert set(np.flatnonzero(stage.hidden[visitor])) == set(clicked.tolist())


def test_where_nothing_may_come_twice_all_that_was_shown_is_hidden():
    once = replace(clicking(), forgets=False)
    stage = Stage.set(once, model(), LOOP, 0)
    board = stage.board(once.visits(0).next(10))
    served = stage.serve(board, Oracle())
    stage.remember(board, served)
    assert stage.hidden.sum() == served.items.size


def test_an_item_that_arrives_at_half_time_is_not_shown_before():
    late = replace(clicking(), arrives=np.where(np.arange(60) < 30, 0.5, 0.0))
    stage = Stage.set(late, model(), LOOP, 0)
    visits = late.visits(0)
    early = stage.serve(stage.board(visits.next(20)), Oracle())
    assert early.items.min() >= 30
    stage.slates = 200
    assert stage.serve(stage.board(visits.next(20)), Oracle()).items.min() < 30


def test_the_oracle_is_best_and_the_fitted_blend_is_better_than_the_frozen_one():
    watched = Watched(FixedBlend.frozen(model(), 0.2))
    run(clicking(), model(), watched, LOOP, seed=0)
    best = run(clicking(), model(), watched.best(), LOOP, seed=0)
    oracle = run(clicking(), model(), Oracle(), LOOP, seed=0)
    popular = run(clicking(), model(), Popularity(clicking().data.counts()), LOOP, seed=0)
    order = [r.expected.mean() for r in (popular, frozen_run(), best, oracle)]
    assert order == sorted(order)


def test_the_smooth_count_of_the_first_k_has_the_derivative_it_says():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(3, 12)), rng.random((3, 12))
    value, slope = _first(scores, truth, 4)
    for row, column in ((0, 0), (1, 5), (2, 11)):
        moved = scores.copy()
        moved[row, column] += 1e-5
        assert (_first(moved, truth, 4)[0] - value) / 1e-5 == pytest.approx(
            slope[row, column], abs=1e-3
        )


def test_the_best_theta_finds_the_head_that_tells_the_truth():
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(80):
        z = rng.normal(size=(30, 3)).astype(np.float32)
        truth = 1 / (1 + np.exp(-2 * z[:, 1]))
        kept.append((z, np.ones(1), np.zeros(30, np.float32), truth, np.ones(30, bool)))
    theta = fit_best(kept, np.full((3, 1), 0.3))
    assert theta[1, 0] > 3 * max(abs(theta[0, 0]), abs(theta[2, 0]))


def test_the_tuner_moves_towards_what_is_clicked_and_stays_finite():
    loop = replace(LOOP, slates=600, gate_every=300)
    policy = Tuned(model(), loop, TunedConfig(), seed=0)
    trace = run(clicking(), model(), policy, loop, seed=0)
    weights = np.array([told["weights"] for told in trace.told])
    assert np.isfinite(weights).all()
    assert not np.allclose(weights[-1], weights[0], atol=1e-3)
    assert len(trace.notes) >= 2  # each gate says what it decided


def made_trace(policy, seed, clicks, expected):
    n = len(clicks)
    return Trace(
        policy,
        seed,
        np.array(clicks, np.int16),
        np.array(expected, np.float32),
        np.ones(n, bool),
        [],
    )


def test_figures_by_hand():
    runs = {
        "popularity": [made_trace("popularity", s, [1, 1, 1, 1], [1] * 4) for s in (0, 1)],
        "frozen": [made_trace("frozen", s, [2, 2, 1, 1], [1, 1, 1, 1]) for s in (0, 1)],
        "ours": [made_trace("ours", s, [2, 2, 2, 2 + s], [1, 1, 1, 2.5]) for s in (0, 1)],
        "oracle_blend": [made_trace("oracle_blend", s, [2] * 4, [1, 1, 1, 3]) for s in (0, 1)],
        "oracle": [made_trace("oracle", s, [3] * 4, [3] * 4) for s in (0, 1)],
    }
    found = figures(runs)["ours"]
    assert found["clicks_per_1000"]["mean"] == pytest.approx(2_125)
    assert found["lift_over_popularity"]["mean"] == pytest.approx(1.125)
    assert found["lift_over_frozen"]["mean"] == pytest.approx((8 / 6 + 9 / 6) / 2 - 1)
    assert found["regret"] == pytest.approx(3_000 - 1_375)
    assert found["recovery"] == pytest.approx(0.75)  # the last quarter: 2.5 between 1 and 3
    assert found["return_rate"] == 1.0
    assert recovery("ours", {"ours": runs["ours"]}) is None
    assert recovered_by("ours", {"ours": runs["ours"]}) is None
    assert windows(runs["ours"], 2).tolist() == [[1_000, 1_750]] * 2


def test_the_gap_closed_by_a_time_is_not_that_closed_later():
    after = {"frozen": [1, 1, 1, 1], "ours": [1, 2, 3, 1], "oracle_blend": [2, 3, 3, 3]}
    runs = {name: [made_trace(name, 0, [1] * 8, [9] * 4 + some)] for name, some in after.items()}
    assert recovered_by("ours", runs) == pytest.approx(1 / 3)  # 1 and 2 between 1 and 2, 1 and 3
    assert recovered_by("ours", runs, size=1) == pytest.approx(1 / 2)
    assert recovery("ours", runs) == pytest.approx(1 / 2)


def test_the_interval_over_seeds_is_students():
    found = summary({0: 1.0, 1: 2.0, 2: 3.0})
    assert found["mean"] == 2.0
    assert found["ci"] == pytest.approx([2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], abs=1e-4)
    assert summary({0: 1.0})["ci"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"world": "moon"}, "expected one of jester, films, shop"),
        ({"world": "shop", "policies": ("vw",)}, "benchmarks/tuning runs it"),
        ({"world": "shop", "seeds": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_simulated_is_said(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SimulateConfig(**wrong)


def test_a_missing_set_is_said(tmp_path):
    with pytest.raises(DataError, match="ml-1m"):
        build_world("films", tmp_path, None)


def test_a_run_that_outlasts_its_visitors_says_so():
    short = replace(clicking(), visits=lambda seed: Schedule.draw(N_VISITORS, 1, seed))
    with pytest.raises(ConfigError, match="nobody comes any more"):
        run(short, model(), Oracle(), LOOP, seed=0)


def test_an_empty_history_is_a_visitor_like_any_other():
    new = replace(clicking(), starts=(History.of([]),) * N_VISITORS)
    trace = run(new, model(), FixedBlend.frozen(model(), 0.2), replace(LOOP, slates=40), seed=0)
    assert trace.expected.min() > 0
