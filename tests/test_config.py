import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from example_settings import FILE, SHOWN, comments, example_text, names_of
from steerec.config import (
    SECTIONS,
    Deployment,
    Settings,
    head_config_class,
    load_settings,
    parse_settings,
    user_cache_dir,
)
from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.engine.live_config import ScenarioConfig
from steerec.engine.model import FitConfig
from steerec.errors import ConfigError
from steerec.heads import HEADS


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("STEEREC_DATA_DIR", raising=False)
    monkeypatch.delenv("STEEREC_CACHE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def plain(value):
    """A settings object as TOML would give it."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def defaults():
    settings = Settings()
    tree = {n: plain(getattr(settings, n)) for n in SECTIONS if n != "deployment"}
    tree["heads"] = {n: plain(head_config_class(n)()) for n in HEADS}
    tree["scenarios"] = {"default": plain(ScenarioConfig())}
    tree["deployment"] = dict.fromkeys(names_of(Deployment))
    return tree


def flat(tree, path=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}{key}.")
        elif value not in (None, {}):
            yield f"{path}{key}", value


def test_the_example_holds_every_setting_with_its_default():
    written = dict(flat(tomllib.loads(FILE.read_text("utf-8"))))
    assert written == dict(flat(defaults()))


def test_a_setting_without_default_is_shown_as_a_comment():
    lines = FILE.read_text("utf-8").splitlines()
    for path, value in SHOWN.items():
        name = path.rpartition(".")[2]
        assert any(line.startswith(f"# {name} = {value}") for line in lines), path


def test_the_example_is_what_its_writer_makes():
    assert FILE.read_text("utf-8") == example_text(), "run: python tests/example_settings.py"


@pytest.mark.parametrize(
    "kind", [*SECTIONS.values(), ScenarioConfig, *map(head_config_class, HEADS)]
)
def test_every_setting_has_a_comment(kind):
    nested = {f for f in names_of(kind) if f == "lexical"}
    assert set(names_of(kind)) - nested <= set(comments(kind))


def test_the_example_read_back_gives_the_defaults():
    read = load_settings(FILE)
    for name in SECTIONS:
        assert getattr(read, name) == getattr(Settings(), name)
    for name in HEADS:
        kind = head_config_class(name)
        assert kind(**read.heads[name]) == kind()
    assert read.scenarios == {"default": ScenarioConfig()}


def test_without_a_file_a_fit_has_its_own_defaults():
    assert load_settings().fit_config(("quick",)) == FitConfig()


def test_steerec_toml_in_the_working_folder_is_read():
    Path("steerec.toml").write_text("[clean]\nnear_s = 3.0\n")
    assert load_settings().clean.near_s == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clen]", "unknown setting 'clen': did you mean 'clean'"),
        ("[clean]\nnear = 1", "unknown setting 'clean.near': did you mean 'near_s'"),
        ("[heads.eaze]", "unknown setting 'heads.eaze': did you mean 'ease'"),
        ("[heads.ease]\nl3 = 1.0", "unknown setting 'heads.ease.l3': did you mean 'l2'"),
        ("[heads.content.lexical]\nk = 1", "'heads.content.lexical.k': did you mean 'k1'"),
        ("[deployment]\ndata = 'x'", "'deployment.data': did you mean 'data_dir'"),
        ("[phi]\nzzz = 1", "'phi.zzz': known here: taste_dims, scenarios, devices"),
        ("[data.columns]\nuser = 'a'", "unknown field 'user' in the mapping"),
        ("[clean]\nnear_s = '1'", "clean.near_s = '1': input should be a valid number"),
        ("[clean]\nnear_s = -1.0", "[clean] near_s is -1.0, expected seconds from 0 up"),
        ("[encoder]\nmax_tokens = 1", "[encoder] encoder max_tokens = 1: expected 8 to 8192"),
        ("[heads.ease]\nl2 = -1.0", "[heads.ease] ease: l2=-1.0"),
        ("clean = 3", "clean = 3: expected a table, [clean]"),
        ("[clean", "is no valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(text, message):
    Path("mine.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(Path("mine.toml"))
    assert message in str(caught.value)


def test_a_missing_settings_file_is_an_error():
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load_settings(Path("nowhere.toml"))


def test_the_environment_wins_over_the_file(monkeypatch):
    raw = {"deployment": {"data_dir": "/from/file", "cache_dir": "/cache/file"}}
    assert parse_settings(raw).deployment.data_dir == Path("/from/file")
    monkeypatch.setenv("STEEREC_DATA_DIR", "/from/host")
    settings = parse_settings(raw)
    assert settings.deployment.data_dir == Path("/from/host")
    assert settings.cache_dir == Path("/cache/file")


def test_the_environment_sets_nothing_but_the_deployment(monkeypatch):
    monkeypatch.setenv("STEEREC_CLEAN", '{"near_s": 9}')
    monkeypatch.setenv("STEEREC_SEED", "9")
    assert load_settings().clean.near_s == 1.0


def test_the_cache_lies_in_the_users_cache_unless_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_settings().cache_dir == user_cache_dir()
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(tmp_path / "own"))
    assert load_settings().cache_dir == tmp_path / "own"


def test_own_weights_come_on_top_of_the_defaults():
    weights = parse_settings({"data": {"weights": {"wish": 1.5, "view": 0.5}}}).data.weights
    assert weights == {**DEFAULT_WEIGHTS, "wish": 1.5, "view": 0.5}


def test_head_settings_reach_the_fit_of_the_chosen_heads_only():
    settings = parse_settings(
        {
            "fit": {"heads": ["ease", "content"], "holdout": "last"},
            "heads": {"ease": {"l2": 9}, "content": {"lexical": {"k1": 2.0}}},
        }
    )
    config = settings.fit_config()
    assert (config.heads, config.holdout) == (("ease", "content"), "last")
    assert config.settings["ease"] == {"l2": 9.0}
    assert config.settings["content"]["lexical"].k1 == 2.0
    assert settings.fit_config(("ease",)).settings.keys() == {"ease"}


def test_an_unknown_head_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="no head is called 'eas'"):
        load_settings().fit_config(("eas",))
