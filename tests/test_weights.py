"""What each head has to say, and which are left out because they do not help."""

from dataclasses import replace

import numpy as np
import pytest

from steerec.engine.blend import BlendConfig, Candidates, Examples, descend, losses
from steerec.engine.model import FitConfig, fit
from steerec.engine.phi import NO_HISTORY, UNSEEN_ITEM
from steerec.engine.snapshot import load_snapshot, save_snapshot
from steerec.engine.weights import LEAST_SAY, gains, says, weigh
from worlds import shop

FEATURES = ("bias", NO_HISTORY, UNSEEN_ITEM)
NAMES = ("good", "noise", "copy", "silent", "greeter")
CONFIG = BlendConfig()


def cases(n, truth, seed):
    """Targets drawn from a softmax of `truth` times what the heads say."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 30, 5)).astype(np.float32)
    z[:, :, 2] = z[:, :, 0] + 0.05 * z[:, :, 2]
    z[:, :, 3] = 0.0
    scores = z @ np.array(truth) + rng.gumbel(size=(n, 30))
    target = np.zeros((n, 30), np.float32)
    target[np.arange(n), scores.argmax(axis=1)] = 1.0
    phi = np.ones((n, 1)) * [1.0, 0.0, 0.0]
    nothing = np.zeros((n, 30), np.float32)
    return Candidates(z, nothing, target, np.zeros((n, 30), bool), phi)


@pytest.fixture(scope="module")
def examples():
    newcomers = cases(300, (0.0, 0.0, 0.0, 0.0, 1.0), 1)
    newcomers.z[:, :, :4] = 0.0
    newcomers.phi[:, 1] = 1.0
    held_out = cases(2_000, (1.0, 0.0, 0.0, 0.0, 0.0), 0)
    return Examples(NAMES, FEATURES, held_out, newcomers)


def test_losses_are_those_that_the_fit_sums(examples):
    held_out = examples.held_out
    theta = descend(held_out, CONFIG)
    found = losses(held_out, theta)
    scores = held_out.z.astype(float) @ theta[:, 0]
    slow = np.log(np.exp(scores).sum(axis=1)) - (scores * held_out.target).sum(axis=1)
    np.testing.assert_allclose(found, slow, rtol=1e-4)


def test_a_silent_head_has_no_say_and_one_for_newcomers_has_its_say_there(examples):
    said = says(examples, weigh(examples, CONFIG).theta)
    assert said["silent"] == 0.0
    assert said["noise"] < 0.1
    assert said["good"] + said["copy"] > 0.8
    assert said["greeter"] == 1.0


def test_what_does_not_help_is_left_out_and_of_two_alike_one_stays(examples):
    gain = gains(examples, CONFIG)
    assert gain["greeter"] == np.inf
    assert max(gain["noise"], gain["silent"]) < 0.001
    kept = weigh(examples, CONFIG, drop_idle=True)
    assert "greeter" in kept.heads
    assert len({"good", "copy"} & set(kept.heads)) == 1
    assert not {"noise", "silent"} & set(kept.heads)
    assert kept.theta.shape == (2, 3)
    assert [name for name in NAMES if kept.say[name] == 0.0] == [
        name for name in NAMES if name not in kept.heads
    ]


def test_without_the_wish_every_head_is_kept_and_told(examples):
    told = []
    weights = weigh(examples, CONFIG, told.append)
    assert weights.heads == NAMES
    assert told == [examples]
    assert min(weights.say.values()) < LEAST_SAY


def test_a_head_that_speaks_of_items_never_seen_alone_is_kept(examples):
    held_out = cases(2_000, (1.0, 1.0, 0.0, 0.0, 0.0), 2)
    held_out.unseen[:, :10] = True
    held_out.z[:, 10:, 1] = 0.0
    assert gains(replace(examples, held_out=held_out), CONFIG)["noise"] == np.inf


def test_an_idle_head_is_neither_fitted_again_nor_served(tmp_path):
    data = shop(n_users=60).data  # nobody repeats
    config = FitConfig(heads=("trending", "repeat", "transitions"), repeats=False, drop_idle=True)
    model = fit(data, config, np.random.default_rng(0))
    assert "repeat" not in model.heads
    assert model.say["repeat"] == 0.0
    assert set(model.heads) == set(model.strategy.heads) == set(model.calibrations)
    save_snapshot(model, tmp_path / "snapshot")
    assert "repeat" not in load_snapshot(tmp_path / "snapshot").heads
    assert not (tmp_path / "snapshot" / "heads" / "repeat").exists()
