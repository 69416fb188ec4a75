"""Clusters in which every row is like one row, the representative: unrelated rows are never chained together.

Which rows are compared at all is found by locality-sensitive hashing, with sorted arrays in place of the sets of
``datasketch.MinHashLSH``: [bands, n] of 4 bytes and some more, and no object per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from datasketch import MinHashLSH
from numpy.typing import NDArray

MISSED = 0.98
"""Weight of a pair that is not looked at against one that is in vain: the latter costs a comparison only."""
DEVIATIONS = 4
"""Standard errors of a MinHash estimate below which a pair is not compared."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class _Band:
    """Rows that share their key with another one, in order of key and then of row."""

    rows: NDArray[np.int32]
    place: NDArray[np.int32]
    """[n]: where in ``rows`` a row stands; -1: nowhere."""
    start: NDArray[np.int32]
    """[len(rows)]: where in ``rows`` those of the same key begin."""


def bands(signatures: NDArray[np.uint32], threshold: float) -> Iterator[NDArray[np.uint64]]:
    """Yield keys [n] of signatures [n, permutations]: sets whose Jaccard similarity is above the threshold share one of
    them with the probability that ``datasketch`` works out (98 % at 0.8, 99.9 % at 0.85).
    """
    number, width = _plan(threshold, signatures.shape[1])
    for first in range(0, number * width, width):
        keys = np.full(len(signatures), first, np.uint64)
        for column in range(first, first + width):
            keys = mixed(keys, signatures[:, column].astype(np.uint64))
        yield keys


def mixed(keys: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return keys [n] that are the same only where both are."""
    keys = (keys ^ more) * _MIX
    return keys ^ (keys >> np.uint64(32))


def stars(
    n: int,
    keys: Iterable[NDArray[np.uint64]],
    alike: Callable[[int, NDArray[np.int64]], int | None],
) -> NDArray[np.int64]:
    """Return the representative [n] of each of ``n`` rows: itself, or an earlier row that is its own.

    ``alike`` is given a row and the representatives [m] before it that share a key with it, and says which of them the
    row is like, if any. As nothing but the two rows may count in that, a set of representatives has no more clusters.
    """
    found = np.arange(n)
    tables = [band for band in map(_band, keys) if len(band.rows)]
    candidates = np.zeros(n, bool)
    for table in tables:
        candidates[table.rows[table.start < np.arange(len(table.rows))]] = True
    for row in np.flatnonzero(candidates).tolist():
        earlier = [table.rows[table.start[place] : place] for table in tables if (place := table.place[row]) > 0]
        others = np.unique(np.concatenate(earlier)).astype(np.int64)
        others = others[found[others] == others]
        if len(others) and (leader := alike(row, others)) is not None:
            found[row] = leader
    return found


def estimated(signatures: NDArray[np.uint32], row: int, others: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """Return which of the others may be similar by at least ``least``, by their signatures: the likeliest first."""
    permutations = signatures.shape[1]
    shares = (signatures[others] == signatures[row]).mean(1)
    near = shares >= least - DEVIATIONS * np.sqrt(least * (1 - least) / permutations)
    return others[near][np.argsort(-shares[near], kind="stable")]


@cache
def _plan(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number of bands and their width; working them out takes some tenths of a second."""
    index = MinHashLSH(threshold=threshold, num_perm=permutations, weights=(1 - MISSED, MISSED))
    return index.b, index.r


def _band(keys: NDArray[np.uint64]) -> _Band:
    order = np.argsort(keys, kind="stable").astype(np.int32)
    ordered = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    shared = ~(new & np.append(new[1:], True))
    rows, new = order[shared], new[shared]
    place = np.full(len(keys), -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    start = np.maximum.accumulate(np.where(new, np.arange(len(rows), dtype=np.int32), 0)).astype(np.int32)
    return _Band(rows, place, start)
