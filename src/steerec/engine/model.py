"""The fitted recommender: heads, their calibrations, φ and the strategy, fitted without leakage."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices, Strategy, Times
from steerec.data.dataset import Dataset
from steerec.data.split import Cases, Split, leave_last_out, split_baskets, split_by_time
from steerec.engine.blend import (
    BlendConfig,
    Candidates,
    fit_theta,
    pick_candidates,
    with_newcomers,
)
from steerec.engine.calibrate import Calibration, CalibrationConfig, Sample, fit_calibration
from steerec.engine.phi import NO_HISTORY, Phi, PhiConfig
from steerec.errors import ConfigError, DataError
from steerec.heads import HEADS, load_head
from steerec.heads.contract import Head

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps in all
MOST_NEWCOMERS = 1_000  # cases without history that the weights for newcomers are fitted on
BATCH_BYTES = 256_000_000  # scores of all heads held at once


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
        heads: names from the table of heads, or `module:Class` of your own.
        holdout: how the cases for calibration and θ are set aside: auto, last, time, basket.
        repeats: whether items of a user's own history may be recommended; None: if the data has
            at least 2 % repeats.
        settings: head name → its settings.
    """

    heads: tuple[str, ...] = tuple(HEADS)
    holdout: str = "auto"
    holdout_quantile: float = 0.9
    repeats: bool | None = None
    only_new: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    phi: PhiConfig = field(default_factory=PhiConfig)

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads={self.heads}: expected at least one, none twice")
        if self.holdout not in ("auto", "last", "time", "basket"):
            raise ConfigError(f"holdout={self.holdout!r}: expected auto, last, time or basket")
        if not 0 < self.holdout_quantile < 1:
            raise ConfigError(f"holdout_quantile={self.holdout_quantile}: expected in (0, 1)")
        unknown = set(self.settings) - set(self.heads)
        if unknown:
            raise ConfigError(f"settings for {sorted(unknown)}, which are not among the heads")


@dataclass(frozen=True)
class Model:
    """Everything a recommendation is made from, immutable but for the heads' live counts.

    Attributes:
        data: the events it was fitted on; histories of known users come from here.
        heads: name → fitted head, in the order of `strategy.heads`.
        repeats: whether items of a user's own history may be recommended.
        seconds: how long each part of the fit took.
    """

    data: Dataset
    heads: Mapping[str, Head]
    calibrations: Mapping[str, Calibration]
    phi: Phi
    strategy: Strategy
    repeats: bool
    seconds: Mapping[str, float] = field(default_factory=dict)

    def states(self, histories: Sequence[History]) -> dict[str, list[Any]]:
        """Each head's states for these histories."""
        return {name: [head.start(h) for h in histories] for name, head in self.heads.items()}

    def weights(self, histories: Sequence[History], now: Times) -> NDArray[np.float64]:
        """(n_histories, n_heads) float64: w = θφ of each request."""
        return np.asarray(self.phi(histories, now) @ self.strategy.theta.T)

    def scores(
        self, histories: Sequence[History], items: Indices | None, now: Times
    ) -> tuple[dict[str, Floats], Floats, Floats]:
        """Raw scores by head, z (n_heads, n_histories, n) and the blend (n_histories, n)."""
        lengths = np.array([len(h) for h in histories])
        raw = {
            name: head.score([head.start(h) for h in histories], items, now)
            for name, head in self.heads.items()
        }
        z = np.stack([self.calibrations[name](raw[name], lengths) for name in self.heads])
        w = self.weights(histories, now).astype(np.float32)
        return raw, z, np.einsum("ch,hcn->cn", w, z)

    def batches(self, n_cases: int) -> Iterator[tuple[int, int]]:
        """Ranges of cases whose scores fit in memory together."""
        return batches(n_cases, self.data.n_items * (len(self.heads) + 2))


