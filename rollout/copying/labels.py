"""Which tokens of a response are copied from its source: BIO labels [2109.12533], on token ids of the policy.

O: not copied. B: copied. I: copied, and in the source, too, it follows the token before it.

``lcs``     the paper's: a longest common subsequence, of all longest ones the one in fewest pieces. It keeps the order
            of the source, so what is quoted out of order is O, and it takes accidental matches for copies.
``ngram``   for reasoning: from left to right the longest n-gram that is anywhere in the source, two tokens or more; a
            single token only if it stands alone (numbers, identifiers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rollout.copying.matches import longest_matches

if TYPE_CHECKING:
    from rollout.types import Tokens

Mode = Literal["lcs", "ngram"]
Labels = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]
Alone = Bools
"""[V] whether a token id stands alone."""
O, B, I = 0, 1, 2  # noqa: E741  the names of the field
NAMES = "OBI"
SEAM = -1
"""In a source: no span goes across it."""
SHORTEST = 2
"""Tokens of the shortest n-gram that is a copy although none of its tokens stands alone."""
LCS_LONGEST = 8192
"""Longest source and target together for ``lcs``."""
LCS_LIMIT = (LCS_LONGEST // 2 + 64) ** 2
"""Largest product of both, with which time and memory grow (3 bytes a pair, 50 MB); 64: seams in the source."""


@dataclass(frozen=True)
class CopyLabels:
    """Labels of a target of m tokens, copied from a source of n."""

    target: Labels
    """[m] O, B or I."""
    origin: npt.NDArray[np.int32]
    """[m] where in the source each token was taken from; -1 for O."""
    source: Labels = field(default_factory=lambda: np.empty(0, np.int8))
    """[n] the same rule from the source's side: what of it is copied. Of ``lcs`` only: n-grams may be copied twice."""

    @property
    def copied(self) -> int:
        """Number of tokens that are copied."""
        return int((self.target != O).sum())

    def __str__(self) -> str:
        return spelled(self.target)


def spelled(labels: Labels) -> str:
    """Return labels as letters, such as ``BOBII``."""
    return "".join(NAMES[label] for label in labels.tolist())


def copy_labels(source_ids: Tokens, target_ids: Tokens, mode: Mode = "ngram", alone: Alone | None = None) -> CopyLabels:
    """Return which of ``target_ids`` [m] are copied from ``source_ids`` [n].

    ``alone`` [V]: for each token id whether it is a copy also where neither neighbour is (``digits``). Without it
    single tokens are copies in ``lcs``, as in the paper, and none in ``ngram``. Negative ids in the source part it: no
    span goes across them. What has nothing in common is all O. Raises ``ValueError`` for ``lcs`` beyond ``LCS_LIMIT``.
    """
    source, target = np.asarray(source_ids, np.int64), np.asarray(target_ids, np.int64)
    if mode == "lcs":
        origin = _aligned(source, target)
        if alone is not None:
            origin = _without_singles(origin, target, alone)
        taken = np.full(len(source), -1, np.int32)
        matched = np.flatnonzero(origin >= 0)
        taken[origin[matched]] = matched
        return CopyLabels(_labelled(origin), origin, _labelled(taken))
    found = _greedy(source, target, alone)
    return CopyLabels(*found)


def digits(tokenizer: Any, size: int) -> Alone:
    """Return for each of ``size`` token ids whether its text has a digit; special tokens have no text."""
    known = min(size, len(tokenizer))
    texts = tokenizer.batch_decode([[index] for index in range(known)], skip_special_tokens=True)
    found = np.zeros(size, np.bool_)
    found[:known] = [any(character.isdigit() for character in text) for text in texts]
    return found


def _labelled(origin: npt.NDArray[np.int32]) -> Labels:
    """Return the labels of tokens that come from ``origin``: I where it is one more than that of the token before."""
    labels = np.where(origin >= 0, B, O).astype(np.int8)
    labels[1:][(origin[1:] == origin[:-1] + 1) & (origin[:-1] >= 0)] = I
    return labels


def _without_singles(origin: npt.NDArray[np.int32], target: npt.NDArray[Any], alone: Alone) -> npt.NDArray[np.int32]:
    """Return ``origin`` without the spans of one token that does not stand alone."""
    labels = _labelled(origin)
    single = (labels == B) & (np.append(labels[1:], O) != I)
    single[single] = ~alone[target[single]]
    return np.where(single, -1, origin).astype(np.int32)


def _greedy(
    source: npt.NDArray[Any], target: npt.NDArray[Any], alone: Alone | None
) -> tuple[Labels, npt.NDArray[np.int32]]:
    """Return labels and origin of the longest n-grams, taken from left to right."""
    lengths, starts = longest_matches(source, target)
    begins = lengths >= SHORTEST
    if alone is not None:
        begins[lengths == 1] = alone[target[lengths == 1]]
    labels, origin = np.full(len(target), O, np.int8), np.full(len(target), -1, np.int32)
    end = 0
    for at in np.flatnonzero(begins).tolist():
        if at < end:
            continue
        end = at + int(lengths[at])
        labels[at], labels[at + 1 : end] = B, I
        origin[at:end] = np.arange(starts[at], starts[at] + end - at)
    return labels, origin


def _aligned(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return where each target token is matched in a longest common subsequence, -1 where it is not.

    Dynamic programming by rows of the source: a cell counts matched pairs, then pairs that follow the one before them
    on both sides. What a cell came from is kept as three bits in bytes.
    """
    n, m = len(source), len(target)
    origin = np.full(m, -1, np.int32)
    if n * m > LCS_LIMIT:
        raise ValueError(
            f"lcs labels of {n} source and {m} target tokens: more than {LCS_LIMIT} pairs; mode ngram takes any length"
        )
    if not n or not m:
        return origin
    pair = min(n, m) + 1  # one more matched pair outweighs all that follow each other
    best = np.zeros(m + 1, np.int64)
    ending = np.full(m + 1, -1, np.int64)  # the best that ends with the pair (i, j); -1: no such pair
    up, ends, follows = (np.zeros((n, m), np.bool_) for _ in range(3))
    for i in range(n):
        equal = (target == source[i]) & (source[i] >= 0)
        joined = np.where(ending[:-1] >= 0, ending[:-1] + 1, -1)
        follows[i] = joined >= best[:-1]
        now = np.where(equal, np.maximum(best[:-1], joined) + pair, -1)
        above = best[1:]
        row = np.maximum.accumulate(np.maximum(above, now))
        ends[i], up[i] = now == row, above == row
        best = np.concatenate([[0], row])
        ending = np.concatenate([[-1], now])
    _trace(origin, up, ends, follows)
    return origin


def _trace(origin: npt.NDArray[np.int32], up: Bools, ends: Bools, follows: Bools) -> None:
    """Fill ``origin`` [m] from the last cell backwards."""
    i, j, bound = len(up) - 1, len(origin) - 1, False
    while i >= 0 and j >= 0:
        if bound or ends[i, j]:
            origin[j] = i
            bound = bool(follows[i, j])
            i, j = i - 1, j - 1
        elif up[i, j]:
            i -= 1
        else:
            j -= 1
