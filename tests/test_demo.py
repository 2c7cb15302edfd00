import json
import re
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

from steerec.cli import app
from steerec.cli.demo import (
    changes,
    fewer_requests,
    lighter,
    one_thread_if_small,
    pick_shoppers,
    usable_task,
)
from steerec.cli.learn import print_left_out
from steerec.contracts import Choice, Slate
from steerec.data.dataset import build_dataset
from steerec.data.sample import sample_shop, write_csv
from steerec.data.tables import Tables
from steerec.engine.model import FitConfig

HEADS = ("trending", "transitions", "content")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the demo prints on a small shop, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    write_csv(sample_shop(n_items=190, n_users=150, n_events=5_000), folder / "shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEEREC_CACHE_DIR", str(folder / "cache"))
        patch.setenv("COLUMNS", "200")
        patch.chdir(folder)
        words = ["demo", "--data", "shop", "--encoder", "hashing", "--heads", ",".join(HEADS)]
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stdout, folder / "steerec-demo"


def test_the_demo_walks_all_five_steps(told):
    out, _ = told
    assert re.findall(r"^(\d)\. ", out, re.MULTILINE)[:1] == ["1"]
    for title in (
        "1. Read and clean shop",
        "2. Compare with popularity",
        "3. Learn from all events",
        "4. Three shoppers",
        "5. One more click",
    ):
        assert title in out


def test_the_demo_prints_the_cleaning_report(told):
    assert re.search(r"events +missing ids +[\d,]+ +0 +[1-9]", told[0])


def test_the_demo_compares_with_popularity(told):
    for name in ("blend", "popularity", *HEADS):
        assert re.search(rf"^ ?{name} +0\.\d{{4}} +0\.\d{{4}}–0\.\d{{4}}", told[0], re.MULTILINE)


def test_the_blend_beats_popularity_in_the_demo(told):
    result = json.loads((told[1] / "evaluation.json").read_text("utf-8"))
    assert "with lighter settings" in result["notes"][-1]
    assert (
        "steerec demo --encoder hashing --heads trending" in (told[1] / "report.html").read_text()
    )
    assert result["results"]["blend"]["ndcg@10"] > 2 * result["results"]["popularity"]["ndcg@10"]
    assert result["cleaned"] is True


def test_the_demo_shows_three_shoppers_with_reasons(told):
    shoppers = told[0].partition("4. Three")[2].partition("5. One")[0]
    assert len(re.findall(r"^\S+, \d+ events, the newest first:", shoppers, re.MULTILINE)) == 3
    assert len(re.findall(r"^ ?[1-5]  .*\S\.\s*$", shoppers, re.MULTILINE)) >= 15
    known = [part.count("You turned to it") for part in shoppers.split("the newest first:")[1:]]
    new = [part.count("new to this shopper") for part in shoppers.split("the newest first:")[1:]]
    assert [n > 2 for n in known] == [n == 1 for n in new]


def test_the_click_changes_the_list_and_is_timed(told):
    click = told[0].partition("5. One")[2]
    assert re.search(r"From the event to the new list: \d+ ms", click)
    assert re.search(r"\b(new|up \d|down \d)\b", click.partition("before and after")[2])


def test_the_demo_leaves_a_report_and_the_quarantine(told):
    assert "How good are the" in (told[1] / "report.html").read_text("utf-8")
    lines = (told[1] / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert f"{len(lines)} rows in steerec-demo/quarantine.jsonl" in told[0]


def test_heads_that_the_data_cannot_teach_are_named(capsys):
    model = SimpleNamespace(heads={"ease": None}, say={})
    print_left_out(model, FitConfig(heads=("ease", "social")))
    print_left_out(model, FitConfig(heads=("ease",)))
    assert capsys.readouterr().out == "Left out, for these data cannot teach it: social\n"


def test_shoppers_have_few_some_and_many_events():
    shop = sample_shop(n_items=190, n_users=150, n_events=5_000, dirty=False)
    data = build_dataset(shop.events, shop.items, shop.users)
    picked = pick_shoppers(data)
    lengths = np.diff(data.starts)
    assert len(set(picked)) == 3
    for user, wanted in zip(picked, (5, 15, 40), strict=True):
        others = [n for u, n in enumerate(lengths) if u not in picked and n > 1]
        assert abs(lengths[user] - wanted) <= min(abs(n - wanted) for n in others)


def test_a_set_too_thin_for_a_time_split_is_measured_by_last_events(capsys):
    # Four events each: under the five that `successive` asks for.
    rows = [(f"u{u}", f"i{i}", 1.7e9 + 3_600.0 * i + u) for u in range(6) for i in range(4)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    events = events.with_columns(basket=pl.lit(None, pl.String))
    assert usable_task(Tables(events)).protocol == "loo"
    assert "No time split" in capsys.readouterr().out


def test_a_set_of_orders_is_measured_by_basket():
    rows = [
        (f"u{u}", f"i{(u + b + i) % 6}", 1.7e9 + 86_400.0 * b, f"{u}-{b}")
        for u in range(6) for b in range(20) for i in range(3)
    ]  # fmt: skip
    columns = ["user_id", "item_id", "timestamp", "basket"]
    events = pl.DataFrame(rows, schema=columns, orient="row")
    assert usable_task(Tables(events)).protocol == "basket"
    some = events.with_columns(pl.when(pl.col("basket") != "0-0").then("basket").alias("basket"))
    assert usable_task(Tables(some)).protocol == "successive"


def test_a_large_set_is_measured_on_some_of_its_requests():
    rows = [(f"u{u}", f"i{(u * 7 + t) % 12}", 1.7e9 + u + 100 * t, None)
            for u in range(700) for t in range(80)]  # fmt: skip
    columns = {"user_id": str, "item_id": str, "timestamp": float, "basket": str}
    task = usable_task(Tables(pl.DataFrame(rows, schema=columns, orient="row")))
    assert len(task.split.cases) == 5_600
    fewer = fewer_requests(task, seed=1)
    assert len(fewer.split.cases) == len(np.unique(fewer.split.cases.stop)) == 5_000
    assert fewer.notes[-1].startswith("5,000 of 5,600 requests")
    assert fewer_requests(fewer, seed=1) is fewer


def test_changes_tell_how_each_item_moved():
    def slate(*ids):
        return Slate("r", 0, tuple(Choice(i, 0.0, p, {}, "") for p, i in enumerate(ids, 1)))

    moved = changes(slate("a", "b", "c"), slate("c", "b", "d", "a"))
    assert moved == [("c", "up 2"), ("b", "stays"), ("d", "new"), ("a", "down 3")]


def test_the_lighter_fit_keeps_what_the_user_set():
    config = lighter(FitConfig(settings={"repeat": {"max_rows": 7, "l2": 1.0}}))
    assert config.settings["repeat"] == {"max_rows": 7, "l2": 1.0}
    assert config.blend.max_cases < FitConfig().blend.max_cases
    assert lighter(FitConfig(heads=("ease",))).settings == {}


def test_a_small_catalogue_keeps_linear_algebra_on_one_thread():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    with one_thread_if_small(1_500):
        assert threads() == {1}
    with one_thread_if_small(50_000):
        assert threads() == before
    assert threads() == before
