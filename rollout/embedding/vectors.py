"""What every step on vectors asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
Rows = np.ndarray[Any, np.dtype[np.int64]]
ROWS = 8192
"""Vectors that are computed with at a time."""
LONGEST = 1.001
"""Vectors of length 1 that went through float32 are no longer than this."""


class VectorsError(ValueError):
    """Vectors, or a map for them, cannot be used; one line: what, why, what to do."""


def checked(vectors: np.ndarray, dimension: int) -> None:
    """Raises ``VectorsError`` unless ``vectors`` are finite and [n, ``dimension``]."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise VectorsError(f"vectors of shape {vectors.shape}: expected [n, {dimension}]; was it another encoder?")
    for start in range(0, len(vectors), ROWS):
        good = np.isfinite(vectors[start : start + ROWS]).all(axis=1)
        if not good.all():
            row = start + int(np.argmin(good))
            raise VectorsError(f"vector {row} is not finite: leave its text out, or have the encoder use float32")


def checked_units(vectors: np.ndarray, dimension: int) -> Vectors:
    """Return the vectors [n, ``dimension``] in float32 as faiss takes them, not copied where they are so already.

    Raises ``VectorsError`` as ``checked``, and for one that is longer than 1; shorter ones are whitened means.
    """
    checked(vectors, dimension)
    for start in range(0, len(vectors), ROWS):
        lengths = np.linalg.norm(vectors[start : start + ROWS], axis=1)
        if (lengths > LONGEST).any():
            row = int(np.argmax(lengths > LONGEST))
            raise VectorsError(
                f"vector {start + row} has length {lengths[row]:.4g}, not 1: divide vectors by their length"
            )
    return np.ascontiguousarray(vectors, np.float32)


def parts(vectors: np.ndarray) -> Iterator[Array]:
    """Yield the vectors in float64, ``ROWS`` at a time."""
    for start in range(0, len(vectors), ROWS):
        yield vectors[start : start + ROWS].astype(np.float64, copy=False)
