"""Bad input on the command line: an error that helps, or a counted quarantine."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerec.cli import app

HEADER = "user_id,item_id,timestamp\n"
NOBODY = 65_534  # the user without rights on every Unix


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEEREC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def events(name, rows):
    Path(name).write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return name


def run(*words, code=0):
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.stdout if code == 0 else result.stderr


def test_a_wrong_column_is_named_with_those_there_are():
    Path("e.csv").write_text("who,item_id\nann,tea\n")
    said = run("import", "--data", "e.csv", code=1)
    assert "no column for user_id; given: ['who', 'item_id']" in said
    assert "--columns user_id=who" in said


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.parquet"])
def test_a_file_without_a_byte_is_refused(name):
    Path(name).touch()
    assert f"{name} is empty (0 bytes)" in run("import", "--data", name, code=1)
    assert f"{name} is empty (0 bytes)" in run("doctor", name, code=1)


def test_a_table_without_rows_is_refused():
    said = run("import", "--data", events("e.csv", []), code=1)
    assert "has columns and no rows of events" in said


def test_when_every_row_is_rejected_the_message_says_by_which_rule():
    said = run("import", "--data", events("e.csv", [",tea,1700000000", "ann,tea,1"]), code=1)
    assert "none of 2 events: missing_ids rejected 1 (no user_id); impossible_times" in said
    assert "[clean] missing_ids = false" in said


def test_cells_of_another_type_and_no_numbers_go_to_the_quarantine_and_are_counted():
    cells = ["3", "good", "NaN", "inf", "-inf", "1e400", "4"]
    rows = [f"u{i},i{i},{v},{1_700_000_000 + i}" for i, v in enumerate(cells)]
    Path("e.csv").write_text("\n".join(["user_id,item_id,value,timestamp", *rows]) + "\n")
    told = json.loads(run("import", "--data", "e.csv", "--json"))
    counts = {r["rule"]: r["rejected"] for r in told["rules"]}
    assert (told["events"], counts["not_finite"]) == (2, 5)
    kept = [json.loads(x) for x in Path("dataset/quarantine.jsonl").read_text().splitlines()]
    assert [row["row"] for row in kept] == [1, 2, 3, 4, 5]
    assert {row["reason"] for row in kept} == {"value is not a finite number"}


def test_ids_with_spaces_and_any_script_live_and_those_too_long_are_counted():
    ids = ["ann b", "用户 一", "🙂", "x" * 512, "y" * 513]
    rows = [f"{user},tea {n},{1_700_000_000 + 100 * n}" for n, user in enumerate(ids)]
    told = json.loads(run("import", "--data", events("e.csv", rows), "--json"))
    counts = {r["rule"]: r["rejected"] for r in told["rules"]}
    assert (told["users"], counts["long_ids"]) == (4, 1)


def test_the_second_row_of_an_items_id_goes_to_the_quarantine():
    Path("items.csv").write_text("item_id,title\ntea,Tea\ntea,Other tea\n,Nothing\n")
    log = events("e.csv", ["ann,tea,1700000000"])
    run("import", "--data", log, "--items", "items.csv")
    kept = [json.loads(x) for x in Path("dataset/quarantine.jsonl").read_text().splitlines()]
    assert {(r["table"], r["row"], r["rule"]) for r in kept} == {
        ("items", 1, "duplicate_entries"),
        ("items", 2, "missing_ids"),
    }


ONE_USER = [f"ann,i{k % 7},{1_700_000_000 + 3_600 * k}" for k in range(30)]
ONE_TIME = [f"u{k % 20},i{(k * 7) % 13},1700000000" for k in range(100)]


@pytest.mark.parametrize("rows", [ONE_USER, ONE_TIME], ids=["one user", "one time"])
def test_a_user_alone_and_a_moment_alone_are_learnt_from_and_lists_come(rows):
    log = events("e.csv", rows)
    heads = "trending,transitions,ease,content"
    run("train", "--data", log, "--encoder", "none", "--heads", heads, "--out", "model")
    user = rows[0].partition(",")[0]
    slate = json.loads(run("recommend", "--snapshot", "model", "--user", user, "-n", 3, "--json"))
    assert len(slate["items"]) == 3


def test_one_time_is_told_by_doctor_and_no_time_split_is_made_of_it():
    log = events("e.csv", ONE_TIME)
    assert "All events at one moment" in run("doctor", log)
    words = ("evaluate", "--data", log, "--protocol", "successive", "--heads", "ease")
    assert "use --protocol loo" in run(*words, "--encoder", "none", code=1)


def test_where_all_that_is_newest_is_new_train_tells_the_setting_that_helps():
    """`train` has no --protocol to change."""
    early = [f"u{k % 20},i{(k * 7) % 13},{1_700_000_000 + 3_600 * k}" for k in range(100)]
    late = [f"new{k},i0,{1_710_000_000 + 3_600 * k}" for k in range(20)]
    log = events("n.csv", early + late)
    words = ("train", "--data", log, "--heads", "ease", "--encoder", "none", "--out", "model")
    assert 'to train holdout = "last" under [fit]' in " ".join(run(*words, code=1).split())
    Path("steerec.toml").write_text('[fit]\nholdout = "last"\n', encoding="utf-8")
    assert "Snapshot: model/" in run(*words)


@pytest.fixture
def shut(monkeypatch):
    """A folder nobody may enter; root lays its rights down for the test, since none bind it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.chdir(folder)
    mine = os.geteuid()
    shut = folder / "shut"
    shut.mkdir()
    for place in (folder, shut):
        events(place / "e.csv", ["ann,tea,1700000000"])
    shut.chmod(0)
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        yield shut
    finally:
        os.seteuid(mine)
        monkeypatch.undo()
        shut.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["", "e.csv", "none.csv"])
def test_a_folder_without_permission_is_named(shut, place):
    for verb in (["import", "--data"], ["doctor"]):
        said = run(*verb, shut / place, code=1)
        assert f"{shut / place} may not be read" in said
        assert "permission" in said


def test_a_snapshot_without_permission_is_named(shut):
    said = run("recommend", "--snapshot", shut / "model", "--user", "ann", code=1)
    assert f"{shut / 'model'} may not be read" in said


@pytest.mark.parametrize(
    "words",
    [
        ("import", "--data", "none.csv", "--out"),
        ("doctor", "none.csv", "--report"),
        ("demo", "--data", "none.csv", "--out"),
        ("train", "--data", "none.csv", "--out"),
        ("evaluate", "--data", "none.csv", "--protocol", "loo", "--json"),
        ("evaluate", "--data", "none.csv", "--protocol", "loo", "--report"),
        ("recommend", "--snapshot", "none", "--all", "--out"),
    ],
)
def test_a_place_that_takes_no_file_is_told_before_anything_is_read(words):
    Path("file").touch()
    said = run(*words, "file/made", code=1)
    assert said.startswith("error: file/made cannot be written, since ")
    assert "/file is a file" in said


def test_a_folder_that_may_not_be_written_to_is_told_first(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != here)  # root may everywhere
    said = run("import", "--data", "none.csv", "--out", "a/b", code=1)
    assert f"a/b cannot be written, since {here} may not be written to" in said
