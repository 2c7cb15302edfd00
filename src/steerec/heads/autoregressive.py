"""Autoregressive: the next item regressed on the decayed past at several time scales at once."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy import linalg, sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.ease import inverse, items_seen, spread
from steerec.heads.histories import blank, decayed, recency_rows
from steerec.heads.lags import Steps, Weighing, count_pairs, count_within
from steerec.heads.linear import (
    Weights,
    add_products,
    ask,
    asked_with,
    blank_unknown,
    column,
    find_near,
    load_weights,
    neighbours,
    save_weights,
    spoken,
)
from steerec.heads.local import solve_columns
from steerec.heads.packed import packed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """Settings of `Autoregressive`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {"decays": (0.5, 0.95), "l2": 15.0}

    decays: tuple[float, ...] = (0.4, 0.9)  # one copy of the past for each, fast to slow
    short_decays: tuple[float, ...] = (0.8,)  # used instead where `decays` would pass `max_size`
    l2: float = 1.0  # pull of all weights towards 0, in mean counts of an item
    cut: float = 0.02  # pairs that weigh less than this are not counted
    last: int = 80  # newest events asked with
    max_size: int = 13_000  # scales x items solved at once, 8 bytes x its square; above, locally
    per_row: int = 1_000  # weights kept for each item and scale above 6,000 items
    neighbours: int = 200  # locally: items that each item is foretold from

    def __post_init__(self) -> None:
        for scales in (self.decays, self.short_decays):
            if not scales or not all(0 < decay < 1 for decay in scales):
                raise ConfigError(f"autoregressive: decays={scales}, expected each in (0, 1)")
        if self.l2 <= 0 or not 0 < self.cut < 1:
            raise ConfigError(
                f"autoregressive: l2={self.l2}, cut={self.cut}: expected l2 > 0 and 0 < cut < 1"
            )
        if min(self.last, self.max_size, self.per_row, self.neighbours) < 1:
            raise ConfigError(
                "autoregressive: last, max_size, per_row and neighbours must be at least 1"
            )


