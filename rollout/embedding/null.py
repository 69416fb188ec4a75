"""What cosine is high: judged by the cosines of random pairs, which after whitening lie around 0 [2103.15316]."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rollout.embedding.vectors import Array, VectorsError

TAIL = 100
"""Pairs above a quantile that are enough to read it off; with fewer it is a normal distribution's."""
PAIRS = 1_000_000
"""0.9999 has ``TAIL`` pairs above it."""
AT_ONCE = 65536


@dataclass(frozen=True)
class Null:
    """Cosines of random pairs, of which next to none say the same."""

    cosines: Array
    """[pairs], rising."""

    @property
    def mean(self) -> float:
        """Return the mean cosine: close to 0 after whitening."""
        return float(self.cosines.mean())

    @property
    def deviation(self) -> float:
        """Return the standard deviation: about 1 / sqrt(k) after whitening."""
        return float(self.cosines.std())

    def threshold(self, quantile: float) -> float:
        """Return the cosine that this part of random pairs do not exceed.

        Of few pairs the highest are the duplicates that the threshold is to find. Where fewer than 100 lie above it,
        it is that of the normal distribution with the cosines' median and quartiles, at most 1.
        Raises ``VectorsError`` for a quantile outside of 0 to 1.
        """
        if not 0 < quantile < 1:
            raise VectorsError(f"quantile {quantile}: expected one between 0 and 1")
        if (1 - quantile) * len(self.cosines) >= TAIL * (1 - 1e-9):  # 1 - 0.9999 is not 0.0001
            return float(np.quantile(self.cosines, quantile))
        low, middle, high = np.quantile(self.cosines, (0.25, 0.5, 0.75))
        deviations = NormalDist().inv_cdf(quantile)
        return float(np.clip(middle + deviations * (high - low) / (2 * NormalDist().inv_cdf(0.75)), -1, 1))


def null_of(vectors: np.ndarray, seed: int, pairs: int = PAIRS) -> Null:
    """Return the cosines of ``pairs`` random pairs of the unit vectors [n, k], or of all n (n - 1) / 2 where those are
    no more. Raises ``VectorsError`` for fewer than two vectors, or no pairs.
    """
    n = len(vectors)
    if n < 2 or pairs < 1:
        raise VectorsError(f"{pairs} pairs of {n} vectors: a threshold takes at least one pair")
    if n * (n - 1) // 2 <= pairs:
        left, right = np.triu_indices(n, 1)
    else:
        draw = np.random.default_rng(seed)
        left = draw.integers(0, n, pairs)
        right = (left + draw.integers(1, n, pairs)) % n  # never with itself
    cosines = np.empty(len(left))
    for start in range(0, len(left), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        cosines[part] = np.einsum("ij,ij->i", vectors[left[part]], vectors[right[part]])
    return null_from(cosines)


def null_from(cosines: np.ndarray) -> Null:
    """Return the distribution of given cosines of unrelated pairs, [pairs]. Raises ``VectorsError`` for none, and for
    values that are not finite.
    """
    if cosines.ndim != 1 or not len(cosines) or not np.isfinite(cosines).all():
        raise VectorsError(f"cosines of shape {cosines.shape}: expected finite ones of at least one pair")
    return Null(np.sort(cosines.astype(np.float64)))
