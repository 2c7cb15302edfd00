import json
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import steerec.engine.evaluate as running
from steerec.data.tables import Tables
from steerec.engine.evaluate import commit, evaluate, machine, peak_rss_mib
from steerec.engine.foretell import LIVE_BATCH, foretell
from steerec.engine.model import FitConfig, fit
from steerec.engine.pool import PoolConfig
from steerec.errors import ConfigError
from steerec.evaluation.protocols import prepare
from worlds import shop

HEADS = ("trending", "transitions")
MODELS = {"blend", *HEADS, "popularity", "recent_popularity"}
RANK_METRICS = {"ndcg@10", "hr@10", "recall@10", "precision@10", "mrr@10", "map@10"}
TRACKS = [
    ("loo", "time-blind"),
    ("loo", "time-aware"),
    ("successive", "frozen"),
    ("successive", "live"),
    ("basket", "all"),
    ("basket", "new"),
    ("stream", "live"),
    ("stream", "refit"),
]


def task_of(protocol, track):
    data = shop(n_users=60).data
    events = pl.DataFrame(
        {
            "user_id": data.user_ids[data.user_idx].tolist(),
            "item_id": data.item_ids[data.item_idx].tolist(),
            "timestamp": data.time,
            "basket": [f"b{b}" for b in data.basket],
        }
    )
    return prepare(Tables(events, data.items, data.users), protocol, track)


@pytest.fixture(scope="module")
def results():
    """Each track's result, made when first asked for."""
    made = {}

    def result(protocol, track):
        if (protocol, track) not in made:
            made[protocol, track] = evaluate(task_of(protocol, track), FitConfig(heads=HEADS))
        return made[protocol, track]

    return result


@pytest.mark.parametrize(("protocol", "track"), TRACKS)
def test_every_track_gives_the_promised_json(results, protocol, track):
    result = results(protocol, track)
    assert json.loads(json.dumps(result))["protocol"] == protocol
    assert (result["track"], result["seed"]) == (track, 0)
    for name, kind in (("data_hash", str), ("commit", str), ("machine", str), ("notes", list)):
        assert isinstance(result[name], kind)
    assert len(result["data_hash"]) == 64
    assert min(result["seconds"]["fit"], result["seconds"]["evaluate"]) > 0
    assert result["peak_rss_mib"] > 10
    assert set(result["results"]) == MODELS
    for row in result["results"].values():
        assert set(row) >= RANK_METRICS | {"coverage@10", "novelty@10", "popularity_share@10"}
        assert set(row["ci"]) == RANK_METRICS
        for metric, (low, high) in row["ci"].items():
            assert 0 <= low <= row[metric] <= high <= 1
    for part in result["slices"].values():
        assert set(part) == (MODELS | {"n"} if part["n"] else {"n"})
    assert set(result["paired"]) == MODELS - {"blend"}
    assert set(next(iter(result["weights"].values()))) == set(HEADS)


def slow_rank(scores, target, banned):
    own = scores[target]
    others = [s for i, s in enumerate(scores) if i not in banned and i != target]
    higher = sum(s > own for s in others)
    return 1 + higher + sum(s == own for s in others) / 2


def own_features(names, phi):
    """φ in the columns of items that the user had before: what the request has without `own:`."""
    told = dict(zip(names, phi, strict=True))
    return np.array([told[n.removeprefix("own:")] if n.startswith("own:") else 0.0 for n in names])


@pytest.mark.parametrize(
    ("protocol", "track"), [("loo", "time-blind"), ("successive", "frozen"), ("basket", "new")]
)
def test_ranks_of_the_blend_equal_a_slow_recomputation(protocol, track):
    task = task_of(protocol, track)
    config = FitConfig(heads=HEADS, holdout=task.holdout, repeats=task.repeats)
    config = replace(config, only_new=task.only_new)
    model = fit(task.split.train, config, np.random.default_rng(0))
    fast = np.concatenate(foretell(task, model, np.random.default_rng(0)).rank["blend"])
    cases, slow = task.split.cases, []
    for c, history in enumerate(cases.histories()):
        parts = {
            name: model.calibrations[name](
                head.score([head.start(history)], None, cases.now[c : c + 1]),
                np.array([len(history)]),
            )[0]
            for name, head in model.heads.items()
        }
        phi, own = model.phi([history], cases.now[c : c + 1])[0], np.zeros(cases.data.n_items, bool)
        own[history.item_idx] = True
        w, beside = ((model.strategy.theta @ f) for f in (phi, own_features(model.phi.names, phi)))
        weight = np.where(own, (w + beside)[:, None], w[:, None]).astype(np.float32)
        scores = sum(w * z for w, z in zip(weight, parts.values(), strict=True))
        banned = set() if task.repeats else set(history.item_idx.tolist())
        targets = cases.targets[cases.offsets[c] : cases.offsets[c + 1]]
        slow += [
            np.inf if t in banned else slow_rank(scores.tolist(), t, banned - {t}) for t in targets
        ]
    finite = np.isfinite(fast)
    assert np.array_equal(finite, np.isfinite(slow))
    # scores that differ in their last bit may part a tie: half a place, in few cases
    away = np.abs(fast[finite] - np.array(slow)[finite])
    assert (away > 0).mean() < 0.02
    assert away.max() <= 2


