import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steerec.data.dataset import build_dataset
from steerec.data.split import (
    basket_core,
    blind,
    k_core,
    leave_last_out,
    one_event_a_basket,
    split_baskets,
    split_by_time,
    without_repeats_in_a_row,
)
from steerec.errors import DataError

event = st.tuples(
    st.integers(0, 4), st.integers(0, 5), st.integers(0, 12), st.integers(0, 2)
)  # user, item, time, basket of the user
many = settings(max_examples=40, deadline=None)


@st.composite
def datasets(draw, least=2):
    rows = draw(st.lists(event, min_size=least, max_size=40))
    user, item, time, basket = zip(*rows, strict=True)
    return build_dataset(
        pl.DataFrame(
            {
                "user_id": [f"u{u}" for u in user],
                "item_id": [f"i{i}" for i in item],
                "timestamp": [float(t) for t in time],
                "basket": [f"{u}-{b}" for u, b in zip(user, basket, strict=True)],
            }
        )
    )


def rows_of(data):
    """Each user's events in order, as plain tuples."""
    return list(zip(data.user_idx.tolist(), data.item_idx.tolist(), data.row.tolist(), strict=True))


def slow_core(rows, k):
    """Drop one user or item at a time until none has fewer than k rows."""
    while True:
        users, items = [r[0] for r in rows], [r[1] for r in rows]
        bad = next((r for r in rows if users.count(r[0]) < k or items.count(r[1]) < k), None)
        if bad is None:
            return rows
        rows = [r for r in rows if r != bad]


@many
@given(datasets(), st.integers(1, 4))
def test_the_core_is_what_dropping_row_by_row_leaves(data, k):
    assert rows_of(k_core(data, k)) == slow_core(rows_of(data), k)


@many
@given(datasets())
def test_no_user_has_the_same_item_twice_in_a_row(data):
    expected, before = [], None
    for row in rows_of(data):
        if row[:2] != before:
            expected.append(row)
        before = row[:2]
    assert rows_of(without_repeats_in_a_row(data)) == expected


@many
@given(datasets())
def test_blind_data_keep_everything_but_the_times(data):
    hidden = blind(data)
    assert rows_of(hidden) == rows_of(data)
    assert np.isnan(hidden.time).all()
    assert not np.isnan(data.time).any()


@many
@given(datasets())
def test_leave_last_out_sets_one_event_of_each_user_with_two_aside(data):
    users = [u for u, _, _ in rows_of(data)]
    several = sorted({u for u in users if users.count(u) >= 2})
    if not several:
        with pytest.raises(DataError, match="no user has two events"):
            leave_last_out(data)
        return
    split = leave_last_out(data)
    assert split.cases.user_idx.tolist() == several
    for case, user in enumerate(several):
        own = data.history(user)
        assert split.cases.history(case).item_idx.tolist() == own.item_idx[:-1].tolist()
        assert split.cases.targets[case] == own.item_idx[-1]
    assert split.train.n_events + len(split.cases) == data.n_events


@many
@given(datasets(), st.sampled_from([0.3, 0.5, 0.9]))
def test_a_split_by_time_never_looks_ahead(data, quantile):
    cut = np.quantile(data.time, quantile)
    try:
        split = split_by_time(data, quantile)
    except DataError:
        assume(False)
    assert split.train.time.max() <= cut < split.cases.now.min()
    known = set(split.train.item_idx.tolist())
    expected = [
        at
        for at in range(data.n_events)
        if data.time[at] > cut
        and int(data.item_idx[at]) in known
        and at > data.starts[data.user_idx[at]]
    ]
    assert split.cases.stop.tolist() == expected
    for case, history in enumerate(split.cases.histories()):
        assert (history.time <= split.cases.now[case]).all()
        assert history.user_idx == split.cases.user_idx[case]


@many
@given(datasets())
def test_a_basket_holds_an_item_once_and_its_events_lie_together(data):
    single = one_event_a_basket(data)
    keys = list(zip(single.user_idx, single.basket, single.item_idx, strict=True))
    assert set(keys) == set(zip(data.user_idx, data.basket, data.item_idx, strict=True))
    assert len(keys) == len(set(keys))
    pairs = [key[:2] for key in keys]
    assert pairs == sorted(pairs)
    rows = {}
    for key, row in zip(
        zip(data.user_idx, data.basket, data.item_idx, strict=True), data.row, strict=True
    ):
        rows[key] = min(row, rows.get(key, row))
    assert single.row.tolist() == [rows[key] for key in keys]  # the first in the source


def slow_baskets(data, quantile, *, only_new):
    """Training rows, and (user, targets, history, time) of each case, the obvious way."""
    baskets = {}
    for at in range(data.n_events):
        key = (int(data.user_idx[at]), int(data.basket[at]))
        baskets.setdefault(key, []).append(at)
    times = {key: min(data.time[at] for at in ats) for key, ats in baskets.items()}
    cut = np.quantile(list(times.values()), quantile)
    train = [at for key, ats in baskets.items() if times[key] <= cut for at in ats]
    known = {int(data.item_idx[at]) for at in train}
    cases = []
    for (user, number), ats in baskets.items():
        before = [
            int(data.item_idx[at])
            for (u, n), earlier in baskets.items()
            for at in earlier
            if u == user and n < number
        ]
        items = [int(data.item_idx[at]) for at in ats]
        wanted = [i for i in items if i in known and not (only_new and i in before)]
        if times[user, number] > cut and before and wanted:
            cases.append((user, wanted, before, times[user, number]))
    return sorted(train), cases


