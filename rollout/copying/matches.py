"""The longest n-grams that two token sequences have in common, from a suffix array: no Python object per token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def longest_matches(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """Return for each position of ``target`` [m] the length of the longest n-gram from there that is in ``source`` [n],
    and where it begins there (-1 where the length is 0).

    Ids of the target are not negative; negative ones in the source match nothing. Prefix doubling [Manber, Myers 1993]
    ranks all suffixes of both; the longest match of a suffix is with the next one of the source on either side.
    """
    n, m = len(source), len(target)
    if not n or not m:
        return np.zeros(m, np.int64), np.full(m, -1, np.int64)
    # Each negative id and the seam between both become ids of their own, which nothing equals.
    text = np.concatenate([source, [-1], target]).astype(np.int64)
    parted = np.flatnonzero(text < 0)
    text[parted] = -1 - np.arange(len(parted))
    levels = _ranks(text)
    rank = levels[-1]
    order = np.empty(len(text), np.int64)
    order[rank] = np.arange(len(text))
    places, own = np.arange(len(text)), order < n
    before = np.maximum.accumulate(np.where(own, places, -1))
    after = np.minimum.accumulate(np.where(own, places, len(text))[::-1])[::-1]
    suffixes = np.arange(n + 1, len(text))
    lengths, starts = np.zeros(m, np.int64), np.full(m, -1, np.int64)
    for neighbour in (before, after):
        place = neighbour[rank[suffixes]]
        there = (place >= 0) & (place < len(text))
        candidates = order[np.where(there, place, 0)]
        common = np.where(there, _common(levels, suffixes, candidates), 0)
        longer = common > lengths
        lengths[longer], starts[longer] = common[longer], candidates[longer]
    return lengths, starts


def _ranks(text: Ints) -> list[Ints]:
    """Return for k = 0, 1, ... the rank of the 2^k tokens from each position, equal for equal ones and ascending, until
    all differ.
    """
    size = len(text)
    levels = [np.unique(text, return_inverse=True)[1].astype(np.int64)]
    while levels[-1].max() < size - 1:
        rank, step = levels[-1], 1 << (len(levels) - 1)
        second = np.zeros(size, np.int64)  # 0: the text has ended
        second[: size - step] = rank[step:] + 1
        levels.append(np.unique(rank * (size + 1) + second, return_inverse=True)[1].astype(np.int64))
    return levels


def _common(levels: list[Ints], one: Ints, other: Ints) -> Ints:
    """Return how many tokens the suffixes ``one`` and ``other`` [m] have in common at their beginnings."""
    size, found = len(levels[0]), np.zeros(len(one), np.int64)
    for k in reversed(range(len(levels))):
        a, b = one + found, other + found
        inside = (a < size) & (b < size)
        same = inside & (levels[k][np.where(inside, a, 0)] == levels[k][np.where(inside, b, 0)])
        found += same << k
    return found
