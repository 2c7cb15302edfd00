"""Fine-tune a sentence model on what people took next: contrastive, low rank, merged at the end."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.data.counted import counted
from steerec.encoders.finetuned import FineTuneConfig, FineTuned, query_text
from steerec.encoders.models import ModelFiles, find_model
from steerec.encoders.pairs import NONE, Pairs
from steerec.encoders.settings import EncoderConfig
from steerec.encoders.text import cpu_threads, load_sentence_model
from steerec.errors import ConfigError, DataError, MissingExtraError, TrainingError

log = logging.getLogger(__name__)

LEAST_PAIRS = 100  # to learn from
LEAST_HELD_OUT = 20
MOST_HELD_OUT = 400  # pairs to stop by, and as many others to tell by
POOL = 600  # texts among which held-out targets are looked for, at least
_TOP = 10


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
    watch: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> FineTuned:
    """Teach a model that a history's text and the text of what came next lie close.

    Each pair of a batch has the targets of all others as negatives, but for those that its user
    took as well. A text that is taken often is a negative as often, so that closeness means "more
    than its popularity says"; heads that count know popularity better.

    Source: van den Oord et al. 2018 (InfoNCE); Hu et al. 2022, LoRA.

    Args:
        watch: called with (steps done, steps in all).
    Raises:
        DataError: if there are too few pairs, or no step foretold held-out pairs better than the
            model as it was.
        EncoderError: if the files are not a sentence model.
        MissingExtraError: if `peft` is not installed.
        TrainingError: if the loss is no number.
    """
    _check_enough(pairs, held_out)
    _peft()
    began, rng = clock(), np.random.default_rng(seed)
    by, tell = _judges(held_out, rng)

    def goes_on(step: int) -> bool:
        watch(step, config.steps)
        return step < config.steps and clock() - began < 60 * config.minutes

    with cpu_threads(threads):
        student = _Student.of(files, config, seed)
        before = student.judge(tell)
        curve = _teach(student, pairs, by, rng, goes_on)
        after = student.judge(tell)
        if after <= before:
            raise DataError(_no_gain(before, after, curve, len(tell.held)))
        model, pool = student.merged(), len(tell.pool)
    return FineTuned(model, files, config, before, after, pool, len(pairs), curve, clock() - began)


def _check_enough(pairs: Pairs, held_out: Pairs) -> None:
    for found, least, what in (
        (len(pairs), LEAST_PAIRS, "pairs of a history and what came next"),
        (len(held_out), LEAST_HELD_OUT, "such pairs held out"),
    ):
        if found < least:
            raise DataError(f"{found} {what}, expected at least {least}: give more events")


def _teach(
    student: "_Student",
    pairs: Pairs,
    by: "_Judge",
    rng: np.random.Generator,
    goes_on: Callable[[int], bool],
) -> list[tuple[int, float]]:
    """Leave the student as it was at its best on the pairs to stop by; the curve."""
    config = student.config
    curve = [(0, student.judge(by))]
    best, best_step = student.state(), 0
    for step, batch in enumerate(_batches(pairs, config, rng), start=1):
        student.learn(pairs, batch, plain=bool(rng.random() < config.plain))
        more = goes_on(step)
        if more and step % config.check_every:
            continue
        curve.append((step, student.judge(by)))
        log.info("finetune step=%d ndcg=%.4f", *curve[-1])
        if curve[-1][1] > max(gain for _, gain in curve[:-1]):
            best, best_step = student.state(), step
        if not more or step - best_step >= config.patience * config.check_every:
            break
    student.restore(best)
    return curve


def _no_gain(before: float, after: float, curve: list[tuple[int, float]], n: int) -> str:
    best = max(gain for _, gain in curve[1:])
    return (
        f"fine-tuning brought nothing: NDCG@10 on the pairs to stop by is {curve[0][1]:.4f} before "
        f"and at best {best:.4f} after; on {counted(n, 'other pair')} {before:.4f} and "
        f"{after:.4f}: keep the encoder as it is, or give more events"
    )


@dataclass(frozen=True)
class _Judge:
    """Held-out pairs, and the texts among which their targets are looked for."""

    held: Pairs
    pool: Indices  # places in held.texts, sorted


def _judges(held_out: Pairs, rng: np.random.Generator) -> tuple[_Judge, _Judge]:
    """Pairs to stop by, and others to tell by."""
    order = rng.permutation(len(held_out))[: 2 * MOST_HELD_OUT]
    half = len(order) // 2
    return _judge(held_out.take(order[:half]), rng), _judge(held_out.take(order[half:]), rng)


def _judge(held: Pairs, rng: np.random.Generator) -> _Judge:
    n_texts = len(held.texts)
    others = rng.choice(n_texts, min(POOL, n_texts), replace=False)
    return _Judge(held, np.union1d(others, held.target).astype(np.int32))


def _batches(
    pairs: Pairs, config: FineTuneConfig, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Positions of the pairs of each step; every pair comes once before any comes again."""
    size = min(config.batch_pairs, len(pairs))
    left = np.empty(0, np.int64)
    for _ in range(config.steps):
        if len(left) < size:
            left = np.concatenate([left, rng.permutation(len(pairs))])
        yield left[:size]
        left = left[size:]