@dataclass
class Autoregressive(HistoryHead):
    """Scores an item as linear forecast of the user's next step.

    The past of step t at scale ρ is s(t) = Σ_l ρ^l e(item l steps back); the copies for all ρ are
    stacked to x(t), and W = (Σ x xᵀ + λI)⁻¹ Σ x yᵀ with y(t) the items of step t + 1. Scales fast
    and slow correct each other, which one decayed sum (SLIT) cannot.

    Attributes:
        weights: one (n_items, n_items) float32 for each of `scales`, row = item asked with.
        known: (n_items,) bool, items that are modelled.

    Source: after the SLIT model of Choi et al. 2021, Session-aware linear item-item models,
        eq. 8, with one decayed sum for each of several scales instead of a single one.
    """

    name: ClassVar[str] = "autoregressive"
    steady: ClassVar[bool] = True
    config: AutoregressiveConfig
    scales: tuple[float, ...]
    weights: tuple[Weights, ...]
    known: np.ndarray

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.known)

    @classmethod
    def fit(cls, data: Dataset, config: AutoregressiveConfig, rng: np.random.Generator) -> Self:
        """See Head. Cost at once: memory 8 m² bytes, time m³ for m = scales x items."""
        steps = Steps.of(data)
        counts = np.bincount(steps.item, minlength=data.n_items)
        kept = items_seen(counts, cls.name)
        known = counts > 0
        scales = config.decays
        if len(scales) * len(kept) > config.max_size:
            log.info("head=autoregressive scales=%d reason=max_size", len(config.short_decays))
            scales = config.short_decays
        if len(scales) * len(kept) > config.max_size:
            return cls(config, scales, _local(steps, scales, counts, config), known)
        inner = _inside(steps, kept, data.n_items)
        gram, target = _moments(inner, scales, len(kept), config)
        gram[np.diag_indices(len(gram))] += np.float32(config.l2 * counts[kept].mean())
        solved = _solve(gram, target)
        parts = np.split(solved, len(scales))
        weights = tuple(spread(part, kept, data.n_items, config.per_row) for part in parts)
        return cls(config, scales, weights, known)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: NaN for items without events and for users without known items."""
        n = self.n_items if items is None else len(items)
        scores = np.zeros((len(states), n), np.float32)
        for decay, weights in zip(self.scales, self.weights, strict=True):
            query = recency_rows(
                states, self.n_items, decay=decay, last=self.config.last, known=self.known
            )
            scores += ask(query, weights, items)
        scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        return blank(scores, query)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        out.fill(0.0)
        for decay, weights in zip(self.scales, self._packed, strict=True):
            last = self.config.last
            rows, sums = asked_with(state, decay=decay, last=last, known=self.known)
            if not add_products(rows, sums, weights, items, room, out):
                return False
        blank_unknown(out, self.known, items, asked=len(rows) > 0)
        return True

    def near(self, state: History) -> Indices | None:
        """See HistoryHead: at whatever scale."""
        found = [neighbours(state, weights) for weights in self.weights]
        told = [items for items in found if items is not None]
        if len(told) < 2:
            return told[0] if told else None
        near = np.zeros(self.n_items, bool)
        near[np.concatenate(told)] = True
        return np.flatnonzero(near).astype(np.int32)

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        last = self.config.last
        parts = [
            spoken(state, weights, items, room, decay=decay, last=last)
            for decay, weights in zip(self.scales, self._packed, strict=True)
        ]
        return np.asarray(sum(parts), np.float32)

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        parts = []
        for decay, weights in zip(self.scales, self.weights, strict=True):
            if isinstance(weights, np.ndarray):
                return None
            last = self.config.last
            rows, sums = asked_with(state, decay=decay, last=last, known=self.known)
            parts.append((rows, sums, weights))
        if len(rows) == 0:
            return rows
        return find_near(state, parts, self.known, room, n)

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head."""
        spoke = np.zeros(len(state), np.float32)
        for decay, weights in zip(self.scales, self.weights, strict=True):
            items, faded = decayed(state, decay=decay, last=self.config.last)
            spoke[len(state) - len(items) :] += faded * column(weights, items, item_idx)
        return spoke

    def prepare(self) -> None:
        """See Prepares."""
        _ = self._packed

    @cached_property
    def _packed(self) -> tuple[Weights, ...]:
        """The weights as compiled loops read them."""
        return tuple(map(packed, self.weights))

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {"config": asdict(self.config), "scales": self.scales}
        (folder / "config.json").write_text(json.dumps(about))
        np.save(folder / "known.npy", self.known, allow_pickle=False)
        for number, weights in enumerate(self.weights):
            save_weights(weights, folder / f"weights-{number}.npz")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / "config.json").read_text())
        config: dict[str, Any] = about["config"]
        for name in ("decays", "short_decays"):
            config[name] = tuple(config[name])
        scales = tuple(about["scales"])
        weights = tuple(load_weights(folder / f"weights-{i}.npz") for i in range(len(scales)))
        known = np.load(folder / "known.npy", allow_pickle=False)
        return cls(AutoregressiveConfig(**config), scales, weights, known)


def _solve(gram: Floats, target: Weights) -> Floats:
    """gram⁻¹ @ target, overwriting `gram`; through the inverse where the target is sparse."""
    if not isinstance(target, np.ndarray):
        return np.ascontiguousarray((target.T @ inverse(gram)).T)
    solved: Floats
    _, solved, info = linalg.lapack.sposv(gram.T, target, lower=1, overwrite_a=1, overwrite_b=0)
    if info != 0:
        raise DataError(f"autoregressive: no positive definite moments (info {info}): raise l2")
    return np.ascontiguousarray(solved)


def _local(
    steps: Steps, scales: tuple[float, ...], counts: np.ndarray, config: AutoregressiveConfig
) -> tuple[Weights, ...]:
    """Each item foretold from its strongest neighbours only: no n² numbers, all items modelled.

    Cost: 16 bytes for each pair of items that someone took within reach of `cut`, and for each item
    time neighbours³ at most.
    """
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].astype(np.int32)
    n = len(order)
    gram, target = _sparse_moments(_inside(steps, order, len(counts)), scales, n, config)
    pull = np.full(len(scales) * n, config.l2 * counts[order].mean(), np.float32)
    gram = (gram + sparse.diags(pull, format="csr")).tocsr()
    gram.sort_indices()
    log.warning("head=autoregressive solved=locally items=%d entries=%d", n, gram.nnz)
    columns, _ = solve_columns(gram, config.neighbours, right=target)
    parts = [columns[start : start + n].tocoo() for start in range(0, len(scales) * n, n)]
    return tuple(
        sparse.coo_matrix(
            (part.data, (order[part.row], order[part.col])), shape=(len(counts),) * 2
        ).tocsr()
        for part in parts
    )


