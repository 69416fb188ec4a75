"""How different texts are from each other: in how many directions their vectors spread."""

from __future__ import annotations

import numpy as np

from rollout.embedding.vectors import VectorsError, checked

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


def vendi_score(vectors: np.ndarray) -> float:
    """Return how many different things k vectors [k, d] say: exp(H(p)) of p = the eigenvalues of their Gram matrix, as
    it is, over their sum [2210.02410]; from 1 to min(k, d).

    1 where all point the same way, or the opposite one; k where they are orthogonal and equally long. Unlike
    ``effective_rank`` it depends on how far apart vectors are: seven copies and one other are 1.5, not a line, and
    copies with a little noise stay close to 1. Vectors are to have length 1 (``Whitener.transform``) to count alike;
    those of no length do not count. Raises ``VectorsError``, also without vectors.
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
