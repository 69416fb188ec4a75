"""Problems that say the same, of which one is kept. Functions over columns; nothing is read or written.

Rows are numbered by their position in the columns, and of two that are the same the lower one is kept. Every function
takes the rows still in play, ascending, and says which of them go and why. Nothing depends on the number of processes.

Two problems that differ in their numbers are not the same: they have other answers, and share a template at most
(``recipes.curate.templates``). So a duplicate that is not word for word has the same numbers and the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.curate.masks import masked, numbers
from recipes.curate.prints import NO_NUMBERS, Prints
from recipes.curate.stars import bands, estimated, mixed, stars
from recipes.curate.text import canonical, digest, jaccard, ngrams, overlap, words
from rewards.math.grade import grade

Rows = NDArray[np.int64]
"""Positions, ascending."""
Texts = Sequence[str] | Any
"""Strings, or an Arrow array of them: only rows that may be duplicates are turned into Python objects."""
DISAGREE = "answers disagree"
EXACT = "duplicate"
NEAR = "near duplicate"
_BRACKETS = "()[]{}"
LOOSER = 0.8
"""Part of the threshold at which rows with the same numbers are compared at all: of 60 % some 98 % are found."""
REMEMBERED = 4096
"""Rows whose n-grams are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One row that goes."""

    row: int
    reason: str
    detail: str
    other: int | None
    """The row that it is like, or whose answer is another."""


@dataclass(frozen=True)
class Telling:
    """How one problem is put, as far as two can be compared."""

    ngrams: set[str]
    """Of ``masked`` words, numbers kept."""
    numbers: tuple[str, ...]


def exact(prints: Prints, statements: Texts, answers: Texts, rows: Rows) -> list[Drop]:
    """Return the rows whose text (``text.canonical``) an earlier one has, and those whose text has different answers:
    nobody knows which of them is right, so all go.

    Canonical forms have no brackets. Two texts that differ in them may be two problems: with the same answer they are
    one, with different answers both stay.
    """
    keys = prints.canonical[rows]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    ends = np.append(starts[1:], len(rows))
    drops: list[Drop] = []
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        drops += _one_text(rows[order[start:end]].tolist(), statements, answers)
    return sorted(drops, key=lambda drop: drop.row)


def near(prints: Prints, statements: Texts, answers: Texts, rows: Rows, *, least: float, ngram: int) -> list[Drop]:
    """Return the rows that tell an earlier one's problem in nearly the same words, with the same answer.

    With the same numbers the Jaccard similarity of the n-grams is at least ``least``, or ``stricter(least)`` of the
    shorter text's stand in the longer one. Each of that is ``stricter`` where one text only repeats a number; and where
    there are none, or one text has some that the other has not, the similarity is at least ``stricter(least)``. Where
    each has a number that the other has not, they are two problems.

    Candidates come from MinHash: among rows with the same numbers, and with stricter bands among those with the same
    answer.
    """
    telling = tellings(statements, ngram)
    signatures = prints.signatures[rows]
    drops: list[Drop] = []

    def alike(at: int, others: NDArray[np.int64]) -> int | None:
        for other in estimated(signatures, at, others, LOOSER * least).tolist():
            row, like = int(rows[at]), int(rows[other])
            equal = prints.masked[row] == prints.masked[like]
            share = 1.0 if equal else _likeness(telling(row), telling(like), least)
            if share and same_answers(answers, row, like):
                drops.append(Drop(row, NEAR, f"{share:.0%} of the n-grams, same numbers and answer", like))
                return int(other)
        return None

    stars(len(rows), _keys(prints, answers, rows, least), alike)
    return drops


def _keys(prints: Prints, answers: Texts, rows: Rows, least: float) -> Iterator[NDArray[np.uint64]]:
    signatures, numbers = prints.signatures[rows], prints.numbers[rows].view(np.uint64)
    own = np.where(prints.numbers[rows] == NO_NUMBERS, np.arange(len(rows), dtype=np.uint64), numbers)
    for band in bands(signatures, LOOSER * least):
        yield mixed(band, own)
    same = np.fromiter((digest("".join(str(answers[row]).split())) for row in rows.tolist()), np.int64, len(rows))
    for band in bands(signatures, stricter(least)):
        yield mixed(band, same.view(np.uint64))


def _likeness(one: Telling, other: Telling, least: float) -> float:
    """Return the Jaccard similarity of two tellings, 0 when it is not enough for them to be of one problem."""
    share, part = jaccard(one.ngrams, other.ngrams), shared(one.ngrams, other.ngrams)
    fewer, more = sorted((set(one.numbers), set(other.numbers)), key=len)
    if one.numbers and one.numbers == other.numbers:
        enough = share >= least or part >= stricter(least)
    elif fewer and fewer == more:
        enough = share >= stricter(least) or part >= stricter(stricter(least))
    else:
        enough = fewer <= more and share >= stricter(least)
    return share if enough else 0.0


def stricter(share: float) -> float:
    """Return a threshold half as far from 1."""
    return (1 + share) / 2


def shared(one: set[str], other: set[str]) -> float:
    """Return the part of the smaller set that the larger has."""
    return overlap(*sorted((one, other), key=len))


def same_answer(one: str, other: str) -> bool:
    """Return whether two answers are the same: to the letter, or one is right where the other is the reference. One
    that is missing contradicts none.
    """
    one, other = one.strip(), other.strip()
    return (
        one == other
        or not (one and other)
        or grade(one, other, bare=True).correct
        or grade(other, one, bare=True).correct
    )


def same_answers(answers: Texts, one: int, other: int) -> bool:
    return same_answer(str(answers[one]), str(answers[other]))


def tellings(statements: Texts, ngram: int) -> Callable[[int], Telling]:
    @lru_cache(maxsize=REMEMBERED)
    def telling(row: int) -> Telling:
        text = str(statements[row])
        tokens = masked(text, words(text))
        return Telling(ngrams(tokens, ngram), tuple(numbers(tokens)))

    return telling


def _one_text(rows: list[int], statements: Texts, answers: Texts) -> list[Drop]:
    """Return what goes of rows (ascending) with one canonical text."""
    spelled: dict[str, list[int]] = {}
    for row in rows:
        spelled.setdefault(_bracketed(str(statements[row])), []).append(row)
    drops: list[Drop] = []
    kept: list[int] = []
    for same in spelled.values():
        first, *others = same
        known = next((row for row in same if _answered(answers, row)), first)
        against = [row for row in others if not same_answers(answers, known, row)]
        if against:
            listed = ", ".join(sorted({repr(str(answers[row])) for row in same}))
            drops += [Drop(first, DISAGREE, listed, against[0])]
            drops += [Drop(row, DISAGREE, listed, first if row in against else against[0]) for row in others]
            continue
        twin = next(
            (
                row
                for row in kept
                if _answered(answers, row) and _answered(answers, known) and same_answers(answers, row, known)
            ),
            None,
        )
        if twin is None:
            kept.append(first)
        drops += [Drop(row, EXACT, "the same text", first if twin is None else twin) for row in same if row not in kept]
    return drops


def _answered(answers: Texts, row: int) -> bool:
    return bool(str(answers[row]).strip())


def _bracketed(text: str) -> str:
    """Return the canonical text with its brackets."""
    pieces, piece = [], ""
    for character in text:
        if character in _BRACKETS:
            pieces += [canonical(piece), character]
            piece = ""
        else:
            piece += character
    return " ".join([*pieces, canonical(piece)])
