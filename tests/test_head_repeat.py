"""The repeat head against its definition, taken item by item and step by step."""

import math

import numpy as np
import pytest

from steerec.contracts import History
from steerec.heads.repeat import DAY_S, Repeat, RepeatConfig, _lessons, _own
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


def features_of(history, now, returns):
    """Item → its 16 features, in plain Python."""
    seen = {}
    for number, (events, _) in enumerate(steps_of(history)):
        for item, weight, time in events:
            if weight > 0:
                seen.setdefault(item, []).append((number, time))
    if not seen:
        return {}
    n_steps = 1 + max(number for visits in seen.values() for number, _ in visits)
    each = sum(map(len, seen.values())) / len(seen)
    return {
        item: row(visits, now, n_steps, each, returns[item])
        for item, visits in sorted(seen.items())
    }


def row(visits, now, n_steps, each, again):
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
        again,
    ]


def people():
    """Users of the generated shop, one whose newest event is a dislike, one who is empty."""
    data = shop(n_users=40, n_items=24, events_each=20).data
    histories = [data.history(u) for u in range(data.n_users)]
    bad = histories[0].append(3, weight=-1.0, time=data.time.max(), basket=10_000)
    return data, [*histories, bad, History.of([]), History.of([1, 2, 1])]


def test_features_of_many_users_at_once_are_those_of_each_alone():
    data, histories = people()
    returns = np.linspace(-2, 2, data.n_items)
    now = data.time.max() + np.arange(len(histories)) * DAY_S
    own = _own(histories, now, returns)
    at = 0
    for number, history in enumerate(histories):
        for item, expected in features_of(history, now[number], returns).items():
            assert (own.row[at], own.items[at]) == (number, item)
            np.testing.assert_allclose(own.features[at], expected, rtol=0, atol=1e-12)
            at += 1
    assert at == len(own.items) > 200


@pytest.mark.parametrize("most", [10, 150, 100_000])
def test_it_learns_from_whole_users_until_there_are_enough_rows(most):
    data, _ = people()
    returns = np.zeros(data.n_items)
    config = RepeatConfig(newest_steps=3, max_rows=most)
    rows, labels = [], []
    for user in np.random.default_rng(5).permutation(data.n_users):
        steps = steps_of(data.history(user))
        for number in range(max(1, len(steps) - 3), len(steps)):
            past = data.history(user).slice(0, sum(len(events) for events, _ in steps[:number]))
            taken = {item for item, _, _ in steps[number][0]}
            for item, features in features_of(past, steps[number][1], returns).items():
                rows.append(features)
                labels.append(item in taken)
        if len(rows) >= most:
            break
    x, y = _lessons(data, returns, config, np.random.default_rng(5))
    np.testing.assert_allclose(x, rows, rtol=0, atol=1e-12)
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
