"""Gradient training by epochs: schedule, early stopping, curve, checkpoint and resume."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steerec.errors import ConfigError, TrainingError
from steerec.heads.contract import Lesson

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings that all trained heads share."""

    epochs: int = 16  # passes over the events, at most
    learning_rate: float = 2e-3  # at its peak; it warms up, stays, and falls to 0 as a cosine
    matrix_rate: float = 10.0  # learning rate of weight matrices, as a multiple of the others'
    patience: int = 4  # epochs clearly below the best validation before training ends early
    validation_users: int = 1_000  # users whose last event is held back to stop by; 0: none
    batch_tokens: int = 6_400  # events in a batch, fewer where the data would give under 60 batches
    device: str = "auto"  # cpu, cuda, or auto: cuda where there is one
    threads: int = 0  # CPU threads; 0: one for few events, which more only slow, else all

    def __post_init__(self) -> None:
        """Check the ranges."""
        if (
            min(self.epochs, self.patience, self.batch_tokens) < 1
            or min(self.validation_users, self.threads) < 0
        ):
            raise ConfigError(
                f"epochs={self.epochs}, patience={self.patience}, batch_tokens="
                f"{self.batch_tokens}, validation_users={self.validation_users}, "
                f"threads={self.threads}: expected at least 1, 1, 1, 0 and 0"
            )
        if not 0 < self.learning_rate < 1 or self.matrix_rate <= 0:
            raise ConfigError(
                f"learning_rate={self.learning_rate}, matrix_rate={self.matrix_rate}: expected in "
                "(0, 1), and above 0"
            )
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise ConfigError(f"device={self.device!r}: expected auto, cpu, cuda or cuda:N")


class Teachable(Protocol):
    """What `train` needs to know of a network and its data."""

    @property
    def net(self) -> nn.Module:
        """The network to train."""
        ...

    def batches(self, rng: np.random.Generator) -> Sequence[Any]:
        """One epoch of batches."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of a batch, to be differentiated."""
        ...

    def validate(self) -> Sequence[float] | None:
        """One gain for each event held back, higher is better; None: nothing is held back."""
        ...


