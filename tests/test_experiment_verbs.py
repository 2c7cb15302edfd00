"""The verbs of experiments: what they start, show and refuse."""

import json
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from steerec.cli import app
from steerec.cli.experiments import about_users
from steerec.engine.verdicts import ArmResult, Verdict
from steerec.store import open_store
from steerec.tuning.experiments import Preference, Split
from steerec.tuning.sequences import Interval
from test_online import live_over


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Runs a verb on a store whose tenant has a strategy; what it says."""
    url = f"sqlite:///{tmp_path}/log.db"
    store = open_store(url)
    live_over(store, now=time.time())
    store.close()
    monkeypatch.setenv("STEEREC_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["experiment", *words, "--tenant", "shop"])
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_an_experiment_from_start_to_stop(said):
    arms = ("--arm", "as it is:0.5", "--arm", "bold:0.5:content.bias=2,temperature=0.3")
    assert "has begun" in said("start", "spring", "--metric", "click", "--days", "14", *arms)
    assert "under way  arms: as it is, bold" in said("list")
    assert "that older ones leave: spring." in " ".join(said("start", "summer", *arms).split())
    assert "older" not in said("start", "autumn", "--arm", "bold:0.5:content.bias=2,shadow")
    shown = said("show", "spring")
    assert "click a slate, running" in shown
    assert "too early: 0 users" in shown
    told = json.loads(said("show", "spring", "--json"))
    assert told["plan"]["arms"][1]["version"] == 2
    assert told["plan"]["arms"][1]["dials"] == {"temperature": 0.3}
    assert told["results"]["comparisons"][0]["difference"]["low"] is None
    assert "is stopped" in said("stop", "spring", "--reason", "seen enough")
    assert "arms: as it is, bold  seen enough" in said("list")
    kept, *_ = json.loads(said("list", "--json"))["experiments"]
    assert kept["reason"] == "seen enough"


def test_what_is_empty_or_not_told_yet_is_said_in_words(said, tmp_path, monkeypatch):
    assert "No experiment yet" in said("list")
    said("start", "spring", "--arm", "as it is:0.5", "--arm", "bold:0.5:temperature=0.3")
    shown = said("show", "spring")
    assert "bold not told yet, 0 and 0 users" in shown
    assert "nan" not in shown
    assert "0.0000" not in shown  # a mean of nobody is none
    empty = f"sqlite:///{tmp_path}/empty.db"
    open_store(empty).close()
    monkeypatch.setenv("STEEREC_DATABASE_URL", empty)
    listed = CliRunner().invoke(app, ["strategy", "list"])
    assert "No version yet" in listed.output


def test_shadows_alone_are_shown_without_a_conclusion(said):
    said("start", "dark", "--arm", "bold:0.1:content.bias=2,shadow")
    shown = said("show", "dark")
    assert "shadow bold: 0 lists" in shown
    assert "nobody saw them" in shown


def test_the_split_the_past_and_what_users_prefer_are_told_in_words():
    split = Split({"a": 60, "b": 52}, p=0.45, anytime_p=1.0)
    arms = tuple(ArmResult(name, 112, 300, Interval(1.0, 0.5, 1.5)) for name in "ab")
    assert list(about_users(Verdict(arms=arms, split=split, foretold=0.584))) == [
        "split as planned (p = 0.45)",
        "users' past foretold 58% of the variance between them, which is taken out of all figures "
        "(CUPED)",
    ]
    broken = replace(split, anytime_p=1e-9)  # of which the conclusion tells
    assert not list(about_users(Verdict(arms=arms, split=broken)))
    liked = Preference(30, 50, 32, Interval(0.1, -0.05, 0.25), anytime_p=0.2)
    assert list(about_users(Verdict(arms=arms, preference=liked))) == [
        "30 users prefer a, 50 b, 32 neither; b less a in shares of a user's clicks: "
        "0.1000 [-0.0500, 0.2500]"
    ]


@pytest.mark.parametrize("arm", ["bold", "bold:half", "bold:0.5:version=x", "bold:0.5:what"])
def test_an_arm_that_cannot_be_read_is_refused(said, arm):
    assert "expected NAME:SHARE" in " ".join(said("start", "x", "--arm", arm, code=2).split())


def test_unknown_names_are_refused(said):
    assert "experiment list" in said("show", "autumn", code=2)
    assert "experiment list" in said("stop", "autumn", code=2)
