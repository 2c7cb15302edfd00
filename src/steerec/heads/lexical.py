"""BM25 over the words of item texts: search by words, and likeness of items by their texts.

Terms are whole words, and characters and their 2- to 4-grams of Chinese, Japanese and Korean
runs (which have no spaces). A searched word that no text has stands for the words spelt most like
it, by the same grams, so that `shampo` still finds `shampoo`.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Floats, Indices
from steerec.errors import ConfigError, DataError
from steerec.heads.histories import strongest

TEXT_COLUMNS = (
    *("title", "text", "description", "categories", "category", "genres", "tags", "keywords"),
    *("brand", "authors", "author", "director", "actors"),
)
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
CHUNKS = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
IS_CJK = re.compile(rf"[{CJK}]")
BLOCK_ENTRIES = 8_000_000  # most item-item products held at once


@dataclass(frozen=True, kw_only=True)
class LexicalConfig:
    """Settings of `Lexical`."""

    k1: float = 1.2  # how soon repeating a term stops to count
    b: float = 0.5  # how much long texts are held against themselves: 0 not, 1 fully
    typo: float = 0.3  # least share of character grams that makes an unknown word another's typo
    max_share: float = 0.25  # terms in more than this share of the items do not make them alike
    neighbours: int = 100  # most alike items kept for each item

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.k1 < 0:
            raise ConfigError(f"lexical: k1={self.k1}, expected 0 or more")
        if not 0 <= self.b <= 1 or not 0 < self.typo <= 1:
            raise ConfigError(
                f"lexical: b={self.b}, typo={self.typo}, expected 0 <= b <= 1 and 0 < typo <= 1"
            )
        if not 0 < self.max_share <= 1:
            raise ConfigError(f"lexical: max_share={self.max_share}, expected 0 < share <= 1")
        if self.neighbours < 1:
            raise ConfigError(f"lexical: neighbours={self.neighbours}, expected at least 1")


@dataclass(frozen=True)
class Lexical:
    """Texts of the catalogue as BM25 rows.

    Attributes:
        terms: the vocabulary; words that came with later items are at the end.
        weights: (n_items, n_terms) float32 BM25 weights.
        alike: (n_items, n_items) float32 cosine of the texts' BM25 rows, the strongest of each
            row, no item with itself.
        typical: terms of a text on average, in the fit.
    """

    config: LexicalConfig
    terms: tuple[str, ...]
    weights: sparse.csr_matrix
    alike: sparse.csr_matrix
    typical: float

    @classmethod
    def fit(cls, texts: Sequence[str], config: LexicalConfig) -> Self:
        """Index one text per item; an empty text is an item without terms.

        Raises:
            DataError: if no text has a word.
        """
        counts, terms = _incidence([Counter(_terms(text)) for text in texts])
        if not terms:
            raise DataError(
                f"lexical: none of {len(texts)} item texts has a word: "
                f"fill one of the columns {', '.join(TEXT_COLUMNS)}"
            )
        length = np.asarray(counts.sum(axis=1)).ravel()
        typical = max(float(length.mean()), 1e-9)
        weights = _bm25(counts, _idf_of(counts), length / typical, config)
        return cls(config, terms, weights, _alike(weights, config), typical)

    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same with more items at the end, and with the words that only they have."""
        made, known, rows = self._read(texts)
        like = _alike(sparse.vstack([known, rows], format="csr"), self.config, len(self.known))
        old = sparse.hstack([self.alike, like[:, : len(self.known)].T], format="csr")
        alike = sparse.vstack([old, like], format="csr")
        return replace(made, weights=sparse.vstack([known, rows], format="csr"), alike=alike)

    def reworded(self, places: Indices, texts: Sequence[str]) -> Self:
        """The same with other texts at these places, each given once."""
        made, known, rows = self._read(texts)
        n_items, n_new = len(self.known), len(places)
        others = np.ones(n_items, np.float32)
        others[places] = 0.0
        keep = sparse.diags(others, dtype=np.float32, format="csr")
        both = sparse.vstack([keep @ known, rows], format="csr")
        both.eliminate_zeros()
        like = _alike(both, self.config, n_items)
        into = np.concatenate([np.arange(n_items), places])
        shape = (n_items + n_new, n_items)
        placed = sparse.csr_matrix((np.ones(len(into), np.float32), into, range(len(into) + 1)))
        placed.resize(shape)
        ours = placed[n_items:].T @ (like @ placed)  # the rows of these places
        alike = (keep @ self.alike @ keep + ours + (ours @ keep).T).tocsr()
        alike.eliminate_zeros()
        return replace(made, weights=(placed.T @ both).tocsr(), alike=alike)

    def _read(self, texts: Sequence[str]) -> tuple[Self, sparse.csr_matrix, sparse.csr_matrix]:
        """With the vocabulary of these texts too: itself, its rows that wide, and theirs."""
        counted = [Counter(_terms(text)) for text in texts]
        new = sorted(set().union(*counted) - self._place.keys())
        terms = (*self.terms, *new)
        place = self._place | {term: len(self.terms) + i for i, term in enumerate(new)}
        counts = _counts(counted, place)
        n_items = self.weights.shape[0] + len(texts)
        having = np.bincount(counts.indices, minlength=len(terms))[len(self.terms) :]
        idf = np.concatenate([self._idf, _idf(having, n_items)])
        length = np.asarray(counts.sum(axis=1)).ravel()
        weights = _bm25(counts, idf, length / self.typical, self.config)
        before = (self.weights.data, self.weights.indices, self.weights.indptr)
        known = sparse.csr_matrix(before, shape=(self.weights.shape[0], len(terms)))
        return replace(self, terms=terms), known, weights

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n_items,): items whose text has a term."""
        return np.asarray(np.diff(self.weights.indptr) > 0, np.bool_)

    def search(self, text: str, n: int) -> tuple[Indices, Floats]:
        """At most `n` items for these words, best first, with their BM25 scores above 0."""
        wanted = np.zeros(len(self.terms), np.float32)
        for term in set(_terms(text, shortest=2)):  # one character only where alone
            at, likeness = self._matches(term)
            wanted[at] = np.maximum(wanted[at], likeness)
        scores = np.asarray(self.weights @ wanted, np.float32)
        order = np.argsort(-scores, kind="stable")[:n]
        order = order[scores[order] > 0]
        return order.astype(np.int32), scores[order]

    def like(self, text: str) -> Floats:
        """(n_items,) cosine of each item's text to these words, rare words counting more."""
        wanted = np.zeros(len(self.terms), np.float32)
        for term in set(_terms(text, shortest=2)):
            at, likeness = self._matches(term)
            wanted[at] = np.maximum(wanted[at], likeness)
        wanted *= self._idf
        size = self._length * np.float32(max(float(np.linalg.norm(wanted)), 1e-9))
        return np.asarray((self.weights @ wanted) / size, np.float32)

    @cached_property
    def _idf(self) -> Floats:
        """(n_terms,) float32, as in the weights."""
        return _idf_of(self.weights)

    @cached_property
    def _length(self) -> Floats:
        """(n_items,) float32 length of each item's row, above 0."""
        squares = np.asarray(self.weights.multiply(self.weights).sum(axis=1)).ravel()
        return np.asarray(np.maximum(np.sqrt(squares), 1e-9), np.float32)

    def _matches(self, term: str) -> tuple[Indices, Floats]:
        """Places of the term, or else of the terms spelt most like it, and how alike (0 to 1)."""
        if term in self._place:
            return np.array([self._place[term]], np.int32), np.ones(1, np.float32)
        by_gram, sizes, grams = self._spelling
        own = _spelled(term)
        wanted = np.array([gram in own for gram in grams], np.float32)
        shared = by_gram @ wanted
        likeness = (shared / (sizes + len(own) - shared)).astype(np.float32)  # Jaccard
        near = np.argsort(-likeness, kind="stable")[:3]
        near = near[likeness[near] >= self.config.typo]
        return near.astype(np.int32), likeness[near]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {term: i for i, term in enumerate(self.terms)}

    @cached_property
    def _spelling(self) -> tuple[sparse.csr_matrix, Floats, tuple[str, ...]]:
        """(n_terms, n_grams) character grams of each term, how many each has, and the grams."""
        by_gram, grams = _incidence([dict.fromkeys(_spelled(term), 1) for term in self.terms])
        return by_gram, np.diff(by_gram.indptr).astype(np.float32), grams

    def save(self, folder: Path) -> None:
        """Write `lexical.json`, `lexical_weights.npz` and `lexical_alike.npz`."""
        about = {"config": asdict(self.config), "terms": self.terms, "typical": self.typical}
        (folder / "lexical.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        sparse.save_npz(folder / "lexical_weights.npz", self.weights)
        sparse.save_npz(folder / "lexical_alike.npz", self.alike)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        about = json.loads((folder / "lexical.json").read_text("utf-8"))
        return cls(
            LexicalConfig(**about["config"]),
            tuple(about["terms"]),
            sparse.load_npz(folder / "lexical_weights.npz"),
            sparse.load_npz(folder / "lexical_alike.npz"),
            about["typical"],
        )


def item_texts(items: pl.DataFrame) -> list[str]:
    """One text per item, its text columns joined; list columns are joined by spaces."""
    columns = [name for name in TEXT_COLUMNS if name in items.columns]
    if not columns:
        return [""] * len(items)
    texts = items.select(
        pl.col(name).list.eval(pl.element().cast(pl.String)).list.join(" ", ignore_nulls=True)
        if isinstance(items.schema[name], pl.List)
        else pl.col(name).cast(pl.String)
        for name in columns
    )
    # A column that repeats another (a title copied into `text`) must not count twice.
    return [" ".join(dict.fromkeys(part for part in row if part)) for row in texts.iter_rows()]


def _terms(text: str, *, shortest: int = 1) -> Iterator[str]:
    """Words, and character grams of runs without spaces; a run shorter than `shortest` whole."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    for chunk in CHUNKS.findall(folded):
        if IS_CJK.match(chunk) and len(chunk) >= shortest:
            yield from _grams(chunk, range(shortest, 5))
        else:
            yield chunk


def _grams(chunk: str, sizes: range) -> Iterator[str]:
    for size in sizes:
        for start in range(len(chunk) - size + 1):
            yield chunk[start : start + size]


def _spelled(word: str) -> set[str]:
    """A word's characters and their 2- to 4-grams, its two ends marked."""
    return set(_grams(f"^{word}$", range(1, 5)))


def _incidence(counted: Sequence[Mapping[str, int]]) -> tuple[sparse.csr_matrix, tuple[str, ...]]:
    """(len(counted), n_terms) float32 counts, and the terms, sorted."""
    terms = tuple(sorted(set().union(*counted)))
    return _counts(counted, {term: i for i, term in enumerate(terms)}), terms


def _counts(counted: Sequence[Mapping[str, int]], place: Mapping[str, int]) -> sparse.csr_matrix:
    """(len(counted), len(place)) float32."""
    indices = np.array([place[term] for counts in counted for term in counts], np.int32)
    data = np.array([n for counts in counted for n in counts.values()], np.float32)
    indptr = np.concatenate([[0], np.cumsum([len(counts) for counts in counted])])
    found = sparse.csr_matrix((data, indices, indptr), shape=(len(counted), len(place)))
    found.sort_indices()
    return found


def _idf_of(rows: sparse.csr_matrix) -> Floats:
    """(n_terms,) float32 of the terms in these rows."""
    return _idf(np.bincount(rows.indices, minlength=rows.shape[1]), rows.shape[0])


def _idf(having: NDArray[np.integer], n_items: int) -> Floats:
    """(n_terms,) float32, never below 0. Source: as _bm25, eq. 3.11 with 1 added."""
    return np.asarray(np.log1p((n_items - having + 0.5) / (having + 0.5)), np.float32)


def _bm25(
    counts: sparse.csr_matrix, idf: Floats, length: NDArray[np.floating], config: LexicalConfig
) -> sparse.csr_matrix:
    """BM25 weights of texts that are `length` times as long as a typical one.

    Source: Robertson and Zaragoza 2009, eq. 3.15.
    """
    softening = config.k1 * (1 - config.b + config.b * length)
    weights = counts.copy()
    per_entry = np.repeat(softening, np.diff(counts.indptr))
    weights.data = counts.data * (config.k1 + 1) / (counts.data + per_entry)
    weights.data = (weights.data * idf[counts.indices]).astype(np.float32)
    return weights


def _alike(weights: sparse.csr_matrix, config: LexicalConfig, start: int = 0) -> sparse.csr_matrix:
    """Cosines of BM25 rows from `start` on with all, the strongest of each, block by block."""
    n_items = weights.shape[0]
    having = np.bincount(weights.indices, minlength=weights.shape[1])
    telling = having <= max(2.0, config.max_share * n_items)  # a term in two items links them
    length = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    rows = weights.copy()
    rows.data = rows.data * telling[rows.indices]
    rows.data /= np.repeat(np.maximum(length, 1e-9), np.diff(rows.indptr))
    rows.data = rows.data.astype(np.float32)
    rows.eliminate_zeros()
    by_term = rows.T.tocsr()
    block = max(1, BLOCK_ENTRIES // n_items)
    parts = []
    for first in range(start, n_items, block):
        products = (rows[first : first + block] @ by_term).tocsr()
        asked = first + np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
        products.data[products.indices == asked] = 0.0
        parts.append(strongest(products, config.neighbours))
    return sparse.vstack(parts, format="csr")
