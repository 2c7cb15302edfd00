"""Each cleaning rule for events, and the promise that no row is lost."""

import dataclasses
import json
import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerec.data.clean import clean
from steerec.data.rules import CleanConfig
from steerec.data.tables import Tables
from steerec.errors import ConfigError, DataError

NOW = 1_700_000_000.0
T = 1_600_000_000.0
SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "event": pl.String,
    "value": pl.Float64,
    "timestamp": pl.Float64,
    "basket": pl.String,
}
RULES = [f.name for f in dataclasses.fields(CleanConfig) if f.type == "bool" or f.type is bool]
OFF = dict.fromkeys(RULES, False)


def events(*rows):
    """Rows of user, item, time and optionally value, kind, basket."""
    full = []
    for user, item, time, *rest in rows:
        value, kind, basket = (*rest, *(None, "view", None)[len(rest) :])
        full.append((user, item, kind, value, time, basket))
    return pl.DataFrame(full, schema=SCHEMA, orient="row")


def run(frame, *only, **thresholds):
    config = CleanConfig(**{**OFF, **dict.fromkeys(only, True)}, **thresholds)
    return clean(Tables(frame), config, now=NOW)


def count(cleaned, rule, table="events"):
    return next(r for r in cleaned.report.rules if r.rule == rule and r.table == table)


def test_rows_without_a_user_or_item_go_to_quarantine():
    done = run(events(("u", "i", T), (None, "i", T), ("  ", "i", T), ("u", None, T)), "missing_ids")
    assert done.tables.events["user_id"].to_list() == ["u"]
    assert done.quarantine.select("row", "rule", "reason").rows() == [
        (1, "missing_ids", "no user_id"),
        (2, "missing_ids", "no user_id"),
        (3, "missing_ids", "no item_id"),
    ]


def test_spaces_around_ids_are_stripped_and_counted():
    done = run(events((" u ", "i", T), ("u", "a b", T)), "missing_ids")
    assert done.tables.events.select("user_id", "item_id").rows() == [("u", "i"), ("u", "a b")]
    assert count(done, "missing_ids").repaired == 1


def test_ids_over_512_characters_are_rejected():
    done = run(events(("u" * 512, "i", T), ("u", "物" * 513, T)), "long_ids")
    assert len(done.tables.events) == 1
    assert done.quarantine["reason"].item() == "item_id has 513 characters, at most 512 allowed"


def test_nan_and_infinite_numbers_are_rejected_and_unknown_ones_stay():
    frame = events(("u", "i", T, math.nan), ("u", "j", math.inf), ("u", "k", None, None))
    done = run(frame, "not_finite")
    assert done.tables.events["item_id"].to_list() == ["k"]
    assert done.quarantine["reason"].to_list() == [
        "value is not a finite number",
        "timestamp is not a finite number",
    ]


def test_times_in_other_units_become_seconds_row_by_row():
    frame = events(("u", "a", T), ("u", "b", T * 1e3), ("u", "c", T * 1e6), ("u", "d", T * 1e9))
    done = run(frame, "time_units", "impossible_times")
    assert done.tables.events["timestamp"].to_list() == [T, T, T, T]
    assert count(done, "time_units").repaired == 3
    assert done.quarantine.is_empty()


def test_impossible_times_are_rejected_with_their_reason():
    day = 86_400.0
    frame = events(
        ("u", "zero", 0.0),
        ("u", "negative", -5.0),
        ("u", "old", 600_000_000.0),
        ("u", "ahead", NOW + day - 1),
        ("u", "future", NOW + day + 1),
        ("u", "nonsense", 5e9),
        ("u", "unknown", None),
    )
    done = run(frame, "time_units", "impossible_times")
    assert done.tables.events["item_id"].to_list() == ["ahead", "unknown"]
    assert done.quarantine["reason"].to_list() == [
        "time is zero or negative",
        "time is zero or negative",
        "time lies before 1990",
        "time lies in the future",
        "time lies in the future",
    ]


def test_exact_duplicates_leave_the_first_row():
    frame = events(("u", "i", T, 1.0), ("u", "i", T, 1.0), ("u", "i", T, 2.0), ("u", "i", T, 1.0))
    frame = frame.with_columns(row=pl.Series([10, 11, 12, 13]))
    done = run(frame, "exact_duplicates")
    assert done.tables.events["row"].to_list() == [10, 12]
    assert done.quarantine["row"].to_list() == [1, 3]


