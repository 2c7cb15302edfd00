"""A sentence model whose low-rank changes learn, while its own weights stay."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.encoders.finetuned import FineTuneConfig, query_text
from steerec.encoders.models import ModelFiles
from steerec.encoders.pairs import NONE, Pairs
from steerec.encoders.text import load_sentence_model
from steerec.errors import ConfigError, MissingExtraError, TrainingError

_TOP = 10


@dataclass(frozen=True)
class Judge:
    """Held-out pairs, and the texts among which their targets are looked for."""

    held: Pairs
    pool: Indices  # places in held.texts, sorted


@dataclass
class Student:
    """A sentence model whose low-rank changes learn, while its own weights stay."""

    model: Any
    adapted: Any
    optimiser: Any
    config: FineTuneConfig
    seed: int
    step: int = 0

    @classmethod
    def of(cls, files: ModelFiles, config: FineTuneConfig, seed: int) -> "Student":
        """A student of this model that has learnt nothing yet."""
        import torch

        peft = require_peft()
        model = load_sentence_model(files, config.max_tokens)
        body = model[0].auto_model
        lora = peft.LoraConfig(
            r=config.rank,
            lora_alpha=2 * config.rank,
            target_modules=_matrices(body, config.layers),
        )
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers an old name
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(body, lora)
        learnt = [p for p in adapted.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(learnt, config.learning_rate, weight_decay=0.01)
        return cls(model, adapted, optimiser, config, seed)

    def learn(self, pairs: Pairs) -> None:
        """One step, on a batch that the seed and the number of the step decide."""
        import torch

        self.model.train()
        chosen, plain = self._batch(len(pairs))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + self.step)  # which numbers are dropped
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
        self.optimiser.param_groups[0]["lr"] = self._rate()
        self.optimiser.step()
        self.step += 1

    def judge(self, judge: Judge) -> float:
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

    def memory(self) -> dict[str, Any]:
        """All tensors that going on needs."""
        moments = {
            f"optimiser.{number}.{name}": tensor
            for number, one in self.optimiser.state_dict()["state"].items()
            for name, tensor in one.items()
        }
        return {**{f"learnt.{n}": p for n, p in self.state().items()}, **moments}

    def recall(self, memory: dict[str, Any], step: int) -> None:
        """Go on from what `memory` gave after so many steps."""
        cut = len("learnt.")
        self.restore({n[cut:]: t for n, t in memory.items() if n.startswith("learnt.")})
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in memory.items():
            kind, _, rest = key.partition(".")
            if kind == "optimiser":
                number, _, name = rest.partition(".")
                moments.setdefault(int(number), {})[name] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.step = step

    def merged(self) -> Any:
        """The sentence model with the changes added to its weights, nothing of peft left."""
        self.model[0].auto_model = self.adapted.merge_and_unload()
        return self.model.eval()

    def _batch(self, n_pairs: int) -> tuple[NDArray[np.int64], bool]:
        """Positions of this step's pairs, and whether they ask plainly.

        Every pair comes once before any comes again, but for the few that fill no batch.
        """
        size = min(self.config.batch_pairs, n_pairs)
        epoch, place = divmod(self.step, n_pairs // size)
        order = np.random.default_rng([self.seed, epoch]).permutation(n_pairs)
        plain = np.random.default_rng([self.seed, epoch, place]).random() < self.config.plain
        return order[place * size : (place + 1) * size], bool(plain)

    def _rate(self) -> float:
        """The learning rate: it rises over a tenth of the steps, then falls to 0."""
        steps, rise = self.config.steps, max(1, self.config.steps // 10)
        rising, falling = (self.step + 1) / rise, (steps - self.step) / max(1, steps - rise)
        return self.config.learning_rate * min(rising, falling)

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


def require_peft() -> Any:
    """The library of low-rank changes.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import peft
    except ImportError as e:
        raise MissingExtraError(
            "fine-tuning an encoder needs peft: pip install 'steerec[finetune]'"
        ) from e
    return peft
