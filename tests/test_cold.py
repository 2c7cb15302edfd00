"""Items never seen in training: the protocol that hides them, and the figures it gives."""

import hashlib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from steerec.data.split import leave_last_out, withhold
from steerec.data.tables import Tables
from steerec.engine.blend import BlendConfig, Candidates, fit_theta, of_seen, with_unseen
from steerec.engine.evaluate import evaluate
from steerec.engine.foretell import WARM_ONLY
from steerec.engine.lessons import Aids
from steerec.engine.model import FitConfig, fit
from steerec.errors import DataError
from steerec.evaluation.protocols import cold_items, prepare
from worlds import shop


def is_cold(item_id):
    return int(hashlib.sha256(item_id.encode()).hexdigest(), 16) % 10 == 0


COLD = [f"i{n}" for n in range(200) if is_cold(f"i{n}")]
WARM = [f"i{n}" for n in range(200) if not is_cold(f"i{n}")]


def rows(*users):
    """Each user's items, oldest first."""
    events = [
        (f"u{u}", item, place) for u, items in enumerate(users) for place, item in enumerate(items)
    ]
    return Tables(pl.DataFrame(events, schema=["user_id", "item_id", "seq"], orient="row"))


def names(data, items):
    return [str(data.item_ids[i]) for i in items]


def test_the_cold_items_are_those_whose_hash_ends_in_0():
    assert cold_items(["i1", "i16", *COLD]).tolist() == [is_cold("i1"), is_cold("i16")] + [
        True
    ] * len(COLD)


def test_events_of_cold_items_leave_training_and_histories_but_stay_targets():
    c, d = COLD[:2]
    a, b, e = WARM[:3]
    task = prepare(rows([a, c, b, d], [d, a, e], [b, c, a]), "cold")
    data, cases = task.split.cases.data, task.split.cases
    assert [names(data, h.item_idx) for h in cases.histories()] == [[a, b], [a], [b]]
    assert names(data, cases.targets) == [d, e, a]
    train = task.split.train
    assert [names(train, train.history(u).item_idx) for u in range(3)] == [[a, b], [a], [b]]
    assert names(data, np.flatnonzero(task.cold)) == sorted([c, d])
    assert task.notes[-1] == "2 cold items, 1 of 3 targets are cold"


def test_a_user_who_only_had_cold_items_has_no_history_left():
    task = prepare(rows([COLD[0], WARM[0]], [WARM[0], WARM[1], COLD[0]]), "cold")
    assert task.split.cases.lengths().tolist() == [0, 2]


@pytest.mark.parametrize("last", [COLD[0], WARM[0]])
def test_targets_of_one_kind_only_are_refused(last):
    with pytest.raises(DataError, match="expected both cold and warm"):
        prepare(rows([WARM[1], last], [WARM[2], last]), "cold")


@pytest.fixture(scope="module")
def task():
    data = shop(n_users=150, n_items=120).data
    events = pl.DataFrame(
        {
            "user_id": data.user_ids[data.user_idx].tolist(),
            "item_id": data.item_ids[data.item_idx].tolist(),
            "timestamp": data.time,
        }
    )
    made = prepare(Tables(events, data.items, data.users), "cold")
    vectors = data.vectors[[data.item_index[i] for i in made.split.train.item_ids]]
    cases = replace(made.split.cases, data=made.split.cases.data.with_vectors(vectors))
    split = replace(made.split, train=made.split.train.with_vectors(vectors), cases=cases)
    return replace(made, split=split)


@pytest.fixture(scope="module")
def result(task):
    return evaluate(task, FitConfig(heads=("trending", "transitions", "content")))


def test_cold_and_warm_targets_are_measured_apart_with_intervals(task, result):
    n_cold = int(task.cold[task.split.cases.targets].sum())
    parts = [result["slices"][name] for name in ("cold_among_all", "cold_among_cold", "warm")]
    assert [part["n"] for part in parts] == [n_cold, n_cold, result["requests"] - n_cold]
    for part in parts:
        for model in set(part) - {"n"}:
            low, high = part[model]["ci"]["ndcg@10"]
            assert low <= part[model]["ndcg@10"] <= high
    whole = result["results"]["blend"]["ndcg@10"] * result["requests"]
    apart = sum(part["n"] * part["blend"]["ndcg@10"] for part in (parts[0], parts[2]))
    assert apart == pytest.approx(whole)


