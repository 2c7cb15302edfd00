import hashlib
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerec.contracts import History
from steerec.encoders import EncoderConfig, load_encoder, models, open_encoder
from steerec.encoders.hashing import HashingEncoder
from steerec.encoders.template import fitting_template, item_texts
from steerec.encoders.text_fit import fit_of_texts
from steerec.encoders.users import encode_users, mean_users, user_text
from steerec.errors import ConfigError, EncoderError


def items(**columns):
    return pl.DataFrame({"item_id": ["a"], **columns})


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{title}. {brand}. {note}", ("Shirt", "Acme", "Soft"), "Shirt. Acme. Soft"),
        ("{title}. {brand}. {note}", ("Shirt", None, "Soft"), "Shirt. Soft"),
        ("{title}. {brand}. {note}", (None, "Acme", None), "Acme"),
        ("{title}. {brand}. {note}", (None, None, None), ""),
        ("{title}. {brand}. {note}", ("Why?", " ", "Soft."), "Why? Soft."),
        ("{title} ({brand}), {note}.", ("Shirt", "Acme", "Soft"), "Shirt (Acme), Soft."),
        ("{title} ({brand}), {note}.", ("Shirt", None, "Soft"), "Shirt, Soft."),
        ("{title} ({brand}), {note}.", ("Shirt", None, None), "Shirt."),
        ("{title}. Brand: {brand}. Note: {note}", ("Shirt", None, "Soft"), "Shirt. Note: Soft"),
        ("{title}. Brand: {brand}. Note: {note}", (None, "Acme", None), "Brand: Acme"),
        ("{title}。{brand}。{note}", ("衬衫", None, "柔软"), "衬衫。柔软"),
    ],
)
def test_a_missing_field_takes_its_label_and_punctuation_with_it(template, values, text):
    title, brand, note = values
    table = items(title=[title], brand=[brand], note=[note])
    assert item_texts(table, template) == [text]


def test_lists_are_joined_and_numbers_written_plainly():
    table = items(title=["Film"], genres=[["Drama", None, " ", "War"]], year=[1994.0], x=[np.nan])
    assert item_texts(table, "{title} ({year}). {genres}. {x}") == ["Film (1994). Drama, War"]


def test_an_empty_list_counts_as_missing():
    table = pl.DataFrame(
        {"title": ["Film"], "genres": [[]]}, schema_overrides={"genres": pl.List(pl.String)}
    )
    assert item_texts(table, "{title}: {genres}") == ["Film"]


@pytest.mark.parametrize(
    "template", ["{titel}", "{title", "no field", "{}", "{title!r}", "{title:>9}"]
)
def test_a_wrong_template_is_a_config_error(template):
    with pytest.raises(ConfigError):
        item_texts(items(title=["x"]), template)


def test_an_unknown_field_names_the_columns_there_are():
    with pytest.raises(ConfigError, match=r"titel.*item_id.*title"):
        item_texts(items(title=["x"]), "{titel}")


@given(st.lists(st.sampled_from([None, "red", "blue"]), min_size=3, max_size=3))
def test_no_punctuation_dangles_whatever_is_missing(values):
    a, b, c = values
    schema = dict.fromkeys("abc", pl.String)
    text = item_texts(pl.DataFrame({"a": [a], "b": [b], "c": [c]}, schema), "{a}. {b} - {c}")[0]
    assert text == text.strip(" .-")
    assert ". ." not in text
    assert "- -" not in text


def test_the_template_follows_the_columns_there_are():
    assert fitting_template(["item_id", "genres", "title"]) == "{title}. {genres}"
    with pytest.raises(ConfigError, match="price"):
        fitting_template(["item_id", "price"])


def test_a_users_text_starts_with_the_newest_and_names_repeats_once():
    assert user_text(["tea", "cup", " ", "tea", "pot"], 2) == "pot. tea"
    assert user_text([], 5) == ""