@many
@given(datasets(least=6), st.booleans())
def test_baskets_split_as_the_obvious_way_does(data, only_new):
    data = one_event_a_basket(data)
    train, expected = slow_baskets(data, 0.6, only_new=only_new)
    if not expected:
        with pytest.raises(DataError, match="no later basket"):
            split_baskets(data, 0.6, only_new=only_new)
        return
    split = split_baskets(data, 0.6, only_new=only_new)
    cases = split.cases
    found = [
        (
            int(cases.user_idx[c]),
            cases.targets[cases.offsets[c] : cases.offsets[c + 1]].tolist(),
            cases.history(c).item_idx.tolist(),
            float(cases.now[c]),
        )
        for c in range(len(cases))
    ]
    assert found == expected
    assert split.train.row.tolist() == data.row[train].tolist()


@many
@given(datasets(), st.integers(1, 3), st.integers(1, 3))
def test_the_basket_core_leaves_enough_baskets_of_everything(data, item_baskets, user_baskets):
    data = one_event_a_basket(data)
    core = basket_core(data, item_baskets=item_baskets, user_baskets=user_baskets)
    pairs = set(zip(core.user_idx.tolist(), core.basket.tolist(), strict=True))
    for user in set(core.user_idx.tolist()):
        assert sum(u == user for u, _ in pairs) >= user_baskets
    assert (np.bincount(core.item_idx)[core.item_idx] >= item_baskets).all()
    again = basket_core(core, item_baskets=item_baskets, user_baskets=user_baskets)
    assert rows_of(again) == rows_of(core)


def test_the_basket_core_is_the_largest():
    """u's two baskets and v's two: nothing to drop at 2 and 2, all of it at 3 baskets a user."""
    rows = [(u, i, t) for u in "uv" for t in (1.0, 2.0) for i in "ab"]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    data = build_dataset(
        events.with_columns(pl.format("{}-{}", "user_id", "timestamp").alias("basket"))
    )
    data = one_event_a_basket(data)
    assert basket_core(data, item_baskets=4, user_baskets=2).n_events == 8
    assert basket_core(data, item_baskets=5, user_baskets=2).n_events == 0
    assert basket_core(data, item_baskets=4, user_baskets=3).n_events == 0


@many
@given(datasets(), st.data())
def test_chosen_cases_keep_their_targets_and_histories(data, chooser):
    data = one_event_a_basket(data)
    try:
        cases = split_baskets(data, 0.5).cases
    except DataError:
        assume(False)
    picked = chooser.draw(st.lists(st.integers(0, len(cases) - 1), unique=True, min_size=1))
    taken = cases.take(np.array(picked, np.int64))
    assert len(taken) == len(picked)
    for new, old in enumerate(picked):
        mine = taken.targets[taken.offsets[new] : taken.offsets[new + 1]].tolist()
        assert mine == cases.targets[cases.offsets[old] : cases.offsets[old + 1]].tolist()
        assert taken.history(new).item_idx.tolist() == cases.history(old).item_idx.tolist()
        assert taken.lengths()[new] == len(cases.history(old))


@many
@given(datasets(least=6), st.integers(0, 3))
def test_cases_ask_for_some_of_their_targets(data, which):
    try:
        cases = split_baskets(one_event_a_basket(data), 0.5).cases
    except DataError:
        assume(False)
    wanted = np.arange(data.n_items) % 4 != which
    asked = cases.asking_for(wanted)
    assert len(asked) == len(cases)
    for c in range(len(cases)):
        before = cases.targets[cases.offsets[c] : cases.offsets[c + 1]]
        after = asked.targets[asked.offsets[c] : asked.offsets[c + 1]]
        assert after.tolist() == [i for i in before.tolist() if wanted[i]]


def test_a_basket_that_names_a_thing_twice_asks_for_it_once():
    rows = [("u", "a", 1.0, "p"), ("u", "b", 1.0, "p"), ("u", "b", 9.0, "q"), ("u", "b", 9.0, "q")]
    columns = ["user_id", "item_id", "timestamp", "basket"]
    cases = split_baskets(
        build_dataset(pl.DataFrame(rows, schema=columns, orient="row")), 0.5
    ).cases
    assert cases.targets.tolist() == [1]


def test_a_split_by_time_without_times_is_refused():
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]})
    with pytest.raises(DataError, match="needs a time for every event"):
        split_by_time(build_dataset(events), 0.9)


def test_all_events_at_one_time_cannot_be_split_by_it():
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [5.0, 5.0]})
    with pytest.raises(DataError, match="all may lie at one time"):
        split_by_time(build_dataset(events), 0.9)


def test_events_without_a_basket_are_refused():
    events = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [5.0, 6.0]})
    with pytest.raises(DataError, match="needs a basket"):
        one_event_a_basket(build_dataset(events))


def test_users_who_share_a_basket_number_have_one_each():
    """u's last basket and v's first carry the same number, and lie side by side."""
    rows = [("u", "a", 1.0, "p"), ("u", "b", 5.0, "s"), ("v", "b", 5.0, "s"), ("v", "a", 9.0, "q")]
    columns = ["user_id", "item_id", "timestamp", "basket"]
    data = one_event_a_basket(build_dataset(pl.DataFrame(rows, schema=columns, orient="row")))
    assert basket_core(data, item_baskets=1, user_baskets=2).n_events == 4
    cases = split_baskets(data, 0.7).cases  # T = 5.4
    assert cases.user_idx.tolist() == [1]
    assert cases.history(0).item_idx.tolist() == [1]
    assert cases.targets.tolist() == [0]
