"""Which problems to take when there are more than wanted: spread over the whitened space, crossed with difficulty.

Difficulty picks how hard, whitening picks how different. The paper names balance of subjects and difficulty as a goal
and gives no method [2501.12599 §2.1].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

from recipes.curate.config import CoverageConfig

Ints = npt.NDArray[np.int64]
LEVEL = "difficulty_level"
"""The field of rows; ``level`` is what sources call their own, and read as a difficulty."""
UNKNOWN = -1
"""The level of problems whose difficulty nobody knows."""


def levels_of(
    rates: Sequence[float | None], difficulties: Sequence[float | None], sources: Sequence[int], levels: int
) -> Ints:
    """Return the level of difficulty of each problem, 0 to ``levels`` - 1, or ``UNKNOWN``.

    By pass rate where there is one, in equal parts of [0, 1], the easiest first. Else by what the source says, whose
    unit is its own: in quantiles of that source.
    """
    found = np.full(len(rates), UNKNOWN, np.int64)
    known = np.array([rate is not None for rate in rates], bool)
    hard = 1.0 - np.array([0.0 if rate is None else rate for rate in rates])
    found[known] = np.minimum((hard[known] * levels).astype(np.int64), levels - 1)
    said = np.array([np.nan if value is None else value for value in difficulties], float)
    owner = np.asarray(sources)
    for source in np.unique(owner):
        own = np.flatnonzero((owner == source) & ~known & ~np.isnan(said))
        if len(own):
            # The share of the source that is easier; equal difficulties share a level.
            easier = np.searchsorted(np.sort(said[own]), said[own], "left") / len(own)
            found[own] = np.minimum((easier * levels).astype(np.int64), levels - 1)
    return found


def filled(counts: Sequence[int] | Ints, total: int) -> Ints:
    """Return how many to take of each of several piles so that all give the same number as far as they have it.

    The sum is ``total``, or all there is. What does not divide evenly goes to the first piles that have more.
    """
    sizes = np.asarray(counts, np.int64)
    taken = np.zeros_like(sizes)
    left = min(total, int(sizes.sum()))
    while left:
        open_ = np.flatnonzero(taken < sizes)
        share = max(1, left // len(open_))
        more = np.minimum(sizes[open_] - taken[open_], share)
        if share == 1:
            more[left:] = 0
        taken[open_] += more
        left -= int(more.sum())
    return taken


def choose(
    vectors: npt.NDArray[np.float32], clusters: Ints, levels: Ints, size: int, config: CoverageConfig, seed: int
) -> npt.NDArray[np.bool_]:
    """Return which of n problems to keep: ``size`` of them, or all.

    ``vectors`` [n, k] whitened, of length 1; ``clusters`` [n]; ``levels`` [n] of ``levels_of``. Each level gives the
    same number as far as it has it, ``UNKNOWN`` being one more.
    """
    kept = np.zeros(len(levels), bool)
    rng = np.random.default_rng([seed, 0xC0])
    if config.method == "random":
        kept[rng.permutation(len(levels))[:size]] = True
        return kept
    names = np.unique(levels)
    for level, quota in zip(names, filled([int((levels == name).sum()) for name in names], size), strict=True):
        own = np.flatnonzero(levels == level)
        pick = farthest(vectors[own], int(quota)) if config.method == "farthest" else even(clusters[own], quota, rng)
        kept[own[pick]] = True
    return kept


def even(clusters: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Return ``size`` rows, the same number of each cluster as far as it has them, drawn at random within it."""
    names, owner = np.unique(clusters, return_inverse=True)
    order = rng.permutation(len(clusters))
    order = order[np.argsort(owner[order], kind="stable")]
    counts = np.bincount(owner, minlength=len(names))
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Which clusters get one more where it does not divide evenly is drawn, too.
    lot = rng.permutation(len(names))
    quotas = np.empty(len(names), np.int64)
    quotas[lot] = filled(counts[lot], int(size))
    return np.concatenate([order[b : b + q] for b, q in zip(begins, quotas, strict=True)] or [order[:0]])


def farthest(vectors: npt.NDArray[np.float32], size: int) -> Ints:
    """Return ``size`` rows by farthest-first traversal: each is the one least like all that were taken before it.

    Begins with the row nearest to the mean. A 2-approximation of the k-center problem [Gonzalez 1985]; takes
    O(n · size · k) operations.
    """
    if size <= 0:
        return np.empty(0, np.int64)
    chosen = np.empty(min(size, len(vectors)), np.int64)
    chosen[0] = int(np.argmax(vectors @ vectors.mean(0)))
    nearest = vectors @ vectors[chosen[0]]
    for index in range(1, len(chosen)):
        nearest[chosen[index - 1]] = np.inf
        chosen[index] = int(np.argmin(nearest))
        np.maximum(nearest, vectors @ vectors[chosen[index]], out=nearest)
    return chosen


def clusters_wanted(count: int, config: CoverageConfig) -> int:
    """Return the number of clusters for ``count`` problems."""
    return min(count, config.clusters or max(1, isqrt(count)))
