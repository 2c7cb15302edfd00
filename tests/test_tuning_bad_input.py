"""Feedback of every bad kind, from joining to θ: what it does is defined, and θ stays in bounds."""

import numpy as np
import pytest

from steerec.tuning.guard import Reference, hold
from steerec.tuning.joining import Joiner, Reaction, Shown
from steerec.tuning.learner import OnlineTuner
from steerec.tuning.observed import Observed
from steerec.tuning.reward import Outcome, RewardConfig
from tuning_worlds import EVEN, FEATURES, HEADS, PLACES, learner

T0 = 1_700_000_000.0
DAY_S = 86_400.0
MOST_NATS = 0.05
REWARD = RewardConfig(outcomes={"click": Outcome(1.0), "dislike": Outcome(-1.0)})
ITEMS = tuple("abcde")


class Service:
    """Slates shown and reactions joined, learnt from and published, as the engine does it."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rng, self.now, self.n = np.random.default_rng(1), T0, 0
        z = rng.normal(size=(20, 30, HEADS)).astype(np.float32)
        phi = np.stack([np.ones(20), rng.random(20)], axis=1)
        self.reference = Reference(z, phi, np.ones((20, 30), bool))
        self.joiner = Joiner(REWARD)
        self.tuner = OnlineTuner(learner(), bound=self.bound)

    def bound(self, theta):
        return hold(theta, EVEN, self.reference, MOST_NATS)[0]

    def show(self):
        """One slate to somebody new; its request id, and the item that its first head likes."""
        self.n += 1
        self.now += 2.0
        z, phi = self.rng.normal(size=(PLACES, HEADS)), np.array([1.0, 0.5])
        shown = Shown(f"r{self.n}", f"u{self.n}", ITEMS, self.now, z, phi)
        self.learn(self.joiner.show(shown, self.now))
        return shown.request_id, ITEMS[int(z[:, 0].argmax())]

    def react(self, request, item, **told):
        told = {"event_id": f"{request}-{item}", "kind": "click", "time": self.now, **told}
        late = self.joiner.react(Reaction(item_id=item, request_id=request, **told), self.now)
        self.learn([] if late is None else [late])

    def learn(self, outcomes):
        for one in outcomes:
            (self.tuner.amend if one.late else self.tuner.observe)(one.observed())

    def settle(self):
        """Half an hour later: what is open closes, and an epoch is made."""
        self.now += 1_801.0
        self.learn(self.joiner.close(self.now))
        return self.tuner.publish(self.now)

    def assert_in_bounds(self):
        epoch = self.tuner.epoch
        for part in (epoch.theta, epoch.believed, epoch.b_position, epoch.b_context):
            assert np.isfinite(part).all()
        assert self.reference.kl(epoch.theta, EVEN) <= MOST_NATS + 1e-9
        assert 0.05 <= epoch.gamma <= 20
        asked = Observed.slate(np.eye(HEADS), np.ones(FEATURES), np.zeros(HEADS))
        assert np.isfinite(epoch.click(asked)).all()


@pytest.fixture
def service():
    return Service()


def day(service, react, n=150):
    """Slates with what is done with each; the epoch they lead to."""
    for at in range(n):
        react(service, *service.show())
        if at % 25 == 24:
            service.tuner.publish(service.now)
    epoch = service.settle()
    service.assert_in_bounds()
    return epoch


def liked(service, request, item):
    service.react(request, item)


def test_sound_feedback_moves_theta_so_that_the_rest_of_this_page_can_fail(service):
    epoch = day(service, liked)
    assert epoch.theta[0, 0] > EVEN[0, 0] + 0.05
    assert service.joiner.counts == {"joined": 150}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"request": "nobody-was-shown-this"}, "unknown"),
        ({"item": "not-on-the-page"}, "unknown"),
        ({"user_id": "somebody-else"}, "unknown"),
        ({"time": T0 + 30 * DAY_S}, "from_the_future"),
        ({"time": float("nan")}, "not_finite"),
        ({"value": float("nan")}, "not_finite"),
        ({"value": float("-inf")}, "not_finite"),
        ({"kind": "no-such-kind"}, "kind_not_counted"),
    ],
)
def test_feedback_that_cannot_be_used_teaches_what_silence_teaches(service, told, reason):
    def wrong(service, request, item):
        given = {"request": request, "item": item, **told}
        service.react(given.pop("request"), given.pop("item"), **given)

    found = day(service, wrong)
    silent = day(Service(), lambda *_: None)
    np.testing.assert_array_equal(found.theta, silent.theta)
    np.testing.assert_array_equal(found.b_context, silent.b_context)
    assert service.joiner.counts == {reason: 150}


def test_duplicated_feedback_teaches_what_single_feedback_teaches(service):
    def thrice(service, request, item):
        for _ in range(3):
            service.react(request, item)

    np.testing.assert_array_equal(day(service, thrice).theta, day(Service(), liked).theta)
    assert service.joiner.counts == {"joined": 150, "repeated": 300}


def test_duplicates_that_come_after_the_page_closed_change_nothing(service):
    pages = []
    day(service, lambda s, request, item: (pages.append((request, item)), s.react(request, item)))
    before = service.tuner.epoch
    for request, item in pages:
        service.react(request, item)
    assert service.settle() is before


def test_contradictory_feedback_cancels(service):
    def both(service, request, item):
        service.react(request, item)
        service.react(request, item, kind="dislike", event_id=f"{request}-no")

    silent = day(Service(), lambda *_: None)
    np.testing.assert_array_equal(day(service, both).theta, silent.theta)


@pytest.mark.parametrize("kind", ["click", "dislike"])
def test_feedback_that_is_all_alike_tells_no_head_from_another(service, kind):
    def all_of_them(service, request, item):
        for one in ITEMS:
            service.react(request, one, kind=kind)

    epoch = day(service, all_of_them)
    assert service.joiner.counts == {"joined": 150 * PLACES}
    level = epoch.b_context[0] - service.tuner.learner.base.b_context[0]
    assert level > 1 if kind == "click" else level < -1
    assert np.abs(epoch.theta - EVEN).max() < 0.35


def test_a_week_without_feedback_keeps_theta(service):
    before = day(service, liked)
    service.now += 7 * DAY_S
    assert service.settle() is before
    after = day(service, liked, n=25)
    assert np.abs(after.theta - before.theta).max() < 0.05


def test_rewards_that_are_no_numbers_are_counted_and_left_out(service):
    before = day(service, liked)
    rows = Observed.slate(np.ones((2, HEADS)), np.ones(FEATURES), np.array([np.nan, np.inf]))
    service.tuner.observe(rows)
    service.tuner.amend(rows)
    service.settle()
    service.assert_in_bounds()
    np.testing.assert_array_equal(service.tuner.epoch.theta, before.theta)
    assert service.tuner.learner.counts["refused"] == 4


@pytest.mark.parametrize("jump", [-400 * DAY_S, 400 * DAY_S, 1e12])
def test_after_a_jump_of_the_clock_it_goes_on_learning_within_its_bounds(service, jump):
    before = day(service, liked)
    service.now += jump
    after = day(service, liked)
    assert after.number > before.number
    assert np.abs(after.theta - before.theta).max() < 0.2
    assert service.joiner.counts == {"joined": 300}


def test_a_clock_that_goes_to_and_fro_stays_within_bounds(service):
    for jump in (1e9, -1e9, 3_600.0, -3_600.0, 0.0):
        service.now += jump
        day(service, liked, n=25)
    assert service.tuner.epoch.number >= 5  # one a day at least