def batches(n_cases: int, numbers_per_case: int) -> Iterator[tuple[int, int]]:
    """Ranges of cases such that 4 bytes for each number stay within BATCH_BYTES."""
    size = int(np.clip(BATCH_BYTES // (4 * max(numbers_per_case, 1)), 1, 500))
    for start in range(0, n_cases, size):
        yield start, min(start + size, n_cases)


def rankable(cases: Cases, start: int, stop: int, *, repeats: bool) -> NDArray[np.bool_]:
    """(stop - start, n_items): which items may be ranked for each case."""
    allowed = np.ones((stop - start, cases.data.n_items), bool)
    if not repeats:
        for row, case in enumerate(range(start, stop)):
            allowed[row, cases.history(case).item_idx] = False
    return allowed


def target_mask(cases: Cases, start: int, stop: int) -> NDArray[np.bool_]:
    """(stop - start, n_items): the targets of each case."""
    mask = np.zeros((stop - start, cases.data.n_items), bool)
    sizes = np.diff(cases.offsets[start : stop + 1])
    rows = np.repeat(np.arange(stop - start), sizes)
    mask[rows, cases.targets[cases.offsets[start] : cases.offsets[stop]]] = True
    return mask


def fit(
    data: Dataset,
    config: FitConfig,
    rng: np.random.Generator,
    *,
    progress: Progress | None = None,
) -> Model:
    """Fit all heads, their calibrations and θ.

    Calibration and θ are fitted on held-out cases that the heads have not seen; then the heads are
    fitted again on everything.

    Raises:
        DataError: if there is too little data to hold anything out, or no head can be fitted.
    """
    tell = progress or (lambda what, done, total: None)
    seconds: dict[str, float] = {}
    repeats = data.has_repeats if config.repeats is None else config.repeats
    split = hold_out(data, config)
    cases = _sample_cases(split.cases, config.blend.max_cases, rng)
    steps = 2 * len(config.heads) + 2
    early: dict[str, Head] = {}
    for number, name in enumerate(config.heads):
        tell(f"fit {name} (held-out round)", number, steps)
        _fit_into(early, name, split.train, config, rng, seconds)
    if not early:
        raise DataError(f"none of the heads {config.heads} could be fitted on these data")
    tell("calibrate", len(config.heads), steps)
    began = time.perf_counter()
    phi = Phi.fit(split.train, config.phi)
    calibrations, candidates = _learn_from(cases, early, phi, repeats, config, rng)
    newcomers = _newcomers(cases, rng.spawn(1)[0])
    strange = _candidates(newcomers, early, calibrations, phi, repeats, config, rng.spawn(1)[0])
    seconds["calibrate"] = time.perf_counter() - began
    tell("fit the blend", len(config.heads) + 1, steps)
    began = time.perf_counter()
    theta = fit_theta(candidates, config.blend)
    theta = with_newcomers(theta, phi.names.index(NO_HISTORY), strange, config.blend)
    seconds["blend"] = time.perf_counter() - began
    del candidates, strange
    final: dict[str, Head] = {}
    for number, name in enumerate(list(early)):
        tell(f"fit {name}", len(config.heads) + 2 + number, steps)
        del early[name]  # the old one goes before the new one comes: memory
        _fit_into(final, name, data, config, rng, seconds)
    tell("done", steps, steps)
    strategy = Strategy(tuple(final), phi.names, theta)
    return Model(data, final, calibrations, phi, strategy, repeats, seconds)


def hold_out(data: Dataset, config: FitConfig) -> Split:
    """Set cases aside: by basket or time where the data has them, else each user's last event."""
    kind = config.holdout
    if kind == "auto":
        kind = "time" if data.has_times else "last"
        if kind == "time" and len(np.unique(data.time)) < 10:
            kind = "last"
    if kind == "basket":
        return split_baskets(data, config.holdout_quantile, only_new=config.only_new)
    if kind == "time":
        return split_by_time(data, config.holdout_quantile)
    return leave_last_out(data)


def _sample_cases(cases: Cases, most: int, rng: np.random.Generator) -> Cases:
    if len(cases) <= most:
        return cases
    return cases.take(np.sort(rng.choice(len(cases), most, replace=False)))


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


def _fit_into(
    heads: dict[str, Head],
    name: str,
    data: Dataset,
    config: FitConfig,
    rng: np.random.Generator,
    seconds: dict[str, float],
) -> None:
    """Fit one head; one that these data cannot teach is left out, and that is logged."""
    kind = load_head(name)
    settings = config.settings.get(name, {})
    head_settings = head_config(name, settings, baskets=data.has_baskets)
    began = time.perf_counter()
    try:
        heads[name] = kind.fit(data, head_settings, rng)
    except DataError as e:
        log.warning("head=%s left_out reason=%s", name, e)
        return
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


def _newcomers(cases: Cases, rng: np.random.Generator) -> Cases:
    """Some of the cases with the history taken away, as from a user never seen."""
    some = _sample_cases(cases, MOST_NEWCOMERS, rng)
    return replace(some, stop=some.data.starts[some.user_idx])


def _learn_from(
    cases: Cases,
    heads: Mapping[str, Head],
    phi: Phi,
    repeats: bool,  # noqa: FBT001 - private
    config: FitConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, Calibration], Candidates]:
    samples = _draw_samples(cases, heads, config.calibration, repeats=repeats, rng=rng)
    calibrations = {n: fit_calibration(s, config.calibration) for n, s in samples.items()}
    return calibrations, _candidates(cases, heads, calibrations, phi, repeats, config, rng)


def _candidates(
    cases: Cases,
    heads: Mapping[str, Head],
    calibrations: Mapping[str, Calibration],
    phi: Phi,
    repeats: bool,  # noqa: FBT001 - private
    config: FitConfig,
    rng: np.random.Generator,
) -> Candidates:
    """What the fit of θ reads of these cases."""
    parts: list[Candidates] = []
    width = cases.data.n_items * (len(heads) + 4)
    for start, stop in batches(len(cases), width):
        histories = cases.histories(start, stop)
        lengths = np.array([len(h) for h in histories])
        now = cases.now[start:stop]
        z = np.stack(
            [
                calibrations[name](
                    head.score([head.start(h) for h in histories], None, now), lengths
                )
                for name, head in heads.items()
            ]
        )
        ranked = rankable(cases, start, stop, repeats=repeats)
        target = target_mask(cases, start, stop)
        picked = pick_candidates(z, ranked, target, config.blend, rng)
        parts.append(Candidates(*picked, phi(histories, now)))
    return _join(parts)


def _join(parts: list[Candidates]) -> Candidates:
    """One table from batches of different widths."""
    width = max(p.z.shape[1] for p in parts)

    def pad(x: Floats, fill: float) -> Floats:
        edges = [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, edges, constant_values=fill)

    return Candidates(
        np.concatenate([pad(p.z, 0.0) for p in parts]),
        np.concatenate([pad(p.log_weight, -np.inf) for p in parts]),
        np.concatenate([pad(p.target, 0.0) for p in parts]),
        np.concatenate([p.phi for p in parts]),
    )


def _draw_samples(
    cases: Cases,
    heads: Mapping[str, Head],
    config: CalibrationConfig,
    *,
    repeats: bool,
    rng: np.random.Generator,
) -> dict[str, Sample]:
    """Scores of the targets, and of whole catalogues for some of the cases."""
    cases = _sample_cases(cases, config.max_cases, rng)
    n_drawn = int(np.clip(config.max_background // max(cases.data.n_items, 1), 50, len(cases)))
    drawn = np.zeros(len(cases), bool)
    drawn[rng.choice(len(cases), min(n_drawn, len(cases)), replace=False)] = True
    length = cases.lengths()
    sizes = np.diff(cases.offsets)
    samples = {}
    for name, head in heads.items():
        target, item = [], []
        ranked_counts = []
        for start, stop in batches(len(cases), 3 * cases.data.n_items):
            states = [head.start(h) for h in cases.histories(start, stop)]
            scores = head.score(states, None, cases.now[start:stop])
            rows = np.repeat(np.arange(stop - start), sizes[start:stop])
            target.append(scores[rows, cases.targets[cases.offsets[start] : cases.offsets[stop]]])
            ranked = rankable(cases, start, stop, repeats=repeats)[drawn[start:stop]]
            item.append(np.where(ranked, scores[drawn[start:stop]], np.nan))
            ranked_counts.append(ranked.sum(axis=1))
        samples[name] = Sample(
            np.concatenate(target),
            np.repeat(length, sizes),
            np.repeat(1 / np.maximum(sizes, 1), sizes),
            np.concatenate(item),
            length[drawn],
            np.concatenate(ranked_counts),
        )
    return samples
