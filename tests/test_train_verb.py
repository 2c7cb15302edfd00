"""`steerec train`: it goes on after a kill, and trains as the command says."""

import json
import signal
import subprocess
import sys

import polars as pl
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from steerec.cli import app
from steerec.data.sample import sample_shop, write_csv
from steerec.engine.lessons import with_training
from steerec.engine.model import FitConfig
from steerec.engine.snapshot import load_snapshot
from steerec.errors import ConfigError

SETTINGS = """
[fit]
heads = ["trending", "gru"]
[heads.gru]
width = 16
memory = 16
length = 12
threads = 1
"""
KILLED_IN_THE_THIRD_EPOCH = """
import os, signal, sys
from steerec.cli import main
from steerec.heads import training

pace = training.pace

def pace_until_killed(epoch, config):
    if epoch >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return pace(epoch, config)

training.pace = pace_until_killed
main()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_csv(sample_shop(n_items=190, n_users=60, n_events=1_500), tmp_path / "shop")
    (tmp_path / "steerec.toml").write_text(SETTINGS, "utf-8")
    monkeypatch.delenv("STEEREC_DATA_DIR", raising=False)
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(out):
    return ["train", "--data", "shop", "--encoder", "none", "--epochs", "4", "--out", out]


def test_the_same_command_after_a_kill_ends_as_if_it_had_never_been_killed(place, caplog):
    child = [sys.executable, "-c", KILLED_IN_THE_THIRD_EPOCH, *train("cut")]
    assert subprocess.run(child, capture_output=True).returncode == -signal.SIGKILL
    (checkpoint,) = (place / ".cut.training").glob("gru-*.json")
    assert len(json.loads(checkpoint.read_text("utf-8"))["curve"]) == 2
    caplog.set_level("INFO", logger="steerec")
    for out in ("cut", "whole"):
        result = CliRunner().invoke(app, train(out))
        assert result.exit_code == 0, result.output
        assert not (place / f".{out}.training").exists()
    assert caplog.text.count("head=gru resumed_after_epoch=2") == 1
    cut, whole = (load_file(place / out / "heads/gru/gru.safetensors") for out in ("cut", "whole"))
    assert set(cut) == set(whole)
    assert all((cut[name] == whole[name]).all() for name in whole)


def test_from_goes_on_from_a_snapshot_where_enough_came_after_it(place):
    events = sample_shop(n_items=190, n_users=60, n_events=1_500, dirty=False).events
    early = events.filter(pl.col("timestamp") <= events["timestamp"].sort()[900])
    for rows, name in ((early, "early.csv"), (events, "all.csv")):
        rows.write_csv(place / name)
    words = ["train", "--encoder", "none", "--epochs", "1", "--out", "model", "--data"]
    assert CliRunner().invoke(app, [*words, "early.csv"]).exit_code == 0
    first = load_snapshot(place / "model")
    gone_on = CliRunner().invoke(app, [*words, "all.csv", "--from", "model"])
    assert gone_on.exit_code == 0, gone_on.output
    assert load_snapshot(place / "model").data.n_events > first.data.n_events
    again = CliRunner().invoke(app, [*words, "all.csv", "--from", "model"])
    assert again.exit_code == 1
    assert "0 events after the earlier snapshot's newest" in again.output
    assert "fit without --from" in again.output


def test_epochs_and_device_reach_the_heads_that_train_and_no_others():
    config = FitConfig(heads=("ease", "gru"), settings={"gru": {"width": 16}, "ease": {"l2": 9.0}})
    told = with_training(config, epochs=3, device="cpu")
    assert told.settings["gru"] == {"width": 16, "epochs": 3, "device": "cpu"}
    assert told.settings["ease"] == {"l2": 9.0}
    assert with_training(config, epochs=None, device=None).settings["gru"] == {"width": 16}


def test_a_device_that_is_none_is_told_before_anything_is_read():
    config = FitConfig(heads=("gru",))
    with pytest.raises(ConfigError, match="device='tpu'"):
        with_training(config, epochs=None, device="tpu")


def test_epochs_for_heads_that_have_none_are_refused():
    with pytest.raises(ConfigError, match=r"none of the heads ease trains by epochs"):
        with_training(FitConfig(heads=("ease",)), epochs=3, device=None)


def test_train_says_which_heads_carry_no_weight_and_leaves_them_out_when_told(place):
    heads = ["--heads", "trending,repeat,transitions", "--encoder", "none", "--seed", "1"]
    words = ["train", "--data", "shop", "--out", "all", *heads]
    (place / "steerec.toml").write_text("[fit]\nrepeats = false\n", "utf-8")
    said = CliRunner().invoke(app, words)
    assert "Carries no weight, and is left out with --drop-idle: repeat" in said.output
    words[words.index("all")] = "few"
    said = CliRunner().invoke(app, [*words, "--drop-idle"])
    assert "Left out, for it does not help on held-out events: repeat" in said.output
    assert "repeat" in load_snapshot(place / "all").heads
    assert "repeat" not in load_snapshot(place / "few").heads
