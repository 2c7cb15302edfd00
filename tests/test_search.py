"""Search over a head's settings: real settings, a kept budget, a file that can be used."""

import json
import sys
from functools import cache

import pytest
from typer.testing import CliRunner

from steerec.cli import app
from steerec.config import head_config_class, load_settings
from steerec.data.sample import sample_shop, write_csv
from steerec.engine.lessons import head_config
from steerec.engine.model import FitConfig
from steerec.engine.search import SPACES, SearchConfig, Span, search, to_toml
from steerec.errors import ConfigError, DataError, MissingExtraError
from steerec.heads import HEADS
from worlds import shop

QUICK = SearchConfig(minutes=60, trials=4, seed=3)


@cache
def data():
    return shop(n_users=60, n_items=48, events_each=12).data


class Clock:
    """Each look at it costs ten seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 10.0
        return self.now


@pytest.mark.parametrize("name", HEADS)
def test_each_head_has_a_space_of_its_settings_with_the_defaults_inside(name):
    default = head_config_class(name)()
    for key, where in SPACES[name].items():
        value = getattr(default, key)  # fails for a setting that is none
        if isinstance(where, Span):
            assert where.low <= value <= where.high
            assert type(value) is type(where.low) is type(where.high)
            edges = (where.low, where.high)
        else:
            assert value in where
            edges = where
        for edge in edges:
            head_config(name, {key: edge})


def test_the_best_trial_is_no_worse_than_the_settings_as_they_are():
    found = search("ease", data(), FitConfig(heads=("ease",)), QUICK)
    assert len(found) == 4
    assert sum(one.settings == {} for one in found) == 1
    assert [one.ndcg for one in found] == sorted((one.ndcg for one in found), reverse=True)
    assert found[0].ndcg > found[-1].ndcg


def test_the_same_seed_tries_the_same_settings():
    config = FitConfig(heads=("transitions",), settings={"transitions": {"last": 12}})
    runs = [search("transitions", data(), config, QUICK) for _ in range(2)]
    assert [one.settings for one in runs[0]] == [one.settings for one in runs[1]]
    assert all(one.settings["last"] == 12 for one in runs[0])


def test_no_trial_begins_that_would_not_end_in_time():
    config = FitConfig(heads=("transitions",))
    how = SearchConfig(minutes=2)  # by this clock a trial takes 30 seconds, so 4 fit exactly
    assert len(search("transitions", data(), config, how, clock=Clock())) == 4


def test_a_training_is_cut_off_when_time_is_over():
    config = FitConfig(heads=("gru",), settings={"gru": {"width": 16, "threads": 1}})
    with pytest.raises(DataError, match=r"no trial of gru ended within 0\.5 minutes: give more"):
        search("gru", data(), config, SearchConfig(minutes=0.5), clock=Clock())


def test_a_head_that_these_data_cannot_teach_says_why():
    timeless = data().take(data().item_idx < 1)
    with pytest.raises(DataError):
        search("sequence", timeless, FitConfig(heads=("sequence",)), QUICK)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("ease", {"l2": 1e-05, "last": 20}), ("autoregressive", {"decays": (0.5, 0.95)}), ("als", {})],
)
def test_the_best_settings_are_a_file_that_config_takes(name, settings, tmp_path):
    file = tmp_path / "best.toml"
    file.write_text(to_toml(name, settings), "utf-8")
    config = load_settings(file).fit_config((name,))
    assert head_config(name, config.settings.get(name, {})) == head_config(name, settings)


def test_an_unknown_head_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"no search space for 'oracle'; .* ease"):
        search("oracle", data(), FitConfig(heads=("ease",)), QUICK)


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerec\[search\]'"):
        search("ease", data(), FitConfig(heads=("ease",)), QUICK)


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": 1, "trials": 0}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected above 0, and at least 1"):
        SearchConfig(**wrong)


def test_the_verb_shows_the_best_five_and_writes_the_best(tmp_path, monkeypatch):
    write_csv(sample_shop(n_items=190, n_users=60, n_events=1_500), tmp_path / "shop")
    monkeypatch.delenv("STEEREC_DATA_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    words = ["search", "--data", "shop", "--encoder", "none", "--head", "transitions"]
    words += ["--minutes", "60", "--trials", "6", "--out", "best.toml"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "transitions: 6 trials, the best 5:" in shown.stdout
    assert shown.stdout.count("decay=") >= 4
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["best"] == told["trials"][0]["settings"]
    best = load_settings(tmp_path / "best.toml").heads["transitions"]
    assert best == told["best"]
