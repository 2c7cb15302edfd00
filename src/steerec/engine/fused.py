"""The fused matrix: a few numbers for each item, whose product with a user's foretells the blend.

Every head's word on a whole catalogue is dear; this is what they say together, in one small matrix.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError
from steerec.heads.histories import recency_rows
from steerec.heads.linear import ask, asked_with, best_first

log = logging.getLogger(__name__)

Blend = Callable[[Sequence[History], Times], Floats]  # (n_histories, n_items) scores of the blend
BLOCK = 2_048  # items whose codes are widened at once: 512 KiB of float32, which stays in the cache
STEPS = 127  # of an int8 code on either side of 0
ENTRIES = 4_000_000  # scores of the blend asked for at once; each head's stand beside them
TEXT_L2 = 0.01  # pull of the map from texts towards 0, as `l2`
SPARE = 16  # directions found beside those kept: the last of a random search are poor


@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """Settings of the fused matrix."""

    dims: int = 64  # numbers for each item, a byte each
    lessons: int = 1_000  # histories whose blend it learns from, at most
    keep: int = 1_000  # best items of a lesson that it learns to tell from the rest, at most
    decay: float = 0.7  # weight of an event of the history against the one after it
    last: int = 50  # newest events asked with
    l2: float = 0.03  # pull of the map from events to a user's numbers, against the lessons' own
    by_text: float = 3.0  # lessons that an item's text counts for, against those that name it

    def __post_init__(self) -> None:
        if min(self.dims, self.lessons, self.keep, self.last) < 1:
            raise ConfigError("fused: dims, lessons, keep and last must be at least 1")
        if not 0 < self.decay <= 1 or self.l2 <= 0 or self.by_text < 0:
            raise ConfigError(
                f"fused: decay={self.decay}, l2={self.l2}, by_text={self.by_text}: "
                "expected 0 < decay <= 1, l2 > 0 and by_text of at least 0"
            )


@dataclass(frozen=True)
class Fused:
    """Finds what the blend would put high, from the history as it is at the moment.

    Attributes:
        codes: (n_items, dims) int8, each item's numbers in units of its `step`; of an item known
            by neither lesson nor text all 0.
        step: (n_items,) float32.
        asks: (dims + 1, dims) float32, from the faded sum of the history's items, and from what
            everybody has in common, to the user's numbers.
        from_text: (d, dims) float32, from an encoder's vector to an item's numbers; d = 0 if the
            items had no vectors.

    Source: the blend's best items as a matrix of lessons by items, its truncated SVD (Halko,
        Martinsson and Tropp 2011, algorithm 4.4), and a ridge regression that folds users in.
    """

    config: FusedConfig
    codes: NDArray[np.int8]
    step: Floats
    asks: Floats
    from_text: Floats

    @classmethod
    def fit(
        cls,
        data: Dataset,
        blend: Blend,
        config: FusedConfig,
        rng: np.random.Generator,
        *,
        repeats: bool,
    ) -> Self:
        """Learn from the blend's answers to histories of the data, cut at random.

        Args:
            blend: what is to be foretold, asked for at most `lessons` histories.
            repeats: whether items of the history are among the answers.
        """
        histories, now = _lessons(data, config.lessons, rng)
        answers = _answers(histories, now, blend, n_items=data.n_items, repeats=repeats)
        best = _best_of(answers, config.keep)
        places = _directions(best, config.dims, rng)
        named = np.bincount(best.indices, minlength=data.n_items).astype(np.float32)
        from_text = _text_map(places, data.vectors, named)
        if data.vectors is not None:
            places = _by_text(places, data.vectors @ from_text, named, config.by_text)
        codes, step = _coded(places)
        plain = cls(config, codes, step, np.zeros((0, 0), np.float32), from_text)
        asks = _ridge(plain._sums(histories), best @ places, config.l2)
        log.info("fused items=%d lessons=%d unnamed=%d", len(codes), len(now), (named == 0).sum())
        return replace(plain, asks=asks)

    @property
    def n_items(self) -> int:
        """Items it can find."""
        return len(self.codes)

    def users(self, histories: Sequence[History]) -> Floats:
        """(n_histories, dims) float32: each user's numbers, from the newest events."""
        users: Floats = self._sums(histories) @ self.asks
        return users

    def scores(self, histories: Sequence[History]) -> Floats:
        """(n_histories, n_items) float32, higher is better; comparable within a row only."""
        users = self.users(histories).T
        found = np.empty((self.n_items, users.shape[1]), np.float32)
        for start, stop, block in self._blocks():
            np.dot(block, users, out=found[start:stop])
        found *= self.step[:, None]
        return found.T

    def search(self, history: History, n: int, allowed: NDArray[np.bool_]) -> Indices:
        """At most `n` of the allowed items, best first; exact."""
        n = min(n, int(np.count_nonzero(allowed)))
        if n == 0:
            return np.empty(0, np.int32)
        scores = self.scores([history])[0]
        scores[~allowed] = -np.inf
        found = np.argpartition(scores, len(scores) - n)[len(scores) - n :]
        return found[np.lexsort((found, -scores[found]))].astype(np.int32)

    def find(self, history: History, n: int, allowed: NDArray[np.bool_]) -> Indices:
        """What `search` finds, by compiled loops."""
        c = self.config
        rows, sums = asked_with(history, decay=c.decay, last=c.last, known=self._all_known)
        user = np.append(sums @ (self.codes[rows] * self.step[rows, None]), np.float32(1))
        scores = np.empty(self.n_items, np.float32)
        kernels.finding.coded_products(self.codes, self.step, user @ self.asks, scores)
        return best_first(kernels.finding.largest_allowed(scores, allowed, n))

    @cached_property
    def _all_known(self) -> NDArray[np.bool_]:
        """(n_items,): each may be asked with."""
        return np.ones(self.n_items, bool)

    def with_items(self, vectors: Floats) -> Self:
        """The same with more items at the end, which no lesson names: their texts place them.

        Args:
            vectors: (n_new, d) float32 of the encoder whose vectors the items had at the fit.
        """
        codes, step = _coded(vectors @ self.from_text)
        return replace(
            self,
            codes=np.concatenate([self.codes, codes]),
            step=np.concatenate([self.step, step]),
        )

    def reworded(self, places: Indices, vectors: Floats) -> Self:
        """The same where the texts of these items have changed; what was known of one stays.

        Args:
            vectors: as `with_items` takes them.
        """
        known = self.codes[places].any(axis=1)
        codes, step = self.codes.copy(), self.step.copy()
        codes[places[~known]], step[places[~known]] = _coded(vectors[~known] @ self.from_text)
        return replace(self, codes=codes, step=step)

    def save(self, path: Path) -> None:
        """Write one .npz file, no pickle."""
        settings = {f"config_{name}": value for name, value in vars(self.config).items()}
        arrays = {name: getattr(self, name) for name in ("codes", "step", "asks", "from_text")}
        np.savez(path, **arrays, **settings)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            settings = {
                name.removeprefix("config_"): stored[name].item()
                for name in stored.files
                if name.startswith("config_")
            }
            arrays = (stored[name] for name in ("codes", "step", "asks", "from_text"))
            return cls(FusedConfig(**settings), *arrays)

    def _sums(self, histories: Sequence[History]) -> Floats:
        """(n_histories, dims + 1): the faded sum of the items' numbers, and the constant."""
        c = self.config
        query = recency_rows(histories, self.n_items, decay=c.decay, last=c.last)
        used, place = np.unique(query.indices, return_inverse=True)
        numbers = self.codes[used] * self.step[used, None]
        sums = ask(replace(query, indices=place.astype(np.int32), n_items=len(used)), numbers, None)
        constant = np.ones((len(histories), 1), np.float32)
        return np.concatenate([sums, constant], axis=1).astype(np.float32)

    def _blocks(self) -> Iterator[tuple[int, int, Floats]]:
        """Codes as float32, block by block: NumPy multiplies int8 a hundred times as slowly."""
        room = np.empty((min(BLOCK, self.n_items), self.codes.shape[1]), np.float32)
        for start in range(0, self.n_items, BLOCK):
            stop = min(start + BLOCK, self.n_items)
            room[: stop - start] = self.codes[start:stop]
            yield start, stop, room[: stop - start]


