"""Offline tuning: what the log's earlier slates teach, its later slates must confirm."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from steerec.cli import app
from steerec.contracts import Event, Query, Strategy
from steerec.engine.experiments import follow_experiments, start
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.logged import rewarded, rows_after
from steerec.engine.offline import AUTHOR, Proposal, learnt_theta, slates_of, to_ramp, tune
from steerec.engine.proposals import searched_theta
from steerec.engine.ramps import tune_or_ramp
from steerec.engine.strategies import from_json
from steerec.engine.trials import Arm, Plan, plan_of
from steerec.service.schemas import TunedOut
from steerec.store import open_store
from steerec.store.log import LoggedEvent
from steerec.tuning.ope.gate import Decision, GateConfig
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import conditional
from steerec.tuning.reward import DAY_S
from test_online import BEGAN, CONFIG, TUNING, by_content, live_over, visits

STILL = replace(CONFIG, tuning=replace(TUNING, on=False))
QUICK = replace(TUNING, trials=0)  # no search
EASY = GateConfig(least_slates=50, most_unsupported=0.9)


@pytest.fixture(scope="module")
def clicked(tmp_path_factory):
    """A log of 1,500 slates whose people click what the head `content` speaks for."""
    url = f"sqlite:///{tmp_path_factory.mktemp('offline')}/log.db"
    store = open_store(url)
    visits(store, live_over(store, STILL), 1_500, clicks=by_content)
    yield store, url
    store.close()


def slates(store):
    now = BEGAN + 30 * 3_600
    found = rewarded(store, "shop", TUNING.reward, newest=10_000, since=now - 28 * DAY_S, now=now)
    current = store.strategies.current("shop")
    present = from_json(current.strategy, current.version)
    return slates_of(found, present)[0], present


def test_rewards_are_those_of_the_clicks(clicked):
    store, _ = clicked
    found, _ = slates(store)
    assert len(found.log) == 1_500
    n_clicks = len(store.log.read("shop", limit=100_000))
    assert found.log.reward.sum() == pytest.approx(0.2 * n_clicks)  # a click is worth 0.2


def test_the_log_is_read_in_order_and_each_row_once(clicked, monkeypatch):
    store, _ = clicked
    n_read = 0

    def counted(read):
        def reading(*given, **named):
            nonlocal n_read
            found = read(*given, **named)
            n_read += len(found)
            return found

        return reading

    for part in (store.shown, store.log):
        monkeypatch.setattr(part, "read", counted(part.read))
    monkeypatch.setattr("steerec.engine.logged.AT_ONCE", 7)
    places, reached = [], []
    for rows, upto in rows_after(store, "shop", 3, upto=800):
        places += [row.seq for row in rows]
        reached.append(upto)
    last = store.last_seq("shop")
    assert places == list(range(4, reached[-1] + 1))
    assert 800 <= reached[-1] < 820 < last
    assert reached == sorted(set(reached))
    assert n_read <= len(places) + 2 * 7


def test_logged_propensities_are_those_of_the_present_strategy(clicked):
    store, _ = clicked
    found, present = slates(store)
    again = found.scores(present.theta)
    told = found.log.scores
    assert np.abs(np.where(told > -np.inf, again - told, 0)).max() < 2e-3  # w is kept as float32


def test_what_is_learnt_favours_the_head_that_people_follow(clicked):
    store, _ = clicked
    found, present = slates(store)
    theta = learnt_theta(found, present, TUNING)
    phi = found.log.phi
    row = present.heads.index("content")
    assert (phi @ theta.T)[:, row].mean() > (phi @ present.theta.T)[:, row].mean() + 0.05
    lengths = [np.linalg.norm(phi @ t.T) for t in (theta, present.theta)]
    assert lengths[0] == pytest.approx(lengths[1])


def test_a_better_strategy_is_promoted_with_its_estimate(clicked, tmp_path):
    store, _ = clicked
    store.dump(tmp_path / "all.zip", now=BEGAN)
    copy = open_store(f"sqlite:///{tmp_path}/copy.db")
    copy.restore(tmp_path / "all.zip")
    rng = np.random.default_rng(0)
    found = tune(copy, "shop", QUICK, now=BEGAN + 30 * 3_600, rng=rng, gate_config=EASY)
    assert found.version is not None, found.why
    current = copy.strategies.current("shop")
    assert (current.version, current.author, current.parents) == (2, AUTHOR, (1,))
    assert current.estimates["interval"][0] > 0
    assert "weights" in current.diff
    copy.close()


def test_thin_evidence_promotes_nothing_and_says_why(clicked):
    store, _ = clicked
    rng = np.random.default_rng(0)
    strict = GateConfig(least_slates=1e6)
    found = tune(store, "shop", QUICK, now=BEGAN + 30 * 3_600, rng=rng, gate_config=strict)
    assert found.version is None
    assert "are needed" in found.why
    assert store.strategies.current("shop").version == 1


def test_random_clicks_promote_nothing(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    rng = np.random.default_rng(5)
    visits(store, live_over(store, STILL), 300, clicks=lambda choice: rng.random() < 0.3)
    found = tune(
        store,
        "shop",
        QUICK,
        now=BEGAN + 30 * 3_600,
        rng=np.random.default_rng(0),
        gate_config=GateConfig(least_slates=20, most_unsupported=0.9),
    )
    assert found.version is None
    assert {decision.action for _, decision in found.tried} <= {"keep", "ramp"}
    store.close()


def test_slates_drawn_without_chance_cannot_tell(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    config = LiveConfig(default=ScenarioConfig(temperature=0.0), tuning=STILL.tuning)
    live = live_over(store, config)
    for at in range(30):
        served = live.recommend(Query(f"u{at}", n=3), request_id=f"r{at}", now=BEGAN + at)
        store.shown.append("shop", served.impression)
    found = tune(store, "shop", QUICK, now=BEGAN + 9_000, rng=np.random.default_rng(0))
    assert (found.slates, found.left_out, found.version) == (0, 30, None)
    assert "temperature" in found.why
    store.close()


@pytest.mark.parametrize(
    ("tried", "taken"),
    [
        ([("ramp", -0.9, 1.2), ("ramp", -0.1, 0.3)], 1),  # the boldest may lose most
        ([("ramp", -0.1, 0.3), ("ramp", -0.9, 1.2)], 0),
        ([("ramp", -0.2, 0.0), ("ramp", -0.9, 1.2), ("keep", 0.0, 0.5)], 1),  # not better for sure
        ([("keep", 0.0, 0.5)], None),
    ],
)
def test_the_proposal_to_lose_least_by_is_shown_to_a_few(tried, taken):
    strategy = Strategy(("content",), ("bias",), np.ones((1, 1)))
    made = [
        Proposal(
            str(number),
            strategy,
            Decision(action, "", (low + high) / 2, (low, high), 9.0, 0.0, "dr", 0.05),
        )
        for number, (action, low, high) in enumerate(tried)
    ]
    assert to_ramp(made) is (None if taken is None else made[taken])


def ramped(folder):
    """A small log in which a run found too little, and began a ramp."""
    store = open_store(f"sqlite:///{folder}/log.db")
    visits(store, live_over(store, STILL), 60, clicks=by_content)
    now = BEGAN + 2 * 3_600
    thin = GateConfig(least_slates=1e6, ramp_share=0.4)
    return store, tune_or_ramp(store, "shop", QUICK, now=now, rng=seeded(), gate_config=thin)


def seeded():
    return np.random.default_rng(0)


def test_what_the_log_cannot_tell_is_shown_to_a_share_of_the_users(tmp_path):
    store, found = ramped(tmp_path)
    assert (found.promoted, found.ramp) == (None, "ramp of version 2")
    assert "a ramp begins: 40% of the users" in found.why
    tried = msgspec.convert(found.to_json(), TunedOut).tried[0]
    assert json.loads(msgspec.json.encode(tried))["estimate"] == tried["estimate"]  # over HTTP
    proposed = store.strategies.get("shop", 2)
    assert (proposed.author, proposed.parents) == (AUTHOR, (1,))
    assert proposed.estimates["action"] == "ramp"
    assert store.strategies.current("shop").version == 1
    live = live_over(store, STILL, now=BEGAN + 7_300)
    follow_experiments(live, store)
    ask = [live.recommend(Query(f"u{k}"), request_id=f"q{k}", now=BEGAN + 7_400) for k in range(40)]
    versions = {one.impression.version for one in ask}
    assert versions == {1, 2}
    halves = (Arm("as it is", 0.5), Arm("new", 0.5, version=2))
    plan = Plan("spring", halves, traffic=0.5)
    start(store, "shop", plan, QUICK.reward, author="ann", now=BEGAN + 7_400)
    follow_experiments(live, store)  # what people plan comes before what tuning tries by itself
    ask = [live.recommend(Query(f"u{k}"), request_id=f"p{k}", now=BEGAN + 7_410) for k in range(40)]
    trials = [one.impression.more["experiment"] for one in ask]
    assert 10 < trials.count("spring") < 30
    assert trials.count(found.ramp) == 40 - trials.count("spring")
    again = tune_or_ramp(store, "shop", QUICK, now=BEGAN + 7_500, rng=seeded())
    assert (again.promoted, again.ramp) == (None, found.ramp)
    assert "too early" in again.why
    store.close()


@pytest.mark.parametrize(
    ("gain", "n", "promoted", "words"),
    [(4, 300, 2, "is better"), (-4, 300, None, "worse by 0.4"), (-4, 150, None, "worse by 0.4")],
)
def test_the_users_of_a_ramp_promote_or_end_it(tmp_path, gain, n, promoted, words):
    store, begun = ramped(tmp_path)
    plan = plan_of(store.experiments.get("shop", begun.ramp).plan)
    base = store.shown.read("shop", limit=1)[0]
    now, rng = BEGAN + 8_000, seeded()
    for k in range(n):
        arm = plan.split().arm(f"n{k}")
        facts = {**base.more, "experiment": plan.name, "experiment_arm": arm}
        name = f"n{k}"
        shown = replace(base, request_id=name, user_id=name, time=now, more=facts, seq=0)
        store.shown.append("shop", shown)
        likes = 2 + rng.integers(0, 2) + (gain // 2 if arm == "proposed" else 0)
        clicked_items = shown.items[: max(likes, 0)]
        events = [
            LoggedEvent(f"{name}{item}", Event(name, item, "click", timestamp=now + 1), name)
            for item in clicked_items
        ]
        if events:
            store.log.append("shop", events, now=now + 1)
    found = tune_or_ramp(store, "shop", QUICK, now=now + 9_000, rng=seeded())
    assert (found.promoted, found.ramp) == (promoted, None), found.why
    assert words in found.why
    assert store.strategies.current("shop").version == (promoted or 1)
    assert store.experiments.get("shop", begun.ramp).stopped is not None
    store.close()


def test_a_ramp_that_shows_nothing_ends(tmp_path):
    store, begun = ramped(tmp_path)
    found = tune_or_ramp(store, "shop", QUICK, now=BEGAN + 15 * DAY_S, rng=seeded())
    assert (found.promoted, found.ramp) == (None, None)
    assert f"{begun.ramp} is over" in found.why
    store.close()


def test_a_search_finds_the_head_that_steps_alone_do_not_reach():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1_500, 12, 2)).astype(np.float32)
    present, learnt = np.array([[1.0], [0.0]]), np.array([[0.9], [0.2]])
    log_odds = z @ np.array([0.1, 1.5]) - 1.0

    def scores(theta):
        return (z @ theta[:, 0]).astype(np.float64)

    drawn = np.argsort(-(scores(present) + rng.gumbel(size=z.shape[:2])), axis=1)[:, :3]
    likes = 1 / (1 + np.exp(-np.take_along_axis(log_odds, drawn, axis=1)))
    log = SlateLog(
        shown=drawn,
        propensity=conditional(scores(present), drawn),
        reward=(rng.random(drawn.shape) < likes) * 1.0,
        z=z,
        phi=np.ones((len(z), 1)),
        scores=scores(present),
    )
    given = (log, scores, present, learnt)
    found = searched_theta(*given, trials=12, rng=np.random.default_rng(0))
    assert found[1, 0] / found[0, 0] > 0.2 / 0.9  # further than what was proposed
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert searched_theta(*given, trials=0, rng=np.random.default_rng(0)) is None


def test_the_verbs_show_compare_promote_and_roll_back(clicked, tmp_path, monkeypatch):
    store, _ = clicked
    store.dump(tmp_path / "all.zip", now=BEGAN)
    url = f"sqlite:///{tmp_path}/verbs.db"
    copy = open_store(url)
    copy.restore(tmp_path / "all.zip")
    current = copy.strategies.current("shop")
    copy.strategies.add("shop", replace(current, author="somebody", parents=(1,), version=0))
    told = dict(current.strategy)
    other = {**told, "heads": [f"my {head}" for head in told["heads"]]}
    copy.strategies.add("shop", replace(current, strategy=other, parents=(1,), version=0))
    copy.close()
    monkeypatch.setenv("STEEREC_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)

    def said(*words):
        result = CliRunner().invoke(app, [*words, "--tenant", "shop"])
        assert result.exit_code == 0, result.output
        return result.output

    assert "Version 1, by fit" in said("strategy", "show")
    assert "new visitors:" in said("strategy", "show")
    assert "somebody" in said("strategy", "list")
    assert "No difference" in said("strategy", "diff", "1", "2")
    long = "[as told by hand] " + "so that it is tried " * 9
    assert "Version 2 is in force." in said("strategy", "promote", "2", "--reason", long.strip())
    assert long.strip() in said("strategy", "show")  # on one line, and no markup
    assert "instead of 2" in said("strategy", "rollback")
    assert "Version 1, by fit" in said("strategy", "show")
    assert "services go on with that one" in said("strategy", "promote", "3")
