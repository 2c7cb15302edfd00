"""Worlds: luck that is common to all policies, visits, truth, and the protocol of jester."""

import hashlib

import numpy as np
import polars as pl
import pytest

from steerec.contracts import History
from steerec.simulation.chance import mixed, uniform
from steerec.simulation.grown import BEST_TEN, Source, grow, one_hot
from steerec.simulation.jester import first_by_hash, jester
from steerec.simulation.network import Log, NetworkConfig, _begin, _slopes, fit_network
from steerec.simulation.visits import DAY_S, Habits, Returning, Schedule, Visit
from steerec.simulation.world import World, examined


def test_the_same_names_give_the_same_number_whoever_asks():
    alone = uniform(7, 1, np.array([5]), 0, 9)
    among = uniform(7, 1, np.arange(10)[:, None], 0, np.arange(12))
    assert among.shape == (10, 12)
    assert among[5, 9] == alone[0]
    assert uniform(8, 1, np.array([5]), 0, 9)[0] != alone[0]
    assert uniform(7, 1, np.array([5]), 9, 0)[0] != alone[0]


def test_the_numbers_are_uniform_and_neighbours_are_not_alike():
    drawn = uniform(1, np.arange(200)[:, None], np.arange(200))
    assert 0 < drawn.min() < drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0] / drawn.size == pytest.approx(
        np.full(10, 0.1), abs=0.006
    )
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(mixed(np.arange(100_000)))) == 100_000


def test_the_fourth_place_is_looked_at_four_to_the_power_of_minus_seven_tenths():
    assert examined(4) == pytest.approx([1.0, 0.6156, 0.4635, 0.3789], abs=1e-4)


def test_a_schedule_brings_everybody_as_often_as_said_and_nobody_twice_at_once():
    visits = Schedule.draw(30, 3, seed=4)
    came: list[tuple[int, int]] = []
    while len(visit := visits.next(20)):
        assert len(set(visit.visitor.tolist())) == len(visit)
        came += zip(visit.visitor.tolist(), visit.number.tolist(), strict=True)
        soon = visits.tell(visit, np.zeros(len(visit), np.int64))
        assert soon.tolist() == [number < 2 for number in visit.number]
    assert sorted(came) == [(v, n) for v in range(30) for n in range(3)]


def test_those_who_click_return_sooner_and_fewer_of_them_leave():
    habits, first = Habits(), np.zeros(4_000)

    def after(clicks):
        visits = Returning.begin(first, habits, seed=0)
        visit = visits.next(4_000)
        soon = visits.tell(visit, np.full(4_000, clicks))
        return soon.mean(), np.median([at for at, _ in visits.due]) / DAY_S

    none, some, many = after(0), after(1), after(4)
    assert none[0] < some[0] < many[0]
    assert none[1] > some[1] > many[1]
    # Half of those who stay wait less than ln 2 mean gaps; with 30 % away it is a little more.
    assert none[1] == pytest.approx(-np.log(1 - 0.5 / 0.7) * habits.gap_days, rel=0.35)


def test_visits_come_in_order_of_time_and_each_visitor_once():
    visits = Returning.begin(np.array([3.0, 1.0, 2.0]), Habits(), seed=0)
    visit = visits.next(2)
    assert visit.visitor.tolist() == [1, 2]
    assert len(visits.due) == 1
    visits.tell(visit, np.array([0, 3]))
    assert sorted(v for _, v in visits.due) == [0, 1, 2]


def small_world(**changed):
    truth = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.0]], np.float32)
    fields = {
        "name": "jester",
        "data": None,
        "starts": (History.of([]), History.of([])),
        "truth": (truth, truth[::-1]),
        "hidden": np.zeros((2, 3), bool),
        "arrives": np.zeros(3),
        "forgets": False,
        "visits": lambda seed: Schedule.draw(2, 3, seed),
    }
    return World(**{**fields, **changed})