def _sparse_moments(
    steps: Steps, scales: tuple[float, ...], n: int, config: AutoregressiveConfig
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """What `_moments` gives, as CSR, the second transposed: (n, scales x n)."""
    pairs, single, targets = [], [], []
    for rho in scales:
        together = [_together(steps, rho, sigma) for sigma in scales]
        sums = count_pairs(steps, n, _weighings(rho, together, config.cut))
        targets.append(sparse.csr_matrix(sums.pop("next")).T)
        pairs.append([sparse.csr_matrix(sums.pop(f"past{b}")) for b in range(len(scales))])
        own = [np.bincount(steps.item, weight, minlength=n) for weight in together]
        single.append(
            [
                sparse.diags(alone.astype(np.float32)) + count_within(steps, n, weight)
                for alone, weight in zip(own, together, strict=True)
            ]
        )
    ahead = sparse.bmat(pairs, format="csr")
    gram = ahead + ahead.T + sparse.bmat(single, format="csr")
    return gram.tocsr(), sparse.hstack(targets, format="csr")


def _inside(steps: Steps, kept: Indices, n_items: int) -> Steps:
    """Only the events of kept items, renumbered; steps keep their distances."""
    place = np.full(n_items, -1, np.int32)
    place[kept] = np.arange(len(kept))
    inside = steps.take(place[steps.item] >= 0)
    return replace(inside, item=place[inside.item])


def _moments(
    steps: Steps, scales: tuple[float, ...], n: int, config: AutoregressiveConfig
) -> tuple[Floats, Weights]:
    """Σ x xᵀ, (scales x n)² float32, and Σ x yᵀ, (scales x n, n), over all steps with a next one.

    A pair of events l steps apart, the earlier seen at scale ρ and the later at σ, is together in
    the past of every step from the later event on: Σ_k ρ^(l+k) σ^k = ρ^l (1 - (ρσ)^m) / (1 - ρσ),
    m being the steps left at the later event.
    """
    gram = np.zeros((len(scales) * n,) * 2, np.float32)
    targets = []
    for a, rho in enumerate(scales):
        together = [_together(steps, rho, sigma) for sigma in scales]
        sums = count_pairs(steps, n, _weighings(rho, together, config.cut))
        targets.append(sums["next"])
        for b, weight in enumerate(together):
            pairs = sums.pop(f"past{b}")
            pairs = pairs.toarray() if not isinstance(pairs, np.ndarray) else pairs
            gram[a * n : (a + 1) * n, b * n : (b + 1) * n] += pairs
            gram[b * n : (b + 1) * n, a * n : (a + 1) * n] += pairs.T
            own = np.bincount(steps.item, weight, minlength=n)
            gram[np.arange(a * n, (a + 1) * n), np.arange(b * n, (b + 1) * n)] += own
            if b >= a and (steps.size > 1).any():
                within = count_within(steps, n, weight).toarray()
                gram[a * n : (a + 1) * n, b * n : (b + 1) * n] += within
                if b > a:
                    gram[b * n : (b + 1) * n, a * n : (a + 1) * n] += within
    dense = isinstance(targets[0], np.ndarray)
    return gram, np.vstack(targets) if dense else sparse.vstack(targets, format="csr")


def _together(steps: Steps, rho: float, sigma: float) -> Floats:
    """(n_events,): Σ_k (ρσ)^k over the steps from an event to the last that has a next one."""
    both = rho * sigma
    sums: Floats = ((1 - both ** steps.left.astype(np.float64)) / (1 - both)).astype(np.float32)
    return sums


def _weighings(rho: float, together: list[Floats], cut: float) -> dict[str, Weighing]:
    most = max(1, int(np.log(cut) / np.log(rho)))
    power: Floats = (rho ** np.arange(most + 1)).astype(np.float32)
    weighings = {f"past{b}": Weighing(power, late=sums) for b, sums in enumerate(together)}
    # seen from the step before the later event
    return {**weighings, "next": Weighing(power / np.float32(rho))}