def test_rows_that_differ_only_in_seq_or_a_list_are_no_duplicates():
    twice = events(("u", "i", None), ("u", "i", None))
    assert len(run(twice.with_columns(seq=pl.Series([0, 1])), "exact_duplicates").quarantine) == 0
    lists = twice.with_columns(x=pl.Series([[1.0], [2.0]]))
    assert run(lists, "exact_duplicates").quarantine.is_empty()
    same = twice.with_columns(x=pl.Series([[1.0], [1.0]]))
    assert len(run(same, "exact_duplicates").quarantine) == 1


def test_near_duplicates_collapse_to_the_first_of_a_chain():
    frame = events(
        ("u", "i", T + 0.1),
        ("u", "i", T + 1.9),
        ("u", "i", T + 1.0),
        ("u", "i", T + 4.0),
        ("w", "i", T + 0.2),
        ("u", "j", T + 0.2),
        ("u", "i", None),
        ("u", "i", None),
    )
    done = run(frame, "near_duplicates")
    assert done.quarantine["row"].to_list() == [1, 2]


def test_lines_with_another_value_basket_or_kind_are_no_double_click():
    frame = events(
        ("u", "i", T + 1, 1.0, "view", "b1"),
        ("u", "i", T + 1, 2.0, "view", "b1"),
        ("u", "i", T + 1, 1.0, "view", "b2"),
        ("u", "i", T + 1, 1.0, "cart", "b1"),
    )
    assert run(frame, "near_duplicates").quarantine.is_empty()


def test_a_clock_of_whole_minutes_is_too_coarse_for_near_duplicates():
    minute = 60.0 * 26_000_000
    frame = events(("u", "i", minute), ("u", "i", minute), ("u", "j", minute + 60))
    done = run(frame, "near_duplicates")
    assert done.quarantine.is_empty()
    assert "multiples of 60 s" in count(done, "near_duplicates").note


def test_a_user_faster_than_a_person_is_a_bot_and_an_invoice_is_one_moment():
    hour = 3600.0 * 444_444
    bot = [("bot", f"i{k}", hour + k) for k in range(11)]
    slow = [("slow", f"i{k}", hour + k) for k in range(10)]
    invoice = [("invoice", f"i{k}", hour) for k in range(50)]
    done = run(events(*bot, *slow, *invoice), "bot_rate", moments_per_hour=10)
    assert set(done.quarantine["rule"]) == {"bot_rate"}
    assert done.tables.events["user_id"].unique().sort().to_list() == ["invoice", "slow"]
    assert done.quarantine["reason"].unique().item() == "bot: acted at 11 moments of one hour"


@pytest.mark.parametrize(
    ("bots", "note"), [(1, "all events of 1 user"), (2, "all events of 2 users")]
)
def test_the_note_of_a_rule_for_bots_counts_its_users(bots, note):
    rows = [(f"bot{b}", f"i{k}", T + k) for b in range(bots) for k in range(11)]
    done = run(events(*rows, ("u", "i", T)), "bot_rate", moments_per_hour=10)
    assert count(done, "bot_rate").note == note


def test_an_absurd_number_of_events_is_a_bot_and_a_heavy_user_is_none():
    # Counts 10 × 20 users: median log 10, spread 0.5. 100: z = 4.6. 600: z = 8.2.
    rows = [(f"u{k}", f"i{j}", None) for k in range(20) for j in range(10)]
    rows += [("heavy", f"i{j}", None) for j in range(100)]
    rows += [("bot", f"i{j}", None) for j in range(600)]
    done = run(events(*rows), "bot_volume", volume_min_events=50)
    assert done.quarantine["reason"].unique().item() == "bot: 600 events, robust z-score 8.2"
    assert len(done.quarantine) == 600
    assert run(events(*rows), "bot_volume").quarantine.is_empty()  # under 2,000 events by default


def test_one_user_and_one_moment_are_no_error():
    frame = events(*[("only", f"i{k}", T) for k in range(30)])
    done = clean(Tables(frame), CleanConfig(), now=NOW)
    assert len(done.tables.events) == 30


