"""Nearest neighbours and clusters of whitened vectors, by faiss. Cosines are dot products of vectors of length 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.embedding.vectors import Rows, Vectors, VectorsError, checked_units

if TYPE_CHECKING:
    import faiss

EXACT = 50_000
"""Vectors up to which every one is compared; all of these with each other is 45 s of one core at k = 128."""
LISTS = 4
"""Lists of an inverted file, in square roots of its vectors."""
PROBES = 16
"""Lists that are looked through per query. Of neighbours with a cosine above 0.6 among 200,000 synthetic vectors 5 in
10,000 are missed so; with 8 lists 7, in half the time, and with 32 none, in twice the time."""
PER_LIST = 64
"""Vectors per list that the lists' centres are fitted on."""
ITERATIONS = 20
"""Of k-means."""


class Index:
    """Vectors [n, k] whose nearest neighbours are looked up.

    Up to ``exact`` vectors every one is compared, and the caller's array is used as it is. Beyond that an inverted file
    keeps a copy, 4 k + 8 bytes per vector: 0.5 GB for a million at k = 128.
    """

    def __init__(self, vectors: np.ndarray, *, seed: int = 0, threads: int | None = None, exact: int = EXACT) -> None:
        """``threads``: at most so many; null: what OpenMP is set to. Raises ``VectorsError`` for vectors that are not
        finite or longer than 1, and where faiss is not installed.
        """
        if vectors.ndim != 2 or not len(vectors):
            raise VectorsError(f"vectors of shape {vectors.shape}: expected [n, k] with at least one")
        self.vectors = checked_units(vectors, vectors.shape[1])
        self.threads = threads
        self.exact = len(vectors) <= exact
        if not self.exact:
            with _faiss(threads) as faiss:
                self._lists = _inverted(faiss, self.vectors, seed)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: np.ndarray, n: int) -> tuple[Vectors, Rows]:
        """Return the cosines [q, m] and rows [q, m] of the m = min(n, vectors) nearest of each query, nearest first.

        A query that is itself in the index finds itself, unless more than n others are equal to it. Where an inverted
        file finds fewer than m, the rest are row -1 with cosine -1. Raises ``VectorsError`` as ``__init__``.
        """
        if n < 1:
            raise VectorsError(f"{n} neighbours: at least one")
        units = checked_units(queries, self.vectors.shape[1])
        n = min(n, len(self))
        if not len(units):
            return np.empty((0, n), np.float32), np.empty((0, n), np.int64)
        with _faiss(self.threads) as faiss:
            if self.exact:
                cosines, rows = faiss.knn(units, self.vectors, n, faiss.METRIC_INNER_PRODUCT)
            else:
                cosines, rows = self._lists.search(units, n)
        return np.where(rows < 0, np.float32(-1), np.clip(cosines, -1, 1)), rows


def clusters(vectors: np.ndarray, k: int, *, seed: int = 0, threads: int | None = None) -> tuple[Rows, Vectors]:
    """Return each vector's cluster [n] and its cosine [n] with that one's centre: spherical k-means.

    Clusters are numbered from 0, the largest first, and none is empty: there are fewer than ``k`` where there are fewer
    vectors, or fewer that differ. Centres are fitted on 256 k vectors at most. Raises ``VectorsError`` as
    ``Index``.
    """
    if vectors.ndim != 2 or not len(vectors) or k < 1:
        raise VectorsError(f"{k} clusters of vectors of shape {vectors.shape}: expected at least one of each")
    units = checked_units(vectors, vectors.shape[1])
    with _faiss(threads) as faiss:
        means = faiss.Kmeans(
            units.shape[1], min(k, len(units)), niter=ITERATIONS, spherical=True, seed=seed % 2**31,
            min_points_per_centroid=1,  # fewer are no fault, and it would print so
        )  # fmt: skip
        means.train(units)
        cosines, found = means.assign(units)
    names, members, counts = np.unique(found, return_inverse=True, return_counts=True)
    ranks = np.empty(len(names), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return ranks[members], np.clip(cosines, -1, 1)


def _inverted(faiss: Any, vectors: Vectors, seed: int) -> faiss.IndexIVFFlat:
    """Return an inverted file of the vectors."""
    n, k = vectors.shape
    lists = max(1, min(round(LISTS * n**0.5), n))
    # Python's wrapper keeps the quantizer alive with the index that refers to it.
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(k), k, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed % 2**31
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = PER_LIST
    index.nprobe = PROBES
    index.train(vectors)
    index.add(vectors)
    return index


@contextmanager
def _faiss(threads: int | None) -> Iterator[Any]:
    """Import faiss, and have it use at most ``threads`` threads in the block."""
    try:
        import faiss
    except ImportError as error:
        raise VectorsError("faiss is not installed: pip install 'k15[curate]'") from error
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
