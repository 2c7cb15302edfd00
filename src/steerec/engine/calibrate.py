"""Calibration: a head's score becomes z, the log of how much likelier than average the item is."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import steerec.kernels as kernels
from steerec.contracts import Floats
from steerec.errors import ConfigError

Z_LIMIT = 12.0  # nats
APART = 1_000.0  # between the curves of two heads laid out one after the other; asinh is below 200
FEW = 0.7  # share of scores neither 0 nor unknown up to which only these are mapped one by one
MARGIN = 1e-4  # nats by which bounds are wider, for the rounding of float32


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Settings of the calibration."""

    lengths: tuple[int, ...] = (0, 2, 10, 50)  # upper ends of the history-length buckets
    targets_per_bin: int = 40  # targets behind each step of the map, at least
    max_bins: int = 50  # most steps of a map
    max_cases: int = 2_500  # most held-out cases whose targets are looked at
    max_background: int = 4_000_000  # most scores of items as they come, for each head

    def __post_init__(self) -> None:
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ConfigError(f"calibration: lengths={self.lengths} must rise")
        counts = (self.targets_per_bin, self.max_bins, self.max_cases, self.max_background)
        if min(counts) < 1:
            raise ConfigError(f"calibration: each count must be at least 1, given {counts}")


@dataclass(frozen=True)
class Curve:
    """A rising piecewise linear map from asinh(score / scale) to z, with its end slopes kept.

    Attributes:
        x, z: (n_knots,) float64, both rising.
    """

    scale: float
    x: NDArray[np.float64]
    z: NDArray[np.float64]

    def __call__(self, scores: Floats) -> Floats:
        """Map scores to z, float32; NaN → 0; clipped to ±12."""
        unknown = np.isnan(scores)
        if len(self.x) == 1:
            return np.where(unknown, 0.0, self.z[0]).astype(np.float32)
        told = (scores != 0) & ~unknown
        if np.count_nonzero(told) > FEW * scores.size:
            z = self._mapped(scores)
            z[unknown] = 0.0
            return z
        z = np.where(unknown, np.float32(0), self._mapped(np.zeros(1, np.float32)))
        z[told] = self._mapped(scores[told])
        return z

    def _mapped(self, scores: Floats) -> Floats:
        x = np.arcsinh(scores * np.float32(1 / self.scale))
        z = np.interp(x, self.x, self.z)
        rise = (self.z[-1] - self.z[-2]) / (self.x[-1] - self.x[-2])  # steep, where knots are close
        above = x > self.x[-1]  # few: the map is cheap below and goes on rising above
        z[above] += rise * (x[above] - self.x[-1])
        np.clip(z, -Z_LIMIT, Z_LIMIT, out=z)
        mapped: Floats = z.astype(np.float32)
        return mapped

    @cached_property
    def bounds(self) -> Floats:
        """(65536, 2) float32: least and greatest z of scores with the same upper 16 bits."""
        upper = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
        ends = np.stack([upper, upper | np.uint32(2**16 - 1)], axis=1).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # some are infinite, or nearly
            z = np.sort(np.nan_to_num(self(ends)), axis=1)
        return np.asarray(z + np.array([-MARGIN, MARGIN], np.float32), np.float32)

    @cached_property
    def flipped_bounds(self) -> Floats:
        """`bounds` with the greatest z first, as a head of negative weight needs them."""
        return np.ascontiguousarray(self.bounds[:, ::-1])


