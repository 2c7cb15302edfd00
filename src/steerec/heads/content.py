"""Likeness of texts: whitened encoder vectors, with BM25 beside them; serves items never seen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import steerec.kernels as kernels
from steerec.contracts import About, Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import Rows, blank, check_query, decayed, recency_rows
from steerec.heads.lags import DENSE_ITEMS
from steerec.heads.lexical import Lexical, LexicalConfig, item_texts
from steerec.heads.linear import (
    NEWEST,
    add_products,
    ask,
    asked_with,
    best_first,
    blank_unknown,
    column,
    neighbours,
    spoken,
)
from steerec.heads.packed import Packed
from steerec.heads.whitening import Whitening

BLOCK = 500  # items whose likeness to the whole catalogue is held at once


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """Settings of `Content`."""

    FOR_BASKETS: ClassVar[Mapping[str, Any]] = {"decay": 0.9}

    dims: int = 128  # dimensions kept after whitening, at most
    decay: float = 0.6  # weight of an event of the query against the one after it
    last: int = 20  # newest events asked with
    lexical_weight: float = 2.0  # weight of likeness by words against likeness by vectors
    lexical: LexicalConfig = field(default_factory=LexicalConfig)  # settings of the words

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_query("content", decay=self.decay, last=self.last)
        if self.dims < 1 or self.lexical_weight < 0:
            raise ConfigError(
                f"content: dims={self.dims}, lexical_weight={self.lexical_weight}: "
                "expected at least 1 and at least 0"
            )


@dataclass
class Content(HistoryHead):
    """Scores an item by the likeness of its text to the texts of the user's newest events.

    Attributes:
        vectors: (n_items, d) float32 of unit length, zero rows where an item has no vector;
            d = 0 if the data had no vectors.
        lexical: None if the data had no texts or the words weigh 0.
        whitening: what made `vectors` of the encoder's; None if the data had none.
    """

    name: ClassVar[str] = "content"
    steady: ClassVar[bool] = True
    config: ContentConfig
    vectors: Floats
    lexical: Lexical | None
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        """Which items have a text or a vector."""
        self.n_items = len(self.vectors)
        self._known = np.any(self.vectors != 0, axis=1)
        if self.lexical is not None:
            self._known |= self.lexical.known

    @classmethod
    def fit(cls, data: Dataset, config: ContentConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if the items have neither vectors nor texts.
        """
        texts = item_texts(data.items)
        if data.vectors is None and not any(texts):
            raise DataError(
                "content: the items have neither vectors nor texts: "
                "encode them (Dataset.with_vectors) or give a title column"
            )
        vectors, whitening = np.zeros((data.n_items, 0), np.float32), None
        if data.vectors is not None:
            whitening = _whitening(data.vectors, config.dims)
            vectors = whitening.transform(data.vectors)
        wordy = config.lexical_weight > 0 or data.vectors is None
        lexical = Lexical.fit(texts, config.lexical) if wordy and any(texts) else None
        return cls(config, vectors, lexical, whitening)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: likeness by vectors (-1 to 1) plus `lexical_weight` x likeness by words.

        What a user says of themselves counts like an event older than all others.
        """
        query = self._query(states)
        wanted = self.vectors if items is None else self.vectors[items]
        scores: Floats = ask(query, self.vectors, None) @ wanted.T
        if self.lexical is not None:
            alike = ask(query, self.lexical.alike, items)
            scores += np.float32(self.config.lexical_weight) * alike
        blank(scores, query)
        for row, state in zip(scores, states, strict=True):
            self._add_said(row, state, items)
        scores[:, ~(self._known if items is None else self._known[items])] = np.nan
        return scores

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        if state.about is not None and state.about.texts:
            return False
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self._known)
        sums = sums / max(float(np.abs(sums).sum()), 1e-12)
        near = self._near if items is None else None
        if near is not None:
            out.fill(0.0)
            add_products(rows, sums, near, None, room, out)
        else:
            wanted = self.vectors if items is None else self.vectors[items]
            np.dot(wanted, sums @ self.vectors[rows], out=out)
        if self.lexical is not None:
            sums = sums * np.float32(c.lexical_weight)
            add_products(rows, sums, self.lexical.alike, items, room, out)
        blank_unknown(out, self._known, items, asked=len(rows) > 0)
        return True

    def near(self, state: History) -> Indices | None:
        """See HistoryHead: in a large catalogue, what shares words with the newest events."""
        if (
            self.lexical is None
            or self.n_items <= DENSE_ITEMS
            or (state.about and state.about.texts)
        ):
            return None
        return neighbours(state, self.lexical.alike)

    def because_each(self, state: History, items: Indices, room: Room) -> Floats:
        """See Quick."""
        c = self.config
        asked, faded = decayed(state, decay=c.decay, last=c.last)
        inside = (asked >= 0) & (asked < self.n_items)
        inside[inside] = self._known[asked[inside]]
        asked, faded = np.where(inside, asked, 0), np.where(inside, faded, np.float32(0))
        total = max(float(np.abs(np.bincount(asked, faded)).sum()), 1e-12)
        faded = faded / np.float32(total)
        said = (self.vectors[items] @ self.vectors[asked].T) * faded
        if self.lexical is not None:
            alike = self.lexical.alike
            words = spoken(state, alike, items, room, decay=c.decay, last=c.last)
            said += np.float32(c.lexical_weight / total) * words * inside
        return np.asarray(said, np.float32)

    def find(self, state: History, n: int, now: float, room: Room) -> Indices | None:
        """See Quick."""
        said = state.about is not None and state.about.texts
        if self.lexical is None or self.n_items <= DENSE_ITEMS or said:
            return None
        c = self.config
        rows, sums = asked_with(state, decay=c.decay, last=c.last, known=self._known)
        if len(rows) == 0:
            return rows
        sums = sums / max(float(np.abs(sums).sum()), 1e-12)
        wanted = sums @ self.vectors[rows]
        w, newest, marks = self.lexical.alike, state.item_idx[-NEWEST:], room.marks(self.n_items)
        items = kernels.finding.beside(newest, w.indptr, w.indices, marks)
        marks[items] = False
        items = items[self._known[items]]
        scores = self.vectors[items] @ wanted
        add_products(rows, sums * np.float32(c.lexical_weight), w, items, room, scores)
        return best_first(kernels.finding.largest(items, scores, n))

    def because(self, state: History, item_idx: int) -> Floats:
        """See Head: each event's share of the score, exact (the score is their sum)."""
        asked, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        shares = np.zeros(len(asked), np.float32)
        inside = np.flatnonzero((asked >= 0) & (asked < self.n_items))
        inside = inside[self._known[asked[inside]]]
        total = float(np.abs(np.bincount(asked[inside], faded[inside])).sum())  # as the query's
        if total > 0:
            shares[inside] = faded[inside] * self._likeness(asked[inside], item_idx) / total
        return np.concatenate([np.zeros(len(state) - len(asked), np.float32), shares])

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: exact, since nothing here was learnt from a user."""
        return True

    def grown(self, data: Dataset) -> Self:
        """See Head: new items are placed by their texts, at once."""
        more = np.zeros((data.n_items - self.n_items, self.vectors.shape[1]), np.float32)
        if self.whitening is not None and data.vectors is not None:
            more = self.whitening.transform(data.vectors[self.n_items :])
        texts = item_texts(data.items[self.n_items :])
        vectors = np.concatenate([self.vectors, more])
        lexical = None if self.lexical is None else self.lexical.with_texts(texts)
        return self._changed(vectors, lexical, np.empty(0, np.int32))

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n_items,): items with a vector or a word."""
        return np.asarray(self._known, np.bool_)

    def look_alikes(
        self, items: Indices, among: NDArray[np.bool_], *, n: int, sharpness: float
    ) -> sparse.csr_matrix:
        """What the items most alike in text to each of these count, in all 1.

        Args:
            items: whose rows are wanted; others stay empty, as do those without a text.
            among: (n_items,), which may be named.
            n: most that are named for an item.
            sharpness: by which power of e likeness counts.
        Returns:
            (n_items, n_items) float32.
        """
        among = among & self._known
        items = items[self._known[items]]
        n = min(n, int(np.count_nonzero(among)))
        if n == 0 or len(items) == 0:
            return sparse.csr_matrix((self.n_items, self.n_items), dtype=np.float32)
        found = [
            self._most_alike(items[start : start + BLOCK], among, n)
            for start in range(0, len(items), BLOCK)
        ]
        columns, likeness = (np.concatenate(part) for part in zip(*found, strict=True))
        share = np.exp(sharpness * (likeness - likeness.max(axis=1, keepdims=True)))
        share /= share.sum(axis=1, keepdims=True)
        where = np.repeat(items, n), columns.ravel()
        shape = (self.n_items, self.n_items)
        return sparse.csr_matrix((share.ravel().astype(np.float32), where), shape=shape)

    def _most_alike(
        self, items: Indices, among: NDArray[np.bool_], n: int
    ) -> tuple[Indices, Floats]:
        """(len(items), n) the items most like each, and their likeness."""
        likeness = self.vectors[items] @ self.vectors.T
        if self.lexical is not None:
            likeness += np.float32(self.config.lexical_weight) * self.lexical.alike[items].toarray()
        likeness[:, ~among] = -np.inf
        likeness[np.arange(len(items)), items] = -np.inf
        best = np.argpartition(-likeness, n - 1, axis=1)[:, :n].astype(np.int32)
        return best, np.take_along_axis(likeness, best, axis=1)

    def reworded(self, data: Dataset, places: Indices) -> Self:
        """The same where the texts of these items have changed."""
        vectors = self.vectors.copy()
        if self.whitening is not None and data.vectors is not None:
            vectors[places] = self.whitening.transform(data.vectors[places])
        texts = item_texts(data.items[places])
        lexical = None if self.lexical is None else self.lexical.reworded(places, texts)
        return self._changed(vectors, lexical, places)

    def prepare(self) -> None:
        """See Prepares."""
        _ = self._near

    @cached_property
    def _near(self) -> Packed | None:
        """Likeness by vectors of each two items, as compiled loops read it; None: too many."""
        few = 0 < self.n_items <= DENSE_ITEMS and self.vectors.shape[1] > 0
        return Packed.products(self.vectors) if few else None

    def _changed(self, vectors: Floats, lexical: Lexical | None, places: Indices) -> Self:
        """The same with other vectors at these places and beyond the end."""
        new = replace(self, vectors=vectors, lexical=lexical)
        near = self.__dict__.get("_near")
        if near is not None and len(vectors) <= DENSE_ITEMS:  # else it is made when it is asked for
            new.__dict__["_near"] = near.with_products(vectors, places)
        return new

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {"config": asdict(self.config), "lexical": self.lexical is not None}
        (folder / "content.json").write_text(json.dumps(about), "utf-8")
        np.save(folder / "vectors.npy", self.vectors, allow_pickle=False)
        if self.whitening is not None:
            self.whitening.save(folder / "whitening.npz")
        if self.lexical is not None:
            self.lexical.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / "content.json").read_text("utf-8"))
        lexical_config = LexicalConfig(**about["config"].pop("lexical"))
        return cls(
            ContentConfig(lexical=lexical_config, **about["config"]),
            np.load(folder / "vectors.npy", allow_pickle=False),
            Lexical.load(folder) if about["lexical"] else None,
            Whitening.load(stored) if (stored := folder / "whitening.npz").exists() else None,
        )

    def _add_said(self, row: Floats, state: History, items: Indices | None) -> None:
        """Mix what the user said into their scores, in place, by its share of all evidence."""
        if state.about is None or not state.about.texts:
            return
        said = self._alike_to(state.about, items)
        _, faded = decayed(state, decay=self.config.decay, last=self.config.last)
        mass = float(np.abs(faded).sum())
        share = np.float32(
            self.config.decay ** len(state) / (mass + self.config.decay ** len(state))
        )
        row[:] = said if np.isnan(row).all() else (1 - share) * row + share * said

    def _alike_to(self, about: About, items: Indices | None) -> Floats:
        """(n,) likeness to what is wanted less likeness to what is not, a mean over the parts."""
        total = np.zeros(self.n_items, np.float32)
        if self.whitening is not None and about.vectors.shape[1]:
            total += self.vectors @ (about.weight @ self.whitening.transform(about.vectors))
        if self.lexical is not None:
            for text, weight in zip(about.texts, about.weight, strict=True):
                total += weight * np.float32(self.config.lexical_weight) * self.lexical.like(text)
        total /= np.float32(len(about.texts))
        return total if items is None else total[items]

    def _likeness(self, asked: Indices, item_idx: int) -> Floats:
        """(len(asked),) likeness of one item to each of the items asked with."""
        likeness: Floats = self.vectors[asked] @ self.vectors[item_idx]
        if self.lexical is not None:
            words = column(self.lexical.alike, asked, item_idx)
            likeness += np.float32(self.config.lexical_weight) * words
        return likeness

    def _query(self, states: Sequence[History]) -> Rows:
        """Rows whose sizes add up to 1, so that a score is a mean likeness.

        Events whose items have neither text nor vector have no part.
        """
        c = self.config
        query = recency_rows(states, self.n_items, decay=c.decay, last=c.last, known=self._known)
        sizes = np.diff(query.indptr)
        row = np.repeat(np.arange(len(states)), sizes)
        total = np.bincount(row, np.abs(query.data), len(states))
        told = (query.data / np.repeat(np.maximum(total, 1e-12), sizes)).astype(np.float32)
        return replace(query, data=told)


def _whitened(vectors: Floats, dims: int) -> Floats:
    """(n_items, <= dims) unit rows; zero rows stay zero and have no part in the fit."""
    return _whitening(vectors, dims).transform(vectors)


def _whitening(vectors: Floats, dims: int) -> Whitening:
    """Centring and decorrelation that give each direction variance 1, fitted on rows not zero.

    Unlike `Whitening.fit` it is defined for hardly any rows, and does not shrink.
    Source: Su et al. 2021, Whitening Sentence Representations, eq. 5, largest directions kept.
    """
    rows = vectors[np.any(vectors != 0, axis=1)].astype(np.float64)
    mean = rows.mean(axis=0) if len(rows) > 1 else np.zeros(vectors.shape[1])
    centred = rows - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / max(1, len(rows)))
    largest = np.flatnonzero(variance > 1e-7 * max(variance[-1], 1e-30))[::-1][:dims]
    projection = directions[:, largest] / np.sqrt(variance[largest])
    return Whitening(mean.astype(np.float32), projection.astype(np.float32))
