"""The fitted recommender: heads, their calibrations, φ and the strategy, fitted without leakage."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices, Strategy, Times
from steerec.data.dataset import Dataset
from steerec.data.split import Cases, Split, withhold
from steerec.engine.blend import (
    BlendConfig,
    Candidates,
    Examples,
    pick_candidates,
)
from steerec.engine.calibrate import Calibration, CalibrationConfig, Sample, fit_calibration
from steerec.engine.fused import Fused
from steerec.engine.holdout import hold_out, resolved_holdout
from steerec.engine.kin import with_kin
from steerec.engine.lessons import Aids, Teacher, early_heads, late_heads, trained_on
from steerec.engine.newcomers import TASTE_FROM, first_steps, set_users_aside
from steerec.engine.own import had_before, joined_own, with_own
from steerec.engine.phi import UNSEEN_ITEM, Phi, PhiConfig, spans_days, without_hours
from steerec.engine.pool import PoolConfig
from steerec.engine.scorer import Scorer, for_each
from steerec.engine.weights import weigh
from steerec.errors import ConfigError
from steerec.heads import QUICK
from steerec.heads.contract import Head, unwatched

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps in all
MOST_NEWCOMERS = 1_000  # cases without history that the weights for newcomers are fitted on
UNSEEN_DIAL = "unseen_items"  # nats that an item without events gets beside what heads say of it
BATCH_BYTES = 64_000_000  # scores of all heads held at once


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
        heads: names from the table of heads, or `module:Class` of your own; those that train by
            epochs are asked for by name.
        holdout: how the cases for calibration and θ are set aside: auto, last, time, basket; see
            engine.holdout.
        repeats: whether items of a user's own history may be recommended; None: if the data has
            at least 2 % repeats.
        refit: what becomes of heads that train by epochs once calibration and θ are fitted: they
            continue on what was held out, train again in full, or never.
        refit_share: share of the epochs for which they continue.
        withhold_last: heads that train never learn users' last events, as protocols ask.
        drop_idle: leave out heads that do not help on held-out cases.
        settings: head name → its settings.
    """

    heads: tuple[str, ...] = QUICK
    holdout: str = "auto"
    holdout_quantile: float = 0.9
    repeats: bool | None = None
    only_new: bool = False
    refit: str = "continue"
    refit_share: float = 0.25
    withhold_last: bool = False
    drop_idle: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    phi: PhiConfig = field(default_factory=PhiConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads={self.heads}: expected at least one, none twice")
        if self.holdout not in ("auto", "last", "time", "basket"):
            raise ConfigError(f"holdout={self.holdout!r}: expected auto, last, time or basket")
        if not 0 < self.holdout_quantile < 1:
            raise ConfigError(f"holdout_quantile={self.holdout_quantile}: expected in (0, 1)")
        if self.refit not in ("continue", "full", "never") or not 0 < self.refit_share <= 1:
            raise ConfigError(
                f"refit={self.refit!r}, refit_share={self.refit_share}: expected continue, full or "
                "never, and in (0, 1]"
            )
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
        fused: what the blend says, as one small matrix; None up to the pool's `full_catalogue`.
        say: what each head has to say, as in `Weights`; empty: not known.
    """

    data: Dataset
    heads: Mapping[str, Head]
    calibrations: Mapping[str, Calibration]
    phi: Phi
    strategy: Strategy
    repeats: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    fused: Fused | None = None
    say: Mapping[str, float] = field(default_factory=dict)

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
        return raw, z, self.blended(z, histories, items, now)

    def blended(
        self, z: Floats, histories: Sequence[History], items: Indices | None, now: Times
    ) -> Floats:
        """(n_histories, n) scores of the blend from z, as `scores` gives it."""
        phi = self.phi(histories, now)
        w = (phi @ self.strategy.theta.T).astype(np.float32)
        blend = np.einsum("ch,hcn->cn", w, z)
        new = self.unseen if items is None else self.unseen[items]
        if new.any():
            more, dial = self.for_unseen
            blend[:, new] += np.einsum("h,hcn->cn", more.astype(np.float32), z[:, :, new]) + dial
        if self.phi.tells_own:
            blend += self.of_own(z, histories, items, phi)
        return np.asarray(blend)

    def of_own(
        self,
        z: Floats,
        histories: Sequence[History],
        items: Indices | None,
        phi: NDArray[np.float64],
    ) -> Floats:
        """(n_histories, n) float32: nats that items of each one's own history get beside Σ w z."""
        more = self.phi.of_own(phi) @ self.strategy.theta.T
        nats = np.zeros(z.shape[1:], np.float32)
        for row, history in enumerate(histories):
            had = had_before(history, self.data.n_items)
            own = np.flatnonzero(had if items is None else had[items])
            nats[row, own] = more[row].astype(np.float32) @ z[:, row, own]
        return nats

    @cached_property
    def unseen(self) -> NDArray[np.bool_]:
        """(n_items,): items without events in `data`."""
        return np.asarray(np.bincount(self.data.item_idx, minlength=self.data.n_items) == 0)

    @property
    def for_unseen(self) -> tuple[NDArray[np.float64], float]:
        """What an item without events gets more: (n_heads,) weights, and nats beside."""
        column = self.phi.names.index(UNSEEN_ITEM)
        return self.strategy.theta[:, column], self.strategy.dials.get(UNSEEN_DIAL, 0.0)

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
    aids: Aids | None = None,
) -> Model:
    """Fit all heads, their calibrations and θ.

    Calibration and θ are fitted on held-out cases that the heads have not seen; then the heads are
    fitted again on everything. Where the catalogue has items without events, some items are
    withheld from that first round, and what θ adds for items never seen is fitted on them.

    Raises:
        DataError: if there is too little data to hold anything out, or no head can be fitted.
    """
    tell, aids = progress or unwatched, aids or Aids()
    repeats = data.has_repeats if config.repeats is None else config.repeats
    absent = np.bincount(data.item_idx, minlength=data.n_items) == 0
    split = hold_out(data, config, after=aids.newest)
    unseen = _pretend_unseen(split.cases, absent, config.blend.unseen_share, rng)
    last = resolved_holdout(data, config, after=aids.newest) == "last"
    withheld = bool(unseen.any())
    split, few = _for_first_round(split, unseen, config, rng, last=last, repeats=repeats)
    lessons = trained_on(data, split.train, last=last, withheld=withheld, config=config)
    steps, teacher = 2 * len(config.heads) + 2, Teacher(config.settings, aids, tell)
    early = with_kin(early_heads(teacher, split.train, lessons, config, rng), unseen | absent)
    tell("calibrate", len(config.heads), steps)
    began = time.perf_counter()
    phi = Phi.fit(split.train, config.phi)
    phi = replace(phi, taste_from=TASTE_FROM) if few else phi
    phi = replace(phi, fitted=np.diff(split.train.starts)) if repeats else phi
    first = _FirstRound(early, phi, repeats, config, unseen, absent, few)
    calibrations, examples = _learn_from(split, first, rng)
    teacher.seconds["calibrate"] = time.perf_counter() - began
    tell("fit the blend", len(config.heads) + 1, steps)
    began = time.perf_counter()
    weights = weigh(examples, config.blend, aids.learnt_from, drop_idle=config.drop_idle)
    teacher.seconds["blend"] = time.perf_counter() - began
    del examples, first
    early = {name: early[name] for name in weights.heads}
    final = with_kin(late_heads(teacher, early, data, lessons, config, rng), absent)
    dials = {UNSEEN_DIAL: weights.unseen_nats}
    strategy = Strategy(tuple(final), phi.names, weights.theta, dials=dials)
    curves = {name: calibrations[name] for name in final}
    phi = replace(phi, fitted=np.diff(data.starts)) if repeats else phi
    model = Model(data, final, curves, phi, strategy, repeats, teacher.seconds, say=weights.say)
    return _with_fused(model, config.pool, rng.spawn(1)[0])


