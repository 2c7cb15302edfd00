import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from steerec.cli import app, options
from steerec.cli.ask import parse_filters
from steerec.cli.learn import in_words
from steerec.cli.show import as_json, notes_on_stderr, short
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.read import read_tables
from steerec.data.sample import sample_shop, write_csv
from steerec.engine.intake import tables_of
from steerec.service.telemetry import log_as_json
from steerec.version import __version__

VERBS = ("demo", "import", "doctor", "train", "evaluate", "recommend", "similar")
HEAVY = ("numpy", "polars", "scipy", "torch", "matplotlib", "sqlalchemy", "pydantic")
FAST = ("--encoder", "hashing", "--heads", "trending,transitions,content")


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def succeed(*words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shop/ (CSV), dataset/ and snapshot/ made by the verbs, and a cache."""
    folder = tmp_path_factory.mktemp("cli")
    write_csv(sample_shop(n_items=190, n_users=150, n_events=5_000), folder / "shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEEREC_CACHE_DIR", str(folder / "cache"))
        patch.chdir(folder)
        succeed("import", "--data", "shop", "--out", "dataset")
        succeed("train", "--data", "dataset", "--out", "snapshot", *FAST)
    return folder


@pytest.fixture(autouse=True)
def at_place(place, monkeypatch):
    monkeypatch.delenv("STEEREC_DATA_DIR", raising=False)
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(place / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(place)


# The whole


def test_help_imports_nothing_heavy_and_answers_fast():
    code = (
        "import sys\nfrom steerec.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    spent = []  # processor seconds of the command itself, whatever else the machine does
    for _ in range(3):
        before = os.times()
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = os.times()
        spent.append(after.children_user - before.children_user)
    assert answer.stdout.strip().endswith("[]")
    assert all(verb in answer.stdout for verb in VERBS)
    assert min(spent) < 0.5


def test_the_installed_command_tells_its_version():
    command = Path(sys.executable).with_name("steerec")
    answer = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == __version__


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_shows_an_example(verb):
    assert re.search(rf"Examples?:\s+steerec {verb}", succeed(verb, "--help"))


def test_an_option_means_the_same_in_every_verb():
    said = {}
    verbs = typer.main.get_command(app).commands.values()
    inner = [one for verb in verbs for one in getattr(verb, "commands", {}).values()]
    for verb in [*verbs, *inner]:
        for option in verb.params:
            if option.name not in ("out", "json"):  # a folder or file of its own
                said.setdefault(option.opts[0], set()).add(getattr(option, "help", ""))
    assert {name for name, meanings in said.items() if len(meanings) > 1} == set()


def test_a_group_of_options_is_handed_to_the_verb_as_one():
    told = []

    def verb(files: options.Files, learning: options.Learning, n: options.Count = 3) -> None:
        told.append((files, learning, n))

    alone = typer.Typer()
    alone.command()(options.spread(verb))
    words = ["--items", "goods.csv", "--seed", "7"]
    assert CliRunner().invoke(alone, words).exit_code == 0
    assert told == [(options.Files(items="goods.csv"), options.Learning(seed=7), 3)]


def test_every_verb_that_reads_files_takes_the_same_words():
    commands = typer.main.get_command(app).commands
    for verb in ("demo", "import", "doctor", "train", "evaluate"):
        known = {option.name for option in commands[verb].params}
        assert {"data", "data_dir", "items", "users", "query", "columns"} <= known, verb


def test_a_mistake_in_the_command_exits_with_2():
    assert run("evaluate", "--data", "shop").exit_code == 2
    assert run("train", "--data", "shop", "--sed", "3").exit_code == 2
    wrong_track = run("evaluate", "--data", "shop", "--protocol", "loo", "--track", "live")
    assert wrong_track.exit_code == 2
    assert "time-blind, time-aware" in wrong_track.stderr


def test_what_steerec_refuses_exits_with_1_and_one_message():
    result = run("train", "--data", "nowhere/at-all")
    assert result.exit_code == 1
    assert "error: nowhere/at-all does not exist" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_debug_shows_where_an_error_happened():
    command = [sys.executable, "-c", "from steerec.cli import main; main()"]
    words = ["--debug", "doctor", "nowhere/at-all"]
    answer = subprocess.run([*command, *words], capture_output=True, text=True)
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr
    assert "DataError" in answer.stderr


def test_a_word_that_is_no_file_is_told_the_known_sets():
    result = run("doctor", "ml-1n")
    assert result.exit_code == 1
    assert "sample, ml-1m, ml-100k" in result.stderr


def test_a_wrong_setting_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "mine.toml").write_text("[clean]\nnear = 1\n")
    result = run("import", "--data", "nowhere", "--config", tmp_path / "mine.toml")
    assert result.exit_code == 1
    assert "did you mean 'near_s'" in result.stderr


# import


def test_import_writes_a_dataset_and_the_quarantine(place):
    data = Dataset.load(place / "dataset")
    lines = (place / "dataset" / "quarantine.jsonl").read_text("utf-8").splitlines()
    read = read_tables(place / "shop").tables
    dropped = [row for line in lines if (row := json.loads(line))["dropped"]]
    assert data.n_events + sum(row["table"] == "events" for row in dropped) == len(read.events)


def test_import_shows_guessed_columns_and_what_each_rule_did(tmp_path):
    text = (tmp_path / "clicks.csv", tmp_path / "goods.csv")
    text[0].write_text("customer,sku,time\n" + "a,x,1700000000\na,y,1700000900\nb,x,\n,x,1\n")
    text[1].write_text("code,name\nx,Kettle\ny,Spade\n")
    out = succeed(
        "import", "--data", text[0], "--items", text[1], "--out", tmp_path / "out",
        "--columns", "items.item_id=code",
    )  # fmt: skip
    assert "events.user_id ← column customer (guessed)" in out
    assert "items.item_id ← column code\n" in out
    assert re.search(r"missing ids +4 +0 +1", out)
    assert "3 events" in out.rpartition("Clean:")[2]


def test_import_as_json_is_nothing_but_json(tmp_path):
    facts = json.loads(succeed("import", "--data", "shop", "--out", tmp_path / "d", "--json"))
    assert facts["content_hash"] == Dataset.load(tmp_path / "d").content_hash
    assert {r["rule"] for r in facts["rules"]} >= {"missing_ids", "exact_duplicates"}


def test_import_reads_a_database_by_url(tmp_path):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE sales (customer TEXT, sku TEXT, at INTEGER)")
        rows = [("a", "x", 1_700_000_000), ("b", "y", 1_700_000_900)]
        database.executemany("INSERT INTO sales VALUES (?, ?, ?)", rows)
    words = ("--query", "SELECT * FROM sales", "--columns", "timestamp=at")
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    facts = json.loads(succeed("import", "--data", url, "--out", tmp_path / "d", *words, "--json"))
    assert (facts["users"], facts["items"], facts["events"]) == (2, 2, 2)
    assert facts["guessed"] == ["events.user_id", "events.item_id"]


@pytest.mark.parametrize("name", ["ml-100k", "my-cafe"], ids=["known", "anybody's"])
def test_a_set_by_name_is_looked_for_in_the_data_folder(name, place, tmp_path):
    shutil.copytree(place / "dataset", tmp_path / "sets" / name)
    (tmp_path / "sets" / name / "dataset.json").unlink()
    events = Dataset.load(place / "dataset")
    tables_of(events).events.write_parquet(tmp_path / "sets" / name / "events.parquet")
    out = succeed("doctor", name, "--data-dir", tmp_path / "sets", "--json")
    assert json.loads(out)["counts"]["n_events"] == events.n_events


def test_a_name_that_is_found_nowhere_is_told_where_it_was_looked_for(tmp_path):
    told = run("doctor", "nowhere", "--data-dir", tmp_path)
    assert told.exit_code == 1
    words = " ".join(told.output.split())
    assert f"neither a file or folder here, a folder in {tmp_path} nor a known set" in words


def test_import_follows_the_settings(tmp_path):
    (tmp_path / "mine.toml").write_text("[clean]\nexact_duplicates = false\n")
    words = ("import", "--data", "shop", "--out", tmp_path / "d", "--json")
    facts = json.loads(succeed(*words, "--config", tmp_path / "mine.toml"))
    off = [r for r in facts["rules"] if r["rule"] == "exact_duplicates"]
    assert [r["note"] for r in off] == ["off"]


def test_a_saved_dataset_gives_its_rows_back(place):
    data = Dataset.load(place / "dataset")
    tables = tables_of(data)
    again = build_dataset(tables.events, tables.items, tables.users)
    assert again.content_hash == data.content_hash
    assert (again.basket == data.basket).all()


def test_a_saved_dataset_refuses_options_for_files():
    result = run("doctor", "dataset", "--columns", "user_id=customer")
    assert result.exit_code == 1
    assert "needs no columns" in result.stderr


def test_a_single_row_is_counted_in_the_singular(tmp_path):
    (tmp_path / "one.csv").write_text("user_id,item_id,timestamp\nu,x,1700000000\n")
    words = ("--data", tmp_path / "one.csv")
    out = succeed("import", *words, "--out", tmp_path / "d") + succeed("doctor", *words)
    assert "Read 1 event (csv)." in out
    assert "Clean: 1 event (view) of 1 user with 1 item." in out
    assert "1 event, 1 user, 1 item with events (1 in the catalogue)" in out


# doctor


def test_doctor_reports_findings_and_writes_a_page(tmp_path):
    out = succeed("doctor", "shop", "--report", tmp_path / "health.html")
    assert re.search(r"^[\d,]+ events, \d+ users, \d+ items with events", out)
    assert "warning" in out
    assert "→" in out
    assert (tmp_path / "health.html").read_text("utf-8").startswith("<!doctype html>")


def test_doctor_as_json_names_each_finding():
    health = json.loads(succeed("doctor", "--data", "dataset", "--json"))
    assert health["counts"]["n_events"] == Dataset.load(Path("dataset")).n_events
    assert all(f["code"] for f in health["findings"])


def test_doctor_wants_the_data_named_once():
    assert run("doctor").exit_code == 2
    assert run("doctor", "shop", "--data", "shop").exit_code == 2


# train, recommend, similar


def test_train_tells_each_heads_time_and_say(tmp_path):
    out = succeed("train", "--data", "dataset", "--out", tmp_path / "s", *FAST)
    for head in ("trending", "transitions", "content"):
        assert re.search(rf"{head} +\d+\.\d s +[+-]\d", out)
    assert (tmp_path / "s" / "manifest.json").is_file()


def test_train_as_json_is_nothing_but_json(tmp_path):
    out = succeed("train", "--data", "shop", "--out", tmp_path / "s", *FAST, "--json")
    facts = json.loads(out)
    assert facts["heads"] == ["trending", "transitions", "content"]
    assert set(facts["weights"]) == set(facts["heads"])


def test_recommend_answers_a_user_with_reasons(place):
    user = str(Dataset.load(place / "dataset").user_ids[0])
    out = succeed("recommend", "--snapshot", "snapshot", "--user", user, "-n", 3)
    assert f"{user} turned to" in out
    assert re.findall(r"^ *(\d)  .*\S\.\s*$", out, re.MULTILINE) == ["1", "2", "3"]


def test_recommend_obeys_filter_and_exclude(place):
    data = Dataset.load(place / "dataset")
    brand = data.items["brand"].drop_nulls()[0]
    words = ("recommend", "--snapshot", "snapshot", "--session", data.item_ids[0], "--json")
    first = json.loads(succeed(*words, "--filter", f"brand={brand}"))["items"]
    brands = dict(zip(data.item_ids, data.items["brand"], strict=True))
    assert {brands[i["item_id"]] for i in first} == {brand}
    top = first[0]["item_id"]
    rest = json.loads(succeed(*words, "--filter", f"brand={brand}", "--exclude", top))["items"]
    assert top not in [i["item_id"] for i in rest]


def test_recommend_without_repeats_shows_nothing_of_the_history(place):
    data = Dataset.load(place / "dataset")
    user = int(data.user_idx[0])
    had = {str(data.item_ids[i]) for i in data.history(user).item_idx}
    words = ("--user", data.user_ids[user], "-n", 50, "--no-repeats", "--json")
    slate = json.loads(succeed("recommend", "--snapshot", "snapshot", *words))
    assert slate["items"]
    assert not had & {i["item_id"] for i in slate["items"]}


def test_recommend_names_session_items_it_does_not_know():
    out = succeed("recommend", "--snapshot", "snapshot", "--session", "no-such-item")
    assert "Not in the catalogue, skipped: no-such-item" in out


def test_recommend_wants_a_user_or_a_session():
    assert run("recommend", "--snapshot", "snapshot").exit_code == 2


@pytest.mark.parametrize("parts", [["brand"], ["brand="], ["=x"], ["a=x", "a=y"]])
def test_a_filter_of_another_form_is_refused(parts):
    words = [w for part in parts for w in ("--filter", part)]
    assert run("recommend", "--snapshot", "snapshot", "--user", "u", *words).exit_code == 2


def test_a_filter_allows_several_values():
    assert parse_filters(["brand=A | B", "colour=red"]) == {
        "brand": frozenset({"A", "B"}),
        "colour": frozenset({"red"}),
    }


def test_similar_lists_other_items(place):
    item = str(Dataset.load(place / "dataset").item_ids[0])
    facts = json.loads(
        succeed("similar", "--snapshot", "snapshot", "--item", item, "-n", 4, "--json")
    )
    assert len(facts["items"]) == 4
    assert item not in [i["item_id"] for i in facts["items"]]
    assert "Likeness" in succeed("similar", "--snapshot", "snapshot", "--item", item)


def test_similar_to_an_unknown_item_is_an_error():
    result = run("similar", "--snapshot", "snapshot", "--item", "no-such-item")
    assert result.exit_code == 1
    assert "no-such-item" in result.stderr


def test_a_missing_snapshot_is_an_error():
    assert run("recommend", "--snapshot", "nowhere", "--user", "u").exit_code == 1
    there = sorted(Path.cwd().iterdir())
    told = run("serve", "--snapshot", "nowhere", "--port", "0")
    assert (told.exit_code, "nowhere is no snapshot" in told.stderr) == (1, True)
    assert sorted(Path.cwd().iterdir()) == there  # no store of nothing


# evaluate


@pytest.fixture(scope="module")
def evaluated(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEEREC_CACHE_DIR", str(place / "cache"))
        out = succeed(
            "evaluate", "--data", place / "dataset", "--protocol", "successive", *FAST,
            "--json", folder / "result.json", "--report", folder / "deep" / "report.html",
        )  # fmt: skip
    return out, json.loads((folder / "result.json").read_text("utf-8")), folder


def test_evaluate_writes_the_promised_json(evaluated, place):
    _, result, _ = evaluated
    promised = {
        "protocol", "track", "data", "data_hash", "commit", "seed", "machine", "seconds",
        "peak_rss_mib", "results", "slices",
    }  # fmt: skip
    assert promised <= set(result)
    assert result["data"] == str(place / "dataset")
    assert (result["protocol"], result["track"], result["cleaned"]) == (
        "successive", "frozen", False,
    )  # fmt: skip
    heads = {"trending", "transitions", "content"}
    assert set(result["results"]) == {"blend", "popularity", "recent_popularity", *heads}
    seconds = result["seconds"]
    assert set(seconds) == {"encode", "fit", "evaluate", "total"}
    assert seconds["total"] >= seconds["encode"] + seconds["fit"] + seconds["evaluate"]


def test_evaluate_shows_every_model_with_its_interval(evaluated):
    out, result, _ = evaluated
    for name, row in result["results"].items():
        low, high = row["ci"]["ndcg@10"]
        shown = rf"{name.replace('_', '.')} +{row['ndcg@10']:.4f} +{low:.4f}–{high:.4f}"
        assert re.search(shown, out), name


def test_evaluate_says_what_its_figures_mean(evaluated):
    assert "NDCG@10: how high in the list the right item stands" in evaluated[0]
    assert "HR@10: share of requests with a right item in the list" in evaluated[0]


def test_evaluate_writes_a_page_into_a_new_folder(evaluated):
    assert "How good are the" in (evaluated[2] / "deep" / "report.html").read_text("utf-8")


def test_a_second_run_encodes_nothing(place, tmp_path):
    words = ("evaluate", "--data", "shop", "--protocol", "loo", *FAST, "--clean")
    for name in ("one.json", "two.json"):
        succeed(*words, "--json", tmp_path / name)
    again = json.loads((tmp_path / "two.json").read_text("utf-8"))
    assert again["encoder"]["encoded"] == 0
    assert again["encoder"]["cached"] > 0
    assert again["cleaned"] is True


def test_without_encoder_content_lives_on_words_alone(tmp_path):
    words = ("evaluate", "--data", "dataset", "--protocol", "basket", "--encoder", "none")
    out = succeed(*words, "--heads", "trending,content", "--json", tmp_path / "r.json")
    assert "RECALL@10" in out
    result = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert result["encoder"]["encoded"] == result["encoder"]["cached"] == 0
    assert "content" in result["results"]


def test_a_model_that_is_nowhere_is_an_error_that_names_the_way_without(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mine.toml").write_text('[encoder]\nmodel = "nobody/no-such-model"\n')
    words = ("train", "--data", "dataset", "--out", tmp_path / "s")
    result = run(*words, "--config", tmp_path / "mine.toml")
    assert result.exit_code == 1
    assert "--encoder hashing" in result.stderr
    assert not (tmp_path / "s").exists()


# Words


def test_a_warning_of_the_library_is_noted_once_beside_the_results(capsys):
    library = logging.getLogger("steerec")
    before = list(library.handlers)
    notes_on_stderr()
    for _ in range(3):
        library.getChild("engine").warning("head=%s left_out reason=%s", "social", "no friends")
    library.info("nothing to see")
    library.handlers = before
    told = capsys.readouterr()
    assert told.err == "note: head=social left_out reason=no friends\n"
    assert told.out == ""


def test_a_service_says_a_warning_once_and_as_json(capsys):
    library, root = logging.getLogger("steerec"), logging.getLogger()
    before = list(library.handlers), list(root.handlers), root.level
    notes_on_stderr()
    log_as_json()
    library.getChild("engine").error("tenant=%s tuning=frozen", "shop")
    library.handlers, root.handlers = before[:2]
    root.setLevel(before[2])
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["tenant=shop tuning=frozen"]


def test_a_long_title_is_cut_at_a_word():
    assert short("Sketch pad in concrete grey", 25) == "Sketch pad in concrete…"
    assert short("short", 25) == "short"
    assert short("x" * 30, 10) == "x" * 9 + "…"
    assert short("[bold]x", 25) == r"\[bold]x"


@pytest.mark.parametrize(
    ("weight", "words"),
    [(3.0, "leads"), (1.5, "strong say"), (0.6, "some say"), (0.1, "hardly heard"),
     (-0.1, "hardly heard"), (-2.0, "counts against")],
)  # fmt: skip
def test_a_weight_is_put_into_words_by_its_share(weight, words):
    assert in_words(weight, 10.0) == words


def test_json_has_null_where_numbers_fail():
    assert json.loads(as_json({"a": float("nan"), "b": (1.0, float("inf"))})) == {
        "a": None,
        "b": [1.0, None],
    }
