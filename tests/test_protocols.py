import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import steerec.engine.foretell as running
from steerec.data.read import read_tables
from steerec.data.tables import Tables
from steerec.engine.model import FitConfig, fit
from steerec.errors import DataError
from steerec.evaluation.protocols import Task, prepare, recent_counts, usable_protocol
from steerec.heads.trending import Trending, TrendingConfig
from worlds import START, shop

DAY = 86_400.0


def tables(rows, *columns):
    return Tables(pl.DataFrame(rows, schema=list(columns), orient="row"))


def told(task):
    """Each case as (user, history, targets), by name."""
    cases, found = task.split.cases, []
    for c in range(len(cases)):
        history = [cases.data.item_ids[i] for i in cases.history(c).item_idx]
        targets = cases.targets[cases.offsets[c] : cases.offsets[c + 1]]
        user = cases.data.user_ids[cases.user_idx[c]]
        found.append((user, "".join(history), "".join(cases.data.item_ids[targets])))
    return found


# --- loo


def seq_rows():
    """Order by seq is a, b, c for u and d, a for v; the times say the reverse."""
    return tables(
        [
            ("u", "c", 3, 10.0),
            ("u", "b", 2, 20.0),
            ("u", "a", 1, 30.0),
            ("v", "a", 2, 5.0),
            ("v", "d", 1, 6.0),
            ("w", "a", 1, 7.0),
            ("v", "e", None, 8.0),
        ],
        "user_id",
        "item_id",
        "seq",
        "timestamp",
    )


def test_loo_foretells_each_users_last_event_by_seq():
    task = prepare(seq_rows(), "loo")
    assert task.track == "time-blind"
    assert told(task) == [("u", "ab", "c"), ("v", "d", "a")]
    assert task.split.train.n_events == 4  # a and b of u, d of v, and all that w has


def test_a_time_blind_task_holds_no_times_anywhere():
    task = prepare(seq_rows(), "loo", "time-blind")
    cases = task.split.cases
    for times in (task.split.train.time, cases.data.time, cases.now):
        assert np.isnan(times).all()
    assert all(np.isnan(history.time).all() for history in cases.histories())
    frames = (cases.data.items, cases.data.users, task.split.train.items, task.split.train.users)
    assert not any("timestamp" in frame.columns for frame in frames)


def test_a_time_aware_task_knows_the_moment_of_the_request():
    task = prepare(seq_rows(), "loo", "time-aware")
    assert task.split.cases.now.tolist() == [10.0, 5.0]
    assert told(task) == [("u", "ab", "c"), ("v", "d", "a")]


def test_loo_without_seq_drops_rare_items_and_says_official_order():
    rows = [(user, "a", float(at)) for at, user in enumerate("pqrst")]
    rows += [(user, "b", 100.0 - at) for at, user in enumerate("pqrst")]
    rows += [("p", "rare", 500.0)]
    task = prepare(tables(rows, "user_id", "item_id", "timestamp"), "loo")
    assert told(task) == [(user, "a", "b") for user in "pqrst"]
    assert any("official order" in note for note in task.notes)


def test_loo_counts_each_users_last_five_training_events_as_recent():
    rows = [("u", item, at) for at, item in enumerate("aabbbbbc")]  # c is the target
    rows += [("v", item, at) for at, item in enumerate("ad")]
    task = prepare(tables(rows, "user_id", "item_id", "seq"), "loo")
    recent = dict(zip(task.split.train.item_ids, recent_counts(task), strict=True))
    assert recent == {"a": 1, "b": 5, "c": 0, "d": 0}


def test_other_rows_under_a_published_name_are_refused():
    with pytest.raises(DataError, match=r"\(6, 3, 4\), expected \(999611, 6040, 3416\)"):
        prepare(seq_rows(), "loo", name="ml-1m")


# --- successive


def successive_rows():
    """18 users with 5 events each up to time 175, and 10 events from time 1,000 on.

    T lies at place 0.9 · 99 = 89.1 of the sorted times: 175 + 0.1 · 825 = 257.5.
    """
    rows = [
        (f"u{k:02d}", item, 10.0 * k + at)
        for k in range(18)
        for at, item in enumerate("abcde", start=1)
        if (k, item) != (0, "e")  # u00 meets e only later
    ]
    rows += [("u00", "a", 1.5)]  # a repeat in a row
    rows += [("u00", "z", 2.5), ("u00", "b", 2.7)]  # z is rare: b, z, b was no repeat in a row
    rows += [("once", "a", 3.0)]  # a user with one event
    rows += [("new", item, 1000.0 + at) for at, item in enumerate("abcdn")]
    rows += [(f"u{k:02d}", "n", 1010.0 + k) for k in (1, 2, 3, 4)]
    rows += [("u00", "e", 1020.0)]
    return tables(rows, "user_id", "item_id", "timestamp")


