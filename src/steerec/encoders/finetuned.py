"""A fine-tuned sentence model: its settings, what it gained, and its folder like any other's."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steerec.encoders.models import ModelFiles, quiet_libraries
from steerec.errors import ConfigError, DataError

PROMPT = "next"  # the instruction's name among the exported model's prompts
NOTE = "finetuned.json"
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """How an encoder is fine-tuned.

    Attributes:
        last: newest events of a history that make its text.
        plain: share of the batches that ask with the newest event's text alone, without the
            instruction, since that is how heads compare items.
    """

    steps: int = 300  # batches, at most
    minutes: float = 60.0  # after which training ends wherever it is
    batch_pairs: int = 64  # pairs in a batch, each the negative of all others
    instruction: str = "What the same person takes next after: "  # leads the text of a history
    last: int = 2
    plain: float = 0.5
    learning_rate: float = 5e-4  # at its peak, after a tenth of the steps; then it falls to 0
    temperature: float = 0.05  # of the softmax over cosines
    rank: int = 8  # of the change of each weight matrix
    layers: int = 3  # layers that change, counted from the last; 0: all
    max_tokens: int = 48  # texts are cut there while training
    check_every: int = 50  # steps between looks at held-out pairs
    patience: int = 3  # looks without a gain after which training ends

    def __post_init__(self) -> None:
        least = {
            "steps": 1, "batch_pairs": 2, "last": 1, "rank": 1, "layers": 0, "max_tokens": 8,
            "check_every": 1, "patience": 1,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(
                    f"finetune {name} = {getattr(self, name)}: expected at least {low}"
                )
        if not 0 < self.learning_rate < 1 or not 0 < self.temperature <= 1:
            raise ConfigError(
                f"finetune learning_rate = {self.learning_rate}, temperature = "
                f"{self.temperature}: expected above 0 and at most 1"
            )
        if not 0 <= self.plain <= 1 or not self.minutes > 0:
            raise ConfigError(
                f"finetune plain = {self.plain}, minutes = {self.minutes}: expected 0 to 1, and "
                "above 0"
            )


@dataclass(frozen=True)
class FineTuned:
    """A sentence model with what it learnt merged into its weights.

    Attributes:
        model: the sentence-transformers model.
        files: of the model it began as.
        before, after: NDCG@10 on held-out pairs that training neither learnt from nor stopped by,
            targets among `pool` texts.
        curve: (step, NDCG@10 on the pairs to stop by), from step 0, the model as it was.
        about: what else the folder's note shall say.
    """

    model: Any
    files: ModelFiles
    config: FineTuneConfig
    before: float
    after: float
    pool: int
    n_pairs: int
    curve: list[tuple[int, float]]
    seconds: float
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write a model folder that any reader of sentence-transformers models takes, or nothing.

        Its files are those of the model it began as, but for the weights and the instruction.

        Raises:
            DataError: if the folder holds something else, or cannot be written.
        """
        check_folder(folder)
        part = folder.absolute().with_name(f".{folder.absolute().name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            _copy(self.files.folder, part)
            with quiet_libraries():
                self.model[0].auto_model.save_pretrained(part / "weights")
            (part / "weights" / _WEIGHTS).replace(part / _WEIGHTS)
            shutil.rmtree(part / "weights")
            _add_prompt(part / "config_sentence_transformers.json", self.config.instruction)
            (part / NOTE).write_text(json.dumps(self.told(), indent=1), "utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
        except OSError as e:
            raise DataError(f"{folder} cannot be written ({e}): check folder and space") from e

    def told(self) -> dict[str, Any]:
        """What made this model and what it gained, for its folder and for machines."""
        return {
            "base": self.files.key,
            "ndcg@10": {"before": self.before, "after": self.after, "pool": self.pool},
            "pairs": self.n_pairs,
            "curve": [list(point) for point in self.curve],
            "seconds": self.seconds,
            "config": asdict(self.config),
            **self.about,
        }


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a model fine-tuned before.

    Raises:
        DataError: if it does.
    """
    if (
        folder.exists()
        and not (folder / NOTE).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise DataError(
            f"{folder} holds something that is no fine-tuned model: give a new or empty folder"
        )


def query_text(instruction: str, texts: Sequence[str]) -> str:
    """The text that stands for a history, newest text first, as a fine-tuned model learnt it."""
    return instruction + ". ".join(text.rstrip(". ") for text in texts)


def _copy(source: Path, target: Path) -> None:
    """All of a model folder that its modules name, but for the weights of the first."""
    target.mkdir(parents=True)
    modules = json.loads((source / "modules.json").read_text("utf-8"))
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model"):
            shutil.copyfile(file, target / file.name)
    for path in {str(m["path"]) for m in modules} - {""}:
        if (source / path).is_dir():
            shutil.copytree(source / path, target / path)


def _add_prompt(file: Path, instruction: str) -> None:
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    known["prompts"] = {**(known.get("prompts") or {}), PROMPT: instruction}
    file.write_text(json.dumps(known, indent=2, ensure_ascii=False), "utf-8")