def _with_fused(model: Model, config: PoolConfig, rng: np.random.Generator) -> Model:
    """The model with its fused matrix, where the catalogue is too big to be scored as a whole."""
    data = model.data
    if data.n_items <= config.full_catalogue:
        return model
    began = time.perf_counter()

    def blend(histories: Sequence[History], now: Times) -> Floats:
        return model.scores(histories, None, now)[2]

    fused = Fused.fit(data, blend, config.fused, rng, repeats=model.repeats)
    seconds = {**model.seconds, "fused": time.perf_counter() - began}
    return replace(model, fused=fused, seconds=seconds)


def _sample_cases(cases: Cases, most: int, rng: np.random.Generator) -> Cases:
    if len(cases) <= most:
        return cases
    return cases.take(np.sort(rng.choice(len(cases), most, replace=False)))


@dataclass(frozen=True)
class _FirstRound:
    """What held-out cases are scored with.

    Attributes:
        heads: fitted without the cases and without the items in `unseen`.
        unseen: (n_items,) items withheld, as if never seen.
        absent: (n_items,) items without events, which can be nobody's target: not ranked.
        aside: as in Examples.
    """

    heads: Mapping[str, Head]
    phi: Phi
    repeats: bool
    config: FitConfig
    unseen: NDArray[np.bool_]
    absent: NDArray[np.bool_]
    aside: bool


