"""Long evidence in parts that fit a window each, cut where a reader would cut it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from rollout.evidence.windows import EvidenceError

Count = Callable[[str], int]
"""Tokens of a text."""
_AFTER = (re.compile(r"(?<=\n\n)"), re.compile(r"(?<=\n)"), re.compile(r"(?<=\s)"))
"""Behind paragraphs, lines and words."""


def split(text: str, room: int, count: Count) -> list[str]:
    """Return ``text`` in parts of at most ``room`` tokens: whole paragraphs where these fit, else lines, else words.

    Blank ones are left out. Raises ``EvidenceError`` where not even one character fits.
    """
    return [part.strip("\n") for part in _parts(text, room, count) if part.strip()]


def _parts(text: str, room: int, count: Count) -> Iterator[str]:
    if count(text) <= room:
        yield text
        return
    if len(text) < 2:
        raise EvidenceError(f"windows of {room} tokens have no room for a single character: take larger ones")
    for border in _AFTER:
        pieces = [piece for piece in border.split(text) if piece]
        if len(pieces) > 1:
            break
    else:
        middle = len(text) // 2
        pieces = [text[:middle], text[middle:]]
    for part in _packed(pieces, room, count):
        yield from _parts(part, room, count)


def _packed(pieces: list[str], room: int, count: Count) -> Iterator[str]:
    """Yield neighbouring pieces together, as many as fit; one that does not fit by itself comes as it is."""
    sizes = [count(piece) for piece in pieces]
    begun = 0
    while begun < len(pieces):
        end, total = begun + 1, sizes[begun]
        while end < len(pieces) and total + sizes[end] <= room:
            total += sizes[end]
            end += 1
        while end - begun > 1 and count("".join(pieces[begun:end])) > room:  # together they can take more than alone
            end -= 1
        yield "".join(pieces[begun:end])
        begun = end