@dataclass
class Progress:
    """Where a training stands: what a checkpoint keeps beside the tensors.

    Attributes:
        curve: one entry an epoch: epoch, loss, validation (or None), seconds.
        best: gains of the best validation so far.
        kept: the epoch whose weights would be served.
    """

    curve: list[dict[str, Any]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    kept: int = 0
    rng: Mapping[str, Any] = field(default_factory=dict)


def device_of(config: TrainingConfig) -> torch.device:
    """The device to train on.

    Raises:
        ConfigError: if cuda is asked for and there is none.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device={config.device!r}, but PyTorch sees no CUDA device: use device = 'cpu', or "
            "install a CUDA build of PyTorch"
        )
    return torch.device(config.device)


def fingerprint(name: str, config: Any, content_hash: str) -> str:
    """What a checkpoint must match to be taken up: head, settings, events."""
    text = json.dumps([name, asdict(config), content_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train(
    name: str,
    lesson: Teachable,
    config: TrainingConfig,
    rng: np.random.Generator,
    *,
    aid: Lesson,
    mark: str,
) -> list[dict[str, Any]]:
    """Train the network in place; it ends with the weights of its last good epoch.

    An epoch is good unless its validation lies below the best one by more than the standard error
    of their difference: the rate falls to the end, so a later epoch is better than the luck of an
    earlier one. Training ends after `patience` epochs in a row that are not good.

    A checkpoint in `aid.folder` with the same `mark`, seed and first weights is gone on from,
    exactly as if training had never stopped; others are ignored.

    Returns:
        The curve, one entry an epoch.
    Raises:
        TrainingError: if the loss is no number any more, or memory ran out.
    """
    seed = int(rng.integers(2**31))
    mark = _starting_mark(mark, seed, lesson.net)
    run = _Run(name, lesson, config, aid, mark, np.random.default_rng(seed))
    with torch.random.fork_rng(), limited_threads(config.threads):
        torch.manual_seed(seed)
        try:
            return run.to_the_end()
        except (MemoryError, torch.OutOfMemoryError) as e:
            raise _too_big(name, config) from e
        except RuntimeError as e:
            if "alloc" in str(e):  # PyTorch has no class of its own for the memory of a CPU
                raise _too_big(name, config) from e
            raise


def _starting_mark(mark: str, seed: int, net: nn.Module) -> str:
    """The mark with the seed and the weights a training starts from, drawn or earlier learnt."""
    digest = hashlib.sha256(f"{mark} {seed}".encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Let PyTorch use so many threads of the CPU for a while; 0: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _too_big(name: str, config: TrainingConfig) -> TrainingError:
    return TrainingError(
        f"{name}: memory ran out in training: lower batch_tokens (now {config.batch_tokens}) or "
        "the width of the network"
    )


class _Run:
    """One training from its start, or its checkpoint, to its end."""

    def __init__(
        self,
        name: str,
        lesson: Teachable,
        config: TrainingConfig,
        aid: Lesson,
        mark: str,
        rng: np.random.Generator,
    ) -> None:
        self.name, self.lesson, self.config, self.aid, self.mark = name, lesson, config, aid, mark
        self.rng = rng
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.optimizers = optimizers(lesson.net, config)

    def to_the_end(self) -> list[dict[str, Any]]:
        self._take_up()
        began = time.perf_counter()
        for epoch in range(len(self.progress.curve), self.config.epochs):
            if self._finished():
                break
            loss = self._epoch(epoch)
            self._close(epoch, loss, time.perf_counter() - began)
            began = time.perf_counter()
        self._tell(self.config.epochs)
        if self.best:
            self.lesson.net.load_state_dict(self.best)
        self.lesson.net.eval()
        return self.progress.curve

    def _epoch(self, epoch: int) -> float:
        net, batches = self.lesson.net, self.lesson.batches(self.rng)
        net.train()
        total, n = 0.0, len(batches)
        for step, batch in enumerate(batches):
            self._tell(epoch + step / n)
            total += self._step(batch, pace(epoch + step / n, self.config))
            if not np.isfinite(total):
                raise TrainingError(
                    f"{self.name}: the loss is no number in epoch {epoch + 1}, step {step + 1}: "
                    f"lower learning_rate (now {self.config.learning_rate}), or look for extreme "
                    "numbers in the vectors"
                )
        return total / max(n, 1)

    def _step(self, batch: Any, share: float) -> float:
        """One step at this share of the peak learning rate; the loss before it."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak"]
            optimizer.zero_grad(set_to_none=True)
        loss = self.lesson.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.lesson.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())

    def _close(self, epoch: int, loss: float, seconds: float) -> None:
        """Validate, keep the best, write the checkpoint."""
        self.lesson.net.eval()
        gains = self.lesson.validate()
        found = None if gains is None else float(np.mean(gains))
        entry = {"epoch": epoch + 1, "loss": loss, "validation": found, "seconds": seconds}
        self.progress.curve.append(entry)
        log.info(
            "head=%s epoch=%d loss=%.4f validation=%s seconds=%.1f",
            self.name, epoch + 1, loss, "none" if found is None else f"{found:.4f}", seconds,
        )  # fmt: skip
        if gains is not None and good(gains, self.progress.best):
            self.progress.kept = epoch + 1
            state = self.lesson.net.state_dict()
            self.best = {k: v.detach().clone() for k, v in state.items()}
        if gains is not None and np.mean(gains) > np.mean(self.progress.best or [-np.inf]):
            self.progress.best = [float(g) for g in gains]
        self._keep()

    def _finished(self) -> bool:
        """Whether the last `patience` epochs were not good."""
        if not self.progress.best:
            return False
        return len(self.progress.curve) - self.progress.kept >= self.config.patience

    def _tell(self, epochs: float) -> None:
        self.aid.watch(f"train {self.name}", int(1_000 * epochs), 1_000 * self.config.epochs)

    def _files(self) -> tuple[Path, Path] | None:
        if self.aid.folder is None:
            return None
        stem = self.aid.folder / f"{self.name}-{self.mark}"
        return stem.with_suffix(".json"), stem.with_suffix(".safetensors")

    def _keep(self) -> None:
        """Write the checkpoint; the JSON comes last and names the tensors it belongs to."""
        if (files := self._files()) is None:
            return
        about, tensors = files
        about.parent.mkdir(parents=True, exist_ok=True)
        part = tensors.with_suffix(f".{len(self.progress.curve)}.part")
        save_file(self._tensors(), part)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        part.replace(tensors)
        self.progress.rng = self.rng.bit_generator.state
        text = json.dumps({**asdict(self.progress), "sha256": digest})
        part = about.with_suffix(".json.part")
        part.write_text(text, "utf-8")
        part.replace(about)

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"net.{k}": v for k, v in self.lesson.net.state_dict().items()}
        found |= {f"best.{k}": v for k, v in self.best.items()}
        for which, optimizer in enumerate(self.optimizers):
            for number, state in optimizer.state_dict()["state"].items():
                found |= {f"step{which}.{number}.{k}": v for k, v in state.items()}
        found["torch_rng"] = torch.get_rng_state()
        return {k: v.detach().contiguous().clone() for k, v in found.items()}

    def _take_up(self) -> None:
        """Go on from the checkpoint, if there is one that is whole."""
        files = self._files()
        if files is None or not all(file.is_file() for file in files):
            return
        about = json.loads(files[0].read_text("utf-8"))
        if hashlib.sha256(files[1].read_bytes()).hexdigest() != about.pop("sha256"):
            log.warning("head=%s checkpoint=%s torn=true: training from the start", *files)
            return
        self.progress = Progress(**about)
        self.rng.bit_generator.state = self.progress.rng
        found = load_file(files[1])
        device = next(self.lesson.net.parameters()).device
        torch.set_rng_state(found.pop("torch_rng"))
        kept = {k: v.to(device) for k, v in found.items()}
        self.lesson.net.load_state_dict(_part(kept, "net."))
        self.best = _part(kept, "best.")
        for which, optimizer in enumerate(self.optimizers):
            _load_state(optimizer, _part(kept, f"step{which}."))
        log.info("head=%s resumed_after_epoch=%d", self.name, len(self.progress.curve))


