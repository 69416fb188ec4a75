"""How many different things some texts say, by their vectors."""

from __future__ import annotations

import numpy as np

from rollout.embedding.vectors import VectorsError, checked

NOTHING = 1e-12
"""Eigenvalues below this part of their sum are rounding."""


def effective_rank(vectors: np.ndarray) -> float:
    """Return the effective rank of k vectors [k, d]: exp(H(p)) of p = the eigenvalues of their Gram matrix over their
    sum [2210.02410]; from 1 to min(k, d).

    1 where all point the same way, or the opposite one; k where they are orthogonal and equally long. The matrix is
    not centred: of centred vectors seven copies and one other would be a line, and copies with a little noise as
    different as can be. Vectors are to have length 1 (``Whitener.transform``) to count alike; those of no length do not
    count. Raises ``VectorsError``, also without vectors.
    """
    checked(vectors, vectors.shape[-1] if vectors.ndim else 0)
    if not vectors.size:
        raise VectorsError(f"vectors of shape {vectors.shape}: expected at least one")
    exact = vectors.astype(np.float64)
    gram = exact @ exact.T if len(exact) <= exact.shape[1] else exact.T @ exact
    values = np.linalg.eigvalsh(gram)
    values = values[values > NOTHING * values.sum()]
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 1.0
