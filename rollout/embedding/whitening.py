"""Whitening: the linear map behind which cosine means something [2103.15316].

``Moments`` of vectors are gathered batch by batch, or shard by shard and merged; ``Moments.finalize`` makes the map.
All in float64: with N close to d the map's entries span many orders of magnitude.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Self

import numpy as np

from rollout.embedding.config import WhiteningConfig
from rollout.embedding.vectors import ROWS, Array, Vectors, VectorsError, checked, parts
from rollout.files import replace_file

FLOOR = 1e-6
"""Directions whose variance is below this part of the largest are rounding, not signal."""
SHRINK = 0.05
"""Weight of the identity where there are fewer than ``PLENTY`` vectors per dimension."""
PLENTY = 10
NORM = 1e-8
"""Least norm that is divided by, as the authors' scripts do."""
CONSTANT = 1e-12
"""Vectors that spread over less than this part of their mean's length are one vector, up to rounding."""
VERSION = 1


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of vectors; sums of squares are never taken, so that nothing cancels."""

    count: int
    mean: Array
    """[d]."""
    scatter: Array
    """[d, d]: the sum over vectors of (x - mean)^T (x - mean)."""

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Return the moments of no vectors."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @property
    def dimension(self) -> int:
        """Return d."""
        return len(self.mean)

    def partial_fit(self, batch: np.ndarray) -> Self:
        """Return the moments with the vectors ``batch`` [n, d] added; these here stay as they are.

        Raises ``VectorsError`` for another d and for values that are not finite.
        """
        checked(batch, self.dimension)
        found = self
        for part in parts(batch):
            mean = part.mean(axis=0)
            centred = part - mean
            found = found.merge(type(self)(len(part), mean, centred.T @ centred))
        return found

    def merge(self, other: Self) -> Self:
        """Return the moments of both sets of vectors: Chan's update, exact up to rounding. Raises
        ``VectorsError`` for another d.
        """
        if other.dimension != self.dimension:
            raise VectorsError(
                f"moments of {other.dimension} dimensions do not merge with those of {self.dimension}: "
                "one encoder for all vectors"
            )
        count = self.count + other.count
        if not self.count or not other.count:
            return other if other.count else self
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        return type(self)(count, self.mean + step * (other.count / count), self.scatter + other.scatter + between)

    def rank(self) -> int:
        """Return how many directions the vectors span: those with more than 1e-6 of the largest variance."""
        return _rank(np.linalg.eigh(self.scatter)[0][::-1]) if self.count else 0

    def finalize(self, k: int | None = None, shrink: float | None = None) -> Whitener:
        """Return the map onto the ``k`` directions of largest variance, each with variance 1.

        ``k`` null: a third of d, or what the vectors span. ``shrink`` = a: the covariance is (1 - a) S + a tr(S)/d I;
        null: 0 with at least 10 d vectors, else 0.05. Directions below 1e-6 of the largest variance before shrinking
        are never kept. Raises ``VectorsError`` for fewer than two vectors, vectors that are all the same, k above
        the rank, and, where nothing is shrunk, for no more vectors than d.
        """
        d = self.dimension
        shrink = (0.0 if self.count >= PLENTY * d else SHRINK) if shrink is None else shrink
        if k is not None and not 1 <= k <= d:
            raise VectorsError(f"k = {k}: vectors of {d} dimensions have 1 to {d} directions")
        if not 0 <= shrink <= 1:
            raise VectorsError(f"shrink = {shrink}: expected 0 to 1")
        if self.count < 2:
            raise VectorsError(f"{self.count} vectors have no covariance: at least two are needed")
        if not shrink and self.count <= d:
            raise VectorsError(
                f"{self.count} vectors of {d} dimensions have a singular covariance: more than {d} are needed, "
                f"or a shrink such as {SHRINK}"
            )
        # Over N - 1 as the authors' np.cov and as scikit-learn's PCA; the paper has 1/N. Cosines are the same.
        covariance = self.scatter / (self.count - 1)
        total = float(np.trace(covariance))
        if not np.isfinite(total):
            raise VectorsError("the vectors' values are too large for their squares to be summed")
        if total <= (CONSTANT * float(np.linalg.norm(self.mean))) ** 2:
            raise VectorsError(f"all {self.count} vectors are the same: nothing tells them apart")
        ascending, vectors = np.linalg.eigh(covariance)
        variances, directions = ascending[::-1], _signed(vectors[:, ::-1])
        rank = _rank(variances)
        if k is not None and k > rank:
            raise VectorsError(f"k = {k}: the {self.count} vectors span {rank} directions only; use k <= {rank}")
        kept = min(max(1, round(d / 3)), rank) if k is None else k
        # Shrinking towards the identity moves the eigenvalues and leaves the eigenvectors.
        shrunk = (1 - shrink) * variances[:kept] + shrink * total / d
        return Whitener(self.mean, directions[:, :kept] / np.sqrt(shrunk), shrunk, self.count, shrink)


@dataclass(frozen=True)
class Whitener:
    """The finished map x -> (x - mean) W."""

    mean: Array
    """[d]."""
    matrix: Array
    """W [d, k]: eigenvectors of the covariance by falling eigenvalue, each over the root of its eigenvalue."""
    variances: Array
    """[k]: the eigenvalues, after shrinking."""
    count: int
    """Vectors that it was fitted on."""
    shrink: float

    @property
    def dimension(self) -> int:
        """Return d, of what goes in."""
        return self.matrix.shape[0]

    @property
    def k(self) -> int:
        """Return the dimension of what comes out."""
        return self.matrix.shape[1]

    def project(self, vectors: np.ndarray) -> Array:
        """Return (x - mean) W, [n, k] in float64: of the vectors fitted on, the covariance is I where nothing was
        shrunk. Raises ``VectorsError`` for another d and for values that are not finite.
        """
        checked(vectors, self.dimension)
        found = np.empty((len(vectors), self.k))
        for start, part in enumerate(parts(vectors)):
            found[start * ROWS : start * ROWS + len(part)] = (part - self.mean) @ self.matrix
        return found

    def transform(self, vectors: np.ndarray) -> Vectors:
        """Return the whitened vectors of length 1, [n, k] in float32, whose dot products are their cosines; one that
        lies on the mean becomes (almost) zero, and is like no other. Raises as ``project``.
        """
        checked(vectors, self.dimension)
        found = np.empty((len(vectors), self.k), np.float32)
        for start, part in enumerate(parts(vectors)):
            mapped = (part - self.mean) @ self.matrix
            norms = np.linalg.norm(mapped, axis=1, keepdims=True)
            found[start * ROWS : start * ROWS + len(part)] = mapped / np.maximum(norms, NORM)
        return found

    def save(self, path: Path) -> None:
        """Write the map to ``path`` (.npz), whole or not at all. Raises ``OSError``."""
        data = io.BytesIO()
        np.savez(
            data, version=VERSION, mean=self.mean, matrix=self.matrix, variances=self.variances, count=self.count,
            shrink=self.shrink,
        )  # fmt: skip
        replace_file(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the map that ``save`` wrote, bit for bit. Raises ``VectorsError`` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                if (version := int(kept["version"])) != VERSION:
                    raise VectorsError(
                        f"{path}: version {version} of whitening maps, this program reads {VERSION}; fit it again"
                    )
                mean, matrix, variances = (np.asarray(kept[name]) for name in ("mean", "matrix", "variances"))
                found = cls(mean, matrix, variances, int(kept["count"]), float(kept["shrink"]))
        except VectorsError:
            raise
        except FileNotFoundError:
            raise VectorsError(f"{path}: no such file; fit the whitening map first") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise VectorsError(f"{path}: no whitening map ({reason}); fit it again") from error
        arrays = (mean, matrix, variances)
        fits = [array.shape for array in arrays] == [matrix.shape[:1], matrix.shape, matrix.shape[1:]]
        if not fits or any(array.dtype != np.float64 or not np.isfinite(array).all() for array in arrays):
            raise VectorsError(f"{path}: no whitening map (its arrays do not fit each other); fit it again")
        return found


def moments(batches: Iterable[np.ndarray], dimension: int) -> Moments:
    """Return the moments of all vectors of ``batches``, each [n, d]. Raises ``VectorsError``."""
    return reduce(Moments.partial_fit, batches, Moments.empty(dimension))


def fit(vectors: np.ndarray, config: WhiteningConfig) -> Whitener:
    """Return the map fitted on ``vectors`` [n, d]. Raises ``VectorsError``."""
    if vectors.ndim != 2:
        raise VectorsError(f"vectors of shape {vectors.shape}: expected [n, d]")
    return moments([vectors], vectors.shape[1]).finalize(config.k, config.shrink)


def _rank(variances: Array) -> int:
    return int((variances > FLOOR * variances[0]).sum())


def _signed(directions: Array) -> Array:
    """Return eigenvectors [d, n] with their largest entry positive, so that equal moments give equal maps."""
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.where(directions[largest, np.arange(directions.shape[1])] < 0, -1.0, 1.0)