def test_the_mean_of_the_ranks_is_what_the_result_says(results):
    task = task_of("successive", "frozen")
    config = FitConfig(heads=HEADS, holdout="time", repeats=task.repeats)
    rng = np.random.default_rng(0)
    model = fit(task.split.train, config, rng)
    rank = np.concatenate(foretell(task, model, rng).rank["blend"])
    gain = [1 / np.log2(1 + r) if r <= 10 else 0.0 for r in rank]
    row = results("successive", "frozen")["results"]["blend"]
    assert row["ndcg@10"] == pytest.approx(sum(gain) / len(gain), abs=1e-9)
    assert row["hr@10"] == pytest.approx(np.mean(rank <= 10), abs=1e-9)


def test_learning_live_changes_heads_that_count_and_no_baseline(results):
    frozen = results("successive", "frozen")["results"]
    live = results("successive", "live")["results"]
    assert live["trending"]["ndcg@10"] != frozen["trending"]["ndcg@10"]
    assert live["blend"]["ndcg@10"] != frozen["blend"]["ndcg@10"]
    for name in ("popularity", "recent_popularity"):
        assert live[name]["ndcg@10"] == frozen[name]["ndcg@10"]


def slow_baseline(task, events):
    """Mean HR@10 of one popularity list for all, ties as half, from a Counter."""
    counts = Counter(events)
    scores = [counts[i] for i in range(task.split.train.n_items)]
    cases, hits = task.split.cases, []
    for c, history in enumerate(cases.histories()):
        banned = set() if task.repeats else set(history.item_idx.tolist())
        target = int(cases.targets[c])
        hits.append(target not in banned and slow_rank(scores, target, banned) <= 10)
    return float(np.mean(hits))


def test_popularity_counts_the_training_events(results):
    task = task_of("successive", "frozen")
    found = results("successive", "frozen")["results"]["popularity"]["hr@10"]
    assert found == pytest.approx(slow_baseline(task, task.split.train.item_idx.tolist()))


def test_recent_popularity_counts_the_last_thirty_days_of_training(results):
    task = task_of("successive", "frozen")
    train = task.split.train
    recent = [
        int(item)
        for item, time in zip(train.item_idx, train.time, strict=True)
        if time > train.time.max() - 30 * 86_400
    ]
    assert 0 < len(recent) < train.n_events
    found = results("successive", "frozen")["results"]["recent_popularity"]["hr@10"]
    assert found == pytest.approx(slow_baseline(task, recent))


def test_recent_popularity_of_loo_counts_each_users_last_five(results):
    task = task_of("loo", "time-blind")
    train = task.split.train
    recent = [int(i) for u in range(train.n_users) for i in train.history(u).item_idx[-5:]]
    found = results("loo", "time-blind")["results"]["recent_popularity"]["hr@10"]
    assert found == pytest.approx(slow_baseline(task, recent))


def test_the_baselines_of_a_stream_count_what_came_before(monkeypatch):
    monkeypatch.setattr("steerec.engine.foretell.LIVE_BATCH", 1)
    task = task_of("stream", "live")
    task = replace(task, split=replace(task.split, cases=task.split.cases.take(np.arange(150))))
    config = FitConfig(heads=("trending",), holdout="time", repeats=task.repeats)
    model = fit(task.split.train, config, np.random.default_rng(0))
    tally = foretell(task, model, np.random.default_rng(0))
    cases, data = task.split.cases, task.split.cases.data
    for name, span in (("popularity", np.inf), ("recent_popularity", 30 * 86_400)):
        slow = []
        for c, target in enumerate(cases.targets):
            before = (data.time < cases.now[c]) & (data.time >= cases.now[c] - span)
            counts = Counter(data.item_idx[before].tolist())
            scores = [counts[i] for i in range(data.n_items)]
            slow.append(slow_rank(scores, int(target), set()))
        assert np.concatenate(tally.rank[name]).tolist() == slow


