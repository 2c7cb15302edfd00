"""Training by epochs: it ends where it should, and goes on where it was cut off."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from steerec.errors import ConfigError, TrainingError
from steerec.heads.contract import Lesson
from steerec.heads.losses import pairwise_max_loss, sampled_loss, softmax_loss
from steerec.heads.training import TrainingConfig, device_of, good, pace, train


class Line:
    """y = 3 x, learnt from random points; what each epoch validates to can be told."""

    def __init__(self, validations=None, target=3.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Linear(1, 1, bias=False)
        self.validations = validations
        self.target = target
        self.epoch = 0

    def batches(self, rng):
        return [rng.normal(size=(16, 1)) for _ in range(5)]

    def loss(self, batch):
        x = torch.from_numpy(batch).float()
        noisy = self.target * x + 0.1 * torch.randn_like(x)  # draws from PyTorch's generator
        return ((self.net(x) - noisy) ** 2).mean()

    def validate(self):
        if self.validations is None:
            return None
        self.epoch += 1
        return [self.validations[self.epoch - 1]]

    @property
    def weight(self):
        return float(self.net.weight.detach())


class Power(Exception):
    """The power went off."""


def cut_off(after):
    """Watches a training and ends it in the epoch after so many."""

    def watch(what, done, total):
        if done >= 1_000 * after + 500:
            raise Power

    return watch


def run(lesson, *, aid=None, mark="m", seed=5, **settings):
    config = TrainingConfig(**{"epochs": 30, "learning_rate": 0.2, **settings})
    return train(
        "line", lesson, config, np.random.default_rng(seed), aid=aid or Lesson(), mark=mark
    )


def test_a_line_is_learnt_and_the_curve_says_so():
    line = Line()
    curve = run(line)
    assert line.weight == pytest.approx(3.0, abs=0.05)
    assert [entry["epoch"] for entry in curve] == list(range(1, 31))
    assert curve[-1]["loss"] < 0.05 < curve[0]["loss"]


def test_training_ends_when_validation_no_longer_rises_and_keeps_the_best():
    line = Line(validations=[0.1, 0.5, 0.3, 0.4, 0.45, 0.9])
    weights = []
    line.validate = lambda told=line.validate: (weights.append(line.weight), told())[1]
    curve = run(line, patience=3)
    assert [entry["validation"] for entry in curve] == [0.1, 0.5, 0.3, 0.4, 0.45]
    assert line.weight == weights[1]
    assert weights[1] != weights[4]


def test_a_later_epoch_is_kept_within_the_error_of_validation_and_not_below():
    best = [1.0, 0.0, 1.0, 0.0]
    assert good([0.9, 0.1, 0.9, 0.0], best)  # -.025 on average, an error of .041
    assert good([0.0, 1.0, 1.0, 0.0], best)
    assert not good([0.8, -0.2, 0.8, -0.2], best)  # all alike below: no luck in it
    assert good([0.3], [])


def test_a_training_cut_off_goes_on_to_exactly_the_same_end(tmp_path):
    whole, cut, resumed = Line(), Line(), Line()
    run(whole)
    with pytest.raises(Power):
        run(cut, aid=Lesson(watch=cut_off(12), folder=tmp_path))
    curve = run(resumed, aid=Lesson(folder=tmp_path))
    assert resumed.weight == whole.weight
    assert len(curve) == 30
    assert cut.weight != whole.weight


def test_a_checkpoint_of_other_settings_or_data_is_not_taken_up(tmp_path):
    run(Line(), epochs=3, aid=Lesson(folder=tmp_path), mark="one")
    curve = run(Line(), epochs=3, aid=Lesson(folder=tmp_path), mark="two")
    assert len(curve) == 3
    seen = []
    run(
        Line(),
        epochs=3,
        aid=Lesson(watch=lambda *step: seen.append(step), folder=tmp_path),
        mark="one",
    )
    assert seen == [("train line", 3_000, 3_000)]  # nothing was left to do


def test_a_checkpoint_of_another_seed_or_other_first_weights_is_not_taken_up(tmp_path):
    run(Line(), epochs=2, aid=Lesson(folder=tmp_path))
    elsewhere = Line()
    with torch.no_grad():
        elsewhere.net.weight += 1.0
    for lesson, seed in ((Line(), 6), (elsewhere, 5)):
        seen = []
        aid = Lesson(watch=lambda *step, seen=seen: seen.append(step), folder=tmp_path)
        run(lesson, epochs=2, aid=aid, seed=seed)
        assert seen[0] == ("train line", 0, 2_000)
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_a_torn_checkpoint_is_told_and_training_starts_over(tmp_path, caplog):
    run(Line(), epochs=3, aid=Lesson(folder=tmp_path))
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-3])
    line = Line()
    run(line, epochs=3, aid=Lesson(folder=tmp_path))
    again = Line()
    run(again, epochs=3)
    assert line.weight == again.weight
    assert "torn=true" in caplog.text


def test_a_loss_that_is_no_number_names_the_head_and_the_remedy():
    with pytest.raises(TrainingError, match=r"line: the loss is no number.*lower learning_rate"):
        run(Line(target=float("nan")))


def test_memory_that_runs_out_names_the_remedy():
    class Big(Line):
        def loss(self, batch):
            return torch.empty(2**60).sum()

    with pytest.raises(TrainingError, match=r"line: memory ran out.*lower batch_tokens"):
        run(Big())


def test_the_learning_rate_warms_up_stays_and_falls():
    config = TrainingConfig(epochs=20)
    assert pace(0.0, config) == 0.01
    assert pace(0.5, config) == pytest.approx(0.5)
    assert pace(1.0, config) == pace(5.9, config) == 1.0
    assert pace(13.0, config) == pytest.approx(0.5, abs=1e-6)
    assert pace(19.99, config) == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 1.5}, "learning_rate=1.5"),
        ({"threads": -1}, "threads=-1"),
        ({"device": "tpu"}, "device='tpu'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_a_clear_error():
    with pytest.raises(ConfigError, match="PyTorch sees no CUDA device"):
        device_of(TrainingConfig(device="cuda"))


def some_logits(n=40, items=300, width=8):
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(n, width, generator=generator, requires_grad=True)
    table = torch.randn(items, width, generator=generator, requires_grad=True)
    bias = torch.randn(items, generator=generator, requires_grad=True)
    target = torch.randint(items, (n,), generator=generator)
    return h, table, bias, target


def test_the_fused_softmax_has_the_value_and_gradients_of_the_plain_one(monkeypatch):
    monkeypatch.setattr("steerec.heads.losses.CHUNK_BYTES", 4 * 300 * 17)  # several chunks
    h, table, bias, target = some_logits()
    plain = functional.cross_entropy(h @ table.T + bias, target)
    expected = torch.autograd.grad(plain, (h, table, bias))
    fused = softmax_loss(h, table, bias, target)
    found = torch.autograd.grad(3 * fused, (h, table, bias))
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, 3 * b, rtol=1e-4, atol=1e-6)


def test_a_sample_of_all_items_gives_the_full_softmax():
    h, table, bias, target = some_logits()
    everything = sampled_loss(
        h, table, bias, target, drawn_S=torch.arange(300), log_expected_N=torch.zeros(300)
    )
    assert everything.item() == pytest.approx(softmax_loss(h, table, bias, target).item(), rel=1e-5)


def test_the_corrected_sample_is_near_the_full_loss_and_the_uncorrected_is_not():
    h, table, bias, target = some_logits(n=2_000, items=300)
    table = 0.3 * table  # an average of few draws of e^x is near the mean where x varies little
    q = torch.full((300,), 1 / 300)
    n, generator = 60, torch.Generator().manual_seed(2)
    target = target[:20].repeat(100)  # few distinct targets, so that the sample matters
    log_in = torch.log(-torch.expm1(-(n * q)))
    log_in[target[:20]] = 0.0  # these are always there
    full = softmax_loss(h, table, bias, target).item()
    draws = [torch.multinomial(q, n, replacement=True, generator=generator) for _ in range(30)]

    def mean_loss(log_expected_N):
        losses = [
            sampled_loss(h, table, bias, target, drawn_S=d, log_expected_N=log_expected_N).item()
            for d in draws
        ]
        return np.mean(losses)

    corrected, plain = mean_loss(log_in), mean_loss(torch.zeros(300))
    assert abs(corrected - full) < 0.1
    assert plain < full - 0.5


def test_pairwise_losses_by_hand():
    h = torch.tensor([[1.0, 0.0]])
    table = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])  # scores 2, 1, 0
    zero, target = torch.zeros(3), torch.tensor([0])
    drawn = torch.tensor([0, 1, 2])  # the target itself does not count
    share = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()

    def sigmoid(x):
        return 1 / (1 + np.exp(-np.asarray(x)))

    bpr = -np.log((share * sigmoid([1.0, 2.0])).sum()) + 0.5 * (share * [1.0, 0.0]).sum()
    top1 = (share * (sigmoid([-1.0, -2.0]) + sigmoid([1.0, 0.0]))).sum()
    found = pairwise_max_loss(h, table, zero, target, drawn_S=drawn, kind="bpr_max", penalty=0.5)
    assert float(found) == pytest.approx(bpr, rel=1e-5)
    found = pairwise_max_loss(h, table, zero, target, drawn_S=drawn, kind="top1_max")
    assert float(found) == pytest.approx(top1, rel=1e-5)
