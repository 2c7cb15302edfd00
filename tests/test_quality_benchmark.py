import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from steerec.data.split import leave_last_out, one_event_a_basket, split_baskets
from steerec.evaluation.protocols import Task
from worlds import shop

QUALITY = Path(__file__).parent.parent / "benchmarks" / "quality"


@pytest.fixture
def quality(monkeypatch):
    """Import a module of the benchmark, which is no package."""
    monkeypatch.syspath_prepend(str(QUALITY))
    return importlib.import_module


def basket_task():
    split = split_baskets(one_event_a_basket(shop(n_users=30).data), 0.7)
    return Task("basket", "all", split, "basket", repeats=True)


def test_an_exported_split_holds_histories_and_no_targets(quality, tmp_path):
    task = Task("loo", "time-blind", leave_last_out(shop(n_users=30).data), "last", repeats=False)
    quality("peers.export").export_split(task, tmp_path / "split.npz")
    with np.load(tmp_path / "split.npz") as arrays:
        offsets, items = arrays["history_offsets"], arrays["history_items"]
        assert len(arrays["item_idx"]) == task.split.train.n_events
        assert "targets" not in arrays.files
        for case in range(len(task.split.cases)):
            expected = task.split.cases.history(case).item_idx.tolist()
            assert items[offsets[case] : offsets[case + 1]].tolist() == expected


def test_a_peer_reads_who_had_what(quality, tmp_path):
    task = basket_task()
    quality("peers.export").export_split(task, tmp_path / "split.npz")
    job = quality("peers.compete").Job.read(tmp_path / "split.npz")
    assert job.repeats
    assert (job.train != task.split.train.matrix()).nnz == 0
    for case in range(len(task.split.cases)):
        own = set(task.split.cases.history(case).item_idx.tolist())
        assert set(job.history[case].indices.tolist()) == own


def test_lists_are_measured_by_the_place_of_each_target(quality):
    task = basket_task()
    cases = task.split.cases
    lists = np.full((len(cases), 10), -1, np.int32)
    lists[:, 2] = cases.targets[cases.offsets[:-1]]  # the first target of each, in third place
    sizes = np.diff(cases.offsets)
    ideal = [sum(1 / np.log2(1 + j) for j in range(1, min(10, n) + 1)) for n in sizes]
    measured = quality("run").measure_lists(lists, task, 0)
    assert measured["ndcg@10"] == pytest.approx(np.mean(0.5 / np.array(ideal)))
    assert measured["hr@10"] == 1.0
    assert measured["recall@10"] == pytest.approx(np.mean(1 / np.minimum(sizes, 10)))


def test_every_peer_has_its_settings_written_down(quality):
    toml = quality("tomllib").loads((QUALITY / "peers" / "peers.toml").read_text("utf-8"))
    assert set(quality("run").PEERS) == set(toml) == set(quality("peers.compete").PEERS)


def test_results_page_is_the_one_its_results_give(quality):
    page = quality("results").page(QUALITY / "results")
    assert page == (QUALITY / "RESULTS.md").read_text("utf-8"), "run benchmarks/quality/results.py"


def test_the_table_of_ablation_has_the_greatest_loss_first(quality):
    def row(value, lost):
        gap = {"difference": lost, "low": lost - 0.01, "high": lost + 0.01, "p": 0.5}
        both = ("ndcg@10", "hr@10")
        return dict.fromkeys(both, value) | {f"{m} lost": gap for m in both}

    ours = {"ablation": {"als": row(0.2, 0.0), "ease": row(0.15, 0.05)}}
    lines = list(quality("results").ablation_lines(ours, "hr@10", "HR@10"))
    assert lines[2].startswith("| ease | 0.1500 | +0.0500 | +0.0400 to +0.0600 | 0.1500 |")
    assert lines[3].startswith("| als | 0.2000 | +0.0000 | -0.0100 to +0.0100 |")


def test_the_race_names_the_fastest_of_our_runs_that_reaches_the_peers_best(quality):
    def epoch(seconds, ndcg):
        return {"seconds": seconds, "ndcg@10": ndcg}

    def run(fit_s, ndcg):
        return {"seconds": {"fit": fit_s}, "results": {"blend": {"ndcg@10": ndcg}}}

    verdict = quality("race").verdict
    epochs = [epoch(200, 0.1), epoch(400, 0.18), epoch(600, 0.17)]
    ours = {"quick": run(60, 0.17), "slow": run(900, 0.21), "middle": run(300, 0.19)}
    words = verdict(epochs, ours, 600)
    assert "best, 0.1800 after 400 s, is reached by middle in 300 s, 1/2.0 of" in words
    assert "(goal 1/5: not reached)" in words
    assert "1/10.0 of the peer's 600 s (goal 1/5: reached)" in verdict(epochs[:1], ours, 600)
    assert "not reached by any" in verdict([epoch(1, 0.3)], ours, 600)


def test_a_race_reads_a_peer_line_by_line_and_lets_it_go_on(quality):
    race = quality("race")
    code = (
        "import json\n"
        "for n in (1, 2):\n"
        "    print('warning: of a library'); print(json.dumps({'epoch': n}), flush=True)\n"
        "    assert input() == ''\n"
    )
    assert list(race._told_by([sys.executable, "-c", code])) == [{"epoch": 1}, {"epoch": 2}]
    with pytest.raises(SystemExit, match="exit status 3"):
        list(race._told_by([sys.executable, "-c", "raise SystemExit(3)"]))


def test_peers_of_other_rows_are_refused(quality, tmp_path):
    for name, data_hash in (("P1-ml-1m.json", "a" * 64), ("P1-ml-1m.peers.json", "b" * 64)):
        (tmp_path / name).write_text(json.dumps({"data_hash": data_hash}))
    with pytest.raises(SystemExit, match="peers ran on other rows"):
        quality("results").page(tmp_path)
