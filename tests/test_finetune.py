"""Fine-tuning an encoder: it learns what the log says, exports like any, refuses bad input."""

import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from steerec.cli import app
from steerec.data.dataset import build_dataset
from steerec.encoders import EncoderConfig, open_encoder
from steerec.encoders.finetune import _Course, base_model, finetune
from steerec.encoders.finetuned import NOTE, PROMPT, FineTuneConfig, check_folder, query_text
from steerec.encoders.models import find_model
from steerec.encoders.pairs import NONE, pairs_of
from steerec.encoders.student import Judge, Student, _matrices
from steerec.encoders.text import load_sentence_model
from steerec.errors import ConfigError, DataError, MissingExtraError, TrainingError

COLOURS = ["red", "blue", "green", "black", "white", "yellow", "pink", "grey"]
THINGS = [("anchor", "muffin"), ("violin", "shovel"), ("candle", "helmet"), ("pillow", "engine")]
CONFIG = FineTuneConfig(
    steps=30,
    batch_pairs=24,
    max_tokens=16,
    check_every=15,
    last=2,
    learning_rate=1e-3,
    instruction="After: ",
)


def texts():
    return [f"{colour} {thing}" for pair in THINGS for thing in pair for colour in COLOURS]


def world(n_users=240, seed=0):
    """After each thing comes its partner, in any colour: nothing that a model of language knows."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        pair = THINGS[rng.integers(len(THINGS))]
        for step in range(6):
            item = f"{rng.choice(COLOURS)} {pair[step % 2]}"
            rows.append((f"u{user}", item, "click", 1e9 + 1e5 * step + user))
    return dataset(rows)


def dataset(rows):
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": texts(), "title": texts()})
    return build_dataset(events, items, None)


def titles(data):
    return data.items["title"].to_list()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The first two layers of the default model: a model of its own, and a quick one."""
    folder = tmp_path_factory.mktemp("base") / "two-layers"
    shutil.copytree(find_model(EncoderConfig(), None).folder, folder)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "num_hidden_layers": 2}))
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not re.search(r"layer\.[2-9]\.", k)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return find_model(EncoderConfig(model=str(folder)), None)


@pytest.fixture(scope="module")
def pairs():
    data = world()
    return pairs_of(data, titles(data), last=2)


@pytest.fixture(scope="module")
def tuned(base, pairs):
    return finetune(base, *pairs, CONFIG, threads=1)


@pytest.fixture(scope="module")
def folder(tuned, tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "encoder"
    tuned.save(made)
    return made


# Pairs


def test_pairs_are_what_came_before_and_next_newest_first():
    rows = [("u", item, "click", 1e9 + i) for i, item in enumerate(texts()[:4])]
    rows += [("v", texts()[1], "click", 2e9), ("v", texts()[0], "click", 2e9 + 1)]
    data = dataset(rows)
    learnt, held_out = pairs_of(data, titles(data), last=2)
    told = {
        (tuple(learnt.texts[t] for t in h if t != NONE), learnt.texts[n])
        for h, n in zip(learnt.history, learnt.target, strict=True)
    }
    a, b, c, d = texts()[:4]
    assert told == {((a,), b), ((b, a), c), ((c, b), d)}
    assert [held_out.texts[t] for t in held_out.target] == [a]  # the newest


def test_without_times_the_last_step_of_each_user_is_held_out():
    data = world(n_users=7)
    blind = replace(data, time=np.full(data.n_events, np.nan))
    learnt, held_out = pairs_of(blind, titles(data), last=1)
    assert len(held_out) == 7
    assert len(set(held_out.user_idx.tolist())) == 7
    taken = learnt.taken.toarray()
    ends = data.starts[1:] - 1
    early = np.setdiff1d(np.arange(data.n_events), ends)
    for user in range(7):
        own = {titles(data)[i] for i in data.item_idx[early][data.user_idx[early] == user]}
        assert {learnt.texts[t] for t in np.flatnonzero(taken[user])} == own


def test_pairs_count_once_and_none_is_of_disliked_blank_or_repeated_texts():
    a, b, c = texts()[:3]
    told = [("u", a), ("u", b), ("u", a), ("v", a), ("v", b), ("w", a), ("w", c), ("w", b)]
    rows = [(u, item, "dislike" if item == c else "click", 1e9) for u, item in told]
    data = dataset([*rows, ("x", a, "click", 2e9), ("x", b, "click", 3e9)])
    learnt, _ = pairs_of(data, titles(data), last=3)
    assert len(learnt) == 1  # a → b, of three users; u's second a is in its own history
    blank = ["" if title == b else title for title in titles(data)]
    with pytest.raises(DataError, match="none follows on another"):
        pairs_of(data, blank, last=3)


def test_what_a_user_took_too_is_no_negative(pairs):
    learnt, _ = pairs
    chosen = np.arange(20)
    mask = learnt.no_negative(chosen)
    assert not mask.diagonal().any()
    for i in range(20):
        for j in set(range(20)) - {i}:
            assert mask[i, j] == bool(learnt.taken[learnt.user_idx[i], learnt.target[j]])
    assert mask.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [""] * len(t), "no item has a text"),
        (lambda t: ["same"] * len(t), "all items with a text have the same one"),
        (lambda t: ["  ", *["same "] * (len(t) - 1)], "all items with a text have the same one"),
    ],
)
def test_texts_that_tell_nothing_apart_are_refused(change, message):
    data = world(n_users=3)
    with pytest.raises(DataError, match=message):
        pairs_of(data, change(titles(data)), last=1)