def test_a_cold_target_is_easier_to_find_among_the_cold_items_alone(result):
    slices = result["slices"]
    for model in ("blend", "content"):
        among_all, among_cold = slices["cold_among_all"][model], slices["cold_among_cold"][model]
        assert among_cold["ndcg@10"] >= among_all["ndcg@10"]


def test_the_warm_loss_is_the_share_that_warm_targets_lose_to_cold_items(result):
    warm, loss = result["slices"]["warm"], result["warm_loss"]
    expected = 1 - warm["blend"]["ndcg@10"] / warm[WARM_ONLY]["ndcg@10"]
    assert loss["difference"] == pytest.approx(expected)
    assert 0 <= loss["difference"] <= loss["high"]
    assert WARM_ONLY not in result["slices"]["cold_among_all"]


# --- the blend


def test_events_withheld_leave_histories_at_their_length_without_them():
    split = leave_last_out(shop(n_users=20).data)
    gone = np.zeros(split.train.n_items, bool)
    gone[::3] = True
    less = withhold(split, gone)
    assert less.cases.targets.tolist() == split.cases.targets.tolist()
    for before, after in zip(split.cases.histories(), less.cases.histories(), strict=True):
        assert after.item_idx.tolist() == [i for i in before.item_idx if not gone[i]]
    assert not gone[less.train.item_idx].any()


