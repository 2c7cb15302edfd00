"""Two towers and a judge: what they compute, whom they know, what they do with gaps."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.contracts import About, History
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import Lesson
from steerec.heads.item_attributes import attribute_vectors
from steerec.heads.item_inputs import ItemInputs
from steerec.heads.towers import Shortlist, Towers, fading
from steerec.heads.two_tower import TwoTower, TwoTowerConfig
from worlds import CLUSTERS, hold_out, shop

SMALL = TwoTowerConfig(hidden=32, keep=(0.0, 0.8), learning_rate=5e-3, rerank=12, hard=8)
BRIEF = replace(SMALL, epochs=5, length=20)
SHORT = replace(SMALL, epochs=1, length=8)
RNG = np.random.default_rng


@cache
def world():
    return shop()


@cache
def held_out():
    return hold_out(world().data)


@cache
def fitted(config=BRIEF):
    return TwoTower.fit(held_out().train, config, RNG(0))


def scores(head, histories, items=None):
    states = [head.start(h) for h in histories]
    return head.score(states, items, np.full(len(states), np.nan))


def ndcg(head):
    found = np.nan_to_num(scores(head, held_out().histories), nan=-np.inf)
    own = found[np.arange(len(found)), held_out().target][:, None]
    place = (found > own).sum(axis=1)
    return float(np.where(place < 10, 1 / np.log2(place + 2), 0.0).mean())


def slowly(head, history):
    """The paper's equation in NumPy, one number after the other."""
    net = {k: v.numpy().astype(float) for k, v in head.net.state_dict().items()}
    config, content = head.config, head.content.astype(float)
    seen = np.bincount(held_out().train.item_idx, minlength=head.n_items) > 0

    def mlp(name, x):
        hidden = np.maximum(net[f"{name}.hidden.weight"] @ x + net[f"{name}.hidden.bias"], 0)
        return net[f"{name}.out.weight"] @ hidden + net[f"{name}.out.bias"]

    scale = config.width**0.5
    v, events, bias = [], [], []
    for i in range(head.n_items):
        delta = net["inputs.delta"][i] * seen[i]
        x = net["inputs.to_width.weight"] @ content[i]
        x = x + delta * min(1.0, 4.0 / max(np.linalg.norm(delta), 1e-9))
        v.append(x + mlp("parts.item", x * scale))
        events.append(np.concatenate([x, net["heard.weight"] @ content[i]]) * scale)
        bias.append(net["inputs.bias"][i] if seen[i] else net["inputs.cold_bias"])
    newest = history.item_idx[-config.length :]
    means = []
    for keep in config.keep:
        weight = [keep ** (len(newest) - 1 - t) for t in range(len(newest))]
        total = sum(w * events[i] for w, i in zip(weight, newest, strict=True))
        means.append(total / np.sqrt(sum(w * w for w in weight)))
    told = np.zeros(len(head.segments.names))
    for segment in head.segments.of(world().data.users.row(history.user_idx, named=True)):
        told[segment] = 1
    read = np.concatenate([*means, net["person.weight"] @ (told / np.sqrt(told.sum()))])
    u = net["parts.direct.weight"] @ read + net["parts.direct.bias"] + mlp("parts.user", read)
    u = (u - u.mean()) / np.sqrt(u.var() + 1e-5) * net["norm.weight"] + net["norm.bias"]
    first = np.array([u @ v[i] + bias[i] for i in range(head.n_items)])
    order = np.argsort(-first)
    candidates, cut = order[: config.rerank], first[order[config.rerank - 1]]
    found = {}
    for i in candidates:
        deeper = mlp("judging", np.concatenate([u, v[i], u * v[i]]))[0]
        found[i] = net["steepness"] * (first[i] - cut) + net["level"] + deeper
    lowest = min(found.values())
    return np.array([found.get(i, lowest + first[i] - cut) for i in range(head.n_items)])


def test_the_network_computes_the_equation():
    for history in (held_out().histories[0], held_out().histories[1].last(1)):
        np.testing.assert_allclose(
            scores(fitted(), [history])[0], slowly(fitted(), history), rtol=1e-3, atol=1e-3
        )