def test_successive_keeps_the_targets_counted_by_hand():
    task = prepare(successive_rows(), "successive")
    # new's first event has no past, and n never occurs in training
    assert told(task) == [
        ("new", "a", "b"),
        ("new", "ab", "c"),
        ("new", "abc", "d"),
        ("u00", "abbcd", "e"),
    ]
    assert task.split.cases.now.tolist() == [1001.0, 1002.0, 1003.0, 1020.0]


def test_successive_trains_on_events_up_to_the_quantile_alone():
    task = prepare(successive_rows(), "successive")
    train = task.split.train
    assert (train.n_events, train.time.max()) == (90, 175.0)
    assert "z" not in task.split.cases.data.item_ids  # 5-core
    assert "once" not in task.split.cases.data.user_ids


def test_the_quantile_of_time_is_linear():
    rows = [(user, item, 1.0) for user in "abcde" for item in "pqrst"]
    rows += [("a", "p", 11.0), ("a", "q", 12.0)]  # place 0.9 · 26 = 23.4: T = 1
    task = prepare(tables(rows, "user_id", "item_id", "timestamp"), "successive")
    assert told(task) == [("a", "pqrst", "p"), ("a", "pqrstp", "q")]


def test_frozen_and_live_foretell_the_same_steps():
    frozen, live = (prepare(successive_rows(), "successive", t) for t in ("frozen", "live"))
    assert told(frozen) == told(live)
    assert (frozen.live, live.live) == (False, True)


def test_recent_events_are_those_of_thirty_days_before_the_cut():
    rows = [(user, item, 0.0) for user in "abcde" for item in "pqrst"]
    rows += [("a", "p", 29 * DAY + 1), ("b", "q", 40 * DAY), ("c", "q", 59 * DAY)]
    rows += [("d", "p", 70 * DAY), ("d", "q", 71 * DAY)]  # place 0.9 · 29 = 26.1 of 30
    task = prepare(tables(rows, "user_id", "item_id", "timestamp"), "successive")
    assert task.split.train.time.max() == 40 * DAY
    found = dict(zip(task.split.train.item_ids, recent_counts(task), strict=True))
    assert found == {"p": 1, "q": 1, "r": 0, "s": 0, "t": 0}


# --- basket


def basket_rows():
    """30 early baskets and 4 late: T lies at place 0.9 · 33 = 29.7, before the late ones."""
    rows = []
    for k in range(15):
        user, second = f"u{k:02d}", "ab" if k == 0 else "ac"
        rows += [(user, i, "purchase", 10.0 * k, f"{user}-1") for i in "ab"]
        rows += [(user, i, "purchase", 10.0 * k + 5, f"{user}-2") for i in second]
    rows += [("x", i, "purchase", 1000.0, "x-1") for i in "ab"]
    rows += [("x", i, "purchase", 1001.0, "x-2") for i in "bc"]
    rows += [("u00", i, "purchase", 1005.0, "u00-3") for i in "ccz"]  # c twice, z is rare
    rows += [("u00", "a", "purchase", 1002.0, "u00-3")]  # the earliest row of this basket
    rows += [("u01", "a", "purchase", 1003.0, "u01-3")]
    rows += [("u01", "b", "return", 1004.0, "u01-4"), (None, "a", "purchase", 1006.0, "no-1")]
    return tables(rows, "user_id", "item_id", "event", "timestamp", "basket")


def test_basket_all_counts_every_item_of_a_later_basket():
    task = prepare(basket_rows(), "basket", "all")
    found = {(user, history): set(targets) for user, history, targets in told(task)}
    assert found == {("x", "ab"): set("bc"), ("u00", "abab"): set("ac"), ("u01", "abac"): {"a"}}
    assert task.repeats
    assert any("1 row without a user" in note for note in task.notes)


def test_basket_new_leaves_out_what_was_bought_before():
    task = prepare(basket_rows(), "basket", "new")
    assert told(task) == [("u00", "abab", "c"), ("x", "ab", "c")]
    assert not task.repeats


