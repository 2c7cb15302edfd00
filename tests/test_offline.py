"""Offline tuning: what the log's earlier slates teach, its later slates must confirm."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from steerec.cli import app
from steerec.contracts import Query
from steerec.engine.live_config import LiveConfig, ScenarioConfig
from steerec.engine.logged import rewarded
from steerec.engine.offline import AUTHOR, learnt_theta, slates_of, tune
from steerec.engine.strategies import from_json
from steerec.store import open_store
from steerec.tuning.ope.gate import GateConfig
from steerec.tuning.reward import DAY_S
from test_online import BEGAN, CONFIG, TUNING, by_content, live_over, visits

STILL = replace(CONFIG, tuning=replace(TUNING, on=False))
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
    found = tune(copy, "shop", TUNING, now=BEGAN + 30 * 3_600, rng=rng, gate_config=EASY)
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
    found = tune(store, "shop", TUNING, now=BEGAN + 30 * 3_600, rng=rng, gate_config=strict)
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
        TUNING,
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
    found = tune(store, "shop", TUNING, now=BEGAN + 9_000, rng=np.random.default_rng(0))
    assert (found.slates, found.left_out, found.version) == (0, 30, None)
    assert "temperature" in found.why
    store.close()


def test_the_verbs_show_compare_promote_and_roll_back(clicked, tmp_path, monkeypatch):
    store, _ = clicked
    store.dump(tmp_path / "all.zip", now=BEGAN)
    url = f"sqlite:///{tmp_path}/verbs.db"
    copy = open_store(url)
    copy.restore(tmp_path / "all.zip")
    current = copy.strategies.current("shop")
    copy.strategies.add("shop", replace(current, author="somebody", parents=(1,), version=0))
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
    assert "Version 2 is in force." in said("strategy", "promote", "2")
    assert "instead of 2" in said("strategy", "rollback")
    assert "Version 1, by fit" in said("strategy", "show")
