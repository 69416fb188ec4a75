"""Newton-Schulz orthogonalisation of one matrix, as the formula reads
[2502.16982 eq. 2]. Works in the dtype it is given.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic f(x) = ax + bx^3 + cx^5 that acts on every singular value."""
EPS = 1e-7
"""Keeps a zero matrix at zero instead of NaN."""


def newton_schulz_reference(update: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximate ``P Q^T`` of ``update = P S Q^T`` for one matrix [A, B]; same shape and dtype.

    The singular values land in about [0.68, 1.2], not at 1: the coefficients trade exactness for speed
    [2502.16982 eq. 2].
    """
    a, b, c = COEFFICIENTS
    x = update / (update.norm() + EPS)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + b * (gram @ x) + c * (gram @ gram @ x)
    return x
