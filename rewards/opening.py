r"""Where the final answer of a response begins, as its grader finds it, and what announces it: ``\boxed{``, ``####``.

Pure functions on hostile text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rewards.math.extract import answer_box
from rewards.math.last_number import MARK
from rewards.response import after_thinking, thinking_tags

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Opening:
    """Where the answer of a response begins."""

    answer: int
    """Index of its first character that is no white space."""
    cue: tuple[tuple[int, int], ...]
    """Parts of the text, from and to, that would announce the answer of a response without any reasoning: the tags
    around the thinking, and the words or the mark right before the answer."""
    closes: Literal["brace", "line", ""] = ""
    """What ends the answer: the brace that closes its box, the line; nothing but the end of the response."""


def opening(text: str, verifier: str, extracted: str) -> Opening | None:
    r"""Return where the answer begins of a response from which a verifier has ``extracted`` something.

    Of maths it is the content of the last box, of GSM8K what follows the last ``####``. Of all others, and where there
    is neither, the last place behind the thinking that reads as the extracted text does, and the cue is its line up to
    there. ``None`` where no answer can be told from the reasoning.
    """
    tail = after_thinking(text)
    if not extracted or not tail.strip():
        return None
    behind = len(text) - len(tail)
    tags = thinking_tags(text)
    if verifier == "gsm8k" and (mark := tail.rfind(MARK)) >= 0 and tail[mark + len(MARK) :].strip():
        start = behind + mark
        return Opening(_inked(text, start + len(MARK)), (*tags, (start, start + len(MARK))), "line")
    if verifier in ("math", "gsm8k") and (box := answer_box(tail)) is not None:
        start, content = (behind + place for place in box)
        return Opening(_inked(text, content), (*tags, (start, content)), "brace")
    place = tail.rfind(extracted)
    if place < 0:
        return None
    line = tail.rfind("\n", 0, place) + 1
    start = behind + (line if tail[:line].strip() else 0)
    return Opening(behind + place, (*tags, (start, behind + place)))


def _inked(text: str, place: int) -> int:
    """Return the first place from there on that is no white space."""
    return place + len(text[place:]) - len(text[place:].lstrip())


def closed(drawn: str, closes: str) -> str:
    """Return what was drawn behind a cue up to the end of the answer, the closing brace included."""
    if closes == "line":
        head = drawn[: len(drawn) - len(drawn.lstrip())]
        return head + drawn[len(head) :].partition("\n")[0]
    depth = 1
    for match in _BRACE.finditer(drawn) if closes == "brace" else ():
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return drawn[: match.end()]
    return drawn
