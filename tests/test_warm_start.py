"""A refit that goes on from an earlier snapshot is measured only on what that has not seen."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from steerec.engine.blend import BlendConfig
from steerec.engine.holdout import hold_out
from steerec.engine.lessons import Aids, Teacher, going_on_from
from steerec.engine.model import FitConfig, fit
from steerec.errors import DataError
from steerec.heads.contract import HistoryHead, Lesson
from steerec.heads.gru import Gru, GruConfig
from worlds import shop

WITNESS = "test_warm_start:Witness"


@dataclass(frozen=True, kw_only=True)
class WitnessConfig:
    epochs: int = 8


class Witness(HistoryHead):
    """A head that trains, and tells what it was given to learn and asked."""

    name = WITNESS
    trains = True

    def __init__(self, data, config, lesson):
        self.data, self.config, self.lesson, self.asked = data, config, lesson, []
        self.n_items = data.n_items
        told.append(self)

    @classmethod
    def fit(cls, data, config, rng, lesson=None):
        return cls(data, config, lesson)

    def score(self, states, items, now):
        self.asked.extend(now)
        n = self.n_items if items is None else len(items)
        return np.tile(np.linspace(0, 1, n, dtype=np.float32), (len(states), 1))


told = []


@cache
def data():
    return shop(n_users=60, n_items=48, events_each=20).data


@cache
def config():
    return FitConfig(
        heads=("trending", WITNESS), blend=BlendConfig(top=20, drawn=20), refit="continue"
    )


def early(share):
    """The events before this share of them, of the same catalogue."""
    return data().take(data().time <= np.quantile(data().time, share))


def test_calibration_and_blend_see_only_what_came_after_the_earlier_snapshot():
    past = early(0.6)
    aids = going_on_from(fit(past, config(), np.random.default_rng(0)), share=0.25)
    told.clear()
    fit(data(), config(), np.random.default_rng(1), aids=aids)
    first, second = told
    assert first.data.time.max() <= past.time.max()
    assert min(first.asked) > past.time.max()
    assert len(first.asked) >= 200
    assert second.data.n_events == data().n_events


def test_a_head_goes_on_from_the_earlier_one_for_a_share_of_the_epochs():
    before = fit(early(0.6), config(), np.random.default_rng(0))
    aids = going_on_from(before, share=0.3)
    teacher = Teacher({}, aids, lambda what, done, total: None)
    withheld = data().take(data().item_idx != 5)
    found = teacher.fit(WITNESS, withheld, np.random.default_rng(0))
    assert found.config.epochs == 3  # ceil(8 · 0.3)
    assert found.lesson.previous is before.heads[WITNESS]
    assert found.lesson.rows[5] == -1  # withheld, so what was learnt of it must stay unknown
    assert found.lesson.rows[6] == before.data.item_index[data().item_ids[6]]
    assert set(aids.heads) == {WITNESS}


def test_a_network_keeps_the_directions_of_texts_that_it_learnt_in():
    few = shop(n_users=30, n_items=48, events_each=10).data
    brief, rng = (
        GruConfig(epochs=1, width=16, memory=16, length=8, threads=1),
        np.random.default_rng,
    )
    before = Gru.fit(few, brief, rng(0))
    other = few.with_vectors(few.vectors[::-1] ** 3)  # as if the catalogue had changed
    lesson = Lesson(previous=before, rows=np.arange(few.n_items, dtype=np.int32))
    after = Gru.fit(other, brief, rng(0), lesson)
    assert after.texts.whitening is before.texts.whitening
    expected = before.texts.whitening.transform(other.vectors)
    np.testing.assert_array_equal(after.texts.vectors, expected)


def test_held_out_cases_all_come_after_and_learning_all_before():
    moment = float(np.quantile(data().time, 0.5))
    split = hold_out(data(), config(), after=moment)
    assert split.cases.now.min() > moment >= split.train.time.max()


def test_too_little_after_the_earlier_snapshot_is_told_with_the_numbers():
    times = np.sort(data().time)
    with pytest.raises(DataError, match=r"^0 events after .* at least 200 .* without --from"):
        hold_out(data(), config(), after=float(times[-1]))
    with pytest.raises(DataError, match=r"^\d\d events after"):
        hold_out(data(), config(), after=float(times[-50]))


def test_going_on_without_times_is_refused_on_either_side():
    timeless = replace(data(), time=np.full(data().n_events, np.nan))
    with pytest.raises(DataError, match=r"needs a time for every event.*without --from"):
        hold_out(timeless, config(), after=0.0)
    model = fit(timeless, replace(config(), heads=("trending",)), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"have no times.*without --from"):
        going_on_from(model, share=0.25)


def test_without_an_earlier_snapshot_nothing_is_gone_on_from():
    told.clear()
    Teacher({}, Aids(), lambda what, done, total: None).fit(
        WITNESS, data(), np.random.default_rng(0)
    )
    assert told[0].lesson.previous is None
    assert told[0].config.epochs == 8
