"""Whitening: sentence vectors share a few strong directions; taking them out sets items apart."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from steerec.contracts import Floats
from steerec.errors import DataError


@dataclass(frozen=True)
class Whitening:
    """Centre, rotate to the main directions, even out their spread, unit length.

    Attributes:
        mean: (dim_in,) float32.
        projection: (dim_in, dim_out) float32.
    """

    mean: Floats
    projection: Floats

    @classmethod
    def fit(cls, vectors: Floats, *, dim: int = 128, shrink: float = 0.1) -> Self:
        """Learn from the catalogue's vectors; zero rows (items without text) are left out.

        Args:
            vectors: (n, dim_in).
            dim: directions kept, fewer where the vectors do not span as many.
            shrink: 0 whitens fully, 1 only centres and rotates: each direction's variance is
                pulled so far towards the mean variance, which keeps noise from being blown up.
        Raises:
            DataError: if fewer than two rows hold a text, or a value is not finite.
            ValueError: if dim or shrink is out of range.
        Source: Su et al. 2021, Whitening Sentence Representations, with linear shrinkage of the
            spectrum (Ledoit and Wolf 2004).
        """
        if dim < 1 or not 0 <= shrink <= 1:
            raise ValueError(f"dim = {dim}, shrink = {shrink}: expected dim >= 1, shrink 0 to 1")
        if not np.isfinite(vectors).all():
            raise DataError("vectors hold NaN or infinity: check the encoder")
        known = vectors[vectors.any(axis=1)].astype(np.float64)
        if len(known) < 2:
            raise DataError(
                f"{len(known)} of {len(vectors)} vectors are not zero, expected two or more: "
                "the items have no text to whiten"
            )
        mean = known.mean(axis=0)
        centred = known - mean
        variance, directions = np.linalg.eigh(centred.T @ centred / len(known))
        variance, directions = variance[::-1], directions[:, ::-1]  # largest first
        rank = int((variance > max(variance[0], 0) * 1e-7).sum())
        keep = max(1, min(dim, rank, len(known) - 1))
        kept = np.maximum(variance[:keep], 0)
        level = (1 - shrink) * kept + shrink * kept.mean()
        scale = np.where(level > 0, 1 / np.sqrt(np.where(level > 0, level, 1)), 1)
        # The sign of an eigenvector is arbitrary; fixed here so that equal data gives equal output.
        signs = np.sign(directions[np.abs(directions).argmax(axis=0), range(len(mean))])
        projection = (directions * signs)[:, :keep] * scale
        return cls(mean.astype(np.float32), projection.astype(np.float32))

    @property
    def dim(self) -> int:
        """Length of a whitened vector."""
        return int(self.projection.shape[1])

    def transform(self, vectors: Floats) -> Floats:
        """Whiten vectors of the same encoder.

        Returns:
            (n, dim) float32, unit length; zero rows stay zero.
        Raises:
            DataError: if the vectors have another length than those of the fit.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise DataError(
                f"vectors have shape {vectors.shape}, expected (n, {len(self.mean)}): "
                "use the encoder the whitening was fitted on"
            )
        out = (vectors - self.mean) @ self.projection
        out[~vectors.any(axis=1)] = 0
        length = np.linalg.norm(out, axis=1, keepdims=True)
        unit = np.divide(out, length, out=np.zeros_like(out), where=length > 0)
        return np.asarray(unit, np.float32)

    def save(self, path: Path) -> None:
        """Write one .npz file, no pickle."""
        with path.open("wb") as file:
            np.savez(file, mean=self.mean, projection=self.projection)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: if the file is no saved whitening.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                mean, projection = arrays["mean"], arrays["projection"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{path} holds no whitening ({e}): fit and save again") from e
        if projection.shape[:1] != mean.shape:
            raise DataError(
                f"{path} holds mean {mean.shape} and projection {projection.shape}, which do not "
                "belong together: fit and save again"
            )
        return cls(mean, projection)
