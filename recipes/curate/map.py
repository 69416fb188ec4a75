"""Two dimensions for a sample of embeddings, and which rows the sample is. Imports numpy; sklearn when asked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
"""t-SNE's own default [van der Maaten & Hinton 2008: 5 to 50]; fewer for less than 91 points."""
ITERATIONS = 750
"""Of gradient descent, the first 250 with early exaggeration; 1,000 take a third longer and look the same."""
FEWEST = 5
"""With fewer points there are no neighbourhoods to keep: principal components."""


def project(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return ``vectors`` [n, k] in two dimensions [n, 2], centred and within [-1, 1], near to each other where they
    were near: Barnes-Hut t-SNE from a start by principal components.

    The same vectors and seed give the same map on one machine: it runs in one thread, 10 to 25 s for 4,000 x 128.
    Rows with a NaN or an infinity have no place: theirs are NaN. Fewer than five others, and vectors along one line
    at most, are laid out by principal components; equal ones all lie at 0. Raises ``ValueError`` unless [n, k].
    """
    if vectors.ndim != 2:
        raise ValueError(f"the map needs vectors [n, k], not {list(vectors.shape)}")
    places = np.full((len(vectors), 2), np.nan, np.float32)
    known = np.isfinite(vectors).all(axis=1)
    rows = vectors[known].astype(np.float64)
    if len(rows) == 0:
        return places
    rows = rows / (np.abs(rows).max(initial=0.0) or 1.0)  # what t-SNE squares fits float32
    rows = rows - rows.mean(axis=0)
    start = _principal(rows)
    flat = float(start[:, 1].std()) <= 1e-6 * float(start[:, 0].std())
    places[known] = _framed(start if len(rows) < FEWEST or flat else _tsne(rows, start, seed))
    return places


def _principal(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first two principal components [n, 2] of centred rows, zero where there are fewer; each has the sign
    that makes its largest loading positive.
    """
    if rows.shape[1] == 0:
        return np.zeros((len(rows), 2))
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    axes = axes[:2] * (values[:2] > 1e-9 * max(values[0], 1e-30))[:, None]
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    found = rows @ (axes * signs).T
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))


def _tsne(rows: NDArray[np.float64], start: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    method = TSNE(
        2,
        max_iter=ITERATIONS,
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),
        init=(1e-4 * start / start[:, 0].std()).astype(np.float32),  # as sklearn's own "pca" start
        random_state=seed,
        n_jobs=1,
    )
    with threadpool_limits(1):  # sums of several threads differ in their last digits, and t-SNE amplifies that
        return np.asarray(method.fit_transform(rows.astype(np.float32)), np.float64)


def _framed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return places centred on their box and scaled alike in both directions, so that the longer side is [-1, 1]."""
    low, high = places.min(axis=0), places.max(axis=0)
    half = float((high - low).max()) / 2
    return (places - (low + high) / 2) / (half if half > 1e-12 else 1.0)


def chosen_points(numbers: Sequence[int], strata: Sequence[Hashable], limit: int, seed: int) -> list[int]:
    """Return at most ``limit`` of ``numbers``, ascending, chosen by chance within strata (``strata[i]`` is that of
    ``numbers[i]``, e.g. source and fate).

    Half of the places are shared alike by all strata, so that rare fates are to be seen; the rest goes by size. The
    order of ``numbers`` does not matter.
    """
    if len(numbers) != len(strata):
        raise ValueError(f"{len(numbers)} rows and {len(strata)} strata")
    if len(numbers) <= limit:
        return sorted(numbers)
    members: dict[Hashable, list[int]] = {}
    for number, stratum in sorted(zip(numbers, strata, strict=True), key=lambda pair: pair[0]):
        members.setdefault(stratum, []).append(number)
    groups = sorted(members.values(), key=lambda own: own[0])
    random = np.random.default_rng(seed)
    counts = _quotas([len(own) for own in groups], limit)
    picked = [random.choice(own, count, replace=False) for own, count in zip(groups, counts, strict=True)]
    return sorted(int(number) for number in np.concatenate(picked))


def _quotas(sizes: Sequence[int], limit: int) -> list[int]:
    """Return how many of each stratum to take, ``limit`` together: alike for half of it, then by what is left."""
    quotas = [0] * len(sizes)
    even = limit // 2
    for rank, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        quotas[i] = min(sizes[i], even // (len(sizes) - rank))
        even -= quotas[i]
    rest = [size - quota for size, quota in zip(sizes, quotas, strict=True)]
    places, total = limit - sum(quotas), sum(rest)
    shares = [places * own / total for own in rest]
    quotas = [quota + int(share) for quota, share in zip(quotas, shares, strict=True)]
    for i in sorted(range(len(sizes)), key=lambda i: int(shares[i]) - shares[i])[: limit - sum(quotas)]:
        quotas[i] += 1
    return quotas
