"""How many different things k vectors say [2210.02410]."""

from __future__ import annotations

import numpy as np

from rollout.embedding.vectors import VectorsError

LEAST = 1e-12
"""Eigenvalues below this part of their sum are rounding."""


def effective_rank(vectors: np.ndarray) -> float:
    """Return exp(H(p)), p the eigenvalues of the Gram matrix of ``vectors`` [k, d] over their sum; from 1 to min(k, d).

    1: all point the same way, or the opposite one. k: all are orthogonal and of one length. Vectors of length 1
    (``Whitener.transform``) count alike; vectors of zero length do not count, and where all are, it is 1.
    In float64. Raises ``VectorsError`` without vectors, and for values that are not finite.
    """
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise VectorsError(f"vectors of shape {vectors.shape}: expected finite ones, [k, d], at least one")
    wide = vectors.astype(np.float64)
    gram = wide @ wide.T if len(wide) <= wide.shape[1] else wide.T @ wide
    values = np.linalg.eigvalsh(gram)
    values = values[values > LEAST * values.sum()]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 1.0
