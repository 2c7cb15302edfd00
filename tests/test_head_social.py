"""Friendships are read, kept and counted, and the social head tells what friends took."""

import logging

import numpy as np
import polars as pl
import pytest

from steerec.contracts import History
from steerec.data.dataset import Dataset, build_dataset
from steerec.data.read import read_tables
from steerec.engine.intake import tables_of
from steerec.errors import ConfigError, DataError
from steerec.heads.social import Social, SocialConfig

EVENTS = pl.DataFrame(
    [("a", "x"), ("a", "y"), ("b", "y"), ("c", "z"), ("e", "w")],
    schema=["user_id", "item_id"],
    orient="row",
)
USERS = pl.DataFrame({"user_id": list("abcdef")})
FRIENDS = (("d", "a"), ("a", "d"), ("d", "b"), ("c", "a"), ("f", "f"))


def circle(pairs=FRIENDS):
    social = pl.DataFrame(pairs, schema=["user_id", "friend_id"], orient="row")
    return build_dataset(EVENTS, None, USERS, social=social)


def fit(data, **settings):
    return Social.fit(data, SocialConfig(**settings), np.random.default_rng(0))


def score(head, user_id):
    data = circle()
    states = [History.of([], data.user_index.get(user_id, -1))]
    return dict(zip(data.item_ids, head.score(states, None, np.array([np.nan]))[0], strict=True))


def test_each_friendship_is_one_edge_and_nobody_is_their_own_friend():
    data = circle()
    assert data.social.dtype == np.int32
    assert data.social.tolist() == [[0, 2], [0, 3], [1, 3]]
    assert data.notes == {}


def test_pairs_of_unknown_users_are_left_out_counted_and_told(caplog):
    with caplog.at_level(logging.WARNING):
        data = circle((*FRIENDS, ("a", "stranger"), (None, "a")))
    assert data.social.tolist() == circle().social.tolist()
    assert data.notes["social"].startswith("2 of 7 friendships name users unknown here")
    assert "unknown=2" in caplog.text


def test_compacting_renumbers_the_edges_of_those_who_stay():
    data = circle().compact()
    assert data.user_ids.tolist() == ["a", "b", "c", "e"]
    assert data.social.tolist() == [[0, 2]]


def test_edges_are_saved_with_the_dataset_and_come_back_as_a_table(tmp_path):
    data = circle()
    data.save(tmp_path)
    again = Dataset.load(tmp_path)
    np.testing.assert_array_equal(again.social, data.social)
    table = tables_of(again).social
    rebuilt = build_dataset(EVENTS, None, USERS, social=table)
    np.testing.assert_array_equal(rebuilt.social, data.social)
    build_dataset(EVENTS, None, USERS).save(tmp_path / "alone")
    assert Dataset.load(tmp_path / "alone").social is None


def test_a_folder_with_a_social_file_is_read_with_it(tmp_path):
    EVENTS.write_csv(tmp_path / "events.csv")
    pairs = pl.DataFrame({"user_id": ["a"], "friend_id": ["b"], "since": [2020]})
    pairs.write_parquet(tmp_path / "social.parquet")
    assert read_tables(tmp_path).tables.social.rows() == [("a", "b")]
    pairs.rename({"friend_id": "other"}).write_parquet(tmp_path / "social.parquet")
    with pytest.raises(DataError, match="friend_id"):
        read_tables(tmp_path)


def test_a_user_without_events_gets_what_friends_took_most():
    found = score(fit(circle(), second=0.0), "d")
    assert found == {"x": 1.0, "y": 2.0, "z": 0.0, "w": 0.0}


def test_people_with_the_same_friends_speak_too_the_less_the_more_friends_share():
    found = score(fit(circle(), second=0.2), "d")
    # d and c share the friend a, who has two friends.
    assert found["z"] == pytest.approx(0.2 / np.log1p(2))
    assert (found["x"], found["y"], found["w"]) == (1.0, 2.0, 0.0)


def test_somebody_with_very_many_friends_makes_nobody_alike():
    assert score(fit(circle(), most_shared=1), "d")["z"] == 0.0


def test_nothing_is_known_of_users_without_friends_or_never_seen():
    head = fit(circle())
    for name in ("e", "f", "stranger"):
        assert np.isnan(list(score(head, name).values())).all()


def test_own_events_say_nothing():
    found = score(fit(circle(), second=0.2), "b")  # who took y, and shares the friend d with a
    assert found["x"] == found["y"] == pytest.approx(0.2 / np.log1p(2))


def test_a_forgotten_friend_no_longer_speaks():
    head = fit(circle(), second=0.0)
    assert head.forget(1, circle().history(1))
    assert score(head, "d")["y"] == 1.0


def test_data_without_friends_cannot_teach_it():
    for data in (build_dataset(EVENTS), circle((("d", "f"),)), circle((("a", "stranger"),))):
        with pytest.raises(DataError, match="friend"):
            fit(data)
    with pytest.raises(ConfigError, match="second=-1"):
        SocialConfig(second=-1.0)
