"""The repeat head against its definition, taken item by item and step by step."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from steerec.contracts import History
from steerec.data.dataset import build_dataset
from steerec.heads.repeat import DAY_S, Repeat, RepeatConfig, _lessons, _own
from steerec.heads.standing import EVERY_S, latest, standings
from worlds import shop

CONFIG = RepeatConfig(newest_steps=3)


def steps_of(history):
    """[(items with weight, time)], a basket being one step."""
    steps = []
    for at in range(len(history)):
        if not (at and 0 <= history.basket[at] == history.basket[at - 1]):
            steps.append(([], history.time[at]))
        steps[-1][0].append((int(history.item_idx[at]), history.weight[at], history.time[at]))
    return steps


def features_of(history, now):
    """Item → its 15 features with the user, in plain Python."""
    seen = {}
    for number, (events, _) in enumerate(steps_of(history)):
        for item, weight, time in events:
            if weight > 0:
                seen.setdefault(item, []).append((number, time))
    if not seen:
        return {}
    n_steps = 1 + max(number for visits in seen.values() for number, _ in visits)
    each = sum(map(len, seen.values())) / len(seen)
    return {item: row(visits, now, n_steps, each) for item, visits in sorted(seen.items())}


def row(visits, now, n_steps, each):
    numbers = [number for number, _ in visits]
    count, since, span = len(numbers), n_steps - numbers[-1], n_steps - numbers[0]
    gap = (numbers[-1] - numbers[0]) / (count - 1) if count > 1 else 0.0
    rhythm = math.log((since + 0.5) / (gap + 0.5)) if gap > 0 else 0.0
    days = (now - visits[-1][1]) / DAY_S
    return [
        1.0,
        math.log(count),
        math.log(count) ** 2,
        math.log(since),
        math.log(since) ** 2,
        math.log(count / span + 0.02),
        math.log(count / n_steps + 0.02),
        math.log(sum(0.8 ** (n_steps - 1 - number) for number in numbers) + 0.02),
        rhythm,
        rhythm**2,
        float(count == 1),
        float(since == 1),
        0.0 if math.isnan(days) else math.log1p(max(days, 0.0)),
        math.log(n_steps),
        math.log(each),
    ]


def people():
    """Users of the generated shop, one whose newest event is a dislike, one who is empty."""
    data = shop(n_users=40, n_items=24, events_each=20).data
    histories = [data.history(u) for u in range(data.n_users)]
    bad = histories[0].append(3, weight=-1.0, time=data.time.max(), basket=10_000)
    return data, [*histories, bad, History.of([]), History.of([1, 2, 1])]


def test_features_of_many_users_at_once_are_those_of_each_alone():
    data, histories = people()
    now = data.time.max() + np.arange(len(histories)) * DAY_S
    own = _own(histories, now, data.n_items)
    at = 0
    for number, history in enumerate(histories):
        for item, expected in features_of(history, now[number]).items():
            assert (own.row[at], own.items[at]) == (number, item)
            np.testing.assert_allclose(own.features[at], expected, rtol=0, atol=1e-12)
            at += 1
    assert at == len(own.items) > 200


@pytest.mark.parametrize("most", [10, 150, 100_000])
def test_it_learns_from_whole_users_until_there_are_enough_rows(most):
    data, _ = people()
    config = RepeatConfig(newest_steps=3, max_rows=most)
    rows, items, times, labels = [], [], [], []
    for user in np.random.default_rng(5).permutation(data.n_users):
        steps = steps_of(data.history(user))
        for number in range(max(1, len(steps) - 3), len(steps)):
            past = data.history(user).slice(0, sum(len(events) for events, _ in steps[:number]))
            taken = {item for item, _, _ in steps[number][0]}
            for item, features in features_of(past, steps[number][1]).items():
                rows.append(features)
                items.append(item)
                times.append(steps[number][1])
                labels.append(item in taken)
        if len(rows) >= most:
            break
    own, when, y = _lessons(data, config, np.random.default_rng(5))
    np.testing.assert_allclose(own.features, rows, rtol=0, atol=1e-12)
    assert (own.items.tolist(), when.tolist()) == (items, times)
    assert y.tolist() == [float(label) for label in labels]


def test_a_batch_scores_as_each_user_alone_and_only_their_own_items():
    data, histories = people()
    head = Repeat.fit(data, CONFIG, np.random.default_rng(0))
    now = np.full(len(histories), data.time.max() + DAY_S)
    together = head.score(histories, None, now)
    for number, history in enumerate(histories):
        alone = head.score([history], None, now[:1])[0]
        np.testing.assert_allclose(alone, together[number], rtol=1e-6)
        liked = set(history.item_idx[history.weight > 0].tolist())
        assert set(np.flatnonzero(~np.isnan(alone)).tolist()) == liked


def gone_out_of_season(n_users=40, n_weeks=30):
    """Everybody takes items 0 and 1 each week, 1 till ten weeks before the end."""
    weeks = [(u, week, item) for u in range(n_users) for week in range(n_weeks) for item in (0, 1)]
    rows = [(u, week, item) for u, week, item in weeks if item == 0 or week < n_weeks - 10]
    rows += [(u, week, 2 + (u + week) % 9) for u in range(n_users) for week in range(n_weeks)]
    events = pl.DataFrame(
        {
            "user_id": [f"u{u:02}" for u, _, _ in rows],
            "item_id": [f"i{item:02}" for _, _, item in rows],
            "timestamp": [week * 7 * DAY_S for _, week, _ in rows],
        }
    )
    return build_dataset(events)


def test_what_nobody_takes_any_more_does_not_come_back():
    data = gone_out_of_season()
    head = Repeat.fit(data, RepeatConfig(newest_steps=40), np.random.default_rng(0))
    now = data.time.max() + 7 * DAY_S
    stranger = History(  # took 1 as often and as lately as 0
        np.array([0, 1, 0, 1], np.int32),
        np.ones(4, np.float32),
        now - DAY_S * np.array([14, 14, 7, 7]),
        np.full(4, -1, np.int32),
    )
    scores = head.score([stranger], None, np.array([now]))[0]
    assert scores[0] > scores[1] + 1


def test_the_past_is_seen_as_it_was_and_the_end_as_it_is():
    data = gone_out_of_season()
    end, windows = float(data.time.max()), (14.0, 60.0)
    items = np.arange(data.n_items, dtype=np.int32)
    for weeks in (0, 2, 7, 20):
        clock = end - weeks * 7 * DAY_S
        moment = end - math.ceil(weeks / 2) * EVERY_S
        shares = [
            [
                sum(2.0 ** -((moment - t) / DAY_S / days) for t in times if t <= moment)
                for times in (data.time[data.item_idx == item].tolist() for item in items)
            ]
            for days in (*windows, math.inf)
        ]
        expected = [[math.log((n + 0.5) / (np.mean(row) + 0.5)) for n in row] for row in shares]
        found = standings(data, windows, items, np.full(len(items), clock))
        np.testing.assert_allclose(found, np.transpose(expected), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        latest(data, windows), standings(data, windows, items, np.full(len(items), end + 9.0))
    )
    assert not standings(data, windows, items, np.full(len(items), -1e9)).any()


def test_without_times_every_item_stands_alike():
    data = gone_out_of_season()
    timeless = replace(data, time=np.full(data.n_events, np.nan))
    items = np.arange(data.n_items, dtype=np.int32)
    assert not standings(timeless, (14.0,), items, np.full(len(items), np.nan)).any()
    assert not latest(timeless, (14.0,)).any()
    head = Repeat.fit(timeless, RepeatConfig(), np.random.default_rng(0))
    assert np.isfinite(head.weights).all()
    assert head.weights.any()
