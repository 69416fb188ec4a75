"""How different texts are from each other: in how many directions their vectors spread."""

from __future__ import annotations

import numpy as np

from rollout.embedding.vectors import checked

NOTHING = 1e-12
"""Vectors that spread over less than this part of their squared length are equal, up to rounding."""


def effective_rank(vectors: np.ndarray) -> float:
    """Return the effective rank of k vectors [k, d]: exp(H(p)) of p = the eigenvalues of their centred Gram matrix over
    the sum of these [Roy & Vetterli 2007], of which at most min(k - 1, d) are not zero.

    1 where all vectors are equal, or lie on one line; k - 1 where they are orthogonal and equally long: the mean takes
    one direction. Moving, turning or scaling all vectors changes nothing.
    The Gram matrix is k x k, so it is cheap for any d. Raises ``rollout.embedding.vectors.VectorsError``.
    """
    checked(vectors, vectors.shape[-1] if vectors.ndim else 0)
    exact = vectors.astype(np.float64)
    centred = exact - exact.mean(axis=0) if len(exact) else exact
    gram = centred @ centred.T
    total = float(np.trace(gram))
    if total <= NOTHING * float(np.square(exact).sum()):
        return 1.0
    shares = np.clip(np.linalg.eigvalsh(gram) / total, 0, None)
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))