def test_users_are_encoded_as_items_are():
    encoder = HashingEncoder()
    disliked = History.of([0, 1])
    disliked.weight[0] = -1.0
    vectors = encode_users(encoder, ["tea", "cup"], [disliked, History.of([])])
    np.testing.assert_array_equal(vectors[0], encoder.encode(["cup"])[0])
    assert not vectors[1].any()


def test_mean_users_weigh_an_event_half_after_its_half_life():
    vectors = np.eye(3, dtype=np.float32)
    users = mean_users(vectors, [History.of([0, 1]), History.of([])], half_life=1.0)
    np.testing.assert_allclose(users[0], np.array([0.5, 1.0, 0.0]) / np.sqrt(1.25), rtol=1e-6)
    assert not users[1].any()


def test_texts_that_do_not_fit_an_english_encoder_are_counted():
    fit = fit_of_texts(["red shirt", "红色衬衫", "", "crème brûlée", "a " * 400, "Красная рубашка"])
    assert (fit.n, fit.empty, fit.foreign, fit.too_long) == (6, 1 / 6, 2 / 6, 1 / 6)
    assert fit.distinct == 1.0
    assert len(fit.warnings()) == 3


def test_equal_texts_are_warned_of_and_good_ones_are_not():
    assert "equal" in fit_of_texts(["shirt", "shirt", "shirt"]).warnings()[0]
    assert fit_of_texts(["shirt", "trousers"]).warnings() == []
    assert fit_of_texts([]).warnings() == []


def test_an_unknown_encoder_is_a_config_error_that_names_the_others():
    with pytest.raises(ConfigError, match=r"magic.*text, onnx, remote, hashing"):
        load_encoder("magic")


def test_an_encoder_of_ones_own_is_named_by_its_path():
    config = EncoderConfig(encoder="steerec.encoders.hashing:HashingEncoder", dim=32)
    assert open_encoder(config, cache_dir=None).dim == 32


@pytest.mark.parametrize("bad", [{"max_tokens": 1}, {"batch_size": 0}, {"timeout_s": -1.0}])
def test_a_setting_out_of_range_is_a_config_error(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        EncoderConfig(**bad)


def model_folder(tmp_path, weights=b"weights"):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    return tmp_path / "model"


def test_altered_weights_of_the_default_model_are_refused(tmp_path, monkeypatch):
    folder = model_folder(tmp_path)
    monkeypatch.setattr(models, "_wheel_folder", lambda: folder)
    with pytest.raises(EncoderError, match=f"{hashlib.sha256(b'weights').hexdigest()}.*53aa5117"):
        models.find_model(EncoderConfig(), None)


def test_a_checksum_is_remembered_until_the_file_changes(tmp_path):
    folder = model_folder(tmp_path)
    config = EncoderConfig(model=str(folder))
    first = models.find_model(config, tmp_path / "cache")
    note = next((tmp_path / "cache" / "checksums").iterdir())
    about = json.loads(note.read_text())
    note.write_text(json.dumps({**about, "sha256": "remembered"}))
    assert models.find_model(config, tmp_path / "cache").sha256 == "remembered"
    note.write_text("{")
    assert models.find_model(config, tmp_path / "cache") == first
    (folder / "model.safetensors").write_bytes(b"other weights")
    changed = models.find_model(config, tmp_path / "cache")
    assert changed.sha256 == hashlib.sha256(b"other weights").hexdigest()


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        models.find_model(EncoderConfig(model=str(tmp_path)), None)


def test_a_model_that_cannot_be_downloaded_names_the_offline_remedy(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"steerec\[offline\]"):
        models.find_model(EncoderConfig(model="nobody/no-such-model"), None)


def test_the_table_is_read_without_the_heavy_libraries():
    code = (
        "import sys, steerec.encoders\n"
        "bad = {'torch', 'onnxruntime', 'transformers', 'httpx'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