def test_a_baskets_time_is_that_of_its_earliest_row():
    task = prepare(basket_rows(), "basket", "all")
    users = task.split.cases.data.user_ids[task.split.cases.user_idx]
    now = dict(zip(users, task.split.cases.now, strict=True))
    assert now == {"x": 1001.0, "u00": 1002.0, "u01": 1003.0}
    assert task.split.train.n_events == 60


def test_users_who_share_a_basket_number_have_a_basket_each():
    rows = basket_rows().events.drop_nulls("user_id")
    numbered = rows.with_columns(pl.col("basket").str.split("-").list.last())  # 1, 2, 3 for all
    task = prepare(Tables(numbered), "basket", "all")
    users = task.split.cases.data.user_ids[task.split.cases.user_idx]
    assert sorted(users) == ["u00", "u01", "x"]


# --- stream


def stream_rows():
    """Ten ratings of 5 and two lower ones, in order of time."""
    liked = [("u" if at % 2 else "v", f"i{at}", "rating", 5.0, float(at)) for at in range(10)]
    meh = [("u", "i0", "rating", 4.0, 3.5), ("v", "i1", "rating", 1.0, 0.5)]
    columns = ("user_id", "item_id", "event", "value", "timestamp")
    return tables(meh + liked[::-1], *columns)


def test_a_stream_learns_a_fifth_and_foretells_each_later_positive_event():
    task = prepare(stream_rows(), "stream")
    train = task.split.train
    assert sorted(train.item_ids[train.item_idx]) == ["i0", "i1"]
    assert [case[2] for case in told(task)] == [f"i{at}" for at in range(2, 10)]
    assert told(task)[-1] == ("u", "i1i3i5i7", "i9")
    assert task.live


def test_purchases_are_what_counts_in_a_stream_that_has_any():
    rows = [("u", f"i{at}", "purchase" if at % 2 else "view", float(at)) for at in range(12)]
    task = prepare(tables(rows, "user_id", "item_id", "event", "timestamp"), "stream")
    assert [case[2] for case in told(task)] == ["i3", "i5", "i7", "i9", "i11"]


# --- what every protocol keeps


@pytest.mark.parametrize(
    ("protocol", "track"), [("successive", "frozen"), ("basket", "all"), ("basket", "new")]
)
def test_training_ends_before_the_first_case(protocol, track):
    task = prepare(shop_tables(), protocol, track)
    assert len(task.split.cases) > 20
    assert task.split.train.time.max() < task.split.cases.now.min()


@pytest.mark.parametrize(
    ("protocol", "track"),
    [("loo", "time-aware"), ("successive", "live"), ("basket", "all"), ("stream", "live")],
)
def test_no_history_reaches_past_the_request(protocol, track):
    cases = prepare(shop_tables(), protocol, track).split.cases
    for case, history in enumerate(cases.histories()):
        assert len(history) == 0 or history.time[-1] <= cases.now[case]
        end = cases.stop[case]
        assert cases.data.user_idx[end] == cases.user_idx[case]
        assert cases.data.item_idx[end] in cases.targets[cases.offsets[case] :][:50]


def shop_tables(n_users=40):
    data = shop(n_users=n_users).data
    events = pl.DataFrame(
        {
            "user_id": data.user_ids[data.user_idx].tolist(),
            "item_id": data.item_ids[data.item_idx].tolist(),
            "timestamp": data.time,
            "basket": [f"b{b}" for b in data.basket],
        }
    )
    return Tables(events, data.items, data.users)


class Recorder(Trending):
    """Notes what it is asked and told, in order."""

    log: list = []  # noqa: RUF012 - shared on purpose

    def observe(self, state, event):
        Recorder.log.append(("observe", event.user_idx, int(event.item_idx[0]), event.time[0]))
        super().observe(state, event)

    def score(self, states, items, now):
        Recorder.log += [("score", s.user_idx, len(s), t) for s, t in zip(states, now, strict=True)]
        return super().score(states, items, now)


RecorderConfig = TrendingConfig


def recorded(task: Task, batch, monkeypatch):
    monkeypatch.setattr(running, "LIVE_BATCH", batch)
    config = FitConfig(heads=("test_protocols:Recorder",), holdout=task.holdout)
    model = fit(task.split.train, config, np.random.default_rng(0))
    Recorder.log.clear()
    running.foretell(task, model, np.random.default_rng(0))
    return list(Recorder.log)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("protocol", ["successive", "stream"])
