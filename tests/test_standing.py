"""What versions truly brought, beside what was estimated: by hand, over a small log."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from steerec.cli import app
from steerec.contracts import Event
from steerec.engine import account
from steerec.engine.standing import standings, told
from steerec.store import open_store
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.store.strategies import StrategyVersion
from steerec.tuning.reward import Outcome, RewardConfig
from steerec.tuning.sequences import Interval, asymptotic

BEGAN = 2e9
CLICKS = RewardConfig(outcomes={"click": Outcome(1.0, 86_400.0)})
STRATEGY = {
    "heads": ["ease", "content"],
    "features": ["bias", "length~0"],
    "theta": [[0.5, 0.1], [0.2, 0.9]],
    "dials": {},
}
MOVED = {"weights": {"content.length~0": [0.4, 0.9], "ease.bias": [0.45, 0.5]}}


@pytest.fixture
def log(tmp_path):
    """Version 2 in force after 1; each user sees four slates of an arm and clicks some."""
    store = open_store(f"sqlite:///{tmp_path}/log.db")
    add = store.strategies.add
    add("shop", StrategyVersion(STRATEGY, "fit", BEGAN))
    estimates = {"estimate": 0.25, "interval": [0.1, 0.4]}
    tuned = StrategyVersion(STRATEGY, "offline tuner", BEGAN, (1,), MOVED, None, estimates)
    add("shop", tuned)
    store.strategies.promote("shop", 2, author="offline tuner", now=BEGAN, reason="better")
    shows(store, 1, "control", {"a": 1, "b": 0, "c": 2})
    shows(store, 2, "control", {"a": 2, "b": 2, "c": 2})
    shows(store, 2, "live", {"d": 4, "e": 3, "f": 4})
    shows(store, 2, "spring/bold", {"g": 4})  # an experiment's: in nothing
    yield store, f"sqlite:///{tmp_path}/log.db"
    store.close()


def shows(store, version, arm, clicks):
    for user, n_clicks in clicks.items():
        for at in range(4):
            name, now = f"{version}{arm}{user}{at}", BEGAN + 10.0 * at
            store.shown.append(
                "shop",
                Impression(
                    name, now, ("x", "y"), np.ones(2, np.float32), user, version=version, arm=arm
                ),
            )
            if at < n_clicks:
                event = Event(user, "x", "click", timestamp=now + 1)
                store.log.append("shop", [LoggedEvent(name, event, name)], now=now + 1)


def test_each_arm_earned_the_mean_of_its_users_and_gains_are_their_differences(log):
    store, _ = log
    versions = store.strategies.history("shop")
    newest, first = standings(store, "shop", versions, CLICKS, now=BEGAN + 9_000)
    assert (newest.version, first.version) == (2, 1)
    control = newest.arms["control"]
    assert (control.slates, control.users, control.mean.mean) == (12, 3, 0.5)
    assert newest.arms["live"].mean.mean == pytest.approx(11 / 12)
    assert first.arms["control"].mean == asymptotic(3, 0.25, 0.0625, alpha=0.05)
    assert newest.tuned.mean == pytest.approx(11 / 12 - 0.5)
    assert newest.over_parent.mean == pytest.approx(0.25)  # as was estimated
    half = first.arms["control"].mean.high - 0.25  # all users of version 2 alike: no spread there
    assert newest.over_parent.high == pytest.approx(0.25 + half)
    assert newest.estimated == Interval(0.25, 0.1, 0.4)
    assert (first.tuned, first.over_parent, first.estimated) == (None, None, None)


def test_slates_that_are_not_settled_and_erased_people_are_in_nothing(log):
    store, _ = log
    versions = store.strategies.history("shop")
    early = standings(store, "shop", versions, CLICKS, now=BEGAN + 31)[0]
    assert early.arms["control"].slates == 9  # the last slate of each user is still open
    store.persons.erase("shop", "d", now=BEGAN + 9_000)
    late = standings(store, "shop", versions, CLICKS, now=BEGAN + 9_000)[0]
    assert late.arms["live"].users == 2


def test_a_mean_without_an_interval_says_so():
    assert "too few" in told(Interval(0.5, -np.inf, np.inf))


def test_the_verbs_tell_estimate_and_truth_in_words_and_as_json(log, monkeypatch, tmp_path):
    _, url = log
    monkeypatch.setenv("STEEREC_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.time", lambda: BEGAN + 9_000)

    def said(*words):
        result = CliRunner().invoke(app, ["strategy", *words, "--tenant", "shop"])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    shown = said("show")  # a click is worth .2 by default
    assert "new visitors: content 1.10, ease 0.60" in shown
    assert "content.length~0 0.4000 → 0.9000, ease.bias 0.4500 → 0.5000." in shown
    assert "Earned a slate in control: 0.1000 over 12 slates of 3 users." in shown
    assert "Estimated gain over the version before: +0.2500 [+0.1000, +0.4000]" in shown
    assert "True gain over the version before, one after the other: +0.0500 [" in shown
    assert "true +0.0500 [" in said("list")
    online = json.loads(said("show", "--json"))["online"]
    assert online["estimated"] == {"mean": 0.25, "ci": [0.1, 0.4]}
    assert json.loads(said("list", "--json"))["versions"][0]["online"] == online


def test_what_people_had_before_has_a_line_of_its_own_where_it_has_weights():
    features = ["bias", "length~0", "length~5", "length~50", "own:bias", "own:length~50"]
    theta = [[0.2, 0.1, 0.0, 0.3, 0.4, 0.05], [0.5, 0.0, 0.0, -0.1, -0.6, 0.0]]
    told = {"heads": ["repeat", "ease"], "features": features, "theta": theta}
    said = account.in_context(told)
    assert said[2:] == [
        "  after 50 events: repeat 0.50, ease 0.40",
        "  after 50 events, of what they had before: repeat 0.95, ease -0.20",
    ]
    plain = {**told, "features": features[:4], "theta": [row[:4] for row in theta]}
    assert account.in_context(plain) == said[:3]