def test_expected_clicks_are_interest_times_examination_and_an_empty_place_gets_none():
    world = small_world()
    visit = Visit(np.array([0, 1], np.int32), np.zeros(2, np.int32), np.full(2, np.nan))
    items = np.array([[0, 2], [1, -1]], np.int32)
    expected = world.expected(visit, items, progress=0.0)
    assert expected == pytest.approx(np.array([[0.9, 0.5 * 0.61557], [0.8, 0.0]]), abs=1e-4)
    assert world.expected(visit, items, progress=0.5)[0, 0] == pytest.approx(0.2)  # after the drift


def test_a_click_depends_on_the_place_only_through_a_common_threshold():
    world = small_world()
    n = 3_000
    first, second = [], []
    for number in range(n // 100):
        visit = Visit(np.zeros(100, np.int32), np.arange(100) + 100 * number, np.full(100, np.nan))
        up = np.tile(np.array([[0, 2]], np.int32), (100, 1))
        first.append(world.clicks(visit, up, progress=0.0, seed=3))
        second.append(world.clicks(visit, up[:, ::-1], progress=0.0, seed=3))
    first, second = np.concatenate(first), np.concatenate(second)
    assert first.mean(axis=0) == pytest.approx([0.9, 0.5 * 0.6156], abs=0.03)
    # Whoever clicks item 0 in second place would have clicked it in first place too.
    assert not (second[:, 1] & ~first[:, 0]).any()


def test_known_ratings_are_those_of_the_smallest_hashes():
    items = [str(i) for i in range(1, 30)]
    slow = sorted(items, key=lambda i: hashlib.sha256(f"u7:{i}".encode()).hexdigest())[:4]
    assert [items[i] for i in first_by_hash(["u7"], items, 4)[0]] == slow


@pytest.fixture
def jester_folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"v{u}", "item_id": f"j{i}", "value": float(rng.uniform(-10, 10))}
        for u in range(6)
        for i in range(40)
    ]
    rows += [
        {"user_id": f"t{u}", "item_id": f"j{i}", "value": float(rng.uniform(-10, 10))}
        for u in range(20)
        for i in rng.permutation(40)[:25].tolist()
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame({"item_id": [f"j{i}" for i in range(40)]}).write_parquet(
        tmp_path / "items.parquet"
    )
    visitors = pl.DataFrame({"user_id": [f"v{u}" for u in range(6)]})
    visitors.write_parquet(tmp_path / "users_rated_all.parquet")
    return tmp_path


def test_jester_hides_ten_known_ratings_and_teaches_heads_from_the_others(jester_folder):
    world = jester(jester_folder)
    ratings = {
        (r["user_id"], r["item_id"]): r["value"]
        for r in pl.read_parquet(jester_folder / "events.parquet").iter_rows(named=True)
    }
    assert world.n_visitors == 6
    assert not any(user.startswith("v") for user in world.data.user_ids)
    assert world.hidden.sum(axis=1).tolist() == [10] * 6
    for v, start in enumerate(world.starts):
        assert set(np.flatnonzero(world.hidden[v])) == set(start.item_idx.tolist())
        for item, weight in zip(start.item_idx, start.weight, strict=True):
            assert weight == (1 if ratings[f"v{v}", world.data.item_ids[item]] > 5 else -1)
        given = [ratings[f"v{v}", world.data.item_ids[item]] for item in start.item_idx]
        assert start.rating == pytest.approx(given, rel=1e-6)
    data = world.data
    for user, item, rating in zip(data.user_idx, data.item_idx, data.rating, strict=True):
        given = ratings[data.user_ids[user], data.item_ids[item]]
        assert rating == pytest.approx(given, rel=1e-6)
    r = ratings["v3", "j11"]
    wanted = world.truth[0][3, world.data.item_index["j11"]]
    assert wanted == pytest.approx(1 / (1 + np.exp(-(r - 5) / 2)), rel=1e-4)
    assert sorted(map(tuple, world.truth[0])) == sorted(map(tuple, world.truth[1]))
    last = world.data.starts[1:] - 1
    assert (world.data.weight[last] > 0).all()


def hidden_taste(rng, n_users=120, n_items=40):
    """Two kinds of people, who like the even and the odd items."""
    kind = np.arange(n_users) % 2
    users = np.repeat(np.arange(n_users), 12)
    items = 2 * rng.integers(0, n_items // 2, len(users)) + kind[users]
    return users.astype(np.int32), items.astype(np.int32)


def test_the_truth_learns_who_likes_what():
    rng = np.random.default_rng(0)
    users, items = hidden_taste(rng)
    ones = np.ones((120, 1), np.float32), np.ones((40, 1), np.float32)
    log = Log(users, items, np.ones(len(users), np.float32), *ones)
    config = NetworkConfig(factors=6, hidden=4, epochs=40, batch=256, rate=0.03, l2=1e-3)
    network = fit_network(log, config, rng)
    logits = network.logits(network.users(ones[0]), network.items(ones[1]))
    own = (np.arange(40)[None] % 2) == (np.arange(120) % 2)[:, None]
    assert (logits[own].mean() - logits[~own].mean()) > 1.5


def test_the_gradient_of_the_truth_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    users, items = hidden_taste(rng, 10, 8)
    attributes = rng.normal(size=(10, 2)), rng.normal(size=(8, 3))
    label = rng.integers(0, 2, len(users)).astype(np.float64)
    log = Log(users, items, label, *attributes)
    config = NetworkConfig(factors=3, hidden=2, start=0.4)
    weights = {n: x.astype(np.float64) for n, x in _begin(log, config, rng).items()}

    def loss():
        p = weights["P"] + attributes[0] @ weights["A"]
        q = weights["Q"] + attributes[1] @ weights["B"]
        h = np.tanh((p[users] * q[items]) @ weights["M"] + weights["m"])
        logit = h @ weights["c"] + weights["b"][items]
        return np.mean(np.logaddexp(0, logit) - label * logit)

    slopes = _slopes(weights, log, users, items, label)
    for name, x in weights.items():
        at = tuple(0 for _ in x.shape)
        before, step = x[at], 1e-5
        x[at] = before + step
        up = loss()
        x[at] = before - step
        down = loss()
        x[at] = before
        assert slopes[name][at] == pytest.approx((up - down) / (2 * step), abs=2e-6), name


def made_source(**changed):
    users, items = hidden_taste(np.random.default_rng(1))
    events = pl.DataFrame(
        {
            "user_id": [f"u{u:03}" for u in users],
            "item_id": [f"i{i:02}" for i in items],
            "timestamp": np.arange(len(users)) * 100,
            "liked": np.ones(len(users), bool),
        }
    )
    fields = {
        "name": "shop",
        "events": events,
        "items": pl.DataFrame({"item_id": [f"i{i:02}" for i in range(40)]}),
        "users": pl.DataFrame({"user_id": [f"u{u:03}" for u in range(120)]}),
        "item_attributes": lambda t: np.ones((len(t), 2), np.float32),
        "user_attributes": lambda t: np.ones((len(t), 1), np.float32),
        "priced": True,
        "repeats": False,
        "timed": True,
    }
    return Source(**{**fields, **changed})


def test_people_and_items_that_arrive_later_are_unknown_to_heads(tmp_path):
    config = NetworkConfig(factors=4, hidden=3, epochs=2, batch=256)
    world = grow(made_source(), tmp_path, config)
    newcomers = [v for v, start in enumerate(world.starts) if len(start) == 0]
    assert 5 < len(newcomers) < 40
    late = np.flatnonzero(world.arrives > 0)
    assert 0 < len(late) < 12
    assert world.data.n_items == 40
    assert not np.isin(world.data.item_idx, late).any()
    own = [(v, i) for v, start in enumerate(world.starts) for i in start.item_idx]
    assert all(world.hidden[v, i] for v, i in own)
    assert world.hidden.sum() == len(set(own))
    best = -np.sort(-world.truth[0], axis=1)[:, :10]
    assert best.mean() == pytest.approx(BEST_TEN, abs=0.01)
    assert not np.allclose(*world.truth)
    again = grow(made_source(), tmp_path, config)  # from the cache
    assert np.array_equal(again.truth[1], world.truth[1])
    assert len(list((tmp_path / "worlds").iterdir())) == 1


def test_one_hot_has_a_column_for_each_value_and_one_that_is_always_on():
    table = pl.DataFrame({"a": ["x", None, "y", "x"]})
    assert one_hot(table, ("a",)).tolist() == [
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [1, 0, 0, 1],
        [1, 0, 1, 0],
    ]