@dataclass(frozen=True)
class Curves:
    """The curves of several heads for one user, asked together: what a request needs."""

    curves: tuple[Curve, ...]

    def __call__(self, scores: Floats) -> Floats:
        """(n_heads, n) scores to z, as each head's curve gives it."""
        if not self.curves:
            return scores
        scale, x, z = self._laid_out
        at = np.arcsinh(scores * scale) + APART * np.arange(len(self.curves))[:, None]
        found: Floats = np.interp(at, x, z).astype(np.float32)
        np.clip(found, -Z_LIMIT, Z_LIMIT, out=found)
        found[np.isnan(scores)] = 0.0
        return found

    def exactly(self, scores: Floats) -> Floats:
        """What `__call__` gives, by compiled loops."""
        scale, x, z, starts = self._in_a_row
        found = np.empty(scores.shape, np.float32)
        kernels.ranking.interpolate(np.arcsinh(scores * scale), x, z, starts, Z_LIMIT, found)
        return found

    @cached_property
    def tables(self) -> Floats:
        """(n_heads, 65536, 2): the bounds of each curve."""
        return np.stack([curve.bounds for curve in self.curves])

    def bounds(self, scores: Floats, weights: NDArray[np.float64]) -> tuple[Floats, Floats]:
        """(n,) and (n,): least and greatest Σ w z of each item, from tables; a little too wide."""
        code = (scores.view(np.uint32) >> np.uint32(16)).astype(np.intp)
        pairs = np.empty(scores.shape, np.int64)  # each two float32, looked up as one
        for row, (curve, weight) in enumerate(zip(self.curves, weights, strict=True)):
            table = curve.bounds if weight >= 0 else curve.flipped_bounds
            np.take(table.view(np.int64)[:, 0], code[row], out=pairs[row], mode="clip")
        both = (weights.astype(np.float32) @ pairs.view(np.float32)).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    @cached_property
    def _laid_out(self) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64]]:
        """(n_heads, 1) factors, and the knots of all curves on one axis."""
        scale, x, z, starts = self._in_a_row
        return scale, x + APART * np.repeat(np.arange(len(self.curves)), np.diff(starts)), z

    @cached_property
    def _in_a_row(
        self,
    ) -> tuple[Floats, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """(n_heads, 1) factors, the knots of one curve after the other, ends drawn out, and where.

        The last are (n_heads + 1,), the place of each curve's first knot and the end.
        """
        reach = APART / 5
        x, z = [], []
        for curve in self.curves:
            rise = 0.0
            if len(curve.x) > 1:
                rise = (curve.z[-1] - curve.z[-2]) / (curve.x[-1] - curve.x[-2])
            x.append(np.concatenate([[curve.x[0] - reach], curve.x, [curve.x[-1] + reach]]))
            z.append(np.concatenate([curve.z[:1], curve.z, [curve.z[-1] + rise * reach]]))
        scale = np.array([[1 / curve.scale] for curve in self.curves], np.float32)
        starts = np.cumsum([0, *map(len, x)], dtype=np.int64)
        return scale, np.concatenate(x), np.concatenate(z), starts


@dataclass(frozen=True)
class Calibration:
    """The curves of one head, one for each history-length bucket.

    Attributes:
        lengths: upper ends of the buckets; a last one without end follows.
        curves: one curve for each bucket.
    """

    lengths: tuple[int, ...]
    curves: tuple[Curve, ...]

    def __call__(self, scores: Floats, lengths: NDArray[np.int64]) -> Floats:
        """Map (n_cases, n) scores to z, for histories with these (n_cases,) lengths."""
        bucket = np.searchsorted(self.lengths, lengths)
        z = np.empty(scores.shape, np.float32)
        for number in np.unique(bucket):
            rows = bucket == number
            z[rows] = self.curves[number](scores[rows])
        return z

    def curve(self, length: int) -> Curve:
        """The curve for a history of this length."""
        return self.curves[bisect_left(self.lengths, length)]


@dataclass(frozen=True)
class Sample:
    """Scores of one head on held-out cases: of the targets, and of items as they come.

    Attributes:
        target: (n_targets,) float32 scores of the targets; `target_length` their history lengths.
        share: (n_targets,) float64, what a target counts: the targets of a case share 1.
        item: (n_drawn, n_items) float32 scores of whole catalogues; NaN where not ranked.
        item_length: (n_drawn,) history lengths of those cases.
        ranked: (n_drawn,) how many items each of those cases ranks.
    """

    target: Floats
    target_length: NDArray[np.int64]
    share: NDArray[np.float64]
    item: Floats
    item_length: NDArray[np.int64]
    ranked: NDArray[np.int64]


def fit_calibration(sample: Sample, config: CalibrationConfig) -> Calibration:
    """Fit the curves; a bucket with too few targets takes the curve of all cases."""
    buckets = len(config.lengths) + 1
    target_bucket = np.searchsorted(config.lengths, sample.target_length)
    item_bucket = np.searchsorted(config.lengths, sample.item_length)
    all_targets = np.ones(len(sample.target), bool)
    everything = _fit_curve(sample, all_targets, np.ones(len(sample.item), bool), config)
    curves = []
    for number in range(buckets):
        targets, rows = target_bucket == number, item_bucket == number
        if targets.sum() < 10 * config.targets_per_bin or rows.sum() < 20:
            curves.append(everything)
            continue
        curves.append(_fit_curve(sample, targets, rows, config))
    return Calibration(config.lengths, tuple(curves))


def _fit_curve(
    sample: Sample, targets: NDArray[np.bool_], rows: NDArray[np.bool_], config: CalibrationConfig
) -> Curve:
    """Log of (share of the targets) / (share of the items) in each step of the score."""
    target, share = sample.target[targets], sample.share[targets]
    known = np.isfinite(target)
    background = sample.item[rows]
    background = background[np.isfinite(background)]
    if known.sum() < config.targets_per_bin or len(background) == 0:
        return Curve(1.0, np.zeros(1), np.zeros(1))
    scale = max(float(np.quantile(np.abs(target[known]), 0.1)), 1e-6)
    x, others = np.arcsinh(target[known] / scale), np.arcsinh(background / scale)
    n_bins = int(np.clip(len(x) // config.targets_per_bin, 1, config.max_bins))
    edges: NDArray[np.float64] = np.unique(np.quantile(x, np.arange(1, n_bins) / n_bins))
    place, steps = np.searchsorted(edges, x, side="right"), len(edges) + 1
    hits = np.bincount(place, share[known] / share.mean(), steps).astype(np.float64)
    around = np.searchsorted(edges, others, side="right")
    items = np.bincount(around, minlength=steps)
    centre = np.bincount(place, x, steps) / np.maximum(np.bincount(place, minlength=steps), 1)
    centre = np.where(hits > 0, centre, np.bincount(around, others, steps) / np.maximum(items, 1))
    ranked = int(sample.ranked[rows].sum())
    blocks = _rising(np.asarray(centre, np.float64), hits, items.astype(np.float64))
    z = np.log((blocks[1] + 0.5) / (len(target) + 1)) - np.log((blocks[2] + 0.5) / (ranked + 1))
    z += 1e-3 * np.arange(len(z))  # strictly: smoothing must not turn the order of two blocks
    return Curve(scale, blocks[0], np.maximum.accumulate(z))


def _rising(
    x: NDArray[np.float64], hits: NDArray[np.float64], items: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pool neighbouring steps until hits per item rise (PAV); x, hits and items of each block.

    Source: Barlow et al. 1972; Zadrozny and Elkan 2002 for its use in calibration.
    """
    blocks: list[tuple[float, float, float]] = []
    for at, hit, item in zip(x, hits + 1e-9, items + 1e-9, strict=True):
        block = (float(at), float(hit), float(item))
        while blocks and block[1] * blocks[-1][2] <= blocks[-1][1] * block[2]:
            before = blocks.pop()
            hit = before[1] + block[1]
            middle = (before[0] * before[1] + block[0] * block[1]) / hit
            block = (middle, hit, before[2] + block[2])
        blocks.append(block)
    return np.array(blocks).T


def calibration_to_json(calibration: Calibration) -> dict[str, object]:
    """Plain numbers for a snapshot."""
    curves = [{"scale": c.scale, "x": c.x.tolist(), "z": c.z.tolist()} for c in calibration.curves]
    return {"lengths": list(calibration.lengths), "curves": curves}


def calibration_from_json(stored: dict[str, Sequence]) -> Calibration:  # type: ignore[type-arg]
    """Read what `calibration_to_json` wrote."""
    curves = tuple(
        Curve(float(c["scale"]), np.array(c["x"]), np.array(c["z"])) for c in stored["curves"]
    )
    return Calibration(tuple(stored["lengths"]), curves)
