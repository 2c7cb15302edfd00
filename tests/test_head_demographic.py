"""The demographic head: shrunk statistics of who is like the user, by what is told of them."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.demographic import Demographic, DemographicConfig
from steerec.heads.segments import Segments

NOW = np.array([np.nan])


def fit(data, **settings):
    config = DemographicConfig(**{"least_users": 2, **settings})
    return Demographic.fit(data, config, np.random.default_rng(0))


def score(head, user_idx):
    return head.score([History.of([], user_idx)], None, NOW)[0]


def village(people, *, n_items=3):
    """(attributes, item numbers) of each user; item ids are i0, i1, …"""
    rows = [(f"u{u}", f"i{i}") for u, (_, items) in enumerate(people) for i in items]
    events = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)]})
    users = pl.DataFrame([{"user_id": f"u{u}", **about} for u, (about, _) in enumerate(people)])
    return build_dataset(events, items, users)


def sexes(n):
    """n women who take items 0 and 1, n men who take 0 and 2."""
    people = [({"sex": "f"}, [0, 1])] * n + [({"sex": "m"}, [0, 2])] * n
    return village([*people, ({"sex": "f"}, []), ({"sex": None}, [])])


def test_a_user_without_events_gets_what_their_segment_takes():
    head = fit(sexes(50))
    woman, nobody = score(head, 100), score(head, 101)
    assert woman[1] > woman[2] + 2
    assert np.isnan(nobody).all()
    assert np.isnan(score(head, -1)).all()


def test_lifts_of_one_column_are_dirichlet_means_by_hand():
    data = sexes(3)
    head = fit(data)
    women = head.segments.names.index(("sex", "f"))
    # With strength k, item 1 has 3 takers, all women, where half were expected.
    ratio = np.exp(head.lift[women])
    k = 3 * (2 - ratio[1]) / (ratio[1] - 1)  # from ratio = (3 + k / 2) / (3 + k) / (1 / 2)
    expected = [1.0, (3 + k / 2) / (3 + k) * 2, (k / 2) / (3 + k) * 2]
    np.testing.assert_allclose(ratio, expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(head.popularity), [0.5, 0.25, 0.25], rtol=1e-6)


def test_what_everybody_takes_is_counted_live_once_for_each_person():
    head, before = fit(sexes(50)), History.of([0, 2], 50)
    again = fit(village([*[({"sex": "f"}, [0, 1])] * 50, *[({"sex": "m"}, [0, 2, 1])] * 50]))
    for man in range(50, 100):
        head.observe(History.of([0, 2], man), History.of([1, 0], man))  # 0 is no news
    np.testing.assert_allclose(head.takers, again.takers)
    np.testing.assert_allclose(head.popularity, again.popularity, rtol=1e-6)
    some = np.array([1, 2], np.int32)
    np.testing.assert_array_equal(head.score([before], some, NOW)[0], score(head, 50)[some])


def test_a_new_item_is_scored_once_somebody_took_it():
    data = sexes(50)
    head = fit(data).grown(village([({"sex": "f"}, [0])], n_items=4))
    assert np.isnan(score(head, 0)[3])
    head.observe(History.of([0, 1], 0), History.of([3], 0))
    assert score(head, 0)[3] == pytest.approx(np.log(1 / 201), rel=1e-5)
    assert score(head, 0)[3] == score(head, 99)[3]


def test_little_evidence_is_pulled_towards_everybody():
    rng = np.random.default_rng(1)
    people = [
        ({"town": str(town)}, rng.choice(30, 5, replace=False).tolist())
        for town in range(20)
        for _ in range(5)
    ]
    noise = fit(village(people, n_items=30))
    assert np.abs(noise.lift).max() < 0.25  # towns of 5 users that tell nothing
    raw = np.log((noise.members.T @ village(people, n_items=30).matrix()).toarray() + 1e-9)
    assert np.ptp(raw) > 1.0


def test_columns_that_say_the_same_are_not_counted_twice():
    people = [
        ({"sex": s, "title": t}, [0, 1] if s == "f" and u % 5 else [0, 2])
        for s, t in (("f", "Mrs"), ("m", "Mr"))
        for u in range(100)
    ]
    both = fit(village(people))
    one = fit(village(people), columns=("sex",))
    np.testing.assert_allclose(score(both, 1), score(one, 1), atol=0.12)


def test_two_columns_that_both_tell_add_up():
    rng = np.random.default_rng(2)
    people = []
    for _ in range(1500):
        sex, town = rng.integers(2), rng.integers(2)
        odds = np.array([1.0, 1.0 * 3**sex * 2**town, 1.0])
        people.append(({"sex": str(sex), "town": str(town)}, [rng.choice(3, p=odds / odds.sum())]))
    head = fit(village(people))
    data = village(people)
    liked = data.matrix().toarray()
    for sex, town in ((0, 0), (0, 1), (1, 0), (1, 1)):
        group = [u for u, (a, _) in enumerate(people) if a == {"sex": str(sex), "town": str(town)}]
        truth = liked[group].mean(axis=0)
        found = np.exp(score(head, group[0]))
        np.testing.assert_allclose(found / found.sum(), truth, atol=0.05)


def test_numbers_are_cut_into_ranges_of_equal_size_and_gaps_have_none():
    ages = [float(a) for a in range(20, 60)] + [float("nan")]
    users = pl.DataFrame({"user_id": [str(u) for u in range(41)], "age": ages})
    segments = Segments.fit(users, ["age"], bins=4, least_users=2)
    assert [value for _, value in segments.names] == ["0", "1", "2", "3"]
    table = segments.table(users)
    np.testing.assert_array_equal(table.sum(axis=0), [[10, 10, 10, 10]])
    assert table[40].nnz == 0
    assert segments.of({"age": 19}) == [0]
    assert segments.of({"age": "59"}) == [3]
    assert segments.of({"age": "old"}) == segments.of({"age": None}) == []


def test_lists_put_a_user_into_several_segments_and_rare_values_into_none():
    hobbies = [["chess", "golf"], ["chess"], ["golf", "judo"], [], None]
    users = pl.DataFrame({"user_id": list("abcde"), "hobby": hobbies})
    segments = Segments.fit(users, ["hobby"], bins=5, least_users=2)
    assert segments.names == (("hobby", "chess"), ("hobby", "golf"))
    np.testing.assert_array_equal(
        segments.table(users).toarray(), [[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]]
    )
    assert segments.of({"hobby": ["golf", "judo", "golf"]}) == [1]


@given(st.lists(st.sampled_from(["a", "b", " a ", None, ""]), min_size=1, max_size=12))
def test_a_row_of_the_table_is_the_person_told_alone(values):
    users = pl.DataFrame(
        {
            "user_id": [str(u) for u in range(len(values))],
            "town": pl.Series(values, dtype=pl.String),
        }
    )
    segments = Segments.fit(users, ["town"], bins=2, least_users=1)
    table = segments.table(users)
    for row, value in enumerate(values):
        assert table[row].indices.tolist() == segments.of({"town": value})


def test_data_that_tell_nothing_of_users_cannot_teach_it():
    data = sexes(5)
    for users in (data.users.select("user_id"), data.users.with_columns(sex=pl.lit("f"))):
        with pytest.raises(DataError, match="users"):
            fit(replace(data, users=users))
    with pytest.raises(DataError, match="no column"):
        fit(data, columns=("height",))
    with pytest.raises(DataError, match="lower least_users"):
        fit(data, least_users=50)
    with pytest.raises(ConfigError, match="least_users=1"):
        DemographicConfig(least_users=1)