def test_means_fade_at_each_pace():
    found = fading(3, (0.0, 0.5, 1.0)).numpy()
    assert found[0].tolist() == np.eye(3).tolist()
    assert found[1][2] == pytest.approx(np.array([0.25, 0.5, 1.0]) / np.sqrt(1.3125))
    assert found[2][1] == pytest.approx(np.array([1.0, 1.0, 0.0]) / np.sqrt(2.0))


@given(
    n=st.integers(1, 30),
    n_candidates=st.integers(1, 30),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_what_is_no_candidate_stands_below_them_in_the_order_of_stage_1(n, n_candidates, seed):
    rng = RNG(seed)
    first = rng.normal(size=n).astype(np.float32)
    chosen = np.sort(np.argsort(-first)[:n_candidates]).astype(np.int32)
    logit = rng.normal(size=len(chosen)).astype(np.float32)
    short = Shortlist(np.zeros(2, np.float32), chosen, logit, float(first[chosen].min()))
    whole = short.scores(first, None)
    others = np.setdiff1d(np.arange(n), chosen)
    np.testing.assert_array_equal(whole[chosen], logit)
    assert (whole[others] <= logit.min()).all()
    np.testing.assert_array_equal(np.argsort(whole[others]), np.argsort(first[others]))
    some = rng.integers(0, n, 7).astype(np.int32)
    np.testing.assert_array_equal(short.scores(first[some], some), whole[some])


def test_a_fresh_judge_keeps_the_order_of_stage_1():
    inputs = ItemInputs(np.eye(4, dtype=np.float32), np.ones(4, np.float32), 8, id_dropout=0.1)
    net = Towers(inputs, 0, TwoTowerConfig(width=8, hidden=4)).eval()
    over = torch.tensor([[0.0, 3.0, 1.0]])
    with torch.no_grad():
        found = net.judge(torch.randn(1, 8), torch.randn(1, 3, 8), over)
    torch.testing.assert_close(found, over - 5.0)


def test_the_judge_learns_to_foretell_and_its_probabilities_lie_between_0_and_1():
    head = fitted()
    states = [head.start(h) for h in held_out().histories]
    found = head.probability(states, None, np.full(len(states), np.nan))
    assert ((found > 0) & (found < 1)).all()
    own = found[np.arange(len(found)), held_out().target]
    assert own.mean() > 3 * found.mean()
    # Of the candidates one comes, or none: their chances add up to about that.
    assert 0.3 < np.sort(found, axis=1)[:, -head.config.rerank :].sum(axis=1).mean() < 3


def test_with_no_events_it_reads_the_person_and_without_one_it_knows_nothing():
    head, people = fitted(), world().data.users["town"].to_list()
    tea, ink = people.index("tea"), people.index("ink")
    nobody, one, other = scores(head, [History.of([], user_idx=u) for u in (-1, tea, ink)])
    assert np.isnan(nobody).all()
    cluster = world().cluster
    assert one[cluster == 0].mean() > one[cluster == 2].mean()
    assert other[cluster == 2].mean() > other[cluster == 0].mean()


def test_what_a_stranger_tells_counts_as_a_row_of_the_table_would():
    row = world().data.users.row(4, named=True)
    told = {"town": row["town"], "age": row["age"]}
    about = About((), np.empty(0, np.float32), np.empty((0, 0), np.float32), told)
    stranger = replace(History.of([]), about=about)
    a, b = scores(fitted(), [stranger, History.of([], user_idx=4)])
    np.testing.assert_array_equal(a, b)


def test_without_a_users_table_the_history_alone_is_read():
    data = held_out().train
    head = TwoTower.fit(replace(data, users=data.users.select("user_id")), SHORT, RNG(0))
    empty, some = scores(head, [History.of([], user_idx=4), held_out().histories[4]])
    assert np.isnan(empty).all()
    assert np.isfinite(some).all()


def test_items_never_seen_are_placed_by_text_or_attributes_and_else_unknown():
    data, never = held_out().train, world().never_sold
    history = held_out().histories[0]
    found = scores(fitted(), [history], never)[0]
    assert found.argmax() == 0  # of the clusters' last items the favourite cluster's
    vectors = data.vectors.copy()
    vectors[never] = 0
    named = TwoTower.fit(data.with_vectors(vectors), SHORT, RNG(0))
    assert np.isfinite(scores(named, [history], never)).all()
    gaps = pl.when(pl.int_range(pl.len()).is_in(never.tolist())).then(None)
    items = data.items.with_columns(gaps.otherwise(pl.col("categories")).alias("categories"))
    neither = TwoTower.fit(replace(data.with_vectors(vectors), items=items), SHORT, RNG(0))
    found = scores(neither, [history])[0]
    assert np.isnan(found[never]).all()
    assert np.isfinite(np.delete(found, never)).all()


def test_it_fits_where_texts_are_alike_and_half_of_the_attributes_are_missing():
    data = held_out().train
    half = pl.when(pl.int_range(pl.len()) % 2 == 0)
    items = data.items.with_columns(
        half.then(pl.col("categories")).alias("categories"),
        half.then(None).otherwise(pl.int_range(pl.len()) * 1.5).alias("price"),
    )
    alike = replace(data.with_vectors(np.ones_like(data.vectors)), items=items)
    head = TwoTower.fit(alike, SHORT, RNG(0))
    assert head.content.shape[1] == len(CLUSTERS) // 2 + 2
    assert np.isfinite(scores(head, held_out().histories[:3])).any()


def test_attributes_become_names_of_length_1_and_scaled_numbers_with_a_flag():
    items = pl.DataFrame(
        {
            "categories": [["a", "b"]] * 5 + [["a"]] * 4 + [None] + [["c"]],
            "price": [10.0, 20.0, 30.0, 40.0, 50.0, 1e9, None, 30.0, 30.0, None, 30.0],
            "year": [1999] * 11,
        }
    )
    found = attribute_vectors(items, ("categories", "brand", "price", "year"))
    # 9 items bear a, 5 bear b; c stands once; the year never varies; quartiles of price 30, 30, 40.
    assert found.shape == (11, 4)
    assert found[0] == pytest.approx([0.5**0.5, 0.5**0.5, -2 / 3, 0], abs=1e-6)
    assert found[5] == pytest.approx([1, 0, 1, 0])
    assert found[6] == pytest.approx([1, 0, 0, 1])
    assert found[9] == pytest.approx([0, 0, 0, 0])
    assert attribute_vectors(items, ()).shape == (11, 0)


def test_in_batch_negatives_teach_as_well_as_the_whole_catalogue():
    sampled = fitted(replace(BRIEF, full_softmax=0, negatives=48))
    assert ndcg(sampled) > 0.2
    assert ndcg(fitted()) > 0.2


def test_it_goes_on_from_an_earlier_head():
    data, rows = held_out().train, np.arange(world().data.n_items, dtype=np.int32)
    short = replace(BRIEF, epochs=1, learning_rate=1e-6)
    on = TwoTower.fit(data, short, RNG(1), Lesson(previous=fitted(), rows=rows))
    cold = TwoTower.fit(data, short, RNG(1))
    assert on.curve[0]["validation"] > cold.curve[0]["validation"] + 0.05
    towns = replace(short, people=("town",))
    other = TwoTower.fit(data, towns, RNG(1), Lesson(previous=fitted(), rows=rows))
    assert other.net.person.weight.shape == (short.width, len(CLUSTERS))


def test_a_dislike_takes_from_what_is_like_it():
    head, history = fitted(), held_out().histories[1]
    item = int(history.item_idx[0])
    before, after = scores(head, [history, history.append(item, weight=-1.0)])
    assert after[item] == pytest.approx(before[item] - 4.0, abs=1e-3)
    assert (after - before).max() <= 1e-6


def test_bad_data_and_settings_are_named():
    data = held_out().train
    few = data.take(np.arange(data.n_events) < 5)
    with pytest.raises(DataError, match="two_tower: 4 steps from one event to a next one"):
        TwoTower.fit(few, SHORT, RNG(0))
    with pytest.raises(DataError, match=r"users have no column \['job'\]"):
        TwoTower.fit(data, replace(SHORT, people=("job",)), RNG(0))
    for wrong in ({"width": 0}, {"keep": ()}, {"keep": (1.5,)}, {"user_dropout": 0.5}):
        with pytest.raises(ConfigError, match="two_tower"):
            TwoTowerConfig(**wrong)
    with pytest.raises(ConfigError, match="dislike"):
        TwoTowerConfig(dislike=-1.0)