def test_no_rows_are_no_error():
    done = clean(Tables(events()), CleanConfig(), now=NOW)
    assert done.tables.events.is_empty()
    assert done.quarantine.is_empty()


def test_a_rule_that_is_off_says_so_and_does_nothing():
    done = run(events((None, "i", math.nan)))
    assert len(done.tables.events) == 1
    assert {r.note for r in done.report.rules} == {"off"}


def test_clean_data_comes_out_as_it_went_in():
    frame = events(("u", "i", T, 3.0), ("w", "j", T + 5.5, None)).with_columns(
        own=pl.Series([1, 2])
    )
    done = clean(Tables(frame), CleanConfig(), now=NOW)
    assert done.tables.events.equals(frame)


def test_the_quarantine_is_written_as_json_lines_with_whole_rows(tmp_path):
    frame = events((None, "i", T), ("u", "i", T)).with_columns(
        own=pl.Series([[1, 2], None]), raw=pl.Series([b"\xff", b""])
    )
    done = run(frame, "missing_ids")
    done.write_quarantine(tmp_path / "q.jsonl")
    entry = json.loads((tmp_path / "q.jsonl").read_text())
    assert (entry["table"], entry["row"], entry["dropped"]) == ("events", 0, True)
    record = json.loads(entry["record"])
    assert (record["item_id"], record["own"], record["raw"]) == ("i", [1, 2], "ff")
    with pytest.raises(DataError, match="cannot be written"):
        done.write_quarantine(tmp_path / "no" / "q.jsonl")


def test_the_report_prints_as_rows_of_text():
    done = run(events((None, "i", T)), "missing_ids")
    assert done.report.as_rows()[0] == ("missing_ids", "events", "1", "0", "1", "")
    assert len(done.report.as_rows()) == len(done.report.rules)


@pytest.mark.parametrize(
    "wrong",
    [{"volume_z": 0.0}, {"near_s": -1.0}, {"rare_ratio": 1.5}, {"moments_per_hour": math.nan}],
)
def test_thresholds_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CleanConfig(**wrong)


ids = st.sampled_from(["u", "v", " u", "", None, "x" * 600])
numbers = st.sampled_from([None, 1.0, 2.0, math.nan, math.inf])
times = st.sampled_from([None, T, T + 0.5, T + 1, T * 1e3, 0.0, -1.0, math.nan, math.inf, 1e30])
rows = st.tuples(ids, ids, times, numbers)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=25), st.fixed_dictionaries({r: st.booleans() for r in RULES}))
def test_accepted_and_rejected_rows_are_the_rows_that_came(records, switches):
    frame = events(*records)
    config = CleanConfig(**switches, volume_min_events=3, volume_z=0.5, moments_per_hour=2)
    done = clean(Tables(frame, frame.select("item_id"), frame.select("user_id")), config, now=NOW)
    kept = {
        "events": done.tables.events,
        "items": done.tables.items,
        "users": done.tables.users,
    }
    for table, frame_out in kept.items():
        gone = done.quarantine.filter(pl.col("table") == table, pl.col("dropped"))
        assert len(frame_out) + len(gone) == len(records)
        assert len(gone) == done.report.rejected(table)
        assert gone["row"].n_unique() == len(gone)


def slow_near_duplicates(records, near_s):
    """Row by row: rejected if the user's last same event lies at most near_s back."""
    last, rejected = {}, set()
    order = sorted(
        (k for k, r in enumerate(records) if r[2] is not None), key=lambda k: (records[k][2], k)
    )
    for k in order:
        user, item, time, value = records[k]
        key = (user, item, value)
        if key in last and time - last[key] <= near_s:
            rejected.add(k)
        last[key] = time
    return rejected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("uv"),
            st.sampled_from("ij"),
            st.one_of(st.none(), st.integers(0, 40).map(lambda k: T + 1 + k / 4)),
            st.sampled_from([None, 1.0]),
        ),
        max_size=30,
    )
)
def test_near_duplicates_agree_with_the_obvious_loop(records):
    records = [*records, ("w", "z", T + 0.25, None)]  # a fine clock in every example
    done = run(events(*records), "near_duplicates")
    assert set(done.quarantine["row"]) == slow_near_duplicates(records, 1.0)