def _load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, what = key.partition(".")
        state.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def good(gains: Sequence[float], best: Sequence[float]) -> bool:
    """Whether gains lie at most one standard error of the difference below the best ones."""
    if not best:
        return True
    difference = np.subtract(gains, best)
    error = difference.std() / np.sqrt(len(difference))
    return bool(difference.mean() >= -error)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def pace(epoch: float, config: TrainingConfig) -> float:
    """Learning rate at this (fractional) epoch, as a share of its peak.

    Up over the first twentieth, level to three tenths, then down as a cosine.
    """
    p = epoch / config.epochs
    if p < 0.05:
        return max(p / 0.05, 0.01)
    return 1.0 if p < 0.3 else max(0.5 * (1 + float(np.cos(np.pi * (p - 0.3) / 0.7))), 0.01)


def optimizers(net: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices of the body, Adam for everything else.

    Source: Jordan et al. 2024, Muon; Kingma and Ba 2015, Adam.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if name.startswith("body.") and _is_matrix(name, p)]
    taken = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in taken]
    rate = config.learning_rate
    made: list[torch.optim.Optimizer] = [torch.optim.Adam(others, rate, betas=(0.9, 0.98))]
    if matrices:
        made.append(torch.optim.Muon(matrices, config.matrix_rate * rate, weight_decay=0.0))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def _is_matrix(name: str, p: Tensor) -> bool:
    return p.ndim == 2 and name.endswith("weight")