def test_a_catalogue_of_one_item_is_refused():
    rows = [("u", "tea", "click", 1e9), ("v", "tea", "click", 2e9)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "event", "timestamp"], orient="row")
    data = build_dataset(events, pl.DataFrame({"item_id": ["tea"], "title": ["Tea"]}), None)
    with pytest.raises(DataError, match=r"the same one \(of 1 item\)"):
        pairs_of(data, ["Tea"], last=1)


# Training


def test_fine_tuning_beats_the_frozen_encoder_on_held_out_pairs(tuned):
    assert tuned.before < 0.25
    assert tuned.after > tuned.before + 0.06  # .49 is the most, as colours are drawn
    assert tuned.curve[0][0] == 0
    assert max(gain for _, gain in tuned.curve) > tuned.curve[0][1]


def test_partners_that_no_language_model_knows_are_near_afterwards(base, folder):
    words = [thing for pair in THINGS for thing in pair]

    def partners_first(model):
        vectors = open_encoder(EncoderConfig(model=model, threads=1), cache_dir=None).encode(words)
        likeness = vectors @ vectors.T - 2 * np.eye(len(words))
        return np.mean(likeness.argmax(axis=1) == np.arange(len(words)) ^ 1)

    assert partners_first(str(folder)) >= partners_first(str(base.folder)) + 0.5


def test_too_few_pairs_are_refused(base, pairs):
    learnt, held_out = pairs
    with pytest.raises(DataError, match=r"99 pairs of a history .*at least 100"):
        finetune(base, learnt.take(np.arange(99)), held_out, CONFIG)
    with pytest.raises(DataError, match="3 such pairs held out, expected at least 20"):
        finetune(base, learnt, held_out.take(np.arange(3)), CONFIG)


def test_time_over_ends_the_training_and_a_model_that_gained_nothing_is_refused(base, pairs):
    told, now = [], iter(range(0, 100_000, 50))
    config = replace(CONFIG, minutes=2.0, learning_rate=1e-12)
    with pytest.raises(DataError, match=r"brought nothing.*keep the encoder as it is"):
        finetune(
            base,
            *pairs,
            config,
            threads=1,
            watch=lambda done, total: told.append((done, total)),
            clock=lambda: next(now),
        )
    assert told == [(1, 30), (2, 30), (3, 30)]  # 50 s a look, so 150 s after three steps


def course(base, pairs, checkpoint, key="this training"):
    learnt, held_out = pairs
    config = replace(CONFIG, steps=4, check_every=2)
    judge = Judge(held_out.take(np.arange(8)), np.arange(len(learnt.texts), dtype=np.int32))
    made = _Course(Student.of(base, config, seed=1), learnt, judge, key, checkpoint)
    return made, judge


