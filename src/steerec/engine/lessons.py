"""Fitting one head: the plain ones at once, those that train by epochs with what helps them."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from steerec.contracts import Indices
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError, TrainingError
from steerec.heads import load_head
from steerec.heads.contract import Head, Lesson

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aids:
    """What a fit may use beside data and settings.

    Attributes:
        checkpoints: folder where heads that train keep their place after each epoch, so that a
            fit that was killed goes on; None: they start over.
        heads: fitted heads to go on from, as of an earlier snapshot.
        item_index: item_id → index in those heads.
    """

    checkpoints: Path | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    item_index: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Teacher:
    """Fits heads by name, keeps their times, and says which were lost and why.

    Attributes:
        settings: head name → its settings.
        watch: called with what is done, steps done and steps in all.
        seconds: head name → seconds of fitting, over both rounds.
        lost: head name → why it was left out.
    """

    settings: Mapping[str, Mapping[str, Any]]
    aids: Aids
    watch: Callable[[str, int, int], None]
    seconds: dict[str, float] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def fit(self, name: str, data: Dataset, rng: np.random.Generator) -> Head | None:
        """A fitted head; None for one that is lost, which is logged."""
        rows = _rows(data, self.aids.item_index) if name in self.aids.heads else None
        lesson = Lesson(self.watch, self.aids.checkpoints, self.aids.heads.get(name), rows)
        config = head_config(name, self.settings.get(name, {}), baskets=data.has_baskets)
        return self._fit(name, data, config, rng, lesson)

    def go_on(
        self, name: str, head: Head, data: Dataset, rng: np.random.Generator, *, share: float
    ) -> Head | None:
        """The head trained further on more data of the same catalogue.

        Args:
            share: of the epochs of a whole training.
        """
        config = head_config(name, self.settings.get(name, {}), baskets=data.has_baskets)
        config = replace(config, epochs=ceil(config.epochs * share))
        rows = np.arange(data.n_items, dtype=np.int32)
        lesson = Lesson(self.watch, self.aids.checkpoints, head, rows)
        return self._fit(name, data, config, rng, lesson)

    def _fit(
        self, name: str, data: Dataset, config: Any, rng: np.random.Generator, lesson: Lesson
    ) -> Head | None:
        kind = load_head(name)
        began = time.perf_counter()
        try:
            more = (lesson,) if trains(name) else ()
            head: Head = kind.fit(data, config, rng, *more)
        except (DataError, TrainingError) as e:
            log.warning("head=%s left_out reason=%s", name, e)
            self.lost[name] = str(e)
            return None
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return head


def trains(name: str) -> bool:
    """Whether the head trains by epochs, so that a second fit costs as much as the first."""
    return bool(getattr(load_head(name), "trains", False))


def head_config(name: str, settings: Mapping[str, Any], *, baskets: bool = False) -> Any:
    """The settings object of a head.

    Args:
        baskets: whether the data comes in baskets: then a head's settings for baskets (its
            FOR_BASKETS) are the defaults.

    Raises:
        ConfigError: if a setting is unknown or out of range.
    """
    kind = load_head(name)
    config_kind = getattr(import_module(kind.__module__), f"{kind.__name__}Config")
    unknown = set(settings) - set(config_kind.__dataclass_fields__)
    if unknown:
        known = ", ".join(config_kind.__dataclass_fields__)
        raise ConfigError(f"{name} has no setting {sorted(unknown)}; it has: {known}")
    fixed = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    defaults = getattr(config_kind, "FOR_BASKETS", {}) if baskets else {}
    return config_kind(**{**defaults, **fixed})


def _rows(data: Dataset, item_index: Mapping[str, int]) -> Indices:
    """(n_items,): each item's index in an earlier catalogue, -1 where it is new."""
    return np.array([item_index.get(item_id, -1) for item_id in data.item_ids], np.int32)