def test_a_stream_is_told_by_windows_with_the_cost_of_updates(results, monkeypatch):
    result = results("stream", "live")
    n = result["requests"]
    assert result["updates"]["n"] == n  # one event after each case
    assert 0 < result["updates"]["median_ms"] <= result["updates"]["p99_ms"]
    values = {"blend": {"ndcg@10": np.arange(n, dtype=float), "recall@10": np.ones(n)}}
    monkeypatch.setattr(running, "WINDOW", 100)
    windows = running._windows(values)
    assert [w["n"] for w in windows] == [100] * (n // 100) + [n % 100] * (n % 100 > 0)
    assert windows[1]["blend"]["ndcg@10"] == np.mean(range(100, 200))


def test_a_stream_with_refits_is_fitted_anew_on_what_came_before_by_quarters(results, monkeypatch):
    task, fits = task_of("stream", "refit"), []
    fit_once = running.fit
    monkeypatch.setattr(
        running, "fit", lambda data, *a, **k: fits.append(data) or fit_once(data, *a, **k)
    )
    told = evaluate(task, FitConfig(heads=HEADS))
    assert "refits" not in results("stream", "live")
    rows, cases = told["refits"], task.split.cases
    assert len(rows) >= 3
    order = cases.data.by_time()
    assert [data.n_events for data in fits] == [
        task.split.train.n_events,
        *(r["events"] for r in rows),
    ]
    for data, before, row in zip(fits[1:], fits, rows, strict=False):
        assert 1.25 * before.n_events <= data.n_events < 1.25 * before.n_events + LIVE_BATCH
        first = cases.data.row[cases.stop[row["case"]]]  # of the first case that it foretells
        assert first not in data.row
        assert set(data.row.tolist()) == set(cases.data.row[order[: data.n_events]].tolist())
    assert told["results"]["popularity"] == results("stream", "live")["results"]["popularity"]


def test_no_ablation_of_a_blend_that_is_fitted_anew():
    with pytest.raises(ConfigError, match="ask for track live"):
        evaluate(task_of("stream", "refit"), FitConfig(heads=HEADS), ablation=True)


def test_above_the_pool_limit_the_pooled_figure_stands_beside(results):
    assert "blend_pooled" not in results("loo", "time-blind")["results"]
    small = PoolConfig(full_catalogue=50, pool_limit=60, fresh=5, from_fused=20)
    pooled = evaluate(task_of("loo", "time-blind"), FitConfig(heads=HEADS, pool=small))["results"]
    hit = {name: pooled[name]["hr@10"] for name in ("blend", "blend_pooled")}
    assert 0.8 * hit["blend"] <= hit["blend_pooled"] <= hit["blend"]
    assert "coverage@10" not in pooled["blend_pooled"]


def test_the_same_seed_gives_the_same_figures(results):
    again = evaluate(task_of("basket", "all"), FitConfig(heads=HEADS), seed=0)
    assert again["results"] == results("basket", "all")["results"]
    assert again["data_hash"] == results("basket", "all")["data_hash"]


@pytest.mark.parametrize(("protocol", "track"), TRACKS)
def test_the_chances_of_each_request_come_to_one_and_are_set_against_what_came(
    results, protocol, track
):
    result = results(protocol, track)
    assert set(result["reliability"]) == {"blend", *HEADS}
    for name, of in result["reliability"].items():
        hits = sum(one["hits"] for one in of["bins"])
        assert 0 < hits <= result["requests"] + 1e-6, name
    given = sum(one["given"] for one in result["reliability"]["blend"]["bins"])
    assert given == pytest.approx(result["requests"], rel=1e-4)


def test_without_one_of_two_heads_the_blend_is_that_of_the_other_alone(results):
    result = evaluate(task_of("successive", "frozen"), FitConfig(heads=HEADS), ablation=True)
    assert result["results"] == results("successive", "frozen")["results"]  # nothing else changes
    assert set(result["ablation"]) == set(HEADS)
    assert result["seconds"]["ablation"] > 0
    for name, other in (HEADS, HEADS[::-1]):
        row = result["ablation"][name]
        # its weights for items of one's own are fitted anew, too, if on other candidates
        alone = evaluate(task_of("successive", "frozen"), FitConfig(heads=(other,)))
        alone = alone["results"]["blend"]
        assert row["ndcg@10"] == pytest.approx(alone["ndcg@10"], abs=0.01)
        gone = result["results"]["blend"]["ndcg@10"] - row["ndcg@10"]
        assert row["ndcg@10 lost"]["difference"] == pytest.approx(gone)
        assert row["ndcg@10 lost"]["low"] <= gone <= row["ndcg@10 lost"]["high"]


def test_ablation_is_asked_for_and_needs_two_heads(results):
    assert "ablation" not in results("successive", "frozen")
    one = evaluate(task_of("loo", "time-blind"), FitConfig(heads=HEADS[:1]), ablation=True)
    assert "ablation" not in one


def test_progress_ends_at_the_last_case():
    told = []
    evaluate(
        task_of("loo", "time-blind"),
        FitConfig(heads=("trending",)),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told[-1] == ("foretell", 60, 60)
    assert any(what.startswith("fit trending") for what, _, _ in told)


def test_results_say_where_they_were_made():
    assert "cores, Python 3." in machine()
    assert len(commit().rstrip("+")) in (0, 12)
    assert 10 < peak_rss_mib() < 100_000