def test_a_killed_training_goes_on_where_it_stopped_and_comes_to_the_same(base, pairs, tmp_path):
    kept = tmp_path / "kept"

    def killed(step):
        if step == 3:
            raise KeyboardInterrupt
        return step < 4

    first, judge = course(base, pairs, kept)
    figure = first.begin(judge)
    with pytest.raises(KeyboardInterrupt):
        first.run(killed)
    whole, _ = course(base, pairs, None)
    whole.begin(judge)
    whole.run(lambda step: step < 4)
    told = []
    again, _ = course(base, pairs, kept)
    assert again.begin(judge) == figure
    again.run(lambda step: told.append(step) or step < 4)
    assert told == [3, 4]
    assert again.curve == whole.curve
    for name, tensor in whole.student.memory().items():
        np.testing.assert_array_equal(again.student.memory()[name], tensor, name)
    other, _ = course(base, pairs, kept, key="another training")
    assert not other._recalled()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert not course(base, pairs, kept)[0]._recalled()


def test_a_loss_that_is_no_number_is_named(base, pairs):
    broken = replace(CONFIG, temperature=1e-45)
    with pytest.raises(TrainingError, match="the loss is no number; lower"):
        finetune(base, *pairs, broken, threads=1)


def test_without_peft_the_extra_is_named(base, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"steerec\[finetune\]"):
        finetune(base, *pairs, CONFIG)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0}, {"batch_pairs": 1}, {"last": 0}, {"rank": 0}, {"layers": -1},
        {"learning_rate": 1.0}, {"temperature": 0.0}, {"plain": 1.5}, {"minutes": 0.0},
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_a_config_error(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        FineTuneConfig(**bad)


def test_only_sentence_models_can_be_fine_tuned():
    with pytest.raises(ConfigError, match="'hashing' cannot be fine-tuned"):
        base_model(EncoderConfig(encoder="hashing"), None)


def test_only_the_last_layers_change_if_told(base):
    model = load_sentence_model(base, 16)
    last, every = (_matrices(model[0].auto_model, n) for n in (1, 0))
    assert 2 * len(last) == len(every)
    assert all("layer.1." in name for name in last)


# The folder


def test_a_saved_model_gives_the_vectors_it_was_saved_with(base, tuned, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # serving needs none
    encoder = open_encoder(EncoderConfig(model=str(folder), threads=1), cache_dir=None)
    some = ["red anchor", "a grey engine that nobody sold before", "muffin"]
    exact = tuned.model.encode(some, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(some), exact, atol=1e-6)
    frozen = open_encoder(EncoderConfig(model=str(base.folder), threads=1), cache_dir=None)
    assert encoder.dim == frozen.dim
    assert encoder.name != frozen.name  # so that no vector in a cache is mistaken
    assert np.abs(encoder.encode(some) - frozen.encode(some)).max() > 0.01


def test_the_folder_says_what_made_it(tuned, folder, base):
    about = json.loads((folder / NOTE).read_text())
    assert about["base"] == base.key
    assert about["ndcg@10"]["after"] == tuned.after
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts[PROMPT] == CONFIG.instruction
    assert query_text("After: ", ["a cup.", "tea"]) == "After: a cup. tea"


def test_a_folder_of_something_else_is_not_written_over(tuned, folder, tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DataError, match="give a new or empty folder"):
        tuned.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
    check_folder(folder)  # one of ours may be made anew
    check_folder(tmp_path / "new")


def test_the_verb_writes_a_model_that_the_settings_take(base, tmp_path, monkeypatch):
    data = world()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(tmp_path / "cache"))
    data.save(tmp_path / "dataset")
    (tmp_path / "steerec.toml").write_text(
        f'[encoder]\nmodel = "{base.folder}"\n[finetune]\nbatch_pairs = 24\nmax_tokens = 16\n'
        "learning_rate = 1e-3\ncheck_every = 20\n"
    )
    words = ["finetune", "--data", "dataset", "--steps", "16", "--threads", "1", "--json"]
    done = CliRunner().invoke(app, [*words, "--out", "made"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["data_hash"] == data.content_hash
    assert told["ndcg@10"]["after"] > told["ndcg@10"]["before"]
    (tmp_path / "steerec.toml").write_text('[encoder]\nmodel = "made"\n')
    train = ["train", "--data", "dataset", "--heads", "content", "--threads", "1", "--json"]
    done = CliRunner().invoke(app, train)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["encoder"].startswith("made@")