def _pretend_unseen(
    cases: Cases, absent: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(n_items,): items drawn to count as never seen; none where no item is without events."""
    none = np.zeros(len(absent), bool)
    if not absent.any():
        return none
    drawn = (rng.random(len(absent)) < share) & ~absent
    return drawn if _has_target(cases, ~drawn).any() else none


def _for_first_round(
    split: Split,
    unseen: NDArray[np.bool_],
    config: FitConfig,
    rng: np.random.Generator,
    *,
    last: bool,
    repeats: bool,
) -> tuple[Split, bool]:
    """The split without the items that count as never seen, and with users who count as new.

    Beside it whether short histories are theirs alone, and so of few people. The steps of those
    users stand beside the other cases, which stay as many as they would be.
    """
    if unseen.any():
        split = withhold(split, unseen)
    for_aside = rng.spawn(1)[0]
    split = replace(split, cases=_sample_cases(split.cases, config.blend.max_cases, rng))
    if not last:
        return split, False
    with_aside = set_users_aside(split, for_aside, repeats=repeats)
    return with_aside, with_aside is not split and not repeats


def _newcomers(split: Split, rng: np.random.Generator) -> Cases:
    """First steps of users never seen; else some of the cases with the history taken away."""
    if (firsts := first_steps(split)) is not None:
        return _sample_cases(firsts, MOST_NEWCOMERS, rng)
    some = _sample_cases(split.cases, MOST_NEWCOMERS, rng)
    return replace(some, stop=some.data.starts[some.user_idx])


def _learn_from(
    split: Split, first: _FirstRound, rng: np.random.Generator
) -> tuple[dict[str, Calibration], Examples]:
    scorer = Scorer(split.cases, first.heads)
    calibrations = _calibrations(scorer, first, rng)
    held_out = _candidates(scorer, first, calibrations, rng)
    if not spans_days(split.cases.now):
        held_out = replace(held_out, phi=without_hours(held_out.phi, first.phi.names))
    newcomers = Scorer(_newcomers(split, rng.spawn(1)[0]), first.heads)
    strange = _candidates(newcomers, first, calibrations, rng.spawn(1)[0])
    n_absent, n_unseen = int(first.absent.sum()), int(first.unseen.sum())
    names, crowd = first.phi.names, max(n_absent / max(n_unseen, 1), 1.0)
    heads = tuple(first.heads)
    return calibrations, Examples(heads, names, held_out, strange, crowd, first.aside)


def _candidates(
    scorer: Scorer,
    first: _FirstRound,
    calibrations: Mapping[str, Calibration],
    rng: np.random.Generator,
) -> Candidates:
    """What the fit of θ reads of these cases."""
    parts: list[Candidates] = []
    cases = scorer.cases
    width = cases.data.n_items * (len(first.heads) + 4)
    for start, stop in batches(len(cases), width):
        histories = cases.histories(start, stop)
        lengths = np.array([len(h) for h in histories])
        chosen = np.arange(start, stop)
        z = _calibrated(scorer, calibrations, chosen, lengths)
        ranked = rankable(cases, start, stop, repeats=first.repeats) & ~first.absent
        target = target_mask(cases, start, stop)
        z, log_weight, share, unseen, items = pick_candidates(
            z, ranked, target, first.unseen, first.config.blend, rng
        )
        phi = first.phi(histories, cases.now[start:stop])
        part = Candidates(z, log_weight, share, unseen, phi)
        parts.append(with_own(part, items, histories, first.phi))
    return _join(parts)


def _calibrated(
    scorer: Scorer,
    calibrations: Mapping[str, Calibration],
    chosen: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Floats:
    """(n_heads, n_chosen, n_items): z of these cases, whose histories have these lengths."""
    z = np.empty((len(scorer.heads), len(chosen), scorer.cases.data.n_items), np.float32)
    rows = dict(zip(scorer.heads, z, strict=True))

    def fill(name: str) -> None:
        rows[name][:] = calibrations[name](scorer.rows(name, chosen), lengths)

    for_each(rows, fill)
    return z


def _join(parts: list[Candidates]) -> Candidates:
    """One table from batches of different widths."""
    width = max(p.z.shape[1] for p in parts)

    def pad(x: NDArray[Any], fill: float) -> NDArray[Any]:
        edges = [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, edges, constant_values=fill)

    return Candidates(
        np.concatenate([pad(p.z, 0.0) for p in parts]),
        np.concatenate([pad(p.log_weight, -np.inf) for p in parts]),
        np.concatenate([pad(p.target, 0.0) for p in parts]),
        np.concatenate([pad(p.unseen, 0) for p in parts]),
        np.concatenate([p.phi for p in parts]),
        *joined_own(parts, pad),
    )


def _calibrations(
    scorer: Scorer, first: _FirstRound, rng: np.random.Generator
) -> dict[str, Calibration]:
    """Fitted on scores of targets, and of whole catalogues for some cases; of seen items only."""
    config, hidden = first.config.calibration, first.unseen | first.absent
    chosen = np.flatnonzero(_has_target(scorer.cases, ~first.unseen))
    if len(chosen) > config.max_cases:
        chosen = chosen[np.sort(rng.choice(len(chosen), config.max_cases, replace=False))]
    cases = scorer.cases.take(chosen).asking_for(~first.unseen)
    n_drawn = int(np.clip(config.max_background // max(cases.data.n_items, 1), 50, len(cases)))
    drawn = np.zeros(len(cases), bool)
    drawn[rng.choice(len(cases), min(n_drawn, len(cases)), replace=False)] = True
    length = cases.lengths()
    sizes = np.diff(cases.offsets)

    def calibrated(name: str) -> Calibration:
        target, item, ranked_counts = [], [], []
        for start, stop in batches(len(cases), 3 * cases.data.n_items):
            scores = scorer.rows(name, chosen[start:stop])
            rows = np.repeat(np.arange(stop - start), sizes[start:stop])
            target.append(scores[rows, cases.targets[cases.offsets[start] : cases.offsets[stop]]])
            ranked = rankable(cases, start, stop, repeats=first.repeats)[drawn[start:stop]]
            ranked &= ~hidden
            item.append(np.where(ranked, scores[drawn[start:stop]], np.nan))
            ranked_counts.append(ranked.sum(axis=1))
        sample = Sample(
            np.concatenate(target),
            np.repeat(length, sizes),
            np.repeat(1 / np.maximum(sizes, 1), sizes),
            np.concatenate(item),
            length[drawn],
            np.concatenate(ranked_counts),
        )
        return fit_calibration(sample, config)

    return for_each(first.heads, calibrated)


def _has_target(cases: Cases, items: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n_cases,): cases with a target among these items."""
    found = np.concatenate([[0], np.cumsum(items[cases.targets])])[cases.offsets]
    return np.diff(found) > 0