def drawn_cases(n_cases=3_000, n_items=30, *, more=0.9, nats=-0.7):
    """Targets drawn from the softmax; of the unseen items only head 1 speaks, and it says more."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(n_cases, n_items, 2)).astype(np.float32)
    unseen = rng.random((n_cases, n_items)) < 0.2
    z[unseen, 0] = 0.0
    scores = z @ np.array([1.0, 0.3]) + unseen * (more * z[:, :, 1] + nats)
    scores += rng.gumbel(size=scores.shape)
    target = np.zeros((n_cases, n_items), np.float32)
    target[np.arange(n_cases), scores.argmax(axis=1)] = 1.0
    flat = np.zeros((n_cases, n_items), np.float32)
    phi = np.stack([np.ones(n_cases), np.zeros(n_cases)], axis=1)
    return Candidates(z, flat, target, unseen, phi)


def test_weights_and_nats_of_unseen_items_are_recovered_and_the_rest_stays():
    config = BlendConfig(l2=0.5, l2_bias=0.5, unseen_loss=1.0)
    cases = drawn_cases()
    theta = fit_theta(of_seen(cases), config)
    np.testing.assert_allclose(theta[:, 0], [1.0, 0.3], atol=0.06)
    fitted, nats = with_unseen(theta, 1, cases, config)
    assert fitted[:, 0].tolist() == theta[:, 0].tolist()
    assert fitted[0, 1] == 0.0  # head 0 says nothing of them
    assert fitted[1, 1] == pytest.approx(0.9, abs=0.15)
    assert nats == pytest.approx(-0.7, abs=0.15)


def test_known_items_lose_no_more_than_they_may():
    config, cases = BlendConfig(unseen_loss=1.0), drawn_cases()
    theta = fit_theta(of_seen(cases), config)
    free, nats = with_unseen(theta, 1, cases, config)
    fitted, lower = with_unseen(theta, 1, cases, replace(config, unseen_loss=0.03))
    assert fitted.tolist() == free.tolist()
    assert lower < nats
    assert lost_by_known(cases, free, nats) > 0.05
    assert lost_by_known(cases, fitted, lower) == pytest.approx(0.03, abs=1e-3)


def test_known_items_lose_no_more_to_as_many_new_ones_as_there_are():
    config, cases = BlendConfig(unseen_loss=0.03), drawn_cases()
    theta = fit_theta(of_seen(cases), config)
    few, higher = with_unseen(theta, 1, cases, config)
    fitted, lower = with_unseen(theta, 1, cases, config, crowd=4.0)
    assert fitted.tolist() == few.tolist()
    assert lost_by_known(cases, few, higher, crowd=4) > 0.06
    assert lost_by_known(cases, fitted, lower, crowd=4) == pytest.approx(0.03, abs=1e-3)


def test_the_fit_knows_how_many_new_items_one_that_was_withheld_stands_for(task):
    train, kept = task.split.train, []
    half = train.take(train.item_idx % 2 == 0)
    config = FitConfig(heads=("transitions", "content"))
    aids = Aids(learnt_from=kept.append)
    model = fit(half, config, np.random.default_rng(0), aids=aids)
    sold, new = np.count_nonzero(~model.unseen), np.count_nonzero(model.unseen)
    assert kept[0].crowd > 3.0
    assert 1 <= round(new / kept[0].crowd, 6) < 0.3 * sold  # how many were withheld


def lost_by_known(cases, theta, nats, crowd=1):
    """Share of the NDCG@10 of known targets that goes when items never seen are shown.

    Each of these stands for `crowd` such items.
    """
    more = theta[:, 1] * cases.unseen[:, :, None]
    scores = (cases.z * (theta[:, 0] + more)).sum(axis=2) + nats * cases.unseen
    known = np.flatnonzero((cases.target * ~cases.unseen).any(axis=1))

    def found(shown):
        values = []
        for case in known:
            above = scores[case] > scores[case, cases.target[case].argmax()]
            many = np.where(cases.unseen[case], crowd, 1)
            place = 1 + (many * (above & shown[case])).sum()
            values.append(1 / np.log2(1 + place) if place <= 10 else 0.0)
        return np.mean(values)

    return 1 - found(np.ones_like(cases.unseen)) / found(~cases.unseen)


def test_without_unseen_targets_nothing_is_added():
    cases = drawn_cases(50)
    cases = replace(cases, unseen=np.zeros_like(cases.unseen))
    theta = np.ones((2, 2))
    fitted, nats = with_unseen(theta, 1, cases, BlendConfig())
    assert (fitted is theta, nats) == (True, 0.0)


def test_items_are_withheld_only_where_the_catalogue_has_some_without_events(task):
    heads = ("transitions", "content")
    whole = task.split.train.compact()
    assert fit(whole, FitConfig(heads=heads), np.random.default_rng(0)).for_unseen[1] == 0.0
    model = fit(task.split.train, FitConfig(heads=heads), np.random.default_rng(0))
    more, nats = model.for_unseen
    assert (more[0], nats != 0.0) == (0.0, True)
    assert model.unseen.tolist() == task.cold.tolist()


def test_the_blend_finds_cold_items_nearly_as_well_as_content_does(result):
    found = result["slices"]["cold_among_all"]
    assert found["content"]["ndcg@10"] > 0.02
    assert found["blend"]["ndcg@10"] > 0.5 * found["content"]["ndcg@10"]
    assert result["warm_loss"]["difference"] < 0.1


# --- the page of the benchmark


def test_the_results_page_tells_cold_and_warm_apart(result, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks" / "quality"))
    goal = {"cold_among_all": 0.0, "cold_among_cold": 0.0, "warm_loss": 1.0}
    lines = list(import_module("results").cold_lines(result, {"goal": goal}))
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(row) for row in table} == {7}
    cells = next(row for row in table if row[0].strip() == "**blend**")
    parts = ("cold_among_all", "cold_among_cold", "warm")
    shown = [float(cell.split()[0]) for cell in cells[1::2]]
    expected = [result["slices"][part]["blend"]["ndcg@10"] for part in parts]
    assert shown == pytest.approx(expected, abs=5e-5)
    only_warm = next(row for row in table if "never ranked" in row[0])
    assert [cell.strip() for cell in only_warm[1:5]] == ["–"] * 4
    assert lines[-2].endswith("reached.")
    goal["cold_among_all"] = 1.0
    assert list(import_module("results").cold_lines(result, {"goal": goal}))[-2].endswith(
        "not reached."
    )
