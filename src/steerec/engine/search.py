"""Search for the settings of one head: which of many do best on held-out cases, in given time."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steerec.data.dataset import Dataset
from steerec.data.split import Cases
from steerec.engine.holdout import hold_out
from steerec.engine.lessons import Aids, Teacher
from steerec.engine.model import FitConfig, batches, rankable
from steerec.errors import ConfigError, DataError, MissingExtraError
from steerec.evaluation.metrics import ndcg
from steerec.evaluation.ranks import ranks_of
from steerec.heads.contract import Head, unwatched

log = logging.getLogger(__name__)

MOST_CASES = 2_000  # held-out cases that a trial is measured on


@dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, whole where both are; `log`: as many in each doubling."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Span | tuple[Any, ...]]  # setting → where to look; a tuple lists choices

_DECAY = Span(0.3, 0.99)
_RATES: Space = {
    "learning_rate": Span(3e-4, 1e-2, log=True),
    "matrix_rate": Span(2.0, 30.0, log=True),
    "width": (32, 64, 96, 128),
    "dropout": Span(0.0, 0.5),
    "id_dropout": Span(0.0, 0.3),
}
SPACES: Mapping[str, Space] = {
    "trending": {"held_out": Span(0.02, 0.5, log=True), "rounds": (10, 50, 200)},
    "repeat": {
        "l2": Span(0.5, 100.0, log=True),
        "shrink": Span(1.0, 100.0, log=True),
        "newest_steps": Span(2, 32, log=True),
    },
    "transitions": {
        "fade": Span(0.2, 0.95),
        "steps": Span(1, 50, log=True),
        "same_basket": Span(0.0, 1.0),
        "shrink": Span(0.5, 100.0, log=True),
        "decay": _DECAY,
    },
    "autoregressive": {
        "decays": ((0.4, 0.9), (0.5, 0.95), (0.8,), (0.2, 0.6, 0.9), (0.6, 0.98)),
        "l2": Span(0.1, 50.0, log=True),
        "cut": (0.01, 0.02, 0.05),
    },
    "ease": {
        "l2": Span(10.0, 3_000.0, log=True),
        "decay": Span(0.3, 1.0),
        "last": (50, 100, 200, 500, 1_000),
    },
    "item_knn": {
        "neighbours": (100, 300, 1_000),
        "decay": _DECAY,
        "shrink": Span(0.5, 100.0, log=True),
        "asker": Span(0.0, 1.0),
        "popularity": Span(0.0, 1.0),
    },
    "user_knn": {
        "neighbours": Span(50, 1_000, log=True),
        "decay": _DECAY,
        "last": Span(3, 50, log=True),
        "rarity": Span(0.0, 2.0),
        "popularity": Span(0.0, 1.0),
    },
    "als": {
        "factors": (32, 64, 128),
        "l2": Span(0.05, 50.0, log=True),
        "alpha": Span(0.5, 100.0, log=True),
        "iterations": Span(3, 15),
        "decay": _DECAY,
    },
    "ratings": {
        "factors": (6, 12, 24),
        "shrink": Span(5.0, 500.0, log=True),
        "unrated": Span(0.0, 1.0),
    },
    "content": {
        "dims": (64, 128, 256),
        "decay": _DECAY,
        "last": Span(3, 100, log=True),
        "lexical_weight": Span(0.0, 6.0),
    },
    "sequence": {**_RATES, "length": (50, 100, 200), "layers": ("f", "a", "fa", "fafa")},
    "gru": {**_RATES, "length": (20, 50, 100), "memory": (64, 128, 256)},
    "two_tower": {**_RATES, "hidden": (64, 128, 256), "user_dropout": Span(0.0, 0.4)},
    "demographic": {"bins": Span(2, 12), "least_users": Span(5, 100, log=True)},
    "social": {"second": Span(0.0, 1.0), "most_shared": Span(50, 5_000, log=True)},
}


@dataclass(frozen=True)
class Trial:
    """One try: settings that differ from the defaults, NDCG@10 of the head alone, seconds."""

    settings: Mapping[str, Any]
    ndcg: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How long to search.

    Attributes:
        minutes: after which no trial begins, and one that trains by epochs is cut off.
        trials: at most; None: as many as there is time for.
    """

    minutes: float
    trials: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes > 0 or (self.trials is not None and self.trials < 1):
            raise ConfigError(
                f"minutes={self.minutes}, trials={self.trials}: expected above 0, and at least 1"
            )


