"""Fine-tune a sentence model on what people took next: contrastive, low rank, merged at the end."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steerec.data.counted import counted
from steerec.encoders.finetuned import FineTuneConfig, FineTuned
from steerec.encoders.models import ModelFiles, find_model
from steerec.encoders.pairs import Pairs
from steerec.encoders.settings import EncoderConfig
from steerec.encoders.student import Judge, Student, require_peft
from steerec.encoders.text import cpu_threads
from steerec.errors import ConfigError, DataError

log = logging.getLogger(__name__)

LEAST_PAIRS = 100  # to learn from
LEAST_HELD_OUT = 20
MOST_HELD_OUT = 400  # pairs to stop by, and as many others to tell by
POOL = 600  # texts among which held-out targets are looked for, at least


def base_model(config: EncoderConfig, cache_dir: Path | None) -> ModelFiles:
    """The model that fine-tuning begins with: the configured encoder's.

    Raises:
        ConfigError: if the encoder is none that can be fine-tuned.
        EncoderError: if the model cannot be found.
    """
    if config.encoder not in ("text", "onnx"):
        raise ConfigError(
            f"encoder.encoder = {config.encoder!r} cannot be fine-tuned: set text or onnx, which "
            "read sentence-transformers models"
        )
    return find_model(config, cache_dir)


def finetune(
    files: ModelFiles,
    pairs: Pairs,
    held_out: Pairs,
    config: FineTuneConfig,
    *,
    seed: int = 0,
    threads: int = 0,
    checkpoint: Path | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> FineTuned:
    """Teach a model that a history's text and the text of what came next lie close.

    Each pair of a batch has the targets of all others as negatives, but for those that its user
    took as well. A text that is taken often is a negative as often, so that closeness means "more
    than its popularity says"; heads that count know popularity better.

    Source: van den Oord et al. 2018 (InfoNCE); Hu et al. 2022, LoRA.

    Args:
        checkpoint: file that keeps the place; if it is of the same training, that goes on there.
        watch: called with (steps done, steps in all).
    Raises:
        DataError: if there are too few pairs, or no step foretold held-out pairs better than the
            model as it was.
        EncoderError: if the files are not a sentence model.
        MissingExtraError: if `peft` is not installed.
        TrainingError: if the loss is no number.
    """
    _check_enough(pairs, held_out)
    require_peft()
    began, rng = clock(), np.random.default_rng(seed)
    by, tell = _judges(held_out, rng)

    def goes_on(step: int) -> bool:
        watch(step, config.steps)
        return step < config.steps and clock() - began < 60 * config.minutes

    with cpu_threads(threads):
        student = Student.of(files, config, seed)
        course = _Course(student, pairs, by, _key(files, pairs, config, seed), checkpoint)
        before = course.begin(tell)
        course.run(goes_on)
        after = student.judge(tell)
        if after <= before:
            raise DataError(_no_gain(before, after, course.curve, len(tell.held)))
        model, pool, seconds = student.merged(), len(tell.pool), clock() - began
    return FineTuned(model, files, config, before, after, pool, len(pairs), course.curve, seconds)


def _check_enough(pairs: Pairs, held_out: Pairs) -> None:
    for found, least, what in (
        (len(pairs), LEAST_PAIRS, "pairs of a history and what came next"),
        (len(held_out), LEAST_HELD_OUT, "such pairs held out"),
    ):
        if found < least:
            raise DataError(f"{found} {what}, expected at least {least}: give more events")


@dataclass
class _Course:
    """A training: where it stands, and the best state so far.

    Attributes:
        by: pairs to stop by.
        key: of everything that decides what is learnt.
        before: the frozen model's figure on the pairs to tell by.
    """

    student: Student
    pairs: Pairs
    by: Judge
    key: str
    checkpoint: Path | None
    before: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    def begin(self, tell: Judge) -> float:
        """Measure the frozen model, or go on where a killed training stopped; its figure."""
        if self._recalled():
            return self.before
        self.before = self.student.judge(tell)
        self.curve = [(0, self.student.judge(self.by))]
        self.best = self.student.state()
        return self.before

    def run(self, goes_on: Callable[[int], bool]) -> None:
        """Learn, and leave the student as it was at its best on the pairs to stop by."""
        config, more = self.student.config, not self._patience_is_over()
        while more and self.student.step < config.steps:
            self.student.learn(self.pairs)
            step = self.student.step
            more = goes_on(step)
            if more and step % config.check_every:
                continue
            gain = self.student.judge(self.by)
            if gain > max(known for _, known in self.curve):
                self.best = self.student.state()
            self.curve.append((step, gain))
            log.info("finetune step=%d ndcg=%.4f", step, gain)
            self._keep()
            more = more and not self._patience_is_over()
        self.student.restore(self.best)

    def _patience_is_over(self) -> bool:
        config = self.student.config
        best_step = max(self.curve, key=lambda point: point[1])[0]
        return self.student.step - best_step >= config.patience * config.check_every

    def _keep(self) -> None:
        from safetensors.torch import save_file

        if self.checkpoint is None:
            return
        now = {f"now.{n}": t.contiguous() for n, t in self.student.memory().items()}
        best = {f"best.{n}": t for n, t in self.best.items()}
        about = {"key": self.key, "before": self.before, "curve": self.curve}
        part = self.checkpoint.with_name(f"{self.checkpoint.name}.part")
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_file({**now, **best}, part, metadata={"about": json.dumps(about)})
        part.replace(self.checkpoint)

    def _recalled(self) -> bool:
        """Whether the checkpoint is of this training; then it is taken up."""
        from safetensors import SafetensorError, safe_open

        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError):
            log.warning("finetune checkpoint=%s damaged action=begin_again", self.checkpoint)
            return False
        if about["key"] != self.key:
            return False
        parts: dict[str, dict[str, Any]] = {"now": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.before, self.best = about["before"], parts["best"]
        self.curve = [(int(step), float(gain)) for step, gain in about["curve"]]
        self.student.recall(parts["now"], self.curve[-1][0])
        log.info("finetune checkpoint=%s step=%d", self.checkpoint, self.student.step)
        return True


def _key(files: ModelFiles, pairs: Pairs, config: FineTuneConfig, seed: int) -> str:
    """Another model, other pairs, settings or another seed give another key."""
    digest = hashlib.sha256(json.dumps([files.sha256, asdict(config), seed]).encode())
    digest.update("\0".join(pairs.texts).encode())
    for array in (pairs.history, pairs.target, pairs.user_idx):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _no_gain(before: float, after: float, curve: list[tuple[int, float]], n: int) -> str:
    best = max(gain for _, gain in curve[1:])
    return (
        f"fine-tuning brought nothing: NDCG@10 on the pairs to stop by is {curve[0][1]:.4f} before "
        f"and at best {best:.4f} after; on {counted(n, 'other pair')} {before:.4f} and "
        f"{after:.4f}: keep the encoder as it is, or give more events"
    )


def _judges(held_out: Pairs, rng: np.random.Generator) -> tuple[Judge, Judge]:
    """Pairs to stop by, and others to tell by."""
    order = rng.permutation(len(held_out))[: 2 * MOST_HELD_OUT]
    half = len(order) // 2
    return _judge(held_out.take(order[:half]), rng), _judge(held_out.take(order[half:]), rng)


def _judge(held: Pairs, rng: np.random.Generator) -> Judge:
    n_texts = len(held.texts)
    others = rng.choice(n_texts, min(POOL, n_texts), replace=False)
    return Judge(held, np.union1d(others, held.target).astype(np.int32))
