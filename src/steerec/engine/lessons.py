"""Fitting heads: the plain ones at once, those that train by epochs with what helps them."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerec.contracts import Indices
from steerec.data.dataset import Dataset
from steerec.data.split import leave_last_out
from steerec.engine.blend import Examples
from steerec.errors import ConfigError, DataError, TrainingError
from steerec.heads import load_head
from steerec.heads.contract import Head, Lesson

if TYPE_CHECKING:
    from steerec.engine.model import FitConfig, Model

log = logging.getLogger(__name__)

SHORT = 0.05  # share of all events that are their user's last one, above which histories are short


@dataclass(frozen=True)
class Aids:
    """What a fit may use beside data and settings.

    Attributes:
        checkpoints: folder where heads that train keep their place after each epoch, so that a
            fit that was killed goes on; None: they start over.
        heads: fitted heads to go on from, as of an earlier snapshot.
        item_index: item_id → index in those heads.
        newest: Unix seconds of the newest event that the heads have seen; None: there are none.
        share: of the epochs of a whole training that a head with an earlier one trains.
        learnt_from: told what the weights were fitted on, which is gone after the fit.
    """

    checkpoints: Path | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    item_index: Mapping[str, int] = field(default_factory=dict)
    newest: float | None = None
    share: float = 1.0
    learnt_from: Callable[[Examples], object] = lambda _: None


@dataclass(frozen=True)
class TrainedOn:
    """What heads that train by epochs learn from, whatever those that count learn from.

    Attributes:
        first: before calibration and θ are fitted.
        rest: what they go on with afterwards; None: they stay as they are.
    """

    first: Dataset
    rest: Dataset | None


def trained_on(
    data: Dataset, first: Dataset, *, last: bool, withheld: bool, config: "FitConfig"
) -> TrainedOn:
    """What heads that train learn from in both rounds.

    θ believes a head as far as it was right on held-out cases, so in the end each must know the
    newest events as well, or as little, as it did there. Where histories are long, users' last
    events are hardly any news, and such a head stays as it is. Where it may not learn them and
    histories are short, it lacks one more of each user in the first round.

    Args:
        data: all events.
        first: those of which heads learn in the first round.
        last: whether users' last events were held out.
        withheld: whether items were left out of the first round.
    """
    if config.refit != "continue":
        return TrainedOn(first, None)
    if not last:
        return TrainedOn(first, data)
    short = data.n_users > SHORT * data.n_events
    if not config.withhold_last:
        return TrainedOn(first, data if short or withheld else None)
    known = leave_last_out(data).train
    users = np.bincount(first.user_idx, minlength=data.n_users) > 0
    items = np.bincount(first.item_idx, minlength=data.n_items) > 0
    before = _without_last(known) if short else known
    both = users[before.user_idx] & items[before.item_idx]
    return TrainedOn(before.take(both), known if short or withheld else None)


def _without_last(data: Dataset) -> Dataset:
    try:
        return leave_last_out(data).train
    except DataError:  # nobody has two events
        return data


def going_on_from(model: "Model", *, share: float, checkpoints: Path | None = None) -> Aids:
    """What a fit needs to go on from the trained heads of an earlier model.

    Args:
        share: of the epochs of a whole training.
    Raises:
        DataError: if the model's events have no times: what its heads have not seen cannot be told.
    """
    if not model.data.has_times:
        raise DataError(
            "the earlier snapshot's events have no times, so which cases it has not seen cannot be "
            "told: fit without --from"
        )
    return Aids(
        checkpoints=checkpoints,
        heads={name: head for name, head in model.heads.items() if trains(name)},
        item_index=model.data.item_index,
        newest=float(model.data.time.max()),
        share=share,
    )


def with_training(config: "FitConfig", *, epochs: int | None, device: str | None) -> "FitConfig":
    """The settings of a fit with these for all its heads that train by epochs; None: as they are.

    Raises:
        ConfigError: if a value is out of range, the device is not there, or no head trains by
            epochs.
    """
    given = {"epochs": epochs, "device": device}
    told = {key: value for key, value in given.items() if value is not None}
    names = [name for name in config.heads if trains(name)]
    if told and not names:
        raise ConfigError(
            f"{told}: none of the heads {', '.join(config.heads)} trains by epochs; those that do "
            "come with --heads trained or all"
        )
    settings = {name: {**config.settings.get(name, {}), **told} for name in names}
    if told:
        from steerec.heads.training import device_of

        for name in names:
            device_of(head_config(name, settings[name]))
    return replace(config, settings={**config.settings, **settings})


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
        config = head_config(name, self.settings.get(name, {}), baskets=data.has_baskets)
        lesson = Lesson(self.watch, self.aids.checkpoints)
        if trains(name) and name in self.aids.heads:
            rows = _rows(data, self.aids.item_index)
            lesson = replace(lesson, previous=self.aids.heads[name], rows=rows)
            config = replace(config, epochs=ceil(config.epochs * self.aids.share))
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
        further = self._fit(name, data, config, rng, lesson)
        if further is not None:
            _join_curves(head, further)
        return further

    def _fit(
        self, name: str, data: Dataset, config: Any, rng: np.random.Generator, lesson: Lesson
    ) -> Head | None:
        kind = load_head(name)
        began = time.perf_counter()
        try:
            more = (lesson,) if trains(name) else ()
            head: Head = kind.fit(data, config, rng, *more)
        except (DataError, TrainingError) as e:
            # What data lack is no fault; a training that was lost is.
            level = logging.INFO if isinstance(e, DataError) else logging.WARNING
            log.log(level, "head=%s left_out reason=%s", name, e)
            self.lost[name] = str(e)
            return None
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return head


def _join_curves(earlier: Any, further: Any) -> None:
    """Let the curve of a head begin with that of the head it went on from."""
    before, after = getattr(earlier, "curve", []), getattr(further, "curve", [])
    rest = [{**entry, "epoch": entry["epoch"] + len(before), "continued": True} for entry in after]
    if before:
        further.curve = [*before, *rest]


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
    """(n_items,): each item's index in an earlier catalogue, -1 where it is new.

    Items without events in `data` count as new too: they may be withheld to learn what to make of
    items never seen, and what was learnt of them earlier must not be known then.
    """
    rows = np.array([item_index.get(item_id, -1) for item_id in data.item_ids], np.int32)
    rows[np.bincount(data.item_idx, minlength=data.n_items) == 0] = -1
    return rows


def early_heads(
    teacher: Teacher,
    train: Dataset,
    lessons: TrainedOn,
    config: "FitConfig",
    rng: np.random.Generator,
) -> dict[str, Head]:
    """The heads that held-out cases are scored with."""
    early: dict[str, Head] = {}
    for number, name in enumerate(config.heads):
        teacher.watch(f"fit {name} (held-out round)", number, 2 * len(config.heads) + 2)
        if (head := teacher.fit(name, lessons.first if trains(name) else train, rng)) is not None:
            early[name] = head
    if not early:
        raise DataError(f"none of the heads {config.heads} could be fitted on these data")
    return early


def late_heads(
    teacher: Teacher,
    early: dict[str, Head],
    data: Dataset,
    lessons: TrainedOn,
    config: "FitConfig",
    rng: np.random.Generator,
) -> dict[str, Head]:
    """The heads to serve; empties `early`, so that no head is held twice for long."""
    late: dict[str, Head] = {}
    for number, name in enumerate(list(early)):
        teacher.watch(f"fit {name}", len(config.heads) + 2 + number, 2 * len(config.heads) + 2)
        late[name] = _second_round(teacher, name, early.pop(name), data, lessons, config, rng)
    return late


def _second_round(
    teacher: Teacher,
    name: str,
    head: Head,
    data: Dataset,
    lessons: TrainedOn,
    config: "FitConfig",
    rng: np.random.Generator,
) -> Head:
    """The head to serve: fitted on everything; one that trains goes on from the first round."""
    if not trains(name) or config.refit == "full":
        return teacher.fit(name, data, rng) or head
    if lessons.rest is None:
        return head
    return teacher.go_on(name, head, lessons.rest, rng, share=config.refit_share) or head