def search(
    name: str,
    data: Dataset,
    config: FitConfig,
    how: SearchConfig,
    *,
    watch: Callable[[str, int, int], None] = unwatched,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Try settings of one head; the first try is the head as `config` has it.

    Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization (TPE).

    Returns:
        All trials that ended, best first.
    Raises:
        ConfigError: if there is no table of settings for the head.
        DataError: if no trial came to an end.
        MissingExtraError: if Optuna is not installed.
    """
    if name not in SPACES:
        raise ConfigError(f"no search space for {name!r}; there is one for {', '.join(SPACES)}")
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=how.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    bench = _Bench.of(name, data, config, how, watch, clock)
    given = dict(config.settings.get(name, {}))
    bench.run(given)
    while bench.goes_on():
        trial = study.ask()
        found = {key: _suggest(trial, key, where) for key, where in SPACES[name].items()}
        done = bench.run({**given, **found})
        if done is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, done.ndcg)
    if not bench.trials:
        reason = bench.teacher.lost.get(name, "give more time, or fewer epochs")
        raise DataError(f"no trial of {name} ended within {how.minutes:g} minutes: {reason}")
    return sorted(bench.trials, key=lambda one: -one.ndcg)


def to_toml(name: str, settings: Mapping[str, Any]) -> str:
    """The settings of a head as a file that `--config` takes."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join([f"[heads.{name}]", *lines, ""])


class _OutOfTimeError(Exception):
    """The budget ended in the middle of a training."""


@dataclass
class _Bench:
    """Where settings are tried: one split, one clock, the same seed for each."""

    name: str
    train: Dataset
    cases: Cases
    repeats: bool
    how: SearchConfig
    teacher: Teacher
    clock: Callable[[], float]
    began: float
    tried: int = 0
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        name: str,
        data: Dataset,
        config: FitConfig,
        how: SearchConfig,
        watch: Callable[[str, int, int], None],
        clock: Callable[[], float],
    ) -> "_Bench":
        split, began = hold_out(data, config), clock()
        cases = split.cases
        if len(cases) > MOST_CASES:
            rng = np.random.default_rng(how.seed)
            cases = cases.take(np.sort(rng.choice(len(cases), MOST_CASES, replace=False)))

        def tell(what: str, done: int, total: int) -> None:
            watch(what, done, total)
            if clock() - began > 60 * how.minutes:
                raise _OutOfTimeError

        repeats = data.has_repeats if config.repeats is None else config.repeats
        teacher = Teacher({}, Aids(), tell)
        return cls(name, split.train, cases, repeats, how, teacher, clock, began)

    def goes_on(self) -> bool:
        """Whether there is time for one more trial as long as those before."""
        if self.how.trials is not None and self.tried >= self.how.trials:
            return False
        used = self.clock() - self.began
        return used + used / self.tried <= 60 * self.how.minutes

    def run(self, settings: Mapping[str, Any]) -> Trial | None:
        """Fit and measure; None if the head was lost, or time was."""
        began = self.clock()
        self.tried += 1
        self.teacher.settings = {self.name: settings}
        try:
            head = self.teacher.fit(self.name, self.train, np.random.default_rng(self.how.seed))
        except _OutOfTimeError:
            log.info("head=%s trial=%d out_of_time=true", self.name, self.tried)
            return None
        if head is None:
            return None
        found = ndcg_alone(head, self.cases, repeats=self.repeats)
        done = Trial(settings, found, self.clock() - began)
        log.info("head=%s trial=%d ndcg=%.4f", self.name, self.tried, found)
        self.trials.append(done)
        return done


def ndcg_alone(head: Head, cases: Cases, *, repeats: bool) -> float:
    """Mean NDCG@10 of a head's own lists, over the whole catalogue."""
    ranks = []
    for start, stop in batches(len(cases), 4 * cases.data.n_items):
        states = [head.start(h) for h in cases.histories(start, stop)]
        scores = head.score(states, None, cases.now[start:stop])
        row = np.repeat(np.arange(stop - start), np.diff(cases.offsets[start : stop + 1]))
        targets = cases.targets[cases.offsets[start] : cases.offsets[stop]]
        skip = ~rankable(cases, start, stop, repeats=repeats)
        ranks.append(ranks_of(scores, targets, row=row, skip=skip))
    group = np.repeat(np.arange(len(cases)), np.diff(cases.offsets))
    return float(ndcg(np.concatenate(ranks), 10, group=group).mean())


def _suggest(trial: Any, key: str, where: Span | tuple[Any, ...]) -> Any:
    if isinstance(where, tuple):  # by number, since Optuna takes no lists as choices
        return where[trial.suggest_categorical(key, list(range(len(where))))]
    if isinstance(where.low, int) and isinstance(where.high, int):
        return trial.suggest_int(key, where.low, where.high, log=where.log)
    return float(f"{trial.suggest_float(key, where.low, where.high, log=where.log):.4g}")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as e:
        raise MissingExtraError(
            "searching for settings needs Optuna: pip install 'steerec[search]'"
        ) from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the trials are told by us
    return optuna