@dataclass
class _Student:
    """A sentence model whose low-rank changes learn, while its own weights stay."""

    model: Any
    adapted: Any
    optimiser: Any
    schedule: Any
    config: FineTuneConfig

    @classmethod
    def of(cls, files: ModelFiles, config: FineTuneConfig, seed: int) -> "_Student":
        import torch

        peft = _peft()
        model = load_sentence_model(files, config.max_tokens)
        torch.manual_seed(seed)
        body = model[0].auto_model
        lora = peft.LoraConfig(
            r=config.rank,
            lora_alpha=2 * config.rank,
            target_modules=_matrices(body, config.layers),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers an old name
            adapted = peft.get_peft_model(body, lora)
        learnt = [p for p in adapted.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learnt, config.learning_rate, weight_decay=0.01)
        rise = max(1, config.steps // 10)

        def rate(step: int) -> float:
            return min((step + 1) / rise, (config.steps - step) / max(1, config.steps - rise))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return cls(model, adapted, optimiser, schedule, config)

    def learn(self, pairs: Pairs, chosen: NDArray[np.int64], *, plain: bool) -> None:
        """One step on a batch."""
        import torch

        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=_has_fast_bfloat16()):
            asked = self._encode(self._queries(pairs, chosen, plain=plain))
            targets = self._encode([pairs.texts[t] for t in pairs.target[chosen]])
        logits = asked.float() @ targets.float().T / self.config.temperature
        logits = logits.masked_fill(torch.from_numpy(pairs.no_negative(chosen)), -torch.inf)
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(chosen)))
        if not torch.isfinite(loss):
            raise TrainingError("fine-tuning: the loss is no number; lower finetune.learning_rate")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.adapted.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()

    def judge(self, judge: _Judge) -> float:
        """Mean NDCG@10 of the held-out targets, asked with and without the instruction."""
        held = judge.held
        items = self._vectors([held.texts[t] for t in judge.pool])
        place = np.searchsorted(judge.pool, held.target)
        every = np.arange(len(held))
        gains = []
        for plain in (False, True):
            scores = self._vectors(self._queries(held, every, plain=plain)) @ items.T
            known = (judge.pool == held.history[:, :, None]).any(axis=1)
            scores[known] = -np.inf
            own = scores[every, place][:, None]
            rank = (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) + 1) / 2
            gains.append(np.where(rank <= _TOP, 1 / np.log2(1 + rank), 0.0).mean())
        return float(np.mean(gains))

    def state(self) -> dict[str, Any]:
        """What was learnt so far."""
        return {n: p.detach().clone() for n, p in self._learnt()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        import torch

        with torch.no_grad():
            for name, parameter in self._learnt():
                parameter.copy_(state[name])

    def merged(self) -> Any:
        """The sentence model with the changes added to its weights, nothing of peft left."""
        self.model[0].auto_model = self.adapted.merge_and_unload()
        return self.model.eval()

    def _learnt(self) -> Iterator[tuple[str, Any]]:
        return ((n, p) for n, p in self.adapted.named_parameters() if p.requires_grad)

    def _queries(self, pairs: Pairs, chosen: NDArray[np.int64], *, plain: bool) -> list[str]:
        rows = pairs.history[chosen]
        if plain:
            return [pairs.texts[t] for t in rows[:, 0]]
        return [
            query_text(self.config.instruction, [pairs.texts[t] for t in r if t != NONE])
            for r in rows
        ]

    def _encode(self, texts: list[str]) -> Any:
        """(n, dim) tensor of unit rows, each distinct text read once."""
        import torch

        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        read = getattr(self.model, "preprocess", None) or self.model.tokenize  # its older name
        features = read(list(place))
        vectors = self.model(features)["sentence_embedding"]
        unit = torch.nn.functional.normalize(vectors, dim=1)
        return unit[torch.tensor([place[text] for text in texts])]

    def _vectors(self, texts: list[str]) -> Floats:
        import torch

        self.model.eval()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        chunks = (order[start : start + 64] for start in range(0, len(order), 64))
        with torch.no_grad():
            parts = [self._encode([texts[i] for i in chunk]).numpy() for chunk in chunks]
        found: Floats = np.concatenate(parts)
        return found[np.argsort(order)]


def _matrices(body: Any, layers: int) -> list[str]:
    """Names of the linear maps that change: of all numbered layers, or of the last ones."""
    import torch

    named = {}
    for name, module in body.named_modules():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if isinstance(module, torch.nn.Linear) and numbers:
            named[name] = numbers[0]
    if not named:
        raise ConfigError("the model has no numbered layers of linear maps: it cannot be adapted")
    first = max(named.values()) + 1 - layers if layers else 0
    return [name for name, layer in named.items() if layer >= first]


def _has_fast_bfloat16() -> bool:
    """Whether this processor has tiles for it, which halve the time of a step."""
    import torch

    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(asked and asked())


def _peft() -> Any:
    try:
        import peft
    except ImportError as e:
        raise MissingExtraError(
            "fine-tuning an encoder needs peft: pip install 'steerec[finetune]'"
        ) from e
    return peft