def _lessons(
    data: Dataset, most: int, rng: np.random.Generator
) -> tuple[list[History], NDArray[np.float64]]:
    """Histories cut at random before one of their events, and the time of that event."""
    users = np.flatnonzero(np.diff(data.starts))
    if len(users) > most:
        users = np.sort(rng.choice(users, most, replace=False))
    whole = [data.history(int(user)) for user in users]
    cuts = [int(rng.integers(1, max(len(history), 2))) for history in whole]
    now = [h.time[min(cut, len(h) - 1)] for h, cut in zip(whole, cuts, strict=True)]
    cut_short = [h.slice(0, cut) for h, cut in zip(whole, cuts, strict=True)]
    return cut_short, np.array(now, np.float64)


def _answers(
    histories: Sequence[History], now: Times, blend: Blend, *, n_items: int, repeats: bool
) -> Iterator[Floats]:
    """The blend's scores of all items, some histories at a time; -inf for what is not ranked."""
    size = max(1, ENTRIES // n_items)
    for start in range(0, len(histories), size):
        part = histories[start : start + size]
        scores = blend(part, now[start : start + size])
        for row, history in zip(scores, () if repeats else part, strict=False):
            row[history.item_idx] = -np.inf
        yield scores


def _best_of(answers: Iterable[Floats], keep: int) -> sparse.csr_matrix:
    """(n_histories, n_items) float32: by how much the `keep` best items beat the one after them."""
    items, beaten = [], []
    for scores in answers:
        keep = min(keep, max(scores.shape[1] // 4, 1))  # of a few items not all are the best
        top = np.argpartition(-scores, keep, axis=1)[:, : keep + 1]
        held = np.take_along_axis(scores, top, axis=1)
        ranked = np.isfinite(held)
        least = np.where(ranked, held, np.inf).min(axis=1, keepdims=True)
        items.append(top)
        beaten.append(np.where(ranked, held - least, 0.0).astype(np.float32))
    value = np.concatenate(beaten)
    pointers = np.arange(len(value) + 1) * (keep + 1)
    best = sparse.csr_matrix(
        (value.ravel(), np.concatenate(items).ravel(), pointers),
        shape=(len(value), scores.shape[1]),
    )
    best.eliminate_zeros()
    return best


def _directions(best: sparse.csr_matrix, dims: int, rng: np.random.Generator) -> Floats:
    """(n_items, dims) float32: right singular vectors of the largest singular values."""
    width = min(dims + SPARE, *best.shape)
    span = rng.normal(size=(best.shape[1], width)).astype(np.float32)
    for _ in range(3):
        span = np.linalg.qr(best.T @ np.linalg.qr(best @ span)[0])[0]
    turned = np.linalg.svd(best @ span, full_matrices=False)[2]
    found = np.zeros((best.shape[1], dims), np.float32)
    found[:, : min(dims, width)] = (span @ turned.T)[:, :dims]
    return found


def _text_map(places: Floats, vectors: Floats | None, named: Floats) -> Floats:
    """(d, dims): ridge regression of the items' numbers on their vectors, by how well known."""
    if vectors is None:
        return np.zeros((0, places.shape[1]), np.float32)
    told = np.flatnonzero((named > 0) & vectors.any(axis=1))
    root = np.sqrt(named[told] / max(float(named.sum()), 1.0))[:, None]
    return _ridge(vectors[told] * root, places[told] * root, TEXT_L2)


def _by_text(places: Floats, told: Floats, named: Floats, weight: float) -> Floats:
    """Numbers drawn towards what the texts tell, fully for items that no lesson names."""
    share = np.where(named > 0, weight / (named + max(weight, 1e-9)), 1.0)[:, None]
    mixed: Floats = ((1 - share) * places + share * told).astype(np.float32)
    return mixed


def _ridge(given: Floats, wanted: Floats, l2: float) -> Floats:
    """(n_given, n_wanted) float32 weights W that minimise |given W - wanted|² + l2 |S W|².

    S has the lengths of the columns of `given` on its diagonal: their units play no part.
    """
    gram = given.T.astype(np.float64) @ given
    gram[np.diag_indices(len(gram))] *= 1 + l2
    gram[np.diag_indices(len(gram))] += 1e-12  # a column of zeros gets no weight
    return np.linalg.solve(gram, given.T @ wanted).astype(np.float32)


def _coded(places: Floats) -> tuple[NDArray[np.int8], Floats]:
    """int8 codes and the step of each row, so that codes x step is the row within half a step."""
    step = (np.abs(places).max(axis=1, initial=0.0) / STEPS).astype(np.float32)
    codes = np.rint(places / np.where(step > 0, step, 1.0)[:, None])
    return codes.astype(np.int8), step