def test_the_live_feed_tells_each_event_once_and_only_after_its_case(protocol, batch, monkeypatch):
    task = prepare(shop_tables(), protocol, "live")
    log = recorded(task, batch, monkeypatch)
    cases, data = task.split.cases, task.split.cases.data
    last = (cases.now[-1], data.row[cases.stop[-1]])
    trained = set(task.split.train.row.tolist())
    due = [
        ("observe", data.user_idx[at], data.item_idx[at], data.time[at])
        for at in data.by_time()
        if data.row[at] not in trained and (data.time[at], data.row[at]) <= last
    ]
    assert [entry for entry in log if entry[0] == "observe"] == due  # once each, in order of time
    scored = set()
    places = {(data.user_idx[s], n) for s, n in zip(cases.stop, cases.lengths(), strict=True)}
    position = {(c[1], c[2], c[3]): n for c, n in zip(due, _lengths(data, due), strict=True)}
    for what, user, number, at in log:
        if what == "score":
            scored.add((user, number))
        elif (user, position[user, number, at]) in places:
            assert (user, position[user, number, at]) in scored


def _lengths(data, due):
    """Number of events that each told event's user had before it."""
    for _, user, item, at in due:
        cut = np.s_[data.starts[user] : data.starts[user + 1]]
        yield int(np.flatnonzero((data.item_idx[cut] == item) & (data.time[cut] == at))[0])


def test_a_frozen_track_tells_the_heads_nothing(monkeypatch):
    log = recorded(prepare(shop_tables(), "successive", "frozen"), 7, monkeypatch)
    assert {entry[0] for entry in log} == {"score"}


# --- what cannot be done


def test_unknown_protocols_and_tracks_are_named():
    with pytest.raises(ValueError, match="protocol 'lto': expected one of loo"):
        prepare(seq_rows(), "lto")
    with pytest.raises(ValueError, match="loo has no track 'live'"):
        prepare(seq_rows(), "loo", "live")


@pytest.mark.parametrize("protocol", ["successive", "basket", "stream"])
def test_protocols_of_time_refuse_a_set_without_times(protocol):
    rows = tables([("u", "a"), ("u", "b")], "user_id", "item_id")
    with pytest.raises(DataError, match="no row has a timestamp: use --protocol loo"):
        prepare(rows, protocol)


def test_basket_refuses_a_set_without_baskets():
    with pytest.raises(DataError, match="no row has a basket"):
        prepare(successive_rows(), "basket")


def test_too_little_data_is_refused_with_the_reason():
    rows = [("u", "a", START), ("v", "b", START + 1)]
    few = tables(rows, "user_id", "item_id", "timestamp")
    with pytest.raises(DataError, match="no user and item have 5 events"):
        prepare(few, "successive")
    with pytest.raises(DataError, match="no item has 5 events"):
        prepare(few, "loo")
    with pytest.raises(DataError, match="only 2 positive events: too few"):
        prepare(few, "stream")


def test_the_protocol_that_fits_follows_the_times():
    assert usable_protocol(seq_rows()) == "loo"  # hardly any different times
    assert usable_protocol(successive_rows()) == "successive"
    assert usable_protocol(tables([("u", "a")], "user_id", "item_id")) == "loo"


# --- real sets


def real(name):
    folder = os.environ.get("STEEREC_DATA_DIR")
    assert folder, "set STEEREC_DATA_DIR to the folder with the sets"
    return read_tables(Path(folder) / name).tables


@pytest.mark.data
def test_ml_1m_has_the_published_rows_in_loo():
    task = prepare(real("ml-1m"), "loo", name="ml-1m")
    data = task.split.cases.data
    assert (data.n_events, data.n_users, data.n_items) == (999_611, 6_040, 3_416)
    assert len(task.split.cases) == 6_040


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol", "track", "n_targets"),
    [
        ("ml-100k", "successive", "frozen", 9_773),
        ("ml-1m", "successive", "frozen", 48_656),
        ("online-retail", "basket", "all", 1_669),
        ("online-retail", "basket", "new", 1_358),
    ],
)
def test_real_sets_have_the_targets_of_the_protocols(name, protocol, track, n_targets):
    task = prepare(real(name), protocol, track, name=name)
    assert len(task.split.cases) == n_targets
    assert task.split.train.time.max() < task.split.cases.now.min()
